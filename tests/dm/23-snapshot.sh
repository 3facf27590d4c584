#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A snapshot takes all that is mapped out of the writers' hands at once: reads
# pass, writes wait for a chunk of the volume's own, and what the snapshot has
# never changes.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A"
discard() { blkdiscard -o $(($1 * 512)) -l $(($2 * 512)) "$VOL"; }
# copy FROM TO: a chunk of the data device
copy() {
	dd if="$A" of="$A" bs=${KIB}k count=1 skip="$1" seek="$2" iflag=direct oflag=direct conv=notrunc status=none
}
# generations: the current one and the mark
generations() { [ "$(info 8) $(info 9)" = "$1" ] || die "generation and mark are $(info 8) $(info 9), not $1"; }
# pends LINES: what "pending" says, word for word
pends() {
	local said
	said=$(msg pending)
	[ "$said" = "$1" ] || die "pending says '$said', not '$1'"
}

msg map 0:0:0:8
put a 0 512
generations "0 0"
chart 0:0:0:8

say "reads pass, a write waits and is told with its place in the chunk"
msg snapshot
generations "1 1"
chart 0:0:0:8:0
is a 0 512
start put b $((KIB + 16)) 8; W=$JOB
until_info 3 1
pends "p 1 32 16"
copy 1 33
msg remap 1:0:33:1
ends_well $W b
is b $((KIB + 16)) 8; is a $KIB 16
chart "0:0:0:1:0 1:0:33:1 2:0:2:6:0"
is a $KIB 64 "$A"

say "what is mapped now is the volume's own, unless it is said to be older"
start put c $((10 * KIB)) 4; W=$JOB
until_info 3 1
pends "w 10 0 8"
msg map 10:0:40:1:0
until_info 3 1
pends "p 10 0 8"
copy 40 41
msg remap 10:0:41:1
ends_well $W c
put d $((10 * KIB)) 4
refused "protected differently" msg map 0:0:0:1
msg map 0:0:0:1:0

say "its chunk moves, and is the snapshot's as before"
copy 0 50
msg remap 0:0:50:1:k
chart "0:0:50:1:0 1:0:33:1 2:0:2:6:0 10:0:41:1"
start put e 0 4; W=$JOB
until_info 3 1
waiting "p 0"
copy 50 51
msg remap 0:0:51:1
ends_well $W e
is a 4 60; is a 0 64 "$A"

say "a write of the whole chunk needs no copy, as long as it waits"
refused "no write of the whole chunk" msg remap 5:0:60:1:o
start put f $((5 * KIB + 4)) 60; W=$JOB
until_info 3 1
refused "no write of the whole chunk" msg remap 5:0:60:1:o
start put g $((5 * KIB)) 64; G=$JOB
until_info 3 2
msg remap 5:0:60:1:o
ends_well $G g
ends_well $W f
is a $((5 * KIB)) 64 "$A"
is g $((5 * KIB)) 4

say "a discard of a whole chunk makes a hole, one of a part nothing"
discard $((3 * CHUNK)) $CHUNK
discard $((4 * CHUNK)) 64
waiting "h 3"
waiting ""
chart "0:0:51:1 1:0:33:1 2:0:2:1:0 leaving 3 1 4:0:4:1:0 5:0:60:1 6:0:6:2:0 10:0:41:1"
is 0 $((3 * KIB)) 64; is a $((4 * KIB)) 64
is a $((3 * KIB)) 64 "$A"
start put h $((3 * KIB)) 4; W=$JOB
until_info 3 1
waiting ""
msg forget 3:1
until_info 2 1
waiting "w 3"
msg map 3:0:70:1
ends_well $W h

say "a discard of own chunks and of a snapshot's in one piece"
discard $((5 * CHUNK)) $((3 * CHUNK))
waiting "d 5 h 6 h 7"
chart "0:0:51:1 1:0:33:1 2:0:2:1:0 3:0:70:1 4:0:4:1:0 5:0:60:1:d leaving 6 2 10:0:41:1"
msg forget 6:2

say "the mark falls with the last snapshot, and what waits goes on"
msg snapshot 7
generations "7 7"
chart "0:0:51:1:1 1:0:33:1:1 2:0:2:1:0 3:0:70:1:1 4:0:4:1:0 5:0:60:1:d1 10:0:41:1:1"
start put i 0 4; I=$JOB
start put j $((2 * KIB)) 4; J=$JOB
until_info 3 2
refused "only a snapshot" msg mark 8
msg mark 1
generations "7 1"
ends_well $I i
until_info 3 1
waiting "p 2"
msg mark 0
ends_well $J j
is i 0 4; is j $((2 * KIB)) 4

say "a message that is repeated is no second snapshot, and generations end"
msg snapshot 9
msg mark 8
msg snapshot 9
generations "9 8"
refused "is over" msg snapshot 8
msg snapshot 65535
refused "no generation is left" msg snapshot
generations "65535 65535"

say "all of it lives through a reload"
before=$(msg dump)
swap "$(line 128 "$A")"
[ "$before" = "$(msg dump)" ]
generations "65535 65535"
start put k 0 4; W=$JOB
until_info 3 1
msg mark 0
ends_well $W k

say "lists of ranges, all or none"
refused "busy" msg leave 5:1 0:1
refused "end of the volume" msg protect 5:1 128:1
if msg dump | grep p; then die "a refused message has protected chunks"; fi
msg protect 0:2 10:1
chart "0:0:51:1:p1 1:0:33:1:p1 2:0:2:1:0 3:0:70:1:1 4:0:4:1:0 5:0:60:1:d1 10:0:41:1:p1"
msg remap 0:0:80:1 10:0:81:1:k
chart "0:0:80:1 1:0:33:1:p1 2:0:2:1:0 3:0:70:1:1 4:0:4:1:0 5:0:60:1:d1 10:0:81:1:p1"
refused "not mapped" msg remap 1:0:82:1 9:0:83:1
msg unprotect 0:2 10:1
msg leave 0:1 2:2 force
chart "leaving 0 1 1:0:33:1:1 leaving 2 2 4:0:4:1:0 5:0:60:1:d1 10:0:81:1:1"
msg forget 0:1 2:2
msg unmap 1:1 4:2 10:1 force
chart ""
[ "$(info 1)" = 0/128 ]
