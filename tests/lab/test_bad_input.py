#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# lab: --kernel fast
"""Bad input gets a sentence and changes nothing, through plain virsh."""

from lab import expect, fields, make_pool, pool_bytes, refused, remove_pool, run, test, vg_free, virsh

LONG = "x" * 300
BAD_NAMES = ["../x", "a b", "-dash", ".", "..", "a/b", "a;b", "a:b", LONG]


def pool_xml(name="other", uuid="", source="vg0", target=None):
    uuid = f"<uuid>{uuid}</uuid>" if uuid else ""
    target = target or f"/dev/notify/{name}"
    return (f"<pool type='notify'><name>{name}</name>{uuid}<source><name>{source}</name></source>"
            f"<target><path>{target}</path></target></pool>")


def file_of(text):
    with open("/tmp/bad.xml", "w", encoding="utf-8") as file:
        file.write(text)
    return "/tmp/bad.xml"


def state():
    """All that must not change."""
    return (virsh("pool-list", "--all", "--uuid"), virsh("vol-list", "vms"), pool_bytes("vms"),
            vg_free("vg0"), run("dmsetup", "table"), run("ls", "-R", "/etc/virtnotify", "/dev/notify"))


def bad_pools(uuid):
    refused("pool-define", file_of("<volume/>"), says="pool")
    refused("pool-define", file_of("this is not XML"), says="XML")
    refused("pool-define", file_of("<!DOCTYPE p [<!ENTITY a 'b'>]>" + pool_xml()), says="")
    refused("pool-define", file_of(pool_xml(uuid=uuid, source="vg9")), says=uuid)
    refused("pool-define", file_of(pool_xml(name="vms", uuid="1b5c5d3c-9c6e-4b52-8f0e-0d2f6a1f5f11")), says="vms")
    refused("pool-define", file_of(pool_xml(uuid="no-uuid")), says="")
    refused("pool-define", file_of(pool_xml(target="/etc")), says="/dev/notify/other")
    refused("pool-define", file_of(pool_xml()), says="vg0")  # that source is another pool's
    for name in BAD_NAMES:
        refused("pool-define", file_of(pool_xml(name=name, source="vg9")), says="")
        refused("pool-define", file_of(pool_xml(source=name)), says="")


def bad_volumes():
    for name in BAD_NAMES:
        xml = f"<volume><name>{name}</name><capacity>1048576</capacity></volume>"
        refused("vol-create", "vms", file_of(xml), says="")
    refused("vol-create-as", "vms", "disk0", "1G", says="disk0")
    for capacity in ("0", str(2**63), str(2**64 - 1), str(2**60)):
        xml = f"<volume><name>big</name><capacity>{capacity}</capacity></volume>"
        refused("vol-create", "vms", file_of(xml), says="")
    refused("vol-create-as", "vms", "q", "1G", "--format", "qcow2", says="raw")
    refused("vol-create", "vms", file_of("<pool/>"), says="volume")
    refused("vol-delete", "nothing", "vms", says="nothing")
    refused("vol-info", "../../vda", "vms", says="")


def unknown_group():
    """As with libvirt's own pools, the definition is taken, and the start says what is missing."""
    virsh("pool-define", file_of(pool_xml(name="lost", source="no-such-vg")))
    refused("pool-start", "lost", says="the volume group 'no-such-vg' does not exist")
    expect(fields(virsh("pool-info", "lost"))["State"] == "inactive", "a pool without a group stays inactive")
    virsh("pool-undefine", "lost")


def bad_input():
    make_pool()
    virsh("vol-create-as", "vms", "disk0", "64M")
    uuid = virsh("pool-uuid", "vms").strip()
    before = state()
    bad_pools(uuid)
    bad_volumes()
    unknown_group()
    expect(state() == before, "bad input changes nothing")
    refused("pool-undefine", "vms", says="active")
    virsh("vol-delete", "disk0", "vms")
    remove_pool("vms")


if __name__ == "__main__":
    test(bad_input, needs_host2=False)
