// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tests of volume XML.

use std::time::SystemTime;

use uuid::Uuid;
use virtnotify_model::{VolumeKind, VolumeState};

use super::*;

fn with(inside: &str) -> Result<VolumeDefinition, XmlError> {
    VolumeDefinition::parse(&format!("<volume>{inside}</volume>"), false)
}

#[test]
fn what_virsh_and_a_migration_send_is_read() {
    let virsh = "<volume>\n  <name>disk0</name>\n  <capacity>1073741824</capacity>\n</volume>\n";
    let volume = VolumeDefinition::parse(virsh, true).unwrap();
    assert_eq!(volume.spec(Bytes(1 << 30), Uuid::nil()).allocation, Bytes::ZERO);
    assert_eq!(volume.capacity, Some(Bytes(1 << 30)));
    let migration = "<volume>\n  <name>d</name>\n  <capacity>67108864</capacity>\n  <target>\n    \
                     <format type='raw'/>\n  </target>\n</volume>\n";
    assert_eq!(VolumeDefinition::parse(migration, true).unwrap().allocation, None);
    let units = with(
        "<name>d</name><key>k</key><capacity unit='G'>2</capacity>\
         <allocation unit='MiB'>8</allocation><target><path>/x</path></target>",
    );
    let units = units.unwrap();
    assert_eq!(units.capacity, Some(Bytes(2 << 30)));
    assert_eq!(units.allocation, Some(Bytes(8 << 20)));
}

/// What a client may do is judged by the peek, and what is made by the whole.
#[test]
fn a_peek_sees_the_name_and_the_backing_store_that_are_read() {
    let text = "<volume><name>c1</name><capacity>1</capacity><name>c2</name>\
                <backingStore><path>/dev/notify/vms/a</path></backingStore></volume>";
    let (peeked, read) = (peek_volume(text), VolumeDefinition::parse(text, false).unwrap());
    assert_eq!(peeked.name.as_deref(), Some(read.name.as_str()));
    assert_eq!(peeked.backing, read.backing);
    assert_eq!(peeked.backing.as_deref(), Some("/dev/notify/vms/a"));
    for text in ["<volume", "<pool><name>x</name></pool>", "<!DOCTYPE volume><volume/>"] {
        assert_eq!(peek_volume(text), VolumeXmlPeek::default(), "{text}");
    }
}

#[test]
fn bad_volumes_say_what_is_wrong() {
    for (inside, text) in [
        ("<capacity>1</capacity>", "missing volume name element"),
        ("<name>../x</name><capacity>1</capacity>", "cannot be a volume name"),
        ("<name>a b</name><capacity>1</capacity>", "cannot be a volume name"),
        ("<name>a</name><capacity>x</capacity>", "malformed capacity element"),
        ("<name>a</name><capacity unit='q'>1</capacity>", "unknown suffix 'q'"),
        ("<name>a</name><capacity>9223372036854775808</capacity>", "value too large"),
        ("<name>a</name><target><format type='qcow2'/></target>", "its format is 'raw'"),
        ("<name>a</name><target><encryption format='luks'/></target>", "encryption"),
        (
            "<name>a</name><backingStore><path>/x</path><format type='qcow2'/></backingStore>",
            "backing store of the format 'qcow2'",
        ),
    ] {
        let error = with(inside).unwrap_err().to_string();
        assert!(error.contains(text), "{inside}: {error}");
    }
    let kind = VolumeDefinition::parse("<volume type='x'><name>a</name></volume>", false);
    assert!(matches!(kind, Err(XmlError::Unsupported(_))));
}

fn volume() -> VolumeInfo {
    VolumeInfo {
        pool: "vms".parse().unwrap(),
        name: "disk0".parse().unwrap(),
        uuid: Uuid::from_u128(0x0001_0002_0003_0004_0005_0006_0007_0008),
        kind: VolumeKind::Volume,
        created: SystemTime::UNIX_EPOCH,
        backing: None,
        capacity: Bytes(1 << 30),
        allocation: Bytes(4 << 20),
        exclusive: Bytes(4 << 20),
        path: "/dev/notify/vms/disk0".into(),
        state: VolumeState::Growing,
        openers: 0,
    }
}

