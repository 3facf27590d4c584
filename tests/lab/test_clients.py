#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# lab: --hosts 1 --pv 3G --disk 3G --disk 256M --disk 256M
"""libvirt's own clients on a pool of ours and on libvirt's own `logical` pool: the same list of
commands on both; each line that differs is one of those that docs/operator/libvirt.md explains."""

import os
import re
import signal
import subprocess
import xml.etree.ElementTree as ET

import libvirt

from lab import (Failure, control_pid, daemon_pid, expect, kill_daemon, on_bus, refused, remove_pool_data, run, say, test,
                 until, virsh)

DISKS = [os.path.realpath(f"/dev/disk/by-id/virtio-disk{number}") for number in (1, 2, 3)]
# Pools by name: type, volume group, target; those of one line are beside each other.
POOLS = {"vms": ("notify", "vg0", "/dev/notify/vms"), "plain": ("logical", "vg1", "/dev/vg1")}
BUILT = {"made": ("notify", "vg2", "/dev/notify/made", DISKS[1]),
         "like": ("logical", "vg3", "/dev/vg3", DISKS[2])}
# Lines that only one of the two prints, as docs/operator/libvirt.md says.
EXPLAINED = [
    r"^<device path=|^<extent |^</device>|^<btime>",  # a map can have very many extents
    r"^<group>",                                      # root's, until a VM has it
    r"^<source>$|^</source>$",                        # of a volume: nothing but the extents is in it
    r"^<TYPE:chunk ",                                 # of a pool that is active: its peers count in it
    # Whose words: LVM's, ours or libvirt's, for what is refused all the same.
    r"^error: unsupported configuration: (the volume group 'GROUP' does not exist|cannot find TYPE volume)",
    r"^error: (operation failed: cannot make the volume group|Storage pool already built)",
    r"^error: (XML error: 'a/b' cannot be a volume|internal error: Child process .*lvcreate --name a/b)",
    r"^Run `lvcreate --help'|^Cannot process volume group GROUP$",
]
DIFFERENT = []
END = "end-of-what-is-said"


def normal(pool, about, text):
    """What is the same thing under another name, under one."""
    kind, group, target, *device = about
    for path in device:
        text = text.replace(path, "DEVICE")
    text = text.replace(target, "TARGET")
    text = re.sub(rf"\b{kind}\b", "TYPE", text)
    text = re.sub(rf"\b{group}\b", "GROUP", re.sub(rf"\b{pool}\b", "POOL", text))
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "KEY", text)
    text = re.sub(r"\w{6}(-\w{4}){5}-\w{6}", "KEY", text)
    text = re.sub(r"\d+\.\d\d [KMGTP]?i?B", "SIZE", text)
    # How much a pool has, and a volume takes, is what differs.
    text = re.sub(r"(<(allocation|available)[^>]*>|(Allocation|Available|Physical): *)\d+", r"\1N", text)
    text = re.sub(r"<([acm]time)>[\d.]+</", r"<\1>TIME</", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip("- ")]


def told(pool, about, commands):
    """What one virsh makes of each command: whether it was done, and what was said of it."""
    names = {"pool": pool, "type": about[0], "group": about[1], "target": about[2], "device": about[-1]}
    batch = "; ".join(f"{command.format(**names)}; echo {END}; echo --err {END}" for command in commands)
    done = subprocess.run(["virsh", batch], capture_output=True, text=True, check=False)
    said, errors = (text.split(f"{END}\n")[:-1] for text in (done.stdout, done.stderr))
    expect(len(said) == len(errors) == len(commands), f"virsh has ended before its time: {done.stderr}")
    return [("error:" not in error, normal(pool, about, one + error)) for one, error in zip(said, errors)]


def compare(what, ours, theirs):
    """Notes what differs and is not explained."""
    one, other = ([line for line in lines if not any(re.search(pattern, line) for pattern in EXPLAINED)]
                  for lines in (ours[1], theirs[1]))
    if (ours[0], one) != (theirs[0], other):
        only = [line for line in one if line not in other], [line for line in other if line not in one]
        DIFFERENT.append(what)
        done = ("refused", "done")
        say("differs", f"{what}: {done[ours[0]]}, {only[0]} beside {done[theirs[0]]}, {only[1]}")


def same(*commands, pools=None):
    """Each command says the same on both pools, and does or is refused on both."""
    ours, theirs = (told(pool, about, commands) for pool, about in (pools or POOLS).items())
    for command, one, other in zip(commands, ours, theirs):
        compare(command, one, other)


