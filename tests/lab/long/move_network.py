#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The network between the hosts is cut in mid copy, and comes back a minute later.

    cargo xtask lab run --file tests/lab tests/lab/long/move_network.py
"""

import sys
import time

sys.path.insert(0, "/root/lab")
from lab import MIB, Signals, expect, run, say, test  # noqa: E402
from moves import arrived, clean_up, guest, in_mid_copy, leave, narrate, never_twice, pools, state, verdict  # noqa: E402

BLOCKS = [*range(0, 160, 4)]
CUT = 60  # longer than libvirt's keepalive


def body():
    pools()
    vm = guest("guest", BLOCKS)
    leave(16 * MIB)
    signals = Signals(seen=narrate)
    log1 = vm.start()
    in_mid_copy(signals)
    run("ip", "route", "add", "blackhole", "192.168.77.2/32")
    say("host1", f"the way to host2 is cut for {CUT} s")
    time.sleep(CUT)
    expect(state("guest") == "paused", "it is on host1 meanwhile, and loses nothing")
    run("ip", "route", "del", "blackhole", "192.168.77.2/32")
    say("host1", "it is back")
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
