// SPDX-License-Identifier: LGPL-2.1-or-later
//! Tests of pool XML.

use proptest::prelude::*;
use virtnotify_model::{AtLowMark, GrowthLimits, LowMark, Overcommit, TimeOfDay, WhenFull, Window};

use super::*;

/// What `virsh pool-define-as vms notify --source-name vg0 --target /dev/notify/vms` sends.
const VIRSH: &str = "<pool type='notify'>
  <name>vms</name>
  <source>
    <name>vg0</name>
  </source>
  <target>
    <path>/dev/notify/vms</path>
  </target>
</pool>
";

fn parse(text: &str) -> Result<PoolDefinition, XmlError> {
    PoolDefinition::parse(text, false)
}

fn with(inside: &str) -> Result<PoolDefinition, XmlError> {
    parse(&format!("<pool type='notify'>{inside}</pool>"))
}

#[test]
fn what_virsh_sends_is_read_and_printed_as_a_logical_pool_would_be() {
    let mut pool = PoolDefinition::parse(VIRSH, true).unwrap();
    pool.uuid = Uuid::from_u128(0x3e3f_ce45_4f53_4fa7_b32e_11f3_4168_b82b);
    let sizes = Standing {
        capacity: Bytes(1 << 30),
        allocation: Bytes(1),
        available: Bytes(2),
        chunk: None,
        drained: false,
    };
    assert_eq!(
        pool.print(PoolType::Notify, &sizes),
        "<pool type='notify'>
  <name>vms</name>
  <uuid>3e3fce45-4f53-4fa7-b32e-11f34168b82b</uuid>
  <capacity unit='bytes'>1073741824</capacity>
  <allocation unit='bytes'>1</allocation>
  <available unit='bytes'>2</available>
  <source>
    <name>vg0</name>
    <format type='lvm2'/>
  </source>
  <target>
    <path>/dev/notify/vms</path>
  </target>
</pool>
"
    );
    let logical = pool.print(PoolType::Logical, &sizes);
    assert!(logical.starts_with("<pool type='logical'>\n  <name>vms</name>"));
}

#[test]
fn a_drained_host_says_so_and_what_it_prints_can_be_defined_again() {
    let pool = PoolDefinition::parse(VIRSH, true).unwrap();
    let drained = Standing { drained: true, ..Standing::default() };
    let printed = pool.print(PoolType::Notify, &drained);
    let says =
        "  <notify:drained xmlns:notify='https://virtnotify.org/xmlns/pool/1.0'/>\n</pool>\n";
    assert!(printed.ends_with(says), "{printed}");
    assert_eq!(PoolDefinition::parse(&printed, true).unwrap(), pool);
    assert!(!pool.print(PoolType::Logical, &drained).contains("drained"));
}

#[test]
fn a_pool_that_is_there_says_which_chunks_it_has() {
    let pool = PoolDefinition::parse(VIRSH, true).unwrap();
    let chunk = ChunkSize::new(Bytes::mib(1)).ok();
    let printed = pool.print(PoolType::Notify, &Standing { chunk, ..Standing::default() });
    assert!(printed.contains(" unit='bytes'>1048576</notify:chunk>\n"), "{printed}");
    let again = PoolDefinition::parse(&printed, true).unwrap();
    assert_eq!(again.spec().chunk, chunk.unwrap());
    assert!(!pool.print(PoolType::Notify, &Standing::default()).contains("chunk"));
}

#[test]
fn what_is_missing_is_filled_in_as_in_a_logical_pool() {
    let pool = with("<name>vms</name>").unwrap();
    assert_eq!(pool.vg.as_str(), "vms");
    let pool = with("<source><name>vg0</name></source>").unwrap();
    assert_eq!(pool.name.as_str(), "vg0");
    assert_ne!(pool.uuid, with("<name>vms</name>").unwrap().uuid);
    assert_eq!(pool.target(), "/dev/notify/vg0");
}

