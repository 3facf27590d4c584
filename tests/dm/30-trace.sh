#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Tracepoints tell of writes that are held and released, and of chunks that are mapped and moved.
. "$(dirname "$0")/lib.sh"

TRACING=$WORK/tracing
mkdir "$TRACING"
mount -t tracefs none "$TRACING"
EVENTS=$TRACING/events/dm_notify
end_trace() {
	local status=$?
	{ ! [ -e "$EVENTS" ] || echo 0 >"$EVENTS/enable"; umount "$TRACING"; } || status=1
	teardown $status
}
trap end_trace EXIT
[ -d "$EVENTS" ] || die "the target has no tracepoints"

data_device 64; A=$DEV
volume v 64 "$A"
number() { echo "$((16#$(stat -Lc %t "$1"))):$((16#$(stat -Lc %T "$1")))"; }
V=$(number "$VOL"); D=$(number "$A")
# told EVENT WORDS: exactly one event says so, in words that may have a pattern for a number
told() {
	local nr
	nr=$(grep -cE " dm_notify_$1: $2\$" "$TRACING/trace") ||
		{ cat "$TRACING/trace"; die "no event $1 says '$2'"; }
	[ "$nr" = 1 ] || die "$nr events $1 say '$2'"
}

echo >"$TRACING/trace"
echo 1 >"$EVENTS/enable"
say "a write is held, its chunks are mapped, and it is released"
start put a $((2 * KIB + 16)) 8; W=$JOB
until_info 3 1
told held "$V chunk 2 sector 288 \\+ 16"
msg map 2:0:5:3
told mapped "$V chunk 2 \\+ 3 at $D chunk 5"
ends_well $W a
told released "$V chunk 2 after [1-9][0-9]* ns"

say "a chunk of a snapshot moves"
msg snapshot
start put b $((3 * KIB)) 4; W=$JOB
until_info 3 1
told held "$V chunk 3 sector 384 \\+ 8"
msg remap 3:0:20:1
told mapped "$V chunk 3 \\+ 1 at $D chunk 20 moved"
ends_well $W b
told released "$V chunk 3 after [1-9][0-9]* ns"

say "a write that need not wait is no event, nor is a message that is refused"
put c $((3 * KIB)) 4
refused "another place" msg map 3:0:21:1
[ "$(grep -c ' dm_notify_' "$TRACING/trace")" = 6 ] || { cat "$TRACING/trace"; die "more events than six"; }
