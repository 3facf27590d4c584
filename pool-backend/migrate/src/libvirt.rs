// SPDX-License-Identifier: LGPL-2.1-or-later
//! [`Hypervisor`] through libvirt's client library.
//!
//! Connections are opened when they are first needed, kept, and opened again when they are
//! dead; this host's libvirt may ask our own sockets while it answers, so nothing here is ever
//! called from the threads that serve them. Each call has a thread and a limit: one that does
//! not answer costs its caller [`LIMIT`], not for ever. Only `migrate` has none: libvirt ends
//! it by itself when the other side is gone (its own keepalive).

pub(crate) mod convert;
mod events;
mod failure;
mod holds;
mod images;
mod machine;
mod memory;
mod migration;
mod opening;
mod params;
mod pool_xml;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;
use virtnotify_model::{Bytes, PoolName, VolumeName};

use self::failure::Failure;
use self::opening::Openings;
use self::pool_xml::PoolXml;
use crate::domain::{DiskSource, Domain, Image};
use crate::domain_xml;
use crate::hypervisor::{
    Copying, Holds, HostRoom, HvError, Hypervisor, Job, Order, Peer, Place, PoolRoom, RemoteVolume,
};
use crate::shared_storage;
use crate::surroundings::{Machine, Nvram};
use crate::wishes::{ORIGIN, Origin, WISHES};

/// How long a call may take, the way to a peer included.
const LIMIT: Duration = Duration::from_secs(30);
/// A connection without an answer to this many questions, asked at this interval in seconds,
/// is dead.
const KEEPALIVE: (i32, u32) = (5, 5);
/// `LIBVIR_VERSION_NUMBER` of 10.9.0, the first with `migrate_disks_detect_zeroes`.
const DETECTS_ZEROES: u32 = 10_009_000;
/// The same of 8.0.0, the first with `VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES`.
const WRITES_TO_BOTH: u32 = 8_000_000;
/// The same of 8.9.0, the first with `VIR_DOMAIN_UNDEFINE_KEEP_TPM`.
const KEEPS_TPM: u32 = 8_009_000;
/// Where libvirt keeps the state of emulated TPMs, by the VM's UUID (`swtpmStorageDir`).
const TPM_STATES: &str = "/var/lib/libvirt/swtpm";

/// libvirt here and at the peers.
pub struct Libvirt {
    uri: String,
    connections: Arc<Mutex<BTreeMap<String, Connect>>>,
    openings: Openings<Result<Connect, HvError>>,
    changes: Arc<watch::Sender<u64>>,
    lacks_certificate: fn() -> Option<PathBuf>,
}

impl Libvirt {
    /// Will connect to `uri` when it is first asked something. `lacks_certificate` says which certificate or key this
    /// host needs to encrypt a migration and does not have.
    ///
    /// # Errors
    /// When libvirt's event loop cannot be set up.
    pub fn new(uri: &str, lacks_certificate: fn() -> Option<PathBuf>) -> Result<Self, HvError> {
        events::start_loop().map_err(|failure| failure.at(Place::Here, true))?;
        let changes = Arc::new(watch::channel(0).0);
        let (connections, openings) = (Arc::default(), Openings::default());
        Ok(Self { uri: uri.to_owned(), connections, openings, changes, lacks_certificate })
    }

    fn uri<'a>(&'a self, place: Place<'a>) -> &'a str {
        match place {
            Place::Here => &self.uri,
            Place::At(peer) => &peer.uri,
        }
    }

    /// A live connection: the one at hand, or a new one.
    fn connect(&self, place: Place<'_>) -> Result<Connect, HvError> {
        let uri = self.uri(place).to_owned();
        let known = self.cache().get(&uri).cloned();
        if let Some(known) = known.filter(|known| known.is_alive().unwrap_or(false)) {
            return Ok(known);
        }
        let (here, name) = (matches!(place, Place::Here), place.to_string());
        let (where_to, known, changes) =
            (uri.clone(), self.connections.clone(), self.changes.clone());
        let open = move || {
            let opened = open(&where_to, &name, here.then_some(&changes))?;
            cache(&known).insert(where_to, opened.clone());
            Ok(opened)
        };
        let late = || HvError::Late { place: place.to_string(), limit: LIMIT };
        self.openings.open(&uri, LIMIT, open).ok_or_else(late)?
    }

