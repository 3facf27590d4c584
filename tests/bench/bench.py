# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the benchmark's scripts share: fio, the pool under test, its counters, its peace.

A script prints progress as plain lines, and what it measured as one last line `RESULT {json}`.
"""

import json
import mmap
import os
import random
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "dm"))

import dmctl  # noqa: E402

MIB = 1 << 20
BLOCK = 4096
CONFIG = "/etc/virtnotify/virtnotify.toml"
MANAGER = ["org.virtnotify1", "/org/virtnotify1", "org.virtnotify1.Manager"]
UNITS = ["virtnotify-control.service", "virtnotifyd.service"]
TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """A step that did not work; its text says which and why."""


def say(text):
    """A line of progress."""
    print(f"{time.monotonic():8.1f}  {text}", flush=True)


def alive():
    """Tells the watcher of this host that it has not stalled, instead of its beacon."""
    try:
        with open("/dev/ttyS1", "wb", buffering=0) as beacon:
            beacon.write(b"alive\n")
    except OSError:
        pass


def keep_alive():
    """For what takes many minutes in one step."""
    def beat():
        while True:
            alive()
            time.sleep(10)

    threading.Thread(target=beat, daemon=True).start()


def run(*argv):
    """Runs a command; returns what it printed."""
    alive()
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Failure(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def until(what, seconds, look):
    """Waits until `look` says yes, which nothing announces."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s in vain for {what}")
        alive()
        time.sleep(0.2)


def main(body):
    """Runs a script's body, which returns what it measured."""
    try:
        print("RESULT " + json.dumps(body()), flush=True)
    except (Failure, OSError) as failure:
        print(f"FAILED: {failure}", flush=True)
        print(run("sh", "-c", "journalctl --no-pager -q -b -n 40 -u virtnotifyd -u virtnotify-control; dmesg | tail -n 15"))
        sys.exit(1)


def microseconds(call):
    """How long a call takes."""
    begun = time.monotonic()
    call()
    return round((time.monotonic() - begun) * 1e6)


def forgetful(disk, size):
    """A device of so many bytes that forgets what is written to it (dm-zero), behind a part of a disk for LVM's label."""
    sectors = size // 512
    # Not from the disk's start: LVM would find the label twice.
    run("dmsetup", "create", "forgetful", "--table", f"0 8192 linear {disk} 8192\n8192 {sectors - 8192} zero")
    return "/dev/mapper/forgetful"


# --- fio -----------------------------------------------------------------

