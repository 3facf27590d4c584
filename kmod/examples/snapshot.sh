#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# snapshot.sh run NAME ORIGIN STORE MIB MAX_MIB: a snapshot whose store grows.
# snapshot.sh remove NAME
#
# The kernel's own "snapshot" target copies what is overwritten on ORIGIN to a
# store of a fixed size, and is invalid once that is full. Here the store begins
# with MIB of the device STORE and has a tail of "notify": the copy that reaches
# the tail waits, this script gets signal 35 and adds the next MiB of STORE,
# until there are MAX_MIB.
#
#     ./snapshot.sh run disk /dev/vg/disk /dev/vg/store 64 1024
#
# NAME is ORIGIN to be written: what is written to ORIGIN itself is not seen.
# NAME-snap is what NAME was at the start, NAME-cow the store. The script runs
# until Ctrl-C or a signal ends it, and the devices stay. A write to NAME that
# needs more room waits then, until the script is started again with the same
# words, or for ten minutes: after that the snapshot is invalid.
#
# With the maximum the script ends: the store has no tail any more. When it is
# full, the snapshot becomes invalid, as any is that is full; NAME goes on. Until
# then a start with a larger MAX_MIB goes on from there.
#
# Two things a shell cannot do are named in notifyd.sh. And after a boot the
# devices are not there: what the store has is lost.
set -euo pipefail

# The kernel copies up to 2048 chunks at once (snapshot_cow_threshold of
# dm_snapshot), of 4 KiB here. It gives all of them their places before the first
# one waits in the tail, so a tail has to have room for more than that. If it had
# not, the snapshot would be invalid before the signal is there.
CHUNK_SECTORS=8
TAIL_SECTORS=$((16 * 2048))
SIGNAL=35

die() { echo "snapshot.sh: $*" >&2; exit 1; }
usage() {
	sed -n '3,4s/^# //p' "$0" >&2
	exit 2
}

# ---- what there is ----

exists() { dmsetup info "$1" >/dev/null 2>&1; }
# A table names devices by number: a path may have spaces.
number() {
	[ -b "$1" ] || die "$1 is no block device"
	printf '%d:%d' "0x$(stat -Lc %t -- "$1")" "0x$(stat -Lc %T -- "$1")"
}
number_of() { dmsetup info -c --noheadings --separator : -o major,minor "$1"; }
opened() { [ "$(dmsetup info -c --noheadings -o open "$1")" != 0 ]; }
suspended() { [[ $(dmsetup info -c --noheadings -o suspended "$1") = Suspended ]]; }
store_end() { dmsetup table "$cow" | awk '{ end = $1 + $2 } END { print end }'; }
tail_start() { dmsetup table "$cow" | awk '$3 == "notify" { print $1 }'; }
# The process that is told of the tail, if it is there.
server() {
	case $(dmsetup status --noflush "$cow") in
	*" notify "*" alive "*) dmsetup table "$cow" | awk '$3 == "notify" { print $5 }' ;;
	esac
}
is_invalid() { [[ $(dmsetup status --noflush "$snap") = *Invalid* ]]; }

# ---- the store ----

# table SECTORS NOTIFIER: that much of STORE, and a tail if there may be more
table() {
	local tail=$((max - $1))
	[ $tail -le $TAIL_SECTORS ] || tail=$TAIL_SECTORS
	echo "0 $1 linear $store 0"
	[ $tail -le 0 ] ||
		echo "$1 $tail notify 128 $2 $SIGNAL 0 2 hold_timeout 600"
}

# The copies that wait are kept, and go to the mapping that comes: see grow.sh.
# Ctrl-C in a terminal means dmsetup as well, which must not stop halfway.
replace() (
	trap '' INT TERM HUP
	table "$1" $$ | dmsetup load "$cow"
	dmsetup suspend --noflush "$cow"
	dmsetup resume --noudevsync "$cow"
)

# A script that was killed may have left a table behind, or the store suspended.
tidy() {
	if suspended "$cow"; then
		dmsetup resume --noudevsync "$cow"
	else
		dmsetup clear "$cow" >/dev/null
	fi
}

# What came with the bell: nothing, if it rang for a copy that has its room.
answer() {
	local start
	start=$(tail_start)
	[ "$(dmsetup message "$cow" "$start" pending)" ] || return 0
	replace "$(store_end)"
	echo "$name: the store has $(($(store_end) / 2048)) MiB"
	[ "$(tail_start)" ] || at_maximum
}

