#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast --hosts 1 --disk 256M
"""What operators see: objects on D-Bus that come, change and go, with busctl, which is not ours;
virt-notify's commands; policies; metrics; the account of what volumes held and the pool's curve, over a restart.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import threading
import time

from lab import (HERE, MIB, Lines, control_pid, daemon_pid, expect, make_pool, on_bus, pool_bytes, remove_pool_data, run,
                 say, test, until, vg_free, virsh, volume_bytes)

BUS, ROOT = "org.virtnotify1", "/org/virtnotify1"
POOL, VOLUME = f"{ROOT}/pool/vms", f"{ROOT}/volume/vms/disk_2d0"
DISK = "/dev/notify/vms/disk-0"
CONFIG, METRICS = "/etc/virtnotify/virtnotify.toml", "/var/lib/virtnotify/test.prom"


def notify(*words, check=True):
    return run("virt-notify", *words, check=check)


def busctl(*words, check=True):
    return run("busctl", "--json=short", *words, check=check)


def get(path, interface, name):
    return json.loads(busctl("get-property", BUS, path, f"{BUS}.{interface}", name))["data"]


def call(path, interface, method, *words, check=True):
    return busctl("call", BUS, path, f"{BUS}.{interface}", method, *words, check=check)


def follow():
    """All signals: (path, name, arguments)."""
    def parse(line):
        message = json.loads(line)
        if message["type"] != "signal":
            return None
        return message["path"], message["member"], message["payload"]["data"]
    lines = Lines("busctl", "--system", "--json=short", "monitor", BUS, parse=parse)
    # It says nothing when it listens: asked to tell something until it is heard.
    while not lines.items:
        call(POOL, "Pool", "Refresh")
        virsh("vol-create-as", "vms", "hear", "4M")
        virsh("vol-delete", "hear", "vms")
    return lines


def write(mib):
    run("dd", "if=/dev/urandom", f"of={DISK}", "bs=1M", f"count={mib}", "oflag=direct", "conv=notrunc")


def objects_come_and_change(signals):
    virsh("vol-create-as", "vms", "disk-0", "256M")
    signals.wait(lambda s: s[1] == "InterfacesAdded" and s[2][0] == VOLUME, "the volume's object", 20)
    path = json.loads(call(ROOT, "Manager", "GetVolume", "ss", "vms", "disk-0"))["data"][0]
    expect(path == VOLUME, f"GetVolume says {path}")
    expect(get(VOLUME, "Volume", "Path") == DISK and get(VOLUME, "Volume", "Pool") == POOL, "it knows what it is")
    write(24)
    allocation = volume_bytes("vms", "disk-0")[1]
    expect(allocation >= 24 * MIB, f"24 MiB were written, and it holds {allocation}")

    def grown(signal):
        path, name, arguments = signal
        return (path == VOLUME and name == "PropertiesChanged"
                and arguments[1].get("Allocation", {}).get("data") == allocation)
    signals.wait(grown, "the volume's new allocation", 20)
    signals.wait(lambda s: s[0] == POOL and s[1] == "PropertiesChanged", "the pool's new numbers", 20)
    signals.wait(lambda s: s[1] == "VolumeGrown" and s[2][1] == "disk-0" and s[2][3] == allocation, "the growth", 20)
    told = [s for s in signals.items if s[1] == "VolumeGrown" and s[2][1] == "disk-0"]
    expect(sum(s[2][2] for s in told) == allocation, f"the growths add up to {allocation}: {told}")
    say("D-Bus", f"{VOLUME} came, and holds {allocation // MIB} MiB after {len(told)} growths")


def methods(signals):
    before = volume_bytes("vms", "disk-0")[1]
    call(VOLUME, "Volume", "Reserve", "tt", str(128 * MIB), str(16 * MIB))
    reserved = volume_bytes("vms", "disk-0")[1]
    expect(reserved >= before + 16 * MIB, f"16 MiB are reserved: {before} became {reserved}")
    # The headroom that this took is filled again.
    until(lambda: vg_free("vg0") == (time.sleep(1), vg_free("vg0"))[1], "the pool to take no more of the group", 30)
    free = vg_free("vg0")
    job = json.loads(call(POOL, "Pool", "Reclaim"))["data"][0]
    # It may have ended before its object is there.
    signals.wait(lambda s: s[1] == "InterfacesAdded" and s[2][0] == job, "the job's object", 20)
    began = next(s for s in signals.items if s[1] == "InterfacesAdded" and s[2][0] == job)
    if began[2][1][f"{BUS}.Job"]["State"]["data"] == "running":
        signals.wait(lambda s: s[0] == job and "State" in s[2][1], "the job to end", 60)
    expect(get(job, "Job", "State") == "done", f"it is done, not {get(job, 'Job', 'State')}")
    say("D-Bus", f"Reclaim: {get(job, 'Job', 'Freed') // MIB} MiB from volumes, "
                 f"{get(job, 'Job', 'ToGroup') // MIB} MiB to the group")
    expect(vg_free("vg0") >= free, "the group has not less than before")
    expect(volume_bytes("vms", "disk-0")[1] >= before - 16 * MIB, "what was written stays")
    figures = dict(json.loads(call(VOLUME, "Volume", "Statistics"))["data"][0])
    expect(figures["waits"] > 0 and figures["written"] >= 24 * MIB, f"writes have waited: {figures}")
    for path, interface, method, *words in [
            (POOL, "Pool", "Reclaim"), (VOLUME, "Volume", "Reserve", "tt", "0", "1"),
            (ROOT, "Manager", "Migrate", "ss", "nobody", "")]:
        line = ["busctl", "call", BUS, path, f"{BUS}.{interface}", method, *words]
        done = run("runuser", "-u", "nobody", "--", *line, check=False)
        expect(done.returncode != 0, f"nobody may {method}")
        expect("org.virtnotify1.manage" in done.stderr, f"it is said why: {done.stderr}")
    looks = run("runuser", "-u", "nobody", "--", "busctl", "get-property", BUS, VOLUME, f"{BUS}.Volume", "State")
    expect(looks.strip() == 's "active"', f"everybody may look: {looks}")


def flood():
    """A user who may manage nothing asks thousands of times at once: it costs the daemons few threads (the stacks of
    virtnotifyd's are locked in memory), and root is answered meanwhile."""
    pids = [daemon_pid(), control_pid()]

    def threads():
        return [len(os.listdir(f"/proc/{pid}/task")) for pid in pids]
    before, seen, over = threads(), [], threading.Event()

    def watch():
        while not over.wait(0.02):
            seen.append(threads())
    watching = threading.Thread(target=watch)
    watching.start()
    # The user may not read where the tests are.
    ask = ["runuser", "-u", "nobody", "--", "python3", "-", "40", "100"]
    with (open(f"{HERE}/flood.py", encoding="ascii") as program,
          subprocess.Popen(ask, stdin=program, stdout=subprocess.PIPE, text=True) as asking):
        times = []
        while asking.poll() is None:
            began = time.monotonic()
            call(ROOT, "Manager", "Usage", "t", "0")
            times.append(time.monotonic() - began)
        kinds = {kind: int(count) for kind, count in (line.split() for line in asking.stdout)}
        expect(asking.returncode == 0, f"it was answered: {asking.returncode}")
    over.set()
    watching.join()
    most = [max(counts) for counts in zip(*seen)]
    say("nobody", f"4000 questions at once: {kinds}; {before} threads before in virtnotifyd and virtnotify-control, "
                  f"{most} at most; root was answered {len(times)} times meanwhile, in {max(times):.1f} s at most")
    limits = [f"{of}.Error.LimitsExceeded" for of in (BUS, "org.freedesktop.DBus")]
    expect(sum(kinds.get(kind, 0) for kind in ("answer", *limits)) == 4000,
           f"each is answered or refused for its number: {kinds}")
    expect(kinds.get("answer", 0) > 0 and kinds.get(limits[0], 0) > 0, f"some are, and some are not: {kinds}")
    # A thread that has answered stays for ten seconds, and others come meanwhile.
    expect(all(now <= then + 16 for then, now in zip(before, most)), f"{before} threads became {most}")
    # Behind all of them it would be answered once, at the end. The bus itself takes seconds to pass on so many.
    expect(len(times) > 3 and max(times) < 30, f"root does not wait behind them: {times}")


def commands():
    status = json.loads(notify("status", "--json"))
    pool = next(pool for pool in status["pools"] if pool["name"] == "vms")
    volume = pool["volumes"][0]
    allocation = volume_bytes("vms", "disk-0")[1]
    expect(volume["allocation"] == allocation, f"status and libvirt agree: {volume}")
    expect(24 * MIB <= volume["written"] <= allocation, f"what is written is known: {volume}")
    expect((pool["capacity"], pool["allocation"], pool["available"]) == pool_bytes("vms"), f"the pool as well: {pool}")
    expect(volume["growth_rate"] > 0 and pool["time_to_full"] > 0, "it grew a moment ago")
    print(notify("status"), flush=True)
    top = notify("top", "-n", "1")
    expect("vms/disk-0" in top and "\x1b" not in top, f"top is plain where there is no terminal: {top}")
    drawn = run("env", "TERM=xterm", "script", "-qec", "virt-notify top -n 2", "/dev/null")
    expect(drawn.count("\x1b[H") == 2 and "q ends" in drawn, f"top draws over a terminal's screen: {drawn!r}")
    mapped = json.loads(notify("map", "vms/disk-0", "--json"))
    total = sum(run["count"] for run in mapped["runs"]) * mapped["chunk_bytes"]
    expect(total == allocation, f"the map has {total} bytes of {allocation}")
    notify("map", "vms/disk-0", "--svg", "/tmp/map.svg")
    expect(run("head", "-c", "4", "/tmp/map.svg") == "<svg", "the map can be drawn")
    expect("disk-0: " in notify("map", "vms/disk-0"), "and printed")
    done = notify("migrate", "nobody", check=False)
    expect(done.returncode == 3 and "no such VM" in done.stderr, f"only VMs move: {done}")
    expect(notify("check", "vms").endswith("nothing is wrong\n"), "nothing is wrong")


def policy_and_volumes():
    """A policy is changed setting by setting, now and in the definition; what cannot be changes nothing. Volumes are made,
    cloned and resized on D-Bus, and libvirt finds them."""
    before = json.loads(notify("policy", "get", "vms", "--json"))
    notify("policy", "set", "vms", "low-mark=7%", "movable=no", "overcommit=1.5")
    now = json.loads(notify("policy", "get", "vms", "--json"))
    expect((now["low-mark"], now["movable"], now["overcommit"]) == ("7%", False, 1.5), f"it is changed: {now}")
    defined = virsh("pool-dumpxml", "--inactive", "vms")
    expect("action='warn'>7</notify:lowMark>" in defined, f"and so is the definition: {defined}")
    for wrong in ["low-mark=101%", "lowmark=1", "growth-most=0"]:
        done = notify("policy", "set", "vms", "movable=yes", wrong, check=False)
        expect(done.returncode == 3, f"{wrong} is refused: {done}")
    expect(json.loads(notify("policy", "get", "vms", "--json")) == now, "and nothing is changed then")
    log = run("journalctl", "-u", "virtnotify-control", "-o", "cat")
    expect("has changed the policy of 'vms': low-mark=7%" in log, "it is logged with its user")
    limit = f"overcommit={before['overcommit']}" if "overcommit" in before else "overcommit=none"
    notify("policy", "set", "vms", f"low-mark={before['low-mark']}", "movable=yes", limit)

    made = json.loads(call(POOL, "Pool", "CreateVolume", "sta{sv}", "made", str(8 * MIB), "0"))["data"][0]
    until(lambda: made in run("busctl", "tree", "--list", BUS).split(), "the volume's object", 20)
    call(made, "Volume", "Clone", "sa{sv}", "copy", "0")
    call(made, "Volume", "Resize", "ta{sv}", str(16 * MIB), "0")
    expect(volume_bytes("vms", "made")[0] == 16 * MIB, "libvirt sees its size")
    expect(volume_bytes("vms", "copy")[0] == 8 * MIB, "and the clone, which has the old one")
    again = call(POOL, "Pool", "CreateVolume", "sta{sv}", "made", str(8 * MIB), "0", check=False)
    expect(again.returncode != 0 and "there is a volume 'made' already" in again.stderr, f"it is there: {again}")
    for volume in ("copy", "made"):
        virsh("vol-delete", volume, "vms")
    expect(notify("retry") == "no VM waits for space\n", "nothing waits")


def rows(text):
    return {row["volume"]: row for row in csv.DictReader(io.StringIO(text))}


def curve():
    return json.loads(notify("history", "vms", "--json"))["points"]


def storage_up(value):
    """Waits until the metrics say whether virtnotifyd runs."""
    until(lambda: run("grep", "-x", f"virtnotify_storage_up {value}", METRICS, check=False).returncode == 0,
          f"virtnotify_storage_up to be {value}", 30)


def restarted_with_metrics():
    """virtnotify-control is restarted: with metrics, and with the account it had. Then virtnotifyd is, and that it does
    not run meanwhile is told."""
    with open(CONFIG, encoding="utf-8") as file:
        before = file.read()
    # By the minute.
    until(curve, "a point of the pool's curve", 90)
    noted = curve()[0]
    expect(noted["capacity"] == pool_bytes("vms")[0], f"it is the pool's: {noted}")
    used = rows(notify("usage", "--format", "csv"))
    expect(used["disk-0"]["domain"] == "" and used["disk-0"]["volume_uuid"], f"no VM has it: {used}")
    try:
        with open(CONFIG, "a", encoding="utf-8") as file:
            file.write(f'\n[metrics]\ntextfile = "{METRICS}"\ninterval = 1\n')
        run("systemctl", "restart", "virtnotify-control")
        written = Lines("sh", "-c", f"while ! grep -qs disk-0 {METRICS}; do sleep 0.2; done; cat {METRICS}")
        size = r'virtnotify_volume_allocated_bytes\{pool="vms",volume="disk-0"\} (\d+)'
        line = written.wait(lambda line: re.match(size, line), "the volume's metrics", 30)
        expect(int(re.match(size, line)[1]) == volume_bytes("vms", "disk-0")[1], f"they are right: {line}")
        counted = r'virtnotify_volume_write_wait_seconds_count\{.*\} [1-9]'
        written.wait(lambda line: re.match(counted, line), "the histogram of waits", 10)
        written.close()
        expect(curve()[0] == noted, f"the curve goes on: {curve()}")
        again = rows(notify("usage", "--since", "1d", "--format", "csv"))
        expect(int(again["disk-0"]["byte_hours"]) >= int(used["disk-0"]["byte_hours"]), f"the account goes on: {again}")
        expect(json.loads(notify("usage", "--json"))["used"], "and is JSON as well")
        say("metrics", f"{line}; {again['disk-0']['byte_hours']} byte-hours")
        storage_up(1)
        run("systemctl", "stop", "virtnotifyd")
        storage_up(0)
        expect(get(ROOT, "Manager", "StorageRuns") is False, "D-Bus says so as well")
        expect(get(POOL, "Pool", "Active") is True and get(VOLUME, "Volume", "Path") == DISK,
               "pool and volume are shown as they were")
        run("systemctl", "start", "virtnotifyd")
        storage_up(1)
        expect(get(ROOT, "Manager", "StorageRuns") is True, "D-Bus says so as well")
        last = rows(notify("usage", "--since", "1d", "--format", "csv"))
        expect(int(last["disk-0"]["byte_hours"]) >= int(again["disk-0"]["byte_hours"]), f"the account goes on: {last}")
    finally:
        with open(CONFIG, "w", encoding="utf-8") as file:
            file.write(before)
        run("systemctl", "start", "virtnotifyd")
        run("systemctl", "restart", "virtnotify-control")
        until(on_bus, "the daemons on D-Bus", 30)
        if os.path.exists(METRICS):
            os.unlink(METRICS)


def programs_are_told():
    """The unit runs an operator's program, as nobody in particular, for what happens."""
    program, drop_in = "/etc/virtnotify/notify.d/tell", "/run/systemd/system/virtnotify-notify.service.d"
    with open(program, "w", encoding="ascii") as file:
        file.write('#!/bin/sh\necho "$(id -u) $VIRTNOTIFY_SEVERITY $VIRTNOTIFY_VOLUME $(cat)"\n')
    os.chmod(program, 0o755)
    os.makedirs(drop_in)
    with open(f"{drop_in}/test.conf", "w", encoding="ascii") as file:
        file.write("[Service]\nEnvironment=SEVERITY=info\n")
    run("systemctl", "daemon-reload")
    # The packages' scripts, which did not run on this host, make the user.
    run("systemd-sysusers", "virtnotify.conf")
    run("systemctl", "start", "virtnotify-notify")

    def lines():
        virsh("vol-create-as", "vms", "told", "4M")
        virsh("vol-delete", "told", "vms")
        said = run("journalctl", "-u", "virtnotify-notify", "-o", "cat").splitlines()
        return [line for line in said if '"signal":"VolumeCreated"' in line]

    until(lines, "a program to be told", 30)
    first = lines()[0]
    user, severity, volume, event = first.split(" ", 3)
    own = run("id", "-u", "virtnotify-notify").strip()
    expect((user, severity, volume) == (own, "info", "told"), f"its own user, and the event: {first}")
    expect(json.loads(event)["pool"] == "vms", f"the event: {event}")
    run("systemctl", "stop", "virtnotify-notify")
    os.unlink(program)
    shutil.rmtree(drop_in)
    run("systemctl", "daemon-reload")
    say("D-Bus", f"a program of the user {user} was told of it")


def body():
    make_pool()
    expect(get(POOL, "Pool", "Active") is True, "the pool's object is there")
    signals = follow()
    objects_come_and_change(signals)
    methods(signals)
    flood()
    commands()
    policy_and_volumes()
    restarted_with_metrics()
    events = Lines("virt-notify", "events", "--follow", "--json", parse=json.loads)
    while not events.items:
        virsh("vol-create-as", "vms", "hear", "4M")
        virsh("vol-delete", "hear", "vms")
    expect(events.items[0]["pool"] == "vms", f"events are named: {events.items[0]}")
    events.close()
    programs_are_told()
    virsh("vol-delete", "disk-0", "vms")
    signals.wait(lambda s: s[1] == "InterfacesRemoved" and s[2][0] == VOLUME, "the volume's object to go", 20)
    virsh("pool-destroy", "vms")
    expect(get(POOL, "Pool", "Active") is False, "the pool is shown as it is")
    virsh("pool-undefine", "vms")
    remove_pool_data("vms")
    signals.wait(lambda s: s[1] == "InterfacesRemoved" and s[2][0] == POOL, "the pool's object to go", 20)
    signals.close()
    say("D-Bus", "what is gone is gone there, too")


if __name__ == "__main__":
    test(body, needs_host2=False)
