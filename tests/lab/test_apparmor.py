#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# lab: --hosts 1 --libvirt debian --package apparmor --append apparmor=1 --append security=apparmor
"""A host with Debian's libvirtd and AppArmor: a guest that AppArmor confines grows its volume and finishes,
and may open nothing of another guest's.
"""

import glob
import os
import re

from lab import Guest, expect, make_pool, remove_pool, run, say, test, virsh
from packages import only_debs

HERE = "/tmp/debs"
BLOCKS = [block * 4 for block in range(20)]
PLAN = f"""
for block in {' '.join(map(str, BLOCKS))}; do write $block; done
echo 3 > /proc/sys/vm/drop_caches
for block in {' '.join(map(str, BLOCKS))}; do check $block; done
"""
DISK = ("<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>"
        "<source dev='/dev/notify/vms/{}'/><target dev='vda' bus='virtio'/></disk>")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip("\0\n ")


def confined(name, own, other):
    """The guest's process is under a profile that allows its own volume's node by name."""
    pid = run("pgrep", "-f", f"guest={name}").split()[0]
    profile = re.fullmatch(r"(libvirt-[0-9a-f-]+) \(enforce\)", read(f"/proc/{pid}/attr/current"))
    expect(profile, f"AppArmor confines {name}: {read(f'/proc/{pid}/attr/current')}")
    allowed = read(f"/etc/apparmor.d/libvirt/{profile[1]}.files")
    expect(f'"{own}" rwk' in allowed and f'"{other}"' not in allowed, f"{name} may use {own} alone: {allowed}")
    say("AppArmor", f"{name} runs under {profile[0]}, which allows it {own}")


def body():
    expect(read("/sys/module/apparmor/parameters/enabled") == "Y", "the host has AppArmor")
    only_debs(HERE)
    run("apt-get", "install", "-y", *glob.glob(f"{HERE}/*.deb"), seconds=600)
    expect("<model>apparmor</model>" in virsh("capabilities"), "libvirt uses it")
    make_pool()
    for volume in ("disk0", "disk1"):
        virsh("vol-create-as", "vms", volume, "128M")
    nodes = [os.path.realpath(f"/dev/notify/vms/{volume}") for volume in ("disk0", "disk1")]
    guest = Guest("confined", PLAN, DISK.format("disk0"), seen=lambda line: None)
    log = guest.start()
    confined("confined", *nodes)
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 200)
    expect(done == f"done, {len(BLOCKS)} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")
    log.close()
    virsh("undefine", "confined")
    for volume in ("disk0", "disk1"):
        virsh("vol-delete", volume, "vms")
    remove_pool("vms")


if __name__ == "__main__":
    test(body, needs_host2=False)
