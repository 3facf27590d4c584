#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""At each step of a move that can be seen from outside, virtnotify-control is killed, which moves the VM, or virtnotifyd,
here or at the destination: the next one finds out where the VM really is, or serves what it is asked, and it ends on
host2, whole, with nothing left on host1. (test_move_faults kills all of them in mid copy.) Numbers as arguments choose
among the steps.
"""

import sys
import threading
import time

from lab import MIB, Failure, Lines, Signals, kill_control, kill_daemon, say, test, until
from moves import arrived, clean_up, guest, journal, leave, narrate, pools, states, verdict, volumes

BLOCKS = [*range(0, 160, 4)]


def soon(holds, what):
    """As until(), without a pause that a step would be over in."""
    deadline = time.monotonic() + 180
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"waited in vain for {what}")
        time.sleep(0.01)


def lifecycle(name, host, word):
    """Something that becomes true when libvirt tells that of the guest on that host."""
    told = threading.Event()
    command = "stdbuf -oL virsh event --loop --event lifecycle"
    argv = ["sh", "-c", command] if host is None else ["ssh", host, command]
    lines = Lines(*argv, seen=lambda line: told.set() if f"'{name}'" in line and word in line else None)
    return lines, told.is_set


def recorded(_):
    return None, journal


def made(_):
    return None, lambda: volumes(host="host2")


def resumed(name):
    return lifecycle(name, "host2", "Resumed")


def stopped(name):
    return lifecycle(name, None, "Stopped")


CONTROL, DAEMON = "virtnotify-control", "virtnotifyd"
# What is killed then, and where.
STEPS = [
    ("its record is written", recorded, (CONTROL, None)),
    ("its volume is made", made, (CONTROL, None)),
    ("its volume is made", made, (DAEMON, "host2"), (DAEMON, None)),
    ("it goes on there", resumed, (CONTROL, None)),
    ("it goes on there", resumed, (DAEMON, "host2")),
    ("it is gone here", stopped, (CONTROL, None)),
    ("it is gone here", stopped, (DAEMON, None)),
]


def kill(program, host):
    say(host or "host1", f"SIGKILL to {program}")
    if program == CONTROL:
        kill_control(host=host)
    else:
        kill_daemon(host=host)


def killed(name, step, watch, *programs):
    pools(bandwidth=64)
    vm = guest(name, BLOCKS)
    leave(80 * MIB)
    signals = Signals(seen=narrate)
    log1 = vm.start()
    lines, seen = watch(name)
    soon(seen, step)
    say("lab", step)
    for program, host in programs:
        kill(program, host)
    until(lambda: states(name)[0] is None and not journal(), "it to be gone from host1", 240)
    log2 = vm.follow(host="host2")
    verdict(log2, BLOCKS)
    arrived(name)
    for follower in filter(None, (log1, log2, signals, lines)):
        follower.close()
    clean_up(name)


def body():
    for number in map(int, sys.argv[1:] or range(1, len(STEPS) + 1)):
        killed(f"guest{number}", *STEPS[number - 1])


if __name__ == "__main__":
    test(body)
