#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --hosts 1
# long
"""The module's package: refused to go while a device uses the module, gone and unloaded, and back."""

import glob
import os

from lab import expect, run, say, test

PACKAGE = "kmod-virtnotify"
RPM = "/root/packages/1/kmod-virtnotify-0*.rpm"


def loaded():
    return os.path.exists("/sys/module/dm_notify")


def module():
    run("modprobe", "dm-notify")
    run("dmsetup", "create", "inuse", "--table", "0 8192 notify 2048 0 0 0 0")
    done = run("rpm", "-e", "--nodeps", PACKAGE, check=False, seconds=300)
    expect(done.returncode != 0 and "in use" in done.stderr, f"the removal was not refused: {done.stderr}")
    expect(loaded(), "the module stays")
    run("dmsetup", "remove", "inuse")
    run("rpm", "-e", "--nodeps", PACKAGE, seconds=300)
    expect(not loaded(), "the module is unloaded")
    expect(run("modinfo", "dm-notify", check=False).returncode != 0, "no index names the module")
    say("host1", "removed")
    run("rpm", "-i", "--nodeps", *glob.glob(RPM), seconds=300)
    expect(loaded(), "the installation loads the module")
    run("rpm", "-V", "--nodeps", PACKAGE)
    run("systemctl", "is-active", "virtnotifyd.service", "virtnotify-control.service")
    say("host1", "installed again")


if __name__ == "__main__":
    test(module, needs_host2=False)
