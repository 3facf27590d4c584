#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pool whose policy is to migrate at the low mark: the VM whose move frees most leaves while it runs,
never pauses, and the one that is pinned stays. Its longest write is reported.
"""

from lab import MIB, Guest, Signals, disk, expect, run, say, test, virsh
from moves import arrived, clean_up, narrate, plan, pools, state, until, verdict

PINNED = "https://virtnotify.org/xmlns/domain/1.0"
BLOCKS = [*range(0, 400, 4)]
# The guest's own clock, in hundredths of a second, around each write.
TIMED = """
now() { read up idle </proc/uptime; echo "${up%.*}${up#*.}"; }
longest=0
for block in BLOCKS; do
    before=$(now); write $block; took=$(($(now) - before))
    [ $took -le $longest ] || longest=$took
done
echo "guest: longest write ${longest}0 ms"
"""


def pin(name):
    virsh("metadata", name, "--uri", PINNED, "--key", "notify", "--set", "<move allowed='no'/>", "--config")


def body():
    # 1 GiB: a third has to stay free.
    pools(low="<notify:lowMark unit='%' action='migrate'>33</notify:lowMark>", bandwidth=64)
    signals = Signals(seen=narrate)
    virsh("vol-create-as", "vms", "large", "512M")
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/large", "bs=1M", "count=420", "oflag=direct", "status=none")
    xml = ("<domain type='kvm'><name>pinned</name><memory unit='MiB'>64</memory>"
           "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>"
           f"{disk('vms', 'large')}</devices></domain>")
    with open("/tmp/pinned.xml", "w", encoding="ascii") as file:
        file.write(xml)
    virsh("define", "/tmp/pinned.xml")
    pin("pinned")
    virsh("start", "pinned")

    virsh("vol-create-as", "vms", "disk0", "512M")
    words = " ".join(map(str, BLOCKS))
    check = plan(BLOCKS).split("\n", 1)[1]
    vm = Guest("guest", TIMED.replace("BLOCKS", words) + check, disk("vms", "disk0"),
               seen=lambda line: None if line.startswith("wrote") else say("guest", line))
    log1 = vm.start()
    started = signals.wait_for("MoveStarted", 180)
    expect(started[0] == "guest", f"the one that is not pinned leaves, not {started[0]}")
    signals.wait_for("MoveFinished", 180)
    log2 = vm.follow(host="host2")
    longest = log2.wait(lambda line: line.startswith("longest"), "the guest's longest write", 120)
    verdict(log2, BLOCKS)
    expect(not signals.all("SpaceExhausted"), "the space never ended")
    events = run("journalctl", "-b", "-q", "-u", "virtqemud", "--grep", "guest.*paused", check=False).stdout
    expect("guest" not in events, f"it never paused: {events}")
    arrived("guest")
    until(lambda: state("pinned") == "running", "the pinned VM to be where it was", 5)
    say("guest", longest)
    for follower in (log1, log2, signals):
        follower.close()
    clean_up("guest", "pinned")


if __name__ == "__main__":
    test(body)
