#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# lab: --hosts 1 --disk 2G
"""docs/operator/guide.md, word for word: all of its commands in one shell, in their order. What the guide says
that one sees is looked at.
"""

import os
import subprocess

from lab import MIB, expect, run, say, test, virsh, volume_bytes
from packages import only_debs

GUIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/operator/guide.md")
# Where the guide is followed.
HERE = "/tmp/guide"


def blocks(page):
    """A page's parts: a heading, and the commands below it."""
    heading, inside, parts = "", False, []
    with open(page, encoding="utf-8") as file:
        for line in file:
            if line.startswith("```"):
                inside = line == "```sh\n"
                if inside and (not parts or parts[-1][0] != heading):
                    parts.append([heading, ""])
            elif inside:
                parts[-1][1] += line
            elif line.startswith("## "):
                heading = line[3:].strip()
    return parts


def see(heading):
    """What is so after a part, by other means than the guide's."""
    if heading == "Installing":
        listens = run("systemctl", "show", "--value", "-p", "Listen", "virtnotify-proxy.socket")
        expect("/run/libvirt/virtstoraged-sock" in listens, "the daemon is in front of libvirt's")
    elif heading == "A volume":
        capacity, allocation = volume_bytes("vms", "disk0")
        expect(capacity == 100 << 30 and allocation == 4 * MIB, f"one chunk is allocated, not {allocation} bytes")
    elif heading == "A VM":
        expect(virsh("domstate", "first").strip() == "running", "the VM runs")
    elif heading == "Taking it away again":
        expect("vms" not in virsh("pool-list", "--all"), "the pool is gone")
        expect("data" not in run("vgs", "--noheadings", "-o", "vg_name").split(), "the group is gone")


def body():
    parts = blocks(GUIDE)
    expect(len(parts) == 6, f"the guide has six parts, not {len(parts)}")
    only_debs(HERE)
    for heading, commands in parts:
        say("guide", heading)
        done = subprocess.run(["bash", "-exc", commands], stdin=subprocess.DEVNULL, text=True, capture_output=True,
                              cwd=HERE, check=False)
        expect(done.returncode == 0, f"a command failed:\n{done.stdout}{done.stderr}")
        see(heading)


if __name__ == "__main__":
    test(body, needs_host2=False)
