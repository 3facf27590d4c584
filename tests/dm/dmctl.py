#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages to a device-mapper device over the ioctl, without dmsetup's cost.

    dmctl.py NAME MESSAGE...    sends one message to sector 0, prints the reply
"""
import ctypes
import fcntl
import os
import struct
import sys

HEAD = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
TARGET_MSG = (3 << 30) | (HEAD.size << 16) | (0xFD << 8) | 14
DATA_OUT = 1 << 16
BUFFER = 65536
PR_SET_IO_FLUSHER = 57


def be_io_flusher():
    """Memory for what this process asks of the kernel is had without I/O, which could be its own to serve."""
    if ctypes.CDLL(None).prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        raise OSError("prctl(PR_SET_IO_FLUSHER)")


class Dm:
    """One device, by name."""

    def __init__(self, name, room=BUFFER - HEAD.size):
        """room: bytes for a reply, at least what a message needs."""
        self.name, self.size = name.encode(), HEAD.size + room
        self.fd = os.open("/dev/mapper/control", os.O_RDWR)

    def message(self, text, sector=0):
        """Send a message; return the reply's text, or None. Raises OSError."""
        body = struct.pack("=Q", sector) + text.encode() + b"\0"
        head = HEAD.pack(4, 0, 0, self.size, HEAD.size, 0, 0, 0, 0, 0, 0,
                         self.name, b"", b"")
        buf = bytearray((head + body).ljust(self.size, b"\0"))
        fcntl.ioctl(self.fd, TARGET_MSG, buf, True)
        if not struct.unpack_from("=I", buf, 28)[0] & DATA_OUT:
            return None
        start = struct.unpack_from("=I", buf, 16)[0]
        return bytes(buf[start:buf.index(0, start)]).decode()

    def pending(self):
        """What waits, as pairs of a kind and a chunk, and whether there is more than the reply held."""
        words = [line.split() for line in self.message("pending").splitlines()]
        return [(kind, int(rest[0])) for kind, *rest in words if rest], ["more"] in words

    def dump(self):
        """The map's runs: virtual chunk, device, physical chunk, length."""
        start = 0
        while start is not None:
            reply, start = self.message(f"dump {start}"), None
            for line in reply.splitlines():
                if line.startswith("more"):
                    start = int(line.split()[1])
                elif not line.startswith("leaving"):
                    yield tuple(int(number) for number in line.split(":")[:4])


if __name__ == "__main__":
    try:
        reply = Dm(sys.argv[1]).message(" ".join(sys.argv[2:]))
    except OSError as e:
        sys.exit(e.strerror)
    if reply:
        print(reply, end="")