def fio(device, rw, block, size, amount=None, **more):
    """One fio job over the first `size` bytes of a device, `amount` bytes in all (`size` if not
    given): direct, one request at a time, the same offsets in every run. Returns its figures."""
    options = {
        "name": "job", "filename": device, "direct": 1, "ioengine": "psync", "rw": rw, "bs": block,
        "size": size, "io_size": amount or size, "randrepeat": 1, "disk_util": 0, "invalidate": 0,
        **more,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    report = json.loads(run("fio", "--output-format=json", *words))
    figures = figures_of(report["jobs"][0], "read" if "read" in rw else "write")
    say(f"{device} {rw} {block}: {figures['bytes_per_second'] / MIB:.1f} MiB/s, {figures['mean_us']} us")
    return figures


def figures_of(job, direction):
    """What is kept of a job: throughput, and how long single requests took, and flushes if there were any."""
    part = job[direction]
    latency = part["clat_ns"]
    points = latency.get("percentile", {})
    flushes = job["sync"]["lat_ns"]
    flushed = {"flush_mean_us": round(flushes["mean"] / 1000, 3)} if flushes.get("N") else {}
    return flushed | {
        "bytes": part["io_bytes"],
        "requests": part["total_ios"],
        "milliseconds": part["runtime"],
        "bytes_per_second": part["bw_bytes"],
        "mean_us": round(part["lat_ns"]["mean"] / 1000, 3),
        "p50_us": points.get("50.000000", 0) / 1000,
        "p99_us": points.get("99.000000", 0) / 1000,
        "max_us": latency["max"] / 1000,
    }


# --- single writes --------------------------------------------------------

def block():
    """A block as direct writes take it."""
    buffer = mmap.mmap(-1, BLOCK)
    buffer[:] = b"x" * BLOCK
    return buffer


def write_blocks(path, offsets):
    """One block at each of these places."""
    buffer = block()
    file = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        for offset in offsets:
            os.pwritev(file, [buffer], offset)
        os.fsync(file)
    finally:
        os.close(file)


class Writer:
    """Writes blocks, each so many seconds after the last one is acknowledged, and notes how long each took. They lie at
    random in the first `area` bytes, at the same places in every run."""

    def __init__(self, path, pause=0, area=BLOCK):
        self._file = os.open(path, os.O_WRONLY | os.O_DIRECT)
        self._buffer = block()
        self._pause, self._area = pause, area
        self._ends = threading.Event()
        self._times = []
        self._thread = threading.Thread(target=self._write)

    def _write(self):
        places, blocks = random.Random(1), self._area // BLOCK
        while not self._ends.is_set():
            place = places.randrange(blocks) * BLOCK
            begun = time.monotonic()
            os.pwritev(self._file, [self._buffer], place)
            self._times.append((begun, time.monotonic()))
            if self._pause:
                time.sleep(self._pause)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ends.set()
        self._thread.join()
        os.close(self._file)

    def between(self, begun, ended):
        """When each of the writes began that were under way between two moments, and how long it took, in microseconds."""
        took = [(start, round((end - start) * 1e6)) for start, end in self._times if start < ended and end > begun]
        if not took:
            raise Failure("nothing was written meanwhile")
        return took

    def longest(self, begun, ended):
        """The longest of them, in microseconds."""
        return max(took for _, took in self.between(begun, ended))


# --- the pool ------------------------------------------------------------

class Pool:
    """A pool of type notify on a volume group of its own, made and used as an operator would."""

    def __init__(self, name, vg, chunk=None):
        self.name, self.vg = name, vg
        words = [] if chunk is None else [f"<notify:chunk unit='KiB'>{chunk >> 10}</notify:chunk>"]
        with open(f"/tmp/{name}.xml", "w", encoding="ascii") as file:
            file.write(f"<pool type='notify' xmlns:notify='https://virtnotify.org/xmlns/pool/1.0'><name>{name}</name>"
                       f"<source><name>{vg}</name></source>{''.join(words)}</pool>")
        run("virsh", "pool-define", file.name)
        run("virsh", "pool-start", name)

    def volume(self, name, size):
        """Makes a volume; returns its path."""
        run("virsh", "vol-create-as", self.name, name, str(size))
        return f"/dev/notify/{self.name}/{name}"

    def delete(self, name):
        """Deletes a volume with its snapshots."""
        run("virsh", "vol-delete", name, self.name, "--delete-snapshots")

    def target(self, volume):
        """The volume's device, for messages."""
        return dmctl.Dm(f"notify:{self.name}:{volume}")

    def free(self):
        """Bytes that the pool holds and no volume has, zeroed or not."""
        pools = {}

        def shown():
            answer = run("busctl", "--json=short", "call", *MANAGER, "ListPools")
            pools.update({pool[0]: pool for pool in json.loads(answer)["data"][0]})
            return self.name in pools and pools[self.name][2]

        # A pool that was just started is shown a moment later.
        until(f"the pool '{self.name}' to be shown as active", 30, shown)
        return pools[self.name][6]

    def rest(self, seconds=900):
        """Waits until neither udev nor the daemons have anything more to do: as an idle system is."""
        run("udevadm", "settle", f"--timeout={seconds}")
        until("the daemons to come to rest", seconds, at_rest)

    def restore(self, runs):
        """Gives the pool, which has one run, these instead: of each its first chunk, where that lies, and how many they
        are. The daemons are out of the way meanwhile: a bus takes no such text, and a connection to it ends."""
        run("virsh", "pool-destroy", self.name)
        run("systemctl", "stop", *UNITS)
        with open("/tmp/map", "w", encoding="ascii") as file:
            for line in run("virt-notify", "dump", self.vg).splitlines():
                if line.startswith("run "):
                    file.writelines(f"run {chunk}:0:{place}:{count}\n" for chunk, place, count in runs)
                else:
                    file.write("end edited\n" if line.startswith("end ") else f"{line}\n")
        say("restoring the map")
        run("virt-notify", "restore", self.vg, "--from", file.name, "--yes", "--no-archive")
        run("systemctl", "start", *UNITS)
        run("virsh", "pool-start", self.name)

    def remove(self):
        """Takes the pool and its volume group's contents away."""
        run("virsh", "pool-destroy", self.name)
        run("virsh", "pool-delete", self.name)
        run("virsh", "pool-undefine", self.name)


def daemon_pid(unit="virtnotifyd"):
    """The process of virtnotifyd, or of another unit."""
    return int(run("systemctl", "show", "-P", "MainPID", unit))


def daemon_bytes():
    """virtnotifyd's resident memory."""
    with open(f"/proc/{daemon_pid()}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def ticks():
    """Clock ticks of processor time that the daemons and the commands they ran have used."""
    total = 0
    for unit in UNITS:
        with open(f"/proc/{daemon_pid(unit)}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        total += sum(int(field) for field in fields[11:15])
    return total


def at_rest():
    """Whether the daemons used no more than a fiftieth of a processor for a while."""
    before, begun = ticks(), time.monotonic()
    time.sleep(1)
    used = (ticks() - before) / TICKS
    return used <= 0.02 * (time.monotonic() - begun)


def configure(collector=None, **storage):
    """Gives virtnotifyd this `[storage]` section, and this `[collector]` (its defaults, if there is nothing in it)."""
    with open(CONFIG, "w", encoding="ascii") as file:
        file.write("# SPDX-License-Identifier: LGPL-2.1-or-later\n")
        for section, values in ("storage", storage), ("collector", collector or {}):
            file.write(f"[{section}]\n")
            file.writelines(f"{key} = {value}\n" for key, value in values.items())
    run("systemctl", "restart", "virtnotifyd")


# --- the target's counters -----------------------------------------------

def stats(target, reset=False):
    """The target's counters; `wait_hist` is a list of (nanoseconds, waits)."""
    counters = {}
    for line in (target.message("stats reset" if reset else "stats") or "").splitlines():
        name, *values = line.split()
        if name == "wait_hist":
            counters[name] = [tuple(map(int, value.split(":"))) for value in values]
        else:
            counters[name] = int(values[0])
    return counters


def mapped(target):
    """How many chunks the volume has."""
    fields = run("dmsetup", "status", "--noflush", target.name.decode()).split()
    return int(fields[3].split("/")[0])


def waits(all_counters):
    """How long writes waited, over several volumes. Classes are a fourth of a power of two wide,
    and a class is told by its lower bound."""
    classes = {}
    for counters in all_counters:
        for bound, count in counters["wait_hist"]:
            classes[bound] = classes.get(bound, 0) + count
    count = sum(classes.values())

    def point(part):
        seen = 0
        for bound in sorted(classes):
            seen += classes[bound]
            if seen >= part * count:
                return bound / 1000
        return 0

    total = sum(counters["wait_total_ns"] for counters in all_counters)
    return {
        "count": count,
        "mean_us": round(total / 1000 / count, 1) if count else 0,
        "p50_us": point(0.5),
        "p99_us": point(0.99),
        "max_us": round(max((c["wait_max_ns"] for c in all_counters), default=0) / 1000, 1),
    }


# --- the host ------------------------------------------------------------

def quiet():
    """Ends what would work beside a measurement: timers, and the host's beacon (`alive` speaks now)."""
    run("systemctl", "stop", "lab-beacon.service")
    run("sh", "-c", "systemctl list-units --plain --no-legend --type=timer | cut -d' ' -f1 | xargs -r systemctl stop")


def versions():
    """What was measured, and with what."""
    first = lambda *argv: run(*argv).splitlines()[0].strip()  # noqa: E731
    return {
        "kernel": first("uname", "-r"),
        "target": next((line.split()[1] for line in run("dmsetup", "targets").splitlines()
                        if line.startswith("notify")), "unknown"),
        "lvm": next(line.split(":")[1].split("(")[0].strip() for line in run("lvm", "version").splitlines()
                    if "LVM version" in line),
        "fio": first("fio", "--version"),
        "qemu": first("qemu-img", "--version").split(" version ")[1].split()[0],
    }
