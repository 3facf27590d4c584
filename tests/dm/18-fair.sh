#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# "pending" keeps nothing out of sight, however short its replies are.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 1024 "$A"

say "writes are named in turn, and discards beside them"
msg map 0:0:0:600
blkdiscard -o 0 -l $((3 * KIB * 1024)) "$VOL"
blkdiscard -o $((550 * KIB * 1024)) -l $((2 * KIB * 1024)) "$VOL"
# Of 60 lines a reply of 400 bytes has not all; 45 leave little room beside them.
start put w $((700 * KIB)) $((60 * KIB)); W=$JOB
until_info 2 60
python3 "$HERE/fair.py" "$NAME" 400 700 60 0 1 2 550 551
msg map 745:0:745:15
until_info 2 45; HELD=$(info 3)
blkdiscard -o $((5 * KIB * 1024)) -l $((3 * KIB * 1024)) "$VOL"
python3 "$HERE/fair.py" "$NAME" 400 700 45 5 6 7

say "a younger write for a chunk takes the place of an older one that has gone"
start put x $((705 * KIB + 4)) 4; X=$JOB
until_info 3 $((HELD + 1))
python3 "$HERE/fair.py" "$NAME" 256 700 45
msg nospace
ends_badly $W w
ends_badly $X x
[ "$(info 2) $(info 3)" = "0 0" ]
