#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 900
# The example with the kernel's own snapshot: its store has a notify tail, and grows on each signal
# until a maximum. The snapshot has the old data throughout.
. "$(dirname "$0")/lib.sh"
need flock setsid
need_target dm-snapshot snapshot
need_target dm-snapshot snapshot-origin
EXAMPLE=$HERE/../../kmod/examples/snapshot.sh
[ -e "$EXAMPLE" ] || { echo "SKIP: no kmod/examples"; exit 200; }

# Odd characters in all names; a device's own has no space, for lib.sh.
DISK=$PREFIX"d'\$i\"k"
ln -sfn "$WORK" "$WORK/a path"
data_device 64; ln -s "$DEV" "$WORK/the origin"; ORIGIN="$WORK/a path/the origin"
data_device 64; ln -s "$DEV" "$WORK/the store"; STORE="$WORK/a path/the store"
put a 0 65536 "$ORIGIN"

node() { echo "/dev/$(dmsetup info -c --noheadings -o blkdevname "$1")"; }
# serve MAX_MIB: the example, $RUN, in the background; what it says is in $SAID
RUNS=0
begin() {
	SAID=$WORK/run$((++RUNS))
	env --default-signal=INT "$EXAMPLE" run "$DISK" "$ORIGIN" "$STORE" 4 "$1" >"$SAID" 2>&1 &
	RUN=$!
	JOBS+=("$RUN")
}
serve() { begin "$1"; until_true grep -q "served by $RUN" "$SAID"; }
ends_with() {
	local status=0
	wait "$RUN" || status=$?
	[ $status = "$1" ] || die "it ended with $status: $(cat "$SAID")"
	grep -qF -- "$2" "$SAID" || die "no word of '$2': $(cat "$SAID")"
}
store_mib() { echo $(($(blockdev --getsz "$(node "$DISK-cow")") / 2048)); }
has_tail() { dmsetup table "$DISK-cow" | grep -q notify; }
waits() { [ "$(dmsetup status --noflush "$DISK-cow" | awk '$3 == "notify" && $6 > 0')" ]; }
# write FROM_MIB MIB: in one piece, so that as much as may be is under way at once
write() { put b $(($1 * 1024)) $(($2 * 1024)) "$(node "$DISK")"; }
# The first so many MiB are written, and the snapshot is what all was at first.
check() {
	is b 0 $(($1 * 1024)) "$(node "$DISK")" || die "what was written is lost"
	is a 0 65536 "$(node "$DISK-snap")" || die "the snapshot has changed"
}

say "the store grows with what is overwritten, and the snapshot reads as before"
serve 56
[ "$(store_mib)" = 20 ]			# 4 MiB, and the tail
reads_old() {
	while [ ! -e "$WORK/enough" ]; do
		is a 0 512 "$(node "$DISK-snap")" || die "the snapshot has changed"
		touch "$WORK/has-read"
		# A chunk that is read is not copied meanwhile: an unbroken reader would hold the writer up.
		sleep 0.5
	done
}
start reads_old; READER=$JOB
until_true test -e "$WORK/has-read"
write 0 24
touch "$WORK/enough"
ends_well $READER "reading the snapshot"
check 24
[ "$(store_mib)" = 52 ] || die "the store has $(store_mib) MiB with its tail"
has_tail

say "what may not be is refused, and changes nothing"
dmsetup table "$DISK-cow" >"$WORK/before"
refused "served already, by process $RUN" "$EXAMPLE" run "$DISK" "$ORIGIN" "$STORE" 4 56
refused "end process $RUN first" "$EXAMPLE" remove "$DISK"
refused "is smaller than 65 MiB" "$EXAMPLE" run "${DISK}2" "$ORIGIN" "$STORE" 4 65
refused "MIB is above MAX_MIB" "$EXAMPLE" run "${DISK}2" "$ORIGIN" "$STORE" 4 3
refused "are the same device" "$EXAMPLE" run "${DISK}2" "$ORIGIN" "$ORIGIN" 4 8
refused "has data" "$EXAMPLE" run "${DISK}2" "$STORE" "$ORIGIN" 4 8
refused "no block device" "$EXAMPLE" run "${DISK}2" "$WORK" "$STORE" 4 8
refused "snapshot.sh run NAME" "$EXAMPLE" run "${DISK}2" "$ORIGIN" "$STORE" 4 0x8
refused "snapshot.sh remove NAME" "$EXAMPLE" remove
cmp "$WORK/before" <(dmsetup table "$DISK-cow")
"$EXAMPLE" remove "${DISK}2"

say "it is killed: the next write waits, and goes on with the next start"
kill -9 $RUN
status=0
wait $RUN || status=$?
[ $status = 137 ] || die "it was killed, and ended with $status"
start write 24 16; W=$JOB
until_true waits
[ "$(store_mib)" = 52 ]
serve 56
ends_well $W "a write that waited for the next start"
check 40
[ "$(store_mib)" = 56 ]
has_tail

say "Ctrl-C ends it, and the devices stay"
kill -INT $RUN
ends_with 0 "the devices stay"
check 40

say "it was killed halfway: a table that is loaded, a device that is suspended"
dmsetup table "$DISK-cow" | head -n 1 | dmsetup load "$DISK-cow"
serve 56
[ "$(store_mib)" = 56 ]
kill $RUN
ends_with 0 "the devices stay"
# It is gone: no table may name it.
dmsetup table "$DISK-cow" | sed "s/ $RUN 35 / 0 35 /" | dmsetup load "$DISK-cow"
dmsetup suspend --noflush "$DISK-cow"
dmsetup suspend --noflush "$DISK"
serve 56
check 40

say "with the maximum it says so and ends, and the snapshot is as it was"
write 40 13
ends_with 0 "the store is at its maximum of 56 MiB"
[ "$(store_mib)" = 56 ]
if has_tail; then die "the store still has a tail"; fi
check 53
begin 56
ends_with 0 "the store is at its maximum of 56 MiB"

say "a larger maximum goes on from there"
serve 60
[ "$(store_mib)" = 60 ]
write 53 4
ends_with 0 "the store is at its maximum of 60 MiB"
check 57

say "when that is full the snapshot is invalid, and the origin goes on"
write 57 7
is b 0 65536 "$(node "$DISK")"
[[ $(dmsetup status --noflush "$DISK-snap") = *Invalid* ]]
begin 60
ends_with 1 "the snapshot was full and is invalid"

say "all of it goes, but for an origin that is in use"
exec 8<"$(node "$DISK")"
"$EXAMPLE" remove "$DISK" >"$WORK/said"
grep -q "is in use and stays" "$WORK/said"
[ "$(own_devices)" = "$DISK" ]
exec 8<&-
"$EXAMPLE" remove "$DISK"
[ -z "$(own_devices)" ]

say "a name with a space; a store that was used is not overwritten"
refused "has data" "$EXAMPLE" run "$PREFIX a b" "$ORIGIN" "$STORE" 4 8
blkdiscard -z -f -l 1M "$STORE"
DISK="$PREFIX a b"
serve 8
kill $RUN
ends_with 0 "the devices stay"
say "what waits when all is removed is written, and the snapshot gone"
start write 0 8; W=$JOB
until_true waits
"$EXAMPLE" remove "$DISK" >"$WORK/said"
ends_well $W "a write that waited for a store that was removed"
"$EXAMPLE" remove "$DISK"
if dmsetup info "$DISK" 2>/dev/null; then die "$DISK is left behind"; fi
