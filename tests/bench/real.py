#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Part 2: waiting, grouping and steadiness in real time, on a host with two processors.

    real.py [quick]

- how long one first write to a chunk takes: notify, with clean headroom and as installed, beside dm-thin
  and a linear volume, all of them in turns, so that what else the machine does meets all alike;
- how long a write waits for its chunk, by the target's own counters: one writer that needs a chunk
  with each write, with clean headroom and with the configuration that is installed;
- how many commits the growths of many volumes take that write at once;
- a sequential fill's throughput, slice by slice: a linear volume, dm-thin, and notify as installed.

Unlike part 1 it depends on the machine and on what else that does. Everything is on vg0, a virtual
disk that takes zeroing off the processor.
"""

import contextlib
import os
import statistics
import sys

import libvirt

from bench import MIB, Failure, Pool, configure, daemon_pid, fio, main, mapped, quiet, run, say, stats, versions, waits
from ways import Device, linear, thin_pool

QUICK = "quick" in sys.argv[1:]
FILL = (1024 if QUICK else 3072) * MIB
SLICE = 0.25
VOLUMES = 100
CHUNK = 4 * MIB
SCATTERED = 64 if QUICK else 256
EACH = 3
ROUNDS = 2 if QUICK else 8
EACH_ROUND = 16 if QUICK else 32
THIN = {
    "thin4m": (4 * MIB, True), "thin4m_skip": (4 * MIB, False),
    "thin64k": (64 << 10, True), "thin64k_skip": (64 << 10, False),
}
TRACE = "/sys/kernel/tracing"
SYNC = f"{TRACE}/events/syscalls/sys_enter_fdatasync/trigger"


class Syncs:
    """Counts a thread's fdatasync calls in the kernel, which costs it next to nothing."""

    def __init__(self, thread):
        self.thread = thread
        if not os.path.exists(f"{TRACE}/events"):
            run("mount", "-t", "tracefs", "tracefs", TRACE)

    def __enter__(self):
        with open(SYNC, "w", encoding="ascii") as file:
            file.write("hist:keys=common_pid")
        return self

    def count(self):
        """How many since the start."""
        with open(SYNC.replace("trigger", "hist"), encoding="ascii") as file:
            lines = [line.replace(",", " ").split() for line in file if "hitcount:" in line]
        ours = [line for line in lines if line[2] == str(self.thread)]
        return int(ours[0][ours[0].index("hitcount:") + 1]) if ours else 0

    def __exit__(self, *_):
        with open(SYNC, "w", encoding="ascii") as file:
            file.write("!hist:keys=common_pid")


def grow_thread():
    """The thread of the daemon that answers writes."""
    tasks = f"/proc/{daemon_pid()}/task"
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/comm", encoding="ascii") as file:
            if file.read().strip() == "grow":
                return int(task)
    raise Failure("the daemon has no thread named 'grow'")


def scattered(device, count, first=0):
    """One write into each second chunk, the first being number `first`: each waits for its own."""
    return fio(device, f"write:{2 * CHUNK // 1024 - 4}k", "4k", 2 * count * CHUNK, 4096 * count,
               offset=2 * first * CHUNK)


def in_turns(devices):
    """First writes to as many chunks of each device, a few at a time, each round in another order."""
    rounds = {name: [] for name in devices}
    for number in range(ROUNDS):
        names = list(devices)
        names = names[number % len(names):] + names[:number % len(names)]
        for name in names:
            rounds[name].append(scattered(devices[name].path, EACH_ROUND, number * EACH_ROUND))
    return {name: over_rounds(figures) | devices[name].counted() for name, figures in rounds.items()}


def over_rounds(figures):
    """The median of the rounds' medians, and what they spread over."""
    medians = [figure["p50_us"] for figure in figures]
    return {
        "rounds": len(figures), "writes": sum(figure["requests"] for figure in figures),
        "median_us": statistics.median(medians), "least_us": min(medians), "most_us": max(medians),
        "max_us": max(figure["max_us"] for figure in figures),
    }


def first_writes(pool, name):
    """One first write, of notify under this name and of what stands beside it."""
    size = 2 * ROUNDS * EACH_ROUND * CHUNK
    with contextlib.ExitStack() as stack:
        devices = {"linear": stack.enter_context(linear("vg0", size))}
        devices[name] = Device(pool.volume("first", size), lambda: {"chunks": mapped(pool.target("first"))})
        stack.callback(pool.delete, "first")
        for thin, (chunk, zero) in THIN.items():
            devices[thin] = stack.enter_context(thin_pool("vg0", thin, size, chunk, zero))
        pool.rest()
        result = in_turns(devices)
    pool.rest()
    equal(result)
    return result


