#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# lab: --hosts 1 --libvirt debian
"""Debian's own libvirt, one libvirtd for everything: set up by one command, used, and undone by one;
then the host is as it was before, to the last file and unit, and a VM has run through all of it."""

import hashlib
import os
import stat

from lab import MIB, expect, fields, make_pool, refused, remove_pool, run, say, test, virsh, volume_bytes

UNITS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service",
         "virtnotify-proxy.socket", "virtnotify-proxy-ro.socket", "virtnotify-proxy.service", "virtnotifyd.service",
         "virtnotify-control.service")
PROPERTIES = "LoadState,UnitFileState,ActiveState,Listen,SocketMode,SocketUser,SocketGroup,DropInPaths,After,Wants"
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/libvirt-sock-ro")
# Backups of what is on the disks, which LVM and we write when that changes, and leave there.
BACKUPS = ("/etc/lvm/archive", "/etc/lvm/backup", "/etc/lvm/cache", "/etc/virtnotify/backup")
BLOCK = ("<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>"
         "<source dev='/dev/notify/vms/disk0'/><target dev='vda' bus='virtio'/></disk>")
VM = ("<domain type='kvm'><name>{name}</name><memory unit='MiB'>32</memory>"
      "<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disk}</devices></domain>")


def let_in():
    """Who may connect to libvirt: mode, owner and group of its two sockets."""
    found = [os.stat(path) for path in SOCKETS]
    return [(oct(stat.S_IMODE(one.st_mode)), one.st_uid, one.st_gid) for one in found]


def files():
    """Every file, link and directory of the host's configuration."""
    found = {}
    for top in ("/etc", "/run/systemd/system", "/usr/lib/systemd"):
        for directory, below, names in os.walk(top):
            below[:] = [name for name in below if os.path.join(directory, name) not in BACKUPS]
            for path in [directory, *(os.path.join(directory, name) for name in names)]:
                about = os.lstat(path)
                content = None
                if stat.S_ISLNK(about.st_mode):
                    content = os.readlink(path)
                elif stat.S_ISREG(about.st_mode):
                    with open(path, "rb") as file:
                        content = hashlib.sha256(file.read()).hexdigest()
                found[path] = (about.st_mode, about.st_uid, about.st_gid, content)
    return found


def host():
    """All that setting up could change."""
    virsh("list")  # libvirtd ends when nobody has asked it anything for a while
    units = {unit: fields(run("systemctl", "show", "-p", PROPERTIES, unit).replace("=", ":"))
             for unit in UNITS}
    for about in units.values():
        for list_of in ("After", "Wants"):
            about[list_of] = sorted(about.get(list_of, "").split())
    return {"files": files(), "units": units, "enabled": run("systemctl", "list-unit-files", "--no-legend"),
            "sockets": let_in(), "pools": virsh("pool-list", "--all"), "nets": virsh("net-list", "--all")}


def changes(before, after):
    """What differs, in words."""
    for part, was in before.items():
        now = after[part]
        if isinstance(was, dict):
            for name in was.keys() | now.keys():
                if was.get(name) != now.get(name):
                    yield f"{part}: {name}: {was.get(name)} -> {now.get(name)}"
        elif was != now:
            yield f"{part}: {was} -> {now}"


def vm(name, disk=""):
    """A file with a VM's XML."""
    path = f"/tmp/{name}.xml"
    with open(path, "w", encoding="ascii") as file:
        file.write(VM.format(name=name, disk=disk))
    return path


def stranger():
    """What libvirt says to a user whom nobody has let in: that must not change."""
    words = (("pool-list",), ("-r", "net-list", "--all"), ("-r", "net-destroy", "nosuch"),
             ("-r", "pool-create-as", "x", "dir", "--target", "/tmp"))
    said = [run("runuser", "-u", "nobody", "--", "virsh", "-c", "qemu:///system", *command, check=False)
            for command in words]
    return [(one.returncode, one.stdout, one.stderr) for one in said]


def bystander():
    """The process of a VM that nobody touches."""
    return run("pgrep", "-f", "guest=bystander").split()


def used():
    """Pools, volumes and VMs, with libvirtd's own beside ours."""
    expect(virsh("pool-list", "--all", "--name").split() == [], "there is no pool yet")
    make_pool()
    virsh("pool-create-as", "files", "dir", "--target", "/var/tmp")
    expect(set(virsh("pool-list", "--name").split()) == {"vms", "files"}, "both kinds of pools are listed")
    virsh("vol-create-as", "vms", "disk0", "64M")
    virsh("vol-create-as", "files", "file0", "1M")
    machine()
    virsh("vol-delete", "file0", "files")
    virsh("pool-destroy", "files")


def machine():
    """A VM whose disk is named by its path starts; one that names pool and volume is told so."""
    virsh("create", vm("vm", BLOCK))
    refused("vol-delete", "disk0", "vms", says="still in use")
    virsh("destroy", "vm")
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/disk0", "bs=1M", "seek=30", "count=1", "oflag=direct")
    held = volume_bytes("vms", "disk0")[1]
    expect(held == 4 * MIB, f"the volume holds the chunk that was written, not {held}")
    disk = BLOCK.replace("type='block'", "type='volume'").replace(
        "dev='/dev/notify/vms/disk0'", "pool='vms' volume='disk0'")
    sentence = "give the disk as <disk type='block'> with <source dev='/dev/notify/vms/"
    refused("create", vm("vm", disk), says=sentence)
    with open("/tmp/disk.xml", "w", encoding="ascii") as file:
        file.write(disk)
    refused("attach-device", "bystander", "/tmp/disk.xml", says=sentence)
    say("host1", virsh("attach-device", "bystander", "/tmp/disk.xml", check=False).stderr.strip())


def body():
    virsh("create", vm("bystander"), "--paused")
    before, process, outside = host(), bystander(), stranger()
    expect([one[0] == 0 for one in outside] == [False, True, False, False], f"to a stranger: {outside}")
    say("setup", "; ".join(run("virt-notify", "setup").splitlines()))
    expect(let_in() == before["sockets"], f"our sockets let in {let_in()}, libvirt's {before['sockets']}")
    expect("all is as asked already" in run("virt-notify", "setup"), "a second setup changes nothing")
    expect(stranger() == outside, f"a stranger hears {stranger()}, and from libvirt {outside}")
    say("setup", f"a user whom polkit does not let in hears the same: {outside[0][2].strip()}")
    used()
    done = run("virt-notify", "setup", "--undo", check=False)
    expect(done.returncode != 0 and "these pools are active: vms" in done.stderr,
           f"an undo under an active pool is refused, not '{done.stderr}'")
    remove_pool("vms")
    say("undo", "; ".join(run("virt-notify", "setup", "--undo").splitlines()))
    left = sorted(changes(before, host()))
    for line in left:
        say("left", line)
    expect(bystander() == process and "paused" in virsh("domstate", "bystander"), "the other VM went on")
    virsh("destroy", "bystander")
    expect(not left, f"the undo left {len(left)} things otherwise than they were")
    expect("all is as asked already" in run("virt-notify", "setup", "--undo"), "there is nothing more to undo")


if __name__ == "__main__":
    test(body, needs_host2=False)
