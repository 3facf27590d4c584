#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""flood.py CONNECTIONS CALLS: asks the daemon over the system bus, over so many connections at once and
so many times over each, and reads no answer until all is asked. Tells how many answers of each kind came.

Speaks D-Bus itself (the D-Bus Specification, "Message Protocol"): a library waits for its answers.
"""

import os
import socket
import struct
import sys
from collections import Counter

BUS = "/run/dbus/system_bus_socket"
OBJECT, STRING, SIGNATURE = "o", "s", "g"
PATH, INTERFACE, MEMBER, DESTINATION, BODY = 1, 2, 3, 6, 8
CALL, ANSWER, FAILURE = 1, 2, 3


def pad(data, to):
    return data + bytes(-len(data) % to)


def field(code, kind, text):
    value = text.encode()
    if kind == SIGNATURE:
        return bytes([code, 1]) + b"g\0" + bytes([len(value)]) + value + b"\0"
    return bytes([code, 1]) + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value + b"\0"


def call(serial, destination, path, interface, member, signature="", body=b""):
    fields = b""
    parts = [(PATH, OBJECT, path), (INTERFACE, STRING, interface), (MEMBER, STRING, member),
             (DESTINATION, STRING, destination)]
    parts += [(BODY, SIGNATURE, signature)] if signature else []
    for part in parts:
        fields = pad(fields, 8) + field(*part)
    head = struct.pack("<cBBBIII", b"l", CALL, 0, 1, len(body), serial, len(fields))
    return pad(head + fields, 8) + body


class Client:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(BUS)
        self.socket.settimeout(60)
        uid = str(os.getuid()).encode().hex()
        self.socket.sendall(f"\0AUTH EXTERNAL {uid}\r\n".encode())
        if not self.socket.recv(1024).startswith(b"OK"):
            raise SystemExit("the bus does not know us")
        self.socket.sendall(b"BEGIN\r\n" + call(1, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                                "org.freedesktop.DBus", "Hello"))

    def ask(self, calls):
        words = ("org.virtnotify1", "/org/virtnotify1", "org.virtnotify1.Manager", "Usage", "t", struct.pack("<Q", 0))
        self.socket.sendall(b"".join(call(2 + n, *words) for n in range(calls)))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise SystemExit("the bus has hung up")
            data += more
        return data

    def answers(self, calls):
        """The kinds of the answers to all calls: `answer`, or the error's name."""
        kinds = Counter()
        while sum(kinds.values()) < calls:
            _, kind, _, _, length, _, fields = struct.unpack("<cBBBIII", self.exactly(16))
            rest = self.exactly(fields + -fields % 8 + length)
            # The answer to Hello, and the signal that tells the name, come before.
            if kind == FAILURE:
                kinds[error_in(rest[:fields])] += 1
            elif kind == ANSWER and b"tta(" in rest[:fields]:
                kinds["answer"] += 1
        return kinds


def error_in(fields):
    words = [word.decode() for word in fields.split(b"\0") if b".Error." in word]
    return words[0] if words else "an error without a name"


def main():
    connections, calls = int(sys.argv[1]), int(sys.argv[2])
    clients = [Client() for _ in range(connections)]
    for client in clients:
        client.ask(calls)
    kinds = Counter()
    for client in clients:
        kinds += client.answers(calls)
    for kind, count in sorted(kinds.items()):
        print(kind, count)


if __name__ == "__main__":
    main()