def equal(result):
    """Refuses figures of different numbers of chunks."""
    counts = {name: row["chunks"] for name, row in result.items() if "chunks" in row}
    if set(counts.values()) != {ROUNDS * EACH_ROUND}:
        raise Failure(f"{ROUNDS * EACH_ROUND} chunks were to be written of each, and these were: {counts}")


def wait_for_growth(pool, name, syncs=None):
    """Makes writes wait one by one; how long, and in how many syncs of the metadata."""
    device = pool.volume(name, 2 * SCATTERED * CHUNK)
    pool.rest()
    before = syncs.count() if syncs else 0
    scattered(device, SCATTERED)
    target = pool.target(name)
    result = waits([stats(target)]) | {"chunks": mapped(target)}
    if syncs:
        result["syncs"] = syncs.count() - before
    pool.delete(name)
    return result


def group_commit(pool, syncs, one):
    """All volumes write at once. One growth alone takes `one` syncs, and so does one commit."""
    connection = libvirt.open("qemu:///system")
    parent = connection.storagePoolLookupByName(pool.name)
    names = [f"many{number}" for number in range(VOLUMES)]
    say(f"making {VOLUMES} volumes")
    for name in names:
        parent.createXML(f"<volume><name>{name}</name><capacity>{1 << 30}</capacity></volume>")
    pool.rest()
    before = syncs.count()
    jobs = [f"--name={name} --filename=/dev/notify/{pool.name}/{name}" for name in names]
    shared = (f"--direct=1 --ioengine=psync --thread --rw=write:{2 * CHUNK // 1024 - 4}k --bs=4k "
              f"--size=1g --io_size={4096 * EACH} --disk_util=0 --invalidate=0")
    say("all of them write")
    run("fio", "--output-format=json", *shared.split(), *" ".join(jobs).split())
    counters = [stats(pool.target(name)) for name in names]
    commits = (syncs.count() - before) / one
    growths = sum(count["wanted_total"] for count in counters)
    for name in names:
        parent.storageVolLookupByName(name).delete()
    connection.close()
    return {
        "volumes": VOLUMES, "growths": growths, "commits": round(commits, 1),
        "commits_per_growth": round(commits / growths, 3), "wait": waits(counters),
    }


def curve(device, name):
    """A sequential fill: its figures, and MiB/s in each slice of time."""
    log = f"/tmp/{name}"
    figure = fio(device, "write", "1M", FILL, write_bw_log=log, log_avg_msec=int(SLICE * 1000))
    slices = []
    with open(f"{log}_bw.1.log", encoding="ascii") as file:
        for line in file:
            stamp, rate = line.split(",")[:2]
            slices.append((int(stamp) / 1000, round(int(rate) / 1024, 1)))
    return figure | {"slices": slices}


def fill(name, device):
    """The fill of a fresh device."""
    say(f"{name}: the fill")
    return curve(device.path, name) | device.counted()


def notify_counted(pool, name):
    """What the target counted while a volume was filled."""
    counters = stats(pool.target(name))
    return {"chunks": mapped(pool.target(name)), "waited": counters["wanted_total"], "wait": waits([counters])}


def fills(pool):
    """The fill of a linear volume, of dm-thin, and of notify as it is installed."""
    result = {}
    with linear("vg0", FILL) as device:
        say("once without being counted: the disk's file gets its pages")
        curve(device.path, "warm")
    with linear("vg0", FILL) as device:
        result["linear"] = fill("linear", device)
    for name in ["thin4m", "thin64k"]:
        with thin_pool("vg0", name, FILL, *THIN[name]) as device:
            result[name] = fill(name, device)
    device = Device(pool.volume("fill", FILL), lambda: notify_counted(pool, "fill"))
    pool.rest()
    result["notify"] = fill("notify", device)
    pool.delete("fill")
    pool.rest()
    return result


def body():
    quiet()
    result = {"versions": versions(), "slice_seconds": SLICE, "fill_bytes": FILL}
    configure()
    pool = Pool("bench", "vg0")
    result["fill"] = fills(pool)
    say("first writes in turns, with the configuration that is installed")
    configure()
    pool.rest()
    result["first_installed"] = first_writes(pool, "notify_installed")
    say("waits, with the configuration that is installed")
    result["wait_installed"] = wait_for_growth(pool, "installed")
    configure(headroom_mib=1400, step_mib=1400)
    pool.rest()
    say("first writes in turns, with clean headroom")
    result["first"] = first_writes(pool, "notify")
    with Syncs(grow_thread()) as syncs:
        say("waits, with clean headroom")
        result["wait_clean"] = wait_for_growth(pool, "clean", syncs)
        alone = result["wait_clean"]["syncs"] / result["wait_clean"]["chunks"]
        result["group"] = group_commit(pool, syncs, alone)
    configure()
    pool.remove()
    return result


main(body)
