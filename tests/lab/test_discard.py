#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast --hosts 1 --disk 256M
"""What a volume discards returns to the pool, the free tail to the volume group, also when the
daemon is killed meanwhile; and a full pool goes on when its group gets a device.
"""

import os
import signal

from lab import (MIB, Signals, daemon_pid, expect, kill_daemon, make_pool, on_bus, pool_bytes, remove_pool, run, say, test,
                 until, vg_free, virsh, volume_bytes)

DISK, OTHER, BIG = (f"/dev/notify/vms/{name}" for name in ("disk0", "other", "big"))
EXTRA = "/dev/disk/by-id/virtio-disk1"
PATTERN = "/tmp/pattern"


def write(device, offset, mib, check=True):
    """Writes 8 MiB of noise again and again, past the page cache."""
    for at in range(offset, offset + mib, 8):
        done = run("dd", f"if={PATTERN}", f"of={device}", "bs=1M", f"seek={at}", "count=8", "oflag=direct",
                   "conv=notrunc", check=False)
        if done.returncode != 0:
            expect(not check, f"a write at {at} MiB of {device} failed: {done.stderr.strip()}")
            expect("No space left" in done.stderr, f"not for want of space: {done.stderr.strip()}")
            return at
    return None


def right(device, offset, mib):
    """Whether the noise is there."""
    for at in range(offset, offset + mib, 8):
        cut = f"dd if={device} bs=1M skip={at} count=8 iflag=direct status=none | cmp -s - {PATTERN}"
        expect(run("sh", "-c", cut, check=False).returncode == 0, f"{device} is wrong at {at} MiB")


def held(volume):
    return volume_bytes("vms", volume)[1] // MIB


def discards(start):
    write(OTHER, 0, 16)
    write(DISK, 0, 256)
    expect(held("disk0") >= 256, f"disk0 holds {held('disk0')} MiB of 256 written ones")
    low = vg_free("vg0")
    expect(low < start - 128 * MIB, "the group has given what was written")
    run("blkdiscard", "-o", str(16 * MIB), "-l", str(224 * MIB), DISK)
    until(lambda: held("disk0") <= 96, "the middle of disk0 to return", 60)
    right(DISK, 0, 16)
    right(DISK, 240, 16)
    say("host1", f"224 MiB discarded: disk0 holds {held('disk0')} MiB, the pool "
                 f"{pool_bytes('vms')[1] // MIB}, the group has {vg_free('vg0') // MIB} free")
    write(DISK, 16, 32)
    right(DISK, 0, 48)


def discards_of_a_killed_daemon(start):
    old = daemon_pid()
    os.kill(old, signal.SIGSTOP)
    run("blkdiscard", DISK)
    kill_daemon(pid=old)
    say("host1", "disk0 is discarded while the daemon is stopped; it is killed")
    until(lambda: daemon_pid() not in (0, old) and
          virsh("vol-info", "disk0", "vms", check=False).returncode == 0 and held("disk0") <= 4,
          "another daemon to give the chunks back", 60)
    if held("disk0"):
        # A chunk that was given ahead, and may be the last of all: nobody wrote or discarded it.
        say("host1", f"disk0 holds {held('disk0')} MiB that were given ahead")
        run("virt-notify", "reclaim", "vms")
    # More than at the start is taken by what 'other' holds (20 MiB), by half a step that stays beyond the headroom
    # (32), and by what is less than a step (64): that is not worth a command.
    until(lambda: vg_free("vg0") >= start - 120 * MIB, "the tail to return to the group", 60)
    say("host1", f"disk0 holds {held('disk0')} MiB, the group has {vg_free('vg0') // MIB} of {start // MIB} free")
    right(OTHER, 0, 16)
    until(on_bus, "it to be heard on D-Bus", 30)


def room_for_a_full_pool():
    virsh("vol-create-as", "vms", "big", "4G")
    signals = Signals()
    full = write(BIG, 0, 2048, check=False)
    expect(full, "the group has less than 2 GiB")
    say("host1", f"big is full at {full} MiB")
    signals.wait_for("SpaceExhausted", 60)
    run("vgextend", "-qq", "-y", "vg0", EXTRA)
    signals.wait_for("SpaceAvailable", 60)
    say("host1", "vgextend: there is space again")
    expect(write(BIG, full, 128) is None, "the write goes on")
    right(BIG, full - 64, 192)
    right(OTHER, 0, 16)
    signals.close()
    log = run("journalctl", "-q", "-b", "-u", "virtnotifyd", "-o", "cat")
    for line in ("the space is low: ", "out of space", "there is space again: "):
        expect(line in log, f"'{line}' in the log: {log}")


def body():
    with open(PATTERN, "wb") as file:
        file.write(os.urandom(8 * MIB))
    make_pool()
    start = vg_free("vg0")
    virsh("vol-create-as", "vms", "disk0", "512M")
    virsh("vol-create-as", "vms", "other", "64M")
    discards(start)
    discards_of_a_killed_daemon(start)
    room_for_a_full_pool()
    kernel = run("dmesg")
    expect("refused" not in kernel, f"the target refuses nothing: {kernel}")
    virsh("vol-delete", "disk0", "vms")
    virsh("vol-delete", "other", "vms")
    virsh("vol-delete", "big", "vms")
    remove_pool("vms")
    # The device that came goes again.
    run("vgreduce", "-q", "vg0", EXTRA)
    run("pvremove", "-q", EXTRA)


if __name__ == "__main__":
    test(body, needs_host2=False)
