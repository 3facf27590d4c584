#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast --hosts 1
"""Where libvirt asks polkit about each pool and volume, it is asked about ours, and answers for both alike.

A user who is not root has one pool of ours and one of libvirt's; of either sort there is another one that
the user has not; in the one that it has there is a volume that it does not see, and one that it may only look
at. What is denied is denied by libvirt's own sentence, or not shown; also through virtqemud, when polkit does
not run, and to a client that has stayed while libvirt's daemon was stopped.
"""

import os

from lab import Client, expect, make_pool, remove_pool, run, say, test, until, virsh

USER = "nobody"
AS_USER = ("runuser", "-u", USER, "--")
STORAGED = "/etc/libvirt/virtstoraged.conf"
RULES = "/etc/polkit-1/rules.d/00-lab.rules"
PROXY = "virtnotify-proxy.service"
# Its service is stopped with its sockets, which would start it again.
SOCKETS = ("virtstoraged.socket", "virtstoraged-ro.socket", "virtstoraged-admin.socket")
DENIED = "access denied: 'storage' denied access"
RULE = """
polkit.addRule(function(action, subject) {
    if (subject.user != "%(user)s") { return polkit.Result.NOT_HANDLED; }
    if (action.id.indexOf("org.libvirt.unix.") == 0) { return polkit.Result.YES; }
    if (action.id.indexOf("org.libvirt.api.") != 0) { return polkit.Result.NOT_HANDLED; }
    if (action.id.indexOf("org.libvirt.api.connect.") == 0) { return polkit.Result.%(connect)s; }
    var pool = action.lookup("pool_name");
    if (pool != "vms" && pool != "plain") { return polkit.Result.NO; }
    var volume = action.lookup("vol_name");
    if (volume == "disk2") {
        var looks = ["org.libvirt.api.storage-vol.getattr", "org.libvirt.api.storage-vol.read"];
        return looks.indexOf(action.id) >= 0 ? polkit.Result.YES : polkit.Result.NO;
    }
    return volume == "disk1" ? polkit.Result.NO : polkit.Result.YES;
});
"""


def rule(connect="YES"):
    """What polkit is told from now on."""
    with open(RULES, "w", encoding="ascii") as file:
        file.write(RULE % {"user": USER, "connect": connect})
    os.chmod(RULES, 0o644)
    polkit_again()


def polkit_again():
    # It is started more often than systemd finds good.
    run("systemctl", "reset-failed", "polkit.service", check=False)
    run("systemctl", "restart", "polkit.service")


def asks(lines):
    """libvirt's storage daemon is told to ask, or no longer."""
    with open(STORAGED, "w", encoding="utf-8") as file:
        file.write(lines)
    run("systemctl", "restart", "virtstoraged.service")


def user(*words, uri="storage:///system"):
    """virsh of the user, whatever it says."""
    return run(*AS_USER, "virsh", "-q", "-c", uri, *words, check=False)


def may(*words, uri="storage:///system"):
    """virsh of the user, which must work."""
    done = user(*words, uri=uri)
    expect(done.returncode == 0, f"{USER} may not `{' '.join(words)}`: {done.stderr.strip()}")
    return done.stdout


def may_not(*words, says=DENIED, uri="storage:///system"):
    """virsh of the user, which must be refused with that sentence."""
    done = user(*words, uri=uri)
    expect(done.returncode != 0, f"{USER} may `{' '.join(words)}`")
    expect(says in done.stderr, f"`{' '.join(words)}` said '{done.stderr.strip()}', not '{says}'")
    return done.stderr


def names(*words, uri="storage:///system"):
    """The first word of each line that the user sees."""
    return {line.split()[0] for line in may(*words, uri=uri).splitlines() if line.split()}


def pools():
    """What is denied of ours is denied as of libvirt's."""
    expect(names("pool-list", "--all") == {"vms", "plain"}, f"the user sees {names('pool-list', '--all')}")
    for words in (("pool-info",), ("pool-dumpxml",), ("vol-list",), ("pool-undefine",), ("pool-start",)):
        ours, theirs = (may_not(*words, pool) for pool in ("closed", "hidden"))
        expect(ours.replace("closed", "hidden") == theirs, f"of ours: {ours} of libvirt's: {theirs}")
    may("pool-refresh", "vms")
    define = ("pool-define-as", "another", "notify", "--source-name", "vg8")
    may_not(*define)
    may_not("pool-define-as", "closed", "dir", "--target", "/var/tmp/closed")
    expect("another" not in virsh("pool-list", "--all"), "it was not defined")
    say("virsh", f"pool-info of either: {may_not('pool-info', 'closed').splitlines()[-1]}")


def volumes():
    expect(names("vol-list", "vms") == {"disk0", "disk2"}, f"the user sees {names('vol-list', 'vms')}")
    may("vol-info", "disk0", "vms")
    may("vol-create-as", "vms", "made", "8M")
    may("vol-delete", "made", "vms")
    # virsh looks for it by its name, its key and its path, and tells how the last one ended.
    for words in (("vol-info", "disk1", "vms"), ("vol-path", "/dev/notify/vms/disk1"), ("vol-delete", "disk1", "vms")):
        may_not(*words, says="no storage vol with matching path")
    may("vol-info", "disk2", "vms")
    for words in (("vol-delete", "disk2", "vms"), ("vol-resize", "disk2", "80M", "--pool", "vms"),
                  ("vol-wipe", "disk2", "--pool", "vms"),
                  ("vol-download", "disk2", "/dev/null", "--pool", "vms"),
                  ("vol-clone", "disk2", "copy", "--pool", "vms"),
                  ("vol-create-as", "vms", "copy", "80M", "--backing-vol", "disk2")):
        may_not(*words)
    with open("/tmp/copy.xml", "w", encoding="ascii") as file:
        file.write("<volume><name>copy</name><capacity unit='MiB'>64</capacity>"
                   "<backingStore><path>/dev/notify/vms/disk1</path></backingStore></volume>")
    os.chmod("/tmp/copy.xml", 0o644)
    may_not("vol-create", "vms", "/tmp/copy.xml")
    os.unlink("/tmp/copy.xml")
    seen = {line.split()[0] for line in virsh("-q", "vol-list", "vms").splitlines() if line.split()}
    expect(seen == {"disk0", "disk1", "disk2"}, f"root sees {seen}")


