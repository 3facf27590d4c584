#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
# limit: 1200
"""What judges the tests of moves can fail: a VM that runs on both hosts is seen, by QEMU's times and by
KVM's counts; so is one that was booted anew where it should have arrived, and one that tells one line
of its memory twice. And a move that is none of that is not taken for it.
"""

import watcher
from lab import START, Failure, Guest, Lines, disk, expect, run, say, test, until, virsh
from moves import clean_up, pools

PLAN = "while :; do tell still here; usleep 300000; done"
SAVED = "/var/tmp/twin.save"


def fails(says, check):
    """Runs a check that has to fail, with a sentence that holds `says`."""
    try:
        check()
    except Failure as failure:
        expect(says in str(failure), f"it fails for another reason: {failure}")
        say("seen", str(failure).splitlines()[0])
        return
    raise Failure(f"nothing was said of what should have been: {says}")


def moved_alive():
    """A plain move by libvirt: the watch and the guest's token find nothing wrong with it."""
    virsh("vol-create-as", "vms", "disk0", "16M")
    guest = Guest("both", PLAN, disk("vms", "disk0"))
    log = guest.start()
    virsh("migrate", "--live", "--persistent", "--copy-storage-all", "both", "qemu+ssh://host2/system", seconds=300)
    there = guest.follow(host="host2")
    there.wait(lambda line: line == "still here", "the guest to go on", 30)
    guest.sound([None, "host2"])
    expect(len(guest.tokens) == 1, "it is alive: there is one token")
    for lines in (log, there):
        lines.close()
    return guest


def runs_twice():
    """It is still defined on host1, with its own disk there: started there it runs on both hosts."""
    watch = watcher.now
    expect(watch.check(["both"]) == "", "a plain move is nothing wrong")
    virsh("start", "both")
    reasons = ("runs on both hosts", "by QEMU's own times", "by KVM's counts")
    until(lambda: all(by in watch.check(["both"]) for by in reasons), "the watch to see it run on both hosts", 30)
    print(watch.check(["both"]), flush=True)


def booted_anew(guest):
    """What was booted on host1 is not what was started: its token says so."""
    log = guest.follow()
    fails("was booted anew on host1", lambda: log.wait(lambda line: line.startswith("up"), "a boot", 120))
    fails("was booted anew on host1", lambda: guest.sound([None, "host2"]))
    log.close()
    Lines.all.remove(log)
    for host in (None, "host2"):
        virsh("destroy", "both", host=host)


def one_memory_twice():
    """Two that go on from one saved memory tell the same lines."""
    guest = Guest("twin", PLAN, disk("vms", "disk0"))
    log = guest.start()
    virsh("save", "twin", SAVED)
    run("scp", "-q", SAVED, f"host2:{SAVED}")
    for host in (None, "host2"):
        virsh("restore", SAVED, host=host)
        run("rm", SAVED, host=host)
    there = guest.follow(host="host2")
    fails("runs twice: it told its line", lambda: until(lambda: log.sound() or there.sound(), "a refusal", 30))
    for lines in (log, there):
        lines.close()
        Lines.all.remove(lines)


def body():
    pools()
    guest = moved_alive()
    runs_twice()
    booted_anew(guest)
    one_memory_twice()
    clean_up("both", "twin")
    # All of that was wrong on purpose: the test is judged by a watch that has not seen it.
    watcher.now.stop()
    watcher.begin(START)
    Guest.all.clear()


if __name__ == "__main__":
    test(body)
