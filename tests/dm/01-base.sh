#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Holes read as zeroes, a write waits for its chunk and goes on when it is mapped.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
data_device 64; B=$DEV
volume v 64 "$A $B"

say "holes read as zeroes, with no I/O"
is 0 0 4096
[ "$(info 1)" = 0/64 ]

say "a write waits, is named once, and goes on"
start put a 0 4; W1=$JOB
start put b 32 8; W2=$JOB
until_info 3 2
[ "$(info 2)" = 1 ]
waiting "w 0"
msg map 0:1:5:1
ends_well $W1 a; ends_well $W2 b
is a 0 4; is 0 4 28; is b 32 8; is 0 40 24
is a $((5 * KIB)) 4 "$B"
[ "$(info 1) $(info 2) $(info 3)" = "1/64 0 0" ]

say "the same place again is fine, another is refused"
msg map 0:1:5:1
refused "another place" msg map 0:1:6:1
refused "another place" msg map 0:0:5:1
chart "0:1:5:1"

say "one write over many chunks"
start put c $((10 * KIB)) $((4 * KIB)); W=$JOB
until_info 2 4
waiting "w 10 w 11 w 12 w 13"
msg map 12:0:7:2
msg map 10:0:9:2
ends_well $W c
is c $((10 * KIB)) $((4 * KIB))
is c $((7 * KIB)) $((4 * KIB)) "$A"

say "many runs in one message, all or nothing"
refused "another place" msg map 20:0:20:4 10:0:1:1
refused "named twice" msg map 20:0:20:4 22:0:30:1
refused "end of the data device" msg map 20:0:20:4 30:0:1022:4
refused "end of the volume" msg map 20:0:20:4 63:0:40:2
[ "$(info 1)" = 5/64 ]
msg map 20:0:20:4 24:1:24:2:w 30:0:40:1:p
chart "0:1:5:1 10:0:9:2 12:0:7:2 20:0:20:4 24:1:24:2:w 30:0:40:1:p"

say "a flush reaches each device, of a volume without a chunk, too; without a device it succeeds"
flushes() { awk '{ print $16 }' "/sys/block/${1##*/}/stat"; }
# flush VOLUME: fsync of a device that nobody has written to is one flush
flush() { python3 -c 'import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))' "$1"; }
dmsetup create ${PREFIX}empty --table "$(line 64 "$A $B")"
for each in "$VOL" /dev/mapper/${PREFIX}empty; do
	a=$(flushes "$A") b=$(flushes "$B")
	flush "$each"
	[ "$(flushes "$A")" = $((a + 1)) ] || die "the first device got $(($(flushes "$A") - a)) flushes"
	[ "$(flushes "$B")" = $((b + 1)) ] || die "the second device got $(($(flushes "$B") - b)) flushes"
done
dmsetup create ${PREFIX}none --table "$(line 64)"
flush /dev/mapper/${PREFIX}none

say "no space: held and later writes fail, then wait again"
start put d $((50 * KIB)) 4; W=$JOB
until_info 3 1
msg nospace
ends_badly $W d
[ "$(info 5)" = nospace ]
if put d $((50 * KIB)) 4 2>"$WORK/err"; then die "no error"; fi
grep -q "No space left" "$WORK/err"
put e $((20 * KIB)) 4
msg space
[ "$(info 5)" = rw ]
start put d $((50 * KIB)) 4; W=$JOB
until_info 3 1
msg map 50:0:50:1
ends_well $W d

say "a last chunk that is a part of one"
dmsetup create ${PREFIX}p --table "0 1000 notify $CHUNK 0 0 1 $A 0"
NAME=${PREFIX}p
start put z 448 52 /dev/mapper/$NAME; W=$JOB
until_info 2 1
waiting "w 7"
msg map 7:0:100:1
ends_well $W z
is z 448 52 /dev/mapper/$NAME
is z 6400 52 "$A"
[ "$(info 1)" = 1/8 ]

say "table lines read back"
[ "$(dmsetup table $NAME)" = "0 1000 notify $CHUNK 0 0 1 $(lsblk -dno MAJ:MIN "$A" | tr -d ' ') 0" ]
