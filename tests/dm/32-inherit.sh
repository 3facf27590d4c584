#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A snapshot's or a clone's volume gets the map of another one in one message:
# places and generations, and nothing that is younger than the snapshot.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
data_device 64; B=$DEV
minor_of() { dmsetup info -c --noheadings -o minor "$1"; }
use() { NAME=$PREFIX$1; VOL=/dev/mapper/$NAME; }
# heir NAME CHUNKS [DEVICES]: an empty volume in whose generation ORIGIN's chunks are
heir() {
	volume "$@"
	msg snapshot 9
}

volume origin 2048 "$A $B"
ORIGIN=$(minor_of "$NAME")
msg map 0:0:0:8 600:1:3:2
put a 0 512
put b $((600 * KIB)) 128
msg snapshot 4
msg map 20:0:20:2:w
msg snapshot 5
msg remap 1:0:33:1
msg map 30:0:30:1
msg protect 2:1
blkdiscard -o $((3 * CHUNK * 512)) -l $((CHUNK * 512)) "$VOL"
waiting "h 3"

say "what is of that generation or older, without what is known of it"
heir early 2048 "$A $B"
msg inherit "$ORIGIN" 0
chart "0:0:0:1:0 2:0:2:1:0 4:0:4:4:0 600:1:3:2:0"
[ "$(info 1)" = "8/2048" ]
is a 0 64; is 0 $KIB 64; is b $((600 * KIB)) 128
msg map 1:0:1:1:0 3:0:3:1:0
is a 0 512
heir late 2048 "$A $B"
msg inherit "$ORIGIN" 4
chart "0:0:0:1:0 2:0:2:1:0 4:0:4:4:0 20:0:20:2:4 600:1:3:2:0"

say "it is a volume as others are: its mark holds writes, it grows and gives back"
start put c 0 4; W=$JOB
until_info 3 1
waiting "p 0"
dd if="$A" of="$A" bs=${KIB}k count=1 skip=0 seek=40 iflag=direct oflag=direct conv=notrunc status=none
msg remap 0:0:40:1
ends_well $W c
is c 0 4; is a 4 60
msg unmap 0:2048 force
chart ""
[ "$(info 1)" = "0/2048" ]
use origin; is a 4 60

say "a write that waits goes on when its chunk comes"
heir waits 2048 "$A $B"
msg mark 0
start put d $((5 * KIB)) 4; W=$JOB
start put e $((50 * KIB)) 4; E=$JOB
until_info 3 2
msg inherit "$ORIGIN" 4
ends_well $W d
until_info 3 1
msg nospace
ends_badly $E e

say "refused, and nothing changed"
refused "the volume has chunks" msg inherit "$ORIGIN" 4
heir small 600 "$A $B"
refused "beyond the end of the volume" msg inherit "$ORIGIN" 4
heir other 2048 "$B $A"
refused "not at its place here" msg inherit "$ORIGIN" 4
heir fewer 2048 "$A"
refused "not at its place here" msg inherit "$ORIGIN" 4
volume young 2048 "$A $B"
refused "no such generation yet" msg inherit "$ORIGIN" 4
refused "that is the volume itself" msg inherit "$(minor_of "$NAME")" 0
refused "no such volume" msg inherit 1048575 0
dmsetup create "${PREFIX}zero" --table "0 128 zero"
refused "no such volume" msg inherit "$(minor_of "${PREFIX}zero")" 0
refused "not a number" msg inherit "$ORIGIN" 65536
refused "not a number" msg inherit x 0
refused "wrong number of arguments" msg inherit "$ORIGIN"
dmsetup create "${PREFIX}large" --table "0 $((2048 * CHUNK)) notify $((2 * CHUNK)) 0 0 2 $A $B 2 hold_timeout 600"
use large
refused "of another size" msg inherit "$ORIGIN" 0
for name in small other fewer young large; do
	use $name
	chart ""
	[ "$(info 1)" = "0/$( [ $name = small ] && echo 600 || { [ $name = large ] && echo 1024 || echo 2048; })" ]
done

say "while the other one changes, is reloaded and removed, and the other way round"
# churn NAME: its map comes and goes, until that is enough
churn() {
	NAME=$PREFIX$1
	msg snapshot 1
	while [ ! -e "$WORK/enough" ]; do
		msg map 0:0:0:700:0
		msg snapshot
		msg remap 0:0:800:100
		swap "$(line 2048 "$A $B")"
		msg unmap 0:2048 force
	done
}
# follow NAME MINOR: it inherits again and again
follow() {
	local name=$PREFIX$1
	for _ in $(seq 20); do
		dmsetup message "$name" 0 inherit "$2" 0
		# What is younger lies there.
		if dmsetup message "$name" 0 dump | grep ':0:8'; then die "a younger chunk"; fi
		dmsetup message "$name" 0 unmap 0:2048 force
	done
}
volume x 2048 "$A $B"; X=$(minor_of "$NAME")
volume y 2048 "$A $B"; Y=$(minor_of "$NAME")
volume z 2048 "$A $B"; Z=$(minor_of "$NAME")
start churn x; C=$JOB
start follow y "$X"; F=$JOB
start follow z "$X"; G=$JOB
ends_well $F y
ends_well $G z
start follow y "$Z"; F=$JOB
start follow z "$Y"; G=$JOB
ends_well $F y
ends_well $G z
touch "$WORK/enough"
ends_well $C x
for _ in $(seq 5); do
	volume gone 2048 "$A $B"
	msg map 0:0:0:700
	G=$(minor_of "$NAME")
	start dmsetup remove --retry "$NAME"; R=$JOB
	use y
	# Either it was there, or there was no such volume.
	msg inherit "$G" 0 2>"$WORK/err" || grep -q "No such device" "$WORK/err"
	[[ $(info 1) =~ ^(0|700)/2048$ ]] || die "a part of it: $(info 1)"
	msg unmap 0:2048 force
	ends_well $R remove
done
