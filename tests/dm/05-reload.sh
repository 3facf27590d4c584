#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A new table takes the live map over; one that would lose data is refused.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
data_device 64; B=$DEV
volume v 64 "$A"

msg map 0:0:10:4
msg map 60:0:20:1
put a 0 256
put b $((60 * KIB)) 64
before="0:0:10:4 60:0:20:1"

say "grown, with another device, while a write waits"
start put c $((5 * KIB)) 4; W=$JOB
until_info 3 1
swap "$(line 128 "$A $B")"
until_info 3 1
chart "$before"
[ "$(info 1)" = 5/128 ]
msg map 5:1:7:1
ends_well $W c
is a 0 256; is b $((60 * KIB)) 64; is c $((5 * KIB)) 4
[ "$(blockdev --getsz "$VOL")" = $((128 * CHUNK)) ]

say "what waits is named in its order after a reload"
declare -A WAITS
for chunk in 30 10 20; do
	start put b $((chunk * KIB)) 4; WAITS[$chunk]=$JOB
	until_true sh -c "dmsetup message $NAME 0 pending | grep -q '^w $chunk '"
done
waiting "w 30 w 10 w 20"
dmsetup suspend --noflush "$NAME"
dmsetup resume "$NAME"
until_info 3 3
waiting "w 30 w 10 w 20"
msg map 30:0:40:1 10:0:41:1 20:0:42:1
for chunk in 30 10 20; do ends_well "${WAITS[$chunk]}" b; done
msg unmap 30:1 10:1 20:1 force

say "what would lose data is refused when it is loaded"
refused "beyond the new end" dmsetup load "$NAME" --table "$(line 60 "$A $B")"
refused "not at its place" dmsetup load "$NAME" --table "$(line 128 "$A")"
refused "not at its place" dmsetup load "$NAME" --table "$(line 128 "$B $A")"
refused "Chunk size differs" dmsetup load "$NAME" --table "0 8192 notify 256 0 0 2 $A $B 0"

say "what changed between load and resume is refused at resume, and kept"
msg unmap 60:1 force
dmsetup load "$NAME" --table "$(line 60 "$A $B")"
msg map 60:0:20:1
dmsetup suspend --noflush "$NAME"
refused "beyond the new end" dmsetup resume "$NAME"
dmsetup load "$NAME" --table "$(line 128 "$A $B")"
dmsetup resume "$NAME"
is a 0 256; is b $((60 * KIB)) 64; is c $((5 * KIB)) 4

say "shrunk, where it is empty; a device that is not used may go"
swap "$(line 61 "$A $B")"
msg unmap 5:1 force
swap "$(line 61 "$A")"
is a 0 256; is b $((60 * KIB)) 64; is 0 $((5 * KIB)) 4

say "no space outlives a reload"
msg nospace
swap "$(line 64 "$A")"
[ "$(info 5)" = nospace ]
msg space

say "an empty volume may change its chunk size"
msg unmap 0:64 force
swap "0 8192 notify 256 0 0 1 $A 0"
[ "$(info 1)" = 0/32 ]

say "a cleared inactive table takes nothing with it"
msg map 0:0:1:1
dmsetup load "$NAME" --table "0 16384 notify 256 0 0 1 $A 0"
dmsetup clear "$NAME"
chart 0:0:1:1
