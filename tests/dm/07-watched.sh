#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Watched chunks: the first write is told and not held; unwritten ones go back.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 256 "$A"

say "the first write is told once"
msg map 0:0:0:4:w
chart 0:0:0:4:w
is 0 0 256
waiting ""
put a $KIB 4
waiting "a 1"
put a $KIB 4
waiting ""
chart "0:0:0:1:w 1:0:1:1 2:0:2:2:w"
[ "$(stat_of ahead_total)" = 1 ]

say "mapping it again does not watch it again"
msg map 1:0:1:1:w
chart "0:0:0:1:w 1:0:1:1 2:0:2:2:w"

say "unwritten chunks go back, written ones only by force"
refused "busy" msg unmap 0:4
[ "$(info 1)" = 4/256 ]
msg unmap 2:2
[ "$(info 1)" = 2/256 ]
msg unmap 2:2
msg unmap 0:4 force
[ "$(info 1)" = 0/256 ]

say "a writer and an unmap of the same chunk: one of them wins, no byte is lost"
for i in $(seq 20); do
	msg map $((100 + i)):0:$((100 + i)):1:w
	start put k $(((100 + i) * KIB)) 4; W=$JOB
	if msg unmap $((100 + i)):1 2>/dev/null; then
		until_info 2 1
		msg map $((100 + i)):0:$((200 + i)):1
	fi
	ends_well $W k
	is k $(((100 + i) * KIB)) 4
	msg unmap $((100 + i)):1 force
done

say "a sequential writer with chunks mapped ahead never waits"
msg stats reset
msg map 0:0:0:1:w
handler "$NAME" --first 1 --watch
dd if=/dev/urandom of="$WORK/random" bs=1M count=4 status=none
for i in $(seq 0 63); do
	dd if="$WORK/random" of="$VOL" bs=${KIB}k count=1 skip=$i seek=$i oflag=direct conv=notrunc status=none
	until_info 1 $((i + 2))/256
done
cmp "$WORK/random" <(content "$VOL" 0 4096)
[ "$(stat_of held_total) $(stat_of wait_count) $(stat_of ahead_total)" = "0 0 64" ] ||
	die "$(stat_of held_total) writes were held, $(stat_of ahead_total) of 64 told"
