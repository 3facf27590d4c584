#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast
"""What looks for left-overs after each test can fail: each kind is left here, on either host, and told;
and when it is taken away there is nothing more to tell.
"""

import os
import signal
import subprocess

from lab import HERE, PV, causes, expect, run, say, test, virsh

RECORD = "/var/lib/virtnotify/moves/left.json"
VM = ("<domain type='qemu'><name>left</name><memory unit='MiB'>32</memory>"
      "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>")


def look():
    """(status, what is told)."""
    done = run(f"{HERE}/leftovers", check=False)
    for line in (done.stdout + done.stderr).splitlines():
        say("told", line)
    return done.returncode, done.stdout


def things(sleeper):
    """Each kind of a thing; what is told of it, and how it goes away."""
    with open("/tmp/left.xml", "w", encoding="ascii") as file:
        file.write(VM)
    with open(RECORD, "w", encoding="ascii") as file:
        file.write("{}")
    virsh("define", "/tmp/left.xml")
    virsh("pool-define-as", "left", "dir", "--target", "/nowhere", host="host2")
    run("lvcreate", "-q", "--yes", "-Wn", "-L", "4M", "-n", "notify-left", "vg0", host="host2")
    run("vgchange", "-q", "--addtag", "left", "vg0")
    run("dmsetup", "create", "left", "--table", "0 8192 notify 2048 0 0 0 0")
    run("truncate", "-s", "1M", "/tmp/left.img")
    loop = run("losetup", "--show", "-f", "/tmp/left.img").strip()
    run("sh", "-c", "systemd-run --quiet --wait --unit left-failed false || true")
    run("ip", "route", "add", "blackhole", "192.168.99.1/32")
    sleeper.send_signal(signal.SIGSTOP)
    return ["VM left", "host2: pool left", "host2: logical volume vg0 notify-left", f"volume group {PV} vg0 left",
            "device left", f"loop device {loop}", "failed unit left-failed.service", f"record of a move {RECORD}",
            "route blackhole 192.168.99.1", f"stopped process T {sleeper.pid}"], loop


def away(loop):
    os.unlink(RECORD)
    virsh("undefine", "left")
    virsh("pool-undefine", "left", host="host2")
    run("lvremove", "-q", "--yes", "vg0/notify-left", host="host2")
    run("vgchange", "-q", "--deltag", "left", "vg0")
    run("dmsetup", "remove", "left")
    run("losetup", "-d", loop)
    run("systemctl", "reset-failed", "left-failed.service")
    run("ip", "route", "del", "blackhole", "192.168.99.1/32")


def happenings():
    """Each kind of what happens, and what is told of it."""
    run("systemctl", "kill", "-s", "KILL", "virtnotifyd", "virtnotify-control")
    run("systemd-run", "--quiet", "--unit", "left-loops", "-p", "Restart=always", "-p", "RestartSec=50ms",
        "-p", "StartLimitIntervalSec=0", "true", host="host2")
    run("sh", "-c", "until journalctl -q -b -u left-loops | grep -q 'counter is at 3'; do sleep 0.2; done",
        host="host2")
    run("systemctl", "stop", "left-loops", host="host2")
    run("logger", "-t", "virtnotifyd", "thread 'grow' panicked at left.rs:1:2:")
    run("sh", "-c", "echo '<4>WARNING: this was left by a test' >/dev/kmsg", host="host2")
    run("sh", "-c", "sh -c 'kill -SEGV $$' || true")
    causes("restart", "left.service")
    return ["restart virtnotifyd.service: declared 0 times, seen 1 times",
            "restart virtnotify-control.service: declared 0 times, seen 1 times",
            "host2: restart left-loops.service: declared 0 times, seen ",
            "panic of virtnotifyd: thread 'grow' panicked", "host2: the kernel's log: WARNING: this was",
            "crash dash 11: declared 0 times, seen 1 times", "restart left.service: declared 1 times, seen 0 times"]


def body():
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        left, loop = things(sleeper)
        wanted = [*left, *happenings()]
        status, told = look()
    finally:
        sleeper.kill()
        sleeper.wait()
    away(loop)
    missing = [line for line in wanted if f"left behind: {line}" not in told]
    expect(status == 1 and not missing, f"not told: {missing}")
    status, told = look()
    expect(status == 0 and told == "", f"nothing more is to tell, but: {told}")
    causes("crash", "dash 11")
    causes("restart", "virtnotifyd.service")
    causes("restart", "virtnotify-control.service")
    run("sh", "-c", "sh -c 'kill -SEGV $$' || true")
    run("systemctl", "kill", "-s", "KILL", "virtnotifyd", "virtnotify-control")
    for unit in ("virtnotifyd", "virtnotify-control"):
        run("sh", "-c", f"until systemctl is-active -q {unit}; do sleep 0.1; done")
    status, told = look()
    expect(status == 0 and told == "", f"what was declared is no fault, but: {told}")


if __name__ == "__main__":
    test(body)
