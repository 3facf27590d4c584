#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M
"""libvirt's hook, as libvirt runs it, with the daemon on a real bus: the guest's volume is made active,
a refusal is said, and the guest's name is never an option.
"""

import os
import subprocess

from product import (Daemon, expect, on_bus, remove_volumes, run, say, start_bus, start_upstream, use_disks,
                     virsh)

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
    run("dmsetup", "create", "pv", "--table", f"0 {512 * 2048} linear /dev/ubda 0")
    use_disks("pv")
    run("vgcreate", "-q", "vg0", "/dev/mapper/pv")
    start_upstream()
    daemon = Daemon()
    on_bus()
    virsh("pool-define-as", "vms", "notify", "--source-name", "vg0", "--target", "/dev/notify/vms")
    virsh("pool-start", "vms")
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
    run("vgchange", "-an", "vg0")
    run("dmsetup", "remove", "pv")


if __name__ == "__main__":
    main()
