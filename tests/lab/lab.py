# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lab's Python tests share: commands, a timeline, listeners, waits with a deadline.

Everything that is awaited is awaited as an event (a line of a log, a signal on D-Bus); each
wait has a deadline and says what it waited for when that passes.
"""

import json
import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
START = time.monotonic()
MIB = 1 << 20


class Failure(Exception):
    """A check that did not hold; its text says which."""


class Lost(Failure):
    """The emulation lost or reset a guest: nothing was shown, and nothing was refuted."""


def say(who, text):
    """One line of the timeline."""
    print(f"{time.monotonic() - START:7.1f} s  {who:<8}{text}", flush=True)


def expect(holds, text):
    """A check: the text says what was expected."""
    if not holds:
        raise Failure(text)


def run(*command, host=None, check=True):
    """Runs a command, on this host or over ssh on another; returns what it printed."""
    argv = list(command) if host is None else ["ssh", host, *[_quoted(word) for word in command]]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check and done.returncode != 0:
        raise Failure(f"`{' '.join(command)}` failed on {host or 'this host'}: "
                      f"{done.stderr.strip() or done.stdout.strip()}")
    return done.stdout if check else done


def _quoted(word):
    return "'" + word.replace("'", "'\\''") + "'"


def virsh(*words, host=None, check=True):
    """Plain virsh, without an option of ours."""
    return run("virsh", *words, host=host, check=check)


def refused(*words, says, host=None):
    """A virsh command that must be refused with a sentence that holds `says`."""
    done = virsh(*words, host=host, check=False)
    expect(done.returncode != 0, f"`virsh {' '.join(words)}` was not refused")
    expect(says in done.stderr, f"`virsh {' '.join(words)}` said '{done.stderr.strip()}', not '{says}'")


def fields(text):
    """`Name: value` lines, as virsh prints them."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def volume_bytes(pool, volume, host=None):
    """(capacity, allocation) of a volume in bytes."""
    info = fields(virsh("vol-info", "--bytes", volume, pool, host=host))
    return tuple(int(info[key].split()[0]) for key in ("Capacity", "Allocation"))


def pool_bytes(pool, host=None):
    """(capacity, allocation, available) of a pool in bytes."""
    info = fields(virsh("pool-info", "--bytes", pool, host=host))
    return tuple(int(info[key]) for key in ("Capacity", "Allocation", "Available"))


def vg_free(vg, host=None):
    """Bytes that LVM calls free in a volume group."""
    return int(run("vgs", "--noheadings", "--nosuffix", "--units", "b", "-o", "vg_free", vg, host=host))


def cut_power(*hosts):
    """Has the lab cut the power of hosts at one moment and boot them again; returns at once. Their disks
    lose what was not flushed. Where host1 is among them, the lab runs the script again after the boot, with
    LAB_BOOT one higher."""
    with open("/dev/ttyS1", "wb", buffering=0) as beacon:
        beacon.write(f"cut {' '.join(hosts)}\n".encode())


class Lines:
    """Follows what a command prints, line by line, in a thread; `wait` awaits a line."""

    def __init__(self, *argv, parse=None, seen=None):
        self.items = []
        self._broken = None
        self._parse = parse or (lambda line: line)
        self._seen = seen or (lambda item: None)
        self._changed = threading.Condition()
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                         stdin=subprocess.DEVNULL, text=True, errors="replace")
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self):
        for line in self._process.stdout:
            try:
                item = self._parse(line.rstrip("\r\n"))
            except Failure as failure:
                with self._changed:
                    self._broken = failure
                    self._changed.notify_all()
                return
            if item is None:
                continue
            self._seen(item)
            with self._changed:
                self.items.append(item)
                self._changed.notify_all()

    def wait(self, wanted, what, seconds):
        """The first item for which `wanted` is true, now or until the deadline."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for item in self.items:
                    if wanted(item):
                        return item
                if self._broken:
                    raise self._broken
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Failure(f"waited {seconds} s in vain for {what}")
                self._changed.wait(left)

    def close(self):
        """Ends the command."""
        self._process.terminate()
        self._process.wait()


class Signals(Lines):
    """Listens on the system bus with busctl, which is not ours, and keeps (name, arguments)."""

    def __init__(self, seen=None):
        super().__init__("busctl", "--system", "--json=short", "monitor", "org.virtnotify1",
                         parse=self._signal, seen=seen)

    @staticmethod
    def _signal(line):
        try:
            message = json.loads(line)
        except ValueError:
            return None
        if message.get("type") != "signal" or not message.get("interface", "").startswith("org.virtnotify1"):
            return None
        arguments = message["payload"]["data"]
        if message["member"].startswith("Move") and isinstance(arguments[0], list):
            # What moves is one argument, of seven parts.
            arguments = [*arguments[0], *arguments[1:]]
        return message["member"], arguments

    def wait_for(self, name, seconds):
        """The arguments of the first signal of that name."""
        return self.wait(lambda item: item[0] == name, f"the signal {name}", seconds)[1]

    def all(self, name):
        """The arguments of all signals of that name so far."""
        return [arguments for member, arguments in self.items if member == name]


def daemon_pid():
    """virtnotifyd's process; 0 when it does not run."""
    return int(run("systemctl", "show", "--value", "-p", "MainPID", "virtnotifyd"))