#[test]
fn devices_and_permissions_are_kept() {
    let pool = with(
        "<name>a</name><source><device path='/dev/vdb'/><device path='/dev/v&apos;c'/></source>\
         <target><path>/dev//notify/a/</path><permissions><mode>0750</mode><owner>1</owner>\
         <group>-1</group><label>l&amp;m</label></permissions></target>",
    )
    .unwrap();
    assert_eq!(pool.devices, [PathBuf::from("/dev/vdb"), PathBuf::from("/dev/v'c")]);
    let printed = pool.print(PoolType::Notify, &Standing::default());
    assert!(printed.contains("    <device path='/dev/v&apos;c'/>\n"), "{printed}");
    let permissions = "    <permissions>\n      <mode>0750</mode>\n      <owner>1</owner>\n      \
                       <label>l&amp;m</label>\n    </permissions>\n";
    assert!(printed.contains(permissions), "{printed}");
}

#[test]
fn bad_definitions_say_what_is_wrong() {
    let long = "x".repeat(300);
    let long = format!("<name>{long}</name>");
    for (inside, text) in [
        ("", "missing pool source name element"),
        ("<name>../x</name>", "name ../x cannot contain '/'"),
        ("<name>a b</name>", "'a b' cannot be a pool name"),
        ("<name>-a</name>", "'-a' cannot be a pool name"),
        ("<name>a\nb</name>", "cannot be a pool name"),
        ("<name>%s;</name>", "cannot be a pool name"),
        (long.as_str(), "300 characters"),
        ("<name>a</name><source><name>v g</name></source>", "volume group name"),
        ("<name>a</name><uuid>x</uuid>", "malformed uuid element"),
        ("<name>a</name><target><path>/dev/vg0</path></target>", "can only be '/dev/notify/a'"),
        ("<name>a</name><target><permissions><mode>999</mode></permissions></target>", "octal"),
        ("<name>a</name><target><permissions><owner>x</owner></permissions></target>", "owner"),
        ("<name>a</name><source><format type='zfs'/></source>", "unknown pool format type zfs"),
        ("<name>a</name><source><device/></source>", "source device path"),
        ("<name>a</name><source><device path='vdb'/></source>", "not an absolute path"),
        ("<name>a</name><features><cow state='yes'/></features>", "cow feature"),
    ] {
        let error = with(inside).unwrap_err().to_string();
        assert!(error.contains(text), "{inside}: {error}");
    }
    assert!(matches!(parse("hello"), Err(XmlError::Tree { .. })));
    assert!(matches!(parse("<volume/>"), Err(XmlError::Root { .. })));
    assert!(parse("<pool/>").unwrap_err().to_string().contains("Missing required attribute"));
    assert!(parse("<pool type='dir'/>").unwrap_err().to_string().contains("'dir'"));
}

#[test]
fn a_peek_says_whose_a_pool_is() {
    let peeked = peek(VIRSH);
    assert!(peeked.ours);
    assert_eq!(peeked.name.as_deref(), Some("vms"));
    assert_eq!(peeked.uuid, None);
    let other =
        peek("<pool type='dir'><name>d</name><uuid>3e3fce454f534fa7b32e11f34168b82b</uuid></pool>");
    assert!(!other.ours);
    assert_eq!(other.name.as_deref(), Some("d"));
    assert!(other.uuid.is_some());
    assert_eq!(peek("<pool"), PoolXmlPeek::default());
    assert_eq!(peek("<volume type='notify'/>"), PoolXmlPeek::default());
}

#[test]
fn validation_refuses_what_the_schema_does_not_know() {
    let check =
        |inside: &str| PoolDefinition::parse(&format!("<pool type='notify'>{inside}</pool>"), true);
    assert!(check("<name>a</name>").is_ok());
    for inside in [
        "<name>a</name><x/>",
        "<name>a</name><name>b</name>",
        "<name a='b'>a</name>",
        "<name>a</name>text",
        "<name>a</name><capacity unit='zz'>1</capacity>",
        "<name>a</name><source><device path='vdb'/></source>",
        "<name>a</name><source><format/></source>",
        "<name>a</name><uuid>12</uuid>",
        "<name>a</name><target><path>/x</path></target>",
    ] {
        assert!(matches!(check(inside), Err(XmlError::Schema(_))), "{inside}");
    }
}

prop_compose! {
    fn permissions()(
        mode in prop::option::of(0u32..=0o777),
        owner in prop::option::of(0u32..u32::MAX),
        group in prop::option::of(0u32..u32::MAX),
        label in prop::option::of("[ -~é\n]{1,20}"),
    ) -> Permissions {
        Permissions { mode, owner, group, label }
    }
}

