#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a snapshot, a clone and a difference take, by what there is, on a host whose clock counts instructions.

    moments.py [quick]

- the longest write during a snapshot of a volume of few runs and of many, and the time of the command;
- clones of a golden image: the time of each, and the daemon's memory;
- the difference of two snapshots, by the volume's runs and by what was changed;
- the same of dm-thin with chunks of the same size, by LVM's commands.

The metadata of all is on a RAM disk, so flushes cost nothing. What is stored lies on a device that forgets it
(dm-zero): nobody has the space to spare, and nothing of it is read back. There is one processor: what the
daemon or LVM does is time that the writer does not get.
"""

import json
import os
import statistics
import sys
import time

import libvirt

from bench import (
    MIB, Failure, Pool, Writer, configure, daemon_bytes, forgetful, keep_alive, main, microseconds, quiet, run, say,
    versions, write_blocks)

QUICK = "quick" in sys.argv[1:]
RUNS = [1000, 10_000] if QUICK else [1000, 100_000, 1_000_000]
THIN_RUNS = RUNS[:2]
GOLDEN = RUNS[1]
CLONES, THIN_CLONES = (5, 5) if QUICK else (50, 20)
CHANGED = [10, 100] if QUICK else [10, 1000]
ROUNDS = 3 if QUICK else 5
CHUNK = 64 << 10
FORGETFUL = 1 << 40


# --- the place ------------------------------------------------------------

def prefer(disk):
    """From now on the group gives space of this disk alone."""
    for name in ("/dev/ram0", "/dev/mapper/forgetful"):
        run("pvchange", "-qq", "-x", "y" if name == disk else "n", name)


def group():
    """A group with a RAM disk for metadata, and a large part that forgets."""
    run("modprobe", "brd", "rd_nr=2", f"rd_size={4 << 20}")
    run("vgcreate", "-qq", "-y", "moments", "/dev/ram0", forgetful("/dev/ram1", FORGETFUL))
    prefer("/dev/ram0")


# --- pauses ---------------------------------------------------------------

def pauses(way, runs, path, snapshot, rest):
    """The longest write during each of some snapshots, and just before."""
    calls, longest, before = [], [], []
    for number in range(ROUNDS):
        rest()
        with Writer(path) as writer:
            time.sleep(0.2)
            begun = time.monotonic()
            snapshot(f"p{number}")
            ended = time.monotonic()
            # The write that is the first after the snapshot belongs to it.
            time.sleep(0.05)
        calls.append(round((ended - begun) * 1e6))
        longest.append(writer.longest(begun, ended + 0.02))
        before.append(writer.longest(begun - 0.1, begun))
    row = {"way": way, "runs": runs, "first_us": longest[0], "median_us": statistics.median(longest),
           "most_us": max(longest), "before_us": statistics.median(before), "call_us": statistics.median(calls)}
    say(f"PAUSE {json.dumps(row)}")
    return row


# --- notify ---------------------------------------------------------------

def start_pool():
    """A pool whose metadata has all the room that it will need on the RAM disk."""
    configure(headroom_mib=512, step_mib=512)
    pool = Pool("bench", "moments", CHUNK)
    pool.rest()
    run("lvextend", "-qq", "-L", "2G", "moments/notify-meta")
    prefer("/dev/mapper/forgetful")
    run("virsh", "pool-refresh", "bench")
    pool.rest()
    return pool


def laid_out(pool, name, runs):
    """A volume in which each second chunk is allocated, none beside the one before: by a map that is restored."""
    path = pool.volume(name, 2 * runs * CHUNK)
    # The one line of the map that the others stand in for.
    write_blocks(path, [0])
    pool.rest()
    if int(run("blockdev", "--getsize64", "/dev/moments/notify-data0")) < (runs + 1) * CHUNK:
        run("lvextend", "-qq", "-L", f"{runs * CHUNK + 64 * MIB}b", "moments/notify-data0")
    pool.restore((2 * number, number, 1) for number in range(runs))
    pool.rest()
    say(f"{name} has {runs} runs")
    return path


def snapshot(volume, name):
    """Takes a snapshot, as an operator does."""
    run("virt-notify", "snapshot", "create", name, f"bench/{volume}")


def difference(pool, path, runs, changed):
    """The time of `virt-notify diff` of two snapshots between which so many chunks were written."""
    snapshot("big", f"from{changed}")
    write_blocks(path, [2 * CHUNK * (number * (runs // changed)) for number in range(changed)])
    snapshot("big", f"to{changed}")
    pool.rest()
    words = ["virt-notify", "diff", f"bench/big@from{changed}", f"bench/big@to{changed}"]
    found = sum(part["length"] for part in json.loads(run(*words))) // CHUNK
    if found != changed:
        raise Failure(f"{changed} chunks were written, and {found} differ")
    row = {"runs": runs, "changed": changed,
           "diff_us": statistics.median(microseconds(lambda: run(*words)) for _ in range(3))}
    say(f"DIFF {json.dumps(row)}")
    return row


def clones(pool, parent_path):
    """Clones of a golden image, made one after the other, none deleted."""
    parent = libvirt.open("qemu:///system").storagePoolLookupByName(pool.name)
    capacity = 2 * GOLDEN * CHUNK
    before, times = daemon_bytes(), []
    for number in range(CLONES):
        xml = (f"<volume><name>c{number}</name><capacity>{capacity}</capacity>"
               f"<backingStore><path>{parent_path}</path></backingStore></volume>")
        times.append(microseconds(lambda: parent.createXML(xml)))
    pool.rest()
    row = {"way": "notify", "runs": GOLDEN, "clones": CLONES, "call_us": statistics.median(times),
           "first_us": statistics.median(times[:5]), "last_us": statistics.median(times[-5:]),
           "daemon_before_bytes": before, "daemon_bytes": daemon_bytes()}
    # As a command, as LVM's is one.
    row["command_us"] = statistics.median(
        microseconds(lambda: run("virsh", "vol-create-as", pool.name, f"d{number}", f"{capacity}B", "--backing-vol",
                                 os.path.basename(parent_path))) for number in range(3))
    say(f"CLONE {json.dumps(row)}")
    for volume in parent.listAllVolumes():
        if volume.name()[0] in "cd":
            volume.delete()
    pool.rest()
    return row


def ours(pool, runs, result):
    """The figures of a volume of so many runs."""
    path = laid_out(pool, "big", runs)
    result["pause"].append(pauses("notify", runs, path, lambda name: snapshot("big", name), pool.rest))
    result["diff"] += [difference(pool, path, runs, changed) for changed in CHANGED]
    if runs == GOLDEN:
        result["clone"].append(clones(pool, f"{path}@p0"))
    pool.delete("big")
    pool.rest()


# --- dm-thin --------------------------------------------------------------

def thin_pool(runs):
    """A thin volume in which each second chunk is allocated; its pool zeroes nothing, which would not be kept."""
    size = 2 * runs * CHUNK
    prefer("/dev/ram0")
    run("lvcreate", "-qq", "-y", "-Wn", "-n", "thinmeta", "-L", "256M", "moments")
    prefer("/dev/mapper/forgetful")
    run("lvcreate", "-qq", "-y", "-Wn", "-n", "thinpool", "-L", f"{runs * CHUNK + 256 * MIB}b", "moments")
    run("lvconvert", "-qq", "-y", "--type", "thin-pool", "-c", f"{CHUNK}b", "-Z", "n", "--poolmetadata",
        "moments/thinmeta", "moments/thinpool")
    run("lvcreate", "-qq", "-y", "-V", f"{size}b", "--thinpool", "thinpool", "-n", "thin", "moments")
    write_blocks("/dev/moments/thin", range(0, size, 2 * CHUNK))
    run("udevadm", "settle")
    say(f"dm-thin: {runs} chunks")


def thin_snapshot(name):
    """Takes a snapshot with a device, as ours have one."""
    run("lvcreate", "-qq", "-y", "-s", "-kn", "-n", name, "moments/thin")


def thin(runs, result):
    """The figures of a thin volume of so many chunks."""
    thin_pool(runs)
    result["pause"].append(pauses("thin64k", runs, "/dev/moments/thin", thin_snapshot,
                                  lambda: run("udevadm", "settle")))
    if runs == GOLDEN:
        times = [microseconds(lambda: thin_snapshot(f"c{number}")) for number in range(THIN_CLONES)]
        row = {"way": "thin64k", "runs": runs, "clones": THIN_CLONES, "first_us": statistics.median(times[:5]),
               "last_us": statistics.median(times[-5:]), "command_us": statistics.median(times)}
        result["clone"].append(row)
        say(f"CLONE {json.dumps(row)}")
    run("lvremove", "-qq", "-y", "moments/thinpool")


def body():
    quiet()
    keep_alive()
    group()
    result = {"versions": versions(), "pause": [], "clone": [], "diff": []}
    for runs in THIN_RUNS:
        thin(runs, result)
    prefer("/dev/ram0")
    pool = start_pool()
    for runs in RUNS:
        ours(pool, runs, result)
    return result


main(body)
