#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# lab: --hosts 1
"""A host is restarted while a guest's write waits and no daemon is there to serve it: the shutdown
does not wait for anything longer than a write is held, and the host comes back with its pool and its
autostarted VM, booted anew, and what that wrote.

The lab runs this again after the restart, with LAB_BOOT=2.
"""

import json
import os
import time

from lab import Guest, disk, expect, make_pool, run, say, take_away, test, virsh, waiting_writes

BLOCKS = [block * 4 for block in range(60)]
WORDS = " ".join(map(str, BLOCKS))
# What is there already is one piece from the first block on.
PLAN = f"""
for block in {WORDS}; do check $block; [ $wrong = 0 ] || break; done >/dev/null
tell "found $right"
right=0 wrong=0
for block in {WORDS}; do write $block; done
echo 3 > /proc/sys/vm/drop_caches
for block in {WORDS}; do check $block; done
"""
LOG = "/var/log/notify-guest-reboot.log"
NOTE = "/var/lib/test-reboot"
# A write is held for 30 s at most (hold_timeout); the rest is what the host's own services take. A
# service that does not end is killed after 90 s.
SHUTDOWN = 75


def before():
    make_pool()
    virsh("pool-autostart", "vms")
    virsh("vol-create-as", "vms", "disk0", "256M")
    guest = Guest("reboot", PLAN, disk("vms", "disk0"), seen=lambda line: None)
    virsh("autostart", "reboot")
    # VMs start with the host only where the daemon does, and not at the first client's call.
    run("systemctl", "enable", "virtqemud.service")
    log = guest.start()
    log.wait(lambda line: line == "found 0", "the guest to look at an empty disk", 60)
    log.wait(lambda line: line == f"wrote {BLOCKS[10]}", "the guest's first blocks", 120)
    run("systemctl", "stop", "virtnotifyd.service")
    deadline = time.monotonic() + 20
    while waiting_writes("vms", "disk0") == 0:
        expect(time.monotonic() < deadline, "a write must come to wait")
        time.sleep(0.2)
    wrote = sum(line.startswith("wrote ") for line in log.items)
    expect(wrote < len(BLOCKS), "the guest must not get through")
    say("host1", f"the guest wrote {wrote} blocks and now waits; nobody serves it; restarting the host")
    os.unlink(LOG)
    with open(NOTE, "w", encoding="ascii") as file:
        json.dump({"wrote": wrote, "token": guest.tokens[0], "since": time.time()}, file)
    os.sync()
    expect(waiting_writes("vms", "disk0") > 0, "the write waits until the host is restarted")
    with open("/dev/ttyS1", "wb", buffering=0) as beacon:
        beacon.write(b"restart host1\n")
    run("systemctl", "reboot")
    time.sleep(600)


def after():
    with open(NOTE, encoding="ascii") as file:
        noted = json.load(file)
    os.unlink(NOTE)
    with open("/proc/stat", encoding="ascii") as file:
        booted = next(int(line.split()[1]) for line in file if line.startswith("btime"))
    down = booted - noted["since"]
    say("host1", f"its kernel started {down:.0f} s after the restart was asked for")
    expect(0 < down < SHUTDOWN, f"the shutdown waits for no service, but took {down:.0f} s")
    active = run("systemctl", "is-active", "virtnotifyd.service", "virtnotify-control.service").split()
    expect(active == ["active", "active"], f"the daemons are there: {active}")
    expect("vms" in virsh("pool-list", "--name").split(), "the pool is active")
    expect("reboot" in virsh("list", "--name").split(), "the VM has started")
    guest = Guest.there("reboot", starts=1, seen=lambda line: None)
    log = guest.follow()
    found = log.wait(lambda line: line.startswith("found"), "the guest to look at its disk", 120)
    expect(guest.tokens != [noted["token"]], f"it has booted again, and is not {guest.tokens}")
    # The write that waited may have come to its end after the guest was heard last, no other one.
    count = int(found.split()[1])
    expect(count in (noted["wrote"], noted["wrote"] + 1), f"{noted['wrote']} blocks were written, but: {found}")
    say("guest", f"{found} of {noted['wrote']} that it had reported")
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 200)
    expect(done == f"done, {len(BLOCKS)} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")
    log.close()
    run("systemctl", "disable", "virtqemud.service")
    virsh("undefine", "reboot")
    take_away("vms", "disk0")


if __name__ == "__main__":
    test(after if os.environ.get("LAB_BOOT") == "2" else before, needs_host2=False)
