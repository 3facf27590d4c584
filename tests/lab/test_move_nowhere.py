#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""A virtnotify-control that starts anew finds the record of a move whose VM neither host knows any more: that is told
in a sentence, once, and the volumes on both hosts stay, since either may hold the newest data.
"""

import subprocess

from lab import MIB, Signals, disk, expect, kill_control, run, say, test, until, virsh
from moves import clean_up, in_mid_copy, journal, narrate, pools, states, volumes

VM = ("<domain type='kvm'><name>lost</name><memory unit='MiB'>32</memory><os>"
      "<type arch='x86_64' machine='q35'>hvm</type></os><devices>{disk}</devices></domain>")


def content():
    """What the volume here holds."""
    return run("sh", "-c", f"head -c {32 * MIB} /dev/notify/vms/disk0 | sha256sum")


def body():
    pools(bandwidth=4)
    virsh("vol-create-as", "vms", "disk0", "64M")
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/disk0", "bs=1M", "count=32", "oflag=direct", "status=none")
    with open("/tmp/lost.xml", "w", encoding="ascii") as file:
        file.write(VM.format(disk=disk("vms", "disk0")))
    virsh("define", "/tmp/lost.xml")
    virsh("start", "lost")
    before = content()
    signals = Signals(seen=narrate)
    with subprocess.Popen(["virt-notify", "migrate", "lost"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as asked:
        in_mid_copy(signals)
        run("systemctl", "kill", "-s", "STOP", "virtnotify-control")
        virsh("destroy", "lost")
        virsh("undefine", "lost")
        until(lambda: states("lost") == [None, None], "both hosts to forget it", 60)
        say("host1", "in mid copy the VM has gone from both hosts; SIGKILL to virtnotify-control")
        expect(len(journal()) == 1, f"the move is on record: {journal()}")
        expect(volumes(host="host2") != [], "the move has made a volume on host2")
        there = volumes(host="host2")
        kill_control()
        reason = signals.wait_for("MoveFailed", 60)[-1]
        expect(asked.wait(30) != 0, f"who asked for it is told: {asked.stderr.read()}")
    expect("neither host knows it any more" in reason and "host2 may hold the newest" in reason, f"told: {reason}")
    until(lambda: not journal(), "the record to go", 30)
    expect(volumes() == ["disk0"] and content() == before, "the volume here is what it was")
    left = [volume for volume in there if not volume.startswith("move-")]
    expect(volumes(host="host2") == left == ["disk0"], f"what the move made there stays, and keeps no room: {there}")
    expect(len(signals.all("MoveFailed")) == 1, "it is told once")
    signals.close()
    clean_up("lost")


if __name__ == "__main__":
    test(body)
