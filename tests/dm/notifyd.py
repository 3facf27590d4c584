#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The smallest grow handler: maps what "pending" names, one chunk after another.

    notifyd.py NAME [--signo N] [--dev D] [--first P] [--limit N] [--run N]
               [--watch] [--rounds N] [--sweep SECONDS]

--first   first physical chunk to give out; what the kernel's map already
          uses is skipped, so a restarted handler goes on where it was
--limit   chunks to give out before "nospace"
--run     chunks mapped from each wanted one on
--watch   a run's last chunk is watched, and its first write maps the next run
--rounds  stop after so many signals
--sweep   look after so many seconds without a signal
"""
import argparse
import os
import signal
import sys

from dmctl import Dm, be_io_flusher


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("name")
    p.add_argument("--signo", type=int, default=signal.SIGRTMIN + 1)
    p.add_argument("--dev", type=int, default=0)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--limit", type=int, default=1 << 40)
    p.add_argument("--run", type=int, default=1)
    p.add_argument("--watch", action="store_true")
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--sweep", type=float, default=3600)
    return p.parse_args()


class Handler:
    def __init__(self, args):
        self.args = args
        self.dm = Dm(args.name)
        self.next = args.first
        self.mapped = set()
        self.chunks = None
        self.load()

    def load(self):
        """The kernel's map is the truth: go on behind it."""
        for v, d, p, n in self.dm.dump():
            self.mapped.update(range(v, v + n))
            if d == self.args.dev:
                self.next = max(self.next, p + n)

    def grow(self, v):
        n = 1
        while n < self.args.run and v + n not in self.mapped:
            n += 1
        n = min(n, self.args.limit)
        if n <= 0:
            self.dm.message("nospace")
            return
        run = f"{v}:{self.args.dev}:{self.next}:{n}"
        if self.args.watch:
            run = f"{v}:{self.args.dev}:{self.next}:{n - 1} " if n > 1 else ""
            run += f"{v + n - 1}:{self.args.dev}:{self.next + n - 1}:1:w"
        try:
            self.dm.message("map " + run)
        except OSError:
            if n == 1:
                raise
            # The run reaches over the volume's end.
            self.dm.message(f"map {v}:{self.args.dev}:{self.next}:1")
            n = 1
        self.mapped.update(range(v, v + n))
        self.next += n
        self.args.limit -= n

    def serve(self):
        more = True
        while more:
            waiting, more = self.dm.pending()
            for kind, v in waiting:
                if kind == "w" and v not in self.mapped:
                    self.grow(v)
                elif kind == "a" and v + 1 not in self.mapped:
                    try:
                        self.grow(v + 1)
                    except OSError:
                        pass        # the volume ends here


def main():
    args = arguments()
    be_io_flusher()
    signal.pthread_sigmask(signal.SIG_BLOCK, {args.signo})
    handler = Handler(args)
    handler.dm.message(f"notifier {os.getpid()} {args.signo}")
    print("ready", flush=True)
    rounds = 0
    while not args.rounds or rounds < args.rounds:
        # The signal is a doorbell; look now and then without it, too.
        signal.sigtimedwait({args.signo}, args.sweep)
        handler.serve()
        rounds += 1


if __name__ == "__main__":
    sys.exit(main())
