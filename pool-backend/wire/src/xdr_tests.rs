// SPDX-License-Identifier: LGPL-2.1-or-later
use proptest::prelude::*;

use super::*;
use crate::connect::{ConnectSetIdentityArgs, TypedParam, TypedValue};
use crate::storage::{StoragePool, StorageVol, StorageVolResizeArgs, Uuid};

type Short = List<String, 3>;

#[test]
fn strings_are_padded_with_zeroes() {
    let bytes = encode(&"abcde".to_owned()).unwrap();
    assert_eq!(bytes, [0, 0, 0, 5, b'a', b'b', b'c', b'd', b'e', 0, 0, 0]);
    assert_eq!(decode::<String>(&bytes).unwrap(), "abcde");
}

#[test]
fn what_libvirt_takes_is_taken() {
    // What stands in the padding, and behind the value, is not looked at.
    assert_eq!(decode::<String>(b"\0\0\0\x05abcdexyz").unwrap(), "abcde");
    assert_eq!(decode::<u32>(&[0, 0, 0, 7, 9]), Ok(7));
    assert_eq!(decode::<()>(&[0]), Ok(()));
    // digitalocean/go-libvirt writes true so.
    assert_eq!(decode::<bool>(&[1, 0, 0, 0]), Ok(true));
    assert_eq!(decode::<Option<u32>>(&[1, 0, 0, 0, 0, 0, 0, 9]), Ok(Some(9)));
    assert_eq!(decode::<Option<u32>>(&[0; 4]), Ok(None));
    // Where a string ends for libvirt, it ends for us.
    assert_eq!(decode::<String>(b"\0\0\0\x03a\0b\0").unwrap(), "a");
    assert_eq!(encode(&"a\0".to_owned()), Err(XdrError::NulInString));
    assert_eq!(decode::<String>(&[0, 0, 0, 1, 0xff, 0, 0, 0]), Err(XdrError::NotUtf8));
}

#[test]
fn padding_has_to_be_there() {
    let missing = Err(XdrError::Truncated { missing: 2 });
    assert_eq!(decode::<String>(b"\0\0\0\x05abcde\0"), missing);
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    let max = STRING_MAX;
    let too_long = XdrError::TooLong { len: max + 1, max };
    assert_eq!(decode::<String>(&[0, 0x40, 0, 1]), Err(too_long));
    assert_eq!(decode::<String>(&[0, 0x40, 0, 0]), Err(XdrError::Truncated { missing: max }));
    // A negative count, as a signed reader would call it.
    let negative = XdrError::TooLong { len: 0xffff_ffff, max: 3 };
    assert_eq!(decode::<Short>(&[0xff; 4]), Err(negative));
    assert_eq!(decode::<Short>(&[0, 0, 0, 4]), Err(XdrError::TooLong { len: 4, max: 3 }));
    assert_eq!(decode::<Short>(&[0, 0, 0, 3]), Err(XdrError::Truncated { missing: 12 }));
    let four = List::<u32, 3>(vec![0; 4]);
    assert_eq!(encode(&four), Err(XdrError::TooLong { len: 4, max: 3 }));
}

#[test]
fn chars_are_words() {
    assert_eq!(encode(&-1i8).unwrap(), [0xff; 4]);
    assert_eq!(decode::<u8>(&[0, 0, 0, 255]), Ok(255));
    // As in C, the last byte is what counts.
    assert_eq!(decode::<u8>(&[0, 0, 1, 2]), Ok(2));
    assert_eq!(decode::<i8>(&[0, 0, 0, 128]), Ok(-128));
}

#[test]
fn uuids_are_written_and_read_as_libvirt_does() {
    let text = "00112233-4455-6677-8899-aabbccddeeff";
    let uuid: Uuid = text.parse().unwrap();
    assert_eq!(uuid.to_string(), text);
    assert_eq!("00112233445566778899AABBCCDDEEFF".parse(), Ok(uuid));
    for bad in [
        "",
        "0011",
        "00112233-4455-6677-8899-aabbccddeefg",
        "0112233-4455-6677-8899-aabbccddeeff00",
    ] {
        assert!(bad.parse::<Uuid>().is_err(), "{bad}");
    }
}

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<[u8; 16]>().prop_map(Uuid)
}

fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,40}"
}

fn typed_value() -> impl Strategy<Value = TypedValue> {
    prop_oneof![
        any::<i32>().prop_map(TypedValue::Int),
        any::<u32>().prop_map(TypedValue::UInt),
        any::<i64>().prop_map(TypedValue::LLong),
        any::<u64>().prop_map(TypedValue::ULLong),
        (-1e300..1e300).prop_map(TypedValue::Double),
        any::<bool>().prop_map(TypedValue::Boolean),
        text().prop_map(TypedValue::String),
    ]
}

fn survives<T: Xdr + PartialEq + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    let bytes = encode(value).unwrap();
    prop_assert_eq!(bytes.len() % 4, 0);
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    for len in 0..bytes.len() {
        prop_assert!(decode::<T>(&bytes[..len]).is_err());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pools_and_volumes_survive(
        name in text(), uuid in uuid(), pool in text(), key in text(), capacity: u64, flags: u32,
    ) {
        survives(&StoragePool { name: name.clone(), uuid })?;
        let vol = StorageVol { pool, name, key };
        survives(&StorageVolResizeArgs { vol, capacity, flags })?;
    }

    #[test]
    fn identities_survive(
        params in proptest::collection::vec((text(), typed_value()), 0..20), flags: u32,
    ) {
        let params = params.into_iter().map(|(field, value)| TypedParam { field, value }).collect();
        survives(&ConnectSetIdentityArgs { params: List(params), flags })?;
    }

    #[test]
    fn hostile_bytes_are_values_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = decode::<ConnectSetIdentityArgs>(&bytes);
        let _ = decode::<StorageVolResizeArgs>(&bytes);
        let _ = decode::<crate::RemoteError>(&bytes);
        let _ = decode::<Short>(&bytes);
    }
}
