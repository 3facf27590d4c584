# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the mock of the daemon shows: its objects, and how they change."""

import time

import dbus
import dbus.lowlevel

NAME, ROOT = "org.virtnotify1", "/org/virtnotify1"
PROPERTIES, OBJECTS = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"
MIB, GIB, CHUNK = 1 << 20, 1 << 30, 4 << 20
POLICY = {"low-mark": "10%", "at-low-mark": "warn", "when-full": "migrate", "overcommit": 4.0, "passdown": False, "movable": True}


class Refused(Exception):
    """An error that a method answers."""

    def __init__(self, name, text):
        super().__init__(text)
        self.name = name if "." in name else f"{NAME}.Error.{name}"


def element(name):
    return "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in name)


def pool_path(pool):
    return f"{ROOT}/pool/{element(pool)}"


def volume_path(pool, volume):
    return f"{ROOT}/volume/{element(pool)}/{element(volume)}"


def vm_path(vm):
    return f"{ROOT}/vm/{vm.encode().hex():0<32}"


def typed(name, value):
    if isinstance(value, bool):
        return dbus.Boolean(value)
    if isinstance(value, int):
        return dbus.UInt64(value)
    if isinstance(value, float):
        return dbus.Double(value)
    if isinstance(value, dict):
        return dbus.Dictionary({k: typed(k, v) for k, v in value.items()}, signature="sv")
    if name == "Pools":
        return dbus.Array([dbus.Struct((n, *map(dbus.UInt64, sizes)), signature="sttt") for n, *sizes in value], signature="(sttt)")
    if isinstance(value, list):
        return dbus.Array([dbus.ObjectPath(item) for item in value], signature="o")
    return dbus.ObjectPath(value) if name in ("Pool", "Volume", "Backing") else dbus.String(value)


