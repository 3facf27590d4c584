#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M --disk 512M --limit 240
"""Snapshots and clones as people meet them, with virsh and virt-notify: taken of two volumes at once, read,
rolled back, compared, sent to another pool and received there, and deleted; what is refused, and why.
"""

import json
import os
import signal
import subprocess

from product import (Control, Daemon, close_group, expect, make_disk, make_pool, on_bus, read, remove_volumes, run, say,
                     start_bus, start_upstream, use_disks, virsh, write)

MIB = 1 << 20
BLOCK = 65536


def fill(letter):
    """A block of one letter."""
    return letter.encode() * BLOCK


def device(name, pool="vms"):
    """Where a volume or a snapshot is."""
    return f"/dev/notify/{pool}/{name}"


def snapshot(*words):
    """`virt-notify snapshot`, as programs use it."""
    return json.loads(run("virt-notify", "--json", "snapshot", *words))


def refused(says, *argv, stdin=None):
    """A command that has to fail, and say this."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=stdin)
    expect(done.returncode != 0 and says in done.stderr,
           f"`{' '.join(argv)}` to be refused with {says!r}, not {done.returncode}: {done.stdout}{done.stderr}")


def names(pool="vms"):
    """The volumes and snapshots of a pool, as virsh lists them."""
    return [line.split()[0] for line in virsh("vol-list", pool).splitlines() if line.strip()]


def taken_at_one_moment():
    """Two volumes, one snapshot; what is written afterwards is in neither."""
    for name in ("a", "b"):
        write(device(name), 0, fill("x"))
        write(device(name), 8 * MIB, fill("y"))
    made = snapshot("create", "mon", "vms/a", "vms/b")
    expect(made["snapshots"] == ["vms/a@mon", "vms/b@mon"], f"both, not {made}")
    expect(names() == ["a", "a@mon", "b", "b@mon"], f"the snapshots to be listed, not {names()}")
    for name in ("a", "b"):
        write(device(name), 0, fill("z"))
        write(device(name), 16 * MIB, fill("n"))
        for at, letter in ((0, "x"), (8, "y"), (16, "\0")):
            expect(read(device(f"{name}@mon"), at * MIB, BLOCK) == fill(letter), f"{letter!r} at {at} MiB of {name}@mon")
        for at, letter in ((0, "z"), (8, "y"), (16, "n")):
            expect(read(device(name), at * MIB, BLOCK) == fill(letter), f"{letter!r} at {at} MiB of {name}")
    try:
        write(device("a@mon"), 0, fill("w"))
    except OSError:
        pass
    else:
        expect(False, "a snapshot to be read-only")
    refused("'a@mon' is a snapshot", "virsh", "-c", "storage:///system", "vol-resize", "a@mon", "64M", "vms")
    refused("virt-notify snapshot create tue vms/a", "virsh", "-c", "storage:///system", "vol-create-as", "vms",
            "a@tue", "1M")
    refused("already", "virt-notify", "snapshot", "create", "mon", "vms/a")


def compared():
    """Exactly what was written is different."""
    snapshot("create", "tue", "vms/a")
    parts = json.loads(run("virt-notify", "diff", "vms/a@mon", "vms/a@tue"))
    covered = {part["start"] // (4 * MIB) for part in parts}
    expect(covered == {0, 4} and all(part["data"] for part in parts), f"the chunks at 0 and 16 MiB, not {parts}")
    expect(json.loads(run("virt-notify", "diff", "vms/a@tue", "vms/a")) == [], "nothing since")
    refused("does not go back", "virt-notify", "diff", "vms/a@mon", "vms/b")


def sent(source, target):
    """Sends a snapshot in one pipe; returns how the receiver ended, and what it said."""
    with subprocess.Popen(["virt-notify", "send", *source], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
        done = subprocess.run(["virt-notify", "receive", target], stdin=sender.stdout, capture_output=True, text=True)
        said = sender.stderr.read().decode()
    expect(sender.returncode == 0, f"send {source}: {said}")
    return done.returncode, done.stderr


def same(name, other):
    """Compares two devices as a whole."""
    run("cmp", device(name), device(other, "other"))


def sent_and_received():
    """The whole, then what was written since; the receiver keeps both."""
    expect(sent(["vms/a@mon"], "other/c") == (0, ""), "the whole to be received")
    same("a@mon", "c@mon")
    same("a@mon", "c")
    expect(sent(["vms/a@tue", "--from", "mon"], "other/c") == (0, ""), "the difference to be received")
    same("a@tue", "c")
    same("a@mon", "c@mon")
    same("a@tue", "c@tue")
    expect(names("other") == ["c", "c@mon", "c@tue"], f"nothing else to be left, not {names('other')}")
    stream = "/tmp/stream"
    with open(stream, "wb") as file:
        subprocess.run(["virt-notify", "send", "vms/b@mon"], stdout=file, stderr=subprocess.DEVNULL, check=True)
    os.truncate(stream, os.path.getsize(stream) - 1)
    with open(stream, "rb") as file:
        refused("cut off", "virt-notify", "receive", "other/d", stdin=file)
    expect(names("other") == ["c", "c@mon", "c@tue"], f"nothing of what was cut off, not {names('other')}")


def rolled_back():
    """Refused while the volume is open; afterwards the volume is as it was."""
    with open(device("a"), "rb"):
        refused("shut its VM off", "virt-notify", "snapshot", "rollback", "vms/a@mon")
    snapshot("rollback", "vms/a@mon")
    for at, letter in ((0, "x"), (8, "y"), (16, "\0")):
        expect(read(device("a"), at * MIB, BLOCK) == fill(letter), f"{letter!r} at {at} MiB after the roll back")
    expect(read(device("a@tue"), 0, BLOCK) == fill("z"), "a later snapshot to stay")


def cloned():
    """Made of a snapshot and of a volume; none of them sees what the other writes."""
    virsh("vol-create-as", "vms", "k1", "64M", "--backing-vol", "a@mon")
    expect(f"<path>{device('a@mon')}</path>" in virsh("vol-dumpxml", "k1", "vms"), "the backing store to be printed")
    virsh("vol-clone", "a", "k2", "vms")
    for name in ("k1", "k2"):
        expect(read(device(name), 0, BLOCK) == fill("x"), f"{name} to hold what it was made of")
        write(device(name), 0, fill("k"))
    expect(read(device("a"), 0, BLOCK) == fill("x"), "the volume to stay as it was")
    expect(read(device("a@mon"), 0, BLOCK) == fill("x"), "the snapshot to stay as it was")


def deleted():
    """With the volume or not at all; clones stay."""
    refused("has snapshots (a@mon, a@tue)", "virsh", "-c", "storage:///system", "vol-delete", "a", "vms")
    virsh("vol-delete", "a", "vms", "--delete-snapshots")
    expect(names() == ["b", "b@mon", "k1", "k2"], f"the others to stay, not {names()}")
    expect(read(device("k1"), 8 * MIB, BLOCK) == fill("y"), "a clone to outlive what it was made of")
    snapshot("delete", "vms/b@mon")
    expect(read(device("b"), 8 * MIB, BLOCK) == fill("y"), "a volume to outlive its snapshot")


def undamaged(group):
    """A check finds nothing, but that the daemon had something to collect since its last backup."""
    done = subprocess.run(["virt-notify", "check", group], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = [line for line in done.stdout.splitlines() if line.startswith(("warning:", "damage:"))]
    others = [line for line in found if not line.startswith("warning: the backup is ")]
    expect(done.returncode < 2 and not others, f"a check of {group} to find nothing: {done.stdout}{done.stderr}")


def main():
    start_bus()
    for number, disk in enumerate(("/dev/ubda", "/dev/ubdb")):
        make_disk(f"pv{number}", disk)
    use_disks("pv0", "pv1")
    start_upstream()
    daemon = Daemon()
    Control()
    for number, pool in enumerate(("vms", "other")):
        make_pool(pool, f"vg{number}", f"pv{number}")
    for name in ("a", "b"):
        virsh("vol-create-as", "vms", name, "64M")
    taken_at_one_moment()
    say("taken")
    compared()
    sent_and_received()
    say("sent and received")
    daemon.end(signal.SIGKILL)
    daemon = Daemon()
    on_bus()
    say("killed")
    rolled_back()
    cloned()
    deleted()
    say("rolled back, cloned and deleted")
    daemon.end(signal.SIGTERM)
    remove_volumes()
    for number in (0, 1):
        undamaged(f"vg{number}")
        close_group(f"vg{number}", f"pv{number}")


if __name__ == "__main__":
    main()
