// SPDX-License-Identifier: LGPL-2.1-or-later
//! The schemas under `xml-schemas/` against the driver: what it prints is valid, and what it
//! calls valid is what the schemas call valid. Needs `xmllint` (libxml2-utils).

#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use uuid::Uuid;
use virtnotify_driver::xml::{
    PoolDefinition, PoolType, Standing, VolumeDefinition, XmlError, print_volume, sources,
};
use virtnotify_model::{Bytes, PoolSource, VolumeInfo, VolumeKind, VolumeState};

/// Elements that only pools of type `notify` have.
const NOTIFY: &str = "xmlns='https://virtnotify.org/xmlns/pool/1.0'";

/// Whether a schema allows a text.
fn allows(schema: &str, text: &str) -> bool {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xml-schemas");
    let mut child = Command::new("xmllint")
        .args(["--noout", "--nonet", "--relaxng"])
        .arg(schemas.join(schema))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // 3 and 4: the text is not valid; anything else is a fault of the schema or of the test.
    match output.status.code() {
        Some(0) => true,
        Some(3 | 4) => false,
        _ => panic!("{text}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn check_pool(text: &str) -> bool {
    let said = match PoolDefinition::parse(text, true) {
        Ok(_) => true,
        Err(XmlError::Schema(_)) => false,
        Err(other) => panic!("{text}: {other}"),
    };
    let allowed = allows("virtnotify-pool.rng", text);
    assert_eq!(said, allowed, "the driver ({said}) and the schema differ about {text}");
    said
}

fn check_volume(text: &str) -> bool {
    let said = !matches!(VolumeDefinition::parse(text, true), Err(XmlError::Schema(_)));
    let allowed = allows("virtnotify-volume.rng", text);
    assert_eq!(said, allowed, "the driver ({said}) and the schema differ about {text}");
    said
}

#[test]
#[ignore = "needs xmllint"]
fn printed_pools_are_valid() {
    let full = "<pool type='notify'><name>a.b-c</name><source><device path='/dev/v&lt;b'/>\
                <device path='/dev/vdc'/><name>vg0</name><format type='lvm2'/></source>\
                <target><permissions><mode>0711</mode><owner>0</owner><group>0</group>\
                <label>a &amp; b</label></permissions></target><n:chunk unit='KiB' \
                xmlns:n='https://virtnotify.org/xmlns/pool/1.0'>256</n:chunk><policy \
                xmlns='https://virtnotify.org/xmlns/pool/1.0'><growth><most>9</most></growth>\
                <migration><bandwidth>1</bandwidth></migration></policy></pool>";
    let (allocation, available) = (Bytes(2), Bytes(u64::MAX));
    for (text, drained) in [(full, true), ("<pool type='notify'><name>vms</name></pool>", false)] {
        let pool = PoolDefinition::parse(text, false).unwrap();
        let standing = Standing { capacity: Bytes(1), allocation, available, chunk: None, drained };
        assert!(check_pool(&pool.print(PoolType::Notify, &standing)));
    }
}

#[test]
#[ignore = "needs xmllint"]
fn printed_volumes_are_valid() {
    let volume = VolumeInfo {
        pool: "vms".parse().unwrap(),
        name: "disk0".parse().unwrap(),
        uuid: Uuid::from_u128(7),
        kind: VolumeKind::Volume,
        created: SystemTime::UNIX_EPOCH,
        backing: None,
        capacity: Bytes(1 << 30),
        allocation: Bytes(4 << 20),
        exclusive: Bytes(4 << 20),
        path: "/dev/notify/vms/disk0".into(),
        state: VolumeState::Growing,
        openers: 0,
    };
    let node = std::fs::metadata("/dev/null").unwrap();
    assert!(check_volume(&print_volume(&volume, Some(&node))));
    assert!(check_volume(&print_volume(&volume, None)));
    let (name, backing) = ("disk0@a".parse().unwrap(), Some("disk0".parse().unwrap()));
    let snapshot = VolumeInfo { name, backing, kind: VolumeKind::Snapshot, ..volume };
    assert!(check_volume(&print_volume(&snapshot, None)));
}

#[test]
#[ignore = "needs xmllint"]
fn the_driver_and_the_pool_schema_agree() {
    let name = "<name>a</name>";
    let source = |inside: &str| format!("{name}<source>{inside}</source>");
    let target = |inside: &str| format!("{name}<target>{inside}</target>");
    let policy = |inside: &str| format!("{name}<policy {NOTIFY}>{inside}</policy>");
    let permissions = |inside: &str| target(&format!("<permissions>{inside}</permissions>"));
    let valid = [
        "<source><name>vg</name></source>".to_owned(),
        format!("<!-- a comment -->{name}<uuid>3E3FCE454f534fa7b32e11f34168b82b</uuid>"),
        format!("<source/><target/>{name}"),
        format!("{name}<capacity unit='KiB'>7</capacity><available>1</available>"),
        source("<device path='/dev/a'/><name>vg</name><device path='/dev/b'/>"),
        source("<format type='lvm2'/>"),
        target("<path>/dev/notify/a</path>"),
        permissions("<group>4294967294</group><owner>-1</owner><mode>777</mode><label/>"),
        policy(""),
        policy("<lowMark unit='%' action='migrate'>20</lowMark><full action='error'/>"),
        policy("<largestVolume unit='G'>1</largestVolume><lowMark action='nothing'/>"),
        policy("<overcommit unit='ratio'>2.0</overcommit>"),
        policy("<migration><window to='06:00' from='22:00'/><daily>3</daily></migration>"),
        policy("<overcommit unit='ratio'>2</overcommit>"),
        policy("<overcommit unit='TiB'>2</overcommit>"),
        policy("<overcommit>2</overcommit>"),
        policy("<passdown enabled='yes'/>"),
        policy("<passdown/>"),
        policy("<growth><most>2</most><least>1</least></growth><migration allowed='no'/>"),
        format!("{name}<chunk {NOTIFY} unit='MiB'>4</chunk>"),
    ];
    for inside in valid {
        let text = format!("<pool type='notify'>{inside}</pool>");
        assert!(check_pool(&text), "{text}");
    }
    let invalid = [
        policy("<migration><window from='22:00'/></migration>"),
        policy("<migration><window from='24:00' to='01:00'/></migration>"),
        policy("<migration><window from='9:00' to='01:00'/></migration>"),
        policy("<migration><daily>0</daily></migration>"),
        policy("<migration><daily>00</daily></migration>"),
        policy("<migration><daily>4294967296</daily></migration>"),
        format!("{name}<x/>"),
        format!("{name}{name}"),
        format!("{name}text"),
        "<name>a b</name>".to_owned(),
        "<name>-a</name>".to_owned(),
        "<name>..</name>".to_owned(),
        "<name/>".to_owned(),
        "<name> a</name>".to_owned(),
        format!("<name>{}</name>", "x".repeat(51)),
        "<name x='y'>a</name>".to_owned(),
        format!("{name}<uuid>3e3fce45-4f53-4fa7-b32e-11f34168b82</uuid>"),
        format!("{name}<capacity unit=''>1</capacity>"),
        format!("{name}<capacity unit='KIBI'>1</capacity>"),
        format!("{name}<capacity> 7 </capacity>"),
        format!("{name}<capacity>1.5</capacity>"),
        format!("{name}<capacity>18446744073709551616</capacity>"),
        format!("{name}<capacity><x/></capacity>"),
        source("<device/>"),
        source("<device path='dev'/>"),
        source("<device path='/'/>"),
        source("<device path='/a'>b</device>"),
        source("<format type='lvm1'/>"),
        source("<format type=' lvm2'/>"),
        source("<format/>"),
        source("<name>a/b</name>"),
        target("<path>/dev/vg0</path>"),
        target("<path>/dev/notify/a/b</path>"),
        permissions("<mode>8</mode>"),
        permissions("<owner>x</owner>"),
        permissions("<owner> -1</owner>"),
        permissions("<group>4294967296</group>"),
        permissions("<x/>"),
        format!("{name}<policy/>"),
        format!("{name}<policy xmlns='https://example.org/'/>"),
        format!("{name}<chunk {NOTIFY}/>"),
        policy("<lowMark>x</lowMark>"),
        policy("<lowMark action='run'/>"),
        policy("<lowMark unit='x'>1</lowMark>"),
        policy("<full/><full/>"),
        policy("<full>x</full>"),
        policy("<largestVolume unit='%'>1</largestVolume>"),
        policy("<passdown enabled='on'/>"),
        policy("<passdown>yes</passdown>"),
        policy("<overcommit/>"),
        policy("<overcommit unit='%'>200</overcommit>"),
        policy("<overcommit unit='ratio'>.5</overcommit>"),
        policy("<overcommit unit='ratio'>1.</overcommit>"),
        policy("<overcommit unit='ratio'>1.255</overcommit>"),
        policy("<overcommit unit='ratio'>-1</overcommit>"),
        policy("<overcommit>1</overcommit><overcommit>1</overcommit>"),
        policy("<migration allowed='true'/>"),
        policy("<x/>"),
    ];
    for inside in invalid {
        let text = format!("<pool type='notify'>{inside}</pool>");
        assert!(!check_pool(&text), "{text}");
    }
    assert!(!check_pool("<pool type='notify' x='y'><name>a</name></pool>"));
}

#[test]
#[ignore = "needs xmllint"]
fn the_driver_and_the_volume_schema_agree() {
    let name = "<name>a</name>";
    for inside in [
        format!("{name}<capacity>1</capacity>"),
        format!("<capacity unit='G'>1</capacity>{name}<allocation unit='bytes'>0</allocation>"),
        format!("{name}<target><format type='raw'/></target>"),
        format!("{name}<key>any&lt;</key><target><path>/x</path><timestamps/></target>"),
        format!("<name>{}</name>", "x".repeat(69)),
        format!("<name>{}@{}</name>", "x".repeat(60), "y".repeat(8)),
        "<name>.a@..b</name>".to_owned(),
        "<name>...@.-</name>".to_owned(),
        format!("{name}<backingStore><path>/x</path></backingStore>"),
        format!("{name}<backingStore><format type='raw'/><path>/x</path></backingStore>"),
    ] {
        assert!(check_volume(&format!("<volume type='block'>{inside}</volume>")), "{inside}");
    }
    for inside in [
        String::new(),
        format!("<name>{}</name>", "x".repeat(70)),
        "<name>a/b</name>".to_owned(),
        format!("{name}<capacity unit='x'>1</capacity>"),
        format!("{name}<capacity/>"),
        format!("{name}<target><format type='qcow2'/></target>"),
        format!("{name}<target><path>x</path></target>"),
        format!("<name>{}@{}</name>", "x".repeat(60), "y".repeat(9)),
        "<name>a@</name>".to_owned(),
        "<name>@a</name>".to_owned(),
        "<name>a@b@c</name>".to_owned(),
        "<name>a@.</name>".to_owned(),
        "<name>..@a</name>".to_owned(),
        "<name>a@-b</name>".to_owned(),
        format!("{name}<backingStore/>"),
        format!("{name}<backingStore><path>x</path></backingStore>"),
        format!("{name}<backingStore><path>/x</path><format type='qcow2'/></backingStore>"),
        format!("{name}<target><timestamps><x/></timestamps></target>"),
    ] {
        assert!(!check_volume(&format!("<volume>{inside}</volume>")), "{inside}");
    }
    assert!(!check_volume(&format!("<volume type='x'>{name}</volume>")));
}

#[test]
#[ignore = "needs xmllint"]
fn sources_are_valid_where_they_are_to_be_used() {
    let source = PoolSource { vg: "vg0".parse().unwrap(), devices: vec!["/dev/vdb".into()] };
    let text = sources(&[source]);
    let inside = text.strip_prefix("<sources>").unwrap().strip_suffix("</sources>\n").unwrap();
    assert!(check_pool(&format!("<pool type='notify'><name>a</name>{inside}</pool>")));
}

/// The blocks of XML in a document of Markdown.
fn examples(text: &str) -> Vec<&str> {
    let blocks = text.split("```xml\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

#[test]
#[ignore = "needs xmllint"]
fn the_examples_in_the_documents_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = ["docs", "docs/operator", "docs/developer"].map(|folder| root.join(folder));
    let documents = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let documents = documents.map(|entry| entry.unwrap().path()).chain([root.join("README.md")]);
    let mut pools = 0;
    for path in documents.filter(|path| path.extension().is_some_and(|ext| ext == "md")) {
        let text = std::fs::read_to_string(&path).unwrap();
        for example in examples(&text) {
            let example = example.trim();
            if example.starts_with("<pool") {
                pools += 1;
                assert!(check_pool(example), "{}: {example}", path.display());
            } else if example.starts_with("<volume") {
                assert!(check_volume(example), "{}: {example}", path.display());
            } else if example.starts_with("<notify:policy") {
                let pool = format!("<pool type='notify'><name>a</name>{example}</pool>");
                assert!(check_pool(&pool), "{}: {example}", path.display());
                assert!(allows("virtnotify-policy.rng", example), "{example}");
            }
        }
    }
    assert!(pools > 0);
}
