#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many writes at once by one process: 4 KiB into each of N chunks of 64 KiB.

    many.py DEVICE N        ends with 0 when all have ended well
"""
import ctypes
import mmap
import os
import struct
import sys

IO_SETUP, IO_DESTROY, IO_GETEVENTS, IO_SUBMIT = 206, 207, 208, 209      # x86-64
BLOCK, CHUNK = 4096, 65536
PWRITE = 1

libc = ctypes.CDLL(None, use_errno=True)


def call(number, *args):
    result = libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


def main():
    device, count = sys.argv[1], int(sys.argv[2])
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    buf = mmap.mmap(-1, BLOCK)
    buf[:] = b"m" * BLOCK
    address = ctypes.addressof(ctypes.c_char.from_buffer(buf))
    context = ctypes.c_ulong(0)
    call(IO_SETUP, ctypes.c_int(count), ctypes.byref(context))
    # data, key, flags of the read, operation, priority, file; buffer, length, offset; the rest
    blocks = [struct.pack("=QIIHhIQQqQII", i, 0, 0, PWRITE, 0, fd, address, BLOCK, i * CHUNK, 0, 0, 0)
              for i in range(count)]
    kept = ctypes.create_string_buffer(b"".join(blocks))
    start, size = ctypes.addressof(kept), len(blocks[0])
    pointers = (ctypes.c_void_p * count)(*[start + i * size for i in range(count)])
    sent = 0
    while sent < count:
        rest = ctypes.byref(pointers, sent * ctypes.sizeof(ctypes.c_void_p))
        sent += call(IO_SUBMIT, context, ctypes.c_long(count - sent), rest)
    print("submitted", flush=True)
    events = ctypes.create_string_buffer(32 * count)
    call(IO_GETEVENTS, context, ctypes.c_long(count), ctypes.c_long(count), events, None)
    # If the process ended with it, a worker of the kernel would take the ring away beside the end of the memory map,
    # and User Mode Linux reads that map there without its lock, of which lockdep complains.
    call(IO_DESTROY, context)
    bad = 0
    for i in range(count):
        result = struct.unpack_from("=QQqq", events, i * 32)[2]
        bad += result != BLOCK
    sys.exit(f"{bad} of {count} writes failed" if bad else 0)


if __name__ == "__main__":
    main()
