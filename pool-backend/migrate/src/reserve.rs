// SPDX-License-Identifier: LGPL-2.1-or-later
//! Room that is kept for a VM on its way: how two hosts that choose the same peer see each
//! other.
//!
//! A move first makes a small empty volume in each pool of the peer that it will need, whose
//! name says for which VM and how much: `move-UUID-BYTES`. Every host that asks for that pool
//! sees it, over libvirt, and the daemons need no protocol of their own. Then the source looks at
//! the pool again. Each host makes its volume before it looks, so of two that came at once at
//! least one sees the other. A host that sees too little room deletes its volume and tries later.
//! The volume goes when the move is over. A source that died deletes it when it is up again (the
//! journal has it); one that never comes back leaves an empty volume that `vol-delete` removes.

use std::collections::BTreeMap;

use uuid::Uuid;
use virtnotify_model::{Bytes, NameError, VolumeName};

/// What such a volume's name starts with.
const PREFIX: &str = "move-";
/// How large it is: it is never written.
pub(crate) const CAPACITY: Bytes = Bytes::mib(1);

/// Room that is kept in a pool, by VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reserved(BTreeMap<Uuid, Bytes>);

/// The name of the volume that keeps `bytes` for a VM.
pub(crate) fn name(uuid: Uuid, bytes: Bytes) -> Result<VolumeName, NameError> {
    format!("{PREFIX}{}-{}", uuid.simple(), bytes.0).parse()
}

impl Reserved {
    /// What the names of a pool's volumes say.
    pub(crate) fn read<'a>(volumes: impl IntoIterator<Item = &'a str>) -> Self {
        let mut reserved = Self::default();
        for (uuid, bytes) in volumes.into_iter().filter_map(parse) {
            let sum = reserved.0.entry(uuid).or_default();
            *sum = sum.saturating_add(bytes);
        }
        reserved
    }

    /// What is kept for VMs other than these.
    pub(crate) fn for_others(&self, than: impl Fn(&Uuid) -> bool) -> Bytes {
        self.0.iter().filter(|(uuid, _)| !than(uuid)).map(|(_, bytes)| *bytes).sum()
    }

    /// The VMs that are on their way.
    pub(crate) fn vms(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.0.keys().copied()
    }
}

fn parse(name: &str) -> Option<(Uuid, Bytes)> {
    let (uuid, bytes) = name.strip_prefix(PREFIX)?.split_once('-')?;
    // Only names that we would have made: a user's volume is his own.
    let found = (Uuid::parse_str(uuid).ok()?, Bytes(bytes.parse().ok()?));
    (self::name(found.0, found.1).ok()?.as_str() == name).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_our_names_are_read() {
        let vm = Uuid::from_u128(7);
        let ours = name(vm, Bytes(500)).unwrap();
        let hyphens = format!("move-{vm}-500");
        let all = ["disk0", "move-", "move-a-5", "move-1-2-3", &hyphens, ours.as_str()];
        let reserved = Reserved::read(all);
        assert_eq!(reserved, Reserved(BTreeMap::from([(vm, Bytes(500))])));
        assert_eq!(reserved.for_others(|uuid| *uuid == vm), Bytes::ZERO);
        assert_eq!(reserved.for_others(|_| false), Bytes(500));
    }

    proptest! {
        #[test]
        fn names_are_read_back(vm in any::<u128>(), bytes in any::<u64>()) {
            let (vm, bytes) = (Uuid::from_u128(vm), Bytes(bytes));
            let name = name(vm, bytes).unwrap();
            prop_assert_eq!(parse(name.as_str()), Some((vm, bytes)));
        }

        /// Any text at all may be the name of a volume.
        #[test]
        fn other_names_are_passed_over(text in ".{0,80}") {
            let _ = parse(&text);
        }
    }
}
