#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# limit: 1200
"""The destination loses its power in mid copy. The VM stays where it is and loses nothing; when the peer
is back, what the move had made there goes, and the VM moves after all.
"""

from lab import MIB, Signals, cut_power, expect, run, say, test, until, virsh
from moves import guest, in_mid_copy, leave, moved, narrate, pools, state

BLOCKS = [*range(0, 224, 4)]


def body():
    pools()
    # A pool that is to be there after a boot is one that starts by itself.
    virsh("pool-autostart", "vms", host="host2")
    vm = guest("guest", BLOCKS)
    leave(176 * MIB)
    signals = Signals(seen=narrate)
    log1 = vm.start()
    in_mid_copy(signals)
    # What the lab copied there for its guests is not what may be lost.
    run("sync", "-f", "/var/lib/notify-guests", host="host2")
    say("lab", "the power of host2 is cut")
    cut_power("host2")
    signals.wait_for("MoveFailed", 120)
    expect(state("guest") == "paused", "it is on host1 and loses nothing")
    until(lambda: virsh("pool-info", "vms", host="host2", check=False).returncode == 0, "host2 to be back", 180)
    say("host2", "is back")
    moved(vm, BLOCKS, signals, log1)


if __name__ == "__main__":
    test(body)
