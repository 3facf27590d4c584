# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients that do to the proxy what libvirt's library never does: silent ones, slow ones and lying ones, lie after lie,
each over a connection of its own.

A client's lies follow from the seed, its user, its socket and its number alone; how many of them there is time for does not.
"""

import asyncio
import collections
import errno
import multiprocessing
import os
import random
import socket
import struct

from product import DEADLINE, expect

REMOTE, KEEPALIVE = 0x20008086, 0x6B656570
CALL, STREAM, CALL_WITH_FDS, STREAM_HOLE = 0, 3, 4, 6
OK, CONTINUE = 0, 2
OPEN, GET_TYPE, CAPABILITIES, AUTH_LIST, AUTH_POLKIT, REGISTER, IDENTITY = 1, 3, 7, 66, 70, 368, 419
POOL_BY_NAME, POOL_INFO, POOL_XML, VOLUMES, POOLS, VOLUME_XML, PATH = 84, 87, 88, 282, 281, 99, 97
UPLOAD, DOWNLOAD = 208, 209
# What reads, and may therefore be called with anything.
READS = [3, 4, 7, 59, 60, 66, 67, 70, 71, 72, 73, 74, 84, 85, 86, 87, 88, 89, 91, 92, 95, 96, 97, 98, 99, 100, 154, 155,
         157, 281, 282, 368, 369, 378, 391, 403, 5000]
# Longer than anything that waits for us may take, on a machine that does much else.
PATIENCE = 60
LONGEST = 33_554_436
NAMES = [b"vms", b"lied", b"plain", b"..", b"", b"vms\0x", b"\xff\xfe", b"v" * 3000]


def word(number):
    """One word of XDR."""
    return struct.pack(">I", number & 0xFFFFFFFF)


def text(value, length=None):
    """A string of XDR; its length may be a lie."""
    return word(len(value) if length is None else length) + value + bytes(-len(value) % 4)


def frame(procedure, payload=b"", serial=1, kind=CALL, status=OK, program=REMOTE, length=None):
    """A frame; its length may be a lie."""
    length = 28 + len(payload) if length is None else length
    return struct.pack(">IIIiIII", length & 0xFFFFFFFF, program, 1, procedure, kind, serial, status) + payload


def volume(name=b"lied"):
    """How a client names a volume."""
    return text(b"vms") + text(name) + text(b"/dev/notify/vms/" + name)


class Ended(Exception):
    """The other side has ended the connection."""


class Client:
    """One connection of a liar."""

    def __init__(self, chance, place, counts, wrong):
        self.chance, self._place, self._counts, self._wrong = chance, place, counts, wrong
        self._loop = asyncio.get_running_loop()
        self.socket = None

    async def lie(self):
        """Tells one lie."""
        kind, lie = self.chance.choice(LIES)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        try:
            await self._loop.sock_connect(self.socket, self._place)
            self._counts[kind] += 1
            await lie(self)
        except (Ended, ConnectionError):
            self._counts[f"{kind}: ended"] += 1
        finally:
            self.socket.close()

    async def send(self, data):
        """Sends all of it; one that is not read any more gives up after a while."""
        try:
            await asyncio.wait_for(self._loop.sock_sendall(self.socket, data), self.chance.uniform(2, 20))
        except asyncio.TimeoutError:
            self._counts["sending stalled"] += 1
            raise Ended from None

    async def read(self, count):
        """Reads so much; the other side may end instead."""
        data = b""
        while len(data) < count:
            more = await self._loop.sock_recv(self.socket, count - len(data))
            if not more:
                raise Ended
            data += more
        return data

    async def answer(self):
        """Reads a frame."""
        length = struct.unpack(">I", await self.read(4))[0]
        return await self.read(length - 4)

    async def open(self, uri=b"storage:///system"):
        """Says what every client says first, and reads what is said to that."""
        await self.send(frame(AUTH_LIST) + frame(OPEN, word(1) + text(uri) + word(0), 2))
        await self.answer()
        await self.answer()

    async def pool(self):
        """How the pool is named."""
        await self.send(frame(POOL_BY_NAME, text(b"vms"), 3))
        answer = await self.answer()
        return answer[24:] if answer[20:24] == word(OK) else text(b"vms") + bytes(16)

    async def _drain(self):
        """Reads until the other side ends it."""
        while await self._loop.sock_recv(self.socket, 1 << 16):
            pass
        raise Ended

    async def silent(self, most):
        """Says nothing more for a while, and reads what comes."""
        try:
            await asyncio.wait_for(self._drain(), self.chance.uniform(0, most))
        except asyncio.TimeoutError:
            pass

    async def must_end(self, why):
        """Waits until the other side ends it."""
        try:
            await asyncio.wait_for(self._drain(), PATIENCE)
        except asyncio.TimeoutError:
            # One that has to prove who it is waits for its turn before it is heard at all.
            if os.getuid() != 0 and not self._place.endswith("-ro"):
                return
            self._wrong.append(f"a client that {why} is still there after {PATIENCE} s")


async def says_nothing(client):
    """A connection alone."""
    await client.silent(20)


async def begins_a_frame(client):
    """Half a frame, and nothing more. Root's may be large."""
    if client.chance.random() < 0.7:
        await client.open()
    longest = 1 << 20 if os.getuid() == 0 else 262_000
    length = client.chance.randrange(29, client.chance.choice([64, 4096, longest]))
    begun = frame(client.chance.choice(READS), bytes(length - 28))
    await client.send(begun[:client.chance.randrange(1, length)])
    await client.silent(30)


