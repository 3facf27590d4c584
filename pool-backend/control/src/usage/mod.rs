// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who used how much space for how long, for charging by use.
//!
//! - `ledger`: the account of a day, pure;
//! - `files`: the account on disk;
//! - here: the task that keeps it.
//!
//! Growth is counted from its event. Which VM a volume belongs to is what libvirt said last ([`crate::vms`]); of a
//! volume that several share, it is the one that libvirt lists last. What changed is written each minute, and a day's end is written at midnight; while
//! nothing changes nothing is asked or written, since the last line says since when what is held. A
//! daemon that is killed loses what changed in the last minute, and nothing of what is held. A VM
//! that moves is counted by its UUID on both hosts, on each for what it holds there.

mod files;
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use uuid::Uuid;
use virtnotify_migrate::Vm;
use virtnotify_model::{Event, EventBus, PoolName, Pools, VolumeInfo, VolumeKind, VolumeName};

use crate::vms::Vms;
use files::Files;
use ledger::{DAY, Ledger, Owner, Seen};

/// What changed is written at the latest after this time.
const SAVE: Duration = Duration::from_secs(60);
/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_secs(1);
/// No answer has more days than are kept.
const MOST_DAYS: u64 = 400;

/// What one volume and VM used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub domain: String,
    pub domain_uuid: Option<Uuid>,
    pub pool: String,
    pub volume: String,
    pub volume_uuid: Uuid,
    /// Bytes times hours.
    pub byte_hours: u64,
}

/// The account. All copies are the same.
#[derive(Clone)]
pub struct Usage {
    ledger: Arc<Mutex<Ledger>>,
    files: Files,
}

impl Usage {
    /// Goes on with the account in this directory.
    pub fn open(directory: &Path) -> Self {
        let files = Files::new(directory);
        let today = now() / DAY;
        let ledger = files.newest(today).unwrap_or_else(|| Ledger::new(today, Vec::new()));
        let ledger = Arc::new(Mutex::new(ledger));
        Self { ledger, files }
    }

    /// What was used since then, from the beginning of that day; and since and until when.
    pub fn since(&self, since: u64) -> (u64, u64, Vec<Used>) {
        let now = now();
        let today = self.ledger().as_of(now);
        let first = (since / DAY).max(today.day.saturating_sub(MOST_DAYS)).min(today.day);
        let mut days: Vec<Ledger> = Vec::new();
        for day in self.files.days().into_iter().filter(|day| (first..today.day).contains(day)) {
            match self.files.load(day) {
                Ok(ledger) => days.push(ledger),
                Err(error) => warn!("a day's account cannot be read: {error}"),
            }
        }
        let since = days.first().map_or(today.day, |ledger| ledger.day) * DAY;
        days.push(today);
        (since, now, sum(&days))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the days that are over, and writes all that has changed.
    fn save(&self, now: u64) {
        let over = self.ledger().turn(now);
        let today = self.ledger().as_of(now);
        for ledger in over.iter().chain([&today]) {
            if let Err(error) = self.files.save(ledger) {
                warn!("the account of what volumes hold cannot be written: {error}");
            }
        }
        if !over.is_empty() {
            self.files.prune();
        }
    }
}

/// The sums over days, with the names that were last.
fn sum(days: &[Ledger]) -> Vec<Used> {
    let mut sums: BTreeMap<Owner, (u128, Used)> = BTreeMap::new();
    for row in days.iter().flat_map(Ledger::rows) {
        let used = Used {
            domain: row.domain_name.clone(),
            domain_uuid: row.owner.domain,
            pool: row.pool.clone(),
            volume: row.name.clone(),
            volume_uuid: row.owner.volume,
            byte_hours: 0,
        };
        let sum = sums.entry(row.owner.clone()).or_insert_with(|| (0, used.clone()));
        *sum = (sum.0 + row.byte_seconds(), used);
    }
    let hours = |seconds: u128| u64::try_from(seconds / 3600).unwrap_or(u64::MAX);
    let all = sums.into_values().map(|(seconds, used)| Used { byte_hours: hours(seconds), ..used });
    let mut all: Vec<Used> = all.collect();
    all.sort_by(|a, b| (&a.domain, &a.pool, &a.volume).cmp(&(&b.domain, &b.pool, &b.volume)));
    all
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Volumes that have to be looked at.
#[derive(Default)]
struct Due {
    owners: bool,
    /// Pools of which all volumes are looked at.
    pools: BTreeSet<PoolName>,
    look_at: Option<Instant>,
    save_at: Option<Instant>,
}

/// VMs, by UUID and name, of volumes.
type Owners = BTreeMap<(PoolName, VolumeName), (Uuid, String)>;

fn owners(vms: &[Vm]) -> Owners {
    let of = |vm: &Vm| {
        let (uuid, name) = (vm.uuid, vm.name.clone());
        vm.volumes.clone().into_iter().map(move |volume| (volume, (uuid, name.clone())))
    };
    vms.iter().flat_map(of).collect()
}

/// Keeps the account.
pub struct Keeper {
    usage: Usage,
    storage: Arc<dyn Pools>,
    vms: Vms,
    events: Receiver<Event>,
    owners: Owners,
    due: Due,
}

impl Keeper {
    /// Listens from now on.
    pub fn new(usage: Usage, storage: Arc<dyn Pools>, vms: Vms, events: &EventBus) -> Self {
        let (events, due) = (events.subscribe(), Due { owners: true, ..Due::default() });
        Self { usage, storage, vms, events, owners: Owners::new(), due }
    }

    /// Runs until `stop` says true, then writes what has changed.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let midnight = Instant::now() + Duration::from_secs(DAY - now() % DAY);
            tokio::select! {
                () = ended(&mut stop) => break,
                event = self.events.recv() => self.take(event),
                Ok(()) = self.vms.changed() => {
                    self.due.owners = true;
                    self.look_soon();
                }
                () = at(self.due.look_at) => self.look().await,
                () = at(self.due.save_at) => self.save().await,
                () = sleep_until(midnight) => self.save().await,
            }
        }
        self.save().await;
    }