class World:
    """The objects, by path: (interface, properties). Changes are told at once."""

    def __init__(self, connection):
        self.connection = connection
        self.objects = {}
        self.maps = {}
        self.dropped = set()
        self.host = {"Version": "0.1.0", "Drained": False, "StorageRuns": True}
        self.events, self.results = [], []
        self.began = int(time.time()) - 3600

    def emit(self, path, interface, member, signature, *arguments):
        message = dbus.lowlevel.SignalMessage(path, interface, member)
        message.append(*arguments, signature=signature)
        self.connection.send_message(message)

    def tell(self, member, signature, *arguments):
        self.emit(ROOT, f"{NAME}.Manager", member, signature, *arguments)

    def shown(self, path):
        interface, properties = self.objects[path]
        there = {k: v for k, v in properties.items() if (interface, k) not in self.dropped}
        return dbus.Dictionary({k: typed(k, v) for k, v in there.items()}, signature="sv")

    def add(self, path, interface, **properties):
        self.objects[path] = (interface, properties)
        there = dbus.Dictionary({f"{NAME}.{interface}": self.shown(path)}, signature="sa{sv}")
        self.emit(ROOT, OBJECTS, "InterfacesAdded", "oa{sa{sv}}", dbus.ObjectPath(path), there)

    def remove(self, path):
        interface, _ = self.objects.pop(path)
        self.emit(ROOT, OBJECTS, "InterfacesRemoved", "oas", dbus.ObjectPath(path), [f"{NAME}.{interface}"])

    def change(self, path, **properties):
        interface, known = self.objects[path]
        known.update(properties)
        told = {k: typed(k, v) for k, v in properties.items() if (interface, k) not in self.dropped}
        self.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", f"{NAME}.{interface}",
                  dbus.Dictionary(told, signature="sv"), dbus.Array([], signature="s"))

    def change_host(self, **properties):
        self.host.update(properties)
        told = {k: typed(k, v) for k, v in properties.items()}
        self.emit(ROOT, PROPERTIES, "PropertiesChanged", "sa{sv}as", f"{NAME}.Manager",
                  dbus.Dictionary(told, signature="sv"), dbus.Array([], signature="s"))

    def get(self, path):
        return self.objects[path][1]

    # What there is.

    def pool(self, name, capacity, low_mark, active=True):
        sizes = {"Capacity": capacity, "Allocation": 16 * MIB, "Available": capacity - 16 * MIB, "Headroom": 64 * MIB,
                 "ChunkSize": CHUNK, "LowMark": low_mark, "Promised": 0, "PromisedLimit": 4 * capacity,
                 "GrowthRate": 0, "TimeToFull": 0}
        if not active:
            sizes = dict.fromkeys(sizes, 0)
        policy = dict(POLICY) if active else {}
        self.add(pool_path(name), "Pool", Name=name, Uuid=f"uuid-of-{name}", Active=active, VolumeGroup=f"vg-{name}", Policy=policy, **sizes)

    def volume(self, pool, name, capacity, allocation, exclusive=None, backing="/", age=0, state="active", scattered=False):
        kind = "snapshot" if "@" in name else "volume"
        held = allocation if exclusive is None else exclusive
        self.add(volume_path(pool, name), "Volume", Name=name, Pool=pool_path(pool), Uuid=f"uuid-of-{name}", Vms=[],
                 Path=f"/dev/notify/{pool}/{name}", State=state, Kind=kind, Backing=backing,
                 Created=int(time.time()) - age, Capacity=capacity, Allocation=allocation, Exclusive=held, GrowthRate=0)
        self.maps[pool, name] = scattered
        self.take(pool, held)
        if kind == "volume":
            self.change(pool_path(pool), Promised=self.get(pool_path(pool))["Promised"] + capacity)

    def vm(self, name, *volumes, pool="vms"):
        """A VM with these volumes."""
        paths = [volume_path(pool, volume) for volume in volumes]
        self.add(vm_path(name), "Vm", Name=name, Uuid=f"uuid-of-{name}", State="running", Volumes=paths, Pinned=False, Kept="")
        for path in paths:
            self.change(path, Vms=[vm_path(name)])

    def take(self, pool, by):
        known = self.get(pool_path(pool))
        self.change(pool_path(pool), Allocation=known["Allocation"] + by, Available=max(0, known["Available"] - by))

    def grow(self, pool, volume, by):
        path, known = volume_path(pool, volume), self.get(pool_path(pool))
        low, room = known["LowMark"], known["Available"]
        if by > room:
            self.change(path, State="out-of-space")
            self.tell("SpaceExhausted", "sstt", pool, volume, by, room)
            return
        grown = self.get(path)
        self.change(path, Allocation=grown["Allocation"] + by, Exclusive=grown["Exclusive"] + by)
        self.take(pool, by)
        self.tell("VolumeGrown", "ssttt", pool, volume, by, grown["Allocation"], grown["Capacity"])
        if room >= low > room - by:
            self.tell("SpaceLow", "st", pool, room - by)

    def past(self, pool):
        """How full it was: a week by the quarter of an hour, then a day by the minute, and a night without the daemon."""
        known, now = self.get(pool_path(pool)), int(time.time()) // 60 * 60
        day, used = 86400, known["Capacity"] - known["Available"]
        times = [*range(now - 7 * day, now - day, 900), *range(now - day, now, 60)]
        gone = range(now - 3 * day, now - 3 * day + 8 * 3600)
        return [(t, known["Capacity"], known["Capacity"] - int(used * (0.6 + 0.4 * (t - times[0]) / (7 * day)))) for t in times if t not in gone]

    def begin_job(self, pool, task, volume="/", device="", total=512 * MIB):
        path = f"{ROOT}/job/{1 + sum('/job/' in p for p in self.objects)}"
        for old in [p for p in self.objects if "/job/" in p and self.get(p)["Pool"] == pool_path(pool)]:
            if self.get(old)["State"] == "running":
                raise Refused("Failed", f"the pool '{pool}' has a job that runs")
            self.remove(old)
            path = f"{old}0"
        look = total if task == "reclaim-zeroes" else 0
        self.add(path, "Job", Pool=pool_path(pool), Volume=volume, Device=device, Task=task, State="running", Error="",
                 Began=int(time.time()), Looked=0, ToLook=look, Moved=0, Total=total, RunsBefore=48, Runs=48, Freed=0, ToGroup=0)
        return path

    def step_job(self, path, by):
        job = self.get(path)
        moved = min(job["Total"], job["Moved"] + by)
        self.change(path, Moved=moved, Looked=min(job["ToLook"], job["Looked"] + by),
                    Runs=48 - 45 * moved // max(1, job["Total"]) if job["Task"] == "defragment" else 48)
        if moved == job["Total"]:
            for (pool, name) in self.maps:
                if job["Task"] == "defragment" and job["Volume"] in ("/", volume_path(pool, name)):
                    self.maps[pool, name] = False
            self.change(path, State="done", Freed=96 * MIB if job["Task"] != "defragment" else 0, ToGroup=64 * MIB)

    def row(self, move):
        m = self.get(move)
        volumes = [self.get(v)["Name"] for v in m["Volumes"]]
        return dbus.Struct((m["Domain"], m["Uuid"], self.get(m["Pool"])["Name"], dbus.Array(volumes, signature="s"),
                            m["From"], m["To"], dbus.UInt64(m["Allocation"])), signature="sssassst")

    def begin_move(self, domain, pool, volume, to):
        path = f"{ROOT}/move/{domain.encode().hex():0<32}"
        held = self.get(volume_path(pool, volume))["Allocation"]
        self.add(path, "Move", Domain=domain, Uuid="5a1e0000-0000-4000-8000-000000000001", Pool=pool_path(pool),
                 Volumes=[volume_path(pool, volume)], From="host1", To=to, Allocation=held, Done=0, Total=0, Cancelled=False,
                 Phase="preparing", Reason="")
        self.tell("MoveStarted", "(sssassst)", self.row(path))
        return path

    def step_move(self, path, by):
        move = self.get(path)
        total = move["Allocation"] + GIB
        done = min(total, move["Done"] + by)
        self.change(path, Done=done, Total=total, Phase="copying")
        if done == total:
            self.ended(move, "done", "")
            self.tell("MoveFinished", "(sssassst)", self.row(path))
            for volume in move["Volumes"]:
                self.remove(volume)
            self.remove(path)

    def end_move(self, path, reason):
        self.change(path, Cancelled=True)
        self.ended(self.get(path), "stayed", reason)
        self.tell("MoveFailed", "(sssassst)s", self.row(path), reason)
        self.remove(path)

    def ended(self, move, state, reason):
        now = int(time.time())
        self.results.append((now - 60, now, "move", move["Domain"], move["To"], state, reason))

    def dump(self, pool):
        lines = ["virtnotify-pool 2", "# The map of a pool", "host host1", f"vg vg-{pool}", f"name {pool}", f"chunk-bytes {CHUNK}"]
        place, rows = 0, []
        for number, ((of, name), scattered) in enumerate(self.maps.items(), 1):
            path = volume_path(of, name)
            if of != pool or path not in self.objects:
                continue
            known = self.get(path)
            count = known["Exclusive"] // CHUNK
            lines += ["", f"layer {number} 0 1 0"]
            step = max(1, count // 48) if scattered else max(1, count)
            for n, first in enumerate(range(0, count, step)):
                at = place + (n * 29 % 97) * 2 * step if scattered else place + first
                lines.append(f"run {first}:0:{at}:{min(step, count - first)}")
            place += 200 * step if scattered else count
            rows += ["", f"volume {number} {name}", "uuid u", f"kind {known['Kind']}", f"capacity {known['Capacity']}",
                     "created 0", f"shows {number}", "origin -"]
        return "\n".join([*lines, *rows, "end 00000000", ""])


def furnish(world):
    """A host with three pools."""
    world.pool("vms", 40 * GIB, 4 * GIB)
    world.pool("archive", 200 * GIB, 0)
    world.pool("spare", 0, 0, active=False)
    for peer, room in (("host2", 70 * GIB), ("host3", 3 * GIB)):
        world.add(f"{ROOT}/peer/{peer}", "Peer", Name=peer, Uri=f"qemu+ssh://{peer}/system", Checked=int(time.time()), Problem="",
                  Arriving=0, Arrivals=2, Pools=[("vms", 100 * GIB, room, 0)])
    day = 86400
    world.volume("vms", "web1-root", 20 * GIB, 6 * GIB, 2 * GIB, age=9 * day)
    world.volume("vms", "web1-root@before-update", 20 * GIB, 5 * GIB, 1 * GIB, volume_path("vms", "web1-root"), 3 * day)
    world.volume("vms", "web1-root@monday", 20 * GIB, 6 * GIB, 512 * MIB, volume_path("vms", "web1-root"), day)
    world.volume("vms", "web1-copy", 20 * GIB, 6 * GIB, 300 * MIB, volume_path("vms", "web1-root@before-update"), day // 2)
    world.volume("vms", "db1-root", 60 * GIB, 14 * GIB, age=30 * day, scattered=True)
    world.volume("vms", "db1-root@nightly", 60 * GIB, 13 * GIB, 700 * MIB, volume_path("vms", "db1-root"), 40000)
    world.volume("vms", "mail-root", 30 * GIB, 4 * GIB, age=5 * day, scattered=True)
    world.volume("archive", "logs", 100 * GIB, 40 * GIB, age=90 * day)
    for vm in ("web1", "db1", "mail"):
        world.vm(vm, f"{vm}-root")
    world.events = [
        (world.began + 60, "info", "PoolStarted", {"pool": "archive"}),
        (world.began + 180, "notice", "Resumed", {"domain": "mail"}),
    ]


def live(world):
    """Each second something goes on."""
    pool = world.get(pool_path("vms"))
    pool.update(GrowthRate=40 * MIB, TimeToFull=max(1, pool["Available"] // (40 * MIB)))
    world.grow("vms", "db1-root", 40 * MIB)
    for path in list(world.objects):
        if "/job/" in path and world.get(path)["State"] == "running":
            world.step_job(path, 24 * MIB)
        elif "/move/" in path:
            world.step_move(path, 180 * MIB)
    return True
