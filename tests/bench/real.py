#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Part 2: waiting, grouping and steadiness in real time, on a host with two processors.

    real.py [quick]

- how long a write waits for its chunk, by the target's own counters: one writer that needs a chunk
  with each write, with clean headroom and with the configuration that is installed;
- how many commits the growths of many volumes take that write at once;
- a sequential fill's throughput, slice by slice, for a linear volume and for notify as installed.

Unlike part 1 it depends on the machine and on what else that does. Everything is on vg0, a virtual
disk that takes zeroing off the processor.
"""

import os
import sys

import libvirt

from bench import MIB, Failure, Pool, configure, daemon_pid, fio, main, mapped, quiet, run, say, stats, versions, waits

QUICK = "quick" in sys.argv[1:]
FILL = (1024 if QUICK else 3072) * MIB
SLICE = 0.25
VOLUMES = 100
CHUNK = 4 * MIB
SCATTERED = 64 if QUICK else 256
EACH = 3
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


def scattered(device, count):
    """One write into each second chunk: each waits for its own."""
    return fio(device, f"write:{2 * CHUNK // 1024 - 4}k", "4k", 2 * count * CHUNK, 4096 * count)


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


def fills():
    """The fill on a linear volume, then on notify as it is installed."""
    result = {}
    say("linear: the fill")
    run("lvcreate", "-qq", "-y", "-Wn", "-n", "linear", "-L", f"{FILL}b", "vg0")
    run("blkdiscard", "-z", "/dev/vg0/linear")
    result["linear"] = curve("/dev/vg0/linear", "linear")
    run("lvremove", "-qq", "-y", "vg0/linear")
    configure()
    pool = Pool("bench", "vg0")
    say("notify: the fill, with the configuration that is installed")
    device = pool.volume("fill", FILL)
    pool.rest()
    result["notify"] = curve(device, "notify")
    target = pool.target("fill")
    counters = stats(target)
    result["notify"] |= {"chunks": mapped(target), "waited": counters["wanted_total"], "wait": waits([counters])}
    pool.delete("fill")
    return result, pool


def body():
    quiet()
    result = {"versions": versions(), "slice_seconds": SLICE, "fill_bytes": FILL}
    result["fill"], pool = fills()
    say("waits, with the configuration that is installed")
    result["wait_installed"] = wait_for_growth(pool, "installed")
    configure(headroom_mib=1400, step_mib=1400)
    pool.rest()
    with Syncs(grow_thread()) as syncs:
        say("waits, with clean headroom")
        result["wait_clean"] = wait_for_growth(pool, "clean", syncs)
        alone = result["wait_clean"]["syncs"] / result["wait_clean"]["chunks"]
        result["group"] = group_commit(pool, syncs, alone)
    configure()
    pool.remove()
    return result


main(body)