async def trickles(client):
    """A frame byte by byte."""
    await client.open()
    for byte in frame(GET_TYPE, bytes(client.chance.randrange(40))):
        await client.send(bytes([byte]))
        await asyncio.sleep(client.chance.uniform(0, 0.6))


async def wrong_length(client):
    """A length that no frame has."""
    if client.chance.random() < 0.5:
        await client.open()
    length = client.chance.choice([0, 1, 4, 27, LONGEST + 1, 1 << 31, 0xFFFFFFFF])
    await client.send(frame(GET_TYPE, b"", length=length) + client.chance.randbytes(client.chance.randrange(9000)))
    await client.must_end(f"sent a frame of {length} bytes")


async def shorter_than_said(client):
    """Many frames with lengths that run into each other."""
    await client.open()
    for _ in range(client.chance.randrange(1, 30)):
        payload = client.chance.randbytes(client.chance.randrange(400))
        length = 28 + client.chance.randrange(0, len(payload) + 40)
        await client.send(frame(client.chance.choice(READS), payload, length=length))
    await client.silent(10)


async def noise(client):
    """Bytes of no protocol."""
    await client.send(client.chance.randbytes(client.chance.randrange(1, 20000)))
    await client.silent(10)


def send_fds(client, data, count):
    """Sends bytes with descriptors of a pipe on them."""
    ends = os.pipe()
    try:
        socket.send_fds(client.socket, [data], [ends[n % 2] for n in range(count)])
    except BlockingIOError:
        pass
    except OSError as error:
        # So many are under way already.
        if error.errno != errno.ETOOMANYREFS:
            raise
    finally:
        for end in ends:
            os.close(end)


async def needless_descriptors(client):
    """Descriptors with a call that has none."""
    await client.open()
    announced = client.chance.randrange(1, 40)
    await client.send(frame(POOLS, word(announced) + word(1) + word(0), 3, CALL_WITH_FDS))
    for _ in range(client.chance.randrange(0, announced + 3)):
        send_fds(client, b"\0", client.chance.randrange(1, 20))
    await client.must_end(f"announced {announced} descriptors that its call has not")


async def unasked_descriptors(client):
    """Descriptors that hang on a frame which announces none."""
    await client.open()
    for serial in range(3, client.chance.randrange(4, 30)):
        send_fds(client, frame(GET_TYPE, serial=serial), client.chance.randrange(1, 100))
    await client.silent(5)


def some_call(chance, pool, serial):
    """A call as libvirt's library makes it."""
    return chance.choice([
        frame(POOLS, word(1) + word(0), serial), frame(POOL_XML, pool + word(0), serial), frame(POOL_INFO, pool, serial),
        frame(VOLUMES, pool + word(1) + word(0), serial), frame(CAPABILITIES, serial=serial),
        frame(VOLUME_XML, volume() + word(0), serial), frame(PATH, text(b"/nowhere"), serial)])


async def reads_no_answer(client):
    """Calls until nothing more goes in, and no answer is read."""
    await client.open()
    pool = await client.pool()
    for serial in range(4, 4 + client.chance.randrange(2000)):
        await client.send(some_call(client.chance, pool, serial))
    await asyncio.sleep(client.chance.uniform(0, 15))


async def floods(client):
    """Calls and pings in a row; all answers are read."""
    await client.open()
    pool = await client.pool()
    calls = client.chance.randrange(1, 300)
    sent = [some_call(client.chance, pool, serial) for serial in range(4, 4 + calls)]
    sent += [frame(1, program=KEEPALIVE, kind=2)] * client.chance.randrange(20)
    reading = asyncio.ensure_future(client.silent(10))
    try:
        await client.send(b"".join(sent))
    finally:
        await asyncio.gather(reading, return_exceptions=True)


