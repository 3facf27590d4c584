#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast --hosts 1
# limit: 600
"""What is not as usual on a host: metadata of a later version, a systemctl that fails in the middle of
`virt-notify setup`, and a guest whose volume holds LVM of its own.
"""

import os
import struct
import time
import zlib

from lab import control_pid, daemon_pid, expect, make_pool, refused, remove_pool, run, say, test, virsh

META = "/dev/vg0/notify-meta"
DISK = "/dev/notify/vms/disk0"
BLOCK = 4096
FAKES = "/tmp/fakes"
# As docs/operator/configuration.md says.
FILTER = 'devices { global_filter = [ "r|^/dev/notify/|", "r|^/dev/mapper/notify:|" ] }'


def superblocks(change):
    """Both copies as they were; `change` makes each intact one another, with its sum."""
    before = []
    with open(META, "r+b") as file:
        for number in (0, 1):
            file.seek(number * BLOCK)
            block = bytearray(file.read(BLOCK))
            before.append(bytes(block))
            if block.startswith(b"virtnotify-meta\n"):
                change(block)
                struct.pack_into("<I", block, BLOCK - 4, zlib.crc32(block[:BLOCK - 4]))
                file.seek(number * BLOCK)
                file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return before


def digest():
    return run("sha256sum", META)


def later_version():
    """Refused by name by everything that reads it, and not touched."""
    virsh("pool-destroy", "vms")
    run("lvchange", "--activate", "y", "vg0/notify-meta")
    before = superblocks(lambda block: struct.pack_into("<I", block, 16, 4))
    changed = digest()
    says = "it has version 4 of the format, and this program knows version 3"
    refused("pool-start", "vms", says=says)
    run("lvchange", "--activate", "y", "vg0/notify-meta")
    done = run("virt-notify", "check", "vms", check=False)
    expect(done.returncode == 1 and says in done.stdout + done.stderr, f"check says so as well: {done}")
    expect(digest() == changed, "nothing was written to it")
    say("host1", f"a later version: {says}")
    with open(META, "r+b") as file:
        file.write(b"".join(before))
        os.fsync(file.fileno())
    run("lvchange", "--activate", "n", "vg0/notify-meta")
    virsh("pool-start", "vms")


def fake_systemctl(verb):
    """One that fails at a verb."""
    os.makedirs(FAKES, exist_ok=True)
    with open(f"{FAKES}/systemctl", "w", encoding="ascii") as file:
        file.write(f'#!/bin/sh\n[ "$1" != {verb} ] || {{ echo no luck >&2; exit 1; }}\nexec /usr/bin/systemctl "$@"\n')
    os.chmod(f"{FAKES}/systemctl", 0o755)


def setup_fails(verb):
    """It says which command failed and why; run again, it goes on to its end."""
    run("virt-notify", "setup", "--undo")
    expect("type='notify'" not in virsh("pool-capabilities"), "libvirt answers by itself")
    fake_systemctl(verb)
    done = run("env", f"PATH={FAKES}:{os.environ['PATH']}", "virt-notify", "setup", check=False)
    expect(done.returncode != 0 and f"'systemctl {verb} " in done.stderr and "failed: no luck" in done.stderr,
           f"it says what failed: {done.stderr}")
    say("setup", done.stderr.strip())
    run("virt-notify", "setup")
    expect("type='notify'" in virsh("pool-capabilities") and daemon_pid() != 0, "virtnotifyd answers")
    expect(control_pid() != 0, "virtnotify-control runs")
    virsh("pool-define-as", "plain", "dir", "--target", "/tmp")
    virsh("pool-undefine", "plain")
    expect("all is as asked already" in run("virt-notify", "setup"), "there is nothing more to do")


def properties(device):
    """What udev knows of a device."""
    said = run("udevadm", "info", "--query=property", device)
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def guests_lvm():
    """A group with a logical volume, as a guest makes it: on a loop device the host activates it at once."""
    run("truncate", "-s", "64M", "/tmp/guest.img")
    loop = run("losetup", "--show", "-f", "/tmp/guest.img").strip()
    run("vgcreate", "-q", "--yes", "guestvg", loop)
    run("lvcreate", "-q", "--yes", "-L", "16M", "-n", "root", "guestvg")
    run("vgchange", "-q", "--activate", "n", "guestvg")
    run("udevadm", "trigger", "--settle", "--action", "change", loop)
    deadline = time.monotonic() + 60
    while "guestvg-root" not in run("dmsetup", "ls"):
        expect(time.monotonic() < deadline, "the host activates what it finds on other devices")
        time.sleep(0.2)
    run("vgchange", "-q", "--activate", "n", "guestvg")
    run("losetup", "-d", loop)
    run("sh", "-c", "rm -f /run/lvm/pvs_online/* /run/lvm/vgs_online/* /run/lvm/pvs_lookup/*")
    run("dd", "if=/tmp/guest.img", f"of={DISK}", "bs=1M", "oflag=direct", "conv=notrunc", "status=none")
    device = os.path.realpath(DISK)
    for action in ("add", "change"):
        run("udevadm", "trigger", "--settle", "--action", action, device)
    about = properties(device)
    looked = [key for key in about if key.startswith(("ID_FS_", "ID_PART_TABLE", "LVM_"))]
    expect(not looked and about.get("SYSTEMD_READY") == "0", f"udev does not look into it: {about}")
    expect("guestvg" not in run("dmsetup", "ls"), "nothing of it is active on the host")
    shows = run("vgs", "--noheadings", "-o", "vg_name").split()
    hidden = run("vgs", "--noheadings", "-o", "vg_name", "--config", FILTER).split()
    expect("guestvg" in shows and "guestvg" not in hidden, f"what the manual says hides it: {shows}, {hidden}")
    say("host1", "a guest's LVM is the guest's")
    os.unlink("/tmp/guest.img")


def body():
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "64M")
    later_version()
    guests_lvm()
    virsh("vol-delete", "disk0", "vms")
    remove_pool("vms")
    # In the middle: libvirt's sockets are stopped, and are not started again.
    setup_fails("start")


if __name__ == "__main__":
    test(body, needs_host2=False)
