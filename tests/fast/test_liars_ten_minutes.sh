#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M --limit 1800
# long
# A thousand lying clients for ten minutes. The arguments are a seed, which is printed, the seconds, and how many.
exec ./tests/fast/test_liars.py "${1:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}" "${2:-600}" "${3:-1000}"
