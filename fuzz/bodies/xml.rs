// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is done with XML that a client sent.

use virtnotify_driver::xml::{
    Element, PoolDefinition, PoolType, Standing, VolumeDefinition, peek, raw_capacity,
    with_capacity,
};
use virtnotify_model::Bytes;

/// A pool that is understood is printed so that it is understood as the same one, and is ours
/// at first sight.
pub fn pool(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let peeked = peek(text);
    let Ok(pool) = PoolDefinition::parse(text, false) else {
        assert!(PoolDefinition::parse(text, true).is_err());
        return;
    };
    assert!(peeked.ours && peeked.name.as_deref() == Some(pool.name.as_str()));
    let printed = pool.print(PoolType::Notify, &Standing::default());
    assert_eq!(PoolDefinition::parse(&printed, true).as_ref(), Ok(&pool));
    let logical = Element::parse(&pool.print(PoolType::Logical, &Standing::default()));
    assert_eq!(logical.map(|root| root.name).as_deref(), Ok("pool"));
}

/// The same for what stands in a pool beside what every pool has.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    pool(format!("<pool type='notify'><name>a</name>{text}</pool>").as_bytes());
}

/// A volume is understood or not; made larger for another pool, it is still the same volume, but
/// that it has no backing store there.
pub fn volume(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let volume = VolumeDefinition::parse(text, false);
    let _ = raw_capacity(text, "a");
    let least = Bytes(1 << 20);
    let larger = with_capacity(text, least);
    if let (Ok(volume), Ok(larger)) = (volume, larger) {
        let again = VolumeDefinition::parse(&larger, false);
        let capacity = Some(volume.capacity.unwrap_or(Bytes::ZERO).max(least));
        assert_eq!(again, Ok(VolumeDefinition { capacity, backing: None, ..volume }));
    }
}
