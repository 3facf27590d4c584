#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A chunk that leaves is a hole, but not yet a forgotten one: what would be
# acknowledged without a chunk waits, until user space says that it has forgotten
# where the chunk was, or maps it there again.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A" skip_zero_writes
zero() { blkdiscard -f -z -o $(($1 * KIB * 1024)) -l $(($2 * KIB * 1024)) "$VOL"; }
discard() { blkdiscard -f -o $(($1 * KIB * 1024)) -l $(($2 * KIB * 1024)) "$VOL"; }

msg map 10:0:10:8
put a $((10 * KIB)) $((8 * KIB))
discard 10 4
waiting "d 10 d 11 d 12 d 13"

say "only what holds no data leaves without force"
refused "busy" msg leave 10:5
chart "10:0:10:4:d 14:0:14:4"
msg leave 10:4
chart "leaving 10 4 14:0:14:4"
[ "$(info 1)" = 4/64 ]
is 0 $((10 * KIB)) $((4 * KIB))

say "zeroes, zeroing and writes wait there, reads and discards do not"
start put '\0' $((10 * KIB)) 64; Z=$JOB
start put b $((12 * KIB)) 4; B=$JOB
until_info 3 2
discard 10 4
is 0 $((10 * KIB)) $((4 * KIB))
# While a device is zeroed, the kernel lets nobody else zero or discard there.
start zero 8 4; LONG=$JOB
until_info 3 4
kill -0 $LONG
# User space knows of these chunks.
waiting ""

say "forgotten: zeroes need no chunk, and a write asks for one"
msg map 20:0:20:1
msg forget 10:20
chart "14:0:14:4 20:0:20:1"
msg unmap 20:1 force
ends_well $Z zeroes
ends_well $LONG zeroing
until_info 3 1
waiting "w 12"
chart "14:0:14:4"
msg map 12:0:30:1
ends_well $B b
is b $((12 * KIB)) 4
is 0 $((12 * KIB + 4)) 60

say "mapped again where it was: what waited is written there"
discard 14 1
waiting "d 14"
msg leave 14:1
start put '\0' $((14 * KIB)) 4; Z=$JOB
until_info 3 1
msg map 14:0:14:1
ends_well $Z zeroes
is 0 $((14 * KIB)) 4
chart "12:0:30:1 14:0:14:4"

say "by force, with data, and while it is protected"
msg protect 15:1
start put c $((15 * KIB)) 4; C=$JOB
until_info 3 1
waiting "p 15"
msg leave 15:1 force
until_info 3 1
waiting ""
msg forget 15:1
until_info 3 1
waiting "w 15"
msg map 15:0:40:1
ends_well $C c
is c $((15 * KIB)) 4

say "it lives through a suspend and a reload; a table without its place is refused"
msg leave 16:1 force
start put '\0' $((16 * KIB)) 4; Z=$JOB
until_info 3 1
swap "$(line 128 "$A" skip_zero_writes)"
until_info 3 1
chart "12:0:30:1 14:0:14:1 15:0:40:1 leaving 16 1 17:0:17:1"
refused "beyond the new end" dmsetup load "$NAME" --table "$(line 16 "$A" skip_zero_writes)"
msg unmap 0:128 force
ends_well $Z zeroes
[ "$(info 1) $(info 2) $(info 3)" = "0/128 0 0" ]
chart ""

say "no space fails writes there, and zeroes wait on"
msg map 20:0:20:1
msg leave 20:1 force
start put '\0' $((20 * KIB)) 4; Z=$JOB
until_info 3 1
msg nospace
start put d $((20 * KIB)) 4
ends_badly $JOB d
until_info 3 1
msg forget 20:1
ends_well $Z zeroes

say "with nobody to forget it, the hold timeout ends the wait, however often it was asked"
volume t 64 "$A" skip_zero_writes hold_timeout 3
msg map 0:0:0:1
msg leave 0:1 force
start put e 0 4; E=$JOB
until_info 3 1
sleep 2
begin=${EPOCHREALTIME/[.,]/}
msg forget 0:1
ends_badly $E e
took=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
[ $took -le 2500 ] || die "after it was asked again it waited for $took ms more, of 3000 in all"