def define():
    run("vgcreate", "vg1", DISKS[0])
    same("pool-define-as {pool} {type} --source-name {group} --target {target}",
         "pool-define-as {pool} {type} --source-name {group} --target {target}",
         "pool-define-as other {type} --source-name {group} --target {target} --print-xml",
         "pool-info {pool}", "pool-dumpxml {pool}", "vol-list {pool}", "pool-destroy {pool}",
         "pool-start {pool}", "pool-start {pool}", "pool-autostart {pool}", "pool-info {pool}",
         "pool-autostart {pool} --disable", "pool-refresh {pool}", "pool-info {pool}",
         "pool-dumpxml {pool}", "pool-dumpxml {pool} --inactive", "pool-name {pool}", "pool-uuid {pool}",
         "vol-list {pool}", "vol-list {pool} --details", "pool-define-as {pool} dir --target /tmp/x",
         "pool-undefine {pool}", "pool-delete {pool}", "pool-build {pool}", "pool-info nosuch")
    for option in ("", "--details", "--inactive", "--persistent", "--autostart", "--transient"):
        listed = virsh("pool-list", option or "--name")
        there = "vms" in listed, "plain" in listed
        expect(there[0] == there[1] == (option in ("", "--details", "--persistent")), f"{option}: {listed}")


def building():
    """The group is made by libvirt itself, of a disk that nobody has used."""
    same("pool-define-as {pool} {type} --source-name {group} --target {target} --source-dev {device}",
         "pool-start {pool}", "pool-build {pool} --overwrite --no-overwrite", "pool-build {pool}",
         "pool-build {pool} --no-overwrite", "pool-start {pool}", "pool-build {pool}",
         "vol-create-as {pool} a 8M", "pool-delete {pool}", "pool-destroy {pool}", "pool-start {pool}",
         "vol-delete a {pool}", "pool-destroy {pool}", "pool-delete {pool}", "pool-start {pool}",
         "pool-undefine {pool}", "pool-undefine {pool}",
         "pool-create-as {pool} {type} --source-name {group} --target {target} --source-dev {device} --build",
         "pool-info {pool}", "pool-undefine {pool}", "pool-autostart {pool}", "pool-destroy {pool}",
         "pool-info {pool}", pools=BUILT)
    for group in ("vg2", "vg3"):
        run("sh", "-c", f"lvremove -qqy {group}; vgremove -qqy {group}")
    run("pvremove", "-qqy", *DISKS[1:])


def volumes():
    same("vol-create-as {pool} a 8M", "vol-create-as {pool} a 8M",
         "vol-create-as {pool} b 8M --allocation 8M", "vol-create-as {pool} a/b 8M", "vol-list {pool}",
         "vol-list {pool} --details", "vol-info a {pool}", "vol-info b {pool} --bytes",
         "vol-info b {pool} --physical", "vol-dumpxml b {pool}", "vol-path a {pool}", "vol-name {target}/a",
         "vol-pool {target}/a", "vol-info {target}/a", "vol-key a {pool}", "vol-info nosuch {pool}",
         "vol-path nosuch {pool}", "vol-delete nosuch {pool}", "vol-name {target}/nosuch",
         "vol-clone a c {pool}", "vol-wipe b {pool}", "vol-wipe b {pool} --algorithm nosuch",
         "vol-delete c {pool}", "vol-delete c {pool}", "vol-resize nosuch 16M {pool}",
         "vol-download nosuch /tmp/x {pool}")


def content():
    with open("/tmp/in", "wb") as file:
        file.write(os.urandom(3 << 20) + bytes(2 << 20) + os.urandom(3 << 20))
    same("vol-upload a /tmp/in {pool}", "vol-download a /tmp/out-{pool} {pool}",
         "vol-upload a /tmp/in {pool} --sparse", "vol-download a /tmp/sparse-{pool} {pool} --sparse",
         "vol-download a /tmp/part-{pool} {pool} --offset 4096 --length 8192",
         "vol-upload a /tmp/in {pool} --offset 8M", "vol-upload a /tmp/nosuch {pool}")
    for pool in POOLS:
        run("cmp", "/tmp/in", f"/tmp/out-{pool}")
        run("cmp", "/tmp/in", f"/tmp/sparse-{pool}")
    run("cmp", "/tmp/part-vms", "/tmp/part-plain")


def across():
    """A volume goes from one type to the other and back."""
    for pool, name, source, source_pool in (("plain", "there", "a", "vms"), ("vms", "back", "there", "plain")):
        with open("/tmp/vol.xml", "w", encoding="utf-8") as file:
            file.write(f"<volume><name>{name}</name><capacity>8388608</capacity></volume>")
        virsh("vol-create-from", pool, "/tmp/vol.xml", source, "--inputpool", source_pool)
        virsh("vol-download", name, "/tmp/out", pool)
        run("cmp", "/tmp/in", "/tmp/out")
    virsh("vol-delete", "there", "plain")
    virsh("vol-delete", "back", "vms")


