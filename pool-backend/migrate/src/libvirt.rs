// SPDX-License-Identifier: LGPL-2.1-or-later
//! [`Hypervisor`] through libvirt's client library.
//!
//! Connections are opened when they are first needed, kept, and opened again when they are
//! dead; this host's libvirt may ask our own sockets while it answers, so nothing here is ever
//! called from the threads that serve them. Each call has a thread and a limit: one that does
//! not answer costs its caller [`LIMIT`], not for ever. Only `migrate` has none: libvirt ends
//! it by itself when the other side is gone (its own keepalive).

mod convert;
mod events;
mod memory;
mod migration;
mod opening;
mod params;
mod pool_xml;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;
use virtnotify_model::{Bytes, PoolName, VolumeName};

use self::opening::Openings;
use crate::domain::Domain;
use crate::hypervisor::{
    Copying, HostRoom, HvError, Hypervisor, Job, Order, Peer, Place, PoolRoom, RemoteVolume,
};
use crate::wishes::{ORIGIN, Origin, WISHES};

/// How long a call may take, the way to a peer included.
const LIMIT: Duration = Duration::from_secs(30);
/// What libvirt says of a call that it could not send, since the other end had closed the connection before
/// (`virNetClientSendInternal` in libvirt's `virnetclient.c`).
const CLOSED: &str = "client socket is closed";
/// A connection without an answer to this many questions, asked at this interval in seconds,
/// is dead.
const KEEPALIVE: (i32, u32) = (5, 5);
/// `LIBVIR_VERSION_NUMBER` of 10.9.0, the first with `migrate_disks_detect_zeroes`.
const DETECTS_ZEROES: u32 = 10_009_000;
/// The same of 8.0.0, the first with `VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES`.
const WRITES_TO_BOTH: u32 = 8_000_000;

/// libvirt here and at the peers.
pub struct Libvirt {
    uri: String,
    connections: Arc<Mutex<BTreeMap<String, Connect>>>,
    openings: Openings<Result<Connect, String>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Libvirt {
    /// Will connect to `uri` when it is first asked something.
    ///
    /// # Errors
    /// When libvirt's event loop cannot be set up.
    pub fn new(uri: &str) -> Result<Self, HvError> {
        events::start_loop()?;
        let changes = Arc::new(watch::channel(0).0);
        let (connections, openings) = (Arc::default(), Openings::default());
        Ok(Self { uri: uri.to_owned(), connections, openings, changes })
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
        let place = place.to_string();
        match self.openings.open(&uri, LIMIT, open) {
            Some(Ok(connection)) => Ok(connection),
            Some(Err(reason)) => Err(HvError::Unreachable { place, reason }),
            None => Err(HvError::TimedOut { place, limit: LIMIT }),
        }
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
            let failed = |e: virt::error::Error| failed(what, &e);
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

    /// Asks libvirt, within the limit. A connection that does not answer is not used again, nor
    /// is a peer's after any error: its virtqemud opens one connection to the storage daemon for
    /// each client, and no other (`remoteOpenConn` in libvirt's `remote_daemon_dispatch.c`). When
    /// that daemon was restarted meanwhile, all questions about pools fail with [`CLOSED`], while the
    /// client's own connection is alive: such a question is asked again, once, over a new one.
    fn ask<T: Send + 'static>(
        &self,
        place: Place<'_>,
        question: impl Fn(&Connect) -> Result<T, HvError> + Send + Sync + 'static,
    ) -> Result<T, HvError> {
        let question = Arc::new(question);
        let answer = self.ask_once(place, Arc::clone(&question));
        if matches!(place, Place::At(_)) && answer.as_ref().is_err_and(was_not_sent) {
            return self.ask_once(place, question);
        }
        answer
    }

    fn ask_once<T: Send + 'static>(
        &self,
        place: Place<'_>,
        question: Arc<impl Fn(&Connect) -> Result<T, HvError> + Send + Sync + 'static>,
    ) -> Result<T, HvError> {
        let connection = self.connect(place)?;
        let asked = connection.clone();
        let answer = bounded(place, move || question(&asked)).and_then(|answer| answer);
        let answer = answer.map_err(|error| out_of_reach(place, connection.is_alive(), error));
        let lost = answer.as_ref().is_err_and(HvError::is_out_of_reach);
        if lost || (answer.is_err() && matches!(place, Place::At(_))) {
            self.cache().remove(self.uri(place));
        }
        answer
    }
}

/// Whether libvirt has not even sent it on.
fn was_not_sent(error: &HvError) -> bool {
    matches!(error, HvError::Failed { reason, .. } if reason.contains(CLOSED))
}

