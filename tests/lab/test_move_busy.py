#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# limit: 2700
"""Ten moves, there and back, of a VM whose guest rewrites 64 MiB all the time, several times as fast as
its disk is copied: each of them ends, and no block is wrong.
"""

import time

from lab import Guest, disk, expect, run, say, test, virsh
from moves import clean_up, pools, states

MOVES = 10
# What a move may send in a second, in MiB, and how much is rewritten.
BANDWIDTH = 4
REWRITTEN = 64
# The guest goes on until this block is no zeroes any more.
STOP = 500

PLAN = f"""
dd if=/dev/urandom of=/tmp/part bs=1M count=8 2>/dev/null
rounds=0
while dd if=$DISK bs=1M skip={STOP} count=1 iflag=direct 2>/dev/null | cmp -s -n 1048576 - /dev/zero; do
    at=0
    while [ $at -lt {REWRITTEN} ]; do
        dd if=/tmp/part of=$DISK bs=1M seek=$at oflag=direct conv=notrunc 2>/dev/null || tell "FAILED to write $at"
        at=$((at + 8))
    done
    rounds=$((rounds + 1))
    read up idle </proc/uptime
    tell "rewrote it $rounds times in ${{up%.*}} s"
done
at=0
while [ $at -lt {REWRITTEN} ]; do
    if dd if=$DISK bs=1M skip=$at count=8 iflag=direct 2>/dev/null | cmp -s - /tmp/part; then
        right=$((right + 1))
    else
        wrong=$((wrong + 1))
    fi
    at=$((at + 8))
done
"""


def rounds(log):
    """How often the guest had rewritten it, and when, by its own clock."""
    told = [line.split() for line in log.items if line.startswith("rewrote")]
    return [(int(words[2]), int(words[5])) for words in told]


def move(to):
    began = time.monotonic()
    asked_of = [] if to == "host2" else ["-H", "host2"]
    said = run("virt-notify", *asked_of, "migrate", "guest", "--to", to, seconds=600)
    expect(said.endswith(f"guest runs on {to}\n"), f"it tells where: {said}")
    both = states("guest")
    expect(both == (["running", None] if to == "host1" else [None, "running"]), f"it runs there alone: {both}")
    return time.monotonic() - began


def body():
    pools(bandwidth=BANDWIDTH)
    virsh("vol-create-as", "vms", "disk0", "512M")
    vm = Guest("guest", PLAN, disk("vms", "disk0"))
    log = vm.start()
    log.wait(lambda line: line.startswith("rewrote it 3 times"), "the guest to be at work", 300)
    (first, since), *_, (last, until) = rounds(log)
    speed = (last - first) * REWRITTEN / max(until - since, 1)
    say("guest", f"rewrites {speed:.0f} MiB in a second")
    expect(speed > BANDWIDTH, f"it writes faster than is copied: {speed} MiB/s")
    for number in range(MOVES):
        to = "host2" if number % 2 == 0 else "host1"
        took = move(to)
        expect(not any("FAILED" in line for line in log.items), f"no write failed: {log.items[-3:]}")
        log.close()
        log = vm.follow(host="host2" if to == "host2" else None)
        say("host1", f"move {number + 1} took {took:.0f} s")
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/disk0", "bs=1M", f"seek={STOP}", "count=1", "oflag=direct",
        "status=none")
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 300)
    expect(done == f"done, {REWRITTEN // 8} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")
    expect(not any("FAILED" in line for line in log.items), "no write failed")
    log.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