def lookups(connection, pool, volume, target):
    """Pool and volume are found by all that names them, by the old list calls too."""
    pools = (connection.storagePoolLookupByUUID(pool.UUID()), volume.storagePoolLookupByVolume(),
             connection.storagePoolLookupByTargetPath(target))
    expect([one.name() for one in pools] == [pool.name()] * 3, "a pool is found by all that names it")
    found = (connection.storageVolLookupByKey(volume.key()), connection.storageVolLookupByPath(volume.path()))
    expect([one.name() for one in found] == ["py"] * 2, "a volume is found by all that names it")
    expect(pool.isActive() and pool.isPersistent() and not pool.autostart(), "the pool is as it was made")
    names = connection.listStoragePools()
    expect(pool.name() in names and len(names) == connection.numOfStoragePools(), f"listed: {names}")
    expect(connection.listDefinedStoragePools() == [] == connection.listAllStoragePools(1), "none is inactive")
    expect(sorted(pool.listVolumes()) == ["a", "b", "py"] and pool.numOfVolumes() == 3, "the old list has all")


def bindings():
    """libvirt's Python bindings: list, create, upload a file, download it, compare."""
    connection = libvirt.open("qemu:///system")
    names = [pool.name() for pool in connection.listAllStoragePools()]
    expect({"vms", "plain"} <= set(names), f"pools: {names}")
    for name in POOLS:
        pool = connection.storagePoolLookupByName(name)
        volume = pool.createXML("<volume><name>py</name><capacity unit='M'>8</capacity></volume>")
        expect(sorted(one.name() for one in pool.listAllVolumes()) == ["a", "b", "py"], "volumes are listed")
        kind, capacity, _ = volume.info()
        expect((kind, capacity) == (libvirt.VIR_STORAGE_VOL_BLOCK, 8 << 20), f"its info is {volume.info()}")
        lookups(connection, pool, volume, POOLS[name][2])
        with open("/tmp/in", "rb") as file:
            stream = connection.newStream()
            volume.upload(stream, 0, 8 << 20)
            stream.sendAll(lambda _, size, source: source.read(size), file)
            stream.finish()
        got = bytearray()
        stream = connection.newStream()
        volume.download(stream, 0, 8 << 20)
        stream.recvAll(lambda _, data, into: into.extend(data), got)
        stream.finish()
        with open("/tmp/in", "rb") as file:
            expect(file.read() == bytes(got), f"{name}: what was uploaded comes down")
        volume.delete()
        try:
            volume.info()
            raise Failure("a volume that was deleted is still known")
        except libvirt.libvirtError as error:
            expect(error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL, f"{name}: {error}")
    connection.close()


