#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --hosts 1 --disk 256M
# Polled I/O: a write whose submitter looks for its end, in place of an interrupt, is held and goes on
# like any other, on a disk with poll queues and through a device stacked below the volume. What may not
# wait is refused at once.
. "$(dirname "$0")/lib.sh"
need fio

CONFIG=/sys/kernel/config
mountpoint -q $CONFIG || mount -t configfs none $CONFIG
[ -d $CONFIG/nullb ] || modprobe -q null_blk nr_devices=0 || { echo "SKIP: no null_blk"; exit 200; }
DISK=$CONFIG/nullb/$PREFIX
end_disk() {
	local status=$?
	remove_devices || status=1
	{ echo 0 >"$DISK/power"; rmdir "$DISK"; } || status=1
	teardown $status
}
mkdir "$DISK"
trap end_disk EXIT
echo 1 >"$DISK/memory_backed"
echo 64 >"$DISK/size"
echo 1 >"$DISK/submit_queues"
echo 1 >"$DISK/poll_queues"
echo 1 >"$DISK/power"
A=/dev/$PREFIX
# Older kernels number the disk, newer ones name it.
[ -b "$A" ] || A=/dev/nullb$(cat "$DISK/index")
# It takes memory at the first write to a page, which it must not where it is polled.
dd if=/dev/zero of="$A" bs=1M count=64 oflag=direct status=none

# polls DEVICE: its queue has polled I/O
polls() {
	local number
	number=$((16#$(stat -Lc %t "$1"))):$((16#$(stat -Lc %T "$1")))
	[ "$(cat "/sys/dev/block/$number/queue/io_poll")" = 1 ] || die "$1 has no polled I/O"
}
# polled KIND FIRST_KIB KIB [OPTION...]: fio reads or writes so much, in blocks of 4 KiB
polled() {
	fio --name=polled --thread --filename="$VOL" --direct=1 --eta=never --ioengine=io_uring --hipri --bs=4k \
		--rw="$1" --offset="$2k" --size="$3k" --verify=crc32c --output="$WORK/fio" "${@:4}" ||
		{ cat "$WORK/fio"; return 1; }
}
polls "$A"

say "a write to a mapped chunk, and what it wrote"
volume v 64 "$A"
polls "$VOL"
msg map 0:0:0:4
polled write 0 64 --do_verify=1
[ "$(stat_of held_total)" = 0 ]

say "one that waits for a chunk, and several at once"
start polled write $((10 * KIB)) 4 --do_verify=0; W=$JOB
until_info 3 1
waiting "w 10"
msg map 10:0:10:1
ends_well $W "one write"
polled read $((10 * KIB)) 4
start polled write $((20 * KIB)) 256 --do_verify=0 --iodepth=64; W=$JOB
until_info 3 64
msg map 20:0:20:4
ends_well $W "many writes"
polled read $((20 * KIB)) 256

say "one that waits for a copy of a snapshot's chunk, and across a suspend"
msg snapshot
start polled write 0 4 --do_verify=0; W=$JOB
until_info 3 1
waiting "p 0"
dmsetup suspend --noflush "$NAME"
dmsetup resume "$NAME"
until_info 3 1
msg remap 0:0:40:1
ends_well $W "a copy"
polled read 0 4

say "through a stacked device, which keeps a list of its own of what is polled"
dmsetup create ${PREFIX}under --table "0 131072 linear $A 0"
polls "/dev/mapper/${PREFIX}under"
volume w 64 "/dev/mapper/${PREFIX}under"
polls "$VOL"
msg map 0:0:48:4
polled write 0 256 --do_verify=1 --iodepth=16
start polled write $((10 * KIB)) 64 --do_verify=0 --iodepth=16; W=$JOB
until_info 3 16
msg map 10:0:60:1
ends_well $W "stacked writes"
polled read $((10 * KIB)) 64

say "what may not wait fails at once in a hole, and is written where it need not"
nowait() {
	python3 - "$VOL" "$1" <<-'E'
		import mmap, os, sys
		disk = os.open(sys.argv[1], os.O_WRONLY | os.O_DIRECT)
		page = mmap.mmap(-1, 4096)
		page.write(b"n" * 4096)
		try:
		    os.pwritev(disk, [page], int(sys.argv[2]) * 1024, os.RWF_NOWAIT)
		except BlockingIOError as error:
		    sys.exit(f"would block: {error}")
	E
}
refused "would block" nowait $((30 * KIB))
[ "$(info 3)" = 0 ]
nowait 0
is n 0 4

say "one that waited too long fails"
volume x 64 "$A" hold_timeout 1
if polled write 0 4 --do_verify=0 >"$WORK/err" 2>&1; then die "it did not fail"; fi
grep -q "No space left" "$WORK/err"
