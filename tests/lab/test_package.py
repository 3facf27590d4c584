#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --hosts 1
# long
"""The life of the RPMs on a host with modular daemons (packages.py). The module's own package stays
here (test_kmod_package.py): an emulated host takes a minute to index its modules.
"""

import glob

from lab import disk, expect, run, test
from packages import Manager, life

PACKAGES = ["virtnotify", "kmod-virtnotify"]


def files(number, *names):
    """The packages of a release."""
    return [path for name in names for path in glob.glob(f"/root/packages/{number}/{name}-0*.rpm")]


class Rpm(Manager):
    # Once kmod-virtnotify is the newer one it stays.
    def install(self, number):
        both = "2" not in run("rpm", "-q", "--qf", "%{RELEASE}", "kmod-virtnotify")
        run("rpm", "-U", "--nodeps", *files(number, *PACKAGES[:2 if both else 1]), seconds=600)

    def remove(self):
        return run("rpm", "-e", "--nodeps", "virtnotify", check=False, seconds=300)

    def release(self):
        return run("rpm", "-q", "--qf", "%{RELEASE}", "virtnotify")

    def paths(self):
        return run("rpm", "-ql", "virtnotify").split()

    def verify(self):
        done = run("rpm", "-V", "--nodeps", *PACKAGES, check=False)
        changed = [line for line in done.stdout.splitlines()
                   if not line.endswith(" c /etc/virtnotify/virtnotify.toml")]
        expect(not changed, f"rpm finds changed files: {changed}")


if __name__ == "__main__":
    test(lambda: life(Rpm(), disk("vms", "disk0"), "/run/libvirt/virtstoraged-sock"), needs_host2=False)