/// An error of a connection that broke is no answer of the host's.
fn out_of_reach(
    place: Place<'_>,
    alive: Result<bool, virt::error::Error>,
    error: HvError,
) -> HvError {
    match error {
        HvError::Failed { reason, .. } if !alive.unwrap_or(false) => {
            HvError::Unreachable { place: place.to_string(), reason }
        }
        error => error,
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
) -> Result<Connect, String> {
    let connection = Connect::open(Some(uri)).map_err(|e| e.message().to_owned())?;
    if let Err(error) = connection.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1) {
        warn!("the connection to {place} has no keepalive: {}", error.message());
    }
    if let Some(changes) = changes {
        events::subscribe(&connection, changes).map_err(|e| e.to_string())?;
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
    let late = HvError::TimedOut { place: place.to_string(), limit: LIMIT };
    answer.recv_timeout(LIMIT).map_err(|_| late)
}

/// libvirt's "there is no such thing" as `None`.
fn optional<T>(
    what: &str,
    none: ErrorNumber,
    result: Result<T, virt::error::Error>,
) -> Result<Option<T>, HvError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.code() == none.into() => Ok(None),
        Err(e) => Err(failed(what, &e)),
    }
}

/// The first of these that a host lacks, or has not started. An error of a host that cannot say is no answer;
/// one of which it has not even heard is handed on, and the question is asked again.
fn first_missing<T: Clone>(
    wanted: &BTreeSet<T>,
    none: ErrorNumber,
    is_there: impl Fn(&T) -> Result<bool, virt::error::Error>,
) -> Result<Option<T>, HvError> {
    for one in wanted {
        match is_there(one) {
            Ok(true) => {}
            Ok(false) => return Ok(Some(one.clone())),
            Err(error) if error.code() == none.into() => return Ok(Some(one.clone())),
            Err(error) => {
                let error = failed("cannot ask what the host has", &error);
                if was_not_sent(&error) {
                    return Err(error);
                }
            }
        }
    }
    Ok(None)
}

/// A number that C has as signed and that is never negative.
fn number(from: i32) -> u32 {
    u32::try_from(from).unwrap_or(u32::MAX)
}

fn failed(what: &str, error: &virt::error::Error) -> HvError {
    HvError::failed(what, error.message())
}

fn find_domain(connection: &Connect, uuid: Uuid) -> Result<Option<VirtDomain>, HvError> {
    let found = connection.lookup_domain_by_uuid(uuid);
    optional("cannot look for the VM", ErrorNumber::NoDomain, found)
}

fn the_domain(connection: &Connect, uuid: Uuid) -> Result<VirtDomain, HvError> {
    let gone = || HvError::failed("cannot find the VM", "it is gone");
    find_domain(connection, uuid)?.ok_or_else(gone)
}

fn find_pool(connection: &Connect, name: &str) -> Result<Option<StoragePool>, HvError> {
    let found = connection.lookup_storage_pool_by_name(name);
    optional("cannot look for the pool", ErrorNumber::NoStoragePool, found)
}

fn find_volume(
    connection: &Connect,
    pool: &str,
    volume: &str,
) -> Result<Option<StorageVol>, HvError> {
    let Some(pool) = find_pool(connection, pool)? else { return Ok(None) };
    let found = pool.lookup_storage_vol_by_name(volume);
    optional("cannot look for the volume", ErrorNumber::NoStorageVolume, found)
}

fn describe(volume: &StorageVol) -> Result<RemoteVolume, HvError> {
    let what = "cannot look at the volume";
    let info = volume.info().map_err(|e| failed(what, &e))?;
    Ok(RemoteVolume {
        key: volume.key().map_err(|e| failed(what, &e))?,
        capacity: Bytes(info.capacity),
        allocation: Bytes(info.allocation),
    })
}

fn list(connection: &Connect, which: u32) -> Result<Vec<Domain>, HvError> {
    let what = "cannot list the VMs";
    let all = connection.list_all_domains(which).map_err(|e| failed(what, &e))?;
    // One that goes away between being listed and being read is not there any more.
    let read = all.iter().map(convert::domain);
    read.filter_map(Result::transpose).collect()
}

/// The VMs that can be read: one that cannot must not keep the others from their space. An
/// error when none can.
fn readable(
    domains: impl Iterator<Item = Result<Option<Domain>, HvError>>,
) -> Result<Vec<Domain>, HvError> {
    let (mut found, mut failure) = (Vec::new(), None);
    for domain in domains {
        match domain {
            Ok(domain) => found.extend(domain),
            Err(error) => {
                warn!("a VM that is paused by an I/O error cannot be read: {error}");
                failure = Some(error);
            }
        }
    }
    failure.filter(|_| found.is_empty()).map_or(Ok(found), Err)
}

impl Hypervisor for Libvirt {
    fn host(&self, place: Place<'_>) -> Result<String, HvError> {
        self.ask(place, |connection| {
            connection.hostname().map_err(|e| failed("cannot find the name of the host", &e))
        })
    }