    fn look_soon(&mut self) {
        self.due.look_at.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn changed(&mut self) {
        self.due.save_at.get_or_insert_with(|| Instant::now() + SAVE);
    }

    fn take(&mut self, event: Result<Event, RecvError>) {
        match event {
            Ok(Event::VolumeGrown { pool, volume, allocation, .. }) => {
                let (names, now) = ((pool.as_str(), volume.as_str()), now());
                if !self.usage.ledger().grows(names.0, names.1, allocation, now) {
                    self.due.pools.insert(pool);
                    self.look_soon();
                }
                self.changed();
            }
            Ok(Event::VolumeDeleted { pool, volume }) => {
                self.usage.ledger().gone(pool.as_str(), volume.as_str(), now());
                self.changed();
            }
            Ok(
                Event::VolumeCreated { pool, .. }
                | Event::PoolStarted(pool)
                | Event::VolumeChanged { pool, .. }
                | Event::VolumesChanged(pool),
            ) => {
                self.due.pools.insert(pool);
                self.look_soon();
            }
            Ok(Event::Lost) | Err(RecvError::Lagged(_)) => {
                let ledger = self.usage.ledger();
                let pools: BTreeSet<PoolName> =
                    ledger.rows().filter_map(|row| row.pool.parse().ok()).collect();
                drop(ledger);
                self.due.owners = true;
                self.due.pools.extend(pools);
                self.due.pools.extend(self.storage.pools().into_iter().map(|pool| pool.name));
                self.look_soon();
            }
            _ => {}
        }
    }

    /// Looks at whose the volumes are, and asks the storage what they hold.
    async fn look(&mut self) {
        self.due.look_at = None;
        // Without libvirt the volumes stay whose they were.
        if std::mem::take(&mut self.due.owners)
            && let Some(vms) = self.vms.borrow_and_update().as_deref()
        {
            let ledger = self.usage.ledger();
            let known = ledger.rows().filter_map(|row| row.pool.parse().ok());
            self.due.pools.extend(known);
            self.owners = owners(vms);
        }
        let (pools, storage) = (std::mem::take(&mut self.due.pools), self.storage.clone());
        let look = move || {
            let volumes = |pool: PoolName| Some((pool.clone(), storage.volumes(&pool).ok()?));
            pools.into_iter().filter_map(volumes).collect::<Vec<_>>()
        };
        for (pool, volumes) in spawn_blocking(look).await.unwrap_or_default() {
            self.see(&pool, volumes);
        }
        self.changed();
    }

    /// Takes in all volumes of a pool that is started.
    fn see(&self, pool: &PoolName, volumes: Vec<VolumeInfo>) {
        let now = now();
        let mut ledger = self.usage.ledger();
        let there: BTreeSet<Uuid> = volumes.iter().map(|volume| volume.uuid).collect();
        let held = ledger.held().filter(|row| row.pool == pool.as_str());
        let gone = held.filter(|row| !there.contains(&row.owner.volume));
        let gone: Vec<String> = gone.map(|row| row.name.clone()).collect();
        for name in gone {
            ledger.gone(pool.as_str(), &name, now);
        }
        for volume in volumes {
            let owner = self.owners.get(&(pool.clone(), volume.name.clone()));
            ledger.see(seen(volume, owner), now);
        }
    }

    async fn save(&mut self) {
        self.due.save_at = None;
        let usage = self.usage.clone();
        if let Err(error) = spawn_blocking(move || usage.save(now())).await {
            warn!("the account of what volumes hold could not be written: {error}");
        }
    }
}

fn seen(volume: VolumeInfo, owner: Option<&(Uuid, String)>) -> Seen {
    // What a snapshot shares is its volume's as well, and counted there.
    let allocation = match volume.kind {
        VolumeKind::Volume => volume.allocation,
        VolumeKind::Snapshot => volume.exclusive,
    };
    Seen {
        owner: Owner { volume: volume.uuid, domain: owner.map(|(uuid, _)| *uuid) },
        pool: volume.pool.to_string(),
        name: volume.name.to_string(),
        domain_name: owner.map(|(_, name)| name.clone()).unwrap_or_default(),
        allocation,
    }
}

/// Ready when the daemon ends.
async fn ended(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ready then; never without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, id: u128, mib: u64) -> Seen {
        Seen {
            owner: Owner { volume: Uuid::from_u128(id), domain: Some(Uuid::from_u128(9)) },
            pool: "vms".into(),
            name: name.into(),
            domain_name: "guest".into(),
            allocation: virtnotify_model::Bytes::mib(mib),
        }
    }

