#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M
"""A pool's life on a kernel that checks itself: growth, discard, resize, delete, and the daemon killed
while a write waits for it, and while a device is suspended.
"""

import fcntl
import os
import signal
import struct
import threading
import time

from product import (DEADLINE, Daemon, close_all, expect, make_disk, make_pool, read, run, say, start_upstream,
                     use_disks, virsh, write)

MIB = 1 << 20
BLOCK = 65536
BLKDISCARD = 0x1277
VOLUME = "/dev/notify/vms/a"


def allocation():
    """What the volume holds, in bytes."""
    info = dict(line.split(":", 1) for line in virsh("vol-info", "--bytes", "a", "vms").splitlines() if ":" in line)
    return int(info["Allocation"].split()[0])


def held():
    """How many writes wait."""
    return int(run("dmsetup", "status", "--noflush", "notify:vms:a").split()[5])


def until(holds, text):
    """Waits; the kernel's status has no event for it."""
    end = time.monotonic() + DEADLINE
    while not holds():
        expect(time.monotonic() < end, f"in time: {text}")
        time.sleep(0.1)


def killed_while_a_write_waits(daemon):
    """The next daemon serves what the killed one did not."""
    daemon.stop()
    writer = threading.Thread(target=write, args=(VOLUME, 40 * MIB, b"k" * BLOCK), daemon=True)
    writer.start()
    until(lambda: held() > 0, "a write that waits")
    daemon.end(signal.SIGKILL)
    say("killed while a write waits")
    daemon = Daemon()
    writer.join(DEADLINE)
    expect(not writer.is_alive(), "the write to end")
    expect(read(VOLUME, 40 * MIB, BLOCK) == b"k" * BLOCK, "what was written while the daemon was killed")
    return daemon


def killed_while_it_resized(daemon):
    """A device that a killed daemon left suspended is resumed by the next one."""
    daemon.end(signal.SIGKILL)
    run("dmsetup", "suspend", "--noflush", "--nolockfs", "notify:vms:a")
    daemon = Daemon()
    write(VOLUME, 44 * MIB, b"s" * BLOCK)
    expect(read(VOLUME, 44 * MIB, BLOCK) == b"s" * BLOCK, "what was written after the resume")
    return daemon


def discarded():
    """What is discarded reads as zeroes and is given back."""
    before = allocation()
    fd = os.open(VOLUME, os.O_WRONLY)
    fcntl.ioctl(fd, BLKDISCARD, struct.pack("=QQ", 8 * MIB, 8 * MIB))
    os.close(fd)
    expect(read(VOLUME, 8 * MIB, BLOCK) == bytes(BLOCK), "zeroes where it was discarded")
    until(lambda: allocation() < before, f"less than {before} bytes allocated")


def main():
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_upstream()
    daemon = Daemon()
    make_pool("vms", "vg0", "pv")
    virsh("vol-create-as", "vms", "a", "48M")
    expect(allocation() == 0, "a new volume to hold nothing")
    for mib in range(0, 32, 4):
        write(VOLUME, mib * MIB, bytes([mib + 1]) * BLOCK)
    expect(allocation() >= 32 * MIB, "eight chunks to be allocated")
    say("grown")
    daemon = killed_while_a_write_waits(daemon)
    daemon = killed_while_it_resized(daemon)
    say("resumed")
    for mib in range(0, 32, 4):
        expect(read(VOLUME, mib * MIB, BLOCK) == bytes([mib + 1]) * BLOCK, f"what was written at {mib} MiB")
    discarded()
    say("discarded")
    virsh("vol-resize", "a", "64M", "vms")
    write(VOLUME, 60 * MIB, b"r" * BLOCK)
    expect(read(VOLUME, 60 * MIB, BLOCK) == b"r" * BLOCK, "what was written behind the old end")
    virsh("vol-delete", "a", "vms")
    expect(not os.path.exists(VOLUME), "no device of a deleted volume")
    say("resized and deleted")
    close_all(daemon)


if __name__ == "__main__":
    main()
