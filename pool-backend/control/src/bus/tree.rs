// SPDX-License-Identifier: LGPL-2.1-or-later
//! The set of objects: they are made, changed and removed with pools, volumes, VMs and moves.
//!
//! An event only says where to look: the objects show what the storage answers then. So an event that comes twice is
//! harmless, and after lost events everything is looked at. Nothing is asked while nothing happens.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::task::spawn_blocking;
use uuid::Uuid;
use virtnotify_migrate::Vm;
use virtnotify_model::{Changes, Event, JobInfo, Picture, PoolName, Stale, VolumeInfo, VolumeName};
use zbus::fdo;
use zbus::message::Header;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::{Connection, ObjectPath, OwnedVariant, Variant};

use super::facts::{Facts, PoolFacts, VolumeFacts};
use super::jobs::{Job, JobFacts};
use super::moves::{Move, MoveFacts, Peer, PeerFacts, Waiting, WaitingFacts};
use super::objects::{Pool, Shown, Volume};
use super::vms::VmFacts;
use super::{Sources, paths, vms};

/// The longest wait for virtnotifyd.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

type VolumeKey = (PoolName, VolumeName);

/// The parts that have to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    stale: Stale,
    moves: bool,
    vms: bool,
}

impl Due {
    /// Everything there is.
    pub fn everything() -> Self {
        Self { stale: Stale::everything(), moves: true, vms: true }
    }

    /// Takes in what happened.
    pub fn take(&mut self, event: &Event) {
        self.stale.take(event);
        self.moves |= *event == Event::Lost;
    }

    /// Moves began, went on or ended.
    pub fn moves(&mut self) {
        self.moves = true;
    }

    /// VMs came, went or changed.
    pub fn vms(&mut self) {
        self.vms = true;
    }

    /// Whether there is nothing to look at.
    pub fn is_nothing(&self) -> bool {
        self.stale.is_nothing() && !self.moves && !self.vms
    }
}

/// The objects of one kind.
struct Objects<K, F> {
    all: BTreeMap<K, Told<F>>,
    /// The properties of which changes are not told, as the interface declares them.
    untold: BTreeSet<String>,
}

/// An object, and what was told of it last.
struct Told<F> {
    shown: Shown<F>,
    properties: Properties,
}

type Properties = HashMap<String, OwnedVariant>;

impl<K, F> Default for Objects<K, F> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), untold: BTreeSet::new() }
    }
}

