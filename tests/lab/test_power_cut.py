#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""The power of host1 is cut while volumes grow, are made, resized and deleted, and while pools are
defined; its disks lose what was not flushed. After each boot everything that was said to be done is
there, everything else is there wholly or not at all, and the same command then works.

What was acknowledged is noted on host2. The lab runs this again after each cut, with LAB_BOOT one higher.
"""

import json
import mmap
import os
import random
import re
import subprocess
import threading
import time

from lab import MIB, cut_power, expect, fields, make_pool, remove_pool, run, say, test, until, virsh

DISK = "/dev/notify/vms/disk0"
CAPACITY = 256 * MIB
CHUNK = 4 * MIB
BLOCK = 64 << 10
SECTOR = 512
NOTES = "/run/power-cut.json"
ACKNOWLEDGED = "/run/power-cut.acknowledged"
POOL = ("<pool type='notify'><name>{0}</name><source><name>vg-{0}</name></source>"
        "<target><path>/dev/notify/{0}</path></target></pool>")


def sector(block, number, version):
    """What sector `number` of a block holds in that version."""
    return f"block {block:5} sector {number:3} version {version:6}".ljust(64).encode() * (SECTOR // 64)


def version_of(found):
    """The version that a sector names; 0, which is never written, where it names none."""
    named = re.match(rb"block [ \d]{5} sector [ \d]{3} version ([ \d]{6})", found)
    return int(named.group(1)) if named else 0


class Writer(threading.Thread):
    """Writes blocks all over the volume, as a guest does, and tells host2 of each that is on the disk."""

    def __init__(self, random_, version):
        super().__init__(daemon=True)
        self._random, self.version, self.written = random_, version, 0
        self._some = threading.Condition()
        self._host2 = subprocess.Popen(["ssh", "host2", f"cat >> {ACKNOWLEDGED}"], stdin=subprocess.PIPE)

    def run(self):
        disk = os.open(DISK, os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, BLOCK)
        while True:
            # A few places of each chunk, so that the rest of it stays zero.
            chunk = self._random.randrange(CAPACITY // CHUNK)
            block = chunk * (CHUNK // BLOCK) + self._random.choice([0, 17, 63])
            self.version += 1
            buffer[:] = b"".join(sector(block, number, self.version) for number in range(BLOCK // SECTOR))
            os.pwrite(disk, buffer, block * BLOCK)
            os.fdatasync(disk)
            self._host2.stdin.write(f"{block} {self.version}\n".encode())
            self._host2.stdin.flush()
            with self._some:
                self.written += 1
                self._some.notify_all()

    def wait(self, count):
        """Waits until so many blocks are written."""
        with self._some:
            done = self._some.wait_for(lambda: self.written >= count, timeout=120)
        expect(done, f"{count} blocks must be written in 120 s, not {self.written}")


def note(**facts):
    """Notes on host2, which goes on, what is to be true from now on."""
    facts = {**notes(), **facts}
    subprocess.run(["ssh", "host2", f"cat > {NOTES}"], input=json.dumps(facts).encode(), check=True)


def notes():
    text = run("sh", "-c", f"cat {NOTES} 2>/dev/null || echo '{{}}'", host="host2")
    return json.loads(text)


def acknowledged():
    """The newest version of each block that was on the disk, and the newest of all."""
    newest = {}
    for line in run("cat", ACKNOWLEDGED, host="host2").splitlines():
        words = line.split()
        if len(words) == 2:
            newest[int(words[0])] = int(words[1])
    return newest, max(newest.values(), default=0)


def check_disk():
    """Each sector is of a version that was written, none older than what was acknowledged, and
    what was never written is zero. Returns the newest version."""
    newest, latest = acknowledged()
    disk = os.open(DISK, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK)
    zeroes, unacknowledged = bytes(BLOCK), 0
    for block in range(CAPACITY // BLOCK):
        os.preadv(disk, [buffer], block * BLOCK)
        if buffer[:] == zeroes:
            expect(block not in newest, f"block {block} was acknowledged in version {newest.get(block)} and is lost")
            continue
        for number in range(BLOCK // SECTOR):
            found = buffer[number * SECTOR:(number + 1) * SECTOR]
            if found == zeroes[:SECTOR] and block not in newest:
                continue
            version = version_of(found)
            expect(found == sector(block, number, version),
                   f"block {block} sector {number} holds what nobody wrote there: {found[:64]}")
            expect(version >= newest.get(block, 0),
                   f"block {block} sector {number} is of version {version}; {newest.get(block)} was acknowledged")
            unacknowledged += version > newest.get(block, 0)
            latest = max(latest, version)
    os.close(disk)
    say("host1", f"{len(newest)} blocks that were acknowledged are right; {unacknowledged} sectors are newer")
    return latest


def check_pool():
    done = run("virt-notify", "check", "vms", check=False)
    expect(done.returncode == 0, f"`virt-notify check vms` ends with {done.returncode}: {done.stdout}{done.stderr}")


def volumes():
    return [line.split()[0] for line in virsh("vol-list", "vms").splitlines() if "/dev/notify/" in line]


def capacity(volume):
    return int(fields(virsh("vol-info", "--bytes", volume, "vms"))["Capacity"].split()[0])


def pools():
    return virsh("pool-list", "--all", "--name").split()


def cut_in(random_, took, *commands):
    """The power goes while these commands run, or just after."""
    for command in commands:
        subprocess.Popen(["virsh", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random_.uniform(0, 1.2) * took)
    cut()


def cut():
    say("host1", "cuts its own power")
    cut_power("host1")
    time.sleep(60)
    raise AssertionError("the power was not cut")


def timed(*command):
    before = time.monotonic()
    virsh(*command)
    return time.monotonic() - before


def define(name):
    with open(f"/run/{name}.xml", "w", encoding="ascii") as file:
        file.write(POOL.format(name))
    return "pool-define", f"/run/{name}.xml"


def growing(random_):
    """First boot: the group's disk is full of something else's data, the volume grows."""
    run("lvcreate", "-qq", "--yes", "-Wn", "-L", "320m", "-n", "before", "vg0")
    run("sh", "-c", "yes 'data of an earlier tenant' | head -c 320M | "
        "dd of=/dev/vg0/before bs=1M iflag=fullblock oflag=direct conv=fsync status=none", seconds=300)
    run("lvremove", "-qq", "--yes", "vg0/before")
    make_pool()
    virsh("pool-autostart", "vms")
    virsh("vol-create-as", "vms", "disk0", str(CAPACITY))
    run("sh", "-c", f": > {ACKNOWLEDGED}", host="host2")
    note(there=["disk0"])
    writer = Writer(random_, 0)
    writer.start()
    writer.wait(random_.randrange(10, 50))
    cut()


def making(random_):
    """Second boot: volumes and definitions are made while the volume goes on growing."""
    writer = Writer(random_, check_disk())
    writer.start()
    took = timed("vol-create-as", "vms", "made", "32M")
    timed(*define("defined"))
    note(there=["disk0", "made"], maybe=["other"], pools=["defined"], maybe_pools=["other"])
    cut_in(random_, took, ("vol-create-as", "vms", "other", "32M"), define("other"))


def changing(random_):
    """Third boot: volumes are resized and deleted."""
    after_making()
    for name in ("first", "second"):
        virsh("vol-create-as", "vms", name, "32M")
    writer = Writer(random_, check_disk())
    writer.start()
    took = timed("vol-delete", "first", "vms")
    timed("vol-resize", "made", "64M", "vms")
    timed("pool-undefine", "defined")
    note(there=["disk0", "made"], maybe=["second"], pools=[], maybe_pools=["other"], made=64)
    cut_in(random_, took, ("vol-delete", "second", "vms"), ("vol-resize", "made", "96M", "vms"),
           ("pool-undefine", "other"))


def after_making():
    """What was under way can be done again, whether it was done or not."""
    if "other" in volumes():
        virsh("vol-delete", "other", "vms")
    virsh("vol-create-as", "vms", "other", "32M")
    virsh("vol-delete", "other", "vms")
    # A definition without its UUID is another pool's.
    if "other" in pools():
        virsh("pool-undefine", "other")
    virsh(*define("other"))


def last(_random):
    """Fourth boot: what was in the middle of it is finished, and all goes."""
    check_disk()
    expect(capacity("made") in (64 * MIB, 96 * MIB), f"`made` was 64 MiB, to be 96 MiB, and has {capacity('made')}")
    virsh("vol-resize", "made", "96M", "vms")
    for name in volumes():
        virsh("vol-delete", name, "vms")
    if "other" in pools():
        virsh("pool-undefine", "other")
    check_pool()
    remove_pool("vms")
    run("rm", NOTES, ACKNOWLEDGED, host="host2")


def as_noted():
    """All that was done is there, and of what was under way either all or nothing."""
    facts = notes()
    there, maybe = set(facts["there"]), set(facts.get("maybe", []))
    found = set(volumes())
    expect(there <= found <= there | maybe, f"volumes: {found}; done: {there}, under way: {maybe}")
    pools_, maybe = set(facts.get("pools", [])), set(facts.get("maybe_pools", []))
    found = set(pools()) - {"vms"}
    expect(pools_ <= found <= pools_ | maybe, f"pools: {found}; done: {pools_}, under way: {maybe}")
    if "made" in facts:
        expect(capacity("made") >= facts["made"] * MIB, f"`made` was resized, and has {capacity('made')} bytes")
    say("host1", f"volumes {volumes()}, pools {pools()}")


def body():
    boot = int(os.environ["LAB_BOOT"])
    seed = random.SystemRandom().randrange(1 << 32)
    say("lab", f"boot {boot}, the moment of the cut has seed {seed}")
    if boot > 1:
        until(lambda: "vms" in virsh("pool-list", "--name").split(), "the pool to start with the host", 60)
        as_noted()
        check_pool()
    [growing, making, changing, last][boot - 1](random.Random(seed))


if __name__ == "__main__":
    test(body)
