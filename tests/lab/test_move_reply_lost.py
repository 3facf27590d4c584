#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""host2 takes a VM that runs, and falls silent before it can say so: libvirt lets the VM run on here. It never
runs there; that it stayed is told; when host2 is back its copy goes, and the VM moves after all.

That it never ran on both is what the watcher looks at, by QEMU's own times.
"""

import subprocess

from lab import Signals, expect, run, say, test, until
from moves import arrived, clean_up, guest, journal, narrate, pools, state, states, verdict, volumes

BLOCKS = [*range(0, 160, 4)]
SEEN = "/run/reply-lost.seen"
# libvirt at the destination defines the VM first of all that it does at the end of a migration. Longer than
# libvirt's keepalive, so that host1 gives it up.
CUT = f"""
stdbuf -oL virsh event --loop --event lifecycle | while read -r line; do
    case "$line" in *"'guest'"*Defined*)
        ip route add blackhole 192.168.77.1/32
        sleep 60
        virsh domstate guest >{SEEN} 2>&1
        ip route del blackhole 192.168.77.1/32
        exit
    esac
done"""


def host2_answers():
    return run("test", "-s", SEEN, host="host2", check=False).returncode == 0


def body():
    pools()
    vm = guest("guest", BLOCKS, pause=3)
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/disk0", "bs=1M", "seek=300", "count=64", "oflag=direct",
        "status=none")
    signals = Signals(seen=narrate)
    log1 = vm.start()
    run("systemd-run", "--collect", "--unit", "reply-lost", "sh", "-c", CUT, host="host2")
    with subprocess.Popen(["virt-notify", "migrate", "guest"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as asked:
        reason = signals.wait_for("MoveFailed", 240)[-1]
        expect(asked.wait(60) != 0, "who asked for it is told")
    say("host1", f"told: {reason}")
    expect(state("guest") == "running", "it runs on host1")
    until(host2_answers, "host2 to be back", 180)
    there = run("cat", SEEN, host="host2").strip()
    expect(there == "paused", f"it had come to host2, and did not run there: {there}")
    until(lambda: not journal(), "what host2 has of it to go", 180)
    expect(states("guest") == ["running", None], "it runs on host1, and host2 does not know it")
    expect(volumes(host="host2") == [], "nothing is left on host2")
    expect(not signals.all("RunsTwice"), "it never ran on both")
    say("virt-notify", run("virt-notify", "migrate", "guest", seconds=300).splitlines()[-1])
    log2 = vm.follow(host="host2")
    verdict(log2, BLOCKS)
    arrived("guest")
    run("rm", SEEN, host="host2")
    for follower in (log1, log2, signals):
        follower.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
