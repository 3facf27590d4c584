# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fast lab's tests of the daemons share: LVM without udev, libvirt's storage daemon, ours.

Each wait has a deadline and says what it waited for when that passes.
"""

import ctypes
import mmap
import os
import signal
import subprocess
import threading
import time

URI = "storage:///system"
UPSTREAM = "/run/libvirt/virtnotify"
DEADLINE = 120
# No contexts of the kernel's AIO: a command that is killed leaves one behind, which is freed without the lock that
# flush_tlb_mm() of User Mode Linux needs to walk a process's mappings, and lockdep tells of it.
LVM_CONF = """
devices {
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
    filter = [ %s "r|.*|" ]
}
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
global { use_lvmpolld = 0 event_activation = 0 use_aio = 0 }
"""


class Failure(Exception):
    """A check that did not hold; its text says which."""


def expect(holds, text):
    """A check: the text says what was expected."""
    if not holds:
        raise Failure(text)


def say(text):
    """One line of the timeline."""
    print(f"{time.monotonic():7.1f} s  {text}", flush=True)


def run(*argv):
    """Runs a command and returns what it printed; another end than 0 is a failure."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    expect(done.returncode == 0, f"`{' '.join(argv)}` ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def virsh(*words):
    """virsh as a user runs it, at the storage daemon."""
    return run("virsh", "-q", "-c", URI, *words)


def sectors(device):
    """The size of a device in sectors."""
    return int(run("blockdev", "--getsz", device))


def use_disks(*names):
    """Has LVM see these device-mapper devices alone."""
    with open("/etc/lvm/lvm.conf", "w", encoding="utf-8") as conf:
        conf.write(LVM_CONF % "".join(f'"a|^/dev/mapper/{name}$|", ' for name in names))


def make_disk(name, disk):
    """A device-mapper device over all of a disk."""
    run("dmsetup", "create", name, "--table", f"0 {sectors(disk)} linear {disk} 0")


def make_pool(pool, group, disk):
    """A volume group on a device-mapper device, and a pool in it that is active."""
    run("vgcreate", "-q", "-y", group, f"/dev/mapper/{disk}")
    virsh("pool-define-as", pool, "notify", "--source-name", group, "--target", f"/dev/notify/{pool}")
    virsh("pool-start", pool)


def make_pool_of_small_chunks():
    """The pool `vms` in the group `vg0` on the device `pv`, with chunks of 64 KiB."""
    run("vgcreate", "-q", "-y", "vg0", "/dev/mapper/pv")
    with open("/tmp/pool.xml", "w", encoding="ascii") as file:
        file.write("<pool type='notify' xmlns:notify='https://virtnotify.org/xmlns/pool/1.0'><name>vms</name>"
                   "<source><name>vg0</name></source><notify:chunk unit='KiB'>64</notify:chunk></pool>")
    virsh("pool-define", "/tmp/pool.xml")
    virsh("pool-start", "vms")


def close_group(group, disk):
    """Takes a volume group's devices away, and then the disk's."""
    run("vgchange", "-an", group)
    run("dmsetup", "remove", disk)


def start_upstream(settings='auth_unix_rw = "none"\n'):
    """libvirt's storage daemon, and before it our proxy, which passes on what is not ours. Returns the proxy's process."""
    os.makedirs(UPSTREAM)
    with open("/etc/libvirt/virtstoraged.conf", "w", encoding="utf-8") as conf:
        conf.write(f'unix_sock_dir = "{UPSTREAM}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n')
    run("virtstoraged", "-d")
    with open("/etc/virtnotify/proxy.toml", "w", encoding="utf-8") as conf:
        conf.write(f'{settings}[paths]\n'
                   f'upstream_rw = "{UPSTREAM}/virtstoraged-sock"\n'
                   f'upstream_ro = "{UPSTREAM}/virtstoraged-sock-ro"\n')
    return subprocess.Popen(["virtnotify-proxy"], stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)


def start_bus():
    """The system bus."""
    os.makedirs("/run/dbus", exist_ok=True)
    run("dbus-daemon", "--system", "--fork")


def on_bus():
    """Waits until virtnotify-control is on the bus and has virtnotifyd behind it. One that has ended is not taken for the
    next one: virtnotify-control hears of its end at once, and the next one takes a while until it is up."""
    end = time.monotonic() + DEADLINE
    asked = ["busctl", "get-property", "org.virtnotify1", "/org/virtnotify1", "org.virtnotify1.Manager", "StorageRuns"]
    while subprocess.run(asked, capture_output=True, text=True).stdout.strip() != "b true":
        expect(time.monotonic() < end, "virtnotify-control on D-Bus, and virtnotifyd behind it")
        time.sleep(0.1)


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Daemon:
    """virtnotifyd, up: the pools that were active are active again; unless nobody waits until it is ready."""

    def __init__(self, ready=True, **environment):
        os.makedirs("/var/lib/virtnotify", exist_ok=True)
        self._process = subprocess.Popen(["virtnotifyd"], stderr=subprocess.PIPE, text=True,
                                         env={**os.environ, **environment},
                                         stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
        self.lines = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if ready and not self._ready.wait(DEADLINE):
            raise Failure("virtnotifyd is not ready: " + "".join(self.lines))

    def _read(self):
        for line in self._process.stderr:
            self.lines.append(line)
            if line.split()[1:] == ["ready"]:
                self._ready.set()

    def stop(self):
        """Stops it, as a debugger would: nothing is served any more."""
        self._process.send_signal(signal.SIGSTOP)

    def end(self, signum):
        """Ends it with a signal, and waits."""
        self._process.send_signal(signum)
        self._process.wait(DEADLINE)


class Control:
    """virtnotify-control, on the bus with virtnotifyd behind it; unless nobody waits for that."""

    def __init__(self, ready=True):
        os.makedirs("/var/lib/virtnotify", exist_ok=True)
        self._process = subprocess.Popen(["virtnotify-control"], stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
        if ready:
            on_bus()

    def stop(self):
        """Stops it, as a debugger would: nothing is answered any more."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self):
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self, signum):
        """Ends it with a signal, and waits."""
        self._process.send_signal(signum)
        self._process.wait(DEADLINE)


def write(path, offset, data):
    """Writes past the page cache, and flushes; returns when it is acknowledged."""
    buffer = mmap.mmap(-1, len(data))
    buffer[:] = data
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        expect(os.pwritev(fd, [buffer], offset) == len(data), "a short write")
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path, offset, size):
    """Reads past the page cache."""
    buffer = mmap.mmap(-1, size)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        expect(os.preadv(fd, [buffer], offset) == size, "a short read")
    finally:
        os.close(fd)
    return buffer[:]


def remove_volumes():
    """Takes the kernel's devices of all volumes away; their links go too."""
    for line in run("dmsetup", "ls").splitlines():
        if line.startswith("notify:"):
            run("dmsetup", "remove", line.split("\t")[0])


def close_all(daemon):
    """Ends the daemon, and takes the one pool's volumes and its group away; what it leaves is right."""
    daemon.end(signal.SIGTERM)
    remove_volumes()
    run("virt-notify", "check", "vg0")
    close_group("vg0", "pv")
