#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 768M --disk 768M --limit 900
"""A disk of the volume group is emptied and taken away while guests write: `virt-notify evacuate` on the kernel and with
LVM. Writers remember what was acknowledged, and compare it; others grow. The daemon is killed in the middle of the
second time. What cannot be done is refused, and changes nothing.
"""

import json
import os
import signal
import subprocess
import time

from product import (DEADLINE, Control, Daemon, expect, make_disk, on_bus, read, remove_volumes, run, say, start_bus,
                     start_upstream, use_disks, virsh, write)
from test_collector import BLOCK, CHUNK, CHUNKS, MIB, OFFSETS, Guest, block, path

VOLUMES = ("a", "b")
DISKS = ("pv0", "pv1")


def device(disk):
    """How LVM names it."""
    return f"/dev/mapper/{disk}"


def segments(disk):
    """What lies on a disk: volume and extents."""
    rows = run("pvs", "--noheadings", "--segments", "-o", "lv_name,pvseg_size", device(disk)).splitlines()
    rows = [row.split() for row in rows]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}


def closed(disk):
    """Whether logical volumes get nothing of it."""
    return not run("pvs", "--noheadings", "-o", "pv_allocatable", device(disk)).strip()


def moving():
    """Whether LVM moves something."""
    return "pvmove" in run("lvs", "--noheadings", "-a", "-o", "lv_name", "vg0")


def evacuate(disk):
    """Empties a disk; what was said last."""
    told, moved = None, None
    with subprocess.Popen(["virt-notify", "--json", "evacuate", "vg0", disk], stdout=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL) as job:
        for line in job.stdout:
            told = json.loads(line)
            if told["moved"] != moved:
                moved = told["moved"]
                say(f"{moved // MIB} of {told['total'] // MIB} MiB")
    expect(job.returncode == 0 and told, f"a job that is done: {told}")
    return told