/// The objects that there are.
pub struct Tree {
    sources: Sources,
    connection: Connection,
    /// The storage as the objects show it.
    picture: Picture,
    pools: Objects<PoolName, PoolFacts>,
    volumes: Objects<VolumeKey, VolumeFacts>,
    /// What was told last to be wrong with pools.
    damage: BTreeMap<PoolName, String>,
    vms: Objects<Uuid, VmFacts>,
    /// The VMs that have each volume, as libvirt lists them.
    users: BTreeMap<VolumeKey, Vec<Uuid>>,
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
            picture: Picture::default(),
            pools: Objects::default(),
            volumes: Objects::default(),
            damage: BTreeMap::new(),
            vms: Objects::default(),
            users: BTreeMap::new(),
            moves: Objects::default(),
            waiting: Objects::default(),
            peers: Objects::default(),
            jobs: Objects::default(),
        }
    }

    /// Looks, and makes the objects what they should be.
    pub async fn look(&mut self, due: Due) -> zbus::Result<()> {
        if due.moves {
            self.look_at_moves().await?;
        }
        // The storage answers at once.
        let storage = self.sources.storage.clone();
        let Changes { pools, volumes, jobs } = self.picture.look(storage.as_ref(), due.stale);
        if let Some(jobs) = jobs {
            self.show_jobs(jobs).await?;
        }
        if let Some(pools) = pools {
            self.show_pools(pools.iter().map(PoolFacts::of)).await?;
        }
        let mut due_vms = due.vms;
        for (key, info) in volumes {
            due_vms |= info.is_none() || !self.volumes.all.contains_key(&key);
            self.show_volume(key, info).await?;
        }
        if due.vms {
            self.look_at_users().await?;
        }
        if due_vms { self.show_vms().await } else { Ok(()) }
    }

    /// Remembers what is wrong with a pool.
    pub fn damage(&mut self, pool: &PoolName, what: &str) {
        self.damage.insert(pool.clone(), what.to_owned());
    }

    /// Looks at which VMs have which volumes.
    async fn look_at_users(&mut self) -> zbus::Result<()> {
        let vms = self.sources.vms.borrow().clone().unwrap_or_default();
        let mut users: BTreeMap<VolumeKey, Vec<Uuid>> = BTreeMap::new();
        for vm in vms.iter() {
            for volume in &vm.volumes {
                users.entry(volume.clone()).or_default().push(vm.uuid);
            }
        }
        self.users = users;
        let all = self.volumes.all.iter().map(|(key, told)| (key.clone(), told.shown.get().info));
        for (key, info) in all.collect::<Vec<_>>() {
            self.show_volume(key, Some(info)).await?;
        }
        Ok(())
    }

    async fn show_vms(&mut self) -> zbus::Result<()> {
        let vms = self.sources.vms.borrow().clone().unwrap_or_default();
        let of_ours = |vm: &Vm| {
            let there = vm.volumes.iter().filter(|volume| self.volumes.all.contains_key(volume));
            let volumes: Vec<VolumeKey> = there.cloned().collect();
            (!volumes.is_empty()).then(|| (vm.uuid, VmFacts { vm: vm.clone(), volumes }))
        };
        let now: Vec<_> = vms.iter().filter_map(of_ours).collect();
        let path = |uuid: &Uuid| paths::vm(*uuid);
        show_all(&self.connection, &mut self.vms, now.into_iter(), path, vms::Vm).await
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
        show_all(connection, &mut self.peers, now, |name| paths::peer(name), Peer).await?;
        let pools: Vec<_> = self.pools.all.values().map(|told| told.shown.get()).collect();
        self.show_pools(pools.into_iter()).await
    }

    async fn show_jobs(&mut self, now: Vec<JobInfo>) -> zbus::Result<()> {
        let sources = &self.sources;
        let now = now.into_iter().map(|info| (info.id, JobFacts(info)));
        let made = |shown| Job { sources: sources.clone(), shown };
        show_all(&self.connection, &mut self.jobs, now, |id| paths::job(*id), made).await
    }

    /// Shows pools, with what the mover says of them.
    async fn show_pools(&mut self, now: impl Iterator<Item = PoolFacts>) -> zbus::Result<()> {
        let sources = &self.sources;
        let held_back = sources.moves.picture().held_back;
        let damage = |pool: &PoolFacts| {
            let told = || self.damage.get(&pool.name).cloned();
            let told = || told().or_else(|| sources.recent.damage(&pool.name));
            pool.damaged.then(told).flatten()
        };
        let now = now.map(|pool| {
            let damage = damage(&pool);
            (pool.name.clone(), PoolFacts { damage, ..pool.held_back_as(&held_back) })
        });
        let made = |shown| Pool { sources: sources.clone(), shown };
        show_all(&self.connection, &mut self.pools, now, paths::pool, made).await
    }

    async fn show_volume(&mut self, key: VolumeKey, now: Option<VolumeInfo>) -> zbus::Result<()> {
        let path = paths::volume(&key.0, &key.1);
        match now {
            Some(info) => {
                let vms = self.users.get(&key).cloned().unwrap_or_default();
                let facts = VolumeFacts { info, vms };
                let sources = self.sources.clone();
                let made = |shown| Volume { sources, shown };
                show(&self.connection, &mut self.volumes, key, path, facts, made).await
            }
            None if self.volumes.all.remove(&key).is_some() => {
                remove::<Volume>(&self.connection, path).await
            }
            None => Ok(()),
        }
    }
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
    let gone: Vec<K> = objects.all.keys().filter(|key| !now.contains_key(key)).cloned().collect();
    for key in gone {
        objects.all.remove(&key);
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
    if let Some(told) = objects.all.get_mut(&key) {
        let before = told.shown.set(facts.clone());
        if before == facts {
            return Ok(());
        }
        return tell_changes::<I>(connection, path, &mut told.properties, &objects.untold).await;
    }
    let shown = Shown::new(facts);
    connection.object_server().at(&path, made(shown.clone())).await?;
    if objects.untold.is_empty() {
        let object = connection.object_server().interface::<_, I>(&path).await?;
        let mut xml = String::new();
        object.get().await.introspect_to_writer(&mut xml, 0);
        objects.untold = untold(&xml);
    }
    let properties = properties::<I>(connection, &path).await?;
    objects.all.insert(key, Told { shown, properties });
    Ok(())
}

/// What an object shows.
async fn properties<I: Interface>(
    connection: &Connection,
    path: &ObjectPath<'_>,
) -> zbus::Result<Properties> {
    let server = connection.object_server();
    let object = server.interface::<_, I>(path).await?;
    let all = object.get().await;
    Ok(all.get_all(server, connection, None, object.signal_emitter()).await?)
}

async fn tell_changes<I: Interface>(
    connection: &Connection,
    path: ObjectPath<'static>,
    told: &mut Properties,
    untold: &BTreeSet<String>,
) -> zbus::Result<()> {
    let now = properties::<I>(connection, &path).await?;
    let before = std::mem::replace(told, now);
    let changed = told.iter().filter(|(name, value)| {
        before.get(*name) != Some(value) && !untold.contains(name.as_str())
    });
    let changed: HashMap<&str, Variant<'_>> =
        changed.map(|(name, value)| (name.as_str(), Variant::clone(value))).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let emitter = SignalEmitter::new(connection, path)?;
    fdo::Properties::properties_changed(&emitter, I::name(), changed, (&[]).into()).await
}

/// The properties of which an interface's introspection says that their changes are not told.
fn untold(introspection: &str) -> BTreeSet<String> {
    let mark = "name=\"org.freedesktop.DBus.Property.EmitsChangedSignal\" value=\"false\"";
    let parts = introspection.split("<property name=\"").skip(1);
    let silent = parts.filter(|part| part.contains(mark));
    silent.filter_map(|part| part.split('"').next()).map(str::to_owned).collect()
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
        Err(super::error::Error::NotRunning(text.to_owned()))
    }

    /// Answers a question, which every user may ask, when it is its turn. The answer sees all that was done before.
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
