#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --hosts 1 --cpus 2 --disk 256M
# Eight writers at random over holes, and one that discards and writes, while chunks are mapped, taken back,
# protected and moved, the table is reloaded and the notifier dies: every write
# ends, and every byte is right.
. "$(dirname "$0")/lib.sh"
need fio

CHUNKS=576
data_device 96; A=$DEV
volume v $CHUNKS "$A" skip_zero_writes hold_timeout 120
TABLE=$(dmsetup table "$NAME")
helper chaos.py "$NAME" "$A" $CHUNKS 1536 "$TABLE"

start fio --eta=never --filename="$VOL" --offset=32M --size=4M --bs=128k --ioengine=psync --direct=1 \
	--time_based --runtime=3600 --rate_iops=100 --minimal --output=/dev/null \
	--name=trim --rw=randtrim --name=write --rw=randwrite
TRIM=$JOB
for pass in 1 2; do
	say "pass $pass"
	timeout 300 fio --eta=never --name=w --filename="$VOL" --numjobs=8 --size=4M --offset_increment=4M \
		--rw=randwrite --bsrange=4k-128k --ioengine=libaio --iodepth=8 --direct=1 \
		--loops=${STRESS_LOOPS:-4} --randseed=$pass --verify=crc32c --verify_fatal=1 \
		--group_reporting --minimal >"$WORK/fio" 2>&1 || { cat "$WORK/fio" "$SAID"; die "fio failed"; }
done
pkill -P $TRIM || kill $TRIM
wait $TRIM || true
test -e "/proc/$HELPER" || { cat "$SAID"; die "the handler ended"; }
kill "$HELPER"
until_true test ! -e "/proc/$HELPER"
tail -n +2 "$SAID"
grep -q rounds "$SAID"
grep -q "'d'" "$SAID"
[ "$(info 2) $(info 3) $(info 7)" = "0 0 0" ]

say "read once more, from behind an empty cache"
echo 3 >/proc/sys/vm/drop_caches
timeout 300 fio --eta=never --name=w --filename="$VOL" --numjobs=8 --size=4M --offset_increment=4M \
	--rw=randwrite --bsrange=4k-128k --ioengine=libaio --iodepth=8 --direct=1 --loops=${STRESS_LOOPS:-4} \
	--randseed=2 --verify=crc32c --verify_fatal=1 --verify_only --minimal >"$WORK/fio" 2>&1 ||
	{ cat "$WORK/fio"; die "fio found wrong data"; }
