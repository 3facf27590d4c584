#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 72G --limit 600
"""test_memory.py [RUNS [VOLUMES]]: virtnotifyd's memory with so many runs and volumes keeps to the bound that
docs/operator/operating.md states. The disk is a file with holes: what is mapped is never written.
"""

import signal
import sys

from product import Daemon, close_all, expect, make_disk, make_pool_of_small_chunks, run, say, start_upstream, use_disks, virsh, write

RUNS, VOLUMES = 100_000, 10
CHUNK = 65536
# The chunk of `big` that is written first, by which its run is known; how many chunks are for all else.
MARK, SPARE = 5, 8192
# The bound: so much in any case, for each run and for each volume, in bytes.
ALONE, A_RUN, A_VOLUME = 96 << 20, 512, 64 << 10


def within(what, runs, volumes):
    """Tells the daemon's memory now and at most, which must be below the bound."""
    with open(f"/proc/{run('pidof', 'virtnotifyd').strip()}/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    now, most = (int(lines[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    bound = ALONE + runs * A_RUN + volumes * A_VOLUME
    say(f"{what}: {now >> 20} MiB, {most >> 20} MiB at most since it started; the bound is {bound >> 20} MiB")
    expect(most <= bound, f"{bound} bytes at most, not {most}")


def restored(runs):
    """The one run of the volume `big` becomes so many, of which none is beside another, behind all that others have."""
    with open("/tmp/map", "w", encoding="ascii") as file:
        for line in run("virt-notify", "dump", "vg0").splitlines():
            if line.startswith(f"run {MARK}:"):
                file.writelines(f"run {2 * number}:0:{SPARE + number}:1\n" for number in range(runs))
            else:
                file.write("end edited\n" if line.startswith("end ") else f"{line}\n")
    run("virt-notify", "restore", "vg0", "--from", "/tmp/map", "--yes", "--no-archive")


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    volumes = int(sys.argv[2]) if len(sys.argv) > 2 else VOLUMES
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    start_upstream()
    daemon = Daemon()
    make_pool_of_small_chunks()
    within("a pool without volumes", 0, 0)
    # One virsh for all: to start one takes longer than to make a volume.
    virsh("; ".join(f"vol-create-as vms v{number} 64M" for number in range(volumes)))
    for number in range(volumes):
        write(f"/dev/notify/vms/v{number}", 0, b"v" * 4096)
    within(f"{volumes} volumes", volumes, volumes)
    virsh("vol-create-as", "vms", "big", f"{2 * runs * CHUNK}b")
    write("/dev/notify/vms/big", MARK * CHUNK, b"r" * 4096)
    run("lvextend", "-qq", "-L", "2G", "vg0/notify-meta")
    virsh("pool-refresh", "vms")
    virsh("pool-destroy", "vms")
    daemon.end(signal.SIGTERM)
    run("lvextend", "-qq", "-L", f"{(SPARE + runs) * CHUNK}b", "vg0/notify-data0")
    restored(runs)
    say("restored")
    daemon = Daemon()
    virsh("pool-start", "vms")
    for number in range(volumes):
        write(f"/dev/notify/vms/v{number}", CHUNK, b"v" * 4096)
    write("/dev/notify/vms/big", CHUNK, b"r" * 4096)
    within(f"{runs} runs and {volumes} volumes", runs + 2 * volumes, volumes + 1)
    close_all(daemon)


if __name__ == "__main__":
    main()
