#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads the log of a dm-log-writes device and writes again what a disk would have after a power cut.

The target logs a write once it has completed, and at a flush all that had completed before it, then
the flush. So what stands between two flushes in the log was not on the disk for certain when the
later one had not ended yet. The format is in the kernel's Documentation/admin-guide/device-mapper/
log-writes.rst and drivers/md/dm-log-writes.c.
"""

import os
import struct

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6A736677736872
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")


class Entry:
    """One write, flush, discard or mark, and where in the log its data is."""

    def __init__(self, sector, sectors, flags, data, mark):
        self.sector, self.sectors, self.flags, self.data, self.mark = sector, sectors, flags, data, mark


class Log:
    """All entries of a log, in the order in which the target wrote them."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_RDONLY)
        magic, version, count, self.sector_size = SUPER.unpack(os.pread(self._fd, SUPER.size, 0))
        if (magic, version) != (MAGIC, 1):
            raise ValueError(f"{path} holds no log of dm-log-writes")
        self.entries = []
        at = self.sector_size
        for _ in range(count):
            head = os.pread(self._fd, self.sector_size, at)
            sector, sectors, flags, length = ENTRY.unpack_from(head)
            at += self.sector_size
            mark = head[ENTRY.size:ENTRY.size + length].rstrip(b"\0").decode() if flags & MARK else None
            self.entries.append(Entry(sector, sectors, flags, at, mark))
            if not flags & DISCARD:
                at += sectors * self.sector_size

    def flushes(self):
        """The numbers of the entries that end with a flush."""
        return [number for number, entry in enumerate(self.entries) if entry.flags & FLUSH]

    def marks(self, until):
        """The marks before an entry."""
        return [entry.mark for entry in self.entries[:until] if entry.mark is not None]

    def write(self, entry, fd):
        """Writes an entry's data to a disk; a flush without data and a mark have none."""
        size, place = entry.sectors * self.sector_size, entry.sector * self.sector_size
        if not size or entry.flags & MARK:
            return
        data = bytes(size) if entry.flags & DISCARD else os.pread(self._fd, size, entry.data)
        if os.pwrite(fd, data, place) != size:
            raise OSError("a short write")
