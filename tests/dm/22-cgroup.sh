#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A write that waited is its writer's to the end: the control group that it came
# from is charged with it, and is held to its limit. The fast lab's kernel has no
# io.max: that half needs a host.
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
NUMBER=$(lsblk -dno MAJ:MIN "$A" | tr -d ' ')
charged() {
	awk -v dev="$NUMBER" '$1 == dev { for (i = 2; i <= NF; i++) if (sub(/^wbytes=/, "", $i)) n = $i } END { print n + 0 }' "$GROUP/io.stat"
}
[ "$(charged)" = 0 ]
start within put a 0 64; W=$JOB
until_info 3 1
msg map 0:0:0:1
ends_well $W a
[ "$(charged)" = 65536 ] || die "the writer's group was charged with $(charged) bytes of 65536"

[ -e "$GROUP/io.max" ] || exit 0
say "first writes and later ones keep to io.max"
SECONDS=0
echo "$NUMBER wbps=65536" >"$GROUP/io.max"
for chunk in 1 2; do
	start within put a $((chunk * KIB)) $KIB
	until_info 3 1
	msg map $chunk:0:$chunk:1
	ends_well $JOB a
done
start within put b 0 $((3 * KIB))
ends_well $JOB b
# 320 KiB at 64 KiB a second; the first of them may go at once.
[ $SECONDS -ge 3 ] || die "320 KiB were written in $SECONDS s, at 64 KiB a second"
say "and nobody else has to"
SECONDS=0
put c 0 $((3 * KIB))
[ $SECONDS -lt 3 ] || die "a writer without a limit took $SECONDS s"