def waiting_writes(pool, volume):
    """Writes that the target holds: the fourth word of its status (see kmod/dm-notify.rst)."""
    words = run("dmsetup", "status", f"notify:{pool}:{volume}").split()
    return int(words[words.index("notify") + 3])


def take_away(pool, volume):
    """A pool and the only volume that it has, which is told as well."""
    signals = Signals()
    virsh("vol-delete", volume, pool)
    signals.wait_for("VolumeDeleted", 30)
    signals.close()
    virsh("pool-destroy", pool)
    virsh("pool-undefine", pool)


class Guest:
    """A guest of guest.sh and its serial log, which goes on in another file on another host."""

    def __init__(self, name, plan, *disks, seen=None):
        self.name = name
        self._seen = seen
        self._starts = 0
        for number, text in enumerate((plan, *disks)):
            with open(f"/tmp/{name}.{number}", "w", encoding="ascii") as file:
                file.write(text)
        run(f"{HERE}/guest.sh", "define", name, *[f"/tmp/{name}.{n}" for n in range(len(disks) + 1)])
        self._path = run(f"{HERE}/guest.sh", "log", name).strip()

    def start(self, tries=3):
        """Starts the guest and returns its log once it is up.

        Under emulation a guest of nested KVM is now and then lost in its first instructions, before
        it has touched a disk. That is the lab's fault and not what is tested: it is said, and the
        guest is started again.
        """
        self._starts += 1
        virsh("start", self.name)
        log = self.follow()
        for left in reversed(range(tries)):
            try:
                log.wait(lambda line: line.startswith("up"), "the guest to come up", 90)
                return log
            except Failure:
                if not left:
                    raise Lost(f"{self.name} never came up")
                say("lab", f"{self.name} did not come up: starting it again")
                virsh("destroy", self.name)
                self._starts += 1
                virsh("start", self.name)
        return log

    def follow(self, host=None):
        """Follows the log on this host or another; returns the lines that the guest's init wrote."""
        tail = ["tail", "-n", "+1", "-F", self._path]
        argv = tail if host is None else ["ssh", host, *tail]
        ups = 0

        def report(line):
            nonlocal ups
            ups += line.count("guest: up")
            # It has no reason to boot again: nothing it runs is on its disk.
            if ups > self._starts:
                raise Lost(f"{self.name} was reset in the middle of its plan: {line}")
            return line.split("guest: ", 1)[1] if "guest: " in line else None

        return Lines(*argv, parse=report, seen=self._seen)


def disk(pool, volume, target="vda"):
    """<disk> XML of a volume."""
    return (f"<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>"
            f"<source pool='{pool}' volume='{volume}'/><target dev='{target}' bus='virtio'/></disk>")


def test(body, needs_host2=True):
    """Runs a test's body; a failed check is printed with what the daemons said.

    Ends with status 201 when the emulation lost a guest: the test may then be run again.
    """
    try:
        body()
    except Lost as lost:
        print(f"LOST: {lost}", flush=True)
        sys.exit(201)
    except Failure as failure:
        print(f"FAILED: {failure}", flush=True)
        for host in [None, "host2"] if needs_host2 else [None]:
            print(f"--- {host or 'host1'}: journal and kernel log", flush=True)
            done = run("sh", "-c", "journalctl --no-pager -q -b -n 60 -u virtnotifyd -u virtqemud -u virtstoraged; "
                       "dmesg | grep -iE 'notify|BUG|WARN|error' | tail -n 15", host=host, check=False)
            print(done.stdout, flush=True)
        sys.exit(1)
