#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 1G --limit 300
"""virtnotifyd is killed at random moments, under eight writers, and nothing is lost.

The writers write, zero and discard volumes of a pool on LVM, and know what each block may hold; an operator takes,
deletes and rolls back snapshots, clones and resizes meanwhile. After each kill another daemon starts; then every block
of every volume and snapshot is compared, and a check finds nothing; sometimes once more, without the kernel's devices.
virtnotify-control, of which the operator asks it, lives through all that, and is killed now and then, too.
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
from product import (DEADLINE, URI, Control, Daemon, close_group, expect, make_disk, remove_volumes, run, say,
                     start_bus, start_upstream, use_disks)
from workload import MIB, Pool, Volume, Writer, mistake

KILLS = 12
WRITERS = 8
CHUNKS = [64, 64, 256, 1024]  # KiB
NAME, ROOT = "org.virtnotify1", "/org/virtnotify1"
MANAGER = f"{NAME}.Manager"
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


def storage_runs(bus):
    """Whether virtnotify-control is on the bus, and has virtnotifyd behind it."""
    if not bus.name_has_owner(NAME):
        return False
    return bus.call_blocking(NAME, ROOT, dbus.PROPERTIES_IFACE, "Get", "ss", (MANAGER, "StorageRuns"), timeout=DEADLINE)


def on_bus():
    """Waits for both daemons. What a virtnotifyd said that was killed is over before another one can be ready."""
    bus, end = dbus.SystemBus(private=True), time.monotonic() + DEADLINE
    while not storage_runs(bus):
        expect(time.monotonic() < end, "virtnotify-control on D-Bus, and virtnotifyd behind it")
        time.sleep(0.02)
    bus.close()


def check():
    """Metadata, LVM, the kernel's maps and the backup agree."""
    bus = dbus.SystemBus(private=True)
    verdict, *_, findings, _ = bus.call_blocking(NAME, ROOT, MANAGER, "Check", "s", ("vms",), timeout=DEADLINE)
    bus.close()
    expect(verdict == 0, f"a check to find nothing: {findings}")


class Daemons:
    """virtnotifyd, and virtnotify-control beside it."""

    def __init__(self, chance):
        self._chance = chance
        self._daemon, self._control = Daemon(), Control(ready=False)
        on_bus()

    def kill(self):
        """Kills virtnotifyd, and now and then virtnotify-control, before or after it."""
        killed = [self._daemon]
        if self._chance.random() < 0.2:
            killed.insert(self._chance.randrange(2), self._control)
            say("virtnotify-control is killed, too")
        for one in killed:
            one.end(signal.SIGKILL)
        if self._control in killed:
            self._control = None

    def kill_control(self):
        """Kills virtnotify-control alone, of which nobody asks anything, and starts another one."""
        self._control.end(signal.SIGKILL)
        self._control = Control(ready=False)
        on_bus()

    def start(self):
        """Starts virtnotifyd again, after some that do not live to be ready."""
        self._control = self._control or Control(ready=False)
        while self._chance.random() < 0.15:
            early = Daemon(ready=False)
            time.sleep(self._chance.uniform(0, 0.5))
            early.end(signal.SIGKILL)
            say("killed while it started")
        self._daemon = Daemon()
        refusals = [line for line in self._daemon.lines if "could not be started" in line]
        expect(not refusals, f"the pool to start: {refusals}")
        on_bus()

    def end(self):
        """Ends virtnotifyd alone, as it should end."""
        self._daemon.end(signal.SIGTERM)


def one_kill(pool, writers, daemons, chance):
    """Everything at once, a kill, another daemon, and a look at all."""
    # Where all threads are, if this hangs.
    faulthandler.dump_traceback_later(DEADLINE - 20)
    pool.killing.clear()
    pool.writers_go.set()
    if chance.random() < 0.1:
        daemons.kill_control()
        say("virtnotify-control was killed while volumes are written")
    operator = Operator(pool)
    operator.start()
    time.sleep(chance.uniform(0.05, 1.2))
    pool.killing.set()
    daemons.kill()
    pool.writers_go.clear()
    say(f"kill {pool.round}")
    daemons.start()
    operator.join(DEADLINE)
    expect(not operator.is_alive(), "the operator's last deed to end")
    hold(writers)
    for thread in [operator, *writers]:
        expect(thread.failure is None, f"{thread.name}: {thread.failure}")
    compare(pool)
    check()
    if chance.random() < 0.2:
        daemons.kill()
        remove_volumes()
        say("killed in a quiet moment, and the kernel's devices are gone")
        daemons.start()
        compare(pool)
    go_on(writers)


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
    daemons = Daemons(chance)
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
        one_kill(pool, writers, daemons, chance)
    hold(writers)
    daemons.end()
    remove_volumes()
    run("virt-notify", "check", "vg0")
    close_group("vg0", "pv")
    say(f"{kills} kills, nothing lost: {dict(pool.counts)}")


if __name__ == "__main__":
    main()
