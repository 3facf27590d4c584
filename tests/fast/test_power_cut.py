#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 256M --disk 768M --disk 256M --disk 256M --limit 1200
"""The power is cut in growth, resize, delete and the making of volumes, snapshots and clones, in a rollback, and while chunks move.

The volume group lies on dm-log-writes. Each step is marked in the log when it was acknowledged. For
a sample of flushes (the first argument is a seed that chooses it, the second its size) a disk is made as it would be had the power gone just before
that flush ended: all that was flushed before, and of the rest nothing or some. The pool must start
there, the check must find nothing, and each step that was acknowledged must hold.

LVM flushes none of its own metadata: its commands write a text and then a header that points to it. A disk that has the
header and not the text has no volume group any more, whatever the pool did (`vgcfgrestore` brings it back), so of
LVM's writes the first ones are kept.
"""

import os
import random
import signal
import sys

import logwrites
from product import (Control, Daemon, Failure, close_group, expect, make_pool, read, remove_volumes, run, say, sectors,
                     start_bus, start_upstream, use_disks, virsh, write)

DISK, LOG, BASE, CHANGES = "/dev/ubda", "/dev/ubdb", "/dev/ubdc", "/dev/ubdd"
CUTS = 8
BLOCK = 65536
MIB = 1 << 20
ZEROES = bytes(BLOCK)
# LVM's label and metadata lie before this sector of a physical volume: its data begins at 1 MiB.
LVM_END = 2048


class Model:
    """What must be there: capacities of volumes, and what their blocks hold."""

    def __init__(self):
        self.capacity = {}
        self.blocks = {}

    def create(self, volume, mib):
        self.capacity[volume] = mib

    def resize(self, volume, mib):
        self.capacity[volume] = mib

    def delete(self, volume):
        del self.capacity[volume]
        self.blocks = {key: tag for key, tag in self.blocks.items() if key[0] != volume}

    def _show(self, volume, what):
        """A volume shows what another one shows."""
        self.capacity[volume] = self.capacity[what]
        shown = {mib: tag for (name, mib), tag in self.blocks.items() if name == what}
        self.blocks = {key: tag for key, tag in self.blocks.items() if key[0] != volume}
        self.blocks.update({(volume, mib): tag for mib, tag in shown.items()})

    def snapshot(self, volume, name):
        self._show(f"{volume}@{name}", volume)

    def clone(self, volume, what):
        self._show(volume, what)

    def rollback(self, snapshot):
        self._show(snapshot.partition("@")[0], snapshot)

    def defrag(self, pool):
        """Chunks move; nobody has to notice."""

    def write(self, volume, mib, tag):
        self.blocks[volume, mib] = tag