    /// What the peer lacks of what disks are read from. Where its pools do not answer in time it is not known.
    fn without_image(
        &self,
        peer: &Peer,
        images: BTreeSet<Image>,
    ) -> Result<Option<Image>, HvError> {
        if images.is_empty() {
            return Ok(None);
        }
        let answer = self.ask(Place::At(peer), move |connection| {
            let is_there = |image: &Image| images::is_there(connection, image);
            first_missing(&images, ErrorNumber::NoStorageVolume, is_there)
        });
        if matches!(answer, Err(HvError::Late { .. })) { Ok(None) } else { answer }
    }

    /// A connection of its own: of one libvirt answers no more than five calls at once (`max_client_requests`), and a
    /// migration is one call until its end, so a few of them would leave none for all other questions.
    fn connect_apart(&self) -> Result<Connect, HvError> {
        let (uri, place) = (self.uri.clone(), Place::Here.to_string());
        bounded(Place::Here, move || open(&uri, &place, None))?
    }

    fn cache(&self) -> MutexGuard<'_, BTreeMap<String, Connect>> {
        cache(&self.connections)
    }

    /// Has the VM's metadata contain this element, and no other of its namespace: now, where it is active,
    /// and when it is started again, where it is defined.
    fn set_metadata(
        &self,
        uuid: Uuid,
        element: &str,
        prefix: &'static str,
        namespace: &'static str,
        what: &'static str,
    ) -> Result<(), HvError> {
        let element = element.to_owned();
        self.ask(Place::Here, move |connection| {
            let failed = |e: Error| Failure::of(what, &e);
            let domain = the_domain(connection, uuid)?;
            let config = match domain.is_persistent().map_err(failed)? {
                true => sys::VIR_DOMAIN_AFFECT_CONFIG,
                false => 0,
            };
            let live = match domain.is_active().map_err(failed)? {
                true => sys::VIR_DOMAIN_AFFECT_LIVE,
                false => 0,
            };
            let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
            domain
                .set_metadata(kind, Some(&element), Some(prefix), Some(namespace), live | config)
                .map(drop)
                .map_err(failed)
        })
    }

    /// Whether libvirt says of this host that it can make that CPU. What it says of a peer is worth nothing
    /// where it denies it of the host on which the VM runs.
    fn makes_cpu(&self, machine: Machine) -> Result<bool, HvError> {
        let makes =
            move |connection: &Connect| Ok(machine::makes_cpu(connection, &machine) == Some(true));
        self.ask(Place::Here, makes)
    }

    /// Asks libvirt, within the limit. A connection that does not answer is not used again, nor
    /// is a peer's after any error: its virtqemud opens one connection to the storage daemon for
    /// each client, and no other (`remoteOpenConn` in libvirt's `remote_daemon_dispatch.c`). When
    /// that daemon was restarted meanwhile, no question about pools is sent on, while the
    /// client's own connection is alive: such a question is asked again, once, over a new one.
    fn ask<T: Send + 'static>(
        &self,
        place: Place<'_>,
        question: impl Fn(&Connect) -> Result<T, Failure> + Send + Sync + 'static,
    ) -> Result<T, HvError> {
        let question = Arc::new(question);
        let mut answer = self.ask_once(place, Arc::clone(&question))?;
        if matches!((place, &answer), (Place::At(_), Err((Failure::NotSent(_), _)))) {
            answer = self.ask_once(place, question)?;
        }
        answer.map_err(|(failure, alive)| failure.at(place, alive))
    }

    /// The answer, or what failed and whether the connection is alive after it. The outer error is of a host of
    /// which no answer came at all.
    fn ask_once<T: Send + 'static>(
        &self,
        place: Place<'_>,
        question: Arc<impl Fn(&Connect) -> Result<T, Failure> + Send + Sync + 'static>,
    ) -> Result<Result<T, (Failure, bool)>, HvError> {
        let connection = self.connect(place)?;
        let asked = connection.clone();
        let answer = bounded(place, move || question(&asked));
        let alive = connection.is_alive().unwrap_or(false);
        let failed = !matches!(answer, Ok(Ok(_)));
        if answer.is_err() || (failed && (!alive || matches!(place, Place::At(_)))) {
            self.cache().remove(self.uri(place));
        }
        Ok(answer?.map_err(|failure| (failure, alive)))
    }
}

