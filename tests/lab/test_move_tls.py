#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# long
"""What is on the wire while a VM moves: everything without TLS, nothing that can be read with it, and then
on one address only. Without certificates a VM that must have TLS stays, and nothing of it is sent.
"""

import subprocess
import sys
import time

from lab import expect, run, say, test, until
from moves import clean_up, guest, pools, states, verdict, volumes

# It writes all through the moves.
BLOCKS = [*range(0, 100)]
CONFIG = "/etc/virtnotify/virtnotify.toml"
KEYS = "/etc/pki/qemu"
BACK = ("virt-notify", "-H", "host2", "migrate", "guest", "--to", "host1")

# Listens to one frame of sixty-four, chosen by chance (an emulated processor has no time for all), and tells how many
# there were, and how many of them have what the guest writes.
WIRETAP = """
import ctypes, select, socket, struct, sys
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
# ld rand; and #63; jeq #0, take, drop; take: ret #262144; drop: ret #0
code = b"".join(struct.pack("HBBI", *step) for step in
                [(0x20, 0, 0, 0xfffff038), (0x54, 0, 0, 63), (0x15, 0, 1, 0), (6, 0, 0, 262144), (6, 0, 0, 0)])
code = ctypes.create_string_buffer(code)
tap.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 5, ctypes.addressof(code)))  # SO_ATTACH_FILTER
tap.bind((sys.argv[1], 0))
seen = found = 0
print("ready", flush=True)
while True:
    readable, _, _ = select.select([tap, sys.stdin], [], [])
    if sys.stdin in readable:
        break
    seen += 1
    found += b" of the guest\\n" in tap.recv(1 << 18)
print(seen, found, flush=True)
"""


class Wiretap:
    """All that passes this host's interface to the other one."""

    def __enter__(self):
        self._tap = subprocess.Popen([sys.executable, "-c", WIRETAP, "eth1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     text=True)
        expect(self._tap.stdout.readline() == "ready\n", "the interface is listened to")
        return self

    def __exit__(self, *error):
        said, _ = self._tap.communicate("")
        self.seen, self.found = map(int, said.split())
        say("wire", f"of {self.seen} frames {self.found} have what the guest wrote")


def certificates():
    """An authority, and for each host a certificate of its name, where QEMU looks for them."""
    run("mkdir", "-p", KEYS)
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    run(*new, "-subj", "/CN=lab", "-keyout", "/tmp/ca-key.pem", "-out", f"{KEYS}/ca-cert.pem",
        "-addext", "keyUsage=critical,keyCertSign")
    # host1 is the last: its own stay here.
    for host in ("host2", "host1"):
        for side, use in (("server", "serverAuth"), ("client", "clientAuth")):
            run(*new, "-CA", f"{KEYS}/ca-cert.pem", "-CAkey", "/tmp/ca-key.pem", "-subj", f"/CN={host}",
                "-keyout", f"{KEYS}/{side}-key.pem", "-out", f"{KEYS}/{side}-cert.pem",
                "-addext", f"subjectAltName=DNS:{host}", "-addext", "basicConstraints=critical,CA:FALSE",
                "-addext", "keyUsage=critical,digitalSignature", "-addext", f"extendedKeyUsage={use}")
        run("sh", "-c", f"chmod a+r {KEYS}/*")
        if host == "host2":
            run("scp", "-qr", KEYS, "host2:/tmp/")
            run("sh", "-c", f"mkdir -p /etc/pki && mv /tmp/qemu {KEYS}", host="host2")


def require_tls():
    """On host2: TLS, on one address of host1, with two connections."""
    run("sh", "-c", f"cp {CONFIG} /tmp/kept.toml && "
        f"sed -i '/^uri/a address = \"192.168.77.1\"' {CONFIG} && "
        f"printf '\\n[move]\\ntls = \"require\"\\nconnections = 2\\n' >>{CONFIG} && "
        "systemctl restart virtnotify-control", host="host2")


def stays():
    """Without certificates the VM stays on host2."""
    with Wiretap() as wire:
        asked = run(*BACK, check=False, seconds=200)
    say("virt-notify", asked.stderr.strip())
    expect(asked.returncode != 0 and "there is no '/etc/pki/qemu/" in asked.stderr, f"the reason is told: {asked.stderr}")
    expect(states("guest") == [None, "running"], "it runs on host2 as before")
    expect(wire.found == 0, "nothing of it was sent")
    until(lambda: volumes() == [], "nothing is left on host1", 60)


def listens():
    """The addresses at which QEMU of this host waits for a VM."""
    lines = run("ss", "-Hltnp").splitlines()
    return {line.split()[3].rsplit(":", 1)[0] for line in lines if "qemu" in line}


def body():
    pools(bandwidth=64)
    vm = guest("guest", BLOCKS, pause=2)
    log1 = vm.start()
    log1.wait(lambda line: line == "wrote 10", "some blocks", 120)
    with Wiretap() as wire:
        run("virt-notify", "migrate", "guest", seconds=200)
    expect(states("guest") == [None, "running"], "it moved to host2")
    expect(wire.found > 100, "all can be read on the way")
    log2 = vm.follow(host="host2")

    require_tls()
    stays()
    certificates()
    with Wiretap() as wire:
        with subprocess.Popen(BACK, text=True, stdout=subprocess.PIPE) as asked:
            seen = set()
            while asked.poll() is None:
                seen |= listens()
                time.sleep(0.3)
            say("virt-notify", asked.stdout.read().splitlines()[-1])
    expect(asked.returncode == 0 and states("guest") == ["running", None], "it moved to host1")
    expect(seen == {"192.168.77.1"}, f"QEMU waited for it at that address alone: {seen}")
    expect(wire.seen > 200 and wire.found == 0, "nothing can be read on the way")
    log3 = vm.follow()
    verdict(log3, BLOCKS)
    for follower in (log1, log2, log3):
        follower.close()
    clean_up("guest")
    run("sh", "-c", f"mv /tmp/kept.toml {CONFIG}; rm -r {KEYS}; systemctl restart virtnotify-control", host="host2")
    run("sh", "-c", f"rm -r {KEYS} /tmp/ca-key.pem")


if __name__ == "__main__":
    test(body)
