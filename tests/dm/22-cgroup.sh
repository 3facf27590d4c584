#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A write that waited is its writer's to the end: the control group that it came
# from is charged with it.
. "$(dirname "$0")/lib.sh"

GROUPS_AT=$(findmnt -nt cgroup2 -o TARGET | head -1)
[ "$GROUPS_AT" ] && grep -qw io "$GROUPS_AT/cgroup.controllers" ||
	{ echo "SKIP: no control group with I/O"; exit 200; }
data_device 64; A=$DEV
volume v 64 "$A"
GROUP=$GROUPS_AT/$PREFIX
echo +io >"$GROUPS_AT/cgroup.subtree_control"
mkdir "$GROUP"
finish() { local status=$?; rmdir "$GROUP" || status=1; teardown $status; }
trap finish EXIT

within() { echo $BASHPID >"$GROUP/cgroup.procs"; "$@"; }
charged() {
	awk -v dev="$(lsblk -dno MAJ:MIN "$A" | tr -d ' ')" \
		'$1 == dev { for (i = 2; i <= NF; i++) if (sub(/^wbytes=/, "", $i)) n = $i } END { print n + 0 }' "$GROUP/io.stat"
}
[ "$(charged)" = 0 ]
start within put a 0 64; W=$JOB
until_info 3 1
msg map 0:0:0:1
ends_well $W a
[ "$(charged)" = 65536 ] || die "the writer's group was charged with $(charged) bytes of 65536"