at_maximum() {
	echo "$name: the store is at its maximum of $((max / 2048)) MiB. When it is full," \
		"the snapshot becomes invalid, and $name goes on. To give it more, start this" \
		"again with a larger MAX_MIB before that."
	exit 0
}

# ---- the snapshot ----

# make_snapshot SECTORS: of what has been written; a file system is frozen meanwhile
make_snapshot() (
	trap '' INT TERM HUP
	dmsetup suspend "$name"
	failed=
	dmsetup create "$snap" --table \
		"0 $1 snapshot $origin $(number_of "$cow") P $CHUNK_SECTORS" || failed=1
	dmsetup resume "$name"
	[ ! "$failed" ]
)

# Makes what is not there yet: a script before this one may have been killed.
make_devices() {
	local sectors
	sectors=$(blockdev --getsz "$2")
	exists "$name" || dmsetup create "$name" --table "0 $sectors snapshot-origin $origin"
	[ "$(dmsetup table "$name")" = "0 $sectors snapshot-origin $origin" ] ||
		die "$name is there, and no snapshot-origin of $2: take another name"
	! suspended "$name" || dmsetup resume "$name"
	if ! exists "$cow"; then
		is_empty "$3"
		table $(($4 * 2048)) 0 | dmsetup create "$cow"
	fi
	[ "$(dmsetup table "$cow" | awk 'NR == 1 { print $3, $4 }')" = "linear $store" ] ||
		die "$cow is there, and does not lie on $3: take another name"
	tidy
	if ! exists "$snap"; then
		is_empty "$3"
		make_snapshot "$sectors"
	fi
	! is_invalid || die "the snapshot was full and is invalid: remove it"
}

is_empty() {
	head -c 4096 "$1" | cmp -s - <(head -c 4096 /dev/zero) ||
		die "$1 has data: if it may be overwritten, clear its beginning: blkdiscard -z -f -l 1M"
}

bell() { [ ! "$idle" ] || kill "$idle" 2>/dev/null || :; }

# As notifyd.sh does it: a signal that comes at any moment has an answer.
serve() {
	idle=
	trap bell $SIGNAL
	trap 'bell; echo "$name: not served any more, and the devices stay"; exit' TERM INT HUP
	sleep infinity &
	idle=$!
	trap bell EXIT
	dmsetup message "$cow" "$(tail_start)" notifier $$ $SIGNAL
	exec 9<&-
	echo "$name: served by $$, the store has $(($(store_end) / 2048)) MiB"
	while :; do
		while kill -0 "$idle" 2>/dev/null; do wait "$idle" || :; done
		sleep infinity &
		idle=$!
		answer
	done
}

run() {
	[[ $4 =~ ^[1-9][0-9]{0,8}$ && $5 =~ ^[1-9][0-9]{0,8}$ ]] || usage
	[ "$4" -le "$5" ] || die "MIB is above MAX_MIB"
	origin=$(number "$2") store=$(number "$3") max=$(($5 * 2048))
	[ "$origin" != "$store" ] || die "ORIGIN and STORE are the same device"
	[ "$(blockdev --getsz "$3")" -ge $max ] || die "$3 is smaller than $5 MiB"
	exec 9<"$0"
	flock 9
	if exists "$cow" && [ "$(server)" ]; then
		die "$name is served already, by process $(server)"
	fi
	make_devices "$@"
	if [ ! "$(tail_start)" ]; then
		[ "$(store_end)" -lt $max ] || at_maximum
		replace "$(store_end)"
	fi
	serve
}

remove() {
	if exists "$cow"; then
		[ ! "$(server)" ] || die "$name is served: end process $(server) first"
		tidy
	fi
	if exists "$snap"; then
		! opened "$snap" || die "$snap is in use"
		# A copy that waits fails, or the removal would wait for it.
		if exists "$cow" && [ "$(tail_start)" ]; then
			dmsetup message "$cow" "$(tail_start)" nospace
		fi
		dmsetup remove --retry "$snap"
	fi
	! exists "$cow" || dmsetup remove --retry "$cow"
	exists "$name" || return 0
	! suspended "$name" || dmsetup resume "$name"
	if opened "$name"; then
		echo "$name is in use and stays: it is its origin and nothing else now"
	else
		dmsetup remove --retry "$name"
	fi
}

[[ $# -ge 2 && $2 != -* ]] || usage
name=$2 cow=$2-cow snap=$2-snap
case $1:$# in
run:6) shift; run "$@" ;;
remove:2) remove ;;
*) usage ;;
esac
