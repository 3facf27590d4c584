#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon on D-Bus for the page's tests, which speaks as docs/developer/dbus.md says and is as unkind as a real one.

Its object /mock (`org.virtnotify1.Mock`) is the test's hand: late answers, errors, methods and properties that an
older daemon lacks, growth, moves. `--alive` lets pools grow and jobs go on by the clock.
"""

import argparse
import time

import dbus
import dbus.bus
import dbus.lowlevel
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

from world import GIB, MIB, NAME, OBJECTS, PROPERTIES, ROOT, Refused, World, element, furnish, live, pool_path, typed, volume_path


CONTROL, STORAGE = "virtnotify-control.service", "virtnotifyd.service"
STATES = ["absent", "failed", "inactive", "active"]


class Methods:
    """What the page calls. A method gets (path, arguments) and answers (signature, values...)."""

    def __init__(self, world):
        self.world = world

    def volume_of(self, path):
        if path not in self.world.objects:
            raise Refused("NotFound", "there is no such volume")
        return self.world.get(path)

    def name_of(self, path):
        return self.world.get(path)["Name"]

    def TakeSnapshot(self, _path, volumes, name, _options):
        made = []
        for pool, volume in [v.split("/") for v in volumes]:
            if " " in name:
                raise Refused("InvalidArgument", f"'{name}' is no name of a snapshot: a letter or a digit belongs there")
            known = self.volume_of(volume_path(pool, volume))
            full = f"{volume}@{name}"
            if volume_path(pool, full) in self.world.objects:
                raise Refused("Failed", f"the volume '{volume}' has a snapshot '{name}' already")
            self.world.volume(pool, full, known["Capacity"], known["Allocation"], 0, volume_path(pool, volume))
            made.append(dbus.ObjectPath(volume_path(pool, full)))
        return "ao", dbus.Array(made, signature="o")

    def RollBack(self, _path, snapshot, _options):
        pool, name = snapshot.split("/")
        if "db1" in name:
            raise Refused("Failed", f"the volume '{name.split('@')[0]}' is in use")
        held = self.volume_of(volume_path(pool, name))["Allocation"]
        self.world.change(volume_path(pool, name.split("@")[0]), Allocation=held, Exclusive=0)
        return ("",)

    def DeleteSnapshot(self, _path, snapshot, _options):
        pool, name = snapshot.split("/")
        self.volume_of(volume_path(pool, name))
        self.world.remove(volume_path(pool, name))
        return ("",)

    def SetPolicy(self, path, settings, _options):
        policy = dict(self.world.get(path)["Policy"])
        for name, value in settings.items():
            if name == "low-mark" and not str(value).rstrip("%").isdigit():
                raise Refused("InvalidArgument", "malformed low-mark")
            if value == "none":
                policy.pop(name, None)
            else:
                policy[str(name)] = {"yes": True, "no": False}.get(str(value), str(value))
        self.world.change(path, Policy=policy)
        return ("",)

    def make(self, pool, name, capacity, held=0, backing="/"):
        if volume_path(pool, name) in self.world.objects:
            raise Refused("AlreadyExists", f"there is a volume '{name}' already")
        self.world.volume(pool, name, capacity, held, 0, backing)
        return "o", dbus.ObjectPath(volume_path(pool, name))

    def CreateVolume(self, path, name, capacity, _options):
        return self.make(self.name_of(path), str(name), int(capacity))

    def Clone(self, path, name, _options):
        of = self.world.get(path)
        return self.make(self.name_of(of["Pool"]), str(name), of["Capacity"], of["Allocation"], path)

    def Resize(self, path, capacity, options):
        if capacity < self.world.get(path)["Capacity"] and not options.get("shrink"):
            raise Refused("InvalidArgument", "Can't shrink capacity below current capacity unless shrink flag explicitly specified")
        self.world.change(path, Capacity=int(capacity))
        return ("",)

    def Delete(self, path, options):
        name = self.name_of(path)
        below = [p for p in self.world.objects if "/volume/" in p and self.name_of(p).startswith(f"{name}@")]
        if name.startswith("db1"):
            raise Refused("InUse", f"volume '{name}' is still in use.")
        if below and not options.get("snapshots"):
            raise Refused("InUse", f"volume '{name}' has snapshots")
        for gone in [path, *below]:
            self.world.remove(gone)
        return ("",)

    def Pin(self, _path, domain, pinned):
        path = next(p for p, (i, of) in self.world.objects.items() if i == "Vm" and domain in (of["Name"], of["Uuid"]))
        kept = "its <metadata> says that it is not to be moved" if pinned else ""
        self.world.change(path, Pinned=bool(pinned), Kept=kept)
        return ("",)

    def Events(self, _path, since):
        rows = [dbus.Struct((dbus.UInt64(at), severity, signal, dbus.Dictionary({k: typed(k, v) for k, v in details.items()}, signature="sv")), signature="tssa{sv}")
                for at, severity, signal, details in self.world.events if at >= since]
        return "ta(tssa{sv})", dbus.UInt64(max(since, self.world.began)), dbus.Array(rows, signature="(tssa{sv})")

    def Results(self, _path):
        rows = [dbus.Struct((dbus.UInt64(began), dbus.UInt64(ended), *words), signature="ttsssss") for began, ended, *words in self.world.results]
        return "a(ttsssss)", dbus.Array(rows, signature="(ttsssss)")

    def RetryNow(self, _path, _options):
        waiting = [self.world.get(p) for p in self.world.objects if "/waiting/" in p]
        rows = [(w["Domain"], w["Uuid"], "waits", "no peer has room for it still") for w in waiting]
        return "a(ssss)", dbus.Array([dbus.Struct(row, signature="ssss") for row in rows], signature="(ssss)")

    def Dump(self, _path, pool, _source):
        return "s", self.world.dump(pool)

    def History(self, path, since):
        points = [p for p in self.world.past(self.name_of(path)) if p[0] >= since]
        return "a(ttt)", dbus.Array([dbus.Struct(map(dbus.UInt64, p), signature="ttt") for p in points], signature="(ttt)")

    def Migrate(self, _path, domain, to):
        volume = f"{domain}-root"
        if volume_path("vms", volume) not in self.world.objects:
            raise Refused("Failed", f"there is no such VM: '{domain}'")
        return "o", dbus.ObjectPath(self.world.begin_move(domain, "vms", volume, to or "host2"))

    def Plan(self, _path, domain, to):
        if volume_path("vms", f"{domain}-root") not in self.world.objects:
            raise Refused("NotFound", f"there is no such VM: '{domain}'")
        peers = [("host2", True, 60 * GIB, ""), ("host3", False, 0, "its pool 'vms' has room for 2 GiB only")]
        stays = f"'{domain}' is not to be moved: its metadata says so" if domain == "web1" else ""
        rows = [dbus.Struct((n, dbus.Boolean(can), dbus.UInt64(free), why), signature="sbts") for n, can, free, why in peers if to in ("", n)]
        held = self.world.get(volume_path("vms", f"{domain}-root"))["Allocation"]
        takes = dbus.UInt64(held // (100 * MIB))
        peers_there, snapshots = dbus.Array(rows, signature="(sbts)"), dbus.Array([], signature="s")
        held_back = dbus.Array([], signature="(sst)")
        plan = (domain, "u", stays, "" if stays else "host2", dbus.UInt64(held), takes, peers_there, snapshots, dbus.Boolean(True), held_back)
        return "(sssstta(sbts)asba(sst))", dbus.Struct(plan, signature="sssstta(sbts)asba(sst)")

    def Drain(self, _path, drained):
        self.world.change_host(Drained=bool(drained))
        return ("",)

    def Evacuate(self, _path, group, device):
        if group != "vg-vms":
            raise Refused("NotFound", f"no pool lies in the volume group '{group}'")
        return "o", dbus.ObjectPath(self.world.begin_job("vms", "evacuate", device=device))

    def Refresh(self, _path):
        return ("",)

    def job(self, path, task):
        if "/pool/" in path:
            return "o", dbus.ObjectPath(self.world.begin_job(self.name_of(path), task))
        pool = self.name_of(self.world.get(path)["Pool"])
        return "o", dbus.ObjectPath(self.world.begin_job(pool, task, volume=path))

    def Reclaim(self, path):
        return self.job(path, "reclaim")

    def ReclaimZeroes(self, path):
        return self.job(path, "reclaim-zeroes")

    def Defragment(self, path):
        return self.job(path, "defragment")

    def Cancel(self, path):
        if "/job/" in path:
            self.world.change(path, State="cancelled")
        else:
            self.world.end_move(path, "it was cancelled")
        return ("",)


class Daemon:
    """Answers messages; its faults are the test's."""

    def __init__(self, connection, world):
        self.connection, self.world = connection, world
        self.methods = Methods(world)
        self.delay, self.hidden, self.fails = 0, set(), {}
        self.bus = connection.get_object("org.freedesktop.DBus", "/org/freedesktop/DBus")
        connection.add_message_filter(self.filter)

    def filter(self, _connection, message):
        if not isinstance(message, dbus.lowlevel.MethodCallMessage) or message.get_path() in (None, "/org/freedesktop/DBus"):
            return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED
        if message.get_interface() == f"{NAME}.Mock" or not self.delay:
            GLib.idle_add(self.reply, message)
        else:
            GLib.timeout_add(self.delay, self.reply, message)
        return dbus.lowlevel.HANDLER_RESULT_HANDLED

    def reply(self, message):
        try:
            signature, *values = self.answer(message)
            answer = dbus.lowlevel.MethodReturnMessage(message)
            if values:
                answer.append(*values, signature=signature)
        except Refused as refused:
            answer = dbus.lowlevel.ErrorMessage(message, refused.name, str(refused))
        self.connection.send_message(answer)
        return False

    def answer(self, message):
        path, interface, member = message.get_path(), message.get_interface(), message.get_member()
        arguments = message.get_args_list()
        if interface == f"{NAME}.Mock":
            getattr(self, f"mock_{member}")(*arguments)
            return ("",)
        if member in self.fails:
            raise Refused(*self.fails[member])
        if (interface, member) == (OBJECTS, "GetManagedObjects"):
            objects = {dbus.ObjectPath(p): dbus.Dictionary({f"{NAME}.{i}": self.world.shown(p)}, signature="sa{sv}")
                       for p, (i, _) in self.world.objects.items()}
            return "a{oa{sa{sv}}}", dbus.Dictionary(objects, signature="oa{sa{sv}}")
        if (interface, member) == (PROPERTIES, "GetAll") and path == ROOT:
            told = {k: typed(k, v) for k, v in self.world.host.items() if ("Manager", k) not in self.world.dropped}
            return "a{sv}", dbus.Dictionary(told, signature="sv")
        if (interface, member) == (PROPERTIES, "GetAll"):
            return "a{sv}", self.world.shown(path)
        method = getattr(self.methods, member, None)
        if not method or member in self.hidden or not interface.startswith(NAME):
            raise Refused("org.freedesktop.DBus.Error.UnknownMethod", f"no method {member}")
        if member not in ("Events", "Results", "History") and self.bus.GetConnectionUnixUser(message.get_sender(), dbus_interface="org.freedesktop.DBus"):
            raise Refused("NotAuthorized", "this needs 'org.virtnotify1.manage': polkit says no")
        return method(path, *arguments)

    def mock_Delay(self, milliseconds):
        self.delay = int(milliseconds)

    def mock_Hide(self, method):
        self.hidden.add(str(method))

    def mock_Drop(self, interface, name):
        self.world.dropped.add((str(interface), str(name)))

    def mock_Fail(self, method, name, text):
        self.fails[str(method)] = (str(name), str(text))

    def mock_Heal(self):
        self.delay, self.hidden, self.fails = 0, set(), {}
        self.world.dropped.clear()

    def mock_Grow(self, pool, volume, by):
        self.world.grow(str(pool), str(volume), int(by))

    def mock_Rate(self, pool, rate):
        known = self.world.get(pool_path(str(pool)))
        known.update(GrowthRate=int(rate), TimeToFull=known["Available"] // int(rate))

    def mock_StepJobs(self, by):
        for path in [p for p in self.world.objects if "/job/" in p and self.world.get(p)["State"] == "running"]:
            self.world.step_job(path, int(by))

    def mock_StepMoves(self, by):
        for path in [p for p in self.world.objects if "/move/" in p]:
            self.world.step_move(path, int(by))

    def mock_Warn(self, domain, what):
        self.world.tell("Warning", "ss", domain, what)

    def mock_Damage(self, pool, what):
        self.world.tell("Damage", "ss", pool, what)

    def mock_FailJob(self, why):
        for path in [p for p in self.world.objects if "/job/" in p and self.world.get(p)["State"] == "running"]:
            self.world.change(path, State="failed", Error=str(why))

    def mock_Wait(self, domain, why):
        self.world.add(f"{ROOT}/waiting/{element(domain)}", "Waiting", Domain=str(domain), Uuid="u", Since=int(time.time()) - 90,
                       Volume=volume_path("vms", f"{domain}-root"), Reason=str(why))

    def mock_FailPeer(self, peer, why):
        self.world.change(f"{ROOT}/peer/{peer}", Problem=str(why), Checked=int(time.time()))
        self.world.tell("PeerFailed", "ss", peer, why)

    def mock_Storage(self, runs):
        self.world.change_host(StorageRuns=bool(runs))

    def mock_WithoutPeers(self):
        for path in [p for p in self.world.objects if "/peer/" in p]:
            self.world.remove(path)

    def mock_Empty(self):
        for path in list(self.world.objects):
            self.world.remove(path)


class Systemd:
    """What systemd says of the two units. Started, virtnotify-control is in this process."""

    def __init__(self, connection, control, storage):
        self.connection = connection
        self.states = {CONTROL: control, STORAGE: storage}
        connection.add_message_filter(self.filter)
        connection.request_name("org.freedesktop.systemd1")

    def filter(self, _connection, message):
        member, arguments = message.get_member(), message.get_args_list()
        if not isinstance(message, dbus.lowlevel.MethodCallMessage) or not message.get_path().startswith("/org/freedesktop/systemd1"):
            return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED
        answer = dbus.lowlevel.MethodReturnMessage(message)
        if member in ("LoadUnit", "StartUnit"):
            answer.append(dbus.ObjectPath(f"/org/freedesktop/systemd1/unit/{element(arguments[0])}"), signature="o")
        else:
            state = next(s for unit, s in self.states.items() if message.get_path().endswith(f"/{element(unit)}"))
            load, active = ("not-found", "inactive") if state == "absent" else ("loaded", state)
            answer.append({"LoadState": load, "ActiveState": active}[arguments[1]], signature="v")
        self.connection.send_message(answer)
        if member == "StartUnit":
            self.start(arguments[0])
        return dbus.lowlevel.HANDLER_RESULT_HANDLED

    def start(self, unit):
        if unit == CONTROL and self.states[CONTROL] != "active":
            GLib.idle_add(serve, self.connection, False)
        elif unit == STORAGE and self.states[CONTROL] == "active":
            call = dbus.lowlevel.MethodCallMessage(NAME, "/mock", f"{NAME}.Mock", "Storage")
            call.append(True, signature="b")
            self.connection.send_message(call)
        self.states[unit] = "active"


def serve(connection, is_alive):
    """The daemon is on the bus."""
    world = World(connection)
    furnish(world)
    Daemon(connection, world)
    connection.request_name(NAME)
    if is_alive:
        GLib.timeout_add(1000, live, world)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--alive", action="store_true")
    parser.add_argument("--systemd", choices=STATES, help="be systemd, and no daemon: how virtnotify-control is")
    parser.add_argument("--storage", choices=STATES, default="active", help="how virtnotifyd is")
    parser.add_argument("address")
    arguments = parser.parse_args()
    DBusGMainLoop(set_as_default=True)
    connection = dbus.bus.BusConnection(arguments.address)
    if arguments.systemd:
        Systemd(connection, arguments.systemd, arguments.storage)
    else:
        serve(connection, arguments.alive)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
