#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of two volumes, while a writer numbers its writes over both.

    cut.py PREFIX DATA SNAPSHOTS SEED

Serves PREFIXone and PREFIXtwo from the device DATA, and looks at each snapshot
twice by PREFIXshow1 and PREFIXshow2: soon after it was made, and at the end.
"""
import mmap
import os
import random
import signal
import struct
import sys

from dmctl import Dm, be_io_flusher

CHUNK, BLOCK, CHUNKS = 65536, 4096, 8
SLOTS = CHUNKS * CHUNK // BLOCK
SIGNO = 40
FREEZE_MS = 30000


class Writes:
    """Which block of which volume each number goes to."""

    def __init__(self, seed):
        self.random, self.places = random.Random(f"{seed}/places"), [None]

    def place(self, number):
        while len(self.places) <= number:
            self.places.append((self.random.randrange(2), self.random.randrange(SLOTS)))
        return self.places[number]

    def state(self, last):
        """What the volumes have after write number `last`."""
        blocks = [[0] * SLOTS, [0] * SLOTS]
        for number in range(1, last + 1):
            volume, slot = self.place(number)
            blocks[volume][slot] = number
        return blocks


def writer(devices, seed, acknowledged):
    """Writes numbers until it is killed; says which was acknowledged last."""
    writes, buf = Writes(seed), mmap.mmap(-1, BLOCK)
    fds = [os.open(device, os.O_RDWR | os.O_DIRECT) for device in devices]
    number = 0
    while True:
        number += 1
        volume, slot = writes.place(number)
        buf[:] = struct.pack("=Q", number) * (BLOCK // 8)
        if os.pwrite(fds[volume], buf, slot * BLOCK) != BLOCK:
            os._exit(1)
        acknowledged[:8] = struct.pack("=Q", number)


class Volume:
    """One volume, and where its chunks are."""

    def __init__(self, name, store):
        self.dm, self.store, self.gen = Dm(name), store, 0

    def serve(self):
        for kind, chunk in self.dm.pending()[0]:
            new = self.store.take()
            if kind == "p":
                self.store.copy(self.places()[chunk][1], new)
            verb = "remap" if kind == "p" else "map"
            self.dm.message(f"{verb} {chunk}:0:{new}:1:{self.gen}")

    def places(self):
        return {v + i: (d, p + i) for v, d, p, n in self.dm.dump() for i in range(n)}


class Store:
    """The data device, given out chunk by chunk; it is full of zeroes."""

    def __init__(self, path):
        self.fd, self.next, self.buf = os.open(path, os.O_RDWR | os.O_DIRECT), 0, mmap.mmap(-1, CHUNK)

    def take(self):
        self.next += 1
        return self.next - 1

    def copy(self, old, new):
        os.preadv(self.fd, [self.buf], old * CHUNK)
        os.pwritev(self.fd, [self.buf], new * CHUNK)


def snapshot(volumes):
    """The maps of both at one point."""
    for volume in volumes:
        volume.dm.message(f"freeze {FREEZE_MS}")
    for volume in volumes:
        volume.gen += 1
        volume.dm.message(f"snapshot {volume.gen}")
    maps = [volume.places() for volume in volumes]
    for volume in volumes:
        volume.dm.message("thaw")
    return maps


class Viewer:
    """Reads a snapshot through volumes that have its map."""

    def __init__(self, names):
        self.names, self.buf = names, mmap.mmap(-1, CHUNKS * CHUNK)

    def show(self, maps):
        blocks = []
        for name, places in zip(self.names, maps):
            dm = Dm(name)
            dm.message(f"unmap 0:{CHUNKS} force")
            if places:
                dm.message("map " + " ".join(f"{v}:{d}:{p}:1:p" for v, (d, p) in places.items()))
            fd = os.open(f"/dev/mapper/{name}", os.O_RDONLY | os.O_DIRECT)
            os.preadv(fd, [self.buf], 0)
            os.close(fd)
            blocks.append([struct.unpack_from("=Q", self.buf, slot * BLOCK)[0] for slot in range(SLOTS)])
        return blocks


def check(viewer, writes, maps, least, most):
    """Is what a snapshot shows a prefix?"""
    blocks = viewer.show(maps)
    last = max(max(volume) for volume in blocks)
    if not least <= last <= most:
        sys.exit(f"the last write shown is {last}, and must be one of {least} to {most}")
    wrong = [(volume, slot, found, right)
             for volume, (have, want) in enumerate(zip(blocks, writes.state(last)))
             for slot, (found, right) in enumerate(zip(have, want)) if found != right]
    if wrong:
        sys.exit(f"no prefix: {last} is shown, and of (volume, slot, shown, written before it): {wrong[:4]}")


def run(volumes, viewer, writes, chance, count, acked):
    """Takes the snapshots, each after some writes, and checks them."""
    taken = []
    while len(taken) < count:
        target = acked() + chance.randrange(1, 40)
        while acked() < target:
            signal.sigtimedwait({SIGNO}, 0.01)
            for volume in volumes:
                volume.serve()
        least = acked()
        maps = snapshot(volumes)
        # One more may have been sent, and not been acknowledged yet.
        taken.append((maps, least, acked() + 1))
        if len(taken) > 1:
            check(viewer, writes, *taken[-2])
    for each in taken:
        check(viewer, writes, *each)


def main():
    prefix, data, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    be_io_flusher()
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNO})
    store, shared = Store(data), mmap.mmap(-1, 4096)
    names = [prefix + "one", prefix + "two"]
    volumes = [Volume(name, store) for name in names]
    for volume in volumes:
        volume.dm.message(f"notifier {os.getpid()} {SIGNO}")
    child = os.fork()
    if child == 0:
        writer([f"/dev/mapper/{name}" for name in names], seed, shared)

    def acked():
        if os.waitpid(child, os.WNOHANG)[0]:
            sys.exit("the writer ended: a write failed")
        return struct.unpack("=Q", shared[:8])[0]

    viewer = Viewer([prefix + "show1", prefix + "show2"])
    run(volumes, viewer, Writes(seed), random.Random(f"{seed}/chance"), count, acked)
    print(f"{acked()} writes, {store.next} chunks", flush=True)
    os.kill(child, signal.SIGKILL)
    # A write that waits cannot be killed: the snapshots go, and so does the wait.
    for volume in volumes:
        volume.dm.message("mark 0")
        volume.serve()
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
