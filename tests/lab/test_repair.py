#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast
"""The metadata is zeroed twice: it comes back from the kernel's live map, and from the backup."""

import json
import os

from lab import MIB, expect, make_pool, remove_pool, run, say, test, virsh

META = "/dev/vg0/notify-meta"
DISK = "/dev/notify/vms/disk0"
SPOTS = (0, 1, 7, 15)  # where the volume is written, in chunks of 4 MiB


def direct(mode):
    return os.open(DISK, mode | os.O_DIRECT | os.O_SYNC)


def write_spots():
    """Blocks that say where they are, through O_DIRECT as QEMU writes."""
    for spot in SPOTS:
        run("sh", "-c", f"yes spot{spot} | head -c {MIB} > /tmp/block")
        run("dd", "if=/tmp/block", f"of={DISK}", "bs=1M", f"seek={spot * 4}", "oflag=direct", "conv=notrunc")


def digest():
    """Of the whole volume, past the page cache."""
    return run("sh", "-c", f"dd if={DISK} bs=4M iflag=direct 2>/dev/null | sha256sum")


def check():
    """(exit status, what `check` said as JSON or nothing)."""
    done = run("virt-notify", "--json", "check", "vms", check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"stderr": done.stderr}


def daemon(verb):
    run("systemctl", verb, "virtnotifyd.service")


def zero_metadata():
    run("dd", "if=/dev/zero", f"of={META}", "bs=1M", "count=4", "oflag=direct", "conv=notrunc,fsync")


def restored(source):
    text = run("virt-notify", "restore", "vg0", source, "--yes")
    say("host1", f"restore {source}: " + "; ".join(text.splitlines()))


def from_the_kernel(before):
    """The daemon is down, a program has the volume open, and the metadata is gone."""
    holder = direct(os.O_RDONLY)
    daemon("stop")
    zero_metadata()
    status, found = check()
    expect(status == 2, f"without a daemon, check ends with 2, not {status}: {found}")
    daemon("start")
    refused = virsh("pool-start", "vms", check=False)
    expect(refused.returncode != 0 and "virt-notify" in refused.stderr,
           f"the pool is refused with a sentence that names virt-notify, not '{refused.stderr.strip()}'")
    status, found = check()
    expect(status == 2, f"check ends with 2, not {status}: {found}")
    expect(run("virt-notify", "dump", "vg0", "--from", "kernel").count("\nrun ") >= len(SPOTS) - 1,
           "the kernel's map can be dumped")
    restored("--from-kernel")
    virsh("pool-start", "vms")
    os.close(holder)
    expect(digest() == before, "the volume reads as before after a restore from the kernel")


def from_the_backup(before):
    virsh("pool-destroy", "vms")
    run("lvchange", "--activate", "y", "vg0/notify-meta")
    zero_metadata()
    run("lvchange", "--activate", "n", "vg0/notify-meta")
    expect(check()[0] == 2, "check ends with 2 where the pool is not active")
    done = run("virt-notify", "restore", "vg0", "--from-kernel", "--yes", check=False)
    expect(done.returncode == 3, "nothing is restored from a kernel that has no device")
    restored("--from-backup")
    virsh("pool-start", "vms")
    expect(digest() == before, "the volume reads as before after a restore from the backup")


def repair():
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "64M")
    write_spots()
    before = digest()
    status, found = check()
    expect(status == 0, f"check finds nothing at first: {found}")
    say("host1", run("virt-notify", "status").replace("\n", " | "))
    say("host1", run("virt-notify", "map", "vms/disk0").replace("\n", " | "))
    refused = run("virt-notify", "restore", "vg0", "--from-backup", "--yes", check=False)
    expect(refused.returncode == 3 and "started" in refused.stderr, "a started pool is not restored")
    expect(run("virt-notify", "restore", "vg0", check=False).returncode == 64, "a usage error ends with 64")
    from_the_kernel(before)
    from_the_backup(before)
    status, found = check()
    expect(status == 0, f"check finds nothing in the end: {found}")
    virsh("vol-delete", "disk0", "vms")
    remove_pool("vms")


if __name__ == "__main__":
    test(repair, needs_host2=False)
