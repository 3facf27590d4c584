#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""docs/operator/snapshots.md, word for word: all of its commands in one shell, in their order, from a snapshot of a
VM to its restore on the other host. What it says that one sees is looked at.
"""

import json
import os
import subprocess

from lab import expect, make_pool, remove_pool_data, run, say, test, virsh
from test_guide import blocks

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/operator/snapshots.md")


def snapshots(host=None):
    """The names of the snapshots on a host."""
    listed = json.loads(run("virt-notify", "--json", "snapshot", "list", "vms", host=host))
    return [snapshot["snapshot"] for snapshot in listed]


def mark(text):
    """Writes something into the volume, past the guest."""
    subprocess.run(["dd", "of=/dev/notify/vms/web1", "bs=4096", "count=1", "conv=sync", "oflag=direct", "status=none"],
                   input=text.encode(), check=True)


def marked(device, host=None):
    """What is there."""
    return run("sh", "-c", f"dd if={device} bs=4096 count=1 iflag=direct status=none | tr -d '\\0'", host=host)


def see(heading):
    """What is so after a part, by other means than the page's."""
    if heading == "":
        mark("before")
    elif heading == "Taking one":
        expect(snapshots() == ["vms/web1@before-update"], f"one snapshot, not {snapshots()}")
        mark("after")
        expect(marked("/dev/notify/vms/web1@before-update") == "before", "the snapshot stays as it was")
    elif heading == "Back again":
        expect(marked("/dev/notify/vms/web1") == "before", "what was there at the snapshot")
        expect(virsh("domstate", "web1").strip() == "running", "the VM runs")
    elif heading == "Every night":
        expect(len(snapshots()) == 2, f"one more snapshot, not {snapshots()}")
        run("systemctl", "is-active", "virtnotify-snapshot@web1.timer")
        mark("later")
    elif heading == "To another host":
        there = ["vms/web1@before-update", "vms/web1@monday"]
        expect(snapshots("host2") == there, f"both snapshots there, not {snapshots('host2')}")
        for name, text in (("@before-update", "before"), ("@monday", "later"), ("", "later")):
            expect(marked(f"/dev/notify/vms/web1{name}", "host2") == text, f"web1{name} as it is here")
    elif heading == "Restoring it there":
        expect(virsh("domstate", "web1", host="host2").strip() == "running", "the VM runs there")
    elif heading == "Deleting them":
        expect(virsh("vol-list", "vms").count("web1") == 0, "no volume and no snapshot here")


def body():
    for host in (None, "host2"):
        make_pool(host)
    parts = blocks(PAGE)
    expect(len(parts) == 8, f"the page has eight parts, not {len(parts)}")
    for heading, commands in parts:
        say("page", heading)
        done = subprocess.run(["bash", "-exc", commands], stdin=subprocess.DEVNULL, text=True, capture_output=True,
                              check=False)
        expect(done.returncode == 0, f"a command failed:\n{done.stdout}{done.stderr}")
        see(heading)
    virsh("destroy", "web1", host="host2")
    virsh("undefine", "web1", host="host2")
    virsh("vol-delete", "web1", "vms", "--delete-snapshots", host="host2")
    for host in (None, "host2"):
        virsh("pool-destroy", "vms", host=host)
        virsh("pool-undefine", "vms", host=host)
        remove_pool_data("vms", host=host)


if __name__ == "__main__":
    test(body)
