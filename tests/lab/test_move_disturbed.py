#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""What people do to a VM while it moves: they destroy it, shut it down, make room after all, or migrate
it by hand. No volume is lost, none is left over, and the VM never runs twice.
"""

import subprocess

from lab import MIB, Signals, expect, run, say, test, until, virsh
from moves import clean_up, failed, guest, in_mid_copy, journal, leave, narrate, pools, state, states, verdict, volumes

BLOCKS = [*range(0, 320, 4)]


def content(volume, host=None):
    """What a volume's first blocks hold."""
    return run("sh", "-c", f"head -c {16 * MIB} /dev/notify/vms/{volume} | sha256sum", host=host)


def destroyed(vm):
    """An operator pulls its plug in mid copy: it is off, and its volume is whole."""
    signals = Signals(seen=narrate)
    log = vm.start()
    in_mid_copy(signals)
    before = content("disk0")
    say("host1", f"virsh destroy {vm.name}")
    virsh("destroy", vm.name)
    failed(signals, "")
    expect(states(vm.name) == ["shut off", None], "it is off, on host1")
    expect(volumes() == ["disk0"] and volumes(host="host2") == [], "its volume is on host1 only")
    expect(content("disk0") == before, "its volume is what it was")
    log.close()


def shut_down():
    """It is moved while it runs, as an operator asked, and shuts down in mid copy."""
    blocks = [*range(0, 20)]
    vm = guest("leaver", blocks, pause=1)
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/disk0", "bs=1M", "seek=300", "count=200", "oflag=direct",
        "status=none")
    signals = Signals(seen=narrate)
    log = vm.start()
    with subprocess.Popen(["virt-notify", "migrate", vm.name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True) as asked:
        in_mid_copy(signals)
        verdict(log, blocks)
        failed(signals, "")
        said = asked.stderr.read().strip()
        expect(asked.wait() != 0 and "shut down here" in said, f"who asked for it is told: {said}")
    say("virt-notify", said)
    expect(states(vm.name) == ["shut off", None], "it is off, on host1")
    expect(volumes() == ["disk0"] and volumes(host="host2") == [], "its volume is on host1 only")
    log.close()
    clean_up(vm.name)


def given_room(vm):
    """Room appears in mid copy: the move goes on to its end, or ends, and the VM runs in one place."""
    signals = Signals(seen=narrate)
    log = vm.start()
    in_mid_copy(signals)
    say("host1", "lvremove vg0/other")
    run("lvremove", "--yes", "vg0/other")
    until(lambda: not journal() and "running" in states(vm.name), "it to run somewhere", 240)
    host = "host2" if state(vm.name) is None else None
    say(host or "host1", "it runs")
    second = vm.follow(host=host)
    verdict(second, BLOCKS)
    expect(len(volumes()) + len(volumes(host="host2")) == 1, "there is one volume")
    for follower in (log, second, signals):
        follower.close()
    return host


def by_hand(vm):
    """An operator's own migration is under way when the space ends: the daemon leaves that alone."""
    signals = Signals(seen=narrate)
    log = vm.start()
    in_mid_copy(signals)
    say("host1", "virsh migrate by hand, in the middle of the move")
    done = virsh("migrate", "--live", "--copy-storage-all", vm.name, "qemu+ssh://host2/system", check=False)
    expect(done.returncode != 0, "libvirt refuses a second migration")
    signals.wait_for("MoveFinished", 240)
    second = vm.follow(host="host2")
    verdict(second, BLOCKS)
    for follower in (log, second, signals):
        follower.close()


def body():
    pools(bandwidth=4)
    shut_down()
    pools()
    vm = guest("guest", BLOCKS)
    leave(176 * MIB)
    destroyed(vm)
    virsh("vol-delete", "disk0", "vms")
    virsh("vol-create-as", "vms", "disk0", "512M")
    given_room(vm)
    clean_up(vm.name)
    pools()
    vm = guest("byhand", BLOCKS)
    leave(176 * MIB)
    by_hand(vm)
    clean_up(vm.name)


if __name__ == "__main__":
    test(body)
