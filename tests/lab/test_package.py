#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --hosts 1
"""The life of the packages on a host: installed, upgraded below a writing VM, refused to go while a
pool is active, gone without a trace, and back again. The module's own package stays here
(test_kmod_package.py): an emulated host takes a minute to index its modules.
"""

import glob
import os
import re

from lab import Guest, Signals, disk, expect, refused, run, say, test, virsh, volume_bytes

PACKAGES = ["virtnotify", "kmod-virtnotify"]
BLOCKS = [block * 4 for block in range(60)]
PLAN = f"""
for block in {' '.join(map(str, BLOCKS))}; do write $block; done
echo 3 > /proc/sys/vm/drop_caches
for block in {' '.join(map(str, BLOCKS))}; do check $block; done
"""
SOCKET = "/run/libvirt/virtstoraged-sock"


def files(number):
    """The packages of a release."""
    return [path for name in PACKAGES for path in glob.glob(f"/root/packages/{number}/{name}-0*.rpm")]


def release():
    return run("rpm", "-q", "--qf", "%{RELEASE} ", *PACKAGES).split()


def verify():
    """Every file is as it was packaged; what the host wrote into its configuration is its own."""
    done = run("rpm", "-V", "--nodeps", *PACKAGES, check=False)
    changed = [line for line in done.stdout.splitlines() if not line.endswith(" c /etc/virtnotify/virtnotify.toml")]
    expect(not changed, f"rpm finds changed files: {changed}")


def daemon_pid():
    return int(run("systemctl", "show", "--value", "-p", "MainPID", "virtnotifyd"))


def listens_on(socket):
    return re.sub(r" \(.*", "", run("systemctl", "show", "--value", "-p", "Listen", socket)).strip()


def upgrade(log):
    log.wait(lambda line: line == "wrote 4", "the guest's first blocks", 120)
    old, before = daemon_pid(), len(log.items)
    say("host1", "the guest writes; rpm -U")
    run("rpm", "-U", "--nodeps", *files(2))
    expect(not any(line.startswith("done") for line in log.items), "the guest must still write")
    say("host1", f"upgraded to release 2; the guest reported {len(log.items) - before} times meanwhile")
    expect(release() == ["2", "2"], "both packages are the newer ones")
    expect(daemon_pid() not in (0, old), "the newer daemon runs")
    verify()


def stays_while_active():
    done = run("rpm", "-e", "--nodeps", *PACKAGES, check=False)
    expect(done.returncode != 0 and "volumes are active" in done.stderr, f"the removal was not refused: {done.stderr}")
    expect(release() == ["2", "2"] and daemon_pid() != 0, "nothing was removed or stopped")
    expect(os.path.exists("/sys/module/dm_notify"), "the module is loaded")
    verify()
    say("host1", "the removal was refused while a volume is active")


def gone():
    paths = [path for path in run("rpm", "-ql", "virtnotify").split() if not path.startswith("/etc/virtnotify")]
    expect(len(paths) > 30 and all(map(os.path.exists, paths)), "the package's files are there")
    run("rpm", "-e", "--nodeps", "virtnotify")
    left = [path for path in paths if os.path.lexists(path)]
    expect(not left, f"left behind: {left}")
    links = glob.glob("/etc/systemd/system/**/*virtnotify*", recursive=True)
    expect(not links, f"left behind for systemd: {links}")
    units = run("systemctl", "list-units", "--all", "--plain", "--no-legend", "virtnotify*")
    expect(not units.strip(), f"systemd still knows: {units}")
    expect(listens_on("virtstoraged.socket") == SOCKET, "libvirt's own storage daemon is back in its place")
    virsh("pool-list", "--all")
    refused("pool-define-as", "vms", "notify", "--source-name", "vg0", "--target", "/dev/notify/vms",
            says="unknown")
    say("host1", "removed: libvirt is as it was before")


def back():
    saved = "/etc/virtnotify/virtnotify.toml.rpmsave"
    if os.path.exists(saved):
        os.rename(saved, saved.removesuffix(".rpmsave"))
    run("rpm", "-i", "--nodeps", *files(2)[:1])
    expect(release() == ["2", "2"], "the packages are installed")
    verify()
    expect(daemon_pid() != 0, "the installation starts the daemon")
    for unit in ("virtnotifyd.service", "virtnotifyd.socket", "virtnotifyd-ro.socket"):
        run("systemctl", "is-enabled", unit)
    expect(listens_on("virtnotifyd.socket") == SOCKET, "the daemon sits in front of libvirt's")
    virsh("pool-start", "vms")
    say("host1", "installed again: the pool starts")


def package():
    expect(release() == ["1", "1"], "the host was made from the packages of release 1")
    say("host1", "made from the packages of release 1")
    verify()
    virsh("pool-define-as", "vms", "notify", "--source-name", "vg0", "--target", "/dev/notify/vms")
    virsh("pool-start", "vms")
    virsh("vol-create-as", "vms", "disk0", "512M")
    guest = Guest("packaged", PLAN, disk("vms", "disk0"), seen=lambda line: None)
    log = guest.start()
    upgrade(log)
    stays_while_active()
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 200)
    expect(done == f"done, {len(BLOCKS)} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")
    allocation = volume_bytes("vms", "disk0")[1]
    expect(len(BLOCKS) * 4 << 20 <= allocation, f"every chunk is there, not {allocation} bytes")
    virsh("undefine", "packaged")
    virsh("pool-destroy", "vms")
    gone()
    back()
    signals = Signals()
    virsh("vol-delete", "disk0", "vms")
    signals.wait_for("VolumeDeleted", 30)
    signals.close()
    virsh("pool-destroy", "vms")
    virsh("pool-undefine", "vms")


if __name__ == "__main__":
    test(package, needs_host2=False)
