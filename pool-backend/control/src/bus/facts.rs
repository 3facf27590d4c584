// SPDX-License-Identifier: LGPL-2.1-or-later
//! The values that objects show: copies of the last answers of the storage and the moves, so that reading a
//! property costs nothing and never waits.

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
    /// What was told last to be wrong with its metadata, while they are damaged.
    pub damage: Option<String>,
}

/// A volume of a pool that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    pub info: VolumeInfo,
    /// The VMs that have it.
    pub vms: Vec<Uuid>,
}

/// How a pool is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Well,
    Inactive,
    Low,
    Full,
    Damaged,
}

impl Health {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Inactive => "inactive",
            Self::Low => "low",
            Self::Full => "full",
            Self::Damaged => "damaged",
        }
    }
}

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
            damage: None,
        }
    }

    /// How it is doing: the worst that there is to say.
    pub fn health(&self) -> Health {
        match self {
            Self { active: false, .. } => Health::Inactive,
            Self { damaged: true, .. } => Health::Damaged,
            _ if self.available < self.chunk => Health::Full,
            _ if self.available < self.low_mark => Health::Low,
            _ => Health::Well,
        }
    }

    /// Why it is not well, and what to do: a sentence.
    pub fn reason(&self) -> String {
        let (name, left, mark) = (&self.name, Bytes(self.available), Bytes(self.low_mark));
        match self.health() {
            Health::Well => String::new(),
            Health::Inactive => format!("it is not started: 'virsh pool-start {name}'"),
            Health::Low => format!(
                "{left} are left, and its low mark is {mark}: add a disk to its volume group, or reclaim space"
            ),
            Health::Full => {
                "it has no space left, and a write to a part that a volume lacks waits: \
                             add a disk to its volume group, or delete what is not needed"
                    .to_owned()
            }
            Health::Damaged => {
                let what = self.damage.as_deref();
                let what = what.unwrap_or("its metadata is damaged, or cannot be written");
                format!("{what}: 'virt-notify check {name}' says how")
            }
        }
    }

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
    /// A volume without its VMs, for lists that do not show them.
    pub fn alone(info: VolumeInfo) -> Self {
        Self { info, vms: Vec::new() }
    }

    pub fn pool_path(&self) -> ObjectPath<'static> {
        paths::pool(&self.info.pool)
    }

    pub fn path(&self) -> String {
        self.info.path.display().to_string()
    }

    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self.info.kind {
            VolumeKind::Volume => "volume",
            VolumeKind::Snapshot => "snapshot",
        }
    }

    /// The object of what it was made from; `/` where there is none.
    pub fn backing(&self) -> ObjectPath<'static> {
        let none = || ObjectPath::from_static_str_unchecked("/");
        self.info.backing.as_ref().map_or_else(none, |of| paths::volume(&self.info.pool, of))
    }

    /// When it was made, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.info.created.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }

    /// How it is doing, in a word.
    pub fn state(&self) -> &'static str {
        match self.info.state {
            VolumeState::Growing => "active",
            VolumeState::OutOfSpace => "out-of-space",
            VolumeState::Inactive => "inactive",
        }
    }
}
