#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A chunk that is watched moves to its copy only if nothing was written since.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A"
copy() {
	dd if="$A" of="$A" bs=${KIB}k count=1 skip="$1" seek="$2" iflag=direct oflag=direct conv=notrunc status=none
}

msg map 0:0:0:8
put a 0 512

say "unwritten, it moves; a read is no write, and nothing is told"
msg watch 0:4 6:2
chart "0:0:0:4:u 4:0:4:2 6:0:6:2:u"
is a 0 512
copy 0 20; copy 1 21
msg remap 0:0:20:2
chart "0:0:20:2 2:0:2:2:u 4:0:4:2 6:0:6:2:u"
is a 0 512
waiting ""

say "a write, zeroing and a discard of a part of it end the watch, all pass at once"
msg watch 0:4
put b $((2 * KIB)) 4
blkdiscard -z -o $((3 * KIB * 1024)) -l 4096 "$VOL"
blkdiscard -o $((6 * KIB * 1024)) -l 4096 "$VOL"
chart "0:0:20:2:u 2:0:2:5 7:0:7:1:u"
for chunk in 2 3 6; do
	refused "busy" msg remap $chunk:0:30:1
done
refused "busy" msg remap 0:0:30:4
chart "0:0:20:2:u 2:0:2:5 7:0:7:1:u"
is b $((2 * KIB)) 4
waiting ""

say "a large write ends it of all chunks that it covers, a discard as well"
msg watch 0:8
put c 0 512
chart "0:0:20:2 2:0:2:6"
msg watch 0:8
blkdiscard -o 0 -l $((8 * KIB * 1024)) "$VOL"
chart "0:0:20:2:d 2:0:2:6:d"
waiting "d 0 d 1 d 2 d 3 d 4 d 5 d 6 d 7"
put c 0 512

say "it holds data: it is unmapped only by force"
msg watch 0:1
refused "busy" msg leave 0:1
msg unmap 0:1 force
msg map 0:0:20:1

say "a writer and a move of the same chunk: one of them wins, no byte is lost"
moved=0 written=0
for i in $(seq 20); do
	msg watch 1:1
	FROM=$(msg dump | awk -F: '$1 <= 1 && 1 < $1 + $4 { print $3 + 1 - $1 }')
	TO=$((40 + i))
	copy "$FROM" $TO
	char=$(printf %b "\\0$(printf %o $((97 + i)))")
	start put "$char" $KIB 4; W=$JOB
	if msg remap 1:0:$TO:1 2>/dev/null; then moved=$((moved + 1)); else written=$((written + 1)); fi
	ends_well $W "$char"
	is "$char" $KIB 4
done
say "$moved moved, $written were written before"

say "a snapshot's chunk moves as one, whether its snapshot is there or not"
msg watch 4:1
msg snapshot
copy 4 70
msg remap 4:0:70:1:k
chart_of() { msg dump | grep "^$1:"; }
[ "$(chart_of 4)" = 4:0:70:1:0 ]
msg watch 4:1
msg mark 0
copy 70 71
msg remap 4:0:71:1:k
[ "$(chart_of 4)" = 4:0:71:1:0 ]
msg watch 4:1
put d $((4 * KIB)) 4
refused "busy" msg remap 4:0:72:1:k

say "a chunk that was written and then discarded is told twice"
msg map 20:0:20:1:w
put e $((20 * KIB)) 64
blkdiscard -o $((20 * KIB * 1024)) -l $((KIB * 1024)) "$VOL"
waiting "a 20 d 20"
waiting ""

say "a chunk moves once in a message"
msg map 21:0:21:2
msg protect 21:2
before=$(msg dump)
refused "named twice" msg remap 21:0:80:1 21:0:81:1
refused "named twice" msg remap 21:0:80:2 22:0:84:1
refused "named twice" msg remap 21:0:21:1 21:0:81:1
[ "$(msg dump)" = "$before" ]
msg remap 21:0:80:1 22:0:82:1
msg unprotect 21:2
