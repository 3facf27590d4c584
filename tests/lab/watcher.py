# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watches both hosts as long as a test runs: no virtual machine may run on both at any moment.

On each host watch_agent.py tells what QEMU, libvirt and KVM say, each with that host's time. The
hosts' clocks are compared all the while, so that each time is known on host1's clock within half a
round trip. Two things are never true of a machine that moves, however slow the hosts are:

- It was resumed on one host before it was stopped on the other, by QEMU's own times.
- By KVM's counts, each of two processes ran its code at some time after the other one had: a
  machine that is handed over runs in one process only up to a moment, and then only in the other.
"""

import json
import os
import subprocess
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HOSTS = ("host1", "host2")
PING = 1.0
# What can go wrong with a clock between two comparisons.
DRIFT = 0.005

# The watch of the test that runs.
now = None


def _close(pipe):
    """Closes it even where nobody reads it any more: what is left in its buffer is not tried again later."""
    try:
        pipe.close()
    except (OSError, ValueError):
        pass


class Agent:
    """What one host tells, on its own clock, and how that clock differs from host1's."""

    def __init__(self, host):
        self.host = host
        self._facts = []
        self._ran = {}      # (session, name, process): the first span in which KVM saw it run, and the last
        self._clocks = {}   # session: [(its time, how much host1's is ahead, within)]
        self._session = 0   # a host that comes back may have another idea of the time
        self._last = None   # (when it told anything at all, in which session)
        self._sent = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._process = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._ping)]
        for thread in self._threads:
            thread.start()

    def _start(self):
        with open(f"{HERE}/watch_agent.py", encoding="utf-8") as file:
            code = file.read()
        argv = ["python3", "-u", "-c", code]
        if self.host != HOSTS[0]:
            argv = ["ssh", self.host, "python3", "-u", "-c", "'" + code.replace("'", "'\\''") + "'"]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True)

    def _listen(self):
        """A host that was away is watched again as soon as it is back."""
        while not self._stopping:
            process = self._start()
            with self._lock:
                self._session += 1
                self._process, self._sent, self._clocks[self._session] = process, {}, []
            for line in process.stdout:
                self._hear(json.loads(line))
            process.wait()
            with self._lock:
                if self._last and self._last[1] == self._session:
                    self._facts.append(Fact(self._session, kind="silent", time=self._last[0]))
            if not self._stopping:
                time.sleep(0.5)

    def _hear(self, told):
        now = time.time()
        with self._lock:
            self._last = told["time"], self._session
            if told["kind"] == "pong":
                sent = self._sent.pop(told["number"], None)
                if sent:
                    within = (now - sent) / 2
                    self._clocks[self._session].append((told["time"], sent + within - told["time"], within))
            elif told["kind"] == "ran":
                spans = self._ran.setdefault((self._session, told["name"], told["pid"]), [None, None])
                spans[0] = spans[0] or (told["since"], told["until"])
                spans[1] = told["since"], told["until"]
            else:
                self._facts.append(Fact(self._session, **told))

    def _ping(self):
        number = 0
        while not self._stopping:
            number += 1
            with self._lock:
                process = self._process
                self._sent[number] = time.time()
            try:
                if process:
                    process.stdin.write(f"ping {number}\n")
                    process.stdin.flush()
            except (OSError, ValueError):
                _close(process.stdin)  # its end is noticed where it is read
            time.sleep(PING)

    def stop(self):
        """Hears it out."""
        self._stopping = True
        with self._lock:
            process = self._process
        if process:
            _close(process.stdin)
        self._threads[0].join(20)

    def on_host1(self, moment, session):
        """(the moment on host1's clock, within how much), by the best comparison near it."""
        clock = self._clocks.get(session)
        if not clock:
            return moment, 60.0
        near = [(within + DRIFT, ahead) for at, ahead, within in clock if abs(at - moment) < 20]
        if not near:
            _, within, ahead = min((abs(at - moment), within, ahead) for at, ahead, within in clock)
            near = [(within + 0.05, ahead)]
        within, ahead = min(near)
        return moment + ahead, within

    def heard(self):
        """All facts so far."""
        with self._lock:
            return list(self._facts)

    def counted(self, name):
        """A Run for each process of a machine: since the first look by which KVM had seen it run,
        until the last look after which it did."""
        with self._lock:
            ran = [(session, pid, spans) for (session, whose, pid), spans in self._ran.items() if whose == name]
        runs = []
        for session, pid, ((_, had_run), (ran_after, _)) in ran:
            since, within = self.on_host1(had_run, session)
            until, _ = self.on_host1(ran_after, session)
            runs.append(Run(self.host, since, until, within, pid))
        return runs

    def said(self, name):
        """A Run from each RESUME to the next STOP, by QEMU's own times."""
        facts = self.heard()
        marks = sorted(mark for fact in facts for mark in fact.marks(name))
        if self._last:
            marks.append((*self._last, False))
        runs, since = [], None
        for moment, session, runs_now in marks:
            at, within = self.on_host1(moment, session)
            if runs_now and since is None:
                since = at
            elif not runs_now and since is not None:
                runs.append(Run(self.host, since, at, within))
                since = None
        return runs


