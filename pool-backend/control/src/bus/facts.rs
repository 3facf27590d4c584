// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the objects show: copies of what the storage and the moves said last, so that reading a
//! property costs nothing and waits for nobody.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use uuid::Uuid;
use virtnotify_migrate::HeldBack;
use virtnotify_model::{
    Bytes, PoolInfo, PoolName, PoolState, Setting, VgName, VolumeInfo, VolumeKind, VolumeState,
};
use zbus::{ObjectPath, Variant};

use super::paths;

/// What an object shows: its interface makes properties of it.
pub trait Facts: Clone + PartialEq + Send + Sync + 'static {}

impl<F: Clone + PartialEq + Send + Sync + 'static> Facts for F {}

/// A pool that is defined. All sizes are 0 while it is not active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFacts {
    pub name: PoolName,
    pub uuid: Uuid,
    pub vg: VgName,
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
    /// None while it is not active.
    pub policy: Vec<(&'static str, Setting)>,
    /// Why no VM leaves it for now, though it is low or soon full.
    pub held_back: Option<HeldBack>,
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
            vg: pool.vg.clone(),
            active: info.is_some(),
            damaged: pool.damaged,
            capacity,
            allocation: size(|i| i.allocation),
            available: size(|i| i.available),
            headroom: size(|i| i.headroom),
            chunk: size(|i| i.chunk.bytes()),
            low_mark: pool.policy.map_or(0, |policy| policy.low_mark.of(Bytes(capacity)).0),
            promised: size(|i| i.promised),
            policy: pool.policy.map_or_else(Vec::new, |policy| policy.settings()),
            promised_limit: limit.map_or(0, |limit| limit.of(Bytes(size(|i| i.obtainable))).0),
            held_back: None,
        }
    }
}

impl PoolFacts {
    /// The same with what the mover says of it, which is among these or nothing.
    pub fn held_back_as(self, all: &[HeldBack]) -> Self {
        let held_back = all.iter().find(|of| of.pool == self.name).cloned();
        Self { held_back, ..self }
    }

    /// Its policy: sizes in bytes, a multiple as a number, a part of a hundred as `10%`.
    pub fn policy(&self) -> HashMap<&'static str, Variant<'static>> {
        let value = |setting: &Setting| match setting {
            Setting::Size(size) => size.0.into(),
            Setting::Ratio(ratio) => ratio.as_f64().into(),
            Setting::Flag(flag) => (*flag).into(),
            Setting::Word(word) => (*word).into(),
            Setting::Number(number) => (*number).into(),
            Setting::Percent(_) | Setting::Window(_) => setting.to_string().into(),
        };
        self.policy.iter().map(|(name, setting)| (*name, value(setting))).collect()
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
            VolumeState::Growing => "active",
            VolumeState::OutOfSpace => "out-of-space",
            VolumeState::Inactive => "inactive",
        }
    }
}