DISK = ("<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        "<source pool='{pool}' volume='{volume}'/><target dev='{target}' bus='virtio'/></disk>")
VM = ("<domain type='kvm'><name>{name}</name><memory unit='MiB'>32</memory><os>"
      "<type arch='x86_64' machine='q35'>hvm</type></os><devices>{disks}</devices></domain>")


def machines():
    """Two disks by pool and volume when a VM starts, and one more while it runs."""
    said = {}
    for pool, about in POOLS.items():
        name, xml = f"vm-{pool}", [DISK.format(pool=pool, volume=volume, target=target)
                                   for volume, target in (("a", "vda"), ("b", "vdb"), ("c", "vdc"))]
        virsh("vol-create-as", pool, "c", "8M")
        for path, text in (("/tmp/vm.xml", VM.format(name=name, disks="".join(xml[:2]))), ("/tmp/c.xml", xml[2])):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        out = [virsh("create", "/tmp/vm.xml", "--paused"), virsh("attach-device", name, "/tmp/c.xml"),
               virsh("domblklist", name), virsh("domblkinfo", name, "vdc"), disks(name)]
        if pool == "vms":
            refused("vol-delete", "c", pool, says="volume 'c' is still in use")
        out.append(virsh("destroy", name))
        virsh("vol-delete", "c", pool)
        said[pool] = True, normal(pool, about, "\n".join(out))
    compare("a VM with three disks by pool and volume", said["vms"], said["plain"])


def notes():
    """Of clones that are under way."""
    return [name for name in os.listdir("/etc/virtnotify/pools") if name.endswith(".unfinished")]


def cut_off():
    """The daemon is killed in the middle of a copy from the other pool: the copy is gone, its source as it was."""
    virsh("vol-create-as", "plain", "big", "128M")
    run("dd", "if=/dev/urandom", "of=/dev/vg1/big", "bs=4M", "count=32", "oflag=direct")
    with open("/tmp/copy.xml", "w", encoding="utf-8") as file:
        file.write(f"<volume><name>copy</name><capacity>{128 << 20}</capacity></volume>")
    words = ["vol-create-from", "vms", "/tmp/copy.xml", "big", "--inputpool", "plain"]
    before, process = run("md5sum", "/dev/vg1/big"), daemon_pid()
    with subprocess.Popen(["virsh", *words], stderr=subprocess.DEVNULL) as clone:
        while not (notes() and os.path.exists("/dev/notify/vms/copy")):
            expect(clone.poll() is None, "the copy is under way")
        os.kill(process, signal.SIGSTOP)
        expect(notes(), "it was stopped in the middle")
        kill_daemon(pid=process)
        expect(clone.wait() != 0, "virsh hears of it")
    listed = virsh("vol-list", "vms")
    expect("copy" not in listed, f"the copy is gone: {listed}")
    expect(daemon_pid() != process and not notes(), "another daemon has seen to that")
    expect(run("md5sum", "/dev/vg1/big") == before, "the source is as it was")
    virsh(*words)
    run("cmp", "/dev/vg1/big", "/dev/notify/vms/copy")
    virsh("vol-delete", "big", "plain")
    virsh("vol-delete", "copy", "vms")


INSTALL = ["--memory", "64", "--vcpus", "1", "--import", "--osinfo", "detect=off,require=off",
           "--graphics", "none", "--network", "none", "--noautoconsole", "--quiet"]


def disks(name):
    """A VM's disks as its XML has them."""
    found = ET.fromstring(virsh("dumpxml", "--inactive", name)).findall("devices/disk")
    return "\n".join(ET.tostring(disk, "unicode") for disk in found)


def installers():
    """virt-install makes a volume and takes one that is there; virt-clone copies a VM with both."""
    size = {"vms": "2", "plain": "0.02"}  # a thin one costs nothing
    seen = {}
    for pool, about in POOLS.items():
        name, copy = f"new-{pool}", f"copy-{pool}"
        virsh("vol-create-as", pool, "ready", "8M")
        virsh("vol-upload", "ready", "/tmp/in", pool)
        said = [run("virt-install", "--name", name, *INSTALL, "--disk", f"pool={pool},size={size[pool]}",
                    "--disk", f"vol={pool}/ready")]
        expect(virsh("domstate", name).strip() == "running", f"virt-install has started {name}")
        said += [disks(name), virsh("domblklist", name)]
        expect(said[1].count('type="block"') == 2 and f'dev="{about[2]}/ready"' in said[1], f"by path: {said[1]}")
        virsh("destroy", name)
        said.append(run("virt-clone", "--quiet", "--original", name, "--name", copy, "--auto-clone"))
        virsh("start", copy)
        said += [disks(copy), virsh("domblklist", copy)]
        virsh("destroy", copy)
        virsh("vol-download", "ready-clone", "/tmp/out", pool)
        run("cmp", "/tmp/in", "/tmp/out")
        said += [virsh("undefine", one, "--remove-all-storage") for one in (name, copy)]
        expect(virsh("vol-list", pool).count(f"{about[2]}/") == 2, "the VMs' volumes went with them")
        seen[pool] = True, normal(pool, about, "\n".join(said))
    say("vms", disks_line(seen["vms"][1]))
    compare("virt-install and virt-clone", seen["vms"], seen["plain"])


def disks_line(lines):
    """The first disk, for the reader of the log."""
    return " ".join(lines[: next(at for at, line in enumerate(lines) if line == "</disk>") + 1])


def away():
    same("vol-delete a {pool}", "vol-delete b {pool}", "pool-destroy {pool}", "pool-destroy {pool}",
         "vol-list {pool}", "vol-create-as {pool} a 8M", "pool-refresh {pool}", "pool-info {pool}",
         "pool-undefine {pool}", "pool-undefine {pool}")
    remove_pool_data("vms")
    run("vgremove", "--yes", "vg1")
    run("pvremove", DISKS[0])


def without_us():
    """Our daemons are taken away, libvirt's own is asked by itself, and they are put in their places again."""
    say("undo", "; ".join(run("virt-notify", "setup", "--undo").splitlines()))
    expect("type='notify'" not in virsh("pool-capabilities"), "libvirt answers by itself")
    expect("/run/libvirt/virtstoraged-sock " in run("systemctl", "show", "-p", "Listen", "virtstoraged.socket"),
           "virtstoraged listens where it did")
    expect(daemon_pid() == 0 and control_pid() == 0, "virtnotifyd and virtnotify-control have ended")
    run("virt-notify", "setup")
    expect("type='notify'" in virsh("pool-capabilities"), "virtnotifyd answers again")
    until(on_bus, "virtnotify-control on D-Bus again", 30)


def body():
    for part in (define, building, volumes, content, across, bindings, machines, cut_off, installers, away, without_us):
        say("clients", part.__name__)
        part()
    expect(not DIFFERENT, f"{len(DIFFERENT)} commands differ from a logical pool's: {DIFFERENT}")


if __name__ == "__main__":
    test(body, needs_host2=False)
