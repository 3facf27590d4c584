#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""A VM without space and no peer that can take it, each time for another reason: none is configured,
another hypervisor's, no pool, a stopped pool, a full one, no answer, silence; and libvirt would not let it go,
since it has a snapshot of its own. It stays where it is,
paused, each reason is told in one sentence, and nothing is made on the peer. In the end it moves.
"""

from lab import MIB, Signals, expect, kill_control, run, say, test, virsh
from moves import arrived, clean_up, failed, guest, leave, narrate, pools, state, verdict

BLOCKS = [*range(0, 160, 4)]
CONFIG = "/etc/virtnotify/virtnotify.toml"


def peer(uri):
    """The only peer there is."""
    return f'[[peer]]\nname = "host2"\nuri = "{uri}"\n'


# libvirt knows of it, and nothing else is made: it is redefined.
SNAPSHOT = """<domainsnapshot><name>old</name><creationTime>1700000000</creationTime><state>shutoff</state>
  <disks><disk name='vda' snapshot='internal'/></disks>{domain}</domainsnapshot>"""


def has_snapshot():
    """The VM has a snapshot of libvirt's own: no peer is asked."""
    with open("/tmp/snapshot.xml", "w", encoding="ascii") as file:
        file.write(SNAPSHOT.format(domain=virsh("dumpxml", "--inactive", "guest")))
    virsh("snapshot-create", "guest", "/tmp/snapshot.xml", "--redefine")
    told("is silent, and libvirt has a snapshot of the VM", "it has snapshots of libvirt's own")
    virsh("snapshot-delete", "guest", "old", "--metadata")


def told(what, says, config=None):
    """A mover that starts now says why the VM stays, once, and the VM does."""
    say("host1", f"the peer: {what}")
    if config is not None:
        with open(CONFIG, "w", encoding="ascii") as file:
            file.write(config)
    signals = Signals(seen=narrate)
    kill_control()
    failed(signals, says)
    expect(state("guest") == "paused", "it is on host1, paused")
    expect(len(signals.all("MoveFailed")) == 1, "it is told once")


def body():
    with open(CONFIG, encoding="ascii") as file:
        usual = file.read()
    pools()
    vm = guest("guest", BLOCKS)
    leave(80 * MIB)
    with open(CONFIG, "w", encoding="ascii") as file:
        file.write("# nobody\n")
    run("systemctl", "restart", "virtnotify-control")
    signals = Signals(seen=narrate)
    log1 = vm.start()
    failed(signals, "no peer is configured")
    told("a libvirt that has no VMs", "cannot look for the VM", peer("storage+ssh://host2/system"))
    told("a host that nobody knows", "cannot be reached", peer("qemu+ssh://nobody.invalid/system"))
    virsh("pool-destroy", "vms", host="host2")
    told("has stopped its pool", "has not started its pool 'vms'", usual)
    virsh("pool-undefine", "vms", host="host2")
    told("has no pool", "has no pool 'vms'")
    virsh("pool-define", "/tmp/pool.xml", host="host2")
    virsh("pool-start", "vms", host="host2")
    run("lvcreate", "--yes", "-Wn", "-l", "100%FREE", "-n", "other", "vg0", host="host2")
    virsh("pool-refresh", "vms", host="host2")
    told("has a full volume group", "left in its pool 'vms'")
    run("lvremove", "--yes", "vg0/other", host="host2")
    virsh("pool-refresh", "vms", host="host2")
    run("systemctl", "kill", "-s", "STOP", "virtqemud.service", host="host2")
    told("is silent", "did not answer within")
    has_snapshot()
    # Its storage daemon is not silent.
    there = run("virsh", "--connect", "storage:///system", "vol-list", "vms", host="host2")
    expect("/dev/notify/" not in there, f"nothing was made on host2: {there}")
    run("systemctl", "kill", "-s", "CONT", "virtqemud.service", host="host2")
    say("host1", "the peer: is well")
    kill_control()
    log2 = vm.follow(host="host2")
    verdict(log2, BLOCKS)
    arrived("guest")
    for follower in (log1, log2):
        follower.close()
    clean_up("guest")


if __name__ == "__main__":
    test(body)