def through_virtqemud():
    """It acts for the user, who is asked about and not virtqemud."""
    uri = "qemu:///system"
    expect(names("pool-list", "--all", uri=uri) == {"vms", "plain"}, "the same pools")
    expect(names("vol-list", "vms", uri=uri) == {"disk0", "disk2"}, "the same volumes")
    may_not("pool-info", "closed", uri=uri)
    may("vol-info", "disk0", "vms", uri=uri)


def without_polkit():
    """A client that is in is denied what polkit does not answer. (libvirt's own daemon then lets nobody in, root neither.)"""
    client = Client(*AS_USER)
    expect("running" in client.ask("pool-info vms"), "the user has the pool")
    run("systemctl", "mask", "--runtime", "--now", "polkit.service")
    expect(DENIED in client.ask("pool-info vms"), "nothing without an answer")
    expect("vms" not in client.ask("pool-list --all"), "and nothing is shown")
    log = run("journalctl", "-q", "-u", PROXY, "-n", "20", "-o", "cat")
    expect("polkit does not answer" in log, f"the log says so: {log}")
    run("systemctl", "unmask", "--runtime", "polkit.service")
    run("systemctl", "start", "polkit.service")
    until(lambda: "running" in client.ask("pool-info vms"), "polkit to be asked again", 30)
    client.close()
    say("polkit", "without it everything is denied, and it is asked again when it is back")


def without_libvirts_daemon():
    """A client that is in stays guarded while libvirt's daemon does not run, and when it does again. Without that daemon
    nothing is denied that was allowed of ours, and nothing allowed that was denied."""
    client = Client(*AS_USER)
    expect("running" in client.ask("pool-info vms"), "the user has the pool")
    run("systemctl", "stop", *SOCKETS, "virtstoraged.service")

    def guarded(when):
        """What of ours the user may do and may not do."""
        expect("running" in client.ask("pool-info vms"), f"{when} the user has the pool")
        expect(DENIED in client.ask("pool-info closed"), f"{when} and not the other one")
        said = client.ask("vol-create-as vms made 8M")
        expect("8.00 MiB" in client.ask("vol-info made vms"), f"{when} a volume is made: {said}")
        said = client.ask("vol-delete made vms")
        expect("error" not in said, f"{when} and deleted: {said}")
        expect(DENIED in client.ask("vol-delete disk2 vms"), f"{when} not one that may only be looked at")

    guarded("without libvirt's daemon")
    run("systemctl", "start", *SOCKETS)

    def seen():
        """Pools in what virsh says, which has its prompts among them."""
        return {"vms", "closed", "plain", "hidden"} & set(client.ask("pool-list --all --name").split())

    until(lambda: seen() == {"vms", "plain"}, "the same pools to be shown when libvirt's daemon is back", 30)
    guarded("when it is back")
    expect(DENIED in client.ask("pool-info hidden"), "libvirt's daemon knows whom it is asked for")
    client.close()
    say("virtstoraged", "a client that stayed while it was stopped is asked about as before")


def nobody_may_open():
    rule(connect="NO")
    may_not("pool-list")
    expect("vms" in virsh("-c", "storage:///system", "pool-list"), "root may")
    rule()
    may("pool-list")


def body():
    make_pool()
    virsh("pool-define-as", "closed", "notify", "--source-name", "vg9")
    for pool in ("plain", "hidden"):
        os.makedirs(f"/var/tmp/{pool}")
        virsh("pool-define-as", pool, "dir", "--target", f"/var/tmp/{pool}")
    virsh("pool-start", "plain")
    for volume in ("disk0", "disk1", "disk2"):
        virsh("vol-create-as", "vms", volume, "64M")
    there = os.path.exists(STORAGED)
    before = ""
    if there:
        with open(STORAGED, encoding="utf-8") as file:
            before = file.read()
    rule()
    expect(names("pool-list", "--all") == {"vms", "plain", "closed", "hidden"}, "without it the user sees all")
    asks('access_drivers = [ "polkit" ]\n' + before)
    pools()
    volumes()
    through_virtqemud()
    without_polkit()
    without_libvirts_daemon()
    nobody_may_open()
    asks(before)
    if not there:
        os.unlink(STORAGED)
    expect(names("pool-list", "--all") == {"vms", "plain", "closed", "hidden"}, "and without it all of them again")
    os.unlink(RULES)
    polkit_again()
    for pool in ("plain", "hidden"):
        # libvirt takes a directory that is there for a pool that is active.
        run("virsh", "pool-destroy", pool, check=False)
        virsh("pool-undefine", pool)
        os.rmdir(f"/var/tmp/{pool}")
    virsh("pool-undefine", "closed")
    for volume in ("disk0", "disk1", "disk2"):
        virsh("vol-delete", volume, "vms")
    remove_pool("vms")


test(body, needs_host2=False)