fn cache(
    connections: &Mutex<BTreeMap<String, Connect>>,
) -> MutexGuard<'_, BTreeMap<String, Connect>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a connection; one to this host tells of its changes.
fn open(
    uri: &str,
    place: &str,
    changes: Option<&Arc<watch::Sender<u64>>>,
) -> Result<Connect, HvError> {
    let unreachable = |reason| HvError::Unreachable { place: place.to_owned(), reason };
    let connection = Connect::open(Some(uri)).map_err(|e| unreachable(e.message().to_owned()))?;
    if let Err(error) = connection.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1) {
        warn!("the connection to {place} has no keepalive: {}", error.message());
    }
    if let Some(changes) = changes {
        events::subscribe(&connection, changes)
            .map_err(|failure| failure.at(Place::Here, false))?;
    }
    Ok(connection)
}

/// Runs `work` on a thread of its own and waits for it no longer than the limit. Work that
/// never ends keeps its thread: keepalive ends a connection that does not answer, and what waits for it.
fn bounded<T: Send + 'static>(
    place: Place<'_>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HvError> {
    let (done, answer) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    let late = HvError::Late { place: place.to_string(), limit: LIMIT };
    answer.recv_timeout(LIMIT).map_err(|_| late)
}

/// libvirt's "there is no such thing" as `None`.
fn optional<T>(
    what: &str,
    none: ErrorNumber,
    result: Result<T, Error>,
) -> Result<Option<T>, Failure> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.code() == none.into() => Ok(None),
        Err(e) => Err(Failure::of(what, &e)),
    }
}

/// The first of these that a host lacks, or has not started. An error of a host that cannot say is no answer;
/// one of which it has not even heard is handed on, and the question is asked again.
fn first_missing<T: Clone>(
    wanted: &BTreeSet<T>,
    none: ErrorNumber,
    is_there: impl Fn(&T) -> Result<bool, Error>,
) -> Result<Option<T>, Failure> {
    for one in wanted {
        match is_there(one) {
            Ok(true) => {}
            Ok(false) => return Ok(Some(one.clone())),
            Err(error) if error.code() == none.into() => return Ok(Some(one.clone())),
            Err(error) => {
                let failure = Failure::of("cannot ask what the host has", &error);
                if matches!(failure, Failure::NotSent(_)) {
                    return Err(failure);
                }
            }
        }
    }
    Ok(None)
}

/// What becomes of the VM's NVRAM where its definition goes. The VM runs elsewhere, perhaps with the very same file: it goes
/// only where it is known to be this host's own. Of a peer's, no path here tells.
fn nvram(here: bool, nvram: Option<&Nvram>) -> sys::virDomainUndefineFlagsValues {
    match nvram {
        Some(Nvram::File(path)) if here && shared_storage::is_local(path) => {
            sys::VIR_DOMAIN_UNDEFINE_NVRAM
        }
        _ => sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM,
    }
}

/// The same for the state of its emulated TPM. Unasked, libvirt deletes that with the definition
/// (`qemuTPMEmulatorCleanupHost`).
fn tpm(here: bool, version: u32, state: &Path) -> sys::virDomainUndefineFlagsValues {
    match (here && shared_storage::is_local(state)) || version < KEEPS_TPM {
        true => 0,
        false => sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM,
    }
}

/// A number that C has as signed and that is never negative.
fn number(from: i32) -> u32 {
    u32::try_from(from).unwrap_or(u32::MAX)
}

/// The version of libvirt on that host.
fn version(connection: &Connect) -> Result<u32, Failure> {
    connection.lib_version().map_err(|e| Failure::of("cannot find the version of libvirt", &e))
}

