#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""The destination loses its power in mid copy. The VM stays where it is and loses nothing; when the peer
is back, what the move had made there goes, and the VM moves after all.
"""

from lab import MIB, Signals, cut_power_of_host2, expect, run, say, test
from moves import (arrived, clean_up, guest, in_mid_copy, leave, narrate, never_twice, pools, state, until, verdict)

BLOCKS = [*range(0, 320, 4)]


def body():
    pools()
    # A pool that is to be there after a boot is one that starts by itself.
    run("virsh", "pool-autostart", "vms", host="host2")
    vm = guest("guest", BLOCKS)
    leave(112 * MIB)
    signals = Signals(seen=narrate)
    log1 = vm.start()
    in_mid_copy(signals)
    say("lab", "the power of host2 is cut")
    cut_power_of_host2()
    signals.wait_for("MoveFailed", 120)
    expect(state("guest") == "paused", "it is on host1 and loses nothing")
    until(lambda: run("virsh", "pool-info", "vms", host="host2", check=False).returncode == 0, "host2 to be back", 180)
    say("host2", "is back")
    signals.wait_for("MoveFinished", 400)
    never_twice("guest")
    log2 = vm.follow(host="host2")
    verdict(log2, BLOCKS)
    arrived("guest")
    for follower in (log1, log2, signals):
        follower.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
