#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 1G
"""Snapshots, clones and rollbacks on a kernel that checks itself, as people make them; writers that number
their writes say whether a snapshot of several volumes is of one moment; and the daemon is killed in the
middle of all that.
"""

import json
import random
import signal
import struct
import subprocess
import threading
import time

from product import (DEADLINE, Control, Daemon, Failure, close_all, expect, make_disk, make_pool, on_bus, read, run,
                     say, start_bus, start_upstream, use_disks, virsh, write)

MIB = 1 << 20
BLOCK = 4096
CHUNK = 4 * MIB
ROUNDS = 12


def path(volume):
    """Its device."""
    return f"/dev/notify/vms/{volume}"


def snapshot(name, *volumes):
    """Takes a snapshot of volumes."""
    run("virt-notify", "snapshot", "create", name, *(f"vms/{volume}" for volume in volumes))


def delete(volume):
    """Deletes a volume or a snapshot."""
    virsh("vol-delete", volume, "vms")


def put(volume, mib, letter):
    """Writes a block of one letter."""
    write(path(volume), mib * MIB, letter * BLOCK)


def shows(volume, letters):
    """Checks the letter of the block at each place; nothing is zeroes."""
    for mib, letter in letters.items():
        found = read(path(volume), mib * MIB, BLOCK)
        expect(found == (letter or b"\0") * BLOCK, f"{letter} at {mib} MiB of {volume}, not {found[:8]}")


def sentence(*argv):
    """What a command says that must fail."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    expect(done.returncode != 0, f"`{' '.join(argv)}` to be refused")
    return done.stdout + done.stderr


def by_hand():
    """Each kind of it once."""
    virsh("vol-create-as", "vms", "a", "64M")
    old = {0: b"o", 5: b"o", 9: b"o", 33: b""}
    for mib in (9, 5, 0):
        put("a", mib, b"o")
    snapshot("mon", "a")
    shows("a@mon", old)
    put("a", 5, b"n")
    put("a", 33, b"n")
    run("blkdiscard", "-o", str(8 * MIB), "-l", str(4 * MIB), path("a"))
    new = {0: b"o", 5: b"n", 9: b"", 33: b"n"}
    shows("a", new)
    shows("a@mon", old)
    say("a snapshot shows what was")
    refused = sentence("dd", "if=/dev/zero", f"of={path('a@mon')}", "bs=4k", "count=1", "oflag=direct", "conv=notrunc")
    expect("denied" in refused or "permitted" in refused or "read-only" in refused.lower(),
           f"a snapshot to be read-only: {refused}")
    virsh("vol-create-as", "vms", "c", "64M", "--backing-vol", "a@mon", "--backing-vol-format", "raw")
    put("c", 0, b"c")
    shows("c", {**old, 0: b"c"})
    shows("a@mon", old)
    run("virt-notify", "snapshot", "rollback", "vms/a@mon")
    shows("a", old)
    put("a", 0, b"r")
    shows("a@mon", old)
    expect(json.loads(run("virt-notify", "snapshot", "list", "--json", "vms/a")), "a list with a snapshot in it")
    say("cloned and rolled back")
    run("virt-notify", "snapshot", "delete", "vms/a@mon")
    shows("a", {**old, 0: b"r"})
    shows("c", {**old, 0: b"c"})
    delete("a")
    shows("c", {**old, 0: b"c"})
    delete("c")


class Writer(threading.Thread):
    """Writes numbers to two volumes in turn, each after the one before was acknowledged."""

    def __init__(self, volumes):
        super().__init__(daemon=True)
        self._volumes = volumes
        self._random = random.Random(1)
        self._stopped = threading.Event()
        self.number = 0
        self.failure = None

    def run(self):
        try:
            while not self._stopped.is_set():
                number = self.number + 1
                block = struct.pack("=Q", number) * (BLOCK // 8)
                # The number's own place in one of the volumes, and the place of all numbers.
                volume = self._volumes[number % 2]
                write(path(volume), 0, block)
                write(path(volume), self._random.randrange(1, 12) * CHUNK, block)
                self.number = number
        except (OSError, Failure) as failure:
            self.failure = failure

    def stop(self):
        """Ends it."""
        self._stopped.set()
        self.join(DEADLINE)
        expect(not self.is_alive(), "the writer to end")
        if self.failure:
            raise Failure(f"the writer failed: {self.failure}")


def number(volume):
    """The number at the beginning of a volume."""
    return struct.unpack("=Q", read(path(volume), 0, 8 * 512)[:8])[0]


def at_one_moment(daemon):
    """Of two numbers that follow each other the later one is never without the former."""
    for volume in ("x", "y"):
        virsh("vol-create-as", "vms", volume, "48M")
        write(path(volume), 0, bytes(BLOCK))
    writer = Writer(("x", "y"))
    writer.start()
    for turn in range(ROUNDS):
        before = writer.number
        snapshot(f"s{turn}", "x", "y")
        x, y = number(f"x@s{turn}"), number(f"y@s{turn}")
        say(f"snapshot {turn}: {x} and {y}, {before} were acknowledged before")
        expect(abs(x - y) <= 1, f"two numbers that follow each other, not {x} and {y}")
        expect(max(x, y) >= before, f"at least {before} in the snapshot, not {x} and {y}")
        if turn % 4 == 3:
            run("virt-notify", "snapshot", "delete", f"vms/x@s{turn - 1}", f"vms/y@s{turn - 2}")
        if turn % 5 == 2:
            daemon.end(signal.SIGKILL)
            daemon = Daemon()
            on_bus()
            say("killed, and there again")
    kept = {name: number(name) for name in names() if "@" in name}
    writer.stop()
    expect({name: number(name) for name in kept} == kept, "the snapshots to show what they showed")
    last = writer.number
    expect({number("x"), number("y")} == {last, last - 1}, f"{last} and {last - 1} in the volumes")
    return daemon


def names():
    """All volumes and snapshots."""
    return [line.split()[0] for line in virsh("vol-list", "vms").splitlines() if line.strip()]


def all_deleted():
    """All space comes back."""
    for name in sorted(names(), key=lambda name: "@" not in name):
        delete(name)
    end = time.monotonic() + DEADLINE
    while True:
        report = json.loads(run("virt-notify", "check", "--json", "vms"))
        figures = report["figures"]
        if figures["mapped"] == 0 and figures["layers-count"] == 0:
            return
        expect(time.monotonic() < end, f"all space to come free: {figures}")
        time.sleep(0.2)


def main():
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_bus()
    start_upstream()
    daemon = Daemon()
    Control()
    make_pool("vms", "vg0", "pv")
    by_hand()
    daemon = at_one_moment(daemon)
    run("virt-notify", "check", "vms")
    all_deleted()
    say("all space is free")
    close_all(daemon)


if __name__ == "__main__":
    main()
