// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which objects there are: made, changed and removed as pools, volumes and moves are.
//!
//! Events only say where to look. What the objects show is what the storage says when it is asked,
//! so that a doubled event is harmless; where some were lost, all is looked at. Nothing is looked at while nothing happens.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::spawn_blocking;
use uuid::Uuid;
use virtnotify_model::{Event, PoolName, VolumeInfo, VolumeName};
use zbus::fdo;
use zbus::message::Header;
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::{Connection, ObjectPath, Variant};

use super::facts::{Facts, PoolFacts, VolumeFacts, changes};
use super::jobs::{Job, JobFacts};
use super::moves::{Move, MoveFacts, Peer, PeerFacts, Waiting, WaitingFacts};
use super::objects::{Pool, Shown, Volume};
use super::{Sources, paths};

/// How long virtnotifyd is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

type VolumeKey = (PoolName, VolumeName);

/// The volumes that are shown, and what each was made from.
type Known = BTreeMap<VolumeKey, Option<VolumeName>>;

/// Where to look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    everything: bool,
    /// The list of pools, and what each shows.
    pools: bool,
    /// Pools of which all volumes are looked at.
    whole: BTreeSet<PoolName>,
    volumes: BTreeSet<VolumeKey>,
    /// Those of them of which something is another: what shares something with them shows something else, too.
    relatives: BTreeSet<VolumeKey>,
    moves: bool,
    jobs: bool,
}

impl Dirty {
    /// Everything there is.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Takes in what happened.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::PoolsChanged | Event::PoolChanged(_) | Event::SpaceLow { .. } => {
                self.pools = true;
            }
            Event::PoolStarted(pool)
            | Event::PoolStopped(pool)
            | Event::SpaceAvailable { pool, .. } => {
                self.pools = true;
                self.whole.insert(pool.clone());
                // They go with their pool.
                self.jobs = true;
            }
            Event::JobChanged { .. } => self.jobs = true,
            Event::VolumesChanged(pool) => {
                self.pools = true;
                self.whole.insert(pool.clone());
            }
            Event::Damage { .. } => self.pools = true,
            Event::Lost => self.everything = true,
            Event::VolumeCreated { pool, volume, .. }
            | Event::VolumeDeleted { pool, volume }
            | Event::VolumeChanged { pool, volume }
            | Event::VolumeGrown { pool, volume, .. }
            | Event::SpaceExhausted { pool, volume, .. } => {
                self.pools = true;
                self.volumes.insert((pool.clone(), volume.clone()));
            }
            _ => {}
        }
        if let Event::VolumeCreated { pool, volume, .. }
        | Event::VolumeDeleted { pool, volume }
        | Event::VolumeChanged { pool, volume }
        | Event::VolumeGrown { pool, volume, .. } = event
        {
            self.relatives.insert((pool.clone(), volume.clone()));
        }
    }

    /// Moves began, went on or ended.
    pub fn moves(&mut self) {
        self.moves = true;
    }

    /// Whether there is nothing to look at.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// What a look found.
#[derive(Default)]
struct Found {
    pools: Option<Vec<PoolFacts>>,
    /// `None` for one that is gone.
    volumes: BTreeMap<VolumeKey, Option<VolumeInfo>>,
}

/// The objects of one kind.
type Objects<K, F> = BTreeMap<K, Shown<F>>;

/// The objects that there are.
pub struct Tree {
    sources: Sources,
    connection: Connection,
    pools: Objects<PoolName, PoolFacts>,
    volumes: Objects<VolumeKey, VolumeFacts>,
    moves: Objects<Uuid, MoveFacts>,
    waiting: Objects<Uuid, WaitingFacts>,
    peers: Objects<String, PeerFacts>,
    jobs: Objects<u64, JobFacts>,
}

impl Tree {
    /// A tree without objects.
    pub fn new(sources: Sources, connection: Connection) -> Self {
        Self {
            sources,
            connection,
            pools: BTreeMap::new(),
            volumes: BTreeMap::new(),
            moves: BTreeMap::new(),
            waiting: BTreeMap::new(),
            peers: BTreeMap::new(),
            jobs: BTreeMap::new(),
        }
    }

