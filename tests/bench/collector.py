#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the collector brings and what it costs, on a host whose clock counts instructions.

    collector.py [quick]

- a volume in pieces of 64 KiB, 1 MiB and 4 MiB at random places: in how many runs it lies before and after
  `virt-notify defrag`, of which the time follows that a disk which is slow at seeking takes to read it;
- how long the writes of a guest take that writes on meanwhile: when nothing else is done, during `defrag`, `evacuate`,
  the delete of a neighbour of many scattered chunks, and `reclaim`;
- how fast `evacuate` is beside LVM's `pvmove`;
- what the daemon does while there is nothing to do.

The disks are RAM disks, so flushes cost nothing. There is one processor: what the daemon or LVM does is time that the
writer does not get.
"""

import contextlib
import json
import os
import random
import statistics
import sys
import time

from bench import (
    MIB, Failure, Pool, Writer, configure, daemon_pid, fio, keep_alive, main, quiet, run, say, versions, write_blocks)

QUICK = "quick" in sys.argv[1:]
KIB = 1 << 10
SIZE = (64 if QUICK else 512) * MIB
DISK = 3 * SIZE + 256 * MIB
PIECES = [64 * KIB, MIB, 4 * MIB]
SMALL = 64 * KIB
CHUNK = 4 * MIB
NEIGHBOUR = 100 if QUICK else 400
PAUSE = 0.001
IDLE_WRITES = 2 if QUICK else 6
# What a delete leaves to be done is done soon after the command has ended.
AFTER = 0.5
MINUTE = 60
VOLUMES = [1, 10] if QUICK else [1, 50]
NO_LIMIT = 1_000_000


# --- the place ------------------------------------------------------------

def disk(number, size):
    """A RAM disk, as a physical volume."""
    name = f"/dev/ram{number}"
    run("pvcreate", "-qq", "-y", "--setphysicalvolumesize", f"{size}b", name)
    return name


def pieces(size):
    """The volume's runs in its order, as chunks of 64 KiB: of each its first one, where it lies, and how many they are."""
    order = random.Random(1)
    lengths, left = [], size // SMALL
    while left > 0:
        length = min(order.choice(PIECES) // SMALL, left)
        lengths.append(length)
        left -= length
    places, place = [0] * len(lengths), 0
    for number in order.sample(range(len(lengths)), len(lengths)):
        places[number] = place
        place += lengths[number]
    at = 0
    for place, length in zip(places, lengths):
        yield at, place, length
        at += length


def in_pieces(pool, name):
    """A volume that lies in pieces, by a map that is restored, and is written all over."""
    path = pool.volume(name, SIZE)
    # The one line of the map that the others stand in for.
    write_blocks(path, [0])
    pool.rest()
    run("lvextend", "-qq", "-L", f"{SIZE + 128 * MIB}b", f"{pool.vg}/notify-data0")
    pool.restore(pieces(SIZE))
    fio(path, "write", "1M", SIZE)
    pool.rest()
    return path


# --- runs -----------------------------------------------------------------

def runs(pool, name):
    """In how many runs a volume lies, and how many of its chunks follow the one that is read before."""
    found = json.loads(run("virt-notify", "map", "--json", f"{pool.name}/{name}"))
    chunk, parts = found["chunk_bytes"], found["runs"]
    total = sum(part["count"] for part in parts)
    seeks = 1
    for before, part in zip(parts, parts[1:]):
        seeks += (before["lv"], before["place"] + before["count"]) != (part["lv"], part["place"])
    row = {"runs": seeks, "bytes": total * chunk, "mean_bytes": total * chunk // seeks,
           "stay": 1 - seeks / total, "longest_bytes": max(part["count"] for part in parts) * chunk}
    say(f"RUNS {json.dumps(row)}")
    return row


# --- a guest that writes on -----------------------------------------------

def part_of(times, part):
    """The time within which this part of the writes is done."""
    return sorted(times)[min(int(part * len(times)), len(times) - 1)]


def beside(what, path, action, size):
    """How long a guest's writes take during an action, and what that gives."""
    with Writer(path, PAUSE, size) as writer:
        time.sleep(0.2)
        begun = time.monotonic()
        done = action()
        ended = time.monotonic()
        time.sleep(0.05)
    found = writer.between(begun, ended)
    times = [took for _, took in found]
    row = {"what": what, "seconds": round(ended - begun, 3), "writes": len(times), "p50_us": statistics.median(times),
           "p99_us": part_of(times, 0.99), "max_us": max(times)}
    say(f"WRITES {json.dumps(row)}")
    for start, took in sorted(found, key=lambda pair: -pair[1])[:8]:
        say(f"  {took / 1000:.2f} ms, {start - begun:.3f} s after the beginning")
    return row, done


def command(*words):
    """A command that ends with what a job did, as JSON."""
    def action():
        begun = time.monotonic()
        job = json.loads(run("virt-notify", "--json", *words).splitlines()[-1])
        if job["state"] != "done":
            raise Failure(f"`virt-notify {' '.join(words)}` ended as {job['state']}: {job['error']}")
        return {"bytes": job["moved"], "seconds": round(time.monotonic() - begun, 3)}
    return action


def idle(path, size):
    """The same while nothing is done."""
    return beside("idle", path, lambda: time.sleep(IDLE_WRITES), size)[0]


# --- a volume in pieces, and a disk that is to go -------------------------

def closed(device, is_closed):
    """Whether the group gets nothing new of this disk."""
    run("pvchange", "-qq", "-x", "n" if is_closed else "y", device)


def moved_by_lvm(source, target):
    """The same amount, moved by LVM alone."""
    size = sum(int(words.split()[0]) for words in run(
        "pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "pv_used", source).splitlines())
    begun = time.monotonic()
    run("pvmove", "-qq", "-i", "1", source, target)
    return {"bytes": size, "seconds": round(time.monotonic() - begun, 3)}


def evacuated(device):
    """What evacuating a disk moved, and how long it took."""
    return command("evacuate", "bench", device)()


def moves(result, pool, path, first, second):
    """Has the disk that holds the pool emptied three times: beside a guest, without a limit, and by LVM alone. What is
    written for the first time to a RAM disk takes longer, and only the first of these does that."""
    run("vgextend", "-qq", "bench", second)
    pool.rest()
    row, done = beside("evacuate", path, lambda: evacuated(first), SIZE)
    result["writes"].append(row | {"pool": "64k"})
    result["moves"].append(done | {"way": "budget"})
    closed(first, False)
    configure({"budget_mib": NO_LIMIT})
    pool.rest()
    result["moves"].append(evacuated(second) | {"way": "no_limit"})
    closed(second, False)
    pool.rest()
    result["moves"].append(moved_by_lvm(first, second) | {"way": "pvmove"})
    for row in result["moves"]:
        say(f"MOVE {json.dumps(row)}")


def removed(pool):
    """Takes a pool away with all its volumes."""
    for name in run("virsh", "vol-list", pool.name).splitlines()[2:]:
        if name.split():
            pool.delete(name.split()[0])
    pool.rest()
    pool.remove()


def small_chunks(result):
    """What is measured with chunks of 64 KiB."""
    first = disk(0, DISK)
    run("vgcreate", "-qq", "bench", first)
    configure()
    pool = Pool("small", "bench", SMALL)
    pool.rest()
    path = in_pieces(pool, "disk")
    result["runs"].append(runs(pool, "disk") | {"when": "before"})
    result["writes"].append(idle(path, SIZE) | {"pool": "64k"})
    row, done = beside("defrag", path, command("defrag", "small/disk"), SIZE)
    result["writes"].append(row | {"pool": "64k"})
    result["runs"].append(runs(pool, "disk") | {"when": "after"} | {"moved_bytes": done["bytes"]})
    neighbour(result, pool, path, SIZE, SMALL, "64k")
    moves(result, pool, path, first, disk(1, DISK))
    removed(pool)


# --- a neighbour that goes ------------------------------------------------

def scattered(pool, name, chunk):
    """A volume in which each second chunk is allocated."""
    path = pool.volume(name, 2 * NEIGHBOUR * chunk)
    write_blocks(path, range(0, 2 * NEIGHBOUR * chunk, 2 * chunk))
    pool.rest()


def neighbour(result, pool, path, size, chunk, label):
    """How a guest's writes fare while a neighbour of scattered chunks is deleted."""
    if not os.path.exists(f"/dev/notify/{pool.name}/neighbour"):
        scattered(pool, "neighbour", chunk)

    def delete():
        pool.delete("neighbour")
        time.sleep(AFTER)

    row, _ = beside("delete", path, delete, size)
    result["writes"].append(row | {"pool": label})
    pool.rest()


def default_chunks(result):
    """What is measured with the chunks that a pool has where nothing was chosen."""
    run("vgcreate", "-qq", "large", disk(2, NEIGHBOUR * CHUNK + 4 * SIZE))
    configure()
    pool = Pool("large", "large")
    pool.rest()
    # What stays lies behind what goes, and moves when the group gets its space back.
    scattered(pool, "neighbour", CHUNK)
    path = pool.volume("disk", SIZE)
    fio(path, "write", "1M", SIZE)
    pool.rest()
    result["writes"].append(idle(path, SIZE) | {"pool": "4m"})
    neighbour(result, pool, path, SIZE, CHUNK, "4m")
    row, _ = beside("reclaim", path, command("reclaim", "large"), SIZE)
    result["writes"].append(row | {"pool": "4m"})
    pool.rest()
    nothing_to_do(result, pool)


# --- nothing to do --------------------------------------------------------

def switches(process):
    """Of each of its threads: the name, how often it went to sleep, and the nanoseconds that it ran."""
    found = {}
    for task in os.listdir(f"/proc/{process}/task"):
        place = f"/proc/{process}/task/{task}"
        with contextlib.suppress(FileNotFoundError):
            with open(f"{place}/status", encoding="ascii") as file:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            with open(f"{place}/schedstat", encoding="ascii") as file:
                ran = int(file.read().split()[0])
            found[task] = fields["Name"], int(fields["voluntary_ctxt_switches"]), ran
    return found


def minute(count):
    """What the daemon's threads do in a minute in which nobody asks for anything."""
    process = daemon_pid()
    before = switches(process)
    time.sleep(MINUTE)
    after = switches(process)
    by_name = {}
    for task, (name, slept, ran) in after.items():
        _, slept_before, ran_before = before.get(task, (name, 0, 0))
        wakes, time_ran = by_name.get(name, (0, 0))
        by_name[name] = wakes + slept - slept_before, time_ran + ran - ran_before
    row = {"volumes": count, "wakes": sum(wakes for wakes, _ in by_name.values()),
           "cpu_us": round(sum(ran for _, ran in by_name.values()) / 1000, 1),
           "threads": {name: wakes for name, (wakes, _) in sorted(by_name.items()) if wakes}}
    say(f"IDLE {json.dumps(row)}")
    return row


def nothing_to_do(result, pool):
    """The same with few volumes and with many."""
    have = 1
    for count in VOLUMES:
        for number in range(have, count):
            pool.volume(f"v{number}", 64 * MIB)
        have = count
        pool.rest()
        time.sleep(15)
        result["idle"].append(minute(count))


def body():
    quiet()
    keep_alive()
    run("modprobe", "brd", "rd_nr=3", f"rd_size={8 << 20}")
    result = {"versions": versions(), "size_bytes": SIZE, "runs": [], "writes": [], "moves": [], "idle": []}
    small_chunks(result)
    default_chunks(result)
    return result


main(body)
