#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs on a host while virtual machines are watched, and tells what they do there: a line of JSON
for each thing, with the time of this host's clock.

  ready   libvirt's events are heard from now on
  state   what libvirt says of a machine when the events begin
  event   one of libvirt's events of a machine's life
  qemu    an event of QEMU itself, with QEMU's own time for it
  ran     KVM counted exits of a machine's processors between two moments: its code ran then
  gone    the process of a machine has ended
  pong    the answer to `ping NUMBER` on the standard input, for comparing clocks

Ends with its standard input.
"""

import glob
import json
import os
import re
import subprocess
import sys
import threading
import time

PERIOD = 0.15
KVM = "/sys/kernel/debug/kvm"
EVENTS = {"RESUME", "STOP", "SHUTDOWN", "RESET", "GUEST_PANICKED", "BLOCK_IO_ERROR"}
LIFE = ["Defined", "Undefined", "Started", "Suspended", "Resumed", "Stopped", "Shutdown", "PMSuspended", "Crashed"]
# Why a machine was suspended, as libvirt numbers it.
SUSPENDED = ["Paused", "Migrated", "IOError", "Watchdog", "Restored", "FromSnapshot", "APIError", "Postcopy"]
OUTPUT = threading.Lock()


def tell(kind, **facts):
    """One line."""
    with OUTPUT:
        print(json.dumps({"kind": kind, "time": time.time(), **facts}), flush=True)


def machine(pid):
    """The name of the virtual machine that a process runs."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            found = re.search(r"\0guest=([^,\0]+)", file.read())
    except OSError:
        return None
    return found and found[1]


def exits(place):
    """How often its processors have come back from running its code; None when it has gone."""
    try:
        with open(f"{place}/exits", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return None


def sample():
    """Asks KVM, again and again, which machines run: libvirt need not answer for that."""
    known, before = {}, None
    while True:
        now = time.time()
        counts = {place: exits(place) for place in glob.glob(f"{KVM}/*-*")}
        for place in known.keys() - counts.keys():
            if known[place][0]:
                tell("gone", name=known[place][0], pid=known[place][1])
            del known[place]
        for place, count in counts.items():
            if count is None:
                continue
            pid = os.path.basename(place).split("-")[0]
            name, _, last = known.get(place) or (machine(pid), pid, 0)
            # What it did before the first look is not known.
            if count > last and name and before:
                tell("ran", name=name, pid=pid, since=before, until=time.time())
            known[place] = name, pid, count
        before = now
        time.sleep(PERIOD)


def life(_connection, domain, event, detail, _opaque):
    """libvirt's own words for what happened."""
    why = SUSPENDED[detail] if LIFE[event] == "Suspended" and detail < len(SUSPENDED) else str(detail)
    tell("event", name=domain.name(), event=LIFE[event], why=why)


def qemu(_connection, domain, event, seconds, micros, details, _opaque):
    """What QEMU said, and when."""
    if event in EVENTS:
        tell("qemu", name=domain.name(), event=event, at=seconds + micros / 1e6, details=details)


def listen():
    """Hears libvirt's events; when its daemon goes away, those of the next one."""
    import libvirt  # it takes a while, and the samples need not wait
    import libvirt_qemu
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    while True:
        try:
            connection = libvirt.open("qemu:///system")
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, life, None)
            libvirt_qemu.qemuMonitorEventRegister(connection, None, None, qemu, None, 0)
            tell("ready")
            for domain in connection.listAllDomains():
                tell("state", name=domain.name(), running=domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING)
            while connection.isAlive():
                libvirt.virEventRunDefaultImpl()
            tell("event", name="", event="libvirt's daemon has gone", why="")
        except libvirt.libvirtError as error:
            tell("event", name="", event=f"libvirt does not answer: {error}", why="")
            time.sleep(0.5)


def main():
    """Answers pings until nobody sends any more."""
    if os.path.exists("/dev/kvm") and not os.path.isdir(KVM):
        subprocess.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=True)
    for work in (sample, listen):
        threading.Thread(target=work, daemon=True).start()
    for line in sys.stdin:
        tell("pong", number=int(line.split()[1]))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
