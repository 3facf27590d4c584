#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# limit: 1200
"""The main job from end to end, told as a timeline; test and demonstration alike.

A VM on host1 writes to a thin volume until host1's volume group has nothing left; the daemon moves
it with its storage to host2, where it goes on. Runs on host1 as root. Uses plain virsh, and listens
on D-Bus with busctl.
"""

from lab import (MIB, Guest, Signals, disk, expect, make_pool, pool_bytes, refused, remove_pool, run, say, test,
                 vg_free, virsh, volume_bytes)

CHUNK = 4 * MIB
CAPACITY = 1024 * MIB
HEADROOM = 64 * MIB  # what a pool keeps ready by default
ROOM = 192 * MIB     # what host1's volume group is left with, beside that

# One block is 1 MiB. First the two ends and the middle of the disk, then one after the other, then
# one in each chunk: more chunks than host1 has room for.
BLOCKS = [0, 1023, 512, *range(1, 60), *range(100, 400, 4)]
HOLES = [61, 700, 1022]
CHUNKS = {block * MIB // CHUNK for block in BLOCKS}

# What a guest sees of a disk's discards is QEMU's: docs/operator/libvirt.md says so.
DISCARDS = "discards of 512 to 2147483136 bytes"

PLAN = f"""
queue=/sys/block/vda/queue
tell "discards of $(cat $queue/discard_granularity) to $(cat $queue/discard_max_bytes) bytes"
for block in {' '.join(map(str, BLOCKS))}; do write $block; done
echo 3 > /proc/sys/vm/drop_caches
for block in {' '.join(map(str, BLOCKS))}; do check $block; done
for block in {' '.join(map(str, HOLES))}; do check_zero $block; done
"""


def human(size):
    return f"{size / MIB:.0f} MiB"


def narrate_signal(item):
    name, words = item
    lines = {
        "VolumeGrown": lambda pool, volume, by, allocation, capacity:
            f"{pool}/{volume} grew by {human(by)} to {human(allocation)} of {human(capacity)}",
        "SpaceExhausted": lambda pool, volume, wanted, available:
            f"{pool}/{volume} asks for {human(wanted)}, the pool has {human(available)}: the space has ended",
        "MoveStarted": lambda domain, uuid, pool, volumes, source, to, allocation:
            f"{domain} moves from {source} to {to} with {human(allocation)} in {', '.join(volumes)}",
        "MoveFinished": lambda domain, uuid, pool, volumes, source, to, allocation: f"{domain} runs on {to}",
        "MoveFailed": lambda domain, *rest: f"{domain} could not be moved: {rest[-1]}",
    }
    if name in lines:
        say("D-Bus", f"{name}: {lines[name](*words)}")
    elif name == "MoveProgress":
        narrate_progress(*words[-2:])


def narrate_progress(done, total, told=[-1]):
    """Memory and disk in one figure, which comes each second: each further tenth is enough."""
    tenth = done * 10 // total if total else 0
    if tenth != told[0]:
        told[0] = tenth
        say("D-Bus", f"MoveProgress: {human(done)} of {human(total)} copied")


class Narrator:
    """Tells the guest's steps: single writes are gathered, everything else is a line."""

    def __init__(self):
        self.written = 0

    def __call__(self, line):
        if not line.startswith("wrote"):
            say("guest", line)
            return
        self.written += 1
        if self.written <= 3 or self.written % 20 == 0 or self.written == len(BLOCKS):
            say("guest", f"{line}  ({self.written} of {len(BLOCKS)} blocks)")


def pools():
    say("host1", "virsh pool-define-as vms notify --source-name vg0 --target /dev/notify/vms; pool-start vms")
    for host in (None, "host2"):
        make_pool(host)
    listed = virsh("pool-list", "--all", "--details")
    expect("vms" in listed and "running" in listed, f"pool-list shows the pool running, not:\n{listed}")
    expect("<pool type='notify'>" in virsh("pool-dumpxml", "vms"), "pool-dumpxml says type='notify'")

    run("mkdir", "-p", "/srv/plain")
    virsh("pool-define-as", "plain", "dir", "--target", "/srv/plain")
    virsh("pool-start", "plain")
    virsh("vol-create-as", "plain", "file0", "1M")
    expect("file0" in virsh("vol-list", "plain"), "a dir pool beside ours works as before")


def volumes():
    with open("/tmp/vol.xml", "w", encoding="ascii") as file:
        file.write("<volume><name>spare</name><capacity unit='MiB'>64</capacity></volume>")
    virsh("vol-create", "vms", "/tmp/vol.xml")
    say("host1", "virsh vol-create-as vms disk0 1G")
    virsh("vol-create-as", "vms", "disk0", "1G")
    for name in ("spare", "disk0"):
        expect(name in virsh("vol-list", "vms"), f"vol-list shows {name}")
        expect("<key>" in virsh("vol-dumpxml", name, "vms"), f"vol-dumpxml shows {name}")
    expect(virsh("vol-path", "disk0", "vms").strip() == "/dev/notify/vms/disk0", "vol-path is below the target")
    capacity, allocation = volume_bytes("vms", "disk0")
    expect(capacity == CAPACITY, f"the capacity is 1 GiB, not {capacity}")
    expect(allocation == 0, f"a new volume holds nothing, not {allocation}")
    refused("vol-create-as", "vms", "disk0", "1G", says="disk0")
    virsh("vol-delete", "spare", "vms")
    expect("spare" not in virsh("vol-list", "vms"), "vol-delete removes the volume from the list")


def leave_room():
    """A logical volume of others takes all of host1's volume group but ROOM."""
    taken = (vg_free("vg0") - ROOM) // CHUNK * CHUNK
    if taken > 0:
        run("lvcreate", "--yes", "-Wn", "-L", f"{taken}b", "-n", "other", "vg0")
        virsh("pool-refresh", "vms")  # as with libvirt's own pools: what others did is seen then
    available = pool_bytes("vms")[2]
    say("host1", f"the pool has room for {human(available)}, the guest will fill chunks of "
                 f"{human(len(CHUNKS) * CHUNK)}")
    expect(available < len(CHUNKS) * CHUNK, "host1 must have too little room for this test to show anything")
    return available


def grows_as_written(log):
    """The ends of the disk were written first: what it holds must not follow the highest block."""
    told = log.wait(lambda line: line.startswith("discards"), "what the guest sees of its disk", 300)
    expect(told == DISCARDS, f"the guest sees {told}")
    log.wait(lambda line: line == "wrote 512", "the guest's third block", 300)
    early = volume_bytes("vms", "disk0")[1]
    log.wait(lambda line: line == "wrote 50", "the guest's block 50", 300)
    later = volume_bytes("vms", "disk0")[1]
    say("host1", f"virsh vol-info: allocation {human(early)}, then {human(later)}")
    expect(3 * CHUNK <= early < CAPACITY // 4, f"three chunks were written, {early} bytes are allocated")
    expect(early < later <= ROOM + HEADROOM, f"the allocation follows the writes: {early}, then {later}")


def verdict(signals, before, log2):
    done = log2.wait(lambda line: line.startswith("done"), "the guest to finish on host2", 600)
    right = len(BLOCKS) + len(HOLES)
    expect(done == f"done, {right} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")

    grown = signals.all("VolumeGrown")
    exhausted = signals.all("SpaceExhausted")
    moved = signals.wait_for("MoveFinished", 60)
    expect(grown and all(words[:2] == ["vms", "disk0"] for words in grown), "growth is seen on D-Bus, by volume")
    expect(exhausted and exhausted[0][:2] == ["vms", "disk0"], "the end of space is seen on D-Bus")
    expect(moved[4:6] == ["host1", "host2"], f"the hosts are in the signal: {moved}")

    # A copy that is fast is given chunks ahead, which go back.
    say("host2", f"before reclaim the volume holds {human(volume_bytes('vms', 'disk0', host='host2')[1])}")
    run("virt-notify", "reclaim", "vms", host="host2")
    allocation = volume_bytes("vms", "disk0", host="host2")[1]
    written = len(CHUNKS) * CHUNK
    expect(written <= allocation <= written + HEADROOM,
           f"on host2 the volume holds what was written ({human(written)}) plus headroom, not {human(allocation)}")
    expect("disk0" not in virsh("vol-list", "vms"), "the volume is gone from host1")
    expect("demo" not in virsh("list", "--all", "--name").split(), "the VM is gone from host1")
    after = pool_bytes("vms")[2]
    expect(after >= before, f"host1 has its room back: {human(before)} before, {human(after)} after")

    print(f"""
    blocks written and read back right      {len(BLOCKS)} of {len(BLOCKS)}, the one that hit the end included
    blocks never written that read as zero  {len(HOLES)} of {len(HOLES)}
    errors in the guest's own log           0
    growths seen on D-Bus                   {len(grown)}, the largest {human(max(words[2] for words in grown))}
    room on host1 before the VM started     {human(before)}
    room on host1 after the VM left         {human(after)}
    chunks that the guest wrote to          {human(written)}
    what the volume holds on host2          {human(allocation)} of {human(CAPACITY)}
""", flush=True)


def clean_up():
    virsh("undefine", "demo", host="host2")
    virsh("vol-delete", "disk0", "vms", host="host2")
    for host in (None, "host2"):
        remove_pool("vms", host=host)
        expect("vms" not in virsh("pool-list", "--all", "--name", host=host), "pool-undefine removes the pool")
    virsh("vol-delete", "file0", "plain")
    virsh("pool-destroy", "plain")
    virsh("pool-undefine", "plain")
    run("lvremove", "--yes", "vg0/other")


def main_job():
    pools()
    volumes()
    before = leave_room()
    signals = Signals(seen=narrate_signal)
    narrator = Narrator()
    guest = Guest("demo", PLAN, disk("vms", "disk0"), seen=narrator)
    say("host1", "virsh start demo")
    log1 = guest.start()
    grows_as_written(log1)
    signals.wait_for("SpaceExhausted", 600)
    say("host1", f"virsh domstate --reason: {virsh('domstate', '--reason', 'demo').strip()}")
    signals.wait_for("MoveStarted", 120)
    log2 = guest.follow(host="host2")
    verdict(signals, before, log2)
    for follower in (log1, log2, signals):
        follower.close()
    clean_up()


if __name__ == "__main__":
    test(main_job)
    say("verdict", "the VM outlived its host's space; nothing was lost")
