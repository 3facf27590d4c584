#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints where processes of this host stand in the kernel: each that waits for a device, the
daemons of storage and virtual machines, and those whose name or number is an argument with all of
their children."""

import os
import sys

DAEMONS = {"virtnotifyd", "virtnotify-cont", "virtnotify-prox", "virtqemud", "virtstoraged", "virtproxyd", "libvirtd",
           "qemu-system-x86", "lvm", "dmsetup"}
# A thread that waits there has nothing to do.
IDLE = ("futex", "ep_poll", "do_epoll", "do_poll", "do_sys_poll", "do_select", "hrtimer_nanosleep", "do_wait",
        "kvm_vcpu")


def read(*path):
    """A file of /proc, or nothing when its process has gone."""
    try:
        with open(os.path.join("/proc", *path), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def after_name(pid):
    """The fields of /proc/PID/stat that follow the name: the state, the parent, ..."""
    return read(pid, "stat").rpartition(")")[2].split()


def chosen(wanted):
    """The processes to print, and which of them were asked for."""
    about = {pid: (read(pid, "comm"), after_name(pid)) for pid in os.listdir("/proc") if pid.isdigit()}
    about = {pid: known for pid, known in about.items() if known[1]}
    asked = {pid for pid, (name, _) in about.items() if pid in wanted or name in wanted}
    while True:
        children = {pid for pid, (_, fields) in about.items() if fields[1] in asked}
        if children <= asked:
            break
        asked |= children
    others = {pid for pid, (name, fields) in about.items() if name in DAEMONS or fields[0] == "D"}
    return sorted(asked | others, key=int), asked


def main(wanted):
    """Prints a line for each thread, and the stack of each that is not idle."""
    pids, asked = chosen(wanted)
    for pid in pids:
        print(f"{pid} {read(pid, 'cmdline').replace(chr(0), ' ')[:160] or read(pid, 'comm')}")
        for task in sorted(os.listdir(f"/proc/{pid}/task"), key=int) if os.path.isdir(f"/proc/{pid}/task") else []:
            place = read(pid, "task", task, "wchan")
            state = (after_name(f"{pid}/task/{task}") or "?")[0]
            print(f"    {task} {read(pid, 'task', task, 'comm')}: {state} in {place}")
            if pid in asked or state == "D" or not place.startswith(IDLE):
                for frame in read(pid, "task", task, "stack").splitlines()[:16]:
                    print(f"        {frame}")


if __name__ == "__main__":
    main(set(sys.argv[1:]))
