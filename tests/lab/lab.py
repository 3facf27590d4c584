# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lab's Python tests share: commands, a timeline, listeners, waits with a deadline.

Everything that is awaited is awaited as an event (a line of a log, a signal on D-Bus); each
wait and each command has a deadline and says what it waited for when that passes.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import watcher

HERE = os.path.dirname(os.path.abspath(__file__))
START = time.monotonic()
MIB = 1 << 20
# The disk of vg0.
PV = os.path.realpath("/run/lab-pv")
# Commands on the other host share a connection: to make one takes an emulated host seconds. One that is
# dead is given up after a quarter of a minute.
SSH = ["ssh", "-oControlMaster=auto", "-oControlPath=/run/lab-ssh-%h", "-oControlPersist=yes",
       "-oServerAliveInterval=5", "-oServerAliveCountMax=3"]


class Failure(Exception):
    """A check that did not hold; its text says which."""


class Lost(Failure):
    """The emulation lost a guest in its first instructions: nothing was shown, and nothing was refuted."""


def say(who, text):
    """One line of the timeline."""
    print(f"{time.monotonic() - START:7.1f} s  {who:<8}{text}", flush=True)


def expect(holds, text):
    """A check: the text says what was expected."""
    if not holds:
        raise Failure(text)


def run(*command, host=None, check=True, seconds=120):
    """Runs a command, on this host or over ssh on another; returns what it printed.

    One that has not ended after so many seconds fails, with the stacks of what it may wait for.
    """
    argv = list(command) if host is None else [*SSH, host, *[_quoted(word) for word in command]]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                               text=True)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        said = stacks(str(process.pid) if host is None else command[0], host)
        process.kill()
        raise Failure(f"`{' '.join(command)}` hangs on {host or 'this host'}: it has not ended after {seconds} s\n"
                      f"{said}") from None
    if not check:
        return subprocess.CompletedProcess(argv, process.returncode, out, err)
    if process.returncode != 0:
        raise Failure(f"`{' '.join(command)}` failed on {host or 'this host'}: {err.strip() or out.strip()}")
    return out


