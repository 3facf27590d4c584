#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast --hosts 1
"""What virtnotifyd lives through: it hangs until systemd's watchdog ends it, and the next one serves the
write that waited; D-Bus goes away, without which growth and libvirt go on, and comes back.
"""

import os
import signal
import subprocess
import time

from lab import (MIB, Failure, Signals, causes, daemon_pid, expect, make_pool, remove_pool, run, say, test, until,
                 virsh, volume_bytes, waiting_writes)

UNIT = "virtnotifyd.service"
DROP_IN = "/run/systemd/system/virtnotifyd.service.d"
DISK = "/dev/notify/vms/disk0"
# The packaged minute is longer than a write of nobody's VM is held.
WATCHDOG = 8


def write(chunk):
    """A write to a chunk that nobody has written before."""
    return ["dd", "if=/dev/urandom", f"of={DISK}", "bs=4K", f"seek={chunk * 1024}", "count=1", "oflag=direct",
            "conv=notrunc", "status=none"]


def watchdog(seconds):
    """Has systemd wait so long for a sign of life; none: as it is packaged."""
    if seconds:
        os.makedirs(DROP_IN, exist_ok=True)
        with open(f"{DROP_IN}/test.conf", "w", encoding="ascii") as file:
            file.write(f"[Service]\nWatchdogSec={seconds}\n")
    else:
        os.unlink(f"{DROP_IN}/test.conf")
        os.rmdir(DROP_IN)
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", UNIT)


def hangs():
    """A daemon that says nothing for longer than WatchdogSec."""
    packaged = run("systemctl", "show", "--value", "-p", "WatchdogUSec", UNIT).strip()
    expect(packaged == "1min", f"the packaged unit has a watchdog of a minute, not {packaged}")
    watchdog(WATCHDOG)
    old = daemon_pid()
    causes("crash", "virtnotifyd 6")
    causes("restart", UNIT)
    os.kill(old, signal.SIGSTOP)
    stopped = time.monotonic()
    with subprocess.Popen(write(1)) as held:
        until(lambda: waiting_writes("vms", "disk0") == 1, "the write to wait", 10)
        say("host1", f"virtnotifyd ({old}) is stopped, a write waits")
        until(lambda: daemon_pid() not in (0, old), "systemd to start another daemon", WATCHDOG + 30)
        say("host1", f"after {time.monotonic() - stopped:.0f} s there is another daemon")
        expect(time.monotonic() - stopped > WATCHDOG / 2, "nothing but the watchdog ended it")
        expect(held.wait(30) == 0, "the write that waited is served")
    result = run("journalctl", "-b", "-q", "-u", UNIT, "-o", "cat", "_PID=1")
    expect("Watchdog timeout" in result, f"it was the watchdog: {result}")
    expect(volume_bytes("vms", "disk0")[1] == 4 * MIB, "the chunk is there")
    watchdog(None)


def without_dbus():
    """Nothing that matters waits for it."""
    pid = daemon_pid()
    run("systemctl", "stop", "dbus.socket", "dbus.service")
    say("host1", "D-Bus is stopped")
    try:
        run(*write(2), seconds=20)
        expect(virsh("pool-list", "--name").split() == ["vms"], "libvirt's clients are answered")
        virsh("vol-create-as", "vms", "disk1", "16M")
        virsh("vol-delete", "disk1", "vms")
        expect(volume_bytes("vms", "disk0")[1] == 8 * MIB, "the volume has grown")
        expect(daemon_pid() == pid, "the daemon is the one that it was")
    finally:
        run("systemctl", "start", "dbus.socket", "dbus.service")
    say("host1", "and is back")
    until(lambda: run("busctl", "status", "org.virtnotify1", check=False).returncode == 0, "virtnotifyd on D-Bus", 30)
    expect(daemon_pid() == pid, "the daemon is the one that it was")
    grows_until_heard()
    say("D-Bus", "virtnotifyd is there again, and tells of growth")


def grows_until_heard():
    """A listener says nothing when it begins to listen: the volume grows until growth is heard."""
    signals = Signals()
    for chunk in range(3, 100):
        run(*write(chunk))
        if signals.comes("VolumeGrown", 1):
            break
    else:
        raise Failure("no signal after 97 writes")
    signals.close()


def body():
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "1G")
    hangs()
    without_dbus()
    virsh("vol-delete", "disk0", "vms")
    remove_pool("vms")


if __name__ == "__main__":
    test(body, needs_host2=False)