fn find_domain(connection: &Connect, uuid: Uuid) -> Result<Option<VirtDomain>, Failure> {
    let found = connection.lookup_domain_by_uuid(uuid);
    optional("cannot look for the VM", ErrorNumber::NoDomain, found)
}

fn the_domain(connection: &Connect, uuid: Uuid) -> Result<VirtDomain, Failure> {
    find_domain(connection, uuid)?.ok_or_else(|| Failure::gone("cannot find the VM"))
}

fn find_pool(connection: &Connect, name: &str) -> Result<Option<StoragePool>, Failure> {
    let found = connection.lookup_storage_pool_by_name(name);
    optional("cannot look for the pool", ErrorNumber::NoStoragePool, found)
}

fn find_volume(
    connection: &Connect,
    pool: &str,
    volume: &str,
) -> Result<Option<StorageVol>, Failure> {
    let Some(pool) = find_pool(connection, pool)? else { return Ok(None) };
    let found = pool.lookup_storage_vol_by_name(volume);
    optional("cannot look for the volume", ErrorNumber::NoStorageVolume, found)
}

fn describe(volume: &StorageVol) -> Result<RemoteVolume, Failure> {
    let what = "cannot look at the volume";
    let info = volume.info().map_err(|e| Failure::of(what, &e))?;
    Ok(RemoteVolume {
        key: volume.key().map_err(|e| Failure::of(what, &e))?,
        capacity: Bytes(info.capacity),
        allocation: Bytes(info.allocation),
    })
}

fn list(connection: &Connect, which: u32) -> Result<Vec<Domain>, Failure> {
    let what = "cannot list the VMs";
    let all = connection.list_all_domains(which).map_err(|e| Failure::of(what, &e))?;
    // One that goes away between being listed and being read is not there any more.
    let read = all.iter().map(convert::domain);
    read.filter_map(Result::transpose).collect()
}

/// The VMs that can be read: one that libvirt cannot read must not keep the others from their space. An
/// error when none can, or where an answer did not come: then nothing is known of those that are missing.
fn readable(
    domains: impl Iterator<Item = Result<Option<Domain>, Failure>>,
) -> Result<Vec<Domain>, Failure> {
    let (mut found, mut unread) = (Vec::new(), None);
    for domain in domains {
        match domain {
            Ok(domain) => found.extend(domain),
            Err(Failure::Answer(error)) => {
                warn!("a VM that is paused by an I/O error cannot be read: {error}");
                unread = Some(Failure::Answer(error));
            }
            Err(broken) => return Err(broken),
        }
    }
    unread.filter(|_| found.is_empty()).map_or(Ok(found), Err)
}

impl Hypervisor for Libvirt {
    fn host(&self, place: Place<'_>) -> Result<String, HvError> {
        self.ask(place, |connection| {
            connection.hostname().map_err(|e| Failure::of("cannot find the name of the host", &e))
        })
    }

