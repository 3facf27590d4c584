#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast --hosts 1
"""Growth, libvirt's door and what is on D-Bus are three programs, and none takes another one away.

Whatever becomes of virtnotifyd (a wrong key, no kernel module, SIGKILL), libvirt's other pools answer, ours
are inactive and say why, clients keep their connections, and virtnotify-control says on D-Bus that it does not run.
Whatever becomes of virtnotify-proxy and virtnotify-control, a volume is written on.
"""

import os
import shutil

from lab import (MIB, Client, causes, control_pid, daemon_pid, expect, kill_control, kill_daemon, make_pool, on_bus, refused,
                 remove_pool, run, say, test, until, virsh, volume_bytes)

PROXY = "virtnotify-proxy.service"
DAEMON = "virtnotifyd.service"
CONTROL = "virtnotify-control.service"
CONFIG = "/etc/virtnotify/virtnotify.toml"
DOOR = "/etc/virtnotify/proxy.toml"
STORAGE = "/run/virtnotify/storage.sock"
ONCE = f"/run/systemd/system/{DAEMON}.d"


def states():
    """Each pool's state, as `pool-list` shows it."""
    rows = (line.split() for line in virsh("-q", "pool-list", "--all").splitlines())
    return {row[0]: row[1] for row in rows if row}


class Writer:
    """Writes a volume, each time a chunk that was never written."""

    def __init__(self, path):
        self._path, self.chunks = path, 0

    def grow(self):
        run("dd", "if=/dev/urandom", f"of={self._path}", "bs=4M", "count=1", f"seek={self.chunks}", "oflag=direct",
            "conv=notrunc", seconds=60)
        self.chunks += 1


def no_daemon(why):
    """virtnotifyd does not run, for a reason that a client hears."""
    until(lambda: states().get("vms") == "inactive", "the pool to be shown as inactive", 60)
    expect(states()["plain"] == "active", "libvirt's own pool is active")
    virsh("pool-refresh", "plain")
    expect("one" in virsh("vol-list", "plain"), "libvirt's own pool answers")
    refused("pool-start", "vms", says="virtnotifyd, which serves the pools of type 'notify', does not run")
    refused("vol-list", "vms", says="systemctl status virtnotifyd")
    until(lambda: not on_bus(), "it to be known on D-Bus", 30)
    run("busctl", "status", "org.virtnotify1")
    done = run("virt-notify", "status", "--check", check=False)
    expect(done.returncode == 2 and "virtnotifyd" in done.stdout + done.stderr, f"that is critical, and said: {done}")
    say("virsh", f"{why}: pools of other types work, ours say why they do not")


def wrong_configuration():
    with open(CONFIG, encoding="utf-8") as file:
        right = file.read()
    with open(CONFIG, "a", encoding="utf-8") as file:
        file.write("[storage]\nheadrom_mib = 1\n")
    done = run("virt-notify", "setup", "--check", check=False)
    expect(done.returncode == 1 and "headrom_mib" in done.stdout, f"--check names the key: {done.stdout}{done.stderr}")
    run("systemctl", "restart", DAEMON, check=False)
    no_daemon("a wrong key")
    run("systemctl", "restart", CONTROL, check=False)
    status = run("systemctl", "show", "--value", "-p", "ExecMainStatus", CONTROL).strip()
    expect(status == "78" and control_pid() == 0, f"virtnotify-control ends with 78 for it, and is not tried again: {status}")
    with open(CONFIG, "w", encoding="utf-8") as file:
        # A peer that cannot be one is left out.
        file.write(right + '\n[[peer]]\nname = "../x"\nuri = "qemu:///system"\n')
    for unit in (DAEMON, CONTROL):
        run("systemctl", "reset-failed", unit)
        run("systemctl", "start", unit)
    expect(states()["vms"] == "active", "with a wrong peer the pool is active again")
    until(on_bus, "virtnotify-control on D-Bus, with a wrong peer", 30)
    with open(CONFIG, "w", encoding="utf-8") as file:
        file.write(right)
    expect(run("virt-notify", "setup", "--check") == "the configuration is right\n", "the configuration is right")
    run("systemctl", "restart", DAEMON, CONTROL)