    /// Looks, and makes the objects what they should be.
    pub async fn look(&mut self, dirty: Dirty) -> zbus::Result<()> {
        if dirty.moves || dirty.everything {
            self.look_at_moves().await?;
        }
        if dirty.jobs || dirty.everything {
            self.look_at_jobs().await?;
        }
        let known = self.volumes.iter().map(|(key, shown)| (key.clone(), shown.get().0.backing));
        let known: Known = known.collect();
        let found = find(&self.sources, &dirty, &known);
        if let Some(pools) = found.pools {
            self.show_pools(pools).await?;
        }
        for (key, info) in found.volumes {
            self.show_volume(key, info.map(VolumeFacts)).await?;
        }
        Ok(())
    }

    async fn look_at_moves(&mut self) -> zbus::Result<()> {
        let (sources, connection) = (&self.sources, &self.connection);
        let now = sources.moves.list().into_iter().map(|of| (of.info.uuid, MoveFacts(of)));
        let made = |shown| Move { sources: sources.clone(), shown };
        show_all(connection, &mut self.moves, now, |uuid| paths::moving(*uuid), made).await?;
        let picture = sources.moves.picture();
        let now = picture.waiting.into_iter().map(|of| (of.uuid, WaitingFacts(of)));
        let path = |uuid: &Uuid| paths::waiting(*uuid);
        show_all(connection, &mut self.waiting, now, path, Waiting).await?;
        let now = picture.peers.into_iter().map(|of| (of.name.clone(), PeerFacts(of)));
        show_all(connection, &mut self.peers, now, |name| paths::peer(name), Peer).await
    }

    async fn look_at_jobs(&mut self) -> zbus::Result<()> {
        let sources = &self.sources;
        let now = sources.storage.jobs().into_iter().map(|info| (info.id, JobFacts(info)));
        let made = |shown| Job { sources: sources.clone(), shown };
        show_all(&self.connection, &mut self.jobs, now, |id| paths::job(*id), made).await
    }

    async fn show_pools(&mut self, now: Vec<PoolFacts>) -> zbus::Result<()> {
        let sources = &self.sources;
        let now = now.into_iter().map(|facts| (facts.name.clone(), facts));
        let made = |shown| Pool { sources: sources.clone(), shown };
        show_all(&self.connection, &mut self.pools, now, paths::pool, made).await
    }

    async fn show_volume(&mut self, key: VolumeKey, now: Option<VolumeFacts>) -> zbus::Result<()> {
        let path = paths::volume(&key.0, &key.1);
        match now {
            Some(facts) => {
                let sources = self.sources.clone();
                let made = |shown| Volume { sources, shown };
                show(&self.connection, &mut self.volumes, key, path, facts, made).await
            }
            None if self.volumes.remove(&key).is_some() => {
                remove::<Volume>(&self.connection, path).await
            }
            None => Ok(()),
        }
    }
}

/// Asks the storage, which answers at once.
fn find(sources: &Sources, dirty: &Dirty, known: &Known) -> Found {
    let storage = sources.storage.as_ref();
    let mut found = Found::default();
    let mut whole = dirty.whole.clone();
    if dirty.pools || dirty.everything {
        let facts: Vec<PoolFacts> = storage.pools().iter().map(PoolFacts::of).collect();
        if dirty.everything {
            whole.extend(facts.iter().map(|pool| pool.name.clone()));
            whole.extend(known.keys().map(|(pool, _)| pool.clone()));
        }
        found.pools = Some(facts);
    }
    let of_whole = known.keys().filter(|(pool, _)| whole.contains(pool));
    found.volumes.extend(of_whole.map(|key| (key.clone(), None)));
    for pool in &whole {
        let volumes = storage.volumes(pool).unwrap_or_default().into_iter();
        let volumes = volumes.map(|info| ((pool.clone(), info.name.clone()), Some(info)));
        found.volumes.extend(volumes);
    }
    let single = dirty.volumes.iter().filter(|(pool, _)| !whole.contains(pool));
    let single = single.map(|key| (key.clone(), storage.volume(&key.0, &key.1).ok()));
    found.volumes.extend(single);
    for key in dirty.relatives.iter().filter(|(pool, _)| !whole.contains(pool)) {
        for relative in relatives(key, &found, known) {
            let info = storage.volume(&relative.0, &relative.1).ok();
            found.volumes.entry(relative).or_insert(info);
        }
    }
    found
}

