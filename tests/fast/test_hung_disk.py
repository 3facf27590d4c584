#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 256M --disk 256M --limit 300
"""The disk of one pool does not answer: what grows in another pool goes on, and so does what asks about it. The
watchdog is fed, because nothing ends a process that the kernel has wait for a disk; the pool is told as damaged.
The write that waited gets "no space" in time, with which QEMU pauses its VM. Once the disk answers, it ends well.
"""

import os
import socket
import subprocess
import sys
import threading
import time

from product import (
    DEADLINE, URI, Daemon, close_group, expect, make_disk, make_pool, read, remove_volumes, run, say, start_upstream,
    use_disks, virsh, write,
)

NOTIFY = "/run/notify-of-test"
# Of systemd's watchdog: the daemon says that it lives each quarter, and after a half a pool is silent.
INTERVAL = 40
CHUNK = 64 << 10


class Watchdog(threading.Thread):
    """systemd, as far as the daemon sees it: when it said that it lives."""

    def __init__(self):
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(NOTIFY)
        self.beats = []

    def run(self):
        while True:
            if b"WATCHDOG=1" in self._socket.recv(4096):
                self.beats.append(time.monotonic())

    def gap(self):
        """The longest time without it, until now."""
        beats = self.beats + [time.monotonic()]
        return max(after - before for before, after in zip(beats, beats[1:]))


def until(holds, what):
    """Waits for what a line or a beat says."""
    end = time.monotonic() + DEADLINE
    while not holds():
        expect(time.monotonic() < end, what)
        time.sleep(0.2)


def grow(pool, chunk, data):
    """A first write, by a program of its own: it waits. Says why it failed, if it did."""
    done = subprocess.run(["dd", f"of=/dev/notify/{pool}/disk0", f"bs={CHUNK}", f"seek={chunk}", "oflag=direct",
                           "conv=notrunc", "iflag=fullblock", "status=none"],
                          input=data, stderr=subprocess.PIPE, check=False)
    return done.stderr.decode()


def body(disks):
    """One pool a disk."""
    use_disks("good", "bad")
    watchdog = Watchdog()
    watchdog.start()
    start_upstream()
    daemon = Daemon(NOTIFY_SOCKET=NOTIFY, WATCHDOG_USEC=str(INTERVAL * 1_000_000))
    for name, disk in zip(("good", "bad"), disks):
        make_disk(name, disk)
        make_pool(name, f"vg-{name}", name)
        virsh("vol-create-as", name, "disk0", "64M")
        write(f"/dev/notify/{name}/disk0", 0, b"a" * CHUNK)

    run("dmsetup", "suspend", "--noflush", "--nolockfs", "bad")
    stopped = time.monotonic()
    say("the disk of 'bad' does not answer")
    data = b"b" * CHUNK
    why = grow("bad", 200, data)
    expect("No space left on device" in why, f"the write to wait, and to get 'no space': {why}")
    told = lambda: [line for line in daemon.lines if "a disk does not answer" in line]
    until(told, "the daemon to tell it")
    say(f"told after {time.monotonic() - stopped:.0f} s: {told()[0].strip()}")
    expect("bad" in told()[0], "the pool's name")
    asked = time.monotonic()
    shown = run("timeout", "60", "virsh", "-q", "-c", URI, "pool-list", "--details")
    expect("good" in shown and "bad" in shown, f"both pools: {shown}")
    for pool in ("good", "bad"):
        expect("disk0" in run("timeout", "60", "virsh", "-q", "-c", URI, "vol-list", pool, "--details"), "a volume")
    say(f"all pools and volumes were listed in {time.monotonic() - asked:.1f} s")

    for round_ in range(4):
        for chunk in range(round_ * 100, round_ * 100 + 40):
            write("/dev/notify/good/disk0", chunk * CHUNK, b"c" * CHUNK)
        virsh("vol-create-as", "good", f"disk{round_ + 1}", "64M")
        time.sleep(INTERVAL / 4)
    expect(watchdog.gap() < INTERVAL, f"the watchdog was not fed for {watchdog.gap():.0f} s")
    expect(len(told()) == 1, "it to be told once")
    say(f"the watchdog was fed, after {watchdog.gap():.0f} s at most; the other pool grows")

    run("dmsetup", "resume", "bad")
    until(lambda: not grow("bad", 200, data), "the write to end well")
    expect(read("/dev/notify/bad/disk0", 200 * CHUNK, CHUNK) == data, "its data")
    virsh("vol-create-as", "bad", "disk1", "64M")
    say("the disk answers, and so does its pool")

    for name in ("good", "bad"):
        virsh("pool-destroy", name)
        virsh("pool-undefine", name)
    daemon.end(15)
    remove_volumes()
    for name in ("good", "bad"):
        close_group(f"vg-{name}", name)
    os.unlink(NOTIFY)


if __name__ == "__main__":
    body(sys.argv[1:] or ["/dev/ubda", "/dev/ubdb"])