    fn stalled(&self) -> Result<Vec<Domain>, HvError> {
        self.ask(Place::Here, |connection| {
            let paused = connection
                .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_PAUSED)
                .map_err(|e| Failure::of("cannot list the VMs", &e))?;
            readable(paused.iter().map(convert::stalled))
        })
    }

    fn domains(&self, place: Place<'_>) -> Result<Vec<Domain>, HvError> {
        self.ask(place, |connection| list(connection, 0))
    }

    fn domain(&self, place: Place<'_>, uuid: Uuid) -> Result<Option<Domain>, HvError> {
        self.ask(place, move |connection| match find_domain(connection, uuid)? {
            Some(domain) => convert::domain(&domain),
            None => Ok(None),
        })
    }

    fn pool_room(&self, peer: &Peer, pool: &PoolName) -> Result<Option<PoolRoom>, HvError> {
        let pool = pool.to_string();
        self.ask(Place::At(peer), move |connection| {
            let Some(pool) = find_pool(connection, &pool)? else { return Ok(None) };
            let what = "cannot look at the pool";
            // Its XML first: virtqemud, whose order is another, is shown another type of pool.
            let xml = pool.xml_desc(0).map_err(|e| Failure::of(what, &e))?;
            let info = pool.info().map_err(|e| Failure::of(what, &e))?;
            let PoolXml { notify, drained, chunk, .. } =
                pool_xml::read(&xml).map_err(|e| Failure::refused(what, e))?;
            Ok(Some(PoolRoom {
                notify,
                drained,
                chunk,
                active: pool.is_active().map_err(|e| Failure::of(what, &e))?,
                capacity: Bytes(info.capacity),
                available: Bytes(info.available),
            }))
        })
    }

    /// A peer that cannot say how much memory it has, or which networks, is not refused for that: libvirt's drivers for
    /// these are packages and daemons of their own.
    fn host_room(&self, peer: &Peer, domain: &Domain) -> Result<HostRoom, HvError> {
        let (wanted, images) = (domain.surroundings.clone(), domain.images());
        let machine = wanted.machine.clone();
        let answer = self.ask(Place::At(peer), move |connection| {
            Ok(HostRoom {
                without_image: None,
                without_machine: machine::missing(connection, &wanted.machine),
                without_cpu: machine::makes_cpu(connection, &wanted.machine) == Some(false),
                memory: memory::left(connection),
                without_network: first_missing(&wanted.networks, ErrorNumber::NoNetwork, |name| {
                    connection.lookup_network_by_name(name)?.is_active()
                })?,
                without_secret: first_missing(&wanted.secrets, ErrorNumber::NoSecret, |secret| {
                    connection.lookup_secret_by_uuid(*secret).map(|_| true)
                })?,
            })
        });
        let room = match answer {
            Err(HvError::Late { .. }) => Ok(HostRoom::default()),
            Ok(room) if room.without_cpu && !self.makes_cpu(machine)? => {
                Ok(HostRoom { without_cpu: false, ..room })
            }
            answer => answer,
        };
        let room = room?;
        Ok(HostRoom { without_image: self.without_image(peer, images)?, ..room })
    }

    fn holds(&self, domain: &Domain) -> Result<Holds, HvError> {
        let uuid = domain.uuid;
        let disks = domain.disks.iter().filter(|disk| disk.source != DiskSource::Empty);
        let targets: Vec<String> = disks.map(|disk| disk.target.clone()).collect();
        self.ask(Place::Here, move |connection| holds::of(&the_domain(connection, uuid)?, &targets))
    }

    fn lacks_certificate(&self) -> Option<PathBuf> {
        (self.lacks_certificate)()
    }

    /// All who read a flag or a parameter must know it, or they refuse the whole migration: our library,
    /// which sends it, the driver here, and the one at the peer, to which libvirt passes it on
    /// (`qemuMigrationSrcPerformPeer2Peer3`) although it has nothing to do with it.
    fn copying(&self, peer: &Peer) -> Result<Copying, HvError> {
        let (here, there) = (self.ask(Place::Here, version)?, self.ask(Place::At(peer), version)?);
        let oldest = Connect::version().unwrap_or(0).min(here).min(there);
        Ok(Copying { whole: oldest < DETECTS_ZEROES, synchronous: oldest >= WRITES_TO_BOTH })
    }

    fn volume_names(&self, peer: &Peer, pool: &PoolName) -> Result<Vec<String>, HvError> {
        let pool = pool.to_string();
        self.ask(Place::At(peer), move |connection| {
            let Some(pool) = find_pool(connection, &pool)? else { return Ok(Vec::new()) };
            let what = "cannot list the volumes";
            let all = pool.list_all_volumes(0).map_err(|e| Failure::of(what, &e))?;
            let name = |volume: &StorageVol| volume.name().map_err(|e| Failure::of(what, &e));
            all.iter().map(name).collect()
        })
    }

    fn volume(
        &self,
        peer: &Peer,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<Option<RemoteVolume>, HvError> {
        let (pool, volume) = (pool.to_string(), volume.to_string());
        self.ask(Place::At(peer), move |connection| {
            let found = find_volume(connection, &pool, &volume)?;
            found.as_ref().map(describe).transpose()
        })
    }

    fn create_volume(
        &self,
        peer: &Peer,
        pool: &PoolName,
        volume: &VolumeName,
        capacity: Bytes,
    ) -> Result<RemoteVolume, HvError> {
        // Names are safe in XML: LVM's characters only.
        let xml = format!(
            "<volume><name>{volume}</name><capacity unit='bytes'>{}</capacity>\
             <allocation unit='bytes'>0</allocation></volume>",
            capacity.0
        );
        let (pool, what) = (pool.to_string(), format!("cannot make '{volume}' on {}", peer.name));
        self.ask(Place::At(peer), move |connection| {
            let gone = || Failure::refused(&what, "its pool is gone");
            let pool = find_pool(connection, &pool)?.ok_or_else(gone)?;
            let made =
                StorageVol::create_xml(&pool, &xml, 0).map_err(|e| Failure::of(&what, &e))?;
            describe(&made)
        })
    }

    fn delete_volume(
        &self,
        peer: &Peer,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<(), HvError> {
        let what = format!("cannot delete '{volume}' on {}", peer.name);
        let (pool, volume) = (pool.to_string(), volume.to_string());
        self.ask(Place::At(peer), move |connection| {
            match find_volume(connection, &pool, &volume)? {
                Some(found) => found.delete(0).map(drop).map_err(|e| Failure::of(&what, &e)),
                None => Ok(()),
            }
        })
    }

    fn migrate(&self, order: Order<'_>) -> Result<(), HvError> {
        let connection = self.connect_apart()?;
        let certified = order.wire.tls.then(|| self.host(Place::At(order.peer))).transpose()?;
        let migrate = || {
            let domain = the_domain(&connection, order.uuid)?;
            let params = migration::params(&order, certified.as_deref())?;
            params.migrate(&domain, &order.peer.uri, migration::flags(&order))
        };
        migrate().map_err(|failure| failure.at(Place::Here, true))
    }

    fn abort(&self, uuid: Uuid) -> Result<(), HvError> {
        self.ask(Place::Here, move |connection| params::abort(&the_domain(connection, uuid)?))
    }

    fn set_origins(&self, uuid: Uuid, origins: &[Origin]) -> Result<(), HvError> {
        let what = "cannot note in the VM's metadata where it comes from";
        self.set_metadata(uuid, &Origin::xml(origins), "moved", ORIGIN, what)
    }

    fn set_wishes(&self, uuid: Uuid, element: &str) -> Result<(), HvError> {
        let what = "cannot note in the VM's metadata whether it is to be moved";
        self.set_metadata(uuid, element, "notify", WISHES, what)
    }

    fn job(&self, uuid: Uuid) -> Result<Job, HvError> {
        self.ask(Place::Here, move |connection| match find_domain(connection, uuid)? {
            Some(domain) => convert::job(&domain),
            None => Ok(Job::None),
        })
    }

    fn set_autostart(&self, place: Place<'_>, uuid: Uuid, on: bool) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let what = "cannot set whether the VM starts with its host";
            the_domain(connection, uuid)?.set_autostart(on).map_err(|e| Failure::of(what, &e))
        })
    }

    fn start(&self, uuid: Uuid) -> Result<(), HvError> {
        self.ask(Place::Here, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.create().map(drop).map_err(|e| Failure::of("cannot start the VM", &e))
        })
    }

    fn resume(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.resume().map(drop).map_err(|e| Failure::of("cannot resume the VM", &e))
        })
    }

    fn suspend(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.suspend().map(drop).map_err(|e| Failure::of("cannot stop the VM's CPUs", &e))
        })
    }

    fn destroy(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.destroy().map_err(|e| Failure::of("cannot end the VM", &e))
        })
    }

    fn undefine(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        let here = matches!(place, Place::Here);
        self.ask(place, move |connection| {
            let (domain, what) = (the_domain(connection, uuid)?, "cannot undefine the VM");
            let xml = domain.xml_desc(0).map_err(|e| Failure::of(what, &e))?;
            let read = domain_xml::read(&xml).map_err(|e| Failure::refused(what, e))?;
            let state = Path::new(TPM_STATES).join(uuid.to_string());
            // What it saved before does not fit its disks any more.
            let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | nvram(here, read.surroundings.nvram.as_ref())
                | tpm(here, version(connection)?, &state);
            domain.undefine_flags(flags).map_err(|e| Failure::of(what, &e))
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