async def lies_in_arguments(client):
    """Calls that read, with arguments of other calls, of no call, and with counts and lengths that are not so."""
    await client.open()
    chance = client.chance
    for serial in range(3, 3 + chance.randrange(1, 60)):
        name = chance.choice(NAMES)
        payload = chance.choice([
            text(name), text(name) + bytes(16), text(name) + chance.randbytes(16) + word(0x7FFFFFFF), text(name) * 3 + word(0),
            text(b"x", chance.choice([2, 5000, 0x7FFFFFFF, 0xFFFFFFFF])), word(0xFFFFFFFF) * 4,
            chance.randbytes(chance.randrange(300)), b""])
        await client.send(frame(chance.choice(READS), payload, serial))
    await client.silent(5)


async def authenticates_again(client):
    """The questions about who it is, over and over, and calls before and between."""
    for serial in range(1, client.chance.randrange(2, 40)):
        await client.send(client.chance.choice([
            frame(AUTH_LIST, serial=serial), frame(AUTH_POLKIT, serial=serial), frame(POOLS, word(1) + word(0), serial),
            frame(67, serial=serial), frame(OPEN, word(1) + text(client.chance.choice(NAMES)) + word(0), serial),
            frame(IDENTITY, word(1) + text(b"unix-user-id") + word(4) + bytes(8) + word(0), serial)]))
    await client.silent(5)


async def listens(client):
    """Registers for events, again and again, and goes."""
    await client.open()
    for serial in range(3, 3 + client.chance.randrange(1, 50)):
        await client.send(frame(REGISTER, word(client.chance.randrange(3)) + word(0), serial))
    await client.silent(10)


async def leaves_a_stream(client):
    """Uploads and downloads that are cut in the middle, and frames of streams that are not. It reads some of what comes."""
    await client.open()
    chance = client.chance
    procedure = chance.choice([UPLOAD, DOWNLOAD])
    streams = chance.randrange(1, 6)
    for serial in range(3, 3 + streams):
        await client.send(frame(procedure, volume() + struct.pack(">QQ", 0, 0) + word(0), serial))
    for _ in range(chance.randrange(10)):
        serial = chance.randrange(3, 5 + streams)
        kind = chance.choice([STREAM, STREAM, STREAM, STREAM_HOLE])
        payload = chance.randbytes(chance.choice([0, 12, 65536, 262_120]))
        await client.send(frame(procedure, payload, serial, kind, chance.choice([CONTINUE, CONTINUE, CONTINUE, OK, 1, 7])))
    if chance.random() < 0.5:
        await client.silent(3)


LIES = [(lie.__name__, lie) for lie in (
    says_nothing, begins_a_frame, trickles, wrong_length, shorter_than_said, noise, needless_descriptors,
    unasked_descriptors, reads_no_answer, floods, lies_in_arguments, authenticates_again, listens, leaves_a_stream)]


async def _lives(chance, place, counts, wrong):
    """Lie after lie."""
    while True:
        try:
            await asyncio.wait_for(Client(chance, place, counts, wrong).lie(), 3 * PATIENCE)
        except asyncio.TimeoutError:
            counts["given up"] += 1
        # One that was turned away at once does not spin.
        await asyncio.sleep(chance.uniform(0.05, 0.5))


async def _live(name, clients, place, end):
    """So many of them, until the other end of the pipe says so."""
    counts, wrong = collections.Counter(), []
    lives = [asyncio.ensure_future(_lives(random.Random(f"{name} {number}"), place, counts, wrong))
             for number in range(clients)]
    ended = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(end.fileno(), lambda: ended.done() or ended.set_result(None))
    done, _ = await asyncio.wait([ended, *lives], return_when=asyncio.FIRST_COMPLETED)
    if ended not in done:
        done.pop().result()
    end.send((counts, wrong))


def _be(seed, user, clients, place, end):
    """The process of a user's clients. It gives way to all others."""
    os.nice(19)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    end.recv()
    asyncio.run(_live(f"{seed} {user} {place}", clients, place, end))


class Liars:
    """Clients of one user at one socket, in a process of their own. They begin when they are told to. To be made before
    there is any thread."""

    def __init__(self, seed, user, clients, place):
        context = multiprocessing.get_context("fork")
        self._end, theirs = context.Pipe()
        self._process = context.Process(target=_be, args=(seed, user, clients, place, theirs), daemon=True)
        self._process.start()

    def begin(self):
        """Has them begin."""
        self._end.send(None)

    def alive(self):
        """Whether they are at it."""
        return self._process.is_alive()

    def end(self):
        """Ends them in the middle of whatever they do, and has them give way no more."""
        os.setpriority(os.PRIO_PROCESS, self._process.pid, 0)
        self._end.send(None)

    def told(self):
        """After that: how often each lie was told and how often the other side ended it; and what should not have been."""
        expect(self._end.poll(DEADLINE), "the liars to tell what they did")
        told = self._end.recv()
        self._process.kill()
        self._process.join(DEADLINE)
        return told
