#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --product --disk 512M --limit 600
"""test_liars.py [SEED [SECONDS [CLIENTS]]]: slow, silent and lying clients of the proxy, all at once: root's, read-only ones
and ones that may not come in (liars.py). Meanwhile honest ones are answered and a volume grows as fast as before, and the
proxy has no more memory, descriptors and threads than its unit gives it. When they have gone, nothing of them is left.

The liars give way to all others on the one processor (nice): how the proxy shares itself out is what is looked at. So times
are compared with those that the same took before there was any liar.
"""

import collections
import multiprocessing
import os
import random
import resource
import signal
import socket
import statistics
import struct
import sys
import time

import liars
from product import (DEADLINE, Daemon, close_group, expect, make_disk, make_pool_of_small_chunks, read, remove_volumes,
                     run, say, start_upstream, use_disks, virsh, write)

SECONDS, CLIENTS = 20, 200
READ_WRITE, READ_ONLY = "/run/libvirt/virtstoraged-sock", "/run/libvirt/virtstoraged-sock-ro"
# Users, and the tenths that each has of all clients. Those of users who are not root may only read, or stay outside.
LIARS = [(0, 0.6, READ_WRITE), (0, 0.4, READ_ONLY)]
LIARS += [(user, 1, READ_ONLY) for user in range(2001, 2007)] + [(user, 1, READ_WRITE) for user in range(2101, 2104)]
HONEST = 3001
# What the unit has: MemoryMax, TasksMax, LimitNOFILE.
MEMORY, TASKS, DESCRIPTORS = 512, 1024, 16384
# How much more memory, in MiB, the proxy may have when they have gone.
KEPT = 32
# How many seconds are looked at before there are liars.
ALONE = 10
# How many times as long as alone it may take beside them, in the middle of all times; what takes less than so many seconds
# is taken for that long. Who connects waits for libvirt's daemon as well, which all liars ask at the same time.
TIMES, TIMES_TO_CONNECT, LEAST = 10, 50, 0.05
GROUP = "/sys/fs/cgroup/proxy"
BLOCK = 65536
BLOCKS = 1024


class Proxy:
    """The proxy, held to what its unit gives it."""

    def __init__(self):
        self.process = start_upstream('auth_unix_rw = "polkit"\nauth_unix_ro = "none"\n')
        os.makedirs(GROUP)
        with open("/sys/fs/cgroup/cgroup.subtree_control", "w", encoding="ascii") as control:
            control.write("+memory")
        for name, value in (("memory.max", MEMORY << 20), ("cgroup.procs", self.process.pid)):
            with open(f"{GROUP}/{name}", "w", encoding="ascii") as file:
                file.write(str(value))
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        self.most = collections.Counter()

    def now(self):
        """Its memory, with what the kernel has for it, in MiB, its descriptors and its threads."""
        with open(f"{GROUP}/memory.current", encoding="ascii") as file:
            memory = int(file.read()) >> 20
        place = f"/proc/{self.process.pid}"
        return {"MiB": memory, "descriptors": len(os.listdir(f"{place}/fd")), "threads": len(os.listdir(f"{place}/task"))}

    def look(self):
        """Notes the most of each; it must be the same process all the while."""
        expect(self.process.poll() is None, f"the proxy to live: it ended with {self.process.returncode}")
        for what, number in self.now().items():
            self.most[what] = max(self.most[what], number)
        # The kernel sees to the other two.
        expect(self.most["threads"] <= TASKS, f"{TASKS} threads at most: {self.most}")

    def has_forgotten(self, before):
        """Waits until it has let go all descriptors of those who have gone, and their memory."""
        end = time.monotonic() + DEADLINE
        while (now := self.now())["descriptors"] > before["descriptors"] or now["MiB"] > before["MiB"] + KEPT:
            expect(time.monotonic() < end, f"as few descriptors as before, and {KEPT} MiB more: {before}, {now}")
            time.sleep(0.5)
        return now


class Honest:
    """A client of a user that does something again and again, in a process of its own. To be made before there is any
    thread."""

    def __init__(self, name, user, work):
        self.name = name
        context = multiprocessing.get_context("fork")
        self._end, theirs = context.Pipe()
        self._process = context.Process(target=self._be, args=(user, work(), theirs), daemon=True)
        self._process.start()

    @staticmethod
    def _be(user, work, end):
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        while (seconds := end.recv()) is not None:
            took = []
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                begun = time.monotonic()
                next(work)
                took.append(time.monotonic() - begun)
                time.sleep(0.1)
            end.send(took)

    def begin(self, seconds):
        """Has it do its work for so long."""
        self._end.send(seconds)

    def took(self, seconds):
        """How long it took each time, in those that have begun."""
        try:
            expect(self._end.poll(seconds + DEADLINE), f"that {self.name}")
            took = self._end.recv()
        except EOFError:
            expect(False, f"that {self.name}: it could not, and its last words are above")
        middle, worst = statistics.median(took), max(took)
        say(f"{self.name}: {len(took)} times, {middle * 1000:.1f} ms in the middle, {worst * 1000:.1f} at most")
        return took


class Connection:
    """A client that keeps to the protocol."""

    def __init__(self, place):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(place)
        self._serial = 0
        self.call(liars.AUTH_LIST)
        self.call(liars.OPEN, liars.word(1) + liars.text(b"storage:///system") + liars.word(0))

    def call(self, procedure, payload=b""):
        """The answer to a call, which must be one."""
        self._serial += 1
        self._socket.sendall(liars.frame(procedure, payload, self._serial))
        length, *_, status = header = struct.unpack(">IIIiIII", self._read(28))
        answer = self._read(length - 28)
        expect((header[5], status) == (self._serial, liars.OK), f"an answer to {procedure}: {header}, {answer[:200]}")
        return answer

    def _read(self, size):
        data = self._socket.recv(size, socket.MSG_WAITALL)
        expect(len(data) == size, "the proxy not to end an honest client")
        return data

    def close(self):
        """Ends it."""
        self._socket.close()


