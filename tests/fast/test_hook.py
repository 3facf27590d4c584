#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M
"""libvirt's hook, as libvirt runs it: it asks virtnotifyd, and needs nothing else. The guest's volume is made active,
whatever virtnotify-control does; one that starts late is waited for; a refusal is said, and the guest's name is never
an option.
"""

import os
import signal
import subprocess
import time

from product import (Control, Daemon, close_group, expect, make_disk, make_pool, remove_volumes, say, start_bus,
                     start_upstream, use_disks, virsh)

HOOK = "/etc/libvirt/hooks/qemu.d/virtnotify"
# How long the hook waits for virtnotifyd, in seconds.
PATIENCE = 10
GUEST = ("<domain type='kvm'><name>guest</name><devices><disk type='volume' device='disk'>"
         "<driver name='qemu' type='raw' cache='none'/><source pool='vms' volume='a'/><target dev='vda'/>"
         "</disk></devices></domain>")
# Of a pool that is not ours.
OTHER = GUEST.replace("'vms'", "'files'")


def begin(name, guest=GUEST):
    """Starts it before a start of the guest of that name."""
    process = subprocess.Popen([HOOK, name, "prepare", "begin", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdin.write(guest)
    process.stdin.close()
    return process


def end(process):
    """How it ended and what it said."""
    out, said = process.stdout.read(), process.stderr.read()
    expect(out == "", f"nothing on standard output, not {out!r}")
    return process.wait(), said


def hook(name, guest=GUEST):
    """Runs it; returns how it ended, what it said, and after how many seconds."""
    began = time.monotonic()
    ended = end(begin(name, guest))
    return *ended, time.monotonic() - began


def starts(name):
    """A guest of that name starts, at once."""
    status, said, took = hook(name)
    expect((status, said) == (0, "") and took < PATIENCE, f"the guest {name!r} to start: {status} {said!r}, {took:.0f} s")


def main():
    start_bus()
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_upstream()
    daemon = Daemon()
    control = Control()
    make_pool("vms", "vg0", "pv")
    virsh("vol-create-as", "vms", "a", "64M")
    say("a guest starts, whatever its name is")
    for name in ("guest", "--address=unixexec:path=/usr/bin/touch,argv1=/run/mark", "$(touch /run/mark)", "--help"):
        starts(name)
    expect(not os.path.exists("/run/mark"), "no program to be run by a name")
    control.stop()
    starts("guest")
    say("it starts while virtnotify-control hangs")
    control.end(signal.SIGKILL)
    starts("guest")
    say("and without it")
    daemon.end(signal.SIGTERM)
    waiting = begin("guest")
    time.sleep(2)
    expect(waiting.poll() is None, "it to be waited for")
    daemon = Daemon()
    ended = end(waiting)
    expect(ended == (0, ""), f"the guest to start with the next virtnotifyd, not {ended}")
    say("virtnotifyd is waited for while it starts")
    daemon.end(signal.SIGTERM)
    status, said, took = hook("guest")
    expect(status != 0 and "virtnotifyd, which serves the pools of type 'notify', does not run" in said
           and "systemctl status virtnotifyd tells why" in said, f"a sentence: {status} {said!r}")
    expect(took < PATIENCE + 10, f"it to be told after {PATIENCE} s, not {took:.0f}")
    say(f"without virtnotifyd it does not start, and is told why after {took:.0f} s: {said.strip()}")
    status, said, _ = hook("other", OTHER)
    expect((status, said) == (0, ""), f"a guest without our disks to start: {status} {said!r}")
    remove_volumes()
    close_group("vg0", "pv")


if __name__ == "__main__":
    main()
