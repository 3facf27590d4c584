#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --stress --limit 900
# All that can be done to the target, at once, and a model of what each block may hold. The arguments are
# a seed, which is printed, and the seconds.
exec virtnotify-stress target "${1:-$(od -An -N6 -tu8 /dev/urandom | tr -d ' ')}" "${2:-120}"
