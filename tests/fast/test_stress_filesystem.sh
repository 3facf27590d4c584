#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --stress --limit 1200
# long
# ext4 and XFS verify what they hold on volumes that are suspended, reloaded, moved and badly served.
# The arguments are a seed, which is printed, and the seconds.
exec virtnotify-stress filesystem "${1:-$(od -An -N6 -tu8 /dev/urandom | tr -d ' ')}" "${2:-120}"
