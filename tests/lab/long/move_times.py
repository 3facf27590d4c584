#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long moves take, part by part: a full host ten times, and a host at its low mark ten times.

    cargo xtask lab run --file tests/lab tests/lab/long/move_times.py [RUNS [full|low]]

The times are those of the machine that it runs on. What holds anywhere: at the low mark the guest is
never paused, and its longest write is told.
"""

import statistics
import sys
import time

sys.path.insert(0, "/root/lab")
from lab import MIB, Guest, Lines, Lost, Signals, disk, expect, say, test, virsh  # noqa: E402
from moves import arrived, clean_up, leave, longest_write, pools, timed_plan, verdict  # noqa: E402

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
SERIES = sys.argv[2:] or ["full", "low"]
LOW = "<notify:lowMark unit='%' action='migrate'>33</notify:lowMark>"
# From one of these to the next one is a part.
PARTS = [("decide", "MoveStarted"), ("prepare", "copying"), ("copy", "there"), ("tidy up", "MoveFinished")]


class Clock:
    """When each thing happened first."""

    def __init__(self):
        self.at = {}

    def stamp(self, name):
        self.at.setdefault(name, time.monotonic())

    def signal(self, item):
        name, words = item
        self.stamp("copying" if name == "MoveProgress" and words[-2] > 0 else name)

    def lifecycle(self, line):
        if "'guest'" in line and "Resumed" in line:
            self.stamp("there")

    def parts(self, begin):
        marks = [self.at[begin], *(self.at[mark] for _, mark in PARTS)]
        spans = [after - before for before, after in zip(marks, marks[1:])]
        return spans + [self.at["there"] - self.at[begin]]


def one(begin, room, blocks, pause):
    """One move; returns its parts in seconds and the guest's longest write in ms."""
    clock = Clock()
    signals = Signals(seen=clock.signal)
    there = Lines("ssh", "host2", "stdbuf -oL virsh event --loop --event lifecycle", seen=clock.lifecycle)
    virsh("vol-create-as", "vms", "disk0", "512M")
    vm = Guest("guest", timed_plan(blocks, pause), disk("vms", "disk0"))
    leave(room)
    log1 = vm.start()
    signals.wait_for("MoveFinished", 300)
    log2 = vm.follow(host="host2")
    verdict(log2, blocks)
    arrived("guest")
    ended = bool(signals.all("SpaceExhausted"))
    expect(ended == (begin == "SpaceExhausted"), "the guest is paused only where the space ends")
    longest = int(longest_write(log1, log2).split()[2])
    for follower in (log1, log2, signals, there):
        follower.close()
    return clock.parts(begin), longest


def series(title, begin, room, blocks, low="", pause=0):
    """Ten of them, and a line for each part. One whose guest the emulation lost is made again."""
    rows = []
    while len(rows) < RUNS:
        pools(low=low, bandwidth=256)
        try:
            parts, longest = one(begin, room, blocks, pause)
        except Lost as lost:
            say("run", f"{lost}: once more")
            continue
        finally:
            clean_up("guest")
        rows.append([*parts, longest / 1000])
        say("run", f"{title} {len(rows)}: " + ", ".join(f"{value:.2f}" for value in rows[-1]))
    names = [*(name for name, _ in PARTS), "from the event to running there", "the guest's longest write"]
    print(f"\n| {title}, {RUNS} runs (seconds) | min | median | max |\n|---|---|---|---|")
    for name, values in zip(names, zip(*rows)):
        print(f"| {name} | {min(values):.2f} | {statistics.median(values):.2f} | {max(values):.2f} |", flush=True)


def body():
    if "full" in SERIES:
        series("full host", "SpaceExhausted", 80 * MIB, [*range(0, 120, 4)])
    if "low" in SERIES:
        # A guest that still writes when the move is over.
        series("low mark", "SpaceLow", 400 * MIB, [*range(0, 240, 4)], LOW, pause=1)


if __name__ == "__main__":
    test(body)
