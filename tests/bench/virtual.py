#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Part 1: what each way to store costs the processor, on a host whose clock counts instructions.

    virtual.py PLAN

Everything lies on RAM disks, so the device's own time is next to nothing, and there is one
processor: whatever the daemon does is time that the writer does not get. The ways are measured
one after the other on the same RAM disk (notify has another one, as a pool has a volume group), some
of them on devices that take their time, then a part of it all once more in the reverse order.

What is done is in the plan, which xtask writes (`xtask/src/bench/plan.rs`).
"""

import json
import sys

import slow
from bench import MIB, fio, main, quiet, run, say, versions
from ways import open_way

PEER_DISK, POOL_DISK = "/dev/ram0", "/dev/ram1"
RAM_DISK = 40 << 30


def largest(rows):
    """The size of the largest volume."""
    return max((volume["size"] for row in rows for volume in row["volumes"]), default=0)


def measured(device, job):
    """A job's figures."""
    more = {"fdatasync": 1} if job["flush"] else {}
    if job["depth"] > 1:
        more |= {"ioengine": "libaio", "iodepth": job["depth"]}
    rw = f"{job['rw']}:{job['skip']}" if job["skip"] else job["rw"]
    return fio(device.path, rw, str(job["block"]), job["size"], job["amount"], **more)


def figures_of(row, group, pool_group, headroom):
    """A way's figures: of each job, and of the first on a volume what the driver counted as well."""
    figures = {}
    say(row["way"])
    with open_way(row["way"], group, pool_group, headroom) as make:
        for volume in row["volumes"]:
            with make(volume["size"]) as device:
                first, *others = volume["jobs"]
                figures[first["name"]] = measured(device, first) | device.counted()
                for job in others:
                    # A pool gets new headroom after a job of first writes, which is no part of the next one.
                    device.rest()
                    figures[job["name"]] = measured(device, job)
    return figures


def all_figures(rows, *place):
    """The figures of all rows, in their order."""
    return {row["way"]: figures_of(row, *place) for row in rows}


def disks(size):
    """Three RAM disks; the third is for the slow devices. A page of one is made by the first write to it, which must not count."""
    run("modprobe", "brd", "rd_nr=3", f"rd_size={RAM_DISK // 1024}")
    size += 256 * MIB
    run("dd", "if=/dev/zero", f"of={PEER_DISK}", "bs=1M", f"count={size // MIB}", "oflag=direct")
    run("pvcreate", "-qq", "-y", "--setphysicalvolumesize", f"{size}b", PEER_DISK)
    run("vgcreate", "-qq", "bench", PEER_DISK)
    run("pvcreate", "-qq", "-y", POOL_DISK)
    run("vgcreate", "-qq", "notify", POOL_DISK)


def slow_figures(plan):
    """The figures on devices that take their time."""
    figures = {}
    for name in plan["slow_devices"] if plan["slow_rows"] else []:
        say(f"a device of which {name}")
        with slow.group(name, largest(plan["slow_rows"]) + 512 * MIB) as group:
            figures[name] = all_figures(plan["slow_rows"], group, group, plan["slow_headroom"])
    return figures


def body():
    with open(sys.argv[1], encoding="ascii") as file:
        plan = json.load(file)
    quiet()
    say("making the RAM disks")
    disks(largest(plan["rows"]))
    result = {"plan": plan, "versions": versions()}
    place = "bench", "notify", plan["headroom"]
    result["figures"] = all_figures(plan["rows"], *place)
    result["slow"] = slow_figures(plan)
    say("a part once more, in the reverse order")
    result["turned"] = all_figures(plan["turned_rows"], *place)
    return result


main(body)
