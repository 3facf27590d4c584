#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""The source loses its power in mid copy, and its disks what was not flushed. The VM is on host1 alone
after the boot, shut off, with every block that its guest was told is on the disk; what the move had made
on host2 goes. Started again, it moves after all.

The lab runs this again after the cut, with LAB_BOOT=2.
"""

import os
import subprocess
import time

from lab import MIB, Guest, Signals, cut_power, disk, expect, run, say, test, until, virsh
from moves import in_mid_copy, journal, leave, moved, narrate, pools, state, tell, volumes

BLOCKS = [*range(0, 320, 4)]
LOG = "/var/log/notify-guest-guest.log"
# On host2, which goes on: what the guest said, as it came.
SAID = "/run/source-dies.said"
PLAN = f"""
for block in {' '.join(map(str, BLOCKS))}; do check $block; done >/dev/null
tell "found $right"
right=0 wrong=0
for block in {' '.join(map(str, BLOCKS))}; do write $block; done
echo 3 > /proc/sys/vm/drop_caches
for block in {' '.join(map(str, BLOCKS))}; do check $block; done
"""


def before():
    pools()
    virsh("pool-autostart", "vms")
    virsh("vol-create-as", "vms", "disk0", "512M")
    vm = Guest("guest", PLAN, disk("vms", "disk0"), seen=lambda line: tell("guest", line))
    leave(176 * MIB)
    signals = Signals(seen=narrate)
    vm.start()
    subprocess.Popen(["ssh", "host2", f"ssh host1 tail -n +1 -F {LOG} > {SAID}"], stdin=subprocess.DEVNULL)
    in_mid_copy(signals)
    # What the lab put here for its guests, and LVM's record of what only stands for another's data, are not
    # what may be lost.
    os.sync()
    run("sync", "/dev/vdb")
    say("host1", "cuts its own power in mid copy")
    cut_power("host1")
    time.sleep(60)
    raise AssertionError("the power was not cut")


def after():
    wrote = run("cat", SAID, host="host2").count(": wrote ")
    expect(wrote > 0, "the guest wrote before the cut")
    until(lambda: virsh("pool-info", "vms", check=False).returncode == 0, "the pool to be there", 120)
    until(lambda: not journal(), "the move to be given up", 180)
    expect(state("guest") == "shut off", f"the VM is on host1 and shut off: {state('guest')}")
    until(lambda: state("guest", host="host2") is None, "host2 not to know it", 120)
    until(lambda: volumes(host="host2") == [], "host2 to have nothing of it", 120)
    run("virt-notify", "check", "vms")
    signals = Signals(seen=narrate)
    vm = Guest.there("guest", seen=lambda line: tell("guest", line))
    log = vm.start()
    found = log.wait(lambda line: line.startswith("found"), "the guest to look at its disk", 180)
    expect(int(found.split()[1]) >= wrote, f"all {wrote} blocks must be there, but: {found}")
    say("guest", f"{found} of {wrote} that it had reported")
    run("rm", SAID, host="host2")
    moved(vm, BLOCKS, signals, log)


if __name__ == "__main__":
    test(after if os.environ.get("LAB_BOOT") == "2" else before)
