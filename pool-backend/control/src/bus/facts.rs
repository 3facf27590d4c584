// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the objects show: copies of what the storage and the moves said last, so that reading a
//! property costs nothing and waits for nobody.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use uuid::Uuid;
use virtnotify_model::{Bytes, PoolInfo, PoolName, PoolState, VolumeInfo, VolumeKind, VolumeState};
use zbus::{ObjectPath, Variant};

use super::paths;

/// Properties by name.
pub type Properties = BTreeMap<&'static str, Variant<'static>>;

/// What an object shows.
pub trait Facts: Clone + PartialEq + Send + Sync + 'static {
    /// Its interface.
    const INTERFACE: &'static str;
    /// All properties of which a change is told.
    fn properties(&self) -> Properties;
}

/// What differs between two looks at an object.
pub fn changes(before: &impl Facts, after: &impl Facts) -> Properties {
    let before = before.properties();
    let differs =
        |(name, value): &(&'static str, Variant<'static>)| before.get(name) != Some(value);
    after.properties().into_iter().filter(differs).collect()
}

/// A pool that is defined. All sizes are 0 while it is not active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFacts {
    pub name: PoolName,
    pub uuid: Uuid,
    pub active: bool,
    pub damaged: bool,
    pub capacity: u64,
    pub allocation: u64,
    pub available: u64,
    pub headroom: u64,
    pub chunk: u64,
    pub low_mark: u64,
    pub promised: u64,
    /// 0 where there is none.
    pub promised_limit: u64,
}

/// A volume of a pool that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts(pub VolumeInfo);

impl PoolFacts {
    pub fn of(pool: &PoolState) -> Self {
        let info = pool.info.as_ref();
        let size = |of: fn(&PoolInfo) -> Bytes| info.map_or(0, |i| of(i).0);
        let capacity = size(|i| i.capacity);
        let limit = pool.policy.and_then(|policy| policy.overcommit);
        Self {
            name: pool.name.clone(),
            uuid: pool.uuid,
            active: info.is_some(),
            damaged: pool.damaged,
            capacity,
            allocation: size(|i| i.allocation),
            available: size(|i| i.available),
            headroom: size(|i| i.headroom),
            chunk: size(|i| i.chunk.bytes()),
            low_mark: pool.policy.map_or(0, |policy| policy.low_mark.of(Bytes(capacity)).0),
            promised: size(|i| i.promised),
            promised_limit: limit.map_or(0, |limit| limit.of(Bytes(size(|i| i.obtainable))).0),
        }
    }
}

impl Facts for PoolFacts {
    const INTERFACE: &'static str = "org.virtnotify1.Pool";

    fn properties(&self) -> Properties {
        Properties::from([
            ("Name", self.name.to_string().into()),
            ("Uuid", self.uuid.to_string().into()),
            ("Active", self.active.into()),
            ("Damaged", self.damaged.into()),
            ("Capacity", self.capacity.into()),
            ("Allocation", self.allocation.into()),
            ("Available", self.available.into()),
            ("Headroom", self.headroom.into()),
            ("ChunkSize", self.chunk.into()),
            ("LowMark", self.low_mark.into()),
            ("Promised", self.promised.into()),
            ("PromisedLimit", self.promised_limit.into()),
        ])
    }
}

impl VolumeFacts {
    pub fn pool_path(&self) -> ObjectPath<'static> {
        paths::pool(&self.0.pool)
    }

    pub fn path(&self) -> String {
        self.0.path.display().to_string()
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self.0.kind {
            VolumeKind::Volume => "volume",
            VolumeKind::Snapshot => "snapshot",
        }
    }

    /// The object of what it was made from; `/` where there is none.
    pub fn backing(&self) -> ObjectPath<'static> {
        let none = || ObjectPath::from_static_str_unchecked("/");
        self.0.backing.as_ref().map_or_else(none, |of| paths::volume(&self.0.pool, of))
    }

    /// When it was made, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.0.created.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }

    /// How it is doing, in a word.
    pub fn state(&self) -> &'static str {
        match self.0.state {
            VolumeState::Growing => "growing",
            VolumeState::OutOfSpace => "out-of-space",
            VolumeState::Inactive => "inactive",
        }
    }
}

impl Facts for VolumeFacts {
    const INTERFACE: &'static str = "org.virtnotify1.Volume";

    fn properties(&self) -> Properties {
        Properties::from([
            ("Name", self.0.name.to_string().into()),
            ("Pool", self.pool_path().into()),
            ("Uuid", self.0.uuid.to_string().into()),
            ("Path", self.path().into()),
            ("State", self.state().into()),
            ("Kind", self.kind().into()),
            ("Backing", self.backing().into()),
            ("Created", self.created().into()),
            ("Capacity", self.0.capacity.0.into()),
            ("Allocation", self.0.allocation.0.into()),
            ("Exclusive", self.0.exclusive.0.into()),
        ])
    }
}
