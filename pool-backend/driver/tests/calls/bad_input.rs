// SPDX-License-Identifier: LGPL-2.1-or-later
//! Bad input gets a clear error with the right code, and changes nothing.

use virtnotify_wire::ErrorCode as C;
use virtnotify_wire::procedure::Procedure as P;
use virtnotify_wire::service::{Call, PoolView};
use virtnotify_wire::storage::*;

use crate::bench::{Bench, VMS, error, pool_xml, volume_xml};

const OVERFLOW: C = C(82);

#[test]
fn bad_pools_are_refused() {
    let (bench, pool) = Bench::with_pool();
    let taken = format!("<uuid>{}</uuid>", pool.uuid);
    let long = "x".repeat(300);
    let deep = format!("<pool type='notify'>{}", "<a>".repeat(100));
    let before = bench.everything();
    for (xml, code, text) in [
        ("", C::XML_DETAIL, "there is no element"),
        ("hello", C::XML_DETAIL, "outside of the root element"),
        ("<pool type='notify'", C::XML_DETAIL, "storage_pool_definition"),
        ("<volume/>", C::XML_ERROR, "expecting root element of 'pool', not 'volume'"),
        ("<pool/>", C::XML_ERROR, "Missing required attribute 'type'"),
        ("<pool type='zzz'/>", C::XML_ERROR, "'zzz'"),
        ("<pool type='notify'/>", C::XML_ERROR, "missing pool source name element"),
        (
            "<!DOCTYPE p [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><pool type='notify'><name>&e;</name></pool>",
            C::XML_DETAIL,
            "document type",
        ),
        (&deep, C::XML_DETAIL, "levels"),
        (&pool_xml("../x", "vg1", ""), C::XML_ERROR, "name ../x cannot contain '/'"),
        (&pool_xml("..", "vg1", ""), C::XML_ERROR, "'..' cannot be a pool name"),
        (&pool_xml("a b", "vg1", ""), C::XML_ERROR, "'a b' cannot be a pool name"),
        (&pool_xml("-a", "vg1", ""), C::XML_ERROR, "'-a' cannot be a pool name"),
        (&pool_xml("a&#10;b", "vg1", ""), C::XML_ERROR, "cannot be a pool name"),
        (&pool_xml("%s;", "vg1", ""), C::XML_ERROR, "cannot be a pool name"),
        (&pool_xml(&long, "vg1", ""), C::XML_ERROR, "too long: 300 characters"),
        (&pool_xml("a", "../vg", ""), C::XML_ERROR, "cannot be a volume group name"),
        (&pool_xml("a", &long, ""), C::XML_ERROR, "too long: 300 characters"),
        (&pool_xml("a", "vg1", "<uuid>12</uuid>"), C::XML_ERROR, "malformed uuid element"),
        (
            &pool_xml("a", "vg1", &taken),
            C::OPERATION_FAILED,
            "pool 'vms' is already defined with uuid",
        ),
        (&pool_xml("vms", "vg1", ""), C::OPERATION_FAILED, "pool 'vms' already exists with uuid"),
        (
            &pool_xml("a", "vg0", ""),
            C::OPERATION_FAILED,
            "Storage source conflict with pool: 'vms'",
        ),
        (
            &pool_xml("a", "vg1", "<target><path>/tmp</path></target>"),
            C::CONFIG_UNSUPPORTED,
            "can only be '/dev/notify/a'",
        ),
    ] {
        for answer in [bench.define(xml), bench.create(xml)] {
            let (found, message) = error(answer);
            assert_eq!(found, code, "{xml}: {message}");
            assert!(message.contains(text), "{xml}: {message}");
        }
    }
    assert_eq!(bench.everything(), before);
}

#[test]
fn a_pool_of_an_unknown_volume_group_can_be_defined_and_not_started() {
    let bench = Bench::new();
    let pool = bench.define(&pool_xml("a", "nowhere", "")).unwrap();
    let before = bench.everything();
    let (code, message) = error(bench.start(&pool));
    assert_eq!(code, C::CONFIG_UNSUPPORTED);
    assert!(message.contains("'nowhere'"), "{message}");
    assert_eq!(bench.everything(), before);
    assert!(!bench.is_active(&pool).unwrap());
}

