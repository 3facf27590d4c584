#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A discard of a part of a chunk concerns that part alone: it marks nothing, and
# takes nothing from writes that wait or from a map that is sent again.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A" skip_zero_writes
# trim CHUNK FIRST_KIB KIB: a discard inside a chunk
trim() { blkdiscard -f -o $((($1 * KIB + $2) * 1024)) -l $(($3 * 1024)) "$VOL" 2>/dev/null; }

say "in a hole it does not wait for the writes that do, and they come after it"
start put a $((5 * KIB + 8)) 8; W=$JOB
until_info 3 1
trim 5 0 64
trim 5 8 8
trim 5 32 4
waiting "w 5"
msg map 5:0:5:1
msg map 5:0:5:1
ends_well $W a
is a $((5 * KIB + 8)) 8
is 0 $((5 * KIB)) 8; is 0 $((5 * KIB + 16)) 48
chart 5:0:5:1
waiting ""

say "parts that cover the chunk together do not make it a discarded one"
trim 5 0 32
trim 5 32 32
chart 5:0:5:1
waiting ""
refused "busy" msg leave 5:1

say "beside a write that waits for protection to end"
put b $((5 * KIB)) 64
msg protect 5:1
start put c $((5 * KIB + 4)) 4; W=$JOB
until_info 3 1
start trim 5 16 8; T=$JOB
until_info 3 2
msg map 5:0:5:1:p
until_info 3 2
msg unprotect 5:1
ends_well $W c
ends_well $T discard
is b $((5 * KIB)) 4; is c $((5 * KIB + 4)) 4; is b $((5 * KIB + 8)) 8; is b $((5 * KIB + 24)) 40
chart 5:0:5:1
waiting ""

say "the mark of a whole one stays when the map is sent again, and goes with a write"
trim 5 0 64
waiting "d 5"
msg map 5:0:5:1
trim 5 4 4
chart 5:0:5:1:d
waiting ""
put d $((5 * KIB + 4)) 4
trim 5 16 8
msg map 5:0:5:1
chart 5:0:5:1
refused "busy" msg leave 5:1
is d $((5 * KIB + 4)) 4

say "a write that waits takes its chunk along, whatever becomes of the mark"
trim 5 0 64
waiting "d 5"
msg protect 5:1
start put e $((5 * KIB + 4)) 4; W=$JOB
until_info 3 1
msg leave 5:1
trim 5 4 4
until_info 3 1
msg forget 5:1
until_info 2 1
waiting "w 5"
msg map 5:0:6:1
trim 5 32 4
ends_well $W e
is 0 $((5 * KIB)) 4; is e $((5 * KIB + 4)) 4; is 0 $((5 * KIB + 8)) 56
chart 5:0:6:1
refused "busy" msg leave 5:1