#[test]
fn a_volume_is_printed_as_one_of_a_logical_pool() {
    assert_eq!(
        print_volume(&volume(), None),
        "<volume type='block'>
  <name>disk0</name>
  <key>00010002-0003-0004-0005-000600070008</key>
  <capacity unit='bytes'>1073741824</capacity>
  <allocation unit='bytes'>4194304</allocation>
  <physical unit='bytes'>4194304</physical>
  <target>
    <path>/dev/notify/vms/disk0</path>
  </target>
</volume>
"
    );
    let node = std::fs::metadata("/dev/null").unwrap();
    let printed = print_volume(&volume(), Some(&node));
    assert!(printed.contains("    <permissions>\n      <mode>0666</mode>\n      <owner>0</owner>"));
    assert!(printed.contains("    <timestamps>\n      <atime>"));
    let back = VolumeDefinition::parse(&printed, true).unwrap();
    assert_eq!(back.capacity, Some(Bytes(1 << 30)));
    assert_eq!(back.permissions.mode, Some(0o666));
}

#[test]
fn a_backing_store_is_read_and_printed() {
    // What `virsh vol-create-as --backing-vol base --backing-vol-format raw` sends.
    let virsh = "<volume>\n  <name>c1</name>\n  <capacity>1073741824</capacity>\n  \
                 <backingStore>\n    <path>/dev/notify/vms/base</path>\n    \
                 <format type='raw'/>\n  </backingStore>\n</volume>\n";
    let path = |text| VolumeDefinition::parse(text, true).unwrap().backing;
    assert_eq!(path(virsh).as_deref(), Some("/dev/notify/vms/base"));
    // As libvirt has it, a backing store without a path is none.
    assert_eq!(with("<name>a</name><backingStore/>").unwrap().backing, None);
    let backing = Some("base".parse().unwrap());
    let snapshot = VolumeInfo { name: "disk0@a".parse().unwrap(), backing, ..volume() };
    let printed = print_volume(&snapshot, None);
    assert!(
        printed.ends_with(
            "  </target>\n  <backingStore>\n    <path>/dev/notify/vms/base</path>\n  \
             </backingStore>\n</volume>\n"
        ),
        "{printed}"
    );
    assert_eq!(path(&printed).as_deref(), Some("/dev/notify/vms/base"));
    let moved = with_capacity(&printed, Bytes(1)).unwrap();
    assert!(!moved.contains("backingStore") && moved.contains("<key>"), "{moved}");
}

#[test]
fn another_pools_volume_gets_a_capacity_that_is_large_enough() {
    let text = "<?xml version='1.0'?>\n<!-- mine --><volume type='file'>\n  <name>a</name>\n  \
                <capacity unit='M'>1</capacity>\n  <target><capacity>1</capacity>\
                <format type='raw'/></target>\n</volume>\n";
    let larger = with_capacity(text, Bytes(1 << 30)).unwrap();
    let expected = text
        .replace("<capacity unit='M'>1</capacity>", "")
        .replace("'file'>", "'file'><capacity unit='bytes'>1073741824</capacity>");
    assert_eq!(larger, expected);
    let marked = format!("\u{feff}{text}");
    assert_eq!(with_capacity(&marked, Bytes(1 << 30)).unwrap(), expected);
    let same = with_capacity(text, Bytes(1)).unwrap();
    assert!(same.contains("<capacity unit='bytes'>1048576</capacity>"), "{same}");
    let none = with_capacity("<volume><name>a</name><capacity/></volume>", Bytes(7)).unwrap();
    assert_eq!(none, "<volume><capacity unit='bytes'>7</capacity><name>a</name></volume>");
    assert!(with_capacity("<volume/>", Bytes(1)).is_err());
    assert!(with_capacity(&text.replace("'raw'", "'qcow2'"), Bytes(1)).is_err());
    assert!(with_capacity("<pool><name>a</name></pool>", Bytes(1)).is_err());
}

#[test]
fn only_what_is_raw_is_copied_as_it_is() {
    let text = "<volume><name>a</name><capacity unit='KiB'>4</capacity></volume>";
    assert_eq!(raw_capacity(text, "a").unwrap(), Bytes(4096));
    let iso = text.replace("</vol", "<target><format type='iso'/></target></vol");
    assert_eq!(raw_capacity(&iso, "a").unwrap(), Bytes(4096));
    let error = raw_capacity(&iso.replace("iso", "qcow2"), "a").unwrap_err().to_string();
    assert!(error.contains("qemu-img convert"), "{error}");
    assert!(raw_capacity("<volume/>", "a").is_err());
}