def stacks(what, host=None):
    """Where a process or program and the daemons stand in the kernel of a host."""
    with open(f"{HERE}/stacks.py", encoding="utf-8") as file:
        argv = [*([*SSH, host] if host else []), "timeout", "60", "python3", "-u", "-", os.path.basename(what)]
        done = subprocess.run(argv, stdin=file, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr or "it could not be found out where it hangs"


def _quoted(word):
    return "'" + word.replace("'", "'\\''") + "'"


def virsh(*words, host=None, check=True, seconds=120):
    """Plain virsh, without an option of ours."""
    return run("virsh", *words, host=host, check=check, seconds=seconds)


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


def until(holds, what, seconds):
    """Waits for something that no event tells; asks again and again."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s in vain for {what}")
        time.sleep(0.5)


class Client:
    """virsh with one connection to the storage daemon, which is asked one thing after the other; a command before it has
    it run as another user.
    """

    def __init__(self, *before):
        self._virsh = subprocess.Popen([*before, "virsh", "-q", "-c", "storage:///system"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ask(self, command):
        """What virsh says to a command."""
        self._virsh.stdin.write(f"{command}\necho END\n")
        self._virsh.stdin.flush()
        said = []
        for line in self._virsh.stdout:
            if line.strip().endswith("END"):
                return "".join(said)
            said.append(line)
        raise AssertionError(f"virsh ended at '{command}': {''.join(said)}")

    def close(self):
        self._virsh.stdin.close()
        expect(self._virsh.wait(60) == 0, "virsh ends well")


class Lines:
    """Follows what a command prints, line by line, in a thread; `wait` awaits a line."""

    all = []

    def __init__(self, *argv, parse=None, seen=None):
        self.items = []
        self._broken = None
        self._ended = False
        Lines.all.append(self)
        self._parse = parse or (lambda line: line)
        self._seen = seen or (lambda item: None)
        self._changed = threading.Condition()
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                         stdin=subprocess.DEVNULL, text=True, errors="replace")
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self):
        try:
            for line in self._process.stdout:
                # What has no end yet is half of a line: close() came in between.
                item = self._parse(line.rstrip("\r\n")) if line.endswith("\n") else None
                if item is not None:
                    self._seen(item)
                    with self._changed:
                        self.items.append(item)
                        self._changed.notify_all()
        except Exception as failure:  # pylint: disable=broad-except
            self._broken = failure
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def sound(self):
        """Raises when a line was one that must not come."""
        if isinstance(self._broken, Failure):
            raise self._broken
        if self._broken:
            raise Failure(f"a line was not understood: {self._broken!r}") from self._broken

    def wait(self, wanted, what, seconds):
        """The first item for which `wanted` is true, now or until the deadline."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                self.sound()
                for item in self.items:
                    if wanted(item):
                        return item
                if self._ended:
                    raise Failure(f"nothing more is heard, and {what} never came")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Failure(f"waited {seconds} s in vain for {what}")
                self._changed.wait(left)

    def close(self):
        """Ends the command."""
        self._process.terminate()
        self._process.wait(20)


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

    def comes(self, name, seconds):
        """Whether a signal of that name is there, or comes by then."""
        with self._changed:
            return self._changed.wait_for(lambda: self.all(name), seconds) != []

    def all(self, name):
        """The arguments of all signals of that name so far."""
        return [arguments for member, arguments in self.items if member == name]


def daemon_pid():
    """virtnotifyd's process; 0 when it does not run."""
    return int(run("systemctl", "show", "--value", "-p", "MainPID", "virtnotifyd"))


def control_pid():
    """virtnotify-control's process; 0 when it does not run."""
    return int(run("systemctl", "show", "--value", "-p", "MainPID", "virtnotify-control"))


def causes(what, unit="virtnotifyd.service", host=None):
    """Declares what this test does to a unit, once: a `restart` by systemd, or a `crash`, which is a
    deadly signal that leaves a core. `leftovers` counts, and takes what is not declared for a fault.
    """
    run("sh", "-c", f"echo {what} {unit} >>/run/lab-declared", host=host)


def kill_daemon(host=None, pid=None):
    """SIGKILL to virtnotifyd, also to one that is stopped; systemd starts another one."""
    causes("restart", host=host)
    if pid:
        os.kill(pid, signal.SIGKILL)
    else:
        run("systemctl", "kill", "-s", "KILL", "virtnotifyd", host=host)


def kill_control(host=None):
    """SIGKILL to virtnotify-control, which moves VMs, also to one that is stopped; systemd starts another one."""
    causes("restart", "virtnotify-control.service", host)
    run("systemctl", "kill", "-s", "KILL", "virtnotify-control", host=host)


def on_bus():
    """Whether virtnotify-control is on D-Bus, and has virtnotifyd behind it."""
    asked = run("busctl", "get-property", "org.virtnotify1", "/org/virtnotify1", "org.virtnotify1.Manager", "StorageRuns",
                check=False)
    return asked.stdout.strip() == "b true"


def waiting_writes(pool, volume):
    """Writes that the target holds: the fourth word of its status (see kmod/dm-notify.rst)."""
    words = run("dmsetup", "status", f"notify:{pool}:{volume}").split()
    return int(words[words.index("notify") + 3])


def make_pool(host=None):
    """The pool `vms`, in the group that each host has."""
    virsh("pool-define-as", "vms", "notify", "--source-name", "vg0", "--target", "/dev/notify/vms", host=host)
    virsh("pool-start", "vms", host=host)


def remove_pool(pool, vg="vg0", host=None):
    """A pool without volumes, with what stays in its volume group when it is undefined."""
    virsh("pool-destroy", pool, host=host)
    virsh("pool-undefine", pool, host=host)
    remove_pool_data(pool, vg, host)


def remove_pool_data(pool, vg="vg0", host=None):
    """What an undefined pool keeps in its volume group. `virsh pool-delete` would take the group, too."""
    run("lvremove", "-q", "--yes", f"{vg}/notify-data0", f"{vg}/notify-meta", host=host)
    run("vgchange", "-q", "--deltag", "virtnotify", "--deltag", f"virtnotify.pool={pool}", vg, host=host)


def take_away(pool, volume):
    """A pool and the only volume that it has, which is told as well."""
    signals = Signals()
    virsh("vol-delete", volume, pool)
    signals.wait_for("VolumeDeleted", 30)
    signals.close()
    remove_pool(pool)


class Guest:
    """A guest of guest.sh and its serial log, which goes on in another file on another host.

    Each line of it bears a token, which the guest has made when it booted and keeps in its memory, and
    a number. So a guest that was moved alive is told from one that was booted anew, and one that runs
    twice, from the same memory, tells a line of one number on two hosts.
    """

    all = []

    def __init__(self, name, plan, *disks, seen=None):
        self._know(name, seen)
        for number, text in enumerate((plan, *disks)):
            with open(f"/tmp/{name}.{number}", "w", encoding="ascii") as file:
                file.write(text)
        run(f"{HERE}/guest.sh", "define", name, *[f"/tmp/{name}.{n}" for n in range(len(disks) + 1)])

    @classmethod
    def there(cls, name, starts=0, seen=None):
        """One that is defined already, and has booted so often since its log began."""
        guest = cls.__new__(cls)
        guest._know(name, seen)
        guest.starts, guest._is_new = starts, False
        return guest

    def _know(self, name, seen):
        expect(all(guest.name != name for guest in Guest.all), f"a test has two guests '{name}', and one log of them")
        self.name, self._seen = name, seen
        self._is_new = True
        self.starts = 0     # how many boots were asked for
        self.tokens = []    # of these
        self._told = {}     # (token, number): (host, line)
        self._lock = threading.Lock()
        self._path = f"/var/log/notify-guest-{name}.log"
        Guest.all.append(self)

    def start(self):
        """Starts the guest and returns its log once it is up.

        Under emulation a guest of nested KVM is now and then lost in its first instructions. That is
        the lab's fault and not what is tested, when it is the first start and the guest has told nothing,
        which it does before it looks for a disk. Then the test ends with a status of its own.
        """
        self.starts += 1
        # What it told before is not what it tells now.
        if os.path.exists(self._path):
            os.unlink(self._path)
        virsh("start", self.name)
        log = self.follow()
        try:
            log.wait(lambda line: line.startswith("up"), "the guest to come up", 120)
        except Failure:
            if not self._is_new or self.starts > 1 or self._told:
                raise
            self._must_not_have_written()
            say("lab", f"{self.name} has told and written nothing since it was started: the emulation lost it")
            Guest.all.remove(self)
            raise Lost(f"{self.name} told nothing since it was started") from None
        return log

    def _must_not_have_written(self):
        for line in virsh("domblklist", self.name).splitlines()[2:]:
            if line.strip():
                counts = virsh("domblkstat", self.name, line.split()[0])
                expect(re.search(r" wr_req 0\b", counts), f"{self.name} told nothing, but wrote to its disk: {counts}")

    def follow(self, host=None):
        """Follows the log on this host or another; returns the lines that the guest's init wrote."""
        tail = ["tail", "-n", "+1", "-F", self._path]
        argv = tail if host is None else ["ssh", host, *tail]
        return Lines(*argv, parse=lambda line: self._hear(host or "host1", line), seen=self._seen)

    def _hear(self, host, line):
        found = re.search(r"guest ([0-9a-f]{8}) (\d+): (.*)", line)
        if not found:
            expect("guest: " not in line, f"{self.name} tells a line without its token (a plan uses `tell`): {line}")
            return None
        token, number, text = found.groups()
        with self._lock:
            if token not in self.tokens:
                expect(len(self.tokens) < self.starts,
                       f"{self.name} was booted anew on {host} ('{text}'), as {token}: it was started "
                       f"{self.starts} times, as {self.tokens}")
                self.tokens.append(token)
            before = self._told.setdefault((token, number), (host, text))
        expect(before == (host, text), f"{self.name} runs twice: it told its line {number} on {before[0]} "
                                       f"('{before[1]}') and on {host} ('{text}')")
        return text

    def sound(self, hosts):
        """Reads its logs of these hosts to their ends: it ran in one place, and booted as often as it was to."""
        for host in hosts:
            said = run("sh", "-c", f"[ ! -e {self._path} ] || cat {self._path}", host=host)
            for line in said.split("\n")[:-1]:
                self._hear(host or "host1", line.rstrip("\r"))
        expect(len(self.tokens) == self.starts,
               f"{self.name} was started {self.starts} times and booted as {self.tokens}")


def disk(pool, volume, target="vda"):
    """<disk> XML of a volume."""
    return (f"<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>"
            f"<source pool='{pool}' volume='{volume}'/><target dev='{target}' bus='virtio'/></disk>")


def test(body, needs_host2=True):
    """Runs a test's body; a failed check is printed with what the daemons said.

    A test on two hosts has both watched meanwhile: no virtual machine may run on both. Ends with
    status 201 when the emulation lost a guest: the test may then be run again.
    """
    hosts = [None, "host2"] if needs_host2 else [None]
    watch, wrong = watcher.begin(START) if needs_host2 else None, ""
    try:
        try:
            body()
        finally:
            wrong = watcher.end([guest.name for guest in Guest.all if guest.tokens]) if watch else ""
        for lines in Lines.all:
            lines.sound()
        for guest in Guest.all:
            guest.sound(hosts)
        expect(not wrong, wrong)
    except Lost as lost:
        print(f"LOST: {lost}", flush=True)
        sys.exit(201)
    except Failure as failure:
        print(f"FAILED: {failure}", flush=True)
        if wrong and wrong != str(failure):
            print(f"FAILED as well: {wrong}", flush=True)
        for host in hosts:
            print(f"--- {host or 'host1'}: journal, kernel log, guests' serial ports", flush=True)
            done = run("sh", "-c", "journalctl --no-pager -q -b -n 80 -u virtnotifyd -u virtnotify-control -u virtnotify-proxy "
                       "-u virtqemud -u virtstoraged; "
                       "dmesg | grep -iE 'notify|BUG|WARN|error' | tail -n 15; "
                       # A guest's kernel says there why it panicked.
                       "tail -q -n 15 /var/log/notify-guest-*.log", host=host, check=False)
            print(done.stdout, flush=True)
        sys.exit(1)