def asks():
    """Root, over one connection, what there is to know of the pool."""
    client = Connection(READ_WRITE)
    pool = client.call(liars.POOL_BY_NAME, liars.text(b"vms"))
    while True:
        expect(client.call(liars.POOL_INFO, pool)[:4] == liars.word(2), "the pool to run")
        yield


def looks():
    """A user who may read connects each time anew and lists the volumes."""
    while True:
        client = Connection(READ_ONLY)
        pool = client.call(liars.POOL_BY_NAME, liars.text(b"vms"))
        expect(b"grows" in client.call(liars.VOLUMES, pool + liars.word(1) + liars.word(0)), "the volume that grows")
        client.close()
        yield


def pattern(number):
    """What is written at a place."""
    return bytes([number % 251 + 1]) * BLOCK


def grows():
    """A write to new space, as long as there is any, and then over the oldest."""
    number = 0
    while True:
        write("/dev/notify/vms/grows", number % BLOCKS * BLOCK, pattern(number))
        number += 1
        yield


def all_at_work(proxy, honest, liars_, seconds):
    """Has the honest ones work for so long; looks at all others meanwhile. Returns how long each of them took each time."""
    for one in honest:
        one.begin(seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        proxy.look()
        expect(all(liar.alive() for liar in liars_), "all liars to go on")
        time.sleep(0.5)
    return [one.took(seconds) for one in honest]


def end_liars(liars_):
    """How often each lie was told and how often the proxy ended it. What should not have been is a failure."""
    counts, wrong = collections.Counter(), []
    for liar in liars_:
        liar.end()
    for liar in liars_:
        told, spared = liar.told()
        counts.update(told)
        wrong += spared
    say(f"lies: {dict(sorted(counts.items()))}")
    expect(not wrong, f"no liar to be spared: {wrong[:5]}")
    lies = {name for name in counts if ":" not in name}
    expect(lies >= {name for name, _ in liars.LIES}, f"each lie to be told: {lies}")


def descriptors_of(program):
    """How many a daemon has open."""
    pid = run("pidof", program).split()[0]
    return len(os.listdir(f"/proc/{pid}/fd"))


def nothing_is_left(proxy, before, upstream):
    """Neither memory nor descriptors here or there, nor a volume that is in use, nor one that was made or is gone."""
    now = proxy.has_forgotten(before)
    say(f"before {before}, at most {dict(proxy.most)}, now {now}")
    end = time.monotonic() + DEADLINE
    while descriptors_of("virtstoraged") > upstream:
        expect(time.monotonic() < end, f"no connection behind the proxy: {descriptors_of('virtstoraged')}, {upstream}")
        time.sleep(0.5)
    names = {line.split()[0] for line in virsh("vol-list", "vms").splitlines() if line.split()}
    expect(names == {"lied", "grows"}, f"the volumes that there were, not {names}")
    virsh("vol-delete", "lied", "vms")


def is_as_fast(name, most, alone, beside):
    """Compares the times that something took before there were liars, and beside them."""
    before, now = (statistics.median(times) for times in (alone, beside))
    say(f"{name}: {now / before:.1f} times as long in the middle")
    expect(now <= most * max(before, LEAST), f"that {name} in {most} times as long at most: {before:.3f} s, {now:.3f} s")


def what_was_written_is_there(times):
    """Reads what the volume that grows must have."""
    for number in range(max(0, times - BLOCKS), times):
        expect(read("/dev/notify/vms/grows", number % BLOCKS * BLOCK, BLOCK) == pattern(number), f"what was written as {number}")


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(1 << 32)
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    clients = int(sys.argv[3]) if len(sys.argv) > 3 else CLIENTS
    say(f"seed {seed}")
    honest = [Honest("root asks", 0, asks), Honest("a user connects and looks", HONEST, looks), Honest("a volume grows", 0, grows)]
    liars_ = [liars.Liars(seed, user, round(clients * tenths / 10), place) for user, tenths, place in LIARS]
    make_disk("pv", "/dev/ubda")
    use_disks("pv")
    proxy = Proxy()
    daemon = Daemon()
    make_pool_of_small_chunks()
    virsh("vol-create-as", "vms", "lied", "64M")
    virsh("vol-create-as", "vms", "grows", f"{BLOCKS * BLOCK}b")
    say("without liars")
    alone = all_at_work(proxy, honest, [], ALONE)
    before, upstream = proxy.now(), descriptors_of("virtstoraged")
    say(f"{clients} liars of {len({user for user, _, _ in LIARS})} users")
    for liar in liars_:
        liar.begin()
    beside = all_at_work(proxy, honest, liars_, seconds)
    end_liars(liars_)
    for one, most, *times in zip(honest, (TIMES, TIMES_TO_CONNECT, TIMES), alone, beside):
        is_as_fast(one.name, most, *times)
    what_was_written_is_there(len(alone[-1]) + len(beside[-1]))
    nothing_is_left(proxy, before, upstream)
    daemon.end(signal.SIGTERM)
    proxy.process.terminate()
    expect(proxy.process.wait(DEADLINE) == 0, "the proxy to end well")
    remove_volumes()
    run("virt-notify", "check", "vg0")
    close_group("vg0", "pv")


if __name__ == "__main__":
    main()
