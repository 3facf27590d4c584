#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""What an operator asks before anything moves, and decides: a plan, a pin, how the peers are, and a host that is
emptied. A guest writes through all of it, and is whole on the other host.
"""

import json

from lab import control_pid, expect, on_bus, run, say, test, until, virsh
from moves import clean_up, guest, journal, next_daemon, pools, state, states, verdict, volumes

# It writes for longer than all that is asked before its move takes.
BLOCKS = [*range(0, 50)]
DRAINED = "<notify:drained "


def notify(*words, status=0, seconds=120):
    """What virt-notify prints, when it ends with that status."""
    done = run("virt-notify", *words, check=False, seconds=seconds)
    expect(done.returncode == status, f"`virt-notify {' '.join(words)}` ends with {status}: {done.returncode}, "
                                      f"{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def shown(*words, status=0):
    return json.loads(notify("--json", *words, status=status))


def plans():
    """A plan names the peer and the time, and makes nothing there."""
    said = notify("plan", "guest")
    say("virt-notify", said.splitlines()[0])
    expect(said.startswith("guest would move to host2: "), f"the peer is named: {said}")
    plan = shown("migrate", "--dry-run", "guest")
    expect(plan["to"] == "host2" and plan["copies"] > 0 and plan["seconds"] > 0, f"how much and how long: {plan}")
    expect(plan["peers"][0]["fits"] and plan["peers"][0]["free_then"] > 0, f"what is free then: {plan}")
    expect([one["domain"] for one in shown("plan")] == ["guest"], "all VMs with a disk of ours are planned for")
    expect(volumes(host="host2") == [] and not journal(), "nothing was made there")
    expect("no such VM" in notify("plan", "nobody", status=3), "a VM that is not there has no plan")
    expect("no configured peer" in notify("plan", "guest", "--to", "host9", status=3), "nor a peer")


def pins():
    """A pinned VM does not move, in its metadata now and after its next start."""
    notify("pin", "guest")
    for words in (["dumpxml", "guest"], ["dumpxml", "guest", "--inactive"]):
        expect("allowed='no'" in virsh(*words) or 'allowed="no"' in virsh(*words), f"virsh {words} shows it")
    said = notify("migrate", "guest", status=3)
    expect("is not to be moved" in said, f"it stays: {said}")
    expect("is not to be moved" in notify("plan", "guest", status=1), "the plan says so")
    notify("unpin", "guest")
    notify("plan", "guest")
    say("host1", "pinned, refused, unpinned")


def peer():
    return shown_peers()[0]


def shown_peers():
    done = run("virt-notify", "--json", "peers", check=False)
    expect(done.returncode in (0, 1), f"the peers are shown: {done.stderr}")
    return json.loads(done.stdout)


def peer_says(problem):
    until(lambda: peer()["checked"] and peer()["problem"] == problem, f"host2's problem to be {problem}", 150)
    say("peers", f"host2: {problem}")


def a_drained_peer_takes_none():
    """host2 is emptied: its pool says so, host1 sees it, and sends nothing."""
    notify("-H", "host2", "drain")
    expect(DRAINED in virsh("pool-dumpxml", "vms", host="host2"), "the pool there says so")
    none = "is drained: it takes no VMs"
    expect(none in notify("plan", "guest", status=1), "the plan says so")
    expect(none in notify("migrate", "guest", status=3), "and a move is refused")
    peer_says(none)
    notify("-H", "host2", "undrain")
    expect(DRAINED not in virsh("pool-dumpxml", "vms", host="host2"), "the pool there takes VMs again")
    notify("plan", "guest")


def body():
    pools(bandwidth=64)
    # It is asked once a minute, and may have been before the pools were there.
    until(lambda: peer()["pools"], "host2 to be asked for its pool", 150)
    peer_says(None)
    expect(peer()["pools"][0]["name"] == "vms" and peer()["pools"][0]["available"] > 0, f"its room: {peer()}")
    vm = guest("guest", BLOCKS, pause=3)
    log = vm.start()
    plans()
    pins()
    a_drained_peer_takes_none()

    # host1 is emptied, over a restart of either of its daemons.
    notify("pin", "guest")
    said = notify("drain")
    expect("guest stays for now" in said, f"what stays is listed: {said}")
    old = control_pid()
    run("systemctl", "restart", "virtnotify-control")
    next_daemon(old)
    expect(shown("moves")["drained"], "it is still being emptied")
    run("systemctl", "restart", "virtnotifyd")
    until(on_bus, "virtnotifyd to be heard again", 30)
    until(lambda: DRAINED in virsh("pool-dumpxml", "vms"), "its pool to say so", 30)
    expect(shown("moves")["drained"], "it is still being emptied")
    expect(states("guest") == ["running", None], "a pinned VM stays")
    notify("unpin", "guest")
    until(lambda: state("guest", host="host2") == "running" and not journal(), "the guest to leave", 300)
    say("host2", "the guest came here from the host that is emptied")
    expect(state("guest") is None and volumes() == [], "nothing of it is left on host1")
    notify("undrain")
    expect(not shown("moves")["drained"], "that is over")
    after = vm.follow(host="host2")
    verdict(after, BLOCKS)
    for follower in (log, after):
        follower.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
