# SPDX-License-Identifier: LGPL-2.1-or-later
"""The life of the product's package on a host, whatever the package manager: installed, upgraded
below a writing VM, refused to go while a pool is active, gone without a trace, and back again."""

import glob
import os
import re

from lab import (Guest, control_pid, daemon_pid, expect, make_pool, on_bus, refused, run, say, take_away, until, virsh,
                 volume_bytes)

BLOCKS = [block * 4 for block in range(60)]
PLAN = f"""
# Slowly: it writes for longer than an upgrade takes.
for block in {' '.join(map(str, BLOCKS))}; do write $block; sleep 0.5; done
echo 3 > /proc/sys/vm/drop_caches
for block in {' '.join(map(str, BLOCKS))}; do check $block; done
"""


STAND_IN = """Package: virtnotify-dkms
Version: 1
Architecture: all
Maintainer: The lab <root@localhost>
Description: stands for the module, which the lab has put onto this host
"""


def only_debs(directory):
    """The RPM that the lab has laid over this host goes; Debian's package of release 1 is in that
    directory then. A lab's host has no compiler, so the one with the module's sources is a stand-in.
    """
    run("rpm", "-e", "--nodeps", "virtnotify", seconds=300)
    run("rm", "-rf", "/etc/virtnotify")
    run("systemctl", "daemon-reload")
    os.makedirs("/tmp/dkms/DEBIAN")
    with open("/tmp/dkms/DEBIAN/control", "w", encoding="ascii") as file:
        file.write(STAND_IN)
    os.makedirs(directory)
    run("dpkg-deb", "--build", "/tmp/dkms", f"{directory}/virtnotify-dkms_1_all.deb")
    run("cp", *glob.glob("/root/packages/1/virtnotify_*.deb"), directory)


class Manager:
    """A package manager, by its commands."""

    # Whose place the daemon takes.
    libvirt = "virtstoraged"
    # What stays after a removal, beside the pools' own files.
    kept = ()

    def install(self, number):
        """Installs that release, over the one before if there is one."""
        raise NotImplementedError

    def remove(self):
        """Returns what the command ended with and said."""
        raise NotImplementedError

    def release(self):
        """The release that is installed, as text."""
        raise NotImplementedError

    def paths(self):
        """What the package has put onto the host."""
        raise NotImplementedError

    def verify(self):
        """Raises when a packaged file is not as it was packaged, its configuration apart."""
        raise NotImplementedError


def listens_on(socket):
    return re.sub(r" \(.*", "", run("systemctl", "show", "--value", "-p", "Listen", socket)).strip()


def upgrade(manager, log):
    log.wait(lambda line: line == "wrote 4", "the guest's first blocks", 120)
    old, before = (daemon_pid(), control_pid()), len(log.items)
    say("host1", "the guest writes; the package is upgraded")
    manager.install(2)
    expect(not any(line.startswith("done") for line in log.items), "the guest must still write")
    say("host1", f"upgraded to release 2; the guest reported {len(log.items) - before} times meanwhile")
    expect(manager.release() == "2", "the newer package is there")
    expect(daemon_pid() not in (0, old[0]) and control_pid() not in (0, old[1]), "the newer daemons run")
    until(on_bus, "the newer daemons on D-Bus", 30)
    # As whom the programs of notify.d run.
    run("id", "virtnotify-notify")
    manager.verify()


def stays_while_active(manager):
    done = manager.remove()
    expect(done.returncode != 0 and "volumes are active" in done.stdout + done.stderr,
           f"the removal was not refused: {done.stdout}{done.stderr}")
    expect(manager.release() == "2" and daemon_pid() != 0 and control_pid() != 0, "nothing was removed or stopped")
    manager.verify()
    say("host1", "the removal was refused while a volume is active")


def gone(manager, socket):
    kept = ("/etc/virtnotify", *manager.kept)
    paths = [path for path in manager.paths() if not path.startswith(kept)]
    expect(len(paths) > 15 and all(map(os.path.exists, paths)), "the package's files are there")
    done = manager.remove()
    expect(done.returncode == 0, f"the removal failed: {done.stdout}{done.stderr}")
    left = [path for path in paths if os.path.lexists(path)]
    expect(not left, f"left behind: {left}")
    links = glob.glob("/etc/systemd/system/**/*virtnotify*", recursive=True)
    expect(not links, f"left behind for systemd: {links}")
    units = run("systemctl", "list-units", "--all", "--plain", "--no-legend", "virtnotify*")
    # A unit that others name, the lab's own here, is one that is not found.
    known = [line for line in units.splitlines() if line.split()[1] != "not-found"]
    expect(not known, f"systemd still knows: {known}")
    expect(listens_on(f"{manager.libvirt}.socket") == socket, "libvirt's own daemon is back in its place")
    virsh("pool-list", "--all")
    refused("pool-define-as", "vms", "notify", "--source-name", "vg0", "--target", "/dev/notify/vms",
            says="'notify'")
    say("host1", "removed: libvirt is as it was before")


def back(manager, socket):
    saved = "/etc/virtnotify/virtnotify.toml.rpmsave"
    if os.path.exists(saved):
        os.rename(saved, saved.removesuffix(".rpmsave"))
    manager.install(2)
    manager.verify()
    expect(daemon_pid() != 0 and control_pid() != 0, "the installation starts the daemons")
    for unit in ("virtnotifyd.service", "virtnotify-control.service", "virtnotify-proxy.service",
                 "virtnotify-proxy.socket", "virtnotify-proxy-ro.socket"):
        run("systemctl", "is-enabled", unit)
    expect(listens_on("virtnotify-proxy.socket") == socket, "the daemon sits in front of libvirt's")
    virsh("pool-start", "vms")
    say("host1", "installed again: the pool starts")


def life(manager, disk, socket):
    """All of it, beginning with release 1 installed. `disk` is the VM's, on the volume disk0."""
    expect(manager.release() == "1", "release 1 is installed")
    manager.verify()
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "512M")
    guest = Guest("packaged", PLAN, disk, seen=lambda line: None)
    log = guest.start()
    upgrade(manager, log)
    stays_while_active(manager)
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 200)
    expect(done == f"done, {len(BLOCKS)} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")
    allocation = volume_bytes("vms", "disk0")[1]
    expect(len(BLOCKS) * 4 << 20 <= allocation, f"every chunk is there, not {allocation} bytes")
    log.close()
    virsh("undefine", "packaged")
    virsh("pool-destroy", "vms")
    gone(manager, socket)
    back(manager, socket)
    take_away("vms", "disk0")
