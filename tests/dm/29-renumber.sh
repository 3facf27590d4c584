#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Generations end. Then those that matter get low numbers, and nothing else changes: what is a
# snapshot's waits, what is the volume's own is written, and the mark can still be lowered step by step.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A"
# generations: the current one and the mark
generations() { [ "$(info 8) $(info 9)" = "$1" ] || die "generation and mark are $(info 8) $(info 9), not $1"; }

msg map 0:0:0:1
msg snapshot 3
msg map 1:0:1:1
msg snapshot 65534
msg map 2:0:2:1
msg snapshot
generations "65535 65535"
msg map 3:0:3:1
put a $((3 * KIB)) 4
chart "0:0:0:1:0 1:0:1:1:3 2:0:2:1:65534 3:0:3:1"

say "there is no other one, and all else works"
refused "no generation is left" msg snapshot
generations "65535 65535"
put b $((3 * KIB)) 4
start put c 0 4; W=$JOB
until_info 3 1
msg remap 0:0:10:1
ends_well $W c
chart "0:0:10:1 1:0:1:1:3 2:0:2:1:65534 3:0:3:1"

say "those that matter are named, while nothing is written"
refused "not frozen" msg renumber 3 65534 65535
msg freeze 30000
refused "mark is not among them" msg renumber 3 65534
refused "mark is not among them" msg renumber
refused "in the order" msg renumber 65534 3 65535
refused "in the order" msg renumber 3 3 65535
refused "in the order" msg renumber 0 65535
refused "not a number" msg renumber 65536
generations "65535 65535"
start put d $((3 * KIB)) 4; W=$JOB
start put e $((2 * KIB)) 4; X=$JOB
until_info 3 2
msg renumber 3 65534 65535
generations "3 3"
chart "0:0:10:1 1:0:1:1:1 2:0:2:1:2 3:0:3:1"
[ "$(info 3)" = 2 ]
msg thaw
ends_well $W d
is d $((3 * KIB)) 4

say "what is a snapshot's waits as before, until the mark is lowered to it"
until_info 3 1
waiting "p 2"
msg mark 2
ends_well $X e
start put f $((1 * KIB)) 4; X=$JOB
until_info 3 1
waiting "p 1"
msg mark 1
ends_well $X f

say "the next ones begin, until all are used up once more"
msg snapshot
generations "4 4"
msg snapshot 65535
refused "no generation is left" msg snapshot
msg freeze 30000
msg renumber 1 4 65535
msg snapshot
generations "4 4"
msg thaw
chart "0:0:10:1:1 1:0:1:3:1"

say "without snapshots none is named, and all chunks are of the first"
msg mark 0
msg freeze 30000
msg renumber
generations "0 0"
msg thaw
put g 0 256
chart "0:0:10:1 1:0:1:3"

say "a freeze that ends meanwhile leaves nothing waiting"
msg snapshot
msg freeze 500
start put h 0 4; W=$JOB
until_info 3 1
until_info 10 live
refused "not frozen" msg renumber 1
waiting "p 0"
msg remap 0:0:20:1
ends_well $W h

say "a freeze does not end while chunks are renumbered"
data_device $((256 * 1024)); HUGE=$DEV
MANY=4000000
volume many $MANY "$HUGE"
msg snapshot 100
msg map 0:0:0:$MANY
# As long as a message takes to come here, and not much longer: shorter than a walk over all chunks.
for ((i = 0; i < 20; i++)); do
	msg freeze $((300 + 200 * i))
	start blkdiscard -o $((i * KIB * 1024)) -l $((KIB * 1024)) "$VOL"; D=$JOB
	if msg renumber 100 2>/dev/null; then break; fi
	ends_well $D discard
done
[ $i -lt 20 ] || die "each freeze ended before the message came"
ends_well $D discard
said=$(msg pending)
[ "$(tail -1 <<<"$said")" = "d $i" ] || die "the volume's own chunk was taken for a snapshot's: $said"
