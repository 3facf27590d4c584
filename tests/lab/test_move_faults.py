#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# limit: 1200
"""One VM without space, and everything that may go wrong on its way: its move is cancelled by D-Bus
and by libvirt, the destination is full once it was chosen, the daemons are killed on the destination and on the
source. Each time it is where it was, with nothing left on the other host, or goes on; never on both.
"""

from lab import (MIB, Signals, control_pid, expect, kill_control, kill_daemon, pool_bytes, run, say, test, until,
                 virsh)
from moves import (arrived, clean_up, failed, guest, in_mid_copy, leave, narrate, next_daemon, pools, state, states,
                   verdict, volumes)

BLOCKS = [*range(0, 224, 4)]
# The room that host1 has: more than host2 keeps ready when its volume group is full.
FITS = 176 * MIB


def manager(method, *words, check=True):
    return run("busctl", "call", "org.virtnotify1", "/org/virtnotify1", "org.virtnotify1.Manager", method, *words,
               check=check)


def stayed(signals, says):
    """The move has failed with that reason, and nothing of it is left."""
    failed(signals, says)
    expect(states("guest") == ["paused", None], "it is on host1, paused")
    expect(volumes(host="host2") == [], f"nothing is left on host2: {volumes(host='host2')}")


def listen():
    """Listens from now on."""
    return Signals(seen=narrate)


def cancelled_by_dbus(signals):
    in_mid_copy(signals)
    say("host1", "busctl call ... CancelMove guest")
    manager("CancelMove", "s", "guest")
    stayed(signals, "cancelled")
    expect(manager("CancelMove", "s", "guest", check=False).returncode != 0, "there is nothing more to cancel")


def cancelled_by_libvirt():
    signals = listen()
    # Who cancels wants it to stay: it is left alone, until the mover starts anew.
    kill_control()
    in_mid_copy(signals)
    say("host1", "virsh domjobabort guest")
    virsh("domjobabort", "guest")
    # libvirt says that it was cancelled, or now and then that the connection to the other host ended.
    stayed(signals, "")


def destination_fills():
    signals = listen()
    # What it grew by for the moves before goes back to its volume group, to be taken there.
    run("virt-notify", "reclaim", "vms", host="host2")
    kill_control()
    signals.wait_for("MoveStarted", 180)
    # The last look at its room is over then, and the copy has not begun.
    until(lambda: "disk0" in volumes(host="host2"), "the volume on host2", 120)
    say("host2", "lvcreate takes all that its volume group has")
    run("lvcreate", "--yes", "-Wn", "-l", "100%FREE", "-n", "other", "vg0", host="host2")
    virsh("pool-refresh", "vms", host="host2")
    room = pool_bytes("vms", host="host2")[2]
    expect(room < FITS, f"it has too little room for the volume, not {room // MIB} MiB")
    stayed(signals, "")


def killed_on_both():
    signals = listen()
    run("lvremove", "--yes", "vg0/other", host="host2")
    in_mid_copy(signals)
    old = control_pid()
    for host in ("host2", None):
        say(host or "host1", "SIGKILL to virtnotifyd and virtnotify-control")
        kill_daemon(host=host)
        kill_control(host=host)
    next_daemon(old)
    signals.close()


def body():
    pools()
    vm = guest("guest", BLOCKS)
    leave(FITS)
    signals = listen()
    log1 = vm.start()
    cancelled_by_dbus(signals)
    cancelled_by_libvirt()
    destination_fills()
    killed_on_both()
    log2 = vm.follow(host="host2")
    verdict(log2, BLOCKS)
    arrived("guest")
    expect(state("guest", host="host2") in ("running", "shut off"), "it ends on host2")
    for follower in (log1, log2):
        follower.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