class Fact:
    """One thing that an agent told."""

    def __init__(self, session, kind, time, **about):  # pylint: disable=redefined-outer-name
        self.session, self.kind, self.time, self.about = session, kind, time, about
        self.name, self.event = about.get("name", ""), about.get("event", "")

    def marks(self, name):
        """[(when, session, whether it runs from then on)], when it says anything of that."""
        if self.kind == "silent":
            return [(self.time, self.session, False)]
        if self.name != name:
            return []
        if self.kind == "qemu" and self.event in ("RESUME", "STOP", "SHUTDOWN"):
            return [(self.about["at"], self.session, self.event == "RESUME")]
        if self.kind == "gone" or self.event == "Stopped":
            return [(self.time, self.session, False)]
        if self.kind == "state":
            return [(self.time, self.session, self.about["running"])]
        return []

    def words(self):
        """For a timeline."""
        rest = (self.about.get(key) for key in ("event", "why", "details", "running", "pid"))
        return " ".join([self.kind, *(str(word) for word in rest if word not in (None, ""))])


class Run:
    """A span in which a machine ran on a host, on host1's clock."""

    def __init__(self, host, since, until, within, process=None):
        self.host, self.since, self.until, self.within, self.process = host, since, until, within, process


class Watch:
    """Both hosts, from now on."""

    def __init__(self, start):
        """`start` is what the timeline counts from, as time.monotonic() has it."""
        self._zero = time.time() - (time.monotonic() - start)
        self._agents = [Agent(host) for host in HOSTS]

    def blind(self):
        """The hosts of which nothing was heard yet."""
        return [agent.host for agent in self._agents if not any(fact.kind == "ready" for fact in agent.heard())]

    def stop(self):
        """Hears both out."""
        deadline = time.monotonic() + 20
        while self.blind() and time.monotonic() < deadline:
            time.sleep(0.1)
        for agent in self._agents:
            agent.stop()

    def told(self, name):
        """[(host, what)] of a machine, in the order of each host: `qemu STOP`, `event Suspended IOError`, ..."""
        return [(agent.host, fact.words()) for agent in self._agents for fact in agent.heard()
                if fact.name == name and fact.kind in ("qemu", "event")]

    def check(self, started):
        """What is wrong, in words, or nothing. The machines named `started` must have been seen."""
        if self.blind():
            return f"nothing was seen of {' and '.join(self.blind())}: the watcher is blind"
        names = {fact.name for agent in self._agents for fact in agent.heard() if fact.name}
        for name in sorted(names | set(started)):
            said = [run for agent in self._agents for run in agent.said(name)]
            counted = [run for agent in self._agents for run in agent.counted(name)]
            if name in started and not (said and counted):
                return f"{name} was started, and the watcher has not seen it run\n{self._timeline(name)}"
            wrong = [*self._overlap(said), *self._interleaved(counted)]
            if wrong:
                return f"{name} runs on both hosts: {'; '.join(wrong)}\n{self._timeline(name)}"
        return ""

    def _overlap(self, runs):
        for one, other in pairs(runs):
            both = min(one.until, other.until) - max(one.since, other.since)
            if both > one.within + other.within:
                yield f"by QEMU's own times for {both:.2f} s from {self._clock(max(one.since, other.since))}"

    def _interleaved(self, runs):
        for one, other in pairs(runs):
            within = one.within + other.within
            if one.since + within < other.until and other.since + within < one.until:
                yield (f"by KVM's counts process {one.process} of {one.host} and {other.process} of {other.host} "
                       f"each ran after the other one had, from {self._clock(max(one.since, other.since))}")

    def _clock(self, moment):
        return f"{moment - self._zero:.2f} s"

    def _timeline(self, name):
        lines = []
        for agent in self._agents:
            lines.append(f"--- {agent.host}: what was seen of {name}")
            for fact in agent.heard():
                if fact.name in (name, ""):
                    at, within = agent.on_host1(fact.about.get("at", fact.time), fact.session)
                    lines.append(f"{self._clock(at):>10}  within {within * 1000:.0f} ms  {fact.words()}")
            for run in agent.counted(name):
                lines.append(f"            KVM: process {run.process} had run by {self._clock(run.since)}, "
                             f"and ran after {self._clock(run.until)}")
        return "\n".join(lines)


def begin(start):
    """Watches from now on; tests find the watch in `watcher.now`."""
    global now  # pylint: disable=global-statement,invalid-name
    now = Watch(start)
    return now


def end(started):
    """Ends the watch; says what is wrong, or nothing."""
    now.stop()
    return now.check(started)


def pairs(runs):
    """Each run on host1 with each on host2."""
    return ((one, other) for one in runs if one.host == HOSTS[0] for other in runs if other.host == HOSTS[1])
