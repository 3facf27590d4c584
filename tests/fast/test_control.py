#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M --limit 240
"""virtnotifyd and virtnotify-control live without each other. Volumes grow while virtnotify-control hangs and when it is
killed; it comes first and waits; it shows pools and volumes as before while virtnotifyd is killed and started again,
says that it does not run, and hears the next one. Nobody but root gets to virtnotifyd, and there is one of each.
"""

import json
import os
import signal
import stat
import subprocess
import threading
import time

import dbus
from product import (DEADLINE, Control, Daemon, close_all, expect, make_disk, on_bus, run, say, start_bus,
                     start_upstream, use_disks, virsh, write)
from workload import Thread

NAME, ROOT = "org.virtnotify1", "/org/virtnotify1"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
POOL, VOLUME = f"{ROOT}/pool/vms", f"{ROOT}/volume/vms/a"
STORAGE = "/run/virtnotify/storage.sock"
MIB = 1 << 20
BLOCK = 4096
CHUNK = 64 << 10
SIZE = 128 * MIB
# How long virtnotify-control waits for virtnotifyd, in seconds.
PATIENCE = 10
XML = """
<pool type='notify' xmlns:notify='https://virtnotify.org/xmlns/pool/1.0'>
  <name>vms</name><source><name>vg0</name></source><notify:chunk unit='KiB'>64</notify:chunk>
</pool>"""
NOBODY = """
import socket
socket.socket(socket.AF_UNIX).connect("%s")
"""


def until(holds, what):
    """Waits for what nothing tells."""
    end = time.monotonic() + DEADLINE
    while not holds():
        expect(time.monotonic() < end, what)
        time.sleep(0.05)


class Asked:
    """virtnotify-control as clients of D-Bus see it, over one connection."""

    def __init__(self):
        self.bus = dbus.SystemBus(private=True)

    def _call(self, interface, method, signature="", arguments=()):
        return self.bus.call_blocking(NAME, ROOT, interface, method, signature, arguments, timeout=DEADLINE)

    def owner(self):
        """Who has the name; None when nobody has."""
        try:
            return self.bus.get_name_owner(NAME)
        except dbus.DBusException:
            return None

    def storage_runs(self):
        """Whether it has virtnotifyd behind it."""
        return bool(self._call(dbus.PROPERTIES_IFACE, "Get", "ss", (f"{NAME}.Manager", "StorageRuns")))

    def objects(self):
        """All objects: their properties by path."""
        return {str(path): dict(pair for of in interfaces.values() for pair in of.items())
                for path, interfaces in self._call(OBJECTS, "GetManagedObjects").items()}


class Watch(Thread):
    """Looks all the time: the pool and its volume are there, with their sizes."""

    def __init__(self):
        super().__init__("the look at what is shown")
        self._over = threading.Event()
        self.looks = 0

    def work(self):
        asked = Asked()
        while not self._over.wait(0.02):
            shown = asked.objects()
            pool, volume = shown.get(POOL, {}), shown.get(VOLUME, {})
            expect(pool.get("Active") and pool.get("Capacity", 0) > 0, f"the pool to be shown as it was: {pool}")
            expect(volume.get("Capacity") == SIZE and volume.get("Allocation", 0) > 0,
                   f"the volume to be shown as it was: {volume}")
            self.looks += 1

    def stop(self):
        """Ends it, and tells what was wrong."""
        self._over.set()
        self.join(DEADLINE)
        expect(not self.is_alive(), f"{self.name} to end")
        expect(self.failure is None, self.failure)


