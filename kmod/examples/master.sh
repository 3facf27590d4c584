#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# master.sh NAME MAX_MIB: what notifyd runs: grow the device by a MiB, until it
# has MAX_MIB, where it ends.
#
#     ./notifyd.sh ./master.sh demo 64 &
#     ./create.sh demo 16 $!
#     watch dmsetup table demo
#     dd if=/dev/urandom of=/dev/mapper/demo bs=64k oflag=direct
set -eu
here=$(dirname "$0")
sectors=$(blockdev --getsz "/dev/mapper/$1")
if [ "$sectors" -lt $(($2 * 2048)) ]; then
	exec "$here/grow.sh" "$1"
else
	exec "$here/grow.sh" "$1" last
fi
