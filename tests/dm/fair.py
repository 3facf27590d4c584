#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asks "pending" with little room for the reply, until all has been named twice.

    fair.py NAME ROOM FROM COUNT DISCARDED...

Writes wait for COUNT chunks from FROM on, and the DISCARDED chunks are to be
told. Fails if a chunk is named twice before all have been named once, if a
discard is told more than once, or if it takes more replies than there is need.
"""
import sys

from dmctl import Dm


def main():
    name, room, first, count = sys.argv[1], *map(int, sys.argv[2:5])
    discarded = sorted(map(int, sys.argv[5:]))
    wanted = list(range(first, first + count))
    dm = Dm(name, room)
    rounds, seen, told, replies = [], [], [], 0
    while len(rounds) < 2:
        waiting, more = dm.pending()
        replies += 1
        seen += [chunk for kind, chunk in waiting if kind == "w"]
        told += [chunk for kind, chunk in waiting if kind == "d"]
        if len(set(seen)) != len(seen):
            sys.exit(f"a chunk was named twice before all were: {seen}")
        if len(seen) == count:
            rounds.append(seen)
            seen = []
        if replies > 4 * (count + len(discarded)):
            sys.exit(f"{replies} replies, and only {len(told)} of {len(discarded)} discards are told")
    if any(sorted(r) != wanted for r in rounds):
        sys.exit(f"{rounds[0]} wait, not {wanted}")
    if sorted(told) != discarded:
        sys.exit(f"the discards of {sorted(told)} were told, not of {discarded}")
    print(f"{replies} replies")


if __name__ == "__main__":
    main()
