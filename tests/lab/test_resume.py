#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""A pool whose policy is that VMs wait: space that appears in place lets them go on, by `vgextend` and
by an LV that goes while the daemon is not even there. A disk without cache='none' is warned of.
"""

import os

from lab import MIB, Signals, expect, run, say, test, until, virsh
from moves import clean_up, guest, leave, narrate, pools, state, verdict, volumes

BLOCKS = [*range(0, 240, 4)]


def paused(signals, times):
    signals.wait(lambda item: len(signals.all("SpaceExhausted")) >= times, "the end of the space", 120)
    until(lambda: state("guest") == "paused", "the VM to pause", 30)


def another_disk():
    """A volume group grows by whatever the kernel calls a disk."""
    run("truncate", "-s", "96M", "/var/tmp/more.img")
    device = run("losetup", "--show", "-f", "/var/tmp/more.img").strip()
    run("vgextend", "--yes", "vg0", device)
    say("host1", f"vgextend vg0 {device}")
    return device


def warned_of_cache(signals):
    virsh("vol-create-as", "vms", "cached", "16M")
    xml = ("<domain type='kvm'><name>cached</name><memory unit='MiB'>64</memory>"
           "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><disk type='block' device='disk'>"
           "<driver name='qemu' type='raw'/><source dev='/dev/notify/vms/cached'/><target dev='vda' bus='virtio'/>"
           "</disk></devices></domain>")
    with open("/tmp/cached.xml", "w", encoding="ascii") as file:
        file.write(xml)
    virsh("create", "/tmp/cached.xml", "--paused")
    words = signals.wait_for("Warning", 20)
    expect(words[0] == "cached" and "/dev/notify/vms/cached" in words[1], f"it is warned of: {words}")
    virsh("destroy", "cached")
    virsh("vol-delete", "cached", "vms")


def body():
    pools(full="pause")
    signals = Signals(seen=narrate)
    warned_of_cache(signals)
    vm = guest("guest", BLOCKS)
    leave(80 * MIB)
    log = vm.start()
    paused(signals, 1)
    device = another_disk()
    signals.wait_for("Resumed", 60)
    paused(signals, 2)
    run("systemctl", "stop", "virtnotifyd.service")
    run("lvremove", "--yes", "vg0/other")
    say("host1", "without the daemon, lvremove has made room")
    run("systemctl", "start", "virtnotifyd.service")
    verdict(log, BLOCKS)
    expect(not signals.all("MoveStarted"), "the policy keeps it here")
    expect(volumes(host="host2") == [], "nothing is on host2")
    log.close()
    signals.close()
    clean_up("guest")
    run("vgreduce", "vg0", device)
    run("pvremove", device)
    run("losetup", "-d", device)
    os.unlink("/var/tmp/more.img")


if __name__ == "__main__":
    test(body)
