#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 72G --mem 3G --limit 3600
# long
# A million runs and 500 volumes, or so many.
exec ./tests/fast/test_memory.py "${1:-1000000}" "${2:-500}"