def no_module():
    module = run("modinfo", "-n", "dm-notify").strip()
    run("systemctl", "stop", DAEMON)
    for device in run("dmsetup", "ls", "--target", "notify").splitlines():
        run("dmsetup", "remove", device.split()[0])
    run("modprobe", "-r", "dm-notify")
    os.rename(module, module + ".away")
    # Once, so that its starts can be counted; systemd would try again and again.
    os.makedirs(ONCE)
    with open(f"{ONCE}/once.conf", "w", encoding="ascii") as file:
        file.write("[Service]\nRestart=no\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", DAEMON, check=False, seconds=200)
    no_daemon("no kernel module")
    shutil.rmtree(ONCE)
    run("systemctl", "daemon-reload")
    os.rename(module + ".away", module)
    run("systemctl", "start", DAEMON)
    expect(states()["vms"] == "active", "the pool is active again")
    until(on_bus, "it to be heard on D-Bus", 30)


def a_client_lives_on():
    client = Client()
    expect("running" in client.ask("pool-info vms"), "the client sees the pool")
    old = daemon_pid()
    kill_daemon()
    said = client.ask("pool-info vms")
    expect("error" not in said, f"the same connection is answered at once: {said}")
    expect(daemon_pid() != old, "another virtnotifyd runs")
    until(lambda: "running" in client.ask("pool-info vms"), "the pool to be active again", 60)
    client.ask("vol-create-as vms made 8M")
    expect("made" in client.ask("vol-list vms"), "and makes a volume")
    client.ask("vol-delete made vms")
    client.close()


def growth_lives_on():
    old = daemon_pid()
    writer = Writer("/dev/notify/vms/disk0")
    writer.grow()
    run("systemctl", "stop", PROXY, "virtnotify-proxy.socket", "virtnotify-proxy-ro.socket")
    writer.grow()
    run("systemctl", "start", "virtnotify-proxy.socket", "virtnotify-proxy-ro.socket", PROXY)
    causes("restart", PROXY)
    run("systemctl", "kill", "-s", "KILL", PROXY)
    writer.grow()
    run("systemctl", "stop", CONTROL)
    writer.grow()
    run("systemctl", "start", CONTROL)
    kill_control()
    writer.grow()
    until(on_bus, "the next virtnotify-control", 30)
    expect("disk0" in virsh("vol-list", "vms"), "clients are answered again")
    expect(volume_bytes("vms", "disk0")[1] >= writer.chunks * 4 * MIB, "each write has a chunk")
    expect(daemon_pid() == old, "virtnotifyd has not noticed")
    say("host1", f"{writer.chunks} chunks were written meanwhile")


def a_wrong_door():
    with open(DOOR, encoding="utf-8") as file:
        right = file.read()
    with open(DOOR, "a", encoding="utf-8") as file:
        file.write("auth_unix_rw = 'nobody'\n")
    run("systemctl", "restart", PROXY)
    expect(states() == {"plain": "active", "vms": "active"}, "all pools answer")
    log = run("journalctl", "-q", "-u", PROXY, "-n", "20", "-o", "cat")
    expect("unknown variant `nobody`" in log and "all defaults hold" in log, f"the log says what is wrong: {log}")
    with open(DOOR, "w", encoding="utf-8") as file:
        file.write(right)
    run("systemctl", "restart", PROXY)


def strangers():
    done = run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "python3", "-c",
               f"import socket; socket.socket(socket.AF_UNIX).connect('{STORAGE}')", check=False)
    expect("PermissionError" in done.stderr, f"nobody but root gets to virtnotifyd: {done.stderr}")
    listening = run("ss", "-xlp")
    ours = [line for line in listening.splitlines() if f'pid={daemon_pid()},' in line]
    expect(len(ours) == 1 and STORAGE in ours[0], f"virtnotifyd listens there alone: {ours}")
    expect(f"pid={control_pid()}," not in listening, f"virtnotify-control listens nowhere: {listening}")


def body():
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "256M")
    os.makedirs("/var/tmp/plain")
    virsh("pool-define-as", "plain", "dir", "--target", "/var/tmp/plain")
    virsh("pool-start", "plain")
    virsh("vol-create-as", "plain", "one", "1M")
    strangers()
    a_client_lives_on()
    growth_lives_on()
    wrong_configuration()
    a_wrong_door()
    no_module()
    virsh("vol-delete", "one", "plain")
    virsh("pool-destroy", "plain")
    virsh("pool-undefine", "plain")
    os.rmdir("/var/tmp/plain")
    virsh("vol-delete", "disk0", "vms")
    remove_pool("vms")


test(body, needs_host2=False)
