#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 1G --limit 300
"""The daemon is killed at random moments, under eight writers, and nothing is lost.

The writers write, zero and discard volumes of a pool on LVM, and know what each block may hold; an operator takes,
deletes and rolls back snapshots, clones and resizes meanwhile. After each kill another daemon starts; then every block
of every volume and snapshot is compared, and a check finds nothing; sometimes once more, without the kernel's devices.
The first argument is a seed that chooses what is done, the second the number of kills.
"""

import faulthandler
import os
import random
import signal
import sys
import time

import dbus
import libvirt
from operations import SIZES, VOLUME, Operator
from possible import BLOCK, Blocks
from product import (DEADLINE, URI, Daemon, close_group, expect, make_disk, remove_volumes, run, say, start_bus,
                     start_upstream, use_disks)
from workload import MIB, Pool, Volume, Writer, mistake

KILLS = 12
WRITERS = 8
CHUNKS = [64, 64, 256, 1024]  # KiB
POOL = """
<pool type='notify' xmlns:notify='https://virtnotify.org/xmlns/pool/1.0'>
  <name>vms</name><source><name>vg0</name></source><notify:chunk unit='KiB'>%d</notify:chunk>
</pool>"""


def capacities():
    """Each volume and its size in blocks, as libvirt tells it."""
    storage = libvirt.open(URI).storagePoolLookupByName("vms")
    return {volume.name(): volume.info()[1] // BLOCK for volume in storage.listAllVolumes()}


def compare(pool):
    """All that is there with all that must be; nobody writes."""
    sizes = capacities()
    for unsure in pool.unsure:
        unsure.settle(pool, sizes)
    pool.unsure.clear()
    expected = {name: volume.size for name, volume in pool.volumes.items()}
    expect(sizes == expected, f"the volumes {expected}, not {sizes}")
    devices = sorted(os.listdir("/dev/notify/vms"))
    expect(devices == sorted(sizes), f"devices of {sorted(sizes)}, not {devices}")
    for name in sorted(pool.volumes):
        wrong = mistake(pool, pool.volumes[name])
        expect(wrong is None, wrong)


def hold(writers):
    """Waits until no writer has a write under way, and keeps them so."""
    end = time.monotonic() + DEADLINE
    for writer in writers:
        expect(writer.volume.lock.acquire(timeout=max(end - time.monotonic(), 0)), f"the write of {writer.volume.name} to end")


def go_on(writers):
    """Lets the writers go on."""
    for writer in writers:
        writer.volume.lock.release()


def await_name():
    """Waits for the daemon's name on the bus."""
    bus, end = dbus.SystemBus(private=True), time.monotonic() + DEADLINE
    while not bus.name_has_owner("org.virtnotify1"):
        expect(time.monotonic() < end, "the daemon on D-Bus")
        time.sleep(0.02)
    bus.close()


def check():
    """Metadata, LVM, the kernel's maps and the backup agree."""
    bus = dbus.SystemBus(private=True)
    verdict, *_, findings, _ = bus.call_blocking("org.virtnotify1", "/org/virtnotify1", "org.virtnotify1.Manager", "Check",
                                                 "s", ("vms",), timeout=DEADLINE)
    bus.close()
    expect(verdict == 0, f"a check to find nothing: {findings}")


def another_daemon(chance):
    """Starts one, after some that do not live to be ready."""
    while chance.random() < 0.15:
        early = Daemon(ready=False)
        time.sleep(chance.uniform(0, 0.5))
        early.end(signal.SIGKILL)
        say("killed while it started")
    daemon = Daemon()
    refusals = [line for line in daemon.lines if "could not be started" in line]
    expect(not refusals, f"the pool to start: {refusals}")
    await_name()
    return daemon


def one_kill(pool, writers, daemon, chance):
    """Everything at once, a kill, another daemon, and a look at all."""
    # Where all threads are, if this hangs.
    faulthandler.dump_traceback_later(DEADLINE - 20)
    pool.killing.clear()
    operator = Operator(pool)
    operator.start()
    pool.writers_go.set()
    time.sleep(chance.uniform(0.05, 1.2))
    pool.killing.set()
    daemon.end(signal.SIGKILL)
    pool.writers_go.clear()
    say(f"kill {pool.round}")
    daemon = another_daemon(chance)
    operator.join(DEADLINE)
    expect(not operator.is_alive(), "the operator's last deed to end")
    hold(writers)
    for thread in [operator, *writers]:
        expect(thread.failure is None, f"{thread.name}: {thread.failure}")
    compare(pool)
    check()
    if chance.random() < 0.2:
        daemon.end(signal.SIGKILL)
        remove_volumes()
        say("killed in a quiet moment, and the kernel's devices are gone")
        daemon = another_daemon(chance)
        compare(pool)
    go_on(writers)
    return daemon


def main():
    libvirt.registerErrorHandler(lambda *_: None, None)
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(1 << 32)
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else KILLS
    chance = random.Random(seed)
    pool = Pool(seed, chance.choice(CHUNKS))
    say(f"seed {seed}, chunks of {pool.chunk} blocks")
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_bus()
    start_upstream()
    daemon = Daemon()
    await_name()
    run("vgcreate", "-q", "-y", "vg0", "/dev/mapper/pv")
    storage = libvirt.open(URI).storagePoolDefineXML(POOL % (pool.chunk * BLOCK // 1024), 0)
    storage.create(0)
    for number in range(WRITERS):
        size = chance.choice(SIZES)
        storage.createXML(VOLUME % (f"v{number}", size, ""), 0)
        pool.volumes[f"v{number}"] = Volume(f"v{number}", size * MIB // BLOCK, Blocks())
    writers = [Writer(pool, pool.volumes[name]) for name in pool.some("volume")]
    for writer in writers:
        writer.start()
    for pool.round in range(1, kills + 1):
        daemon = one_kill(pool, writers, daemon, chance)
    hold(writers)
    daemon.end(signal.SIGTERM)
    remove_volumes()
    run("virt-notify", "check", "vg0")
    close_group("vg0", "pv")
    say(f"{kills} kills, nothing lost: {dict(pool.counts)}")


if __name__ == "__main__":
    main()
