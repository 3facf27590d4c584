# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of moves share: two pools, a guest that will not fit on host1, and what must hold
after whatever happened to it."""

from lab import (MIB, Guest, control_pid, disk, expect, on_bus, pool_bytes, remove_pool, run, say, until, vg_free,
                 virsh)

CHUNK = 4 * MIB
# So slow that a move takes long enough to be disturbed, and still ends within a test's time.
BANDWIDTH = 12

POOL = """<pool type='notify' xmlns:notify='https://virtnotify.org/xmlns/pool/1.0'>
  <name>vms</name><source><name>vg0</name></source><target><path>/dev/notify/vms</path></target>
  <notify:policy>{low}<notify:full action='{full}'/>
    <notify:migration allowed='yes'><notify:bandwidth unit='MiB'>{bandwidth}</notify:bandwidth></notify:migration>
  </notify:policy></pool>"""


def plan(blocks, pause=0):
    """Writes these blocks of 1 MiB with so many seconds between them, then reads all of them back."""
    words = " ".join(map(str, blocks))
    return (f"for block in {words}; do write $block; sleep {pause}; done\n"
            "echo 3 > /proc/sys/vm/drop_caches\n"
            f"for block in {words}; do check $block; done\n")


def timed_plan(blocks, pause=0):
    """As plan(), and tells the longest that a write took by the guest's own clock, in ms."""
    writing = f"""
now() {{ read up idle </proc/uptime; echo "${{up%.*}}${{up#*.}}"; }}
longest=0
for block in {" ".join(map(str, blocks))}; do
    before=$(now); write $block; took=$(($(now) - before))
    [ $took -le $longest ] || longest=$took
    sleep {pause}
done
tell "longest write ${{longest}}0 ms"
"""
    return writing + plan(blocks).split("\n", 1)[1]


def longest_write(*logs):
    """What a guest with a timed plan said of its longest write, on whichever host it was then."""
    return next(line for log in logs for line in log.items if line.startswith("longest"))


def pools(full="migrate", low="", bandwidth=BANDWIDTH):
    """The pool `vms` on both hosts, with that policy."""
    text = POOL.format(full=full, low=low, bandwidth=bandwidth)
    with open("/tmp/pool.xml", "w", encoding="ascii") as file:
        file.write(text)
    run("scp", "-q", "/tmp/pool.xml", "host2:/tmp/pool.xml")
    for host in (None, "host2"):
        virsh("pool-define", "/tmp/pool.xml", host=host)
        virsh("pool-start", "vms", host=host)


def leave(room):
    """A logical volume of others takes all of host1's volume group but so much, with what the pool
    has ready already."""
    available, free = pool_bytes("vms")[2], vg_free("vg0")
    taken = min(available - room, free) // CHUNK * CHUNK
    run("lvcreate", "--yes", "-Wn", "-L", f"{taken}b", "-n", "other", "vg0")
    virsh("pool-refresh", "vms")
    say("host1", f"the pool has room for {pool_bytes('vms')[2] // MIB} MiB")


def guest(name, blocks, volume="disk0", size="512M", pause=0):
    """A guest with a new volume that writes these blocks; with pauses, for a guest that is to write
    longer than a move lasts."""
    virsh("vol-create-as", "vms", volume, size)
    return Guest(name, plan(blocks, pause), disk("vms", volume), seen=lambda line: tell(name, line))


def tell(name, line):
    """Single writes are not worth a line each."""
    if not line.startswith("wrote") or line.endswith("0"):
        say(name, line)


def narrate(item):
    """Signals worth a line."""
    name, words = item
    if name in ("SpaceExhausted", "SpaceAvailable", "SpaceLow", "Resumed", "Warning", "Damage"):
        say("D-Bus", f"{name} {words}")
    elif name in ("MoveStarted", "MoveFinished", "MoveFailed"):
        say("D-Bus", f"{name} {words[0]} to {words[5]} {words[7:]}")


def state(name, host=None):
    """`running`, `paused`, ... or None when that host does not know the VM."""
    done = virsh("domstate", name, host=host, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def states(name):
    """What libvirt says of the VM on host1 and on host2."""
    return [state(name), state(name, host="host2")]


def volumes(host=None):
    """The names of the pool's volumes."""
    words = virsh("vol-list", "vms", host=host).split()
    return [word for word in words if f"/dev/notify/vms/{word}" in words]


def journal():
    """The records of moves that are not over."""
    return run("find", "/var/lib/virtnotify/moves", "-name", "*.json").split()


def next_daemon(old):
    """Waits until systemd has started another virtnotify-control than that process, and it has virtnotifyd behind it."""
    until(lambda: control_pid() not in (0, old) and on_bus(), "the next virtnotify-control", 30)


def in_mid_copy(signals):
    """Waits until a move is copying."""
    signals.wait_for("MoveStarted", 180)
    signals.wait(lambda item: item[0] == "MoveProgress" and 0 < item[1][-2] < item[1][-1], "some progress", 90)


def failed(signals, says):
    """The next failure of a move has a reason that holds `says`; nothing of the move is left."""
    reason = signals.wait_for("MoveFailed", 120)[-1]
    expect(says in reason, f"the reason has '{says}': {reason}")
    until(lambda: not journal(), "the move to be over", 60)
    signals.close()


def verdict(log, blocks):
    """All blocks right, nothing in the guest's own log."""
    done = log.wait(lambda line: line.startswith("done"), "the guest to finish", 300)
    expect(done == f"done, {len(blocks)} right, 0 wrong, 0 errors in its log", f"the guest says: {done}")


def arrived(name, volume="disk0"):
    """Nothing of the VM is left on host1, nothing too much is on host2."""
    until(lambda: not journal(), "the move to be over", 60)
    expect(state(name) is None, f"{name} is gone from host1")
    expect(volume not in volumes(), f"{volume} is gone from host1")
    there = volumes(host="host2")
    expect(volume in there and not any(v.startswith("move-") for v in there), f"host2 has {there}")


def moved(vm, blocks, signals, *logs):
    """Waits for the end of its move: the VM is whole on host2, and nothing of it is here. Ends the
    followers and takes everything away."""
    signals.wait_for("MoveFinished", 400)
    log = vm.follow(host="host2")
    verdict(log, blocks)
    arrived(vm.name)
    for follower in (*logs, log, signals):
        follower.close()
    clean_up(vm.name)


def clean_up(*names):
    """Takes everything away, wherever it is."""
    for host in (None, "host2"):
        for name in names:
            # One that is just shutting down goes by itself.
            if name in virsh("list", "--name", host=host).split():
                virsh("destroy", name, host=host, check=False)
                expect(name not in virsh("list", "--name", host=host).split(), f"{name} has ended")
            if name in virsh("list", "--all", "--name", host=host).split():
                virsh("undefine", name, host=host)
        for volume in volumes(host=host):
            virsh("vol-delete", volume, "vms", host=host)
        remove_pool("vms", host=host)
        if "other" in run("lvs", "--noheadings", "-o", "lv_name", "vg0", host=host).split():
            run("lvremove", "--yes", "vg0/other", host=host)
