// SPDX-License-Identifier: LGPL-2.1-or-later
//! The rows of what the manager lists, and of what its signals tell.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use virtnotify_migrate::{HeldBack, PeerAnswer, Preview};
use virtnotify_model::{Event, MoveInfo, PoolName, Severity, VolumeInfo, VolumeName};
use zbus::Variant;
use zbus::wire::Type;

use super::facts::VolumeFacts;
use crate::recent::{Noted, Outcome};
use crate::usage::Used;

/// A pool: name, UUID, active, then sizes in bytes: capacity, allocation, available, headroom.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct PoolRow(pub String, pub String, pub bool, pub u64, pub u64, pub u64, pub u64);

/// A volume: name, UUID, path, state, then sizes in bytes: capacity, allocation.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct VolumeRow(String, String, String, String, u64, u64);

impl VolumeRow {
    pub fn of(info: VolumeInfo) -> Self {
        let facts = VolumeFacts::alone(info);
        let (path, state) = (facts.path(), facts.state().to_owned());
        let info = facts.info;
        let (name, uuid) = (info.name.to_string(), info.uuid.to_string());
        Self(name, uuid, path, state, info.capacity.0, info.allocation.0)
    }
}

/// A move: VM, its UUID, the pool of its first volume, volumes (`POOL/VOLUME` of another pool), the hosts it leaves and goes to, bytes its volumes hold.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct MoveRow(String, String, String, Vec<String>, String, String, u64);

impl MoveRow {
    pub fn of(info: &MoveInfo) -> Self {
        let MoveInfo { domain, uuid, pool, volumes, from, to, allocation } = info.clone();
        // One of another pool is named with it.
        let name = |(of, volume): &(PoolName, VolumeName)| match *of == pool {
            true => volume.to_string(),
            false => format!("{of}/{volume}"),
        };
        let volumes = volumes.iter().map(name).collect();
        Self(domain, uuid.to_string(), pool.to_string(), volumes, from, to, allocation.0)
    }
}

/// What a VM used: its name and UUID, pool, volume, the volume's UUID, bytes times hours.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct UsedRow(String, String, String, String, String, u64);

impl UsedRow {
    pub fn of(used: Used) -> Self {
        let vm = used.domain_uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let volume = used.volume_uuid.to_string();
        Self(used.domain, vm, used.pool, used.volume, volume, used.byte_hours)
    }
}

/// A snapshot: pool, `VOLUME@NAME`, UUID, when it was taken in seconds since 1970, then sizes in
/// bytes: capacity, allocation, and what of that nothing else has.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct SnapshotRow(String, String, String, u64, u64, u64, u64);

impl SnapshotRow {
    pub fn of(info: VolumeInfo) -> Self {
        let facts = VolumeFacts::alone(info);
        let created = facts.created();
        let info = facts.info;
        let (pool, name, uuid) =
            (info.pool.to_string(), info.name.to_string(), info.uuid.to_string());
        Self(pool, name, uuid, created, info.capacity.0, info.allocation.0, info.exclusive.0)
    }
}

/// What a peer means for a move: its name, whether the VM can go there, how many bytes stay free there then, and
/// why it cannot.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct PeerRow(String, bool, u64, String);

/// What a move would be: the VM, its UUID, why it stays (empty when it can go), the peer that it goes to, bytes to copy,
/// how many seconds that takes, all peers that were asked, the snapshots that stay here, whether it has a disk on a volume of
/// ours, and the pools that it does not leave by itself for now.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct PlanRow(
    String,
    String,
    String,
    String,
    u64,
    u64,
    Vec<PeerRow>,
    Vec<String>,
    bool,
    Vec<HeldRow>,
);

/// A pool that no VM leaves at its low mark for now: its name, why, and until when in seconds since 1970, or 0 where that is
/// not known.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct HeldRow(String, String, u64);

impl PlanRow {
    pub fn of(preview: Preview) -> Self {
        let row = |peer: PeerAnswer| match peer.fits {
            Ok(free) => PeerRow(peer.name, true, free.0, String::new()),
            Err(why) => PeerRow(peer.name, false, 0, why.to_string()),
        };
        let held = |of: HeldBack| HeldRow(of.pool.to_string(), of.reason, of.until.unwrap_or(0));
        Self(
            preview.domain,
            preview.uuid.to_string(),
            preview.stays.unwrap_or_default(),
            preview.to.unwrap_or_default(),
            preview.copies.0,
            preview.takes.as_secs(),
            preview.peers.into_iter().map(row).collect(),
            preview.leaves,
            preview.ours,
            preview.held_back.into_iter().map(held).collect(),
        )
    }
}

