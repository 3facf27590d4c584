#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of two volumes, while a writer numbers its writes over both.

    cut.py PREFIX DATA SNAPSHOTS SEED

Serves PREFIXone and PREFIXtwo from the device DATA, also while a snapshot is made,
and looks at each snapshot twice by PREFIXshow1 and PREFIXshow2: soon after it was
made, and at the end.
"""
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time

from dmctl import Dm, be_io_flusher

CHUNK, BLOCK, CHUNKS = 65536, 4096, 8
SLOTS = CHUNKS * CHUNK // BLOCK
SIGNO = 40
FREEZE_MS = 30000
ROOM = 600


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
    """One volume, and where its chunks were in each generation."""

    def __init__(self, name, store):
        # With more room for a reply Python would let no other thread run meanwhile.
        self.dm, self.store, self.gen = Dm(name, ROOM), store, 0
        self.history = {chunk: [] for chunk in range(CHUNKS)}

    def serve(self):
        """A generation that ended meanwhile is named for a chunk that is then asked for again."""
        for kind, chunk in self.dm.pending()[0]:
            gen, new, places = self.gen, self.store.take(), self.history[chunk]
            if kind == "p":
                self.store.copy(places[-1][1], new)
            verb = "remap" if kind == "p" else "map"
            self.dm.message(f"{verb} {chunk}:0:{new}:1:{gen}")
            places.append((gen, new))

    def before(self, gen):
        """What the generations before that one have."""
        last = {chunk: [p for g, p in places if g < gen] for chunk, places in self.history.items()}
        return {chunk: places[-1] for chunk, places in last.items() if places}


class Server(threading.Thread):
    """Serves both volumes until it is stopped."""

    def __init__(self, volumes):
        super().__init__()
        self.volumes, self.stopped, self.failed = volumes, False, None

    def run(self):
        try:
            for volume in self.volumes:
                volume.dm.message(f"notifier {threading.get_native_id()} {SIGNO}")
            while not self.stopped:
                signal.sigtimedwait({SIGNO}, 0.1)
                for volume in self.volumes:
                    volume.serve()
        except BaseException as e:
            self.failed = e
            raise


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
    """Snapshots of both at one point. Returns the generation that begins."""
    for volume in volumes:
        volume.dm.message(f"freeze {FREEZE_MS}")
    for volume in volumes:
        volume.dm.message(f"snapshot {volume.gen + 1}")
        volume.gen += 1
        # Time for a write to one volume and the next to the other, which the freeze keeps from them.
        time.sleep(0.005)
    for volume in volumes:
        volume.dm.message("thaw")
    return volumes[0].gen


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
                dm.message("map " + " ".join(f"{v}:0:{p}:1:p" for v, p in places.items()))
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

    def look(gen, least, most):
        check(viewer, writes, [volume.before(gen) for volume in volumes], least, most)

    while len(taken) < count:
        target = acked() + chance.randrange(1, 40)
        while acked() < target:
            time.sleep(0.002)
        least = acked()
        gen = snapshot(volumes)
        # One more may have been sent, and not been acknowledged yet.
        taken.append((gen, least, acked() + 1))
        if len(taken) > 1:
            look(*taken[-2])
    for each in taken:
        look(*each)


def main():
    prefix, data, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    be_io_flusher()
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNO})
    store, shared = Store(data), mmap.mmap(-1, 4096)
    names = [prefix + "one", prefix + "two"]
    volumes = [Volume(name, store) for name in names]
    child = os.fork()
    if child == 0:
        writer([f"/dev/mapper/{name}" for name in names], seed, shared)

    server = Server(volumes)
    server.start()

    def acked():
        if server.failed or os.waitpid(child, os.WNOHANG)[0]:
            sys.exit(f"the server failed ({server.failed}), or a write did")
        return struct.unpack("=Q", shared[:8])[0]

    viewer = Viewer([prefix + "show1", prefix + "show2"])
    try:
        run(volumes, viewer, Writes(seed), random.Random(f"{seed}/chance"), count, acked)
        print(f"{acked()} writes, {store.next} chunks", flush=True)
    finally:
        os.kill(child, signal.SIGKILL)
        # A write that waits cannot be killed: it is served until then.
        os.waitpid(child, 0)
        server.stopped = True
        server.join()


if __name__ == "__main__":
    main()
