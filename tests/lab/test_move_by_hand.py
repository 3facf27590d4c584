#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""A plain `virsh migrate --copy-storage-all` between the hosts, there and back, while the guest writes.
The volumes are made by libvirt itself, and stay thin.
"""

from lab import MIB, Signals, expect, say, test, virsh, volume_bytes
from moves import clean_up, guest, pools, states, verdict, volumes

BLOCKS = [*range(0, 40), *range(200, 500, 25)]
HEADROOM = 64 * MIB


def migrate(source, target, uri):
    say(source or "host1", f"virsh migrate --live --persistent --undefinesource --copy-storage-all guest {uri}")
    virsh("migrate", "--live", "--persistent", "--undefinesource", "--copy-storage-all",
          "--migrate-disks-detect-zeroes", "vda", "guest", uri, host=source, seconds=300)
    there = states("guest")
    expect(there == ([None, "running"] if target else ["running", None]), f"it runs there: {there}")


def body():
    pools()
    signals = Signals(seen=lambda item: None)
    vm = guest("guest", BLOCKS, pause=2)
    log1 = vm.start()
    log1.wait(lambda line: line == "wrote 10", "the guest's first blocks", 120)
    migrate(None, "host2", "qemu+ssh://host2/system")
    expect(volumes() == ["disk0"], "libvirt leaves the volume on host1 to its operator")
    virsh("vol-delete", "disk0", "vms")
    log2 = vm.follow(host="host2")
    log2.wait(lambda line: line.startswith("wrote"), "the guest to write on host2", 120)
    migrate("host2", None, "qemu+ssh://host1/system")
    log3 = vm.follow()
    verdict(log3, BLOCKS)
    chunks = {block // 4 for block in BLOCKS}
    allocation = volume_bytes("vms", "disk0")[1]
    expect(allocation <= len(chunks) * 4 * MIB + HEADROOM, f"it is as thin as before, not {allocation // MIB} MiB")
    expect(not signals.all("MoveStarted"), "the daemon took no part")
    for follower in (log1, log2, log3, signals):
        follower.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
