# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an administrator does to the volumes of a pool, and what may have become of it when the daemons were killed."""

import contextlib
import random

import dbus
import libvirt
from possible import BLOCK, new_tag
from product import DEADLINE, URI, Failure, expect, say
from workload import MIB, Thread, Volume, mistake

SIZES = range(3, 8)  # MiB
SNAPSHOTS, CLONES = 10, 3
# What is discarded is given back a moment later.
TOO_SMALL = ["can't shrink capacity below existing allocation", "it cannot shrink to"]
# A pool has one job at a time.
JOB_RUNS = ["cancel it, or wait for its end"]
VOLUME = "<volume><name>%s</name><capacity unit='MiB'>%d</capacity>%s</volume>"
BACKING = "<backingStore><path>/dev/notify/vms/%s</path><format type='raw'/></backingStore>"


class Killed(Exception):
    """The daemon went before it answered: it may have done it or not."""


class Operator(Thread):
    """Does what an administrator does, one after the other, until the daemon is killed."""

    def __init__(self, pool):
        super().__init__("the operator")
        self._pool = pool
        self._chance = random.Random(f"{pool.seed} operator {pool.round}")
        self._bus = dbus.SystemBus(private=True)
        # virtnotify-control, by its own number: a call by its name would wait for it to be started when it is gone.
        self._control = self._bus.get_name_owner("org.virtnotify1")
        self._libvirt = libvirt.open(URI)
        self._storage = self._libvirt.storagePoolLookupByName("vms")

    def work(self):
        deeds = {self._snapshot: 6, self._delete_snapshot: 3, self._roll_back: 3, self._clone: 2, self._write_clone: 4,
                 self._delete_clone: 1, self._resize: 3, self._move_chunks: 3}
        try:
            while not self._pool.killing.is_set():
                self._chance.choices(list(deeds), list(deeds.values()))[0]()
        except Killed:
            pass
        finally:
            self._bus.close()

    def _done(self, text, deed, *args, refusals=()):
        """Has the daemon do it; whether it did. An error is the kill's, or one that is expected."""
        try:
            deed(*args)
        except (libvirt.libvirtError, dbus.DBusException) as error:
            if self._pool.killing.is_set():
                say(f"{text}: unsure")
                raise Killed from error
            if any(words in str(error) for words in refusals):
                return False
            raise Failure(f"{text}: {error}") from error
        say(text)
        self._pool.counts[text.split()[0]] += 1
        return True

    def _call(self, path, interface, method, signature, *args):
        """Calls a method of virtnotify-control."""
        return self._bus.call_blocking(self._control, path, f"org.virtnotify1.{interface}", method, signature, args,
                                       timeout=DEADLINE)

    def _manage(self, *words):
        return self._call("/org/virtnotify1", "Manager", *words)

    @contextlib.contextmanager
    def _held(self, volume):
        """Holds the volume's lock, unless the daemon is killed before its writer lets it go."""
        while not volume.lock.acquire(timeout=0.2):
            if self._pool.killing.is_set():
                raise Killed
        try:
            yield
        except Killed:
            # It may have no device.
            self._pool.writers_go.clear()
            raise
        finally:
            volume.lock.release()

    def _snapshot(self):
        if len(self._pool.some("snapshot")) >= SNAPSHOTS:
            return self._delete_snapshot()
        bases = self._chance.sample(self._pool.some("volume"), self._chance.randint(1, 3))
        moment = new_tag()
        with contextlib.ExitStack() as windows:
            made = [Volume(f"{volume.name}@s{moment}", volume.size, windows.enter_context(volume.blocks.window()))
                    for volume in map(self._pool.volumes.get, bases)]
            self._pool.unsure.append(All(made))
            self._done(f"snapshot s{moment} of {' '.join(bases)}", self._manage, "TakeSnapshot", "assa{sv}",
                       [f"vms/{name}" for name in bases], f"s{moment}", {})
        self._sure(True)

    def _sure(self, done):
        """What was unsure last has happened, or not."""
        self._pool.unsure.pop().happened(self._pool, done)

    def _delete_snapshot(self):
        self._remove("snapshot")

    def _delete_clone(self):
        self._remove("clone")

    def _remove(self, kind):
        names = self._pool.some(kind)
        if not names:
            return
        name = self._chance.choice(names)
        self._pool.unsure.append(Gone(name))
        if kind == "snapshot":
            self._done(f"delete {name}", self._manage, "DeleteSnapshot", "sa{sv}", f"vms/{name}", {})
        else:
            self._done(f"delete {name}", lambda: self._storage.storageVolLookupByName(name).delete())
        self._sure(True)

    def _roll_back(self):
        names = self._pool.some("snapshot")
        if not names:
            return
        snapshot = self._pool.volumes[self._chance.choice(names)]
        volume = self._pool.volumes[snapshot.name.partition("@")[0]]
        with self._held(volume):
            self._pool.unsure.append(Back(volume, snapshot.size, snapshot.blocks.copy()))
            self._done(f"rollback to {snapshot.name}", self._manage, "RollBack", "sa{sv}", f"vms/{snapshot.name}", {})
            self._sure(True)

    def _clone(self):
        if len(self._pool.some("clone")) >= CLONES:
            return self._delete_clone()
        names = self._pool.some("snapshot") + self._pool.some("volume")
        source = self._pool.volumes[self._chance.choice(names)]
        name = f"c{new_tag()}"
        # Of a volume that is written the clone may show what is under way.
        with source.blocks.window() as blocks:
            clone = Volume(name, source.size, blocks)
            self._pool.unsure.append(All([clone]))
            backing = BACKING % source.name if "@" in source.name else ""
            xml = VOLUME % (name, source.size * BLOCK // MIB, backing)
            self._done(f"clone {source.name} as {name}", self._make, xml, None if backing else source.name)
        self._sure(True)

    def _make(self, xml, original):
        """A volume with a backing store, or a copy of another one."""
        if original is None:
            self._storage.createXML(xml, 0)
        else:
            self._storage.createXMLFrom(xml, self._storage.storageVolLookupByName(original), 0)

    def _write_clone(self):
        names = self._pool.some("clone")
        if names:
            volume = self._pool.volumes[self._chance.choice(names)]
            with self._held(volume):
                self._pool.write(volume, self._chance)

    def _resize(self):
        volume = self._pool.volumes[self._chance.choice(self._pool.some("volume"))]
        size = self._chance.choice(SIZES) * MIB // BLOCK
        # No write is under way beyond an end that comes nearer.
        with self._held(volume):
            if size < volume.size:
                self._pool.request(volume, "discard", size, volume.size - size)
            self._pool.unsure.append(Sized(volume, size))
            flags = libvirt.VIR_STORAGE_VOL_RESIZE_SHRINK
            done = self._done(f"resize {volume.name} from {volume.size * BLOCK // MIB} to {size * BLOCK // MIB} MiB",
                              lambda: self._storage.storageVolLookupByName(volume.name).resize(size * BLOCK, flags),
                              refusals=TOO_SMALL)
            self._sure(done)

    def _move_chunks(self):
        """Begins a job, which goes on beside all else and ends with virtnotifyd."""
        task = self._chance.choice(("Defragment", "Reclaim", "ReclaimZeroes"))
        self._done(task.lower(), lambda: self._call(self._manage("GetPool", "s", "vms"), "Pool", task, ""),
                   refusals=JOB_RUNS)


class All:
    """Volumes that are made together, or not at all."""

    def __init__(self, made):
        self._made = made

    def happened(self, pool, done):
        """They are there, or not."""
        if done:
            pool.volumes.update({volume.name: volume for volume in self._made})

    def settle(self, pool, sizes):
        """By what is there."""
        there = [volume.name in sizes for volume in self._made]
        expect(all(there) or not any(there), f"all or none of {[volume.name for volume in self._made]}: {there}")
        self.happened(pool, all(there))


class Gone:
    """A volume that is deleted."""

    def __init__(self, name):
        self._name = name

    def happened(self, pool, done):
        """It is gone, or not."""
        if done:
            del pool.volumes[self._name]

    def settle(self, pool, sizes):
        """By what is there."""
        self.happened(pool, self._name not in sizes)


class Back:
    """A volume that is rolled back: as a whole, or not at all."""

    def __init__(self, volume, size, blocks):
        self._volume, self._size, self._blocks = volume, size, blocks

    def happened(self, _pool, done):
        """It holds what the snapshot holds, or what it held."""
        if done:
            self._volume.size, self._volume.blocks = self._size, self._blocks

    def settle(self, pool, sizes):
        """By what is there: that it fits neither is found by the comparison that follows."""
        then = Volume(self._volume.name, self._size, self._blocks)
        self.happened(pool, sizes[then.name] == then.size and mistake(pool, then) is None)


class Sized:
    """A volume that is resized."""

    def __init__(self, volume, size):
        self._volume, self._size = volume, size

    def happened(self, _pool, done):
        """It has the new size, or the old one. What was beyond an end is no more."""
        if done:
            self._volume.size = self._size
            self._volume.blocks.cut(self._size)

    def settle(self, pool, sizes):
        """By what is there."""
        self.happened(pool, sizes[self._volume.name] == self._size)
