#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A target that starts in the middle of what would be a chunk sees discards of
# whole chunks like any other.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
data_device 1; HEAD=$DEV

# told START CHUNKS...: of single chunks and of a run, what is told
told() {
	local start=$1 n
	shift
	NAME=${PREFIX}at$start VOL=/dev/mapper/${PREFIX}at$start
	dmsetup create "$NAME" --table "0 $start linear $HEAD 0
$start $((16 * CHUNK)) notify $CHUNK 0 0 1 $A 0"
	dmsetup message "$NAME" "$start" map 0:0:0:16
	for n in 2 4; do
		blkdiscard -o $(((start + n * CHUNK) * 512)) -l $((CHUNK * 512)) "$VOL"
	done
	blkdiscard -o $(((start + 6 * CHUNK) * 512)) -l $((3 * CHUNK * 512)) "$VOL"
	# A part of one, and the end of it separately: no whole chunk.
	blkdiscard -o $(((start + 11 * CHUNK) * 512)) -l $((64 * 512)) "$VOL"
	blkdiscard -o $(((start + 12 * CHUNK + 8) * 512)) -l $((120 * 512)) "$VOL"
	local said
	said=$(dmsetup message "$NAME" "$start" pending | xargs)
	[ "$said" = "d 2 d 4 d 6 d 7 d 8" ] || die "start $start: told '$said'"
	[ "$(cat "/sys/block/$(dmsetup info -c --noheadings -o blkdevname "$NAME" | tr -d ' ')/queue/discard_granularity")" = "$1" ]
}

told 8 4096
told 64 32768
told 128 65536
told 256 65536