/// What a volume was made from, and what was made from it.
fn relatives(key: &VolumeKey, found: &Found, known: &Known) -> Vec<VolumeKey> {
    let now = found.volumes.get(key).and_then(|info| info.as_ref()?.backing.clone());
    let before = known.get(key).cloned().flatten();
    let up = now.or(before).map(|backing| (key.0.clone(), backing));
    let below = known
        .iter()
        .filter(|((pool, _), backing)| *pool == key.0 && backing.as_ref() == Some(&key.1));
    up.into_iter().chain(below.map(|(key, _)| key.clone())).collect()
}

/// Makes the objects of one kind what they should be.
async fn show_all<K: Ord + Clone, F: Facts, I: Interface>(
    connection: &Connection,
    objects: &mut Objects<K, F>,
    now: impl Iterator<Item = (K, F)>,
    path: impl Fn(&K) -> ObjectPath<'static>,
    made: impl Fn(Shown<F>) -> I,
) -> zbus::Result<()> {
    let now: BTreeMap<K, F> = now.collect();
    let gone: Vec<K> = objects.keys().filter(|key| !now.contains_key(key)).cloned().collect();
    for key in gone {
        objects.remove(&key);
        remove::<I>(connection, path(&key)).await?;
    }
    for (key, facts) in now {
        let path = path(&key);
        show(connection, objects, key, path, facts, &made).await?;
    }
    Ok(())
}

/// Makes the object of what is new, or tells what has changed.
async fn show<K: Ord, F: Facts, I: Interface>(
    connection: &Connection,
    objects: &mut Objects<K, F>,
    key: K,
    path: ObjectPath<'static>,
    facts: F,
    made: impl FnOnce(Shown<F>) -> I,
) -> zbus::Result<()> {
    if let Some(shown) = objects.get(&key) {
        let before = shown.set(facts.clone());
        return tell_changes(connection, path, &before, &facts).await;
    }
    let shown = Shown::new(facts);
    objects.insert(key, shown.clone());
    connection.object_server().at(path, made(shown)).await.map(drop)
}

async fn tell_changes<F: Facts>(
    connection: &Connection,
    path: ObjectPath<'static>,
    before: &F,
    after: &F,
) -> zbus::Result<()> {
    let changed = changes(before, after);
    if changed.is_empty() {
        return Ok(());
    }
    let changed: std::collections::HashMap<&str, Variant<'_>> = changed.into_iter().collect();
    let emitter = SignalEmitter::new(connection, path)?;
    let interface = InterfaceName::from_static_str(F::INTERFACE)?;
    fdo::Properties::properties_changed(&emitter, interface, changed, (&[]).into()).await
}

async fn remove<I: Interface>(
    connection: &Connection,
    path: ObjectPath<'static>,
) -> zbus::Result<()> {
    connection.object_server().remove::<I, _>(path).await.map(drop)
}

impl Sources {
    /// How fast volumes grow.
    pub fn rates(&self) -> std::sync::MutexGuard<'_, virtnotify_migrate::Rates> {
        self.rates.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for virtnotifyd as other calls do: nothing is moved by what is known of volumes that are not served.
    pub async fn need_storage(&self) -> Result<(), super::error::Error> {
        let mut found = self.found.clone();
        let runs = async { while !self.storage.runs() && found.changed().await.is_ok() {} };
        if tokio::time::timeout(PATIENCE, runs).await.is_ok() {
            return Ok(());
        }
        let text = "virtnotifyd, which serves the pools of type 'notify', does not run: \
                    systemctl status virtnotifyd tells why";
        Err(super::error::Error::Failed(text.to_owned()))
    }

    /// Answers a question that anybody may ask, when it is its turn. What was done before is seen.
    pub async fn look<T: Send + 'static>(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        question: impl FnOnce(&Sources) -> Result<T, super::error::Error> + Send + 'static,
    ) -> Result<T, super::error::Error> {
        let place = self.place(connection, header).await?;
        let _turn = match &place {
            Some(place) => place.turn().await,
            None => None,
        };
        let caught_up = move |sources: &Sources| {
            sources.storage.catch_up();
            question(sources)
        };
        self.ask(caught_up).await
    }

    /// The storage side may wait for LVM: it is asked on a thread of its own.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Sources) -> Result<T, super::error::Error> + Send + 'static,
    ) -> Result<T, super::error::Error> {
        let sources = self.clone();
        let asked = spawn_blocking(move || question(&sources)).await;
        let lost = |e| super::error::Error::Failed(format!("the daemon has a fault there: {e}"));
        asked.unwrap_or_else(|e| Err(lost(e)))
    }
}