#[test]
fn bad_volumes_are_refused() {
    let (bench, pool) = Bench::with_pool();
    bench.create_volume(&pool, &volume_xml("disk0", 1 << 30)).unwrap();
    let long = "x".repeat(300);
    let target = |inside: &str| {
        format!("<volume><name>a</name><capacity>1</capacity><target>{inside}</target></volume>")
    };
    let before = bench.everything();
    for (xml, code, text) in [
        ("", C::XML_DETAIL, "(storage_volume_definition)"),
        ("<pool/>", C::XML_ERROR, "expecting root element of 'volume', not 'pool'"),
        ("<volume/>", C::XML_ERROR, "missing volume name element"),
        ("<volume><name>a</name></volume>", C::XML_ERROR, "missing capacity element"),
        (
            "<volume><name>a</name><capacity>x</capacity></volume>",
            C::XML_ERROR,
            "malformed capacity",
        ),
        (
            "<volume><name>a</name><capacity>-1</capacity></volume>",
            C::XML_ERROR,
            "malformed capacity",
        ),
        (&volume_xml("disk0", 1), C::STORAGE_VOL_EXIST, "storage volume 'disk0' exists already"),
        (&volume_xml("../x", 1), C::XML_ERROR, "cannot be a volume name"),
        (&volume_xml("a b", 1), C::XML_ERROR, "cannot be a volume name"),
        (&volume_xml("-rf", 1), C::XML_ERROR, "cannot be a volume name"),
        (&volume_xml("", 1), C::XML_ERROR, "missing volume name element"),
        (&volume_xml(&long, 1), C::XML_ERROR, "too long: 300 characters"),
        (&volume_xml("a", 0), C::INVALID_ARG, "a capacity of 0 bytes is not possible"),
        (&volume_xml("a", (16 << 40) + 1), C::INVALID_ARG, "is not possible"),
        (&volume_xml("a", i64::MAX.unsigned_abs()), C::INVALID_ARG, "is not possible"),
        (&volume_xml("a", 1 << 63), OVERFLOW, "value too large"),
        (&volume_xml("a", u64::MAX), OVERFLOW, "value too large"),
        (
            "<volume><name>a</name><capacity unit='x'>1</capacity></volume>",
            C::INVALID_ARG,
            "unknown suffix 'x'",
        ),
        (
            "<volume><name>a</name><capacity>1</capacity><allocation>2</allocation></volume>",
            C::INVALID_ARG,
            "more than the capacity",
        ),
        (
            &target("<format type='qcow2'/>"),
            C::CONFIG_UNSUPPORTED,
            "its format is 'raw', not 'qcow2'",
        ),
        (&target("<encryption format='luks'/>"), C::CONFIG_UNSUPPORTED, "encryption"),
        (&target("<permissions><mode>8</mode></permissions>"), C::XML_ERROR, "octal"),
    ] {
        let (found, message) = error(bench.create_volume(&pool, xml));
        assert_eq!(found, code, "{xml}: {message}");
        assert!(message.contains(text), "{xml}: {message}");
    }
    assert_eq!(bench.everything(), before);
    bench.create_volume(&pool, &volume_xml("largest", 16 << 40)).unwrap();
}

#[test]
fn unknown_flags_are_refused() {
    let (bench, pool) = Bench::with_pool();
    let vol = bench.create_volume(&pool, &volume_xml("a", 1)).unwrap();
    let before = bench.everything();
    let flags = 1 << 31;
    let xml = VMS.to_owned();
    let (pool, name) = (|| pool.clone(), "storage");
    let answers = [
        bench.call::<_, ()>(
            P::StoragePoolDefineXml,
            &StoragePoolDefineXmlArgs { xml: xml.clone(), flags },
        ),
        bench.call(P::StoragePoolCreateXml, &StoragePoolCreateXmlArgs { xml: xml.clone(), flags }),
        bench.call(P::StoragePoolCreate, &StoragePoolCreateArgs { pool: pool(), flags }),
        bench.call(P::StoragePoolBuild, &StoragePoolBuildArgs { pool: pool(), flags }),
        bench.call(P::StoragePoolDelete, &StoragePoolDeleteArgs { pool: pool(), flags }),
        bench.call(P::StoragePoolRefresh, &StoragePoolRefreshArgs { pool: pool(), flags }),
        bench.call(P::StoragePoolGetXmlDesc, &StoragePoolGetXmlDescArgs { pool: pool(), flags }),
        bench.call(
            P::StoragePoolListAllVolumes,
            &StoragePoolListAllVolumesArgs { pool: pool(), need_results: 1, flags },
        ),
        bench.call(P::StorageVolCreateXml, &StorageVolCreateXmlArgs { pool: pool(), xml, flags }),
        bench.call(P::StorageVolDelete, &StorageVolDeleteArgs { vol: vol.clone(), flags }),
        bench.call(P::StorageVolGetXmlDesc, &StorageVolGetXmlDescArgs { vol: vol.clone(), flags }),
        bench.call(
            P::StorageVolGetInfoFlags,
            &StorageVolGetInfoFlagsArgs { vol: vol.clone(), flags },
        ),
        bench.call(P::StorageVolWipe, &StorageVolWipeArgs { vol: vol.clone(), flags }),
        bench.call(
            P::StorageVolWipePattern,
            &StorageVolWipePatternArgs { vol: vol.clone(), algorithm: 0, flags },
        ),
        bench.resize(&vol, 2, flags),
    ];
    for answer in answers {
        let (code, message) = error(answer);
        assert_eq!(code, C::INVALID_ARG, "{message}");
        assert!(message.contains("unsupported flags (0x80000000) in function"), "{message}");
        assert!(message.contains(name) || message.contains("virStor"), "{message}");
    }
    assert_eq!(bench.everything(), before);
}

#[test]
fn arguments_of_another_form_are_an_rpc_error() {
    let bench = Bench::new();
    for args in [&[][..], &[0, 0, 0], &[0, 0, 0, 9, b'a'], &[0xff; 64]] {
        let call = Call { procedure: P::StoragePoolLookupByName, args, view: PoolView::Own };
        let error = bench.raw(call).unwrap_err();
        assert!(error.is(C::RPC), "{error}");
    }
}

#[test]
fn validation_is_done_when_it_is_asked_for() {
    let bench = Bench::new();
    let define = |xml: &str| {
        let args = StoragePoolDefineXmlArgs { xml: xml.to_owned(), flags: 1 };
        bench.call::<_, StoragePoolDefineXmlRet>(P::StoragePoolDefineXml, &args)
    };
    let odd = pool_xml("a", "vg0", "<colour>blue</colour>");
    let (code, message) = error(define(&odd));
    assert_eq!(code, C::XML_INVALID_SCHEMA);
    assert!(message.contains("cannot hold an element 'colour'"), "{message}");
    assert!(bench.list(0).unwrap().is_empty());
    bench.define(&odd).unwrap();
    define(VMS).unwrap_err();
    bench
        .undefine(
            &bench
                .define(&odd.replace("'notify'><name>a", "'notify'><name>b").replace("vg0", "vg1"))
                .unwrap(),
        )
        .unwrap();
}
