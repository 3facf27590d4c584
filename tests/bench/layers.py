#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What writes cost after a snapshot, on a host whose clock counts instructions.

    layers.py PLAN

Each volume is filled, gets its snapshots, and does its jobs, one row after the other on the same RAM disk
(notify has another one, as a pool has a volume group). Between its snapshots a part of the volume is
written again, so that each holds something alone. What is done is in the plan, which xtask writes
(`xtask/src/bench/layers.rs`).
"""

import contextlib
import json
import random
import sys

from bench import MIB, fio, main, quiet, run, say, stats, versions, waits
from ways import fresh_pool, plain, thin_pool

PEER_DISK, POOL_DISK = "/dev/ram0", "/dev/ram1"
RAM_DISK = 8 << 30
BLOCK = 4096


class Volume:
    """A device, how a snapshot of it is taken, how many chunks were copied since one, what else its driver counts, and
    how its driver comes to rest."""

    def __init__(self, path, snapshot, copied, counted=dict, rest=lambda: None):
        self.path, self.snapshot, self.copied, self.counted, self.rest = path, snapshot, copied, counted, rest


# --- linear volumes, and LVM's first kind of snapshot ---------------------

@contextlib.contextmanager
def classic(group, row, volume):
    """A linear volume; what is written to it is copied to each of its snapshots first."""
    def snapshot(name):
        room = volume["size"] * 9 // 8 + 64 * MIB
        run("lvcreate", "-qq", "-y", "-s", "-c", f"{row['chunk']}b", "-L", f"{room}b", "-n", name, f"{group}/plain")

    def copied():
        # Sectors that are taken, of how many, and how many of those are its own.
        taken, own = run("dmsetup", "status", f"{group}-s0").split()[3:5]
        return (int(taken.split("/")[0]) - int(own)) * 512 // row["chunk"]

    with plain(group, volume["size"]) as device:
        yield Volume(device.path, snapshot, copied)


# --- dm-thin --------------------------------------------------------------

@contextlib.contextmanager
def thin(group, row, volume):
    """A thin volume; its pool counts what all of it takes."""
    def used():
        return int(run("dmsetup", "status", f"{group}-thinpool-tpool").split()[5].split("/")[0])

    before = []

    def snapshot(name):
        run("lvcreate", "-qq", "-y", "-s", "-n", name, f"{group}/thin")
        before.append(used())

    with thin_pool(group, "thin", volume["size"], row["chunk"], True, 3 * volume["size"]) as device:
        yield Volume(device.path, snapshot, lambda: used() - before[-1])


# --- notify ---------------------------------------------------------------

@contextlib.contextmanager
def notify(group, row, volume):
    """A volume of a pool of its own, with as much clean headroom as the row says, or as it is installed."""
    headroom = row["headroom"] // MIB
    storage = {"headroom_mib": headroom, "step_mib": headroom} if headroom else {}

    def snapshot(name):
        run("virt-notify", "snapshot", "create", name, "bench/fresh")
        stats(pool.target("fresh"), reset=True)

    def copied():
        listed = json.loads(run("virt-notify", "--json", "snapshot", "list", "bench/fresh"))
        return listed[-1]["exclusive"] // row["chunk"]

    def counted():
        return {"wait": waits([stats(pool.target("fresh"))])}

    with fresh_pool(group, row["chunk"], **storage) as pool:
        path = pool.volume("fresh", volume["size"])
        pool.rest()
        yield Volume(path, snapshot, copied, counted, pool.rest)
        pool.delete("fresh")
        pool.rest()


KINDS = {"linear": classic, "classic": classic, "thin": thin, "notify": notify}


# --- what is done ---------------------------------------------------------

def scattered(device, job, area):
    """One write to each chunk of the area, in the same random order for all."""
    order = random.Random(1)
    offsets = [chunk * job["each"] + order.randrange(job["each"] // BLOCK) * BLOCK
               for chunk in range(area // job["each"])]
    order.shuffle(offsets)
    with open("/tmp/scattered", "w", encoding="ascii") as file:
        file.write(f"fio version 2 iolog\n{device} add\n{device} open\n")
        file.writelines(f"{device} write {offset} {BLOCK}\n" for offset in offsets)
        file.write(f"{device} close\n")
    return fio(device, "randwrite", str(BLOCK), area, read_iolog=file.name)


def measured(device, job, size):
    """A job's figures."""
    if job["each"]:
        return scattered(device, job, size)
    return fio(device, job["rw"], str(job["block"]), size, job["amount"])


def with_snapshots(device, volume):
    """Fills a volume and takes its snapshots; after each but the last a part of it is written again."""
    fio(device.path, "write", "1M", volume["size"])
    count = volume["snapshots"]
    for number in range(count):
        device.snapshot(f"s{number}")
        if number + 1 < count:
            part = volume["size"] // count // MIB * MIB
            fio(device.path, "write", "1M", part, offset=number * part)


def figures_of(row, group, pool_group):
    """A row's figures: of each job, and of the first after a snapshot how many chunks it had copied."""
    say(row["way"])
    figures = {}
    for volume in row["volumes"]:
        with KINDS[row["kind"]](pool_group if row["kind"] == "notify" else group, row, volume) as device:
            with_snapshots(device, volume)
            for job in volume["jobs"]:
                # What is got after a job, or after the volume was filled, is no part of the next one.
                device.rest()
                figures[job["name"]] = measured(device.path, job, volume["size"])
                if job["copies"]:
                    figures[job["name"]] |= {"chunks": device.copied()} | device.counted()
    say("FIGURES " + json.dumps({row["way"]: figures}))
    return figures


def disks(size):
    """Two RAM disks. A page of one is made by the first write to it, which must not count."""
    run("modprobe", "brd", "rd_nr=2", f"rd_size={RAM_DISK // 1024}")
    for disk, group in ((PEER_DISK, "bench"), (POOL_DISK, "notify")):
        run("dd", "if=/dev/zero", f"of={disk}", "bs=1M", f"count={size // MIB}", "oflag=direct")
        run("pvcreate", "-qq", "-y", "--setphysicalvolumesize", f"{size}b", disk)
        run("vgcreate", "-qq", group, disk)


def body():
    with open(sys.argv[1], encoding="ascii") as file:
        plan = json.load(file)
    quiet()
    say("making the RAM disks")
    disks(plan["disk"])
    result = {"plan": plan, "versions": versions()}
    result["figures"] = {row["way"]: figures_of(row, "bench", "notify") for row in plan["rows"]}
    return result


if __name__ == "__main__":
    main(body)
