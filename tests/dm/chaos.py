#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Serves a volume as a daemon would, and meanwhile does all else to it at once.

    chaos.py NAME DATA CHUNKS PHYSICAL TABLE TOLD

Until it gets SIGTERM it maps what is wanted, and at random: watches holes and
takes them back, protects chunks, copies them and moves them, lets go of
protection, reloads the table without flush, and loses its notifier. A physical
chunk that is given up is filled with 0xEE before it is used again: one that
still reads or writes there is found by the test's checksums. When it has been
told of each kind of what waits it makes the file TOLD.
"""
import errno
import mmap
import os
import random
import select
import signal
import subprocess
import sys

from dmctl import Dm, be_io_flusher

KIB64 = 65536
KINDS = {"w", "p", "a", "d"}
SIGNO = 40


class Store:
    """The data device: which physical chunks are free, and their content."""

    def __init__(self, path, chunks):
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.free = list(range(chunks))
        random.shuffle(self.free)
        self.buf = mmap.mmap(-1, KIB64)

    def fill(self, p, byte):
        self.buf[:] = bytes([byte]) * KIB64
        os.pwritev(self.fd, [self.buf], p * KIB64)

    def take(self):
        p = self.free.pop()
        self.fill(p, 0)
        return p

    def copy(self, source):
        p = self.free.pop()
        os.preadv(self.fd, [self.buf], source * KIB64)
        os.pwritev(self.fd, [self.buf], p * KIB64)
        return p

    def give(self, p):
        self.fill(p, 0xEE)
        self.free.insert(0, p)


class Doorbell:
    """A child that turns signals into bytes in a pipe, and can be killed."""

    def __init__(self, dm):
        self.dm = dm
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self.pid = 0
        self.start()

    def start(self):
        armed_read, armed_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNO})
            os.write(armed_write, b"x")
            while True:
                signal.sigwaitinfo({SIGNO})
                os.write(self.write, b"x")
        os.read(armed_read, 1)
        os.close(armed_read)
        os.close(armed_write)
        self.dm.message(f"notifier {self.pid} {SIGNO}")

    def stop(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def wait(self, seconds):
        if select.select([self.read], [], [], seconds)[0]:
            os.read(self.read, 4096)


class Chaos:
    def __init__(self, name, data, chunks, physical, table, told):
        self.name, self.chunks, self.table, self.told = name, chunks, table, told
        self.dm = Dm(name)
        self.store = Store(data, physical)
        self.place = {}
        self.protected = set()
        self.bell = Doorbell(self.dm)
        self.seen = {}

    # -- what a daemon does --

    def serve(self):
        for kind, v in self.dm.pending()[0]:
            self.seen[kind] = self.seen.get(kind, 0) + 1
            if kind == "w":
                self.grow(v, "")
            elif kind == "p":
                self.move(v)
            elif kind == "d":
                self.take_back(v)

    def grow(self, v, flag):
        if v in self.place:
            raise SystemExit(f"chunk {v} is mapped, and wanted")
        p = self.store.take()
        self.dm.message(f"map {v}:0:{p}:1{flag}")
        self.place[v] = p

    def take_back(self, v):
        """A chunk becomes a hole, if nobody wrote to it: at once, or in two steps."""
        leave = random.random() < 0.7
        try:
            self.dm.message(f"leave {v}:1" if leave else f"unmap {v}:1")
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            return
        if leave and v in self.place and random.random() < 0.3:
            # What should say that it has left could not be written: it comes back.
            self.dm.message(f"map {v}:0:{self.place[v]}:1")
            self.protected.discard(v)
            return
        self.protected.discard(v)
        if v in self.place:
            self.store.give(self.place.pop(v))
        if leave:
            self.dm.message(f"forget {v}:1")

    def move(self, v):
        old = self.place[v]
        new = self.store.copy(old)
        self.dm.message(f"remap {v}:0:{new}:1")
        self.place[v] = new
        self.protected.discard(v)
        self.dm.message("drain")
        self.store.give(old)

    # -- what may happen to it --

    def watch_and_take_back(self):
        holes = random.sample(range(self.chunks), 16)
        for v in holes:
            if v not in self.place:
                self.grow(v, ":w")
        # The others stay watched until a writer comes.
        for v in holes[:12]:
            self.take_back(v)

    def protect(self):
        v = random.randrange(self.chunks - 32)
        self.dm.message(f"protect {v}:32")
        self.protected.update(x for x in range(v, v + 32) if x in self.place)

    def unprotect(self):
        v = random.randrange(self.chunks - 32)
        self.dm.message(f"unprotect {v}:32")
        self.protected.difference_update(range(v, v + 32))

    def move_some(self):
        for v in random.sample(sorted(self.protected),
                               min(4, len(self.protected))):
            self.move(v)

    def reload(self):
        # udev may look at the volume, and wait there for a discard that waits for us.
        for args in (["load", self.name, "--table", self.table],
                     ["suspend", "--noflush", self.name],
                     ["resume", "--noudevsync", self.name]):
            subprocess.run(["dmsetup", *args], check=True)
        self.dm.message(f"notifier {self.bell.pid} {SIGNO}")

    def lose_notifier(self):
        self.bell.stop()
        self.bell.start()

    def check(self):
        """The kernel's map is what was asked for."""
        kernel = {v + i: p + i for v, _, p, n in self.dm.dump() for i in range(n)}
        if kernel != self.place:
            raise SystemExit("the kernel's map differs from ours")

    def run(self, done):
        deeds = [self.watch_and_take_back, self.protect, self.unprotect,
                 self.move_some, self.lose_notifier]
        rounds = 0
        while not done():
            self.bell.wait(random.random() / 20)
            self.serve()
            random.choice(deeds)()
            rounds += 1
            if KINDS <= self.seen.keys() and not os.path.exists(self.told):
                os.mknod(self.told)
            if rounds % 8 == 0:
                self.reload()
                self.check()
        # Nothing is protected for ever: what waits now is served.
        self.dm.message(f"unprotect 0:{self.chunks}")
        self.serve()
        self.check()
        self.bell.stop()
        print(f"{rounds} rounds, seen {self.seen}, {len(self.place)} chunks",
              flush=True)


def main():
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    name, data, chunks, physical, table, told = sys.argv[1:]
    random.seed(os.environ.get("SEED"))
    be_io_flusher()
    chaos = Chaos(name, data, int(chunks), int(physical), table, told)
    print("ready", flush=True)
    chaos.run(lambda: ended)


if __name__ == "__main__":
    main()
