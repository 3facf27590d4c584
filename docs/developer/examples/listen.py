#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints what volumes hold, then each growth and each change. An argument is a bus's address."""

import sys

import dbus
import dbus.bus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

DBusGMainLoop(set_as_default=True)
bus = dbus.bus.BusConnection(sys.argv[1]) if len(sys.argv) > 1 else dbus.SystemBus()


def grown(pool, volume, by, allocation, capacity):
    print(f"{pool}/{volume} grew by {by} to {allocation} of {capacity}", flush=True)


def changed(interface, properties, _gone, path):
    for name, value in properties.items():
        print(f"{path} {name} is {value}", flush=True)


bus.add_signal_receiver(grown, "VolumeGrown", "org.virtnotify1.Manager", "org.virtnotify1")
bus.add_signal_receiver(changed, "PropertiesChanged", "org.freedesktop.DBus.Properties", "org.virtnotify1",
                        path_keyword="path")
# After the listening has begun, so that nothing is missed in between.
root = bus.get_object("org.virtnotify1", "/org/virtnotify1")
for path, interfaces in root.GetManagedObjects(dbus_interface="org.freedesktop.DBus.ObjectManager").items():
    volume = interfaces.get("org.virtnotify1.Volume")
    if volume:
        print(f"{volume['Path']} holds {volume['Allocation']} of {volume['Capacity']}", flush=True)
GLib.MainLoop().run()
