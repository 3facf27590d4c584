#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What needs no chunk gets none: zeroes, discards; and what a discard gives back.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A" skip_zero_writes

say "zeroes written into holes allocate nothing"
put '\0' 0 $((8 * KIB))
[ "$(info 1) $(info 3)" = "0/64 0" ]
[ "$(stat_of zero_skipped)" -ge 8 ]

say "one byte that is no zero is a write"
head -c 65535 /dev/zero >"$WORK/almost"; printf x >>"$WORK/almost"
start dd if="$WORK/almost" of="$VOL" bs=64k seek=3 oflag=direct conv=notrunc status=none; W=$JOB
until_info 3 1
waiting "w 3"
msg map 3:0:3:1
ends_well $W x
[ "$(content "$VOL" $((3 * KIB)) 64 | tail -c 1)" = x ]

say "zeroes over data are written"
put '\0' $((3 * KIB)) 64
is 0 $((3 * KIB)) 64

say "discards and zeroing of holes do nothing"
blkdiscard -o $((8 * KIB * 1024)) -l $((40 * KIB * 1024)) "$VOL"
blkdiscard -z -o $((8 * KIB * 1024)) -l $((40 * KIB * 1024)) "$VOL"
[ "$(info 1) $(info 3)" = "1/64 0" ]

say "a discard over a hole, data and a hole"
msg map 10:0:10:4
put a $((10 * KIB)) 256
blkdiscard -z -o $(((9 * KIB + 4) * 1024)) -l $(((2 * KIB + 8) * 1024)) "$VOL"
is 0 $((9 * KIB)) $((2 * KIB + 12))
is a $((11 * KIB + 12)) 48

say "a chunk discarded as a whole is told, and may go"
waiting ""
blkdiscard -o $(((11 * KIB + 32) * 1024)) -l $(((2 * KIB) * 1024)) "$VOL"
waiting "d 12"
chart "3:0:3:1 10:0:10:2 12:0:12:1:d 13:0:13:1"
msg unmap 12:1
[ "$(info 1)" = 4/64 ]
is 0 $((12 * KIB)) 64

say "one that is written again stays"
blkdiscard -o $((13 * KIB * 1024)) -l $((KIB * 1024)) "$VOL"
put b $((13 * KIB)) 4
waiting ""
refused "busy" msg unmap 13:1
is b $((13 * KIB)) 4

say "twice, past the end, the whole volume"
blkdiscard "$VOL"
blkdiscard "$VOL"
waiting "d 3 d 10 d 11 d 13"
msg unmap 0:64
[ "$(info 1)" = 0/64 ]

say "without the feature zeroes are a write"
volume w 64 "$A"
start put '\0' 0 4; W=$JOB
until_info 3 1
msg map 0:0:0:1
ends_well $W zeroes
