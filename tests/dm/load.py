#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writers at random over a device, each of which knows what it must read.

    load.py DEVICE KIB SECONDS SEED TOLD [--workers N] [--shared N]

The device's first half is shared out in one piece for each of the N workers,
who write, discard and zero in it. In its second half blocks of 4 KiB are dealt
out in turn to --shared more workers, so that several write to each chunk at
once, and discards are of parts of a chunk. A worker has one request at a time
under way.

What a block may be: what was written last; zeroes after zeroing; after a
discard what it was before, or zeroes, and once it was read, what was read. At
the end each worker reads all that is its own. The first wrong block is named,
and the exit status is 1.
"""
import argparse
import ctypes
import ctypes.util
import fcntl
import mmap
import os
import random
import struct
import sys
import time

BLOCK = 4096
MOST = 64                       # blocks of one request
ZERO = 0                        # the stamp of a block of zeroes
BLKDISCARD = 0x1277
ZERO_RANGE = 0x10
KEEP_SIZE = 0x01

libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Wrong(Exception):
    """A block is not what it may be."""


class Worker:
    """One writer, and what each block of its own may be: a set of stamps."""

    def __init__(self, device, number, blocks, seed):
        self.fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        self.number, self.blocks = number, blocks
        self.random = random.Random(f"{seed}/{number}")
        self.may = {block: {ZERO} for block in blocks}
        self.stamp = 0
        self.buf = mmap.mmap(-1, MOST * BLOCK)

    def content(self, block, stamp):
        if stamp == ZERO:
            return bytes(BLOCK)
        return struct.pack("=QII", block, self.number, stamp) * (BLOCK // 16)

    def some(self):
        """Neighbouring blocks of this worker's own, as one request may cover."""
        at = self.random.randrange(len(self.blocks))
        most = 1 + self.random.randrange(MOST) if self.random.random() < 0.5 else 4
        run = [self.blocks[at]]
        for block in self.blocks[at + 1:at + most]:
            if block != run[-1] + 1:
                break
            run.append(block)
        return run

    def write(self):
        run = self.some()
        self.stamp += 1
        stamp = ZERO if self.random.random() < 0.1 else self.stamp
        data = b"".join(self.content(block, stamp) for block in run)
        self.buf[:len(data)] = data
        with memoryview(self.buf)[:len(data)] as part:
            wrote = os.pwritev(self.fd, [part], run[0] * BLOCK)
        if wrote != len(data):
            raise Wrong(f"a write at block {run[0]} ended after {wrote} of {len(data)} bytes")
        for block in run:
            self.may[block] = {stamp}

    def zero(self):
        run = self.some()
        if libc.fallocate(self.fd, ZERO_RANGE | KEEP_SIZE, run[0] * BLOCK, len(run) * BLOCK):
            raise OSError(ctypes.get_errno(), "zeroing")
        for block in run:
            self.may[block] = {ZERO}

    def discard(self):
        run = self.some()
        size = struct.pack("=QQ", run[0] * BLOCK, len(run) * BLOCK)
        fcntl.ioctl(self.fd, BLKDISCARD, size)
        for block in run:
            self.may[block] = self.may[block] | {ZERO}

    def read(self, run=None):
        run = run or self.some()
        with memoryview(self.buf)[:len(run) * BLOCK] as part:
            os.preadv(self.fd, [part], run[0] * BLOCK)
        for i, block in enumerate(run):
            found = self.buf[i * BLOCK:(i + 1) * BLOCK]
            stamp = next((s for s in self.may[block] if self.content(block, s) == found), None)
            if stamp is None:
                raise Wrong(f"block {block} of worker {self.number} may be {sorted(self.may[block])}, "
                            f"and is {struct.unpack('=QII', found[:16])} (block, worker, stamp)")
            self.may[block] = {stamp}

    def all_runs(self):
        """All of this worker's blocks, in runs of neighbours that one request may cover."""
        run = []
        for block in self.blocks:
            if run and (block != run[-1] + 1 or len(run) == MOST):
                yield run
                run = []
            run.append(block)
        yield run

    def run(self, is_over):
        deeds = [self.write] * 5 + [self.read] * 3 + [self.zero] + [self.discard] * 2
        count = 0
        # One at least, however late a busy machine starts it.
        while count == 0 or not is_over():
            self.random.choice(deeds)()
            count += 1
        for run in self.all_runs():
            self.read(run)


def work(worker, is_over):
    try:
        worker.run(is_over)
    except (Wrong, OSError) as e:
        print(f"worker {worker.number}: {e}", flush=True)
        return 1
    return 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("device")
    p.add_argument("kib", type=int)
    p.add_argument("seconds", type=float, help="for so long at least, and ten times as long at most")
    p.add_argument("seed")
    p.add_argument("told", help="and until there is this file")
    p.add_argument("--workers", type=int, default=8)
    p.add_argument("--shared", type=int, default=4)
    args = p.parse_args()
    half = args.kib * 1024 // BLOCK // 2
    each = half // args.workers
    shares = [list(range(n * each, (n + 1) * each)) for n in range(args.workers)]
    dealt = [[b for b in range(half, 2 * half) if b // 4 % args.shared == n]
             for n in range(args.shared)]
    begin = time.monotonic()

    def is_over():
        passed = time.monotonic() - begin
        return passed >= args.seconds and (os.path.exists(args.told) or passed >= 10 * args.seconds)

    children = []
    for number, blocks in enumerate(shares + dealt):
        pid = os.fork()
        if pid == 0:
            worker = Worker(args.device, number, blocks, args.seed)
            os._exit(work(worker, is_over))
        children.append(pid)
    failed = [os.waitpid(pid, 0)[1] for pid in children]
    sys.exit(1 if any(failed) else 0)


if __name__ == "__main__":
    main()
