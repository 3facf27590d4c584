#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""Two VMs out of space at once, and room for neither: the first is moved, the space that it gives back
lets the second go on where it is, until that is used up as well. Never two moves at once, and both are whole.
"""

from lab import MIB, Signals, expect, say, test, until
from moves import clean_up, guest, journal, leave, narrate, pools, states, verdict

BLOCKS = [*range(0, 160, 4)]


def one_at_a_time(signals):
    """A move begins only after the one before has ended."""
    open_moves = 0
    for name, _ in signals.items:
        open_moves += {"MoveStarted": 1, "MoveFinished": -1, "MoveFailed": -1}.get(name, 0)
        expect(0 <= open_moves <= 1, "one move at a time")


def body():
    pools(bandwidth=32)
    signals = Signals(seen=narrate)
    vms = [guest(f"guest{n}", BLOCKS, volume=f"disk{n}") for n in (1, 2)]
    leave(80 * MIB)
    logs = [vm.start() for vm in vms]
    until(lambda: not journal() and all(states(vm.name)[0] is None for vm in vms), "both to leave", 400)
    for vm in vms:
        log = vm.follow(host="host2")
        logs.append(log)
        verdict(log, BLOCKS)
        say("host2", f"{vm.name} is whole")
    one_at_a_time(signals)
    for follower in (*logs, signals):
        follower.close()
    clean_up("guest1", "guest2")


if __name__ == "__main__":
    test(body)
