#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# create.sh NAME MIB PID [DEVICE]: a device of so many MiB that can grow.
#
# The first MIB are mapped: to DEVICE, or to the zero target for a show
# without a disk. One MiB of "notify" follows: who writes there waits, and the
# process PID gets signal 35.
set -eu
name=$1 mib=$2 pid=$3 device=${4:-}
sectors=$((mib * 2048))
if [ "$device" ]; then
	base="linear $device 0"
else
	base=zero
fi
dmsetup create "$name" <<TABLE
0 $sectors $base
$sectors 2048 notify 128 $pid 35 0 2 hold_timeout 600
TABLE
