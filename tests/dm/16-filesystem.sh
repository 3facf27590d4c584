#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A file system on a volume goes through suspends of all kinds while it is
# written to, and what was written is there.
. "$(dirname "$0")/lib.sh"
need mkfs.ext4 sha256sum

modprobe -q ext4 || grep -qw ext4 /proc/filesystems || { echo "SKIP: no ext4"; exit 200; }
data_device 256; A=$DEV
volume v 4096 "$A"
handler "$NAME"
mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=1 "$VOL"
MOUNT=$WORK/mount
mkdir "$MOUNT"
mount "$VOL" "$MOUNT"
unmount() {
	local status=$?
	if mountpoint -q "$MOUNT"; then umount "$MOUNT" || status=1; fi
	teardown $status
}
trap unmount EXIT

dd if=/dev/urandom of="$WORK/random" bs=1M count=24 status=none
write() {
	local n
	for n in 1 2 3 4; do cp "$WORK/random" "$MOUNT/$1.$n"; done
	sync -f "$MOUNT"
}
# through NAME COMMAND...: dirty pages are on their way all the time meanwhile
through() {
	local name=$1 before
	shift
	say "$name"
	start write "$name"; W=$JOB
	before=$(stat_of held_total)
	more() { [ "$(stat_of held_total)" -gt $((before + ${1:-4})) ]; }
	for n in 4 8 12; do
		until_true more $n
		"$@"
	done
	ends_well $W "$name"
}
plain() { dmsetup suspend "$NAME"; dmsetup resume "$NAME"; }
noflush() { dmsetup suspend --noflush "$NAME"; dmsetup resume "$NAME"; }
reload() {
	dmsetup load "$NAME" --table "$(dmsetup table "$NAME")"
	dmsetup resume "$NAME"
}
through suspend plain
rm "$MOUNT"/suspend.[123]
through noflush noflush
rm "$MOUNT"/noflush.[123]
through reload reload

say "all of it is there"
[ "$(info 2) $(info 3) $(info 7)" = "0 0 0" ]
umount "$MOUNT"
mount "$VOL" "$MOUNT"
for file in suspend.4 noflush.4 reload.1 reload.2 reload.3 reload.4; do
	cmp "$WORK/random" "$MOUNT/$file"
done
umount "$MOUNT"
if kernel_news | grep -iE 'I/O error|EXT4-fs (error|warning)|Aborting journal'; then
	die "the file system met an error"
fi
