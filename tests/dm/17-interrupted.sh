#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# lab: --hosts 1 --cpus 2 --disk 256M
# A noflush suspend that is interrupted fails no write: not those that waited,
# nor those that come while it is taken back.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
dmsetup create ${PREFIX}slow --table "0 131072 linear $A 0"
# Many targets, so that taking the suspend back takes a moment; the last one is
# written to. What is read from the first is what the suspend waits for.
TARGETS=300
NAME=${PREFIX}v VOL=/dev/mapper/${PREFIX}v
{
	echo "0 131072 linear /dev/mapper/${PREFIX}slow 0"
	for n in $(seq 0 $((TARGETS - 1))); do
		echo "$((131072 + n * 1024)) 1024 notify $CHUNK 0 0 1 $A 2 hold_timeout 600"
	done
} | dmsetup create "$NAME"
LAST=$((131072 + (TARGETS - 1) * 1024))
held() { dmsetup status --noflush "$NAME" | awk -v start=$LAST '$1 == start { print $6 }'; }
holds() { [ "$(held)" = "$1" ]; }

# io READ-OR-WRITE START_KIB: begin it, $JOB, and wait until it waits
io() {
	local ends=(if=/dev/zero "of=$VOL" seek=$(($2 / 4)) oflag=direct conv=notrunc)
	[ "$1" = write ] || ends=(if="$VOL" of=/dev/null skip=$(($2 / 4)) iflag=direct)
	start exec dd "${ends[@]}" bs=4k count=1 status=none
	# Where it sleeps is a part of submit_bio_wait() in Linux 6.1.
	until_waits $JOB 'io_schedule\|blk_wait\|^\[<0>\] submit_bio_wait'
}

for round in $(seq 5); do
	io write $((LAST / 2)); W1=$JOB
	until_true holds 1
	dmsetup suspend --nolockfs ${PREFIX}slow
	io read 0; R=$JOB
	start exec dmsetup suspend --noflush "$NAME"; S=$JOB
	until_waits $S dm_suspend
	io write $((LAST / 2 + KIB)); W2=$JOB
	io write $((LAST / 2 + 2 * KIB)); W3=$JOB
	kill $S
	until_true test ! -e /proc/$S
	dmsetup resume ${PREFIX}slow
	ends_well $R "the slow read"
	until_true holds 3
	dmsetup message "$NAME" $LAST map 0:0:0:3
	for w in $W1 $W2 $W3; do ends_well $w "round $round"; done
	dmsetup message "$NAME" $LAST unmap 0:3 force
done
