#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# lab: --hosts 1
"""The daemon hangs under a guest that writes, for as long as its packaged watchdog lets it: longer than a
write is held. The guest pauses then and loses nothing; the next daemon lets it go on, and it finishes.
"""

import os
import signal
import time

from lab import Guest, causes, daemon_pid, disk, expect, make_pool, say, take_away, test, until, virsh

BLOCKS = [block * 4 for block in range(40)]
WORDS = " ".join(map(str, BLOCKS))
PLAN = f"""
for block in {WORDS}; do write $block; done
echo 3 > /proc/sys/vm/drop_caches
for block in {WORDS}; do check $block; done
"""


def body():
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "256M")
    guest = Guest("hangs", PLAN, disk("vms", "disk0"), seen=lambda line: None)
    log = guest.start()
    log.wait(lambda line: line == f"wrote {BLOCKS[5]}", "the guest's first blocks", 120)
    old = daemon_pid()
    causes("crash", "virtnotifyd 6")
    causes("restart")
    os.kill(old, signal.SIGSTOP)
    stopped = time.monotonic()
    say("host1", f"virtnotifyd ({old}) is stopped")
    until(lambda: virsh("domstate", "--reason", "hangs").strip() == "paused (I/O error)", "the guest to pause", 60)
    say("host1", f"the guest pauses after {time.monotonic() - stopped:.0f} s")
    expect(daemon_pid() == old, "the watchdog takes longer than that")
    until(lambda: daemon_pid() not in (0, old), "the watchdog", 90)
    say("host1", f"another daemon runs after {time.monotonic() - stopped:.0f} s")
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 200)
    expect(done == f"done, {len(BLOCKS)} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")
    log.close()
    virsh("undefine", "hangs")
    take_away("vms", "disk0")


if __name__ == "__main__":
    test(body, needs_host2=False)
