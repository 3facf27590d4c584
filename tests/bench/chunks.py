#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the size of a pool's chunks decides, on a host whose clock counts instructions.

    chunks.py [quick]

For each size, in a pool of its own on a RAM disk:

- writes at random to a fresh volume: how long they take, and how much space that takes;
- the first write to a chunk after a snapshot;
- a file system: what it takes, and what it takes when little is changed after a snapshot;
- a volume of which each chunk lies by itself: reading it in its order.

With the smallest chunks also how much memory the daemon has for each run; and what the kernel has for each part of its map.
"""

import json
import os
import random
import sys

from bench import (
    BLOCK, MIB, Failure, configure, daemon_bytes, fio, keep_alive, main, mapped, quiet, run, say, stats, versions, waits,
    write_blocks)
from ways import fresh_pool

QUICK = "quick" in sys.argv[1:]
KIB = 1 << 10
CHUNKS = [64 * KIB, 256 * KIB, MIB, 4 * MIB]
DISK = 16 << 30
AREA = (128 if QUICK else 512) * MIB
WRITES = AREA // (256 * KIB)
COPIES = AREA // max(CHUNKS)
# The area of which each chunk lies by itself, and what of it is read.
APART, APART_SMALLEST = 2 * AREA, (1 << 30) if QUICK else (8 << 30)
READ = AREA // 2
FILES = "/mnt/files"
FILE_SYSTEMS = ["ext4", "xfs"]
UNPACKED, CHANGES = (300, 30) if QUICK else (1500, 150)
# The kernel has the entries of so many chunks on a page, and finds it by so many bytes of its directory.
LEAF_CHUNKS, PAGE, SLOT = 512, 4096, 16
LEAF = "/sys/kernel/slab/dm_notify_leaf/object_size"


# --- writes ---------------------------------------------------------------

def listed(device, offsets):
    """One write of a block at each of these places, in this order."""
    with open("/tmp/listed", "w", encoding="ascii") as file:
        file.write(f"fio version 2 iolog\n{device} add\n{device} open\n")
        file.writelines(f"{device} write {offset} {BLOCK}\n" for offset in offsets)
        file.write(f"{device} close\n")
    return fio(device, "randwrite", str(BLOCK), AREA, read_iolog=file.name)


def first_writes(pool, path, chunk):
    """Writes at random all over a fresh volume, at the same places for all sizes of chunks."""
    order = random.Random(1)
    offsets = [order.randrange(AREA // BLOCK) * BLOCK for _ in range(WRITES)]
    figures = listed(path, offsets)
    target = pool.target("fresh")
    return figures | {"chunks": mapped(target), "taken_bytes": mapped(target) * chunk, "wait": waits([stats(target)])}


def after_snapshot(pool, path, chunk):
    """One write to each of some chunks, all over a volume that has a snapshot."""
    fio(path, "write", "1M", AREA)
    pool.rest()
    run("virt-notify", "snapshot", "create", "s0", f"{pool.name}/fresh")
    pool.rest()
    order = random.Random(1)
    stride = AREA // COPIES
    offsets = [part * stride + order.randrange(stride // BLOCK) * BLOCK for part in range(COPIES)]
    order.shuffle(offsets)
    before = used(pool)
    figures = listed(path, offsets)
    pool.rest()
    copied = (used(pool) - before) // chunk
    if copied != COPIES:
        raise Failure(f"{copied} chunks were copied, where {COPIES} were to be written")
    return figures | {"chunks": copied, "taken_bytes": copied * chunk}


def used(pool):
    """What all volumes and snapshots of a pool take together."""
    return int(run("blockdev", "--getsize64", f"/dev/{pool.vg}/notify-data0")) - pool.free()


# --- a file system --------------------------------------------------------

def unpack(order):
    """Files of many sizes, most of them small."""
    total = 0
    for number in range(UNPACKED):
        length = int(min(order.lognormvariate(9.5, 1.6), 2 * MIB)) + 1
        folder = f"{FILES}/d{number % 40}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/f{number}", "wb") as file:
            file.write(order.randbytes(length))
        total += length
    return total


def change(order):
    """Small changes at random: a block of a file, a new small file, a file that goes."""
    total = 0
    names = sorted(f"{folder}/{name}" for folder, _, files in os.walk(FILES) for name in files)
    for name in order.sample(names, CHANGES):
        with open(name, "r+b") as file:
            file.seek(order.randrange(os.path.getsize(name) // BLOCK + 1) * BLOCK)
            total += file.write(order.randbytes(BLOCK))
    for number in range(CHANGES // 3):
        with open(f"{FILES}/d{number % 40}/new{number}", "wb") as file:
            total += file.write(order.randbytes(order.randrange(1, 8 * KIB)))
    for name in order.sample(names, CHANGES // 3):
        os.remove(name)
    return total


def file_system(pool, kind, chunk):
    """What a file system takes, and what it takes besides when little of it is changed after a snapshot."""
    order = random.Random(1)
    path = pool.volume(kind, 4 * AREA)
    os.makedirs(FILES, exist_ok=True)
    run(f"mkfs.{kind}", "-q", path)
    # Its tables would be written at any time.
    run("mount", *(["-o", "noinit_itable"] if kind == "ext4" else []), path, FILES)
    try:
        written = unpack(order)
        run("sync")
        pool.rest()
        before, taken = used(pool), mapped(pool.target(kind)) * chunk
        run("virt-notify", "snapshot", "create", "s0", f"{pool.name}/{kind}")
        changed = change(order)
        run("sync")
    finally:
        run("umount", FILES)
    pool.rest()
    row = {"kind": kind, "written_bytes": written, "taken_bytes": taken, "changed_bytes": changed,
           "more_bytes": used(pool) - before}
    say(f"FILES {json.dumps(row)}")
    pool.delete(kind)
    pool.rest()
    return row


# --- a volume in pieces ---------------------------------------------------

def apart(pool, path, size, chunk):
    """A volume of which each chunk lies by itself, by a map that is restored; the memory that the daemon has for it."""
    write_blocks(path, [0])
    run("systemctl", "restart", "virtnotifyd")
    pool.rest()
    before = daemon_bytes()
    count = size // chunk
    data = f"{pool.vg}/notify-data0"
    if int(run("blockdev", "--getsize64", f"/dev/{data}")) < size + 64 * MIB:
        run("lvextend", "-qq", "-L", f"{size + 64 * MIB}b", data)
    places = random.Random(1).sample(range(count), count)
    pool.restore((at, place, 1) for at, place in enumerate(places))
    pool.rest()
    found = json.loads(run("virt-notify", "map", "--json", f"{pool.name}/apart"))["runs"]
    parts = [part for part in found if part["chunk"] < READ // chunk]
    figures = fio(path, "read", "1M", READ)
    return figures | {"runs": len(parts), "all_runs": len(found), "daemon_bytes": max(daemon_bytes() - before, 0)}


def leaf_bytes():
    """What the kernel has for each leaf of a volume's map."""
    with open(LEAF, encoding="ascii") as file:
        return int(file.read()) + PAGE + SLOT