class Signals(Thread):
    """What is told on D-Bus, as busctl hears it: (path, name, arguments)."""

    def __init__(self):
        super().__init__("the listener")
        self.heard = []
        self._process = subprocess.Popen(["busctl", "--system", "--json=short", "monitor", NAME], text=True,
                                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.start()
        # It says nothing when it listens.
        end = time.monotonic() + DEADLINE
        while not self.heard:
            expect(time.monotonic() < end, "a signal to be heard")
            virsh("vol-create-as", "vms", "hear", "4M")
            virsh("vol-delete", "hear", "vms")
            time.sleep(0.2)

    def work(self):
        for line in self._process.stdout:
            message = json.loads(line) if line.endswith("}\n") else {}
            if message.get("type") == "signal" and message["path"].startswith(ROOT):
                self.heard.append((message["path"], message["member"], message["payload"]["data"]))

    def storage_runs(self):
        """What was told of it, each time that it changed."""
        told = [arguments[1].get("StorageRuns") for path, name, arguments in list(self.heard)
                if (path, name) == (ROOT, "PropertiesChanged")]
        return [value["data"] for value in told if value]

    def removed(self):
        """The pools and volumes that were told to be gone, the one apart that comes and goes to be heard."""
        gone = [arguments[0] for _, name, arguments in list(self.heard) if name == "InterfacesRemoved"]
        return [path for path in gone if path.startswith((f"{ROOT}/pool/", f"{ROOT}/volume/"))
                and path != f"{ROOT}/volume/vms/hear"]

    def close(self):
        """Ends it."""
        self._process.terminate()
        self._process.wait(DEADLINE)
        self.join(DEADLINE)
        expect(self.failure is None, f"each line to be understood: {self.failure}")


class Writer(Thread):
    """Writes to one chunk after the other that nothing was written to."""

    def __init__(self):
        super().__init__("the writer")
        self._over = threading.Event()
        self.chunks, self.longest = 0, 0.0

    def work(self):
        while not self._over.is_set() and self.chunks < SIZE // CHUNK:
            began = time.monotonic()
            write("/dev/notify/vms/a", self.chunks * CHUNK, b"w" * BLOCK)
            self.longest = max(self.longest, time.monotonic() - began)
            self.chunks += 1
            time.sleep(0.002)

    def stop(self):
        """Ends it."""
        self._over.set()
        self.join(DEADLINE)
        expect(not self.is_alive(), "the last write to end")
        expect(self.failure is None, self.failure)


def alone(asked):
    """It comes first: on the bus after a while, where it says what is missing. Returns it and virtnotifyd."""
    began = time.monotonic()
    control = Control(ready=False)
    until(asked.owner, "its name")
    took = time.monotonic() - began
    expect(took < PATIENCE + 10, f"its name after {PATIENCE} s, not {took:.0f}")
    expect(not asked.storage_runs(), "it to say that virtnotifyd does not run")
    expect(not any(path.startswith(f"{ROOT}/pool/") for path in asked.objects()), "no pool")
    say(f"on the bus after {took:.0f} s, without virtnotifyd")
    daemon = Daemon()
    on_bus()
    run("vgcreate", "-q", "-y", "vg0", "/dev/mapper/pv")
    with open("/run/pool.xml", "w", encoding="ascii") as file:
        file.write(XML)
    virsh("pool-define", file.name)
    virsh("pool-start", "vms")
    virsh("vol-create-as", "vms", "a", f"{SIZE // MIB}M")
    until(lambda: asked.objects().get(POOL, {}).get("Active") and VOLUME in asked.objects(), "the pool and its volume")
    say("virtnotifyd is there, and so are its pool and volume")
    return control, daemon


def one_of_each(asked):
    """A second one is refused, and strangers do not get to virtnotifyd."""
    owner = asked.owner()
    second = subprocess.run(["virtnotify-control"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    expect(second.returncode not in (0, 78), f"a second one to be refused: {second.returncode} {second.stderr}")
    expect(asked.owner() == owner and asked.storage_runs(), "the first one to go on")
    say(f"a second one is refused: {(second.stderr.splitlines() or ['it says nothing'])[-1].strip()}")
    mode = stat.S_IMODE(os.stat(STORAGE).st_mode)
    expect(mode == 0o600, f"a socket for root alone, not {mode:o}")
    done = subprocess.run(["python3", "-c", NOBODY % STORAGE], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          user=65534, group=65534, extra_groups=[])
    expect("PermissionError" in done.stderr, f"nobody but root to get to virtnotifyd: {done.stderr}")


def growth_goes_on(control, asked):
    """It hangs, and is killed, while a volume is written. Returns the next one."""
    writer = Writer()
    writer.start()
    until(lambda: writer.chunks > 20, "some growth")
    before = writer.chunks
    control.stop()
    time.sleep(3)
    hung = writer.chunks
    virsh("vol-list", "vms")
    control.end(signal.SIGKILL)
    time.sleep(1)
    killed = writer.chunks
    control = Control()
    until(lambda: writer.chunks > killed + 20 or writer.chunks == SIZE // CHUNK, "growth beside the next one")
    writer.stop()
    expect(hung > before + 50 and (killed > hung or killed == SIZE // CHUNK), f"growth meanwhile: {before}, {hung}, {killed}")
    expect(writer.longest < 10, f"no write to wait for it, but one took {writer.longest:.1f} s")
    say(f"{hung - before} chunks were written while it hung, {killed - hung} without it; the longest write took "
        f"{writer.longest * 1000:.0f} ms")
    until(lambda: asked.objects().get(VOLUME, {}).get("Allocation", 0) >= writer.chunks * CHUNK,
          f"{writer.chunks} chunks to be shown")
    return control


def refused_in_time():
    """Without virtnotifyd a call fails, with a sentence, after a while."""
    began = time.monotonic()
    done = subprocess.run(["virt-notify", "snapshot", "create", "never", "vms/a"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=DEADLINE)
    took = time.monotonic() - began
    expect(done.returncode == 3 and "virtnotifyd, which serves the pools of type 'notify', does not run" in done.stderr,
           f"a sentence: {done.returncode} {done.stderr}")
    expect(took < PATIENCE + 10, f"it to be told after {PATIENCE} s at most, not {took:.0f}")
    say(f"without virtnotifyd, after {took:.0f} s: {done.stderr.strip()}")


def another_virtnotifyd(daemon, asked):
    """It is killed and started again, twice, under one virtnotify-control, which takes nothing away. Returns the last one."""
    owner, signals, watch = asked.owner(), Signals(), Watch()
    watch.start()
    for turn in (1, 2):
        daemon.end(signal.SIGKILL)
        until(lambda: not asked.storage_runs(), "it to say that virtnotifyd does not run")
        if turn == 1:
            refused_in_time()
        daemon = Daemon()
        on_bus()
        virsh("vol-create-as", "vms", f"new{turn}", "4M")
        until(lambda: f"{ROOT}/volume/vms/new{turn}" in asked.objects(), "the new volume")
        write(f"/dev/notify/vms/new{turn}", 0, b"n" * BLOCK)
    until(lambda: signals.storage_runs() == [False, True] * 2, "each end and each start to be told")
    watch.stop()
    signals.close()
    expect(not signals.removed(), f"no pool or volume to be told to be gone: {signals.removed()}")
    expect(asked.owner() == owner, "the same virtnotify-control")
    say(f"virtnotifyd was killed twice; pool and volume were there each of {watch.looks} times")
    return daemon


def main():
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_bus()
    start_upstream()
    asked = Asked()
    control, daemon = alone(asked)
    one_of_each(asked)
    control = growth_goes_on(control, asked)
    daemon = another_virtnotifyd(daemon, asked)
    run("virt-notify", "check", "vms")
    control.end(signal.SIGTERM)
    until(lambda: asked.owner() is None, "its name to be free")
    close_all(daemon)


if __name__ == "__main__":
    main()
