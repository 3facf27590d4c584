#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Part 1: what each way to store costs the processor, on a host whose clock counts instructions.

    virtual.py [quick] [PEER...]

Everything lies on RAM disks, so the device's own time is next to nothing, and there is one
processor: whatever the daemon does is time that the writer does not get. The peers are measured
one after the other on the same RAM disk; `notify` has another one, as a pool has a volume group.

| job | what |
|---|---|
| seqfirst, seqagain, seqread | 1 MiB blocks in order: never written before, written before, read |
| randread, randwrite | 4 KiB blocks at random, all written before |
| randfirst | 4 KiB blocks at random over a wide area that was never written |

`notify` does the first writes once more with no clean headroom left (`..._dirty`).
"""

import contextlib
import os
import sys

from bench import (MIB, Pool, configure, fio, main, mapped, quiet, run, say, stats, until, versions, waits)

QUICK = "quick" in sys.argv[1:]
WANTED = [word for word in sys.argv[1:] if word != "quick"]

SEQUENTIAL = (256 if QUICK else 1024) * MIB
WIDE = (256 if QUICK else 1024) * MIB
FIRST = (32 if QUICK else 64) * MIB
STEADY = (32 if QUICK else 512) * MIB
# More than half of it is left after the first writes: the daemon would get more otherwise.
HEADROOM = 3 * WIDE
PEER_DISK, POOL_DISK = "/dev/ram0", "/dev/ram1"
PEER_SIZE = WIDE + 640 * MIB
RAM_DISK = 40 << 30

CONFIGURATION = {
    "sequential_bytes": SEQUENTIAL,
    "wide_area_bytes": WIDE,
    "random_first_bytes": FIRST,
    "random_steady_bytes": STEADY,
    "headroom_bytes": HEADROOM,
    "chunk_bytes": 4 * MIB,
}


def steady(device, figures, size, amount):
    """What is measured where everything was written before."""
    figures["seqagain"] = fio(device, "write", "1M", size)
    figures["seqread"] = fio(device, "read", "1M", size)
    figures["randread"] = fio(device, "randread", "4k", size, amount)
    figures["randwrite"] = fio(device, "randwrite", "4k", size, amount)


def random_first(device):
    """Random first writes over the wide area."""
    return fio(device, "randwrite", "4k", WIDE, FIRST)


def peer(make, part=1):
    """A peer's figures. `make(size)` is a context with a fresh device of that size. A slow peer does
    a part of what the others do, where that does not change its speed."""
    figures = {}
    size = SEQUENTIAL // part
    with make(size) as device:
        figures["seqfirst"] = fio(device, "write", "1M", size)
        steady(device, figures, size, STEADY // part)
    with make(WIDE) as device:
        figures["randfirst"] = random_first(device)
    return figures


# --- the peers -----------------------------------------------------------

@contextlib.contextmanager
def volume(size):
    """A linear logical volume: one mapping."""
    run("lvcreate", "-qq", "-y", "-Wn", "-n", "plain", "-L", f"{size}b", "bench")
    try:
        yield "/dev/bench/plain"
    finally:
        run("lvremove", "-qq", "-y", "bench/plain")


@contextlib.contextmanager
def linear(size):
    """dm-linear in the place that the target has: on a logical volume, so with two mappings."""
    with volume(size) as below:
        run("dmsetup", "create", "linear", "--table", f"0 {size // 512} linear {below} 0")
        try:
            yield "/dev/mapper/linear"
        finally:
            run("dmsetup", "remove", "--retry", "linear")


def thin(chunk):
    """A thin volume in a pool with this chunk size, its defaults otherwise (it zeroes)."""
    @contextlib.contextmanager
    def make(size):
        run("lvcreate", "-qq", "-y", "--type", "thin-pool", "-c", chunk, "-L", f"{size + 64 * MIB}b",
            "-n", "pool", "bench")
        try:
            run("lvcreate", "-qq", "-y", "-V", f"{size}b", "--thinpool", "pool", "-n", "thin", "bench")
            yield "/dev/bench/thin"
        finally:
            run("lvremove", "-qq", "-y", "bench/pool")
    return make


@contextlib.contextmanager
def qcow2(size):
    """A qcow2 file on XFS, as a block device through qemu-nbd."""
    run("lvcreate", "-qq", "-y", "-Wn", "-n", "files", "-l", "100%FREE", "bench")
    run("mkfs.xfs", "-q", "-f", "-K", "/dev/bench/files")
    os.makedirs("/mnt/files", exist_ok=True)
    run("mount", "/dev/bench/files", "/mnt/files")
    try:
        run("modprobe", "nbd", "nbds_max=1")
        run("qemu-img", "create", "-q", "-f", "qcow2", "/mnt/files/disk", str(size))
        run("qemu-nbd", "-c", "/dev/nbd0", "-f", "qcow2", "--cache=none", "--aio=native", "/mnt/files/disk")
        until("the network block device", 60, lambda: int(run("blockdev", "--getsize64", "/dev/nbd0")) == size)
        yield "/dev/nbd0"
    finally:
        run("qemu-nbd", "-d", "/dev/nbd0")
        until("qemu-nbd to end", 60, lambda: not os.path.exists("/sys/block/nbd0/pid"))
        run("umount", "/mnt/files")
        run("lvremove", "-qq", "-y", "bench/files")


# --- notify --------------------------------------------------------------

def measured(pool, name, size, job):
    """A job on a fresh volume: its figures, and what the target counted meanwhile."""
    device = pool.volume(name, size)
    pool.rest()
    figure = job(device)
    target = pool.target(name)
    counters = stats(target)
    chunks = mapped(target)
    return figure, {
        "chunks": chunks, "waited": counters["wanted_total"], "signals": counters["signals"],
        "wait": waits([counters]),
    }


def sequential_first(device):
    """Sequential first writes."""
    return fio(device, "write", "1M", SEQUENTIAL)


def clean(pool, figures, counters):
    """With the clean headroom of an idle system."""
    figures["seqfirst"], counters["seqfirst"] = measured(pool, "seq", SEQUENTIAL, sequential_first)
    pool.rest()
    steady("/dev/notify/bench/seq", figures, SEQUENTIAL, STEADY)
    figures["randfirst"], counters["randfirst"] = measured(pool, "rand", WIDE, random_first)
    pool.delete("seq")
    pool.delete("rand")


def dirty(pool, figures, counters):
    """With the smallest headroom there can be, used up by another writer just before."""
    for name, size, job in [("seqfirst", SEQUENTIAL, sequential_first), ("randfirst", WIDE, random_first)]:
        eater = pool.volume("eater", 64 * MIB)

        def after_eater(device, job=job, eater=eater):
            fio(eater, "write", "1M", 64 * MIB)
            return job(device)

        figures[f"{name}_dirty"], counters[f"{name}_dirty"] = measured(pool, name, size, after_eater)
        pool.delete("eater")
        pool.delete(name)


def notify():
    """The product as it is installed; only the size of the headroom is set."""
    figures, counters = {}, {}
    configure(headroom_mib=HEADROOM // MIB, step_mib=HEADROOM // MIB)
    pool = Pool("bench", "notify")
    say("notify: waiting for the headroom")
    pool.rest()
    say(f"notify: at rest with {pool.free() // MIB} MiB free")
    clean(pool, figures, counters)
    say("notify: once more without clean headroom")
    configure(headroom_mib=1, step_mib=64)
    pool.rest()
    dirty(pool, figures, counters)
    pool.remove()
    return figures, counters


def disks():
    """Two RAM disks. A page of one is made by the first write to it, which must not count."""
    run("modprobe", "brd", "rd_nr=2", f"rd_size={RAM_DISK // 1024}")
    run("dd", "if=/dev/zero", f"of={PEER_DISK}", "bs=1M", f"count={PEER_SIZE // MIB}", "oflag=direct")
    run("pvcreate", "-qq", "-y", "--setphysicalvolumesize", f"{PEER_SIZE}b", PEER_DISK)
    run("vgcreate", "-qq", "bench", PEER_DISK)
    run("pvcreate", "-qq", "-y", POOL_DISK)
    run("vgcreate", "-qq", "notify", POOL_DISK)


def body():
    quiet()
    say("making the RAM disks")
    disks()
    result = {"configuration": CONFIGURATION, "versions": versions(), "figures": {}, "counters": {}}
    peers = {"linear": linear, "lv": volume, "thin4m": thin("4M"), "thin64k": thin("64k"), "qcow2": qcow2}
    if not WANTED or "notify" in WANTED:
        say("notify")
        result["figures"]["notify"], result["counters"] = notify()
    for name, make in peers.items():
        if not WANTED or name in WANTED:
            say(name)
            result["figures"][name] = peer(make, part=4 if name == "qcow2" else 1)
    return result


main(body)
