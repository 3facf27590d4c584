#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# lab: --hosts 1 --cpus 2 --disk 256M
# Unmap, protect, watch, snapshot and drain wait for the I/O that is on its way, and for no other.
. "$(dirname "$0")/lib.sh"
need_target dm-delay delay

data_device 64; A=$DEV
dmsetup create ${PREFIX}slow --table "0 131072 delay $A 0 3000"
volume v 64 "/dev/mapper/${PREFIX}slow"
DISK=$(dmsetup info -c --noheadings -o blkdevname "$NAME" | tr -d ' ')
reading() { [ "$(awk '{ print $9 }' "/sys/class/block/$DISK/stat")" -gt 0 ]; }
now() { echo ${EPOCHREALTIME/[.,]/}; }

# waits COMMAND...: it ends with the slow I/O begun before, and not before that
waits() {
	local begin took
	start dd if="$VOL" of=/dev/null bs=4k count=1 skip=1 iflag=direct status=none; R=$JOB
	until_true reading
	begin=$(now)
	"$@"
	took=$((($(now) - begin) / 1000))
	if reading; then die "$* did not wait for the read"; fi
	[ $took -ge 1000 ] || die "$* took $took ms"
	ends_well $R read
}

msg map 0:0:0:4
say "drain, protect, watch, snapshot, unmap"
waits msg drain
waits msg protect 0:1
msg unprotect 0:1
waits msg watch 0:1
waits msg snapshot
waits msg unmap 0:1 force
msg map 0:0:0:1

say "growth goes on while a drain waits"
start dd if="$VOL" of=/dev/null bs=4k count=1 iflag=direct status=none; R=$JOB
until_true reading
start msg unmap 1:1 force; U=$JOB
msg map 10:0:10:1
reading || die "map returned only when the read that is drained had completed"
kill -0 $U
ends_well $R read
ends_well $U unmap

say "a drain that was killed is made up for by the next"
start dd if="$VOL" of=/dev/null bs=4k count=1 iflag=direct status=none; R=$JOB
until_true reading
python3 "$HERE/dmctl.py" "$NAME" drain &
D=$!
disown $D
sleep 1
kill -9 $D
begin=$(now)
msg drain
took=$((($(now) - begin) / 1000))
if reading; then die "the drain did not wait for the read"; fi
[ $took -ge 500 ] || die "drain took $took ms"
ends_well $R read

say "an unmap that was killed while it drained drains when it is repeated, and so does a leave"
data_device 8
dmsetup create ${PREFIX}gate --table "0 16384 linear $DEV 0"
volume g 64 /dev/mapper/${PREFIX}gate
msg map 0:0:0:2
DISK=$(dmsetup info -c --noheadings -o blkdevname "$NAME" | tr -d ' ')
for verb in unmap leave; do
	chunk=$([ $verb = unmap ] && echo 0 || echo 1)
	dmsetup suspend --noflush ${PREFIX}gate
	start dd if="$VOL" of=/dev/null bs=4k count=1 skip=$((chunk * KIB / 4)) iflag=direct status=none; R=$JOB
	until_true reading
	start exec dmsetup message "$NAME" 0 $verb "$chunk:1" force; FIRST=$JOB
	until_waits $FIRST drain
	kill -9 $FIRST
	status=0
	wait $FIRST || status=$?
	[ $status = $((128 + 9)) ] || die "the first $verb was not killed: $status"
	start exec dmsetup message "$NAME" 0 $verb "$chunk:1" force; SECOND=$JOB
	until_waits $SECOND drain
	dmsetup resume ${PREFIX}gate
	ends_well $R read
	ends_well $SECOND $verb
done
