#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M
"""libvirt's hook, as libvirt runs it, with the daemon on a real bus: the guest's volume is made active,
a refusal is said, and the guest's name is never an option.
"""

import os
import subprocess

from product import (Daemon, close_group, expect, make_disk, make_pool, on_bus, remove_volumes, say, start_bus,
                     start_upstream, use_disks, virsh)

HOOK = "/etc/libvirt/hooks/qemu.d/virtnotify"
GUEST = ("<domain type='kvm'><name>guest</name><devices><disk type='volume' device='disk'>"
         "<driver name='qemu' type='raw' cache='none'/><source pool='vms' volume='a'/><target dev='vda'/>"
         "</disk></devices></domain>")


def hook(name):
    """Runs it before a start of the guest of that name; returns how it ended and what it said."""
    done = subprocess.run([HOOK, name, "prepare", "begin", "-"], input=GUEST, capture_output=True, text=True)
    expect(done.stdout == "", f"nothing on standard output, not {done.stdout!r}")
    return done.returncode, done.stderr


def main():
    start_bus()
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_upstream()
    daemon = Daemon()
    on_bus()
    make_pool("vms", "vg0", "pv")
    virsh("vol-create-as", "vms", "a", "64M")
    say("a guest starts, whatever its name is")
    for name in ("guest", "--address=unixexec:path=/usr/bin/touch,argv1=/run/mark", "$(touch /run/mark)", "--help"):
        expect(hook(name) == (0, ""), f"the guest {name!r} to start, not {hook(name)}")
    expect(not os.path.exists("/run/mark"), "no program to be run by a name")
    say("without the daemon it does not start, and is told why")
    daemon.end(15)
    status, said = hook("guest")
    expect(status != 0 and "the daemon does not run" in said, f"a sentence: {status} {said!r}")
    remove_volumes()
    close_group("vg0", "pv")


if __name__ == "__main__":
    main()
