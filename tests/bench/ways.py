# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways to store that are compared.

`open_way(name, ...)` is a context that gives a function; each call of that is a context with a fresh
`Device`. Everything lies in one volume group; notify has one of its own, as a pool has.
"""

import contextlib
import os

from bench import MIB, Pool, configure, fio, mapped, run, stats, until, waits

FILES = "/mnt/files"
EATEN = 64 * MIB


class Device:
    """A block device, what its driver counts, and how that comes to rest."""

    def __init__(self, path, counted=dict, rest=lambda: None):
        self.path, self.counted, self.rest = path, counted, rest


# --- linear volumes ------------------------------------------------------

@contextlib.contextmanager
def plain(group, size):
    """A linear logical volume: one mapping."""
    run("lvcreate", "-qq", "-y", "-Wn", "-n", "plain", "-L", f"{size}b", group)
    try:
        yield Device(f"/dev/{group}/plain")
    finally:
        run("lvremove", "-qq", "-y", f"{group}/plain")


@contextlib.contextmanager
def linear(group, size):
    """dm-linear in the place that the target has: on a logical volume, so with two mappings."""
    with plain(group, size) as below:
        run("dmsetup", "create", "linear", "--table", f"0 {size // 512} linear {below.path} 0")
        try:
            yield Device("/dev/mapper/linear")
        finally:
            run("dmsetup", "remove", "--retry", "linear")


# --- dm-thin -------------------------------------------------------------

def thin_chunks(group, name, chunk):
    """How many chunks a thin volume has been given."""
    return int(run("dmsetup", "status", f"{group}-{name}").split()[3]) * 512 // chunk


@contextlib.contextmanager
def thin_pool(group, name, size, chunk, zero, room=0):
    """A pool with one thin volume, and room for snapshots of it; LVM's defaults but for the chunk size and the zeroing."""
    run("lvcreate", "-qq", "-y", "--type", "thin-pool", "-c", f"{chunk}b", "-Z", "y" if zero else "n",
        "-L", f"{size + room + 64 * MIB}b", "-n", f"{name}pool", group)
    try:
        run("lvcreate", "-qq", "-y", "-V", f"{size}b", "--thinpool", f"{name}pool", "-n", name, group)
        yield Device(f"/dev/{group}/{name}", lambda: {"chunks": thin_chunks(group, name, chunk)})
    finally:
        run("lvremove", "-qq", "-y", f"{group}/{name}pool")


def thin(chunk, zero):
    """How such a volume is made."""
    return lambda group, size: thin_pool(group, "thin", size, chunk, zero)


# --- files behind nbd ----------------------------------------------------

@contextlib.contextmanager
def files(group):
    """An XFS for files."""
    run("lvcreate", "-qq", "-y", "-Wn", "-n", "files", "-l", "100%FREE", group)
    try:
        run("mkfs.xfs", "-q", "-f", "-K", f"/dev/{group}/files")
        os.makedirs(FILES, exist_ok=True)
        run("mount", f"/dev/{group}/files", FILES)
        try:
            yield
        finally:
            run("umount", FILES)
    finally:
        run("lvremove", "-qq", "-y", f"{group}/files")


def file_of(form):
    """A sparse file of this format, as a block device through qemu-nbd."""
    @contextlib.contextmanager
    def make(group, size):
        with files(group):
            run("modprobe", "nbd", "nbds_max=1")
            run("qemu-img", "create", "-q", "-f", form, f"{FILES}/disk", str(size))
            run("qemu-nbd", "-c", "/dev/nbd0", "-f", form, "--cache=none", "--aio=native", f"{FILES}/disk")
            try:
                until("the network block device", 60,
                      lambda: int(run("blockdev", "--getsize64", "/dev/nbd0")) == size)
                yield Device("/dev/nbd0")
            finally:
                run("qemu-nbd", "-d", "/dev/nbd0")
                until("qemu-nbd to end", 60, lambda: not os.path.exists("/sys/block/nbd0/pid"))
    return make


PEERS = {
    "linear": linear,
    "lv": plain,
    "thin4m": thin(4 * MIB, zero=True),
    "thin4m_skip": thin(4 * MIB, zero=False),
    "thin64k": thin(64 << 10, zero=True),
    "thin64k_skip": thin(64 << 10, zero=False),
    "raw": file_of("raw"),
    "qcow2": file_of("qcow2"),
}


# --- notify --------------------------------------------------------------

def counted(pool, name):
    """What the target counted since the volume was made."""
    target = pool.target(name)
    counters = stats(target)
    return {
        "chunks": mapped(target), "waited": counters["wanted_total"], "signals": counters["signals"],
        "wait": waits([counters]),
    }


@contextlib.contextmanager
def notify_volume(pool, size):
    """A fresh volume of an idle pool."""
    path = pool.volume("fresh", size)
    try:
        pool.rest()
        free = {"free_before_bytes": pool.free()}
        yield Device(path, lambda: free | counted(pool, "fresh"), pool.rest)
    finally:
        pool.delete("fresh")
        pool.rest()


@contextlib.contextmanager
def fresh_pool(group, chunk=None, **storage):
    """A pool that knows of no growth before. To delete it takes its group away, which is made again."""
    disk = run("vgs", "--noheadings", "-o", "pv_name", group).strip()
    configure(**storage)
    pool = Pool("bench", group, chunk)
    pool.rest()
    # After a failure nothing follows, and what it left is no failure of its own.
    yield pool
    pool.remove()
    run("pvcreate", "-qq", "-y", disk)
    run("vgcreate", "-qq", group, disk)


@contextlib.contextmanager
def notify(group, headroom):
    """As much clean headroom as any job needs, made before its time is taken."""
    with fresh_pool(group, headroom_mib=headroom // MIB, step_mib=headroom // MIB) as pool:
        yield lambda size: notify_volume(pool, size)


@contextlib.contextmanager
def notify_installed(group, _headroom):
    """Nothing is set. A pool of its own for each volume: one remembers how fast it grew, and has more
    ready the next time."""
    @contextlib.contextmanager
    def make(size):
        with fresh_pool(group) as pool, notify_volume(pool, size) as device:
            yield device

    yield make


@contextlib.contextmanager
def notify_dirty(group, _headroom):
    """The smallest headroom there can be, used up by another writer just before."""
    @contextlib.contextmanager
    def make(size):
        with fresh_pool(group, headroom_mib=1, step_mib=64) as pool:
            eater = pool.volume("eater", EATEN)
            with notify_volume(pool, size) as device:
                fio(eater, "write", "1M", EATEN)
                yield Device(device.path, lambda: counted(pool, "fresh"), pool.rest)
            pool.delete("eater")

    yield make


OURS = {"notify": notify, "notify_installed": notify_installed, "notify_dirty": notify_dirty}


@contextlib.contextmanager
def open_way(name, group, pool_group, headroom):
    """The way of that name: a function from a size to a context with a fresh device."""
    if name in OURS:
        with OURS[name](pool_group, headroom) as make:
            yield make
    else:
        yield lambda size: PEERS[name](group, size)
