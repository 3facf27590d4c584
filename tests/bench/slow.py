# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volume groups on devices that take their time, to the microsecond.

dm-delay waits whole milliseconds, and no less than a tick of the kernel's clock. So it does not wait
here, but only parts the requests: reads and writes go to a RAM disk, flushes to a null block
device, whose timer is exact. Where each request is to take time, all go to the latter, which then
keeps the data. (LVM takes no null block device by itself.)
"""

import contextlib
import os

from bench import MIB, run

CONFIGURATION = "/sys/kernel/config/nullb"
RAM_DISK = "/dev/ram2"
# LVM would find a label at the RAM disk's start twice.
START = 4 * MIB
DELAYS = {"flush50us": 50_000, "flush2ms": 2_000_000, "request50us": 50_000}


@contextlib.contextmanager
def null_block(size, nanoseconds):
    """A null block device that completes each request after so long, and has a cache to flush."""
    run("modprobe", "null_blk", "nr_devices=0")
    if not os.path.ismount("/sys/kernel/config"):
        run("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    place = f"{CONFIGURATION}/timed"
    os.mkdir(place)
    settings = {
        "size": size // MIB, "blocksize": 4096, "memory_backed": 1, "cache_size": 1, "irqmode": 2,
        "completion_nsec": nanoseconds, "power": 1,
    }
    try:
        for name, value in settings.items():
            with open(f"{place}/{name}", "w", encoding="ascii") as file:
                file.write(str(value))
        yield "/dev/timed"
    finally:
        os.rmdir(place)


@contextlib.contextmanager
def parted(size, data, flushes):
    """A device of which reads and writes go to one device, and flushes to another."""
    run("dd", "if=/dev/zero", f"of={data}", "bs=1M", f"count={(START + size) // MIB}", "oflag=direct")
    data = f"{data} {START // 512} 0"
    run("dmsetup", "create", "parted", "--table", f"0 {size // 512} delay {data} {data} {flushes} 0 0")
    try:
        yield "/dev/mapper/parted"
    finally:
        run("dmsetup", "remove", "--retry", "parted")


@contextlib.contextmanager
def group(name, size):
    """A volume group on a device that takes its time. A directory of its name is in /dev, beside those of devices."""
    with null_block(START + size, DELAYS[name]) as delayed:
        with parted(size, RAM_DISK if name.startswith("flush") else delayed, delayed) as device:
            run("pvcreate", "-qq", "-y", device)
            run("vgcreate", "-qq", "slow", device)
            try:
                yield "slow"
            finally:
                run("vgremove", "-qq", "-y", "slow")
                run("pvremove", "-qq", "-y", device)
