#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 300
"""Allocations of the target fail now and then, while chunks are written, mapped and protected.

A write or a message may fail with "no memory" then, and is made again. In the end every block reads
as it was last written, and the kernel has nothing to say. The argument is a seed that chooses what is done.
"""

import errno
import mmap
import os
import random
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../dm"))
from dmctl import Dm  # noqa: E402 (its folder is named above)

CHUNK, CHUNKS, STEPS = 65536, 256, 600
# A leaf of the target's map has so many chunks: each chunk written here needs a leaf of its own.
LEAF = 512
FAULTS = ["/sys/kernel/debug/failslab", "/sys/kernel/debug/fail_page_alloc"]
TIMES = 1000000


def put(name, value):
    """Sets a knob, of small allocations and of pages."""
    for fault in FAULTS:
        with open(f"{fault}/{name}", "w", encoding="ascii") as knob:
            knob.write(str(value))


def inject():
    """Has one of ten allocations fail that the module's code asks for."""
    with open("/proc/modules", encoding="ascii") as modules:
        module = next(line.split() for line in modules if line.startswith("dm_notify "))
    start, size = int(module[5], 16), int(module[1])
    for name, value in [("require-start", start), ("require-end", start + size), ("stacktrace-depth", 32),
                        ("ignore-gfp-wait", "N"), ("verbose", 0), ("interval", 1), ("times", TIMES),
                        ("probability", 10)]:
        put(name, value)
    with open(f"{FAULTS[1]}/min-order", "w", encoding="ascii") as knob:
        knob.write("0")


def injected():
    """How many allocations were made to fail."""
    count = 0
    for fault in FAULTS:
        with open(f"{fault}/times", encoding="ascii") as times:
            count += TIMES - int(times.read())
    return count


def again(deed, refusals):
    """Does it until it does not fail for want of memory."""
    while True:
        try:
            return deed()
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.EAGAIN):
                raise
            refusals.append(error.errno)


class Grower(threading.Thread):
    """Maps each chunk that is wanted, one of each leaf."""

    def __init__(self, dm):
        super().__init__(daemon=True)
        self.dm, self.done, self.refusals, self.mapped = dm, threading.Event(), [], set()

    def run(self):
        while not self.done.wait(0.002):
            for kind, chunk in again(self.dm.pending, self.refusals)[0]:
                if kind == "w":
                    again(lambda: self.dm.message(f"map {chunk}:0:{chunk // LEAF}:1"), self.refusals)
                    self.mapped.add(chunk)


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    backing = "/dev/shm/failslab"
    with open(backing, "wb") as file:
        file.truncate(CHUNK * CHUNKS)
    loop = subprocess.run(["losetup", "-f", "--show", backing], check=True, capture_output=True, text=True).stdout.strip()
    table = f"0 {CHUNKS * LEAF * CHUNK // 512} notify {CHUNK // 512} 0 0 1 {loop} 2 hold_timeout 120"
    subprocess.run(["dmsetup", "create", "failslab", "--table", table], check=True)
    dm = Dm("failslab")
    grower, writes, refusals = Grower(dm), {}, []
    grower.start()
    fd, buffer = os.open("/dev/mapper/failslab", os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, CHUNK)
    inject()
    for step in range(1, STEPS + 1):
        chunk = chance.randrange(CHUNKS) * LEAF
        if chunk in grower.mapped and chance.random() < 0.2:
            again(lambda: dm.message(f"protect {chunk}:1"), refusals)
            again(lambda: dm.message(f"unprotect {chunk}:1"), refusals)
            continue
        buffer[:] = step.to_bytes(8, "little") * (CHUNK // 8)
        again(lambda: os.pwritev(fd, [buffer], chunk * CHUNK), refusals)
        writes[chunk] = step
    put("probability", 0)
    grower.done.set()
    grower.join()
    for chunk, step in writes.items():
        os.preadv(fd, [buffer], chunk * CHUNK)
        if buffer[:] != step.to_bytes(8, "little") * (CHUNK // 8):
            sys.exit(f"chunk {chunk} holds {buffer[:8].hex()}, not step {step}")
    os.close(fd)
    count = injected()
    print(f"{count} allocations failed; {len(refusals) + len(grower.refusals)} calls were made again", flush=True)
    if count < 10:
        sys.exit("hardly an allocation of the target was made to fail")
    os.close(dm.fd)
    subprocess.run(["dmsetup", "remove", "failslab"], check=True)
    subprocess.run(["losetup", "-d", loop], check=True)


if __name__ == "__main__":
    main()
