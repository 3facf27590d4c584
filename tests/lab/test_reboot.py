#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --hosts 1
"""A host is restarted while a guest's write waits and no daemon is there to serve it: the shutdown
does not hang, and the host comes back with its pool and its autostarted VM, and what that wrote.

The lab runs this again after the restart, with LAB_BOOT=2.
"""

import os
import time

from lab import Guest, Lines, disk, expect, run, say, take_away, test, virsh, waiting_writes

BLOCKS = [block * 4 for block in range(60)]
PLAN = f"""
for block in {' '.join(map(str, BLOCKS))}; do check $block; done >/dev/null
echo "guest: found $right"
for block in {' '.join(map(str, BLOCKS))}; do write $block; done
"""
UNITS = ["virtnotifyd.service", "virtnotifyd.socket", "virtnotifyd-ro.socket"]
LOG = "/var/log/notify-guest-reboot.log"
NOTE = "/var/lib/test-reboot"


def before():
    virsh("pool-define-as", "vms", "notify", "--source-name", "vg0", "--target", "/dev/notify/vms")
    virsh("pool-start", "vms")
    virsh("pool-autostart", "vms")
    virsh("vol-create-as", "vms", "disk0", "256M")
    guest = Guest("reboot", PLAN, disk("vms", "disk0"), seen=lambda line: None)
    virsh("autostart", "reboot")
    # VMs start with the host only where the daemon does, and not at the first client's call.
    run("systemctl", "enable", "virtqemud.service")
    log = guest.start()
    log.wait(lambda line: line == "found 0", "the guest to look at an empty disk", 60)
    log.wait(lambda line: line == f"wrote {BLOCKS[10]}", "the guest's first blocks", 120)
    run("systemctl", "stop", *UNITS)
    deadline = time.monotonic() + 20
    while waiting_writes("vms", "disk0") == 0:
        expect(time.monotonic() < deadline, "a write must come to wait")
        time.sleep(0.2)
    wrote = sum(line.startswith("wrote ") for line in log.items)
    say("host1", f"the guest wrote {wrote} blocks and now waits; nobody serves it; restarting the host")
    with open(NOTE, "w", encoding="ascii") as file:
        file.write(f"{wrote} {time.time()}")
    os.unlink(LOG)
    os.sync()
    with open("/dev/ttyS1", "wb", buffering=0) as beacon:
        beacon.write(b"restart host1\n")
    run("systemctl", "reboot")
    time.sleep(600)


def after():
    with open(NOTE, encoding="ascii") as file:
        wrote, since = file.read().split()
    os.unlink(NOTE)
    with open("/proc/stat", encoding="ascii") as file:
        booted = next(int(line.split()[1]) for line in file if line.startswith("btime"))
    say("host1", f"down {booted - float(since):.0f} s after the restart was asked for")
    expect(run("systemctl", "is-active", "virtnotifyd.service").strip() == "active", "the daemon is there")
    expect("vms" in virsh("pool-list", "--name"), "the pool is active")
    expect("reboot" in virsh("list", "--name"), "the VM has started")
    log = Lines("tail", "-n", "+1", "-F", LOG, parse=lambda line: line.split("guest: ", 1)[-1])
    found = log.wait(lambda line: line.startswith("found"), "the guest to look at its disk", 120)
    expect(int(found.split()[1]) >= int(wrote), f"all {wrote} blocks must be there, but: {found}")
    say("guest", f"{found} of {wrote} that it had reported")
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 200)
    expect(done.endswith(" 0 errors in its log"), f"the guest says: {done}")
    log.close()
    run("systemctl", "disable", "virtqemud.service")
    virsh("undefine", "reboot")
    take_away("vms", "disk0")


if __name__ == "__main__":
    test(after if os.environ.get("LAB_BOOT") == "2" else before, needs_host2=False)