def content(tag):
    """A block that no other step writes."""
    return tag.to_bytes(8, "little") * (BLOCK // 8)


def plan(chance):
    """The steps: growth of several volumes, mixed with what changes the metadata otherwise."""
    places = {"a": chance.sample(range(48), 6), "b": chance.sample(range(24), 4)}
    steps = [("create", "a", 48), ("create", "b", 24)]
    steps += [("write", "a", mib, number + 1) for number, mib in enumerate(places["a"])]
    steps += [("write", "b", mib, number + 20) for number, mib in enumerate(places["b"])]
    steps += [("resize", "a", 64), ("write", "a", 60, 40), ("write", "a", places["a"][0], 41)]
    first, second, third = places["a"][:3]
    steps += [("snapshot", "a", "one"), ("write", "a", first, 42), ("write", "a", second, 43)]
    steps += [("snapshot", "a", "two"), ("write", "a", first, 44), ("clone", "d", "a@one"), ("write", "d", third, 45)]
    steps += [("delete", "a@two"), ("write", "a", second, 46), ("rollback", "a@one"), ("write", "a", third, 47)]
    steps += [("defrag", "vms")]
    steps += [("delete", "a@one"), ("write", "d", first, 48)]
    steps += [("delete", "b"), ("create", "c", 32), ("write", "c", 5, 50), ("write", "c", 20, 51)]
    return steps


def do(step):
    """One step on the pool; returns when it is acknowledged."""
    verb, volume, *rest = step
    if verb == "create":
        virsh("vol-create-as", "vms", volume, f"{rest[0]}M")
    elif verb == "resize":
        virsh("vol-resize", volume, f"{rest[0]}M", "vms")
    elif verb == "delete":
        virsh("vol-delete", volume, "vms")
    elif verb == "snapshot":
        run("virt-notify", "snapshot", "create", rest[0], f"vms/{volume}")
    elif verb == "clone":
        virsh("vol-create-as", "vms", volume, "64M", "--backing-vol", rest[0])
    elif verb == "defrag":
        run("virt-notify", "defrag", volume)
    elif verb == "rollback":
        run("virt-notify", "snapshot", "rollback", f"vms/{volume}")
    else:
        write(f"/dev/notify/vms/{volume}", rest[0] * MIB, content(rest[1]))


def record(steps):
    """Does the steps on a disk whose writes are logged."""
    run("dmsetup", "create", "pv", "--table", f"0 {sectors(DISK)} log-writes {DISK} {LOG}")
    start_bus()
    start_upstream()
    daemon = Daemon()
    control = Control()
    make_pool("vms", "vg0", "pv")
    run("dmsetup", "message", "pv", "0", "mark", "begin")
    for number, step in enumerate(steps):
        do(step)
        run("dmsetup", "message", "pv", "0", "mark", str(number))
        say(" ".join(map(str, step)))
    # Those that are started after the cuts are asked by libvirt's clients alone.
    control.end(signal.SIGTERM)
    daemon.end(signal.SIGTERM)
    remove_volumes()
    close_group("vg0", "pv")


def after(steps):
    """What must be there after these steps."""
    model = Model()
    for verb, *words in steps:
        getattr(model, verb)(*words)
    return model


def check_cut(steps, acknowledged):
    """Starts the pool and compares it with the model: the step that was under way may have happened."""
    daemon = Daemon()
    refusals = [line for line in daemon.lines if "could not be started" in line]
    expect(not refusals, f"the pool to start: {refusals}")
    old, new = after(steps[:acknowledged]), after(steps[:acknowledged + 1])
    listed = {}
    for line in virsh("vol-list", "vms", "--details").splitlines():
        name, _, _, size, unit, *_ = line.split()
        expect(unit == "MiB", f"a size in MiB: {line}")
        listed[name] = round(float(size))
    for volume in sorted({*listed, *old.capacity, *new.capacity}):
        possible = [old.capacity.get(volume), new.capacity.get(volume)]
        expect(listed.get(volume) in possible, f"volume {volume}: {listed.get(volume)} MiB, not one of {possible}")
    for volume, capacity in listed.items():
        for mib in range(capacity):
            found = read(f"/dev/notify/vms/{volume}", mib * MIB, BLOCK)
            tags = [old.blocks.get((volume, mib)), new.blocks.get((volume, mib))]
            possible = [ZEROES if tag is None else content(tag) for tag in tags]
            expect(found in possible, f"{volume} at {mib} MiB: {found[:8].hex()}, not one of the tags {tags}")
    # It writes its backup; what is merged after a start is not in the one before.
    daemon.end(signal.SIGTERM)
    remove_volumes()
    run("virt-notify", "check", "vg0")
    run("vgchange", "-an", "vg0")


def some_of(loose, chance):
    """What a disk may have of these writes."""
    lvm = [entry for entry in loose if entry.sector < LVM_END]
    first = lvm[:chance.randrange(len(lvm) + 1)]
    return [entry for entry in loose if (entry in first if entry in lvm else chance.random() < 0.5)]


def cut(log, steps, flush, lost, chance):
    """A disk as after a power cut before that flush ended, of which the base has all flushed before."""
    run("dmsetup", "create", "cut", "--table", f"0 {sectors(BASE)} snapshot {BASE} {CHANGES} N 8")
    begin = max([number for number in log.flushes() if number < flush], default=-1) + 1
    loose = [entry for entry in log.entries[begin:flush] if not entry.flags & logwrites.FUA]
    kept = [] if lost else some_of(loose, chance)
    fd = os.open("/dev/mapper/cut", os.O_WRONLY)
    for entry in log.entries[begin:flush]:
        if entry.flags & logwrites.FUA or entry in kept:
            log.write(entry, fd)
    os.fsync(fd)
    os.close(fd)
    acknowledged = len(log.marks(flush)) - 1
    say(f"cut at {flush}: {len(loose)} writes loose, {len(kept)} of them kept; {acknowledged} steps acknowledged")
    try:
        check_cut(steps, acknowledged)
    except Failure as failure:
        raise Failure(f"cut at entry {flush}, {len(kept)} of {len(loose)} loose writes kept: {failure}") from failure
    run("dmsetup", "remove", "cut")


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(1 << 32)
    cuts = int(sys.argv[2]) if len(sys.argv) > 2 else CUTS
    say(f"seed {seed}")
    chance = random.Random(seed)
    use_disks("pv", "cut")
    steps = plan(chance)
    record(steps)

    log = logwrites.Log(LOG)
    marks = {entry.mark: number for number, entry in enumerate(log.entries) if entry.mark is not None}
    flushes = [number for number in log.flushes() if marks["begin"] < number]
    say(f"{len(log.entries)} entries, {len(flushes)} flushes after the pool's start")
    base, done = os.open(BASE, os.O_WRONLY), 0
    for flush in sorted(chance.sample(flushes, min(len(flushes), cuts))):
        begin = max([number for number in log.flushes() if number < flush]) + 1
        for entry in log.entries[done:begin]:
            log.write(entry, base)
        os.fsync(base)
        done = begin
        cut(log, steps, flush, chance.random() < 0.5, chance)


if __name__ == "__main__":
    main()
