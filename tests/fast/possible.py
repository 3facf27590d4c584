# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each block of a volume may hold, while it is written, shown by snapshots and killed under.

A block is told by a tag, which no two writes share; 0 is zeroes. An acknowledged write leaves exactly one
tag possible, one that is under way its own beside those before. A discard promises nothing: until the block is
written again it reads as zeroes or as before, also as one after the other where the daemon was killed between.
"""

import contextlib
import itertools
import struct
import threading
import time

BLOCK = 4096
ZERO = frozenset([0])
_TAGS = itertools.count(1)


def content(tag, block):
    """A block as a write with this tag leaves it: it tells its place, too."""
    return struct.pack("<QQ", tag, block) * (BLOCK // 16) if tag else bytes(BLOCK)


def told(data):
    """What a block tells of itself."""
    tag, block = struct.unpack_from("<QQ", data)
    whole = data == content(tag, block)
    return f"write {tag} of block {block}" if whole and tag else "zeroes" if whole else f"{data[:16].hex()}, torn"


class Journal:
    """All requests, for the report of a failure."""

    def __init__(self):
        self._requests = []

    @contextlib.contextmanager
    def request(self, volume, first, count, text):
        """A request, from before it is sent until it is acknowledged."""
        entry = [volume, first, count, f"{time.monotonic():.3f} {text}", "not acknowledged"]
        self._requests.append(entry)
        yield
        entry[-1] = f"acknowledged {time.monotonic():.3f}"

    def tell(self, volume, block):
        """The last requests that met a block of a volume."""
        met = [entry for entry in self._requests if entry[0] == volume and entry[1] <= block < entry[1] + entry[2]]
        return "; ".join(f"{text} of {count} at {first}, {end}" for _, first, count, text, end in met[-6:])


class Blocks:
    """What the blocks of a volume or a snapshot may hold; those that are not named are zeroes."""

    def __init__(self, tags=None):
        self.tags = {} if tags is None else tags
        self._discarded = set()
        self._windows = []
        self._lock = threading.Lock()

    def copy(self):
        """The same, of another volume."""
        with self._lock:
            return Blocks(dict(self.tags))

    def cut(self, end):
        """The volume ends there now."""
        self.tags = {block: tags for block, tags in self.tags.items() if block < end}

    @contextlib.contextmanager
    def window(self):
        """What a snapshot that is taken inside may show."""
        with self._lock:
            shown = Blocks(dict(self.tags))
            self._windows.append(shown)
        try:
            yield shown
        finally:
            with self._lock:
                self._windows.remove(shown)

    @contextlib.contextmanager
    def change(self, verb, first, count, tag):
        """A request, from before it is sent until it is acknowledged; one that fails may have happened or not."""
        blocks = range(first, first + count)
        with self._lock:
            for seen in [self, *self._windows]:
                for block in blocks:
                    seen.tags[block] = seen.tags.get(block, ZERO) | {tag}
        yield
        with self._lock:
            if verb == "discard":
                self._discarded.update(blocks)
                return
            self._discarded.difference_update(blocks)
            self.tags.update(dict.fromkeys(blocks, frozenset([tag])))

    def wrong(self, piece, first):
        """The first of the blocks in `piece`, which begins at block `first`, that holds what it cannot: its number and
        its data; none is None. Blocks of which there are several possibilities are settled by this look."""
        for number in range(len(piece) // BLOCK):
            block, data = first + number, piece[number * BLOCK:(number + 1) * BLOCK]
            tags = self.tags.get(block, ZERO)
            held = next((tag for tag in tags if data == content(tag, block)), None)
            if held is None:
                return block, data
            if len(tags) > 1 and block not in self._discarded:
                self.tags[block] = frozenset([held])
        return None


def new_tag():
    """A tag of a new write."""
    return next(_TAGS)
