#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""A move that a person asks for with `virt-notify migrate`: taken back with Ctrl-C, done, and back
again, asked of the other host's daemon over ssh. What the VM used on both hosts is one line.
"""

import json
import os
import signal
import subprocess

from lab import expect, fields, run, say, test, until, virsh
from moves import clean_up, guest, journal, pools, states, verdict, volumes

# It writes all through three moves.
BLOCKS = [*range(0, 80)]


def notify(*words):
    return run("virt-notify", *words, seconds=300)


def taken_back():
    """Ctrl-C while it copies: the VM stays, and nothing of it is on the other host."""
    with subprocess.Popen(["virt-notify", "migrate", "guest"], stdout=subprocess.PIPE, text=True,
                          env=os.environ) as asked:
        line = asked.stdout.readline()
        expect("copied" in line, f"progress is told: {line}")
        asked.send_signal(signal.SIGINT)
        said = asked.stdout.read()
        status = asked.wait()
    expect(status == 1 and said.endswith("guest stays here\n"), f"Ctrl-C cancels: {status}, {said}")
    until(lambda: not journal(), "the move to be over", 60)
    expect(states("guest") == ["running", None], "it runs on host1 as before")
    expect(volumes(host="host2") == [], "nothing is left on host2")
    say("host1", "virt-notify migrate, and Ctrl-C: the VM stays")


def starts_with(host=None):
    """Whether the VM starts with its host, in virsh's word."""
    return fields(virsh("dominfo", "guest", host=host))["Autostart"]


def moved(*words, there):
    said = notify(*words)
    say("virt-notify", said.splitlines()[-1])
    expect(said.endswith(f"guest runs on {there}\n"), f"it tells where: {said}")
    both = states("guest")
    expect(both == (["running", None] if there == "host1" else [None, "running"]), f"it runs there: {both}")


def body():
    pools()
    vm = guest("guest", BLOCKS, pause=2)
    run("dd", "if=/dev/urandom", "of=/dev/notify/vms/disk0", "bs=1M", "seek=300", "count=160", "oflag=direct",
        "status=none")
    log1 = vm.start()
    virsh("autostart", "guest")
    taken_back()
    expect(starts_with() == "enable", "a VM that stays starts with its host as before")
    moved("migrate", "guest", there="host2")
    log2 = vm.follow(host="host2")
    expect(starts_with(host="host2") == "enable", "it starts with the host that it moved to")
    moved("-H", "host2", "migrate", "guest", "--to", "host1", there="host1")
    log3 = vm.follow()
    expect(starts_with() == "enable", "and with the one that it came back to")
    expect(volumes(host="host2") == [], "nothing is left on host2")

    hosts = json.loads(notify("status", "-H", "host1", "-H", "host2", "--json"))
    expect([pool["name"] for host in ("host1", "host2") for pool in hosts[host]["pools"]] == ["vms", "vms"],
           f"both hosts' pools are told: {hosts}")
    used = json.loads(notify("usage", "-H", "host1", "-H", "host2", "--json"))["used"]
    lines = [row for row in used if row["domain"] == "guest" and row["volume"] == "disk0"]
    expect(len(lines) == 1, f"what it used is one line: {used}")
    verdict(log3, BLOCKS)
    for follower in (log1, log2, log3):
        follower.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
