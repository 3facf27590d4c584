# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pool's volumes under writers who know what each block may hold."""

import collections
import errno
import fcntl
import mmap
import os
import random
import struct
import threading
import time

from possible import BLOCK, Journal, content, new_tag, told
from product import expect

MIB = 1 << 20
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F
HOLD_TIMEOUT = 30  # seconds, virtnotifyd's own


class Volume:
    """A volume, a snapshot or a clone: its size in blocks and what they may hold."""

    def __init__(self, name, size, blocks):
        self.name, self.size, self.blocks = name, size, blocks
        # Its writer holds it while a write is under way; who holds it may also roll back.
        self.lock = threading.Lock()

    @property
    def path(self):
        """Its device."""
        return f"/dev/notify/vms/{self.name}"


class Pool:
    """All volumes of the pool, and what is known of those of which a killed daemon did not say what became."""

    def __init__(self, seed, chunk):
        self.seed, self.chunk = seed, chunk * 1024 // BLOCK
        self.volumes = {}
        self.unsure = []
        self.journal = Journal()
        self.writers_go = threading.Event()
        self.killing = threading.Event()
        self.round = 0
        self.counts = collections.Counter()

    def some(self, kind):
        """The names of one kind, in an order that does not depend on time."""
        tests = {"volume": lambda name: name.startswith("v") and "@" not in name,
                 "snapshot": lambda name: "@" in name, "clone": lambda name: name.startswith("c") and "@" not in name}
        return sorted(filter(tests[kind], self.volumes))

    def write(self, volume, chance):
        """A write, zeroing or discard somewhere, of which each block is known afterwards. The volume's lock is held."""
        verb = chance.choices(["write", "zero", "discard"], [12, 1, 2])[0]
        unit = self.chunk if verb == "discard" else 1
        most = 4 if verb == "discard" else 24
        count = min(chance.randint(1, most) * unit, volume.size)
        # Few places of volumes with odd numbers: there is room to shrink.
        places = 16 if ord(volume.name[1]) % 2 else volume.size
        first = (chance.randrange(places) * (volume.size // places) // unit) * unit
        first = min(first, (volume.size - count) // unit * unit)
        self.request(volume, verb, first, count)

    def request(self, volume, verb, first, count):
        """One request, and what it makes of the blocks."""
        tag = new_tag() if verb == "write" else 0
        text = f"round {self.round}: {verb} {tag}"
        while not self._acknowledged(volume, verb, first, count, tag, text):
            self.counts["timed out"] += 1
        self.counts[verb] += 1

    def _acknowledged(self, volume, verb, first, count, tag, text):
        """Sends it; whether it was done. On a busy machine a write may wait for so long that it is given up."""
        begin = time.monotonic()
        try:
            with self.journal.request(volume.name, first, count, text), volume.blocks.change(verb, first, count, tag):
                send(volume.path, verb, first, count, tag)
        except OSError as error:
            if error.errno != errno.ENOSPC or time.monotonic() < begin + HOLD_TIMEOUT:
                raise
            return False
        return True


def send(path, verb, first, count, tag):
    """One request, past the page cache; returns when it is acknowledged."""
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        if verb == "write":
            buffer = mmap.mmap(-1, count * BLOCK)
            buffer[:] = b"".join(content(tag, block) for block in range(first, first + count))
            expect(os.pwritev(fd, [buffer], first * BLOCK) == count * BLOCK, "a short write")
        else:
            place = struct.pack("=QQ", first * BLOCK, count * BLOCK)
            fcntl.ioctl(fd, BLKDISCARD if verb == "discard" else BLKZEROOUT, place)
    finally:
        os.close(fd)


class Thread(threading.Thread):
    """One whose failure is the test's."""

    def __init__(self, name):
        super().__init__(daemon=True, name=name)
        self.failure = None

    def work(self):
        """What it does."""
        raise NotImplementedError

    def run(self):
        try:
            self.work()
        except Exception as failure:  # pylint: disable=broad-except; the waiting thread tells it
            self.failure = f"{type(failure).__name__}: {failure}"


class Writer(Thread):
    """Writes one volume as long as it may."""

    def __init__(self, pool, volume):
        super().__init__(f"the writer of {volume.name}")
        self._pool, self.volume = pool, volume
        self._chance = random.Random(f"{pool.seed} {volume.name}")

    def work(self):
        while True:
            self._pool.writers_go.wait()
            with self.volume.lock:
                if self._pool.writers_go.is_set():
                    self._pool.write(self.volume, self._chance)


def mistake(pool, volume):
    """What the volume holds that it cannot; None if all is right."""
    buffer = mmap.mmap(-1, MIB)
    fd = os.open(volume.path, os.O_RDONLY | os.O_DIRECT)
    try:
        for place in range(0, volume.size * BLOCK, MIB):
            expect(os.preadv(fd, [buffer], place) == MIB, f"{volume.name} to be read at {place}")
            wrong = volume.blocks.wrong(buffer[:], place // BLOCK)
            if wrong:
                block, data = wrong
                tags = sorted(volume.blocks.tags.get(block, {0}))
                return (f"block {block} of {volume.name} holds {told(data)}; it may hold one of {tags}; the requests there: "
                        + pool.journal.tell(volume.name.partition("@")[0], block))
    finally:
        os.close(fd)
    return None
