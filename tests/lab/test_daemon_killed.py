#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""SIGKILL while a guest's write waits: systemd restarts the daemon, the write goes on.

The daemon is stopped first, so that the guest's next write to a hole certainly waits when it dies.
"""

import os
import signal
import time

from lab import (Guest, daemon_pid, disk, expect, kill_daemon, make_pool, say, take_away, test, virsh, volume_bytes,
                 waiting_writes)

BLOCKS = [block * 4 for block in range(40)]
PLAN = f"""
for block in {' '.join(map(str, BLOCKS))}; do write $block; done
echo 3 > /proc/sys/vm/drop_caches
for block in {' '.join(map(str, BLOCKS))}; do check $block; done
"""


def wait_until_held(guest_log):
    """A stopped daemon serves nothing, so a write must come to wait. The bell has rung for an earlier
    chunk and nobody has answered, so it does not ring again: only the status tells."""
    deadline = time.monotonic() + 60
    while waiting_writes("vms", "disk0") == 0:
        expect(time.monotonic() < deadline, "a write must come to wait")
        expect(not any(line.startswith("done") for line in guest_log.items), "the guest must not get through")
        time.sleep(0.2)


def killed():
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "256M")
    guest = Guest("killed", PLAN, disk("vms", "disk0"), seen=lambda line: say("guest", line))
    log = guest.start()
    log.wait(lambda line: line == "wrote 20", "the guest's first blocks", 300)

    old = daemon_pid()
    os.kill(old, signal.SIGSTOP)
    say("host1", f"virtnotifyd ({old}) is stopped")
    wait_until_held(log)
    say("host1", f"{waiting_writes('vms', 'disk0')} writes wait; SIGKILL")
    kill_daemon(pid=old)

    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 300)
    expect(done == f"done, {len(BLOCKS)} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")
    expect(daemon_pid() not in (0, old), "systemd has started another daemon")
    say("host1", f"virtnotifyd ({daemon_pid()}) served what waited")
    expect("vms" in virsh("pool-list", "--name"), "the pool is still active")
    allocation = volume_bytes("vms", "disk0")[1]
    expect(len(BLOCKS) * 4 << 20 <= allocation, f"every chunk is there, not {allocation} bytes")

    virsh("undefine", "killed")
    take_away("vms", "disk0")


if __name__ == "__main__":
    test(killed, needs_host2=False)
