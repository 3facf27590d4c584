#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""The move ends, but the VM cannot be told to run there: libvirt at the destination does not answer.
Both copies stay until it does; then the VM runs, and only then the volume here goes.
"""

from lab import MIB, Signals, control_pid, expect, kill_control, run, say, test, until
from moves import guest, in_mid_copy, leave, moved, narrate, next_daemon, pools, state, states, volumes

BLOCKS = [*range(0, 160, 4)]


def freeze(unit, signal, host=None):
    run("systemctl", "kill", "-s", signal, unit, host=host)


def body():
    pools(bandwidth=32)
    vm = guest("guest", BLOCKS)
    leave(128 * MIB)
    signals = Signals(seen=narrate)
    log1 = vm.start()
    in_mid_copy(signals)
    # libvirt goes on with the migration by itself; the mover is to find it ended.
    freeze("virtnotify-control", "STOP")
    until(lambda: state("guest") is None, "the migration to end", 60)
    expect(states("guest")[1] == "paused", "it has come to host2 as it was: paused")
    freeze("virtqemud.service", "STOP", host="host2")
    say("host2", "libvirt does not answer any more")
    freeze("virtnotify-control", "CONT")
    reason = signals.wait_for("MoveFailed", 120)[-1]
    say("host1", f"told: {reason}")
    expect(volumes() == ["disk0"], "the copy here stays")
    # Nor does a mover forget it that starts anew.
    old = control_pid()
    kill_control()
    next_daemon(old)
    expect(volumes() == ["disk0"], "the copy here stays")
    freeze("virtqemud.service", "CONT", host="host2")
    say("host2", "libvirt answers again")
    until(lambda: state("guest", host="host2") != "paused", "it to run on host2", 120)
    moved(vm, BLOCKS, signals, log1)


if __name__ == "__main__":
    test(body)