# --- a size of chunks -----------------------------------------------------

def installed(chunk):
    """The writes at random, in a pool as it is installed."""
    with fresh_pool("notify", chunk) as pool:
        path = pool.volume("fresh", AREA)
        pool.rest()
        figures = first_writes(pool, path, chunk)
        pool.delete("fresh")
        pool.rest()
        return figures


def clean(chunk):
    """Everything that there is clean headroom for."""
    headroom = 3 * AREA // 2 // MIB
    with fresh_pool("notify", chunk, headroom_mib=headroom, headroom_limit_mib=headroom, step_mib=headroom) as pool:
        path = pool.volume("fresh", AREA)
        pool.rest()
        row = {"first": first_writes(pool, path, chunk), "snap": after_snapshot(pool, path, chunk)}
        pool.delete("fresh")
        pool.rest()
        row["files"] = [file_system(pool, kind, chunk) for kind in FILE_SYSTEMS]
        size = APART_SMALLEST if chunk == min(CHUNKS) else APART
        row["read"] = apart(pool, pool.volume("apart", size), size, chunk)
        pool.delete("apart")
        pool.rest()
        return row


def body():
    quiet()
    keep_alive()
    run("modprobe", "brd", "rd_nr=1", f"rd_size={DISK // KIB}")
    run("dd", "if=/dev/zero", "of=/dev/ram0", "bs=1M", f"count={4 * AREA // MIB}", "oflag=direct")
    run("pvcreate", "-qq", "-y", "/dev/ram0")
    run("vgcreate", "-qq", "notify", "/dev/ram0")
    rows = []
    for chunk in CHUNKS:
        row = {"chunk_bytes": chunk} | clean(chunk) | {"installed": installed(chunk)}
        say(f"CHUNK {json.dumps(row)}")
        rows.append(row)
    configure()
    return {"versions": versions(), "area_bytes": AREA, "leaf_bytes": leaf_bytes(), "leaf_chunks": LEAF_CHUNKS, "rows": rows}


main(body)
