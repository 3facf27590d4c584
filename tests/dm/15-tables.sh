#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# Whether a table fits the live map is decided when it is resumed, and a refused
# one neither loses the map nor takes messages.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
data_device 1; SMALL=$DEV

say "a resume that is refused twice keeps the map"
volume v 64 "$A"
dmsetup load "$NAME" --table "0 8192 notify 256 0 0 1 $A 0"
msg map 0:0:0:1
put a 0 64
dmsetup suspend --noflush "$NAME"
refused "Chunk size differs" dmsetup resume "$NAME"
refused "Chunk size differs" dmsetup resume "$NAME"
dmsetup load "$NAME" --table "$(line 64 "$A")"
dmsetup resume "$NAME"
chart "0:0:0:1"
is a 0 64
[ "$(info 1)" = 1/64 ]

say "a table whose resume was refused takes no messages"
msg unmap 0:1 force
dmsetup load "$NAME" --table "$(line 64 "$SMALL")"
msg map 0:0:0:1
dmsetup suspend --noflush "$NAME"
refused "not at its place" dmsetup resume "$NAME"
refused "not resumed" msg map 1:0:10:1
refused "not resumed" msg unmap 0:1 force
refused "not resumed" msg pending
dmsetup load "$NAME" --table "$(line 64 "$A")"
dmsetup resume "$NAME"
chart "0:0:0:1"
dmsetup remove --retry "$NAME"

say "where one target of a table does not fit, none of it takes messages"
two() { echo "0 8192 notify $CHUNK 0 0 1 $1 0"; echo "8192 8192 notify $CHUNK 0 0 1 $2 0"; }
NAME=${PREFIX}u VOL=/dev/mapper/${PREFIX}u
two "$A" "$A" | dmsetup create "$NAME"
dmsetup message "$NAME" 8192 map 0:0:100:1
two "$SMALL" "$A" | dmsetup load "$NAME"
dmsetup message "$NAME" 8192 map 1:0:101:1
dmsetup suspend --noflush "$NAME"
dmsetup resume "$NAME"
two "$A" "$SMALL" | refused "not at its place" dmsetup load "$NAME"
dmsetup message "$NAME" 8192 unmap 0:2 force
two "$A" "$SMALL" | dmsetup load "$NAME"
dmsetup message "$NAME" 8192 map 0:0:100:1
dmsetup suspend --noflush "$NAME"
refused "not at its place" dmsetup resume "$NAME"
refused "not resumed" msg map 0:0:10:1
refused "not at its place" dmsetup resume "$NAME"
two "$SMALL" "$A" | dmsetup load "$NAME"
dmsetup resume "$NAME"
msg map 0:0:10:1
[ "$(dmsetup message "$NAME" 8192 dump)" = 0:0:100:1 ]
dmsetup remove --retry "$NAME"

say "the mode and the counters stay when an empty volume changes its chunk size"
volume w 64 "$A" skip_zero_writes
put '\0' 0 64
msg nospace
swap "0 8192 notify 256 0 0 1 $A 1 skip_zero_writes"
[ "$(info 5)" = nospace ]
[ "$(stat_of zero_skipped)" = 1 ]
[ "$(info 1)" = 0/32 ]
dmsetup remove --retry "$NAME"

# A table's second target waits for its device: the first of them has been
# constructed, and meanwhile the table before is resumed and filled. The device
# cannot be claimed while a program discards what is being written back to it.
say "a larger table that was half loaded while the first one was resumed"
data_device 8
dmsetup create ${PREFIX}slow --table "0 16384 linear $DEV 0"
SLOW=/dev/mapper/${PREFIX}slow
# The last close would write the page back.
exec 7<>"$SLOW"
dd if=/dev/urandom of="$SLOW" bs=4k count=1 conv=notrunc status=none
# udev looks at a device that was written. While it waits for a page of one that is suspended, nobody
# discards there.
[ ! -S /run/udev/control ] || udevadm settle
dmsetup suspend --noflush --nolockfs ${PREFIX}slow
start exec python3 -c 'import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))' "$SLOW"; SYNC=$JOB
until_waits $SYNC wait
start exec python3 -c '
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), 0x1277, struct.pack("=QQ", 0, 4096))' "$SLOW"; DISCARD=$JOB
until_waits $DISCARD truncate
NAME=${PREFIX}x VOL=/dev/mapper/${PREFIX}x
dmsetup create "$NAME" --notable
dmsetup load "$NAME" --table "$(line 100 "$A")"
start exec dmsetup load "$NAME" --table "$(line 2000 "$A")
$((2000 * CHUNK)) 8192 linear $SLOW 0"; LOAD=$JOB
until_waits $LOAD claim
dmsetup resume "$NAME"
msg map 0:0:0:1
put b 0 64
dmsetup resume ${PREFIX}slow
ends_well $LOAD "the load"
ends_well $SYNC "the sync"
ends_well $DISCARD "the discard"
exec 7>&-
dmsetup suspend --noflush "$NAME"
dmsetup resume "$NAME"
[ "$(blockdev --getsz "$VOL")" = $((2000 * CHUNK + 8192)) ]
is b 0 64
is 0 $((600 * KIB)) 64
start put c $((600 * KIB)) 64; W=$JOB
until_info 3 1
waiting "w 600"
msg map 600:0:1:1
ends_well $W c
is c $((600 * KIB)) 64
dmsetup remove --retry "$NAME"

say "a volume whose map is busy keeps no other from being resumed"
data_device $((256 * 1024)); HUGE=$DEV
MANY=4000000
volume other 64 "$A"
# Where the machine is busy, the message may be over before the load waits for it, or before a resume that waits for
# nothing: once the resume has to come first. One that waits for the message never does.
load_waits() {
	local stack
	until stack=$(cat "/proc/$LOAD/stack" 2>/dev/null) && grep -q notify_map <<<"$stack"; do
		[ -e "/proc/$LOAD" ] || return 1
		sleep 0.05
	done
}
for round in 1 2 3 4 5; do
	volume busy $MANY "$HUGE"
	dmsetup suspend --noflush ${PREFIX}other
	NAME=${PREFIX}busy
	start exec dmsetup message "$NAME" 0 map 0:0:0:$MANY; MAP=$JOB
	start exec dmsetup load "$NAME" --table "$(line $MANY "$HUGE")"; LOAD=$JOB
	first=
	load_waits && first=yes
	dmsetup resume --noudevsync ${PREFIX}other
	kill -0 "$MAP" 2>/dev/null || first=
	ends_well $MAP "the map"
	ends_well $LOAD "the load"
	[ ! "$first" ] || break
	dmsetup remove --retry "$NAME"
done
[ "$first" ] || die "the resume came after the other volume's message, five times"
[ "$(info 1)" = $MANY/$MANY ]
