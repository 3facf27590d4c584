#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""The network between the hosts is cut in mid copy, and comes back a minute later."""

import time

from lab import MIB, Signals, expect, run, say, test
from moves import guest, in_mid_copy, leave, moved, narrate, pools, state

BLOCKS = [*range(0, 160, 4)]
CUT = 60  # longer than libvirt's keepalive


def body():
    pools()
    vm = guest("guest", BLOCKS)
    leave(80 * MIB)
    signals = Signals(seen=narrate)
    log1 = vm.start()
    in_mid_copy(signals)
    run("ip", "route", "add", "blackhole", "192.168.77.2/32")
    say("host1", f"the way to host2 is cut for {CUT} s")
    time.sleep(CUT)
    expect(state("guest") == "paused", "it is on host1 meanwhile, and loses nothing")
    run("ip", "route", "del", "blackhole", "192.168.77.2/32")
    say("host1", "it is back")
    moved(vm, BLOCKS, signals, log1)


if __name__ == "__main__":
    test(body)