    #[test]
    fn what_a_snapshot_shares_is_counted_once() {
        let mib = virtnotify_model::Bytes::mib;
        let info = |name: &str, kind| VolumeInfo {
            pool: "vms".parse().unwrap(),
            name: name.parse().unwrap(),
            uuid: Uuid::from_u128(1),
            kind,
            created: UNIX_EPOCH,
            backing: None,
            capacity: mib(64),
            allocation: mib(8),
            exclusive: mib(1),
            path: Path::new("/dev/notify/vms").join(name),
            state: virtnotify_model::VolumeState::Growing,
            openers: 0,
        };
        let counted = |name, kind| seen(info(name, kind), None).allocation;
        assert_eq!(counted("disk0", VolumeKind::Volume), mib(8));
        assert_eq!(counted("disk0@mon", VolumeKind::Snapshot), mib(1));
    }

    #[test]
    fn days_are_added_up_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (now, hours) = (now(), 48);
        {
            let usage = Usage::open(directory.path());
            let began = now - hours * 3600;
            *usage.ledger() = Ledger::new(began / DAY, Vec::new());
            usage.ledger().see(volume("disk0", 1, 1), began);
            usage.ledger().see(volume("disk1", 2, 2), began);
            usage.save(now);
        }
        let (since, until, used) = Usage::open(directory.path()).since(0);
        assert!(since <= now - hours * 3600 && until >= now);
        let names: Vec<_> = used.iter().map(|used| used.volume.as_str()).collect();
        assert_eq!(names, ["disk0", "disk1"]);
        for (used, mib) in used.iter().zip([1u64, 2]) {
            let least = (mib << 20) * hours;
            assert!((least..least + (mib << 20)).contains(&used.byte_hours), "{used:?}");
        }
        let (since, _, used) = Usage::open(directory.path()).since(now);
        assert_eq!(since, now / DAY * DAY);
        assert!(used[0].byte_hours < (1 << 20) * 24);
    }
}
