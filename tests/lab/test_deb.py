#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --hosts 1 --libvirt debian --disk 64M
# long
"""The life of the Debian package on a host with Debian's own libvirtd (packages.py): apt installs it
with all that it needs, dpkg removes it. The disk makes it a host of its own: it has the other package
afterwards.
"""

import glob
import os

from lab import expect, run, say, test
from packages import Manager, life, only_debs

HERE = "/tmp/debs"
# What the image of the lab's hosts leaves out of every package.
LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/")
DISK = ("<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>"
        "<source dev='/dev/notify/vms/disk0'/><target dev='vda' bus='virtio'/></disk>")


class Deb(Manager):
    libvirt = "libvirtd"
    # A configuration file stays until it is purged.
    kept = ("/etc/",)

    def install(self, number):
        file = glob.glob(f"/root/packages/{number}/virtnotify_*.deb")
        run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", *file, seconds=600)

    def remove(self):
        return run("dpkg", "--remove", "virtnotify", check=False, seconds=300)

    def release(self):
        return run("dpkg-query", "-W", "-f", "${Version}", "virtnotify").rpartition("-")[2]

    def paths(self):
        listed = run("dpkg", "-L", "virtnotify").splitlines()
        return [path for path in listed if not os.path.isdir(path) and not path.startswith(LEFT_OUT)]

    def verify(self):
        done = run("dpkg", "--verify", "virtnotify", check=False)
        changed = [line for line in done.stdout.splitlines()
                   if " c /etc/virtnotify/" not in line and not f"{line.split()[-1]}/".startswith(LEFT_OUT)]
        expect(not changed, f"dpkg finds changed files: {changed}")


def body():
    only_debs(HERE)
    run("apt-get", "install", "-y", *glob.glob(f"{HERE}/*.deb"), seconds=600)
    say("host1", "installed by apt")
    life(Deb(), DISK, "/run/libvirt/libvirt-sock")


if __name__ == "__main__":
    test(body, needs_host2=False)
