#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# grow.sh NAME [last]: the notify tail becomes a mapping, a new tail follows.
#
# With "last" no tail follows: the device ends there. The suspend is one
# without flush, so that the writes that wait are kept, and go to the mapping;
# nor is udev waited for, which may itself wait for what waits.
set -eu
name=$1 last=${2:-}
table=$(dmsetup table "$name")
set -- $(echo "$table" | tail -n 1)
start=$1 len=$2
[ "$3" = notify ] || { echo "$name has no notify tail" >&2; exit 1; }
mapped=$((start + len))
shift 3
tail=$*
base=$(echo "$table" | head -n 1 | cut -d' ' -f3-)
{
	echo "0 $mapped $base"
	[ "$last" ] || echo "$mapped 2048 notify $tail"
} | dmsetup load "$name"
dmsetup suspend --noflush "$name"
dmsetup resume --noudevsync "$name"