def refused(group, disk, text):
    """It cannot be done, for this reason, and nothing has changed."""
    before = layout()
    done = subprocess.run(["virt-notify", "evacuate", group, disk], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    expect(done.returncode in (3, 64) and text in done.stderr, f"'{text}', not {done.returncode}: {done.stderr}")
    expect(layout() == before, f"all as it was after: {text}")


def layout():
    """Which devices the group has, whether they are in use, and which logical volumes, those of moves too: not how
    large these are, since the pool has its headroom filled meanwhile.
    """
    devices = run("pvs", "--noheadings", "-o", "pv_name,pv_allocatable")
    return devices, run("lvs", "--noheadings", "-a", "-o", "lv_name,lv_allocation_locked", "vg0")


def fill():
    """Two volumes with something in each chunk."""
    for volume in VOLUMES:
        virsh("vol-create-as", "vms", volume, f"{CHUNKS * CHUNK // MIB}M")
        for chunk in range(CHUNKS):
            for offset in OFFSETS:
                write(path(volume), chunk * CHUNK + offset, block(volume, 0))


def idle_longest():
    """The longest write of guests beside which nothing is done."""
    guests = [Guest(volume, number) for number, volume in enumerate(VOLUMES)]
    for guest in guests:
        guest.start()
    time.sleep(5)
    for guest in guests:
        guest.stop()
    return max(guest.longest for guest in guests), {guest.volume: guest.acknowledged for guest in guests}


def guests_from(known, seed):
    """Guests that know what was acknowledged before, at work."""
    guests = [Guest(volume, seed + number) for number, volume in enumerate(VOLUMES)]
    for guest in guests:
        guest.acknowledged = known[guest.volume]
        guest.done = seed * 100000
        guest.start()
    return guests


def stop(guests):
    """Ends them, and compares everything; what they know."""
    for guest in guests:
        guest.stop()
    return {guest.volume: guest.acknowledged for guest in guests}


def grow(name, chunks):
    """A new volume gets space, all of it."""
    virsh("vol-create-as", "vms", name, f"{chunks * CHUNK // MIB}M")
    for chunk in range(chunks):
        write(path(name), chunk * CHUNK, block(name, chunk))


def take_out(disk):
    """The disk leaves the group, and the host."""
    run("vgreduce", "-q", "vg0", device(disk))
    run("pvremove", "-q", device(disk))
    run("dmsetup", "remove", disk)


def put_back(disk, number):
    """It comes back, empty."""
    make_disk(disk, f"/dev/ubd{'ab'[number]}")
    run("pvcreate", "-q", "-y", device(disk))
    run("vgextend", "-q", "vg0", device(disk))


def cannot():
    """What is refused, with the reason."""
    refused("vg0", "/dev/ubda", "is no physical volume of the volume group 'vg0'")
    refused("vg0", "/dev/none", "'/dev/none' cannot be looked at")
    refused("vg0", "ubda", "no absolute path")
    refused("vg1", device("pv0"), "no pool lies in the volume group 'vg1'")
    run("lvcreate", "-q", "-y", "-Wn", "-Zn", "-n", "root", "-l", "1", "vg0", device("pv0"))
    refused("vg0", device("pv0"), "'vg0/root' lies on '/dev/mapper/pv0' too, and is not the pool's")
    run("lvremove", "-q", "-y", "vg0/root")
    run("lvcreate", "-q", "-y", "-Wn", "-Zn", "-n", "root", "-l", "95%FREE", "vg0", device("pv1"))
    refused("vg0", device("pv0"), "have room for ")
    run("lvremove", "-q", "-y", "vg0/root")
    say("what cannot be done is refused")


def away(known, idle):
    """One disk is emptied and goes while guests write and one grows."""
    expect(segments("pv0").get("notify-data0", 0) > 0 and segments("pv0").get("notify-meta", 0) > 0,
           f"data and metadata on pv0: {segments('pv0')}")
    guests = guests_from(known, 11)
    began = time.monotonic()
    done = evacuate("/dev/disk/by-id/first")
    took = time.monotonic() - began
    longest = max(guest.longest for guest in guests)
    expect(done["state"] == "done" and done["moved"] > 200 * MIB, f"a job that is done: {done}")
    expect(not segments("pv0") and closed("pv0"), f"nothing on pv0: {segments('pv0')}")
    say(f"{done['moved'] // MIB} MiB moved in {took:.1f} s; the longest write took {longest * 1000:.1f} ms, "
        f"and {idle * 1000:.1f} ms before")
    grow("g", 8)
    expect(not segments("pv0"), "growth goes elsewhere")
    take_out("pv0")
    known = stop(guests)
    run("virt-notify", "check", "vms")
    refused("vg0", device("pv1"), "'/dev/mapper/pv1' is the only physical volume of 'vg0'")
    say(f"pv0 is gone; {sum(guest.done % 100000 for guest in guests)} reads and writes")
    return known


def by_hand():
    """An operator's own `pvmove`, which LVM looks after once an hour: volumes grow all the same."""
    data = "notify-data0"
    start = run("pvs", "--noheadings", "--segments", "-o", "lv_name,pvseg_start", device("pv1")).splitlines()
    start = next(int(row.split()[1]) for row in start if row.split()[0] == data)
    with subprocess.Popen(["pvmove", "-i", "3600", f"{device('pv1')}:{start}-{start + 7}", device("pv0")],
                          stdin=subprocess.DEVNULL) as mover:
        end = time.monotonic() + DEADLINE
        while not moving():
            expect(time.monotonic() < end, "a move by hand")
        began = time.monotonic()
        grow("m", 60)
        took = time.monotonic() - began
        mover.kill()
    lvs = run("lvs", "--noheadings", "-o", "lv_name", "vg0").split()
    expect(data in lvs, f"the data LV among {lvs}")
    run("vgchange", "-q", "--poll", "y", "vg0")
    end = time.monotonic() + DEADLINE
    while moving():
        expect(time.monotonic() < end, "the move by hand to end")
        time.sleep(0.2)
    for chunk in range(60):
        expect(read(path("m"), chunk * CHUNK, BLOCK) == block("m", chunk), f"chunk {chunk} of m")
    virsh("vol-delete", "--pool", "vms", "m")
    run("virt-notify", "reclaim", "vms")
    run("virt-notify", "check", "vms")
    say(f"beside a pvmove by hand 60 chunks were written in {took:.1f} s, with {len(lvs) - 1} data LVs")


def cancelled():
    """A job that is cancelled leaves the disk in use."""
    with subprocess.Popen(["virt-notify", "--json", "evacuate", "vg0", device("pv1")], stdout=subprocess.PIPE,
                          text=True, stdin=subprocess.DEVNULL) as watched:
        end = time.monotonic() + DEADLINE
        while not moving():
            expect(time.monotonic() < end, "a move")
        expect(closed("pv1"), "nothing new on pv1 from the beginning on")
        watched.send_signal(signal.SIGINT)
        lines = watched.communicate(timeout=DEADLINE)[0].splitlines()
    expect(json.loads(lines[-1])["state"] == "cancelled" and watched.returncode == 1, f"cancelled, not {lines[-1]}")
    expect(not closed("pv1") and not moving(), "pv1 in use again")
    say("cancelled, and in use again")


def killed(daemon, known):
    """The other one is emptied; the daemon and whatever LVM runs are killed in the middle."""
    guests = guests_from(known, 22)
    with subprocess.Popen(["virt-notify", "--json", "evacuate", "vg0", device("pv1")],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                          text=True) as watched:
        end = time.monotonic() + DEADLINE
        while not moving():
            expect(time.monotonic() < end, "a move")
        daemon.end(signal.SIGKILL)
        watchers = kill_watchers()
        said = watched.communicate(timeout=DEADLINE)[1]
    expect(watched.returncode == 3 and "virtnotifyd is gone, and the job with it" in said,
           f"its end to be told: {watched.returncode} {said!r}")
    expect(moving() and segments("pv1"), "a move that nobody watches")
    daemon = Daemon()
    on_bus()
    grow("h", 40)
    expect(closed("pv1"), "nothing new on pv1 after a kill, either")
    done = evacuate(device("pv1"))
    expect(done["state"] == "done" and not segments("pv1"), f"nothing on pv1: {done} {segments('pv1')}")
    take_out("pv1")
    known = stop(guests)
    for chunk in range(40):
        expect(read(path("h"), chunk * CHUNK, BLOCK) == block("h", chunk), f"chunk {chunk} of h")
    run("virt-notify", "check", "vms")
    say(f"killed with {watchers} watchers of LVM, and asked again: pv1 is gone")
    return daemon, known


def kill_watchers():
    """Kills the processes of LVM that watch moves; says how many there were."""
    count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as line:
                words = line.read().split(b"\0")
        except FileNotFoundError:
            continue
        if b"pvmove" in words or words[0].endswith(b"(lvm2)"):
            os.kill(int(entry), signal.SIGKILL)
            count += 1
    return count


def main():
    for disk, node in zip(DISKS, ("/dev/ubda", "/dev/ubdb")):
        make_disk(disk, node)
    use_disks(*DISKS)
    start_bus()
    start_upstream()
    daemon = Daemon()
    Control()
    run("vgcreate", "-q", "-y", "vg0", *(device(disk) for disk in DISKS))
    os.makedirs("/dev/disk/by-id", exist_ok=True)
    os.symlink(device("pv0"), "/dev/disk/by-id/first")
    virsh("pool-define-as", "vms", "notify", "--source-name", "vg0", "--target", "/dev/notify/vms")
    virsh("pool-start", "vms")
    fill()
    cannot()
    idle, known = idle_longest()
    known = away(known, idle)
    put_back("pv0", 0)
    by_hand()
    cancelled()
    daemon, known = killed(daemon, known)
    daemon.end(signal.SIGTERM)
    remove_volumes()
    run("virt-notify", "check", "vg0")
    run("vgchange", "-an", "vg0")
    run("dmsetup", "remove", "pv0")


if __name__ == "__main__":
    main()
