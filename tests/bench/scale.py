#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Part 3: whether size slows anything down.

    scale.py [quick | CHUNKS...]

- a volume of 16 TiB with ever more scattered chunks: how long its pool takes to start, what kernel
  and daemon need for it, and how long the next growth takes;
- pools of ever more volumes: start, list, growth in one of them.

The chunks lie on a device that forgets what is written to it (dm-zero behind a real first part for
LVM): nobody has terabytes to spare, and nothing is read back. The metadata is on a real disk.
"""

import sys
import time

import libvirt

from bench import (
    MIB, Pool, configure, daemon_bytes, fio, forgetful, keep_alive, main, mapped, microseconds, quiet, run, say, stats,
    versions, waits)

ONLY = [int(word) for word in sys.argv[1:] if word.isdigit()]
QUICK = "quick" in sys.argv[1:]
CHUNKS = ONLY or ([1000, 10_000] if QUICK else [1000, 10_000, 100_000, 1_000_000])
VOLUMES = [] if ONLY else [10, 100] if QUICK else [10, 100, 500]
# More are not written one by one, which takes an emulated host a millisecond each.
WRITTEN = 10_000
CHUNK = 4 * MIB
BIG = 16 << 40
FORGETFUL = 5 << 40
PROBES = 20


def group():
    """vg0 gets a large part that forgets; the pool's metadata stays on the real one."""
    run("modprobe", "brd", "rd_nr=1", "rd_size=8192")
    disk = forgetful("/dev/ram0", FORGETFUL)
    run("vgextend", "-qq", "vg0", disk)
    run("pvchange", "-qq", "-x", "n", disk)


def start_pool():
    """A pool whose metadata has all the room that it will need on the real disk."""
    pool = Pool("bench", "vg0")
    pool.rest()
    run("lvextend", "-qq", "-L", "8G", "vg0/notify-meta")
    run("pvchange", "-qq", "-x", "n", "/dev/vdb")
    run("pvchange", "-qq", "-x", "y", "/dev/mapper/forgetful")
    run("virsh", "pool-refresh", "bench")
    return pool


def kernel_bytes():
    """Memory that the kernel uses itself and does not give back when asked."""
    run("sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches")
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    return sum(int(fields[name].split()[0]) for name in ("SUnreclaim", "VmallocUsed", "Percpu")) * 1024


def growth(pool, name, size, first):
    """How long a write waits that needs a chunk: the mean and the median of some, far apart."""
    target = pool.target(name)
    stats(target, reset=True)
    stride = size // PROBES
    fio(f"/dev/notify/{pool.name}/{name}", f"write:{(stride - 4096) // 1024}k", "4k", size - first,
        4096 * PROBES, offset=first)
    waited = waits([stats(target)])
    return {"growth_mean_us": waited["mean_us"], "growth_p50_us": waited["p50_us"]}


def written(device, count):
    """So many chunks, all over the volume."""
    stride = BIG // count // 4096 * 4096
    begun = time.monotonic()
    fio(device, f"write:{(stride - 4096) // 1024}k", "4k", BIG, 4096 * count, ioengine="libaio", iodepth=256)
    say(f"{count / (time.monotonic() - begun):.0f} chunks a second")


def looked_up(pool):
    """The pool, over a connection of its own: one that there was ends with the daemon."""
    return libvirt.open("qemu:///system").storagePoolLookupByName(pool.name)


def restored(pool, count):
    """The same by a map that is restored."""
    data = "vg0/notify-data0"
    have = int(run("blockdev", "--getsize64", f"/dev/{data}"))
    if have < (count + 1) * CHUNK:
        run("lvextend", "-qq", "-L", f"{(count + 1) * CHUNK}b", data)
    stride = BIG // CHUNK // count
    pool.restore((number * stride, number, 1) for number in range(count))


def scattered(pool, count):
    """The figures of one volume with so many chunks."""
    say(f"{count} chunks")
    device = pool.volume("big", BIG)
    if count <= WRITTEN:
        written(device, count)
    else:
        # The one line of the map that the others stand in for.
        fio(device, "write", "4k", 4096)
        restored(pool, count)
    pool.rest()
    parent = looked_up(pool)
    row = {"chunks": mapped(pool.target("big"))}
    parent.destroy()
    before = kernel_bytes()
    row["activation_us"] = microseconds(lambda: parent.create(0))
    row["kernel_memory_bytes"] = max(kernel_bytes() - before, 0)
    pool.rest()
    row["daemon_memory_bytes"] = daemon_bytes()
    row |= growth(pool, "big", BIG, CHUNK)
    say(f"{row}")
    pool.delete("big")
    pool.rest()
    return row


def many(pool, parent, count):
    """The figures of a pool of so many volumes."""
    say(f"{count} volumes")
    have = parent.numOfVolumes()
    names = [f"v{number}" for number in range(have, count)]
    made = microseconds(lambda: [
        parent.createXML(f"<volume><name>{name}</name><capacity>{BIG}</capacity></volume>") for name in names])
    pool.rest()
    parent.destroy()
    row = {"volumes": count, "making_one_us": round(made / len(names))}
    row["start_us"] = microseconds(lambda: parent.create(0))
    pool.rest()
    row["list_us"] = microseconds(lambda: [volume.info() for volume in parent.listAllVolumes()])
    row["daemon_memory_bytes"] = daemon_bytes()
    row |= growth(pool, "v0", BIG, CHUNK * count)
    say(f"{row}")
    return row


def body():
    quiet()
    keep_alive()
    group()
    pool = start_pool()
    configure(headroom_mib=8 << 10, step_mib=8 << 10)
    parent = looked_up(pool)
    say("waiting for the headroom")
    pool.rest()
    result = {"versions": versions()}
    result["volumes"] = [many(pool, parent, count) for count in VOLUMES]
    say("deleting the volumes")
    for volume in parent.listAllVolumes():
        volume.delete()
    pool.rest()
    result["chunks"] = [scattered(pool, count) for count in CHUNKS]
    return result


main(body)