    fn stalled(&self) -> Result<Vec<Domain>, HvError> {
        self.ask(Place::Here, |connection| {
            let paused = connection
                .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_PAUSED)
                .map_err(|e| failed("cannot list the VMs", &e))?;
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
            let xml = pool.xml_desc(0).map_err(|e| failed(what, &e))?;
            let info = pool.info().map_err(|e| failed(what, &e))?;
            Ok(Some(PoolRoom {
                drained: pool_xml::is_drained(&xml).map_err(|e| HvError::failed(what, e))?,
                active: pool.is_active().map_err(|e| failed(what, &e))?,
                capacity: Bytes(info.capacity),
                available: Bytes(info.available),
            }))
        })
    }

    /// That a peer cannot say how much memory it has, or what networks, is no reason to send it no VM:
    /// libvirt's drivers for that are packages and daemons of their own.
    fn host_room(&self, peer: &Peer, domain: &Domain) -> Result<HostRoom, HvError> {
        let wanted = domain.surroundings.clone();
        let answer = self.ask(Place::At(peer), move |connection| {
            Ok(HostRoom {
                memory: memory::left(connection),
                without_network: first_missing(&wanted.networks, ErrorNumber::NoNetwork, |name| {
                    connection.lookup_network_by_name(name)?.is_active()
                })?,
                without_secret: first_missing(&wanted.secrets, ErrorNumber::NoSecret, |secret| {
                    connection.lookup_secret_by_uuid(*secret).map(|_| true)
                })?,
            })
        });
        match answer {
            Err(HvError::TimedOut { .. }) => Ok(HostRoom::default()),
            answer => answer,
        }
    }

    fn snapshots(&self, uuid: Uuid) -> Result<u32, HvError> {
        self.ask(Place::Here, move |connection| {
            let what = "cannot count libvirt's snapshots of the VM";
            the_domain(connection, uuid)?.num_snapshots(0).map_err(|e| failed(what, &e))
        })
    }

    /// All who read a flag or a parameter must know it, or they refuse the whole migration: our library,
    /// which sends it, the driver here, and the one at the peer, to which libvirt passes it on
    /// (`qemuMigrationSrcPerformPeer2Peer3`) although it has nothing to do with it.
    fn copying(&self, peer: &Peer) -> Result<Copying, HvError> {
        let version = |connection: &Connect| {
            connection.lib_version().map_err(|e| failed("cannot find the version of libvirt", &e))
        };
        let (here, there) = (self.ask(Place::Here, version)?, self.ask(Place::At(peer), version)?);
        let oldest = Connect::version().unwrap_or(0).min(here).min(there);
        Ok(Copying { whole: oldest < DETECTS_ZEROES, synchronous: oldest >= WRITES_TO_BOTH })
    }

    fn volume_names(&self, peer: &Peer, pool: &PoolName) -> Result<Vec<String>, HvError> {
        let pool = pool.to_string();
        self.ask(Place::At(peer), move |connection| {
            let Some(pool) = find_pool(connection, &pool)? else { return Ok(Vec::new()) };
            let what = "cannot list the volumes";
            let all = pool.list_all_volumes(0).map_err(|e| failed(what, &e))?;
            let name = |volume: &StorageVol| volume.name().map_err(|e| failed(what, &e));
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
            let gone = || HvError::failed(&what, "its pool is gone");
            let pool = find_pool(connection, &pool)?.ok_or_else(gone)?;
            let made = StorageVol::create_xml(&pool, &xml, 0).map_err(|e| failed(&what, &e))?;
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
                Some(found) => found.delete(0).map(drop).map_err(|e| failed(&what, &e)),
                None => Ok(()),
            }
        })
    }

    fn migrate(&self, order: Order<'_>) -> Result<(), HvError> {
        let connection = self.connect(Place::Here)?;
        let domain = the_domain(&connection, order.uuid)?;
        let certified = order.wire.tls.then(|| self.host(Place::At(order.peer))).transpose()?;
        let params = migration::params(&order, certified.as_deref())?;
        params.migrate(&domain, &order.peer.uri, migration::flags(&order))
    }

    fn abort(&self, uuid: Uuid) -> Result<(), HvError> {
        self.ask(Place::Here, move |connection| params::abort(&the_domain(connection, uuid)?))
    }

    fn set_origin(&self, uuid: Uuid, origin: &Origin) -> Result<(), HvError> {
        let what = "cannot note in the VM's metadata where it comes from";
        self.set_metadata(uuid, &origin.xml(), "moved", ORIGIN, what)
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
            the_domain(connection, uuid)?.set_autostart(on).map_err(|e| failed(what, &e))
        })
    }

    fn start(&self, uuid: Uuid) -> Result<(), HvError> {
        self.ask(Place::Here, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.create().map(drop).map_err(|e| failed("cannot start the VM", &e))
        })
    }

    fn resume(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.resume().map(drop).map_err(|e| failed("cannot resume the VM", &e))
        })
    }

    fn suspend(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.suspend().map(drop).map_err(|e| failed("cannot stop the VM's CPUs", &e))
        })
    }

    fn destroy(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let domain = the_domain(connection, uuid)?;
            domain.destroy().map_err(|e| failed("cannot end the VM", &e))
        })
    }

    fn undefine(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError> {
        self.ask(place, move |connection| {
            let domain = the_domain(connection, uuid)?;
            // Its NVRAM is on the other host; what it saved before does not fit its disks any more.
            let flags = sys::VIR_DOMAIN_UNDEFINE_NVRAM | sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE;
            domain.undefine_flags(flags).map_err(|e| failed("cannot undefine the VM", &e))
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
