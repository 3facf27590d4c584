#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""A pool whose policy is to migrate at the low mark: the VM whose move frees most leaves while it runs,
never pauses, and the one that is pinned stays. It has two disks, one by path and one by volume. Its
longest write is reported.
"""

import watcher
from lab import MIB, Guest, Signals, disk, expect, run, say, test, until, virsh
from moves import arrived, clean_up, longest_write, narrate, pools, state, timed_plan, verdict, volumes

PINNED = "https://virtnotify.org/xmlns/domain/1.0"
BLOCKS = [*range(0, 400, 4)]
BY_PATH = ("<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>"
           "<source dev='/dev/notify/vms/disk0'/><target dev='vda' bus='virtio'/></disk>")


def content(volume, host=None):
    """What the beginning of a volume holds."""
    return run("sh", "-c", f"head -c {8 * MIB} /dev/notify/vms/{volume} | sha256sum", host=host)


def pin(name):
    virsh("metadata", name, "--uri", PINNED, "--key", "notify", "--set", "<move allowed='no'/>", "--config")


def never_paused():
    """By libvirt's events and QEMU's: it was suspended on each host once, for the moment in which it changed them."""
    told = watcher.now.told("guest")
    expect(sorted(one for one in told if "Suspended" in one[1])
           == [("host1", "event Suspended Migrated"), ("host2", "event Suspended Paused")]
           and not any("BLOCK_IO_ERROR" in what for _, what in told), f"it never paused: {told}")


def body():
    # 1 GiB: a third has to stay free.
    pools(low="<notify:lowMark unit='%' action='migrate'>33</notify:lowMark>", bandwidth=64)
    signals = Signals(seen=narrate)
    virsh("vol-create-as", "vms", "large", "512M")
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/large", "bs=1M", "count=420", "oflag=direct", "status=none")
    xml = ("<domain type='kvm'><name>pinned</name><memory unit='MiB'>64</memory>"
           "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>"
           f"{disk('vms', 'large')}</devices></domain>")
    with open("/tmp/pinned.xml", "w", encoding="ascii") as file:
        file.write(xml)
    virsh("define", "/tmp/pinned.xml")
    pin("pinned")
    virsh("start", "pinned")

    for volume in ("disk0", "disk1"):
        virsh("vol-create-as", "vms", volume, "512M")
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/disk1", "bs=1M", "count=8", "oflag=direct", "status=none")
    second = content("disk1")
    vm = Guest("guest", timed_plan(BLOCKS), BY_PATH, disk("vms", "disk1", target="vdb"),
               seen=lambda line: None if line.startswith("wrote") else say("guest", line))
    log1 = vm.start()
    started = signals.wait_for("MoveStarted", 180)
    expect(started[0] == "guest", f"the one that is not pinned leaves, not {started[0]}")
    signals.wait_for("MoveFinished", 180)
    log2 = vm.follow(host="host2")
    verdict(log2, BLOCKS)
    expect(not signals.all("SpaceExhausted"), "the space never ended")
    never_paused()
    arrived("guest")
    expect(content("disk1", host="host2") == second, "the second disk came along")
    expect("disk1" not in volumes(), "disk1 is gone from host1")
    until(lambda: state("pinned") == "running", "the pinned VM to be where it was", 5)
    say("guest", longest_write(log1, log2))
    for follower in (log1, log2, signals):
        follower.close()
    clean_up("guest", "pinned")


if __name__ == "__main__":
    test(body)