fn size() -> impl Strategy<Value = Option<Bytes>> {
    prop::option::of((1..=i64::MAX.unsigned_abs()).prop_map(Bytes))
}

prop_compose! {
    fn policies()(
        low_mark in prop_oneof![
            (0..=100u8).prop_map(LowMark::Percent),
            (0..=i64::MAX.unsigned_abs()).prop_map(|size| LowMark::Size(Bytes(size))),
        ],
        at_low_mark in
            prop::sample::select(vec![AtLowMark::Nothing, AtLowMark::Warn, AtLowMark::Migrate]),
        when_full in
            prop::sample::select(vec![WhenFull::Migrate, WhenFull::Pause, WhenFull::Error]),
        (largest_volume, bandwidth, one, two) in (size(), size(), size(), size()),
        overcommit in prop::option::of(prop_oneof![
            (0..=9999u32, 1..=99u32).prop_map(|(whole, part)| {
                Overcommit::Ratio(format!("{whole}.{part:02}").parse().unwrap())
            }),
            (1..=i64::MAX.unsigned_abs()).prop_map(|size| Overcommit::Size(Bytes(size))),
        ]),
        (passdown, movable) in any::<(bool, bool)>(),
        window in prop::option::of((0..1440u16, 1..1440u16)),
        daily in prop::option::of(1..=u32::MAX),
    ) -> Policy {
        let (least, most) = if one.is_some() && two.is_some() && one > two { (two, one) } else { (one, two) };
        let growth = GrowthLimits { least, most };
        Policy {
            low_mark,
            at_low_mark,
            when_full,
            largest_volume,
            overcommit,
            growth,
            passdown,
            movable,
            bandwidth,
            window: window.map(|(from, minutes)| {
                let from = TimeOfDay::new(0, 0).unwrap().later(from);
                Window { from, to: from.later(minutes) }
            }),
            daily,
        }
    }
}

prop_compose! {
    fn pools()(
        name in "[A-Za-z0-9+_][A-Za-z0-9+_.-]{0,49}",
        vg in "[A-Za-z0-9+_][A-Za-z0-9+_.-]{0,126}",
        uuid in any::<u128>(),
        devices in prop::collection::vec("/[ -~é]{1,30}", 0..4),
        permissions in permissions(),
        chunk in prop::option::of(16u32..=30),
        policy in prop::option::of(policies()),
    ) -> PoolDefinition {
        PoolDefinition {
            name: name.parse().unwrap(),
            uuid: Uuid::from_u128(uuid),
            vg: vg.parse().unwrap(),
            devices: devices.into_iter().map(PathBuf::from).collect(),
            permissions,
            chunk: chunk.map(|shift| ChunkSize::new(Bytes(1 << shift)).unwrap()),
            policy,
        }
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(pool in pools()) {
        let printed = pool.print(PoolType::Notify, &Standing::default());
        prop_assert_eq!(&PoolDefinition::parse(&printed, true).unwrap(), &pool);
        prop_assert!(peek(&printed).ours);
    }

    #[test]
    fn a_policy_is_set_as_it_is_told(policy in policies()) {
        let settings = policy.settings().into_iter();
        let settings: Vec<_> =
            settings.map(|(name, value)| (name.to_owned(), value.to_string())).collect();
        prop_assert_eq!(super::super::changed_policy(None, &settings).unwrap(), policy);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}") {
        let _ = parse(&text);
        let _ = with(&text);
        let _ = peek(&text);
    }
}

/// They become arguments of LVM's programs.
#[test]
fn the_source_devices_are_paths() {
    let parse = |path: &str| {
        let source = format!("<source><name>vg0</name><device path='{path}'/></source>");
        PoolDefinition::parse(&format!("<pool type='notify'><name>a</name>{source}</pool>"), false)
    };
    assert_eq!(parse("/dev/vdb").unwrap().devices, [std::path::PathBuf::from("/dev/vdb")]);
    let missing = "missing storage pool source device path";
    assert_eq!(parse("").unwrap_err().to_string(), missing);
    for hostile in ["/", "-f", "--yes", "--config=x", "@tag", "vdb", "../vdb", "/dev/a&#10;b"] {
        let error = parse(hostile).unwrap_err().to_string();
        assert!(error.contains("is not an absolute path"), "{hostile}: {error}");
    }
}
