#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Polled writes, that wait and that do not, on a device that is polled and on one stacked between.
. "$(dirname "$0")/../dm/lib.sh"
need fio

modprobe -q null_blk nr_devices=1 gb=1 memory_backed=1 poll_queues=1 queue_mode=2 ||
	{ echo "SKIP: no null_blk"; exit 200; }
A=/dev/nullb0
[ "$(cat /sys/block/nullb0/queue/io_poll)" = 1 ]
# Polled by way of one more device-mapper device.
dmsetup create ${PREFIX}mid --table "0 131072 linear $A 131072"
polled() {
	fio --eta=never --name=polled --filename="$VOL" --rw=randwrite --bs=4k --size=1M \
		--ioengine=pvsync2 --hipri --direct=1 --verify=crc32c --verify_fatal=1 --minimal \
		--output=/dev/null
}
for data in "$A" /dev/mapper/${PREFIX}mid; do
	say "on $data"
	volume "p${#data}" 64 "$data"
	DISK=$(dmsetup info -c --noheadings -o blkdevname "$NAME" | tr -d ' ')
	[ "$(cat "/sys/block/$DISK/queue/io_poll")" = 1 ]
	handler "$NAME"
	start polled; W=$JOB
	ends_well $W polled
	[ "$(stat_of held_total)" -ge 1 ]
	kill_helper
	dmsetup remove "$NAME"
done