/// A VM that waited: its name and UUID, what it does now (`resumes`, `moves` or `waits`), and why it still waits.
#[derive(Debug, Serialize, Deserialize, Type)]
pub struct RetriedRow(pub String, pub String, pub String, pub String);

/// What happened: when, in seconds since 1970, how severe it is, the name of the signal that told it, and the signal's
/// arguments by name. A move's parts are arguments of their own.
#[derive(Debug, Serialize, Type)]
pub struct EventRow(u64, &'static str, &'static str, HashMap<&'static str, Variant<'static>>);

impl EventRow {
    /// None for what no signal tells.
    pub fn of(noted: Noted) -> Option<Self> {
        let (signal, details) = details(noted.event)?;
        let details: HashMap<_, _> = details.into_iter().collect();
        let kind = match details.get("kind") {
            Some(Variant::Str(kind)) => Some(kind.as_str()),
            _ => None,
        };
        Some(Self(noted.time, Severity::of(signal, kind).word(), signal, details))
    }
}

type Details = Vec<(&'static str, Variant<'static>)>;

/// The signal of an event, and its arguments by name.
pub fn details(event: Event) -> Option<(&'static str, Details)> {
    let pool = |pool: &PoolName| ("pool", Variant::from(pool.to_string()));
    let volume = |volume: &VolumeName| ("volume", Variant::from(volume.to_string()));
    let bytes = |name, bytes: virtnotify_model::Bytes| (name, Variant::from(bytes.0));
    let text = |name, text: String| (name, Variant::from(text));
    let with = |info: &MoveInfo, more: Details| {
        let mut all = parts(MoveRow::of(info));
        all.extend(more);
        all
    };
    Some(match event {
        Event::PoolStarted(of) => ("PoolStarted", vec![pool(&of)]),
        Event::PoolStopped(of) => ("PoolStopped", vec![pool(&of)]),
        Event::VolumeCreated { pool: of, volume: name, capacity } => {
            ("VolumeCreated", vec![pool(&of), volume(&name), bytes("capacity", capacity)])
        }
        Event::VolumeDeleted { pool: of, volume: name } => {
            ("VolumeDeleted", vec![pool(&of), volume(&name)])
        }
        Event::SpaceLow { pool: of, available } => {
            ("SpaceLow", vec![pool(&of), bytes("available", available)])
        }
        Event::SpaceExhausted { pool: of, volume: name, wanted, available } => {
            let sizes = [bytes("wanted", wanted), bytes("available", available)];
            ("SpaceExhausted", [pool(&of), volume(&name)].into_iter().chain(sizes).collect())
        }
        Event::SpaceAvailable { pool: of, available } => {
            ("SpaceAvailable", vec![pool(&of), bytes("available", available)])
        }
        Event::Damage { pool: of, what } => ("Damage", vec![pool(&of), text("what", what)]),
        Event::Warning { domain, what } => {
            ("Warning", vec![text("domain", domain), text("what", what)])
        }
        Event::MoveStarted(info) => ("MoveStarted", with(&info, Vec::new())),
        Event::MoveFinished(info) => ("MoveFinished", with(&info, Vec::new())),
        Event::MoveFailed { info, kind, reason } => {
            let more = vec![text("kind", kind.name().to_owned()), text("reason", reason)];
            ("MoveFailed", with(&info, more))
        }
        Event::RunsTwice { info, reason } => {
            ("RunsTwice", with(&info, vec![text("reason", reason)]))
        }
        Event::PeerFailed { peer, reason } => {
            ("PeerFailed", vec![text("peer", peer), text("reason", reason)])
        }
        Event::PeerReady { peer } => ("PeerReady", vec![text("peer", peer)]),
        Event::Resumed { domain } => ("Resumed", vec![text("domain", domain)]),
        // Others are not kept.
        _ => return None,
    })
}

/// The parts of a move by name.
fn parts(MoveRow(domain, uuid, pool, volumes, from, to, allocation): MoveRow) -> Details {
    vec![
        ("domain", domain.into()),
        ("uuid", uuid.into()),
        ("pool", pool.into()),
        ("volumes", Variant::from(volumes)),
        ("from", from.into()),
        ("to", to.into()),
        ("allocation", allocation.into()),
    ]
}

/// How a job or a move ended: when it began and ended, in seconds since 1970, its task, which object it was about, to
/// which host or of which device, its state, and why it did not do what it was to do.
#[derive(Debug, Serialize, Type)]
pub struct ResultRow(u64, u64, String, String, String, String, String);

impl ResultRow {
    pub fn of(outcome: Outcome) -> Self {
        let Outcome { began, ended, task, of, to, state, reason } = outcome;
        Self(began, ended, task.to_owned(), of, to, state.to_owned(), reason)
    }
}
