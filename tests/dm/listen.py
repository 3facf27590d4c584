#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Says what each signal of the target carries: number, code, pid, value.

    listen.py NAME [--queue N]      N: RLIMIT_SIGPENDING while it listens

A thread listens, not the process: the signal goes to exactly whom it names.
"""
import argparse
import ctypes
import resource
import signal
import threading

from dmctl import Dm

SIGNO = 40


def listen(args):
    if args.queue is not None:
        limits = resource.getrlimit(resource.RLIMIT_SIGPENDING)
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (args.queue, limits[1]))
    Dm(args.name).message(f"notifier {threading.get_native_id()} {SIGNO}")
    print("ready", flush=True)
    libc = ctypes.CDLL(None, use_errno=True)
    mask = (ctypes.c_ulong * 16)(1 << (SIGNO - 1))
    # si_signo, si_errno, si_code, padding, si_pid, si_uid, si_int
    info = (ctypes.c_int * 32)()
    while libc.sigwaitinfo(mask, info) > 0:
        print(info[0], info[2], info[4], info[6], flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("name")
    p.add_argument("--queue", type=int)
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNO})
    thread = threading.Thread(target=listen, args=(p.parse_args(),))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
