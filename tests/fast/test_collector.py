#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 1G
"""Chunks move, and zeroes come back, while guests write and read: `virt-notify defrag` and `reclaim` on a kernel that checks
itself. Writers remember what was acknowledged, readers compare what they read all the time, and the daemon
is killed in the middle; so is virtnotify-control, without which a job goes on. The argument is a seed.
"""

import json
import random
import signal
import struct
import subprocess
import sys
import threading
import time

from product import (DEADLINE, Control, Daemon, Failure, close_all, expect, make_disk, make_pool, on_bus, read, run,
                     say, start_bus, start_upstream, use_disks, virsh, write)

MIB = 1 << 20
BLOCK = 4096
CHUNK = 4 * MIB
CHUNKS = 32
KILLS = 4
# The blocks of a chunk that are written: its ends, and one in the middle.
OFFSETS = (0, CHUNK // 2, CHUNK - BLOCK)


def path(volume):
    """Its device."""
    return f"/dev/notify/vms/{volume}"


def block(volume, number):
    """A block that says whose it is, and which writing of it."""
    head = struct.pack("=Q", number) + volume.encode().ljust(8)
    return head * (BLOCK // len(head))


class Guest(threading.Thread):
    """Writes to random blocks of a volume, and reads others, until it is told to stop."""

    def __init__(self, volume, seed, writes=True):
        super().__init__(daemon=True)
        self.volume, self._writes = volume, writes
        self._random = random.Random(seed)
        self._stopped = threading.Event()
        self.acknowledged = {(chunk, offset): 0 for chunk in range(CHUNKS) for offset in OFFSETS}
        self.longest = 0.0
        self.done = 0
        self.failure = None

    def _step(self):
        place = self._random.choice(list(self.acknowledged))
        at = place[0] * CHUNK + place[1]
        if self._writes and self._random.random() < 0.5:
            number = self.done + 1
            began = time.monotonic()
            write(path(self.volume), at, block(self.volume, number))
            self.longest = max(self.longest, time.monotonic() - began)
            self.acknowledged[place] = number
        else:
            self.check(place)
        self.done += 1

    def check(self, place):
        """What it reads is what was acknowledged last."""
        expected = block(self.volume.partition("@")[0], self.acknowledged[place])
        found = read(path(self.volume), place[0] * CHUNK + place[1], BLOCK)
        expect(found == expected, f"{expected[:16]} in {self.volume} at {place}, not {found[:16]}")

    def run(self):
        try:
            while not self._stopped.is_set():
                self._step()
        except (OSError, Failure) as failure:
            self.failure = failure

    def stop(self):
        """Ends it, and compares everything."""
        self._stopped.set()
        self.join(DEADLINE)
        expect(not self.is_alive(), f"the guest of {self.volume} to end")
        if self.failure:
            raise Failure(f"the guest of {self.volume}: {self.failure}")
        for place in self.acknowledged:
            self.check(place)


def fill():
    """Two volumes of which no two chunks lie together."""
    for volume in ("a", "b"):
        virsh("vol-create-as", "vms", volume, f"{CHUNKS * CHUNK // MIB}M")
    for chunk in reversed(range(CHUNKS)):
        for volume in ("a", "b"):
            for offset in OFFSETS:
                write(path(volume), chunk * CHUNK + offset, block(volume, 0))
    say("two volumes in pieces")


def runs(volume):
    """In how many runs it lies."""
    return len(json.loads(run("virt-notify", "map", "--json", f"vms/{volume}"))["runs"])


def job(*words):
    """A job to its end; what it says last."""
    lines = run("virt-notify", "--json", *words).splitlines()
    return json.loads(lines[-1])


def joined():
    """Each volume is joined while both are written and read."""
    guests = [Guest("a", 1), Guest("b", 2)]
    for guest in guests:
        guest.start()
    expect(runs("a") > CHUNKS // 2, "a volume in pieces")
    before = runs("a"), runs("b")
    done = job("defrag", "vms/a")
    expect(done["state"] == "done" and done["moved"] > 0, f"a job that is done: {done}")
    after = runs("a"), runs("b")
    say(f"a lies in {after[0]} runs, and lay in {before[0]}")
    expect(after[0] < before[0] / 2 and after[1] == before[1], f"fewer runs of a alone: {before}, {after}")
    job("defrag", "vms")
    expect(runs("b") < before[1] / 2, f"fewer runs of b, not {runs('b')}")
    for guest in guests:
        guest.stop()
    longest = max(guest.longest for guest in guests)
    say(f"{before} runs became {runs('a'), runs('b')}; {sum(g.done for g in guests)} reads and writes, "
        f"the longest write took {longest * 1000:.1f} ms")
    run("virt-notify", "check", "vms")


def shared():
    """What a snapshot and a clone share moves once, and all show what they showed."""
    virsh("vol-delete", "a", "vms")
    virsh("vol-create-as", "vms", "a", f"{CHUNKS * CHUNK // MIB}M")
    for chunk in reversed(range(0, CHUNKS, 2)):
        for odd in (1, 0):
            for offset in OFFSETS:
                write(path("a"), (chunk + odd) * CHUNK + offset, block("a", 0))
    run("virt-notify", "snapshot", "create", "mon", "vms/a")
    virsh("vol-create-as", "vms", "c", f"{CHUNKS * CHUNK // MIB}M", "--backing-vol", "a@mon",
          "--backing-vol-format", "raw")
    guests = [Guest("a", 3), Guest("a@mon", 5, writes=False)]
    for guest in guests:
        guest.start()
    job("defrag", "vms/a@mon")
    done = job("defrag", "vms/c")
    expect(done["state"] == "done", f"a job that is done: {done}")
    for guest in guests:
        guest.stop()
    for chunk in range(CHUNKS):
        found = read(path("c"), chunk * CHUNK, BLOCK)
        expect(found == block("a", 0), f"what a held in the clone's chunk {chunk}, not {found[:16]}")
    say(f"shared chunks moved: a@mon lies in {runs('a@mon')} runs, the clone in {runs('c')}")
    virsh("vol-delete", "c", "vms")
    virsh("vol-delete", "a@mon", "vms")
    virsh("vol-delete", "a", "vms")


def killed(daemon, chance):
    """The daemon is killed in the middle of a job, and nothing is lost."""
    guest = Guest("b", chance.random())
    for place in guest.acknowledged:
        write(path("b"), place[0] * CHUNK + place[1], block("b", 0))
    guest.start()
    for turn in range(KILLS):
        # Another volume between its pieces, so that there is something to do each time.
        virsh("vol-create-as", "vms", f"k{turn}", f"{CHUNKS * CHUNK // MIB // 4}M")
        for chunk in reversed(range(CHUNKS // 4)):
            write(path(f"k{turn}"), chunk * CHUNK, block("k", chunk))
        with subprocess.Popen(["virt-notify", "--json", "defrag", "vms"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as watched:
            time.sleep(chance.random() * 0.5)
            daemon.end(signal.SIGKILL)
            said = watched.communicate(timeout=DEADLINE)[1]
        # It may have ended before, or not begun.
        expect(watched.returncode == 0 or watched.returncode == 3 and "virtnotifyd" in said,
               f"the job's end, or that of virtnotifyd, to be told: {watched.returncode} {said!r}")
        daemon = Daemon()
        on_bus()
        for chunk in range(CHUNKS // 4):
            found = read(path(f"k{turn}"), chunk * CHUNK, BLOCK)
            expect(found == block("k", chunk), f"chunk {chunk} of k{turn}, not {found[:16]}")
        run("virt-notify", "check", "vms")
    guest.stop()
    say(f"killed {KILLS} times in the middle of a job; {guest.done} reads and writes beside it")
    return daemon


def goes_on(control):
    """virtnotify-control is killed in the middle of a job, which goes on to its end."""
    virsh("vol-create-as", "vms", "m", f"{CHUNKS * CHUNK // MIB}M")
    for chunk in reversed(range(CHUNKS)):
        write(path("m"), chunk * CHUNK, block("m", chunk))
    before = runs("m")
    expect(before > CHUNKS // 2, "a volume in pieces")
    with subprocess.Popen(["virt-notify", "--json", "defrag", "vms/m"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as watched:
        expect(watched.stdout.readline(), "a line of the job")
        control.end(signal.SIGKILL)
        said = watched.communicate(timeout=DEADLINE)[1]
    expect(watched.returncode == 0 or watched.returncode == 3 and "the job goes on" in said,
           f"it to be told that the job goes on: {watched.returncode} {said!r}")
    control = Control()
    end = time.monotonic() + DEADLINE
    while runs("m") > before / 2:
        expect(time.monotonic() < end, f"fewer runs of m than {before}, not {runs('m')}")
        time.sleep(0.2)
    for chunk in range(CHUNKS):
        found = read(path("m"), chunk * CHUNK, BLOCK)
        expect(found == block("m", chunk), f"chunk {chunk} of m, not {found[:16]}")
    virsh("vol-delete", "m", "vms")
    say(f"virtnotify-control was killed in the middle of a job ({said.strip() or 'it had ended'}), which went on")


def zeroes():
    """What is all zeroes comes back while a guest writes beside it, from under a snapshot and a clone too, and reads as before."""
    virsh("vol-create-as", "vms", "z", f"{CHUNKS * CHUNK // MIB}M")
    for chunk in reversed(range(CHUNKS)):
        for offset in OFFSETS:
            write(path("z"), chunk * CHUNK + offset, block("z", 0))
    run("virt-notify", "snapshot", "create", "old", "vms/z")
    # Zeroes over what the snapshot has, then under the next one; some of them in the volume alone.
    under, over = range(8), range(8, 16)
    for chunk in under:
        for offset in OFFSETS:
            write(path("z"), chunk * CHUNK + offset, bytes(BLOCK))
    run("virt-notify", "snapshot", "create", "new", "vms/z")
    virsh("vol-create-as", "vms", "c", f"{CHUNKS * CHUNK // MIB}M", "--backing-vol", "z@new",
          "--backing-vol-format", "raw")
    write(path("c"), 0, block("c", 0))
    for chunk in over:
        for offset in OFFSETS:
            write(path("z"), chunk * CHUNK + offset, bytes(BLOCK))
    guests = [Guest("b", 7), Guest("z", 8)]
    # One in another volume, and one beside what is zeroes, in what was a moment ago.
    guests[1].acknowledged = {place: 0 for place in guests[1].acknowledged if place[0] >= 12}
    for place in guests[1].acknowledged:
        write(path("z"), place[0] * CHUNK + place[1], block("z", 0))
    for place in guests[0].acknowledged:
        write(path("b"), place[0] * CHUNK + place[1], block("b", 0))
    for guest in guests:
        guest.start()
    done = job("reclaim", "vms", "--zeroes")
    expect(done["state"] == "done" and done["looked"] > 0, f"a job that is done: {done}")
    for guest in guests:
        guest.stop()
    # Eight of the snapshot, for all, and four of the volume's own.
    expect(done["freed"] >= 12 * CHUNK, f"12 chunks that came back: {done}")
    expected = {"z@old": lambda chunk: block("z", 0),
                "z@new": lambda chunk: bytes(BLOCK) if chunk in under else block("z", 0),
                "c": lambda chunk: bytes(BLOCK) if chunk in under else block("z", 0),
                "z": lambda chunk: bytes(BLOCK) if chunk < 12 else None}
    for volume, content in expected.items():
        for chunk in range(CHUNKS):
            at = OFFSETS[1] if volume == "c" and chunk == 0 else 0
            found, wanted = read(path(volume), chunk * CHUNK + at, BLOCK), content(chunk)
            expect(wanted is None or found == wanted, f"chunk {chunk} of {volume} as before, not {found[:16]}")
    expect(read(path("c"), 0, BLOCK) == block("c", 0), "what the clone wrote")
    for chunk in (0, 9):
        write(path("z"), chunk * CHUNK, block("z", 9))
        expect(read(path("z"), chunk * CHUNK, BLOCK) == block("z", 9), f"what is written to chunk {chunk} now")
        expect(read(path("z"), chunk * CHUNK + OFFSETS[2], BLOCK) == bytes(BLOCK), f"zeroes in the rest of chunk {chunk}")
    run("virt-notify", "check", "vms")
    again = job("reclaim", "vms/z", "--zeroes")
    expect(again["freed"] == 0, f"nothing to come back: {again}")
    longest = max(guest.longest for guest in guests)
    say(f"{done['freed'] // CHUNK} chunks of zeroes came back of {done['looked'] // CHUNK}; "
        f"the longest write took {longest * 1000:.1f} ms")
    for volume in ("c", "z@new", "z@old", "z"):
        virsh("vol-delete", volume, "vms")


def size():
    """How large the data LV is."""
    return int(run("lvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "lv_size", "vg0/notify-data0").split()[0])


def reclaimed():
    """What lies at the end of the data moves to the front, and the group gets the rest."""
    for turn in range(KILLS - 1):
        virsh("vol-delete", f"k{turn}", "vms")
    before = size()
    done = job("reclaim", "vms")
    expect(done["state"] == "done", f"a job that is done: {done}")
    expect(size() < before, f"a smaller data LV than {before}: {done}")
    say(f"the data LV has {size() // MIB} MiB, and had {before // MIB}; {done['moved'] // MIB} MiB moved")
    for chunk in range(CHUNKS // 4):
        found = read(path(f"k{KILLS - 1}"), chunk * CHUNK, BLOCK)
        expect(found == block("k", chunk), f"chunk {chunk}, not {found[:16]}")


def discarded():
    """How many sectors of the disk have been discarded."""
    node = run("dmsetup", "info", "-c", "--noheadings", "-o", "blkdevname", "pv").strip()
    with open(f"/sys/block/{node}/stat", encoding="utf-8") as stat:
        return int(stat.read().split()[13])


def passed_down():
    """What goes back to the group is discarded on the disk where the policy says so, and only there."""
    for passdown in ("no", "yes"):
        run("virt-notify", "policy", "set", "vms", f"passdown={passdown}")
        virsh("vol-create-as", "vms", "p", f"{CHUNKS * CHUNK // MIB}M", "--allocation", f"{CHUNKS * CHUNK // MIB}M")
        sectors, large = discarded(), size()
        virsh("vol-delete", "p", "vms")
        run("virt-notify", "reclaim", "vms")
        sectors, less = discarded() - sectors, large - size()
        expect(less >= CHUNKS * CHUNK // 2, f"the space of 'p' to go back: {less} bytes")
        expect(sectors * 512 == (less if passdown == "yes" else 0), f"{less} bytes, and {sectors} sectors are discarded")
        run("virt-notify", "check", "vms")
    say(f"{less // MIB} MiB went back, all of it discarded on the disk")


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(1 << 32)
    say(f"seed {seed}")
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_bus()
    start_upstream()
    daemon = Daemon()
    control = Control()
    make_pool("vms", "vg0", "pv")
    fill()
    joined()
    shared()
    zeroes()
    goes_on(control)
    daemon = killed(daemon, random.Random(seed))
    reclaimed()
    run("virt-notify", "check", "vms")
    passed_down()
    close_all(daemon)


if __name__ == "__main__":
    main()
