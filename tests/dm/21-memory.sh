#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: none
# A volume grows although the kernel has no memory for its map.
. "$(dirname "$0")/lib.sh"

FAIL=/sys/kernel/debug/failslab
CACHE=/sys/kernel/slab/dm_notify_leaf
mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
[ -e $FAIL ] && [ -e $CACHE/failslab ] || { echo "SKIP: the kernel cannot have allocations fail"; exit 200; }
data_device 64; A=$DEV
volume v 8192 "$A"

set_failing() {
	echo $1 >$CACHE/failslab
	echo Y >$FAIL/cache-filter
	echo N >$FAIL/task-filter
	echo N >$FAIL/ignore-gfp-wait
	echo 0 >$FAIL/verbose
	echo -1 >$FAIL/times
	echo $((100 * $1)) >$FAIL/probability
}
restore() {
	local status=$?
	echo 0 >$FAIL/probability
	echo 0 >$CACHE/failslab
	teardown $status
}
trap restore EXIT

say "a run of 512 chunks finds two leaves in hand"
set_failing 1
start put a $((500 * KIB)) 64; W=$JOB
until_info 3 1
msg map 500:0:0:512
ends_well $W a
is a $((500 * KIB)) 64
[ "$(info 1)" = 512/8192 ]

say "then there is none: refused, and nothing changed; what has a leaf can be mapped"
refused "out of memory" msg map 2000:0:600:1
refused "out of memory" msg map 1100:0:600:2 3000:0:602:1
chart "500:0:0:512"
msg map 499:0:700:1

say "once there is memory, they are in hand again"
set_failing 0
msg map 1020:0:701:1
set_failing 1
msg map 4000:0:702:1 5000:0:703:1
refused "out of memory" msg map 6000:0:704:1
set_failing 0
msg map 6000:0:704:1
[ "$(info 1)" = 517/8192 ]
