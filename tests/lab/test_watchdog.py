#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast --hosts 1
"""What virtnotifyd and virtnotify-control live through: virtnotifyd hangs until systemd's watchdog ends it, and the next
one serves the write that waited; D-Bus goes away, without which growth and libvirt go on, and comes back;
virtnotify-control hangs, and volumes grow meanwhile.
"""

import os
import signal
import subprocess
import time

from lab import (MIB, Failure, Signals, causes, control_pid, daemon_pid, expect, make_pool, on_bus, remove_pool, run, say,
                 test, until, virsh, volume_bytes, waiting_writes)

UNIT = "virtnotifyd.service"
CONTROL = "virtnotify-control.service"
DISK = "/dev/notify/vms/disk0"
# The packaged minute is longer than a write of nobody's VM is held.
WATCHDOG = 8


def write(chunk):
    """A write to a chunk that nobody has written before."""
    return ["dd", "if=/dev/urandom", f"of={DISK}", "bs=4K", f"seek={chunk * 1024}", "count=1", "oflag=direct",
            "conv=notrunc", "status=none"]


def watchdog(unit, seconds):
    """Has systemd wait so long for a sign of life; none: as it is packaged, a minute."""
    drop_in = f"/run/systemd/system/{unit}.d"
    if seconds:
        packaged = run("systemctl", "show", "--value", "-p", "WatchdogUSec", unit).strip()
        expect(packaged == "1min", f"the packaged {unit} has a watchdog of a minute, not {packaged}")
        os.makedirs(drop_in, exist_ok=True)
        with open(f"{drop_in}/test.conf", "w", encoding="ascii") as file:
            file.write(f"[Service]\nWatchdogSec={seconds}\n")
    else:
        os.unlink(f"{drop_in}/test.conf")
        os.rmdir(drop_in)
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", unit)


def was_the_watchdog(unit):
    """systemd's journal of the unit says so."""
    result = run("journalctl", "-b", "-q", "-u", unit, "-o", "cat", "_PID=1")
    expect("Watchdog timeout" in result, f"it was the watchdog: {result}")


def hangs():
    """A virtnotifyd that says nothing for longer than WatchdogSec."""
    watchdog(UNIT, WATCHDOG)
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
    was_the_watchdog(UNIT)
    expect(volume_bytes("vms", "disk0")[1] == 4 * MIB, "the chunk is there")
    watchdog(UNIT, None)


def control_hangs():
    """A virtnotify-control that says nothing for longer than WatchdogSec: nothing that is written waits for it."""
    watchdog(CONTROL, WATCHDOG)
    old, daemon, chunk = control_pid(), daemon_pid(), 200
    causes("crash", "virtnotify-control 6")
    causes("restart", CONTROL)
    os.kill(old, signal.SIGSTOP)
    stopped = time.monotonic()
    say("host1", f"virtnotify-control ({old}) is stopped")
    while control_pid() in (0, old):
        expect(time.monotonic() < stopped + WATCHDOG + 30, "systemd to start another one")
        expect(chunk < 250, "it to happen before the volume ends")
        began = time.monotonic()
        run(*write(chunk), seconds=20)
        expect(time.monotonic() - began < WATCHDOG / 2, "no write waits for it")
        chunk += 1
        time.sleep(1)
    say("host1", f"after {time.monotonic() - stopped:.0f} s there is another one; {chunk - 200} chunks grew meanwhile")
    expect(time.monotonic() - stopped > WATCHDOG / 2 and chunk > 202, "nothing but the watchdog ended it")
    was_the_watchdog(CONTROL)
    until(on_bus, "virtnotify-control on D-Bus", 30)
    expect(daemon_pid() == daemon, "virtnotifyd is the one that it was")
    watchdog(CONTROL, None)


def without_dbus():
    """Nothing that matters waits for it."""
    pids = daemon_pid(), control_pid()
    # Masked as well: any service of D-Bus that systemd starts again, as logind, would start it, and cancels the stop.
    run("systemctl", "mask", "--runtime", "--now", "dbus.socket", "dbus.service")
    say("host1", "D-Bus is stopped")
    try:
        run(*write(2), seconds=20)
        expect(virsh("pool-list", "--name").split() == ["vms"], "libvirt's clients are answered")
        virsh("vol-create-as", "vms", "disk1", "16M")
        virsh("vol-delete", "disk1", "vms")
        expect(volume_bytes("vms", "disk0")[1] == 8 * MIB, "the volume has grown")
        expect((daemon_pid(), control_pid()) == pids, "the daemons are those that they were")
        expect(not on_bus(), "D-Bus is away all the time")
    finally:
        run("systemctl", "unmask", "--runtime", "dbus.socket", "dbus.service")
        run("systemctl", "start", "dbus.socket", "dbus.service")
    say("host1", "and is back")
    until(on_bus, "virtnotify-control on D-Bus", 30)
    expect((daemon_pid(), control_pid()) == pids, "the daemons are those that they were")
    grows_until_heard()
    say("D-Bus", "virtnotify-control is there again, and tells of growth")


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
    control_hangs()
    virsh("vol-delete", "disk0", "vms")
    remove_pool("vms")


if __name__ == "__main__":
    test(body, needs_host2=False)
