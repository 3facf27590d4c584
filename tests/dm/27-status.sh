#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Status counts what came and what was done; the queue's limits are those of a
# chunk.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A"
# counts: writes, discards, growths and copies. Reads are others' as well.
counts() { echo "$(info 12) $(info 13) $(info 14) $(info 15)"; }
now_counts() { [ "$(counts)" = "$1" ] || die "writes, discards, growths and copies are $(counts), not $1"; }

say "what came and what was done"
now_counts "0 0 0 0"
msg map 0:0:0:8 20:0:20:1
now_counts "0 0 2 0"
put a 0 4; put a 4 64; put a $((20 * KIB)) 4
now_counts "3 0 2 0"
before=$(info 11)
is a 0 4; is a 4 4
[ $(($(info 11) - before)) -ge 2 ]
now_counts "3 0 2 0"
blkdiscard -o $((4 * KIB * 1024)) -l $((KIB * 1024)) "$VOL"
blkdiscard -z -o $((40 * KIB * 1024)) -l $((KIB * 1024)) "$VOL"
now_counts "3 2 2 0"
msg watch 0:2
msg remap 0:0:30:2
msg remap 0:0:30:2
refused "busy" msg remap 0:0:40:2
now_counts "3 2 2 2"

say "it lives through a reload"
swap "$(line 64 "$A")"
now_counts "3 2 2 2"

say "limits"
# limits NAME GRANULARITY OPTIMAL
limits() {
	local queue
	queue=/sys/block/$(dmsetup info -c --noheadings -o blkdevname "$PREFIX$1" | tr -d ' ')/queue
	[ "$(cat "$queue/discard_granularity") $(cat "$queue/optimal_io_size")" = "$2 $3" ] ||
		die "$1: $(cat "$queue/discard_granularity") $(cat "$queue/optimal_io_size"), not $2 $3"
	[ "$(cat "$queue/discard_max_bytes")" -ge 4294966784 ]
}
limits v 65536 65536
# The last has chunks for which it would read too much ahead.
dmsetup create ${PREFIX}four --table "0 131072 notify 8192 0 0 1 $A 0"
limits four 4194304 4194304
dmsetup create ${PREFIX}eight --table "0 131072 notify 16384 0 0 1 $A 0"
limits eight 8388608 "$(cat /sys/block/${A#/dev/}/queue/optimal_io_size)"
