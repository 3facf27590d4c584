// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the move needs of libvirt, here and at a peer.
//!
//! All calls block, possibly for long, and may be made from any thread.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;
use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, PoolName, VolumeName};

use crate::domain::{Domain, Image};
use crate::error::{Stays, Unfit};
use crate::wishes::Origin;

/// A host that VMs may be moved to. Only configured hosts ever are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// How it is called in messages, and in the names of journal files.
    pub name: String,
    /// libvirt's URI of it: `qemu+ssh://host2/system`.
    pub uri: String,
    /// How many VMs may be on their way to it at once, from all hosts.
    pub arrivals: usize,
    /// The one address of its at which it takes in memory and disks; without it libvirt sends them to the name
    /// that the peer has for itself, and QEMU there listens at all of its addresses.
    pub address: Option<IpAddr>,
}

/// How memory and disks travel to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Whether they are encrypted, and both hosts show a certificate.
    pub tls: bool,
    /// How many connections carry the memory; each disk has one.
    pub connections: NonZeroU8,
}

impl Default for Wire {
    /// What libvirt does unasked.
    fn default() -> Self {
        Self { tls: false, connections: NonZeroU8::MIN }
    }
}

/// A migration for libvirt to make.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The VM.
    pub uuid: Uuid,
    /// Where it goes.
    pub peer: &'a Peer,
    /// Those of its disks that are copied, by target name.
    pub disks: &'a [String],
    /// Whether it is defined there, and not here any more.
    pub persistent: bool,
    /// The most that is sent in a second.
    pub bandwidth: Option<Bytes>,
    /// How its disks are copied.
    pub copying: Copying,
    /// How all of it travels.
    pub wire: Wire,
}

/// How disks are copied to a peer: what libvirt on both hosts knows of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// They are copied whole, since not all can look for zeroes meanwhile.
    pub whole: bool,
    /// What the guest writes meanwhile goes to both hosts at once. Otherwise it is copied again, and a
    /// guest that writes faster than is copied is never done.
    pub synchronous: bool,
}

/// On which host.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// This one.
    Here,
    /// A peer.
    At(&'a Peer),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("this host"),
            Self::At(peer) => f.write_str(&peer.name),
        }
    }
}

/// Why libvirt did not do it.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum HvError {
    /// No connection to be had, or it broke before the answer came.
    #[error("libvirt on {place} cannot be reached: {reason}")]
    Unreachable {
        /// The host.
        place: String,
        /// What libvirt says.
        reason: String,
    },
    /// No answer within the limit.
    #[error("libvirt on {place} did not answer within {} s", limit.as_secs())]
    Late {
        /// The host.
        place: String,
        /// The limit.
        limit: Duration,
    },
    /// The job of libvirt's was cancelled: with `virsh domjobabort`, or by us.
    #[error("it was cancelled")]
    Cancelled,
    /// libvirt says that what it was asked about is not there.
    #[error("{what}: it is gone")]
    Gone {
        /// What was tried, as a clause.
        what: String,
    },
    /// libvirt answered with an error.
    #[error("{what}: {reason}")]
    Refused {
        /// What was tried, as a clause.
        what: String,
        /// What libvirt says.
        reason: String,
    },
}

impl HvError {
    /// libvirt's refusal of `what`.
    pub fn refused(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Refused { what: what.into(), reason: reason.to_string() }
    }

    /// There is nothing to do `what` with.
    pub fn gone(what: impl Into<String>) -> Self {
        Self::Gone { what: what.into() }
    }

    /// Whether nothing is known of that host, which may have done what was asked all the same.
    pub fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late { .. })
    }
}

/// A pool of a peer, as its libvirt shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRoom {
    /// Whether it is of type `notify`.
    pub notify: bool,
    /// Whether it is started.
    pub active: bool,
    /// Its size.
    pub capacity: Bytes,
    /// What its volumes can still get.
    pub available: Bytes,
    /// Whether its host is being emptied, and takes no VMs.
    pub drained: bool,
    /// Its chunk size, if it says so.
    pub chunk: Option<ChunkSize>,
}

impl PoolRoom {
    /// The room, or why nothing can come into that pool.
    pub(crate) fn fit(self, pool: &PoolName) -> Result<Self, Unfit> {
        match self {
            Self { notify: false, .. } => Err(Unfit::OtherPool(pool.clone())),
            Self { active: false, .. } => Err(Unfit::PoolNotStarted(pool.clone())),
            Self { drained: true, .. } => Err(Unfit::Drained),
            room => Ok(room),
        }
    }
}

/// What a peer has for a VM, beside room for its disks. Where its libvirt cannot say, it is not known, and
/// no reason to refuse it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRoom {
    /// The memory that programs could get: what is free, and what caches hold.
    pub memory: Option<Bytes>,
    /// A network of the VM's that it lacks, or has not started.
    pub without_network: Option<String>,
    /// A secret of the VM's that it lacks.
    pub without_secret: Option<Uuid>,
    /// Why its QEMU does not make the VM's machine, in libvirt's words.
    pub without_machine: Option<String>,
    /// Whether its QEMU cannot make the VM's CPU.
    pub without_cpu: bool,
    /// What a disk of the VM is read from and it lacks.
    pub without_image: Option<Image>,
}

/// What libvirt has of a VM that its XML does not tell, and that does not go with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// Snapshots of libvirt's own (`virsh snapshot-list`).
    pub snapshots: u32,
    /// Checkpoints of libvirt's own (`virsh checkpoint-list`).
    pub checkpoints: u32,
    /// A disk, by target, at which a block job works.
    pub job_of: Option<String>,
}

impl Holds {
    /// Whether nothing of it keeps the VM here.
    pub(crate) fn let_go(self) -> Result<(), Stays> {
        match self {
            Self { snapshots: 1.., .. } => Err(Stays::Snapshots),
            Self { checkpoints: 1.., .. } => Err(Stays::Checkpoints),
            Self { job_of: Some(disk), .. } => Err(Stays::BlockJob(disk)),
            _ => Ok(()),
        }
    }
}

impl HostRoom {
    /// Whether the VM finds there what it needs, or why not.
    pub(crate) fn fit(&self, domain: &Domain) -> Result<(), Unfit> {
        if let Some(network) = &self.without_network {
            return Err(Unfit::NoNetwork(network.clone()));
        }
        if let Some(secret) = self.without_secret {
            return Err(Unfit::NoSecret(secret));
        }
        if let Some(words) = &self.without_machine {
            return Err(Unfit::NoMachine(words.clone()));
        }
        if self.without_cpu {
            return Err(Unfit::OtherCpu);
        }
        if let Some(image) = &self.without_image {
            return Err(Unfit::NoImage(image.clone()));
        }
        let wanted = domain.memory;
        match self.memory {
            Some(left) if left < wanted && !domain.surroundings.huge_pages => {
                Err(Unfit::Memory { left, wanted })
            }
            _ => Ok(()),
        }
    }
}

/// A volume of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteVolume {
    /// libvirt's key of it, which no other volume ever has.
    pub key: String,
    /// Its size.
    pub capacity: Bytes,
    /// What it holds.
    pub allocation: Bytes,
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes copied, memory and disks.
    pub done: Bytes,
    /// Bytes to copy in all, as known now.
    pub total: Bytes,
    /// What is left of the disks, while they alone are copied.
    pub disks_left: Option<Bytes>,
}

/// What libvirt is at for a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Nothing.
    None,
    /// A migration away from its host.
    Moving(Progress),
    /// What is left to do of such a migration that failed, or was cancelled, or is done.
    Ending {
        /// Whether it was cancelled.
        cancelled: bool,
    },
    /// Something else: a backup, a save, an arrival.
    Other,
}

impl Job {
    /// Whether a migration away from its host is not over.
    pub(crate) fn is_move(self) -> bool {
        matches!(self, Self::Moving(_) | Self::Ending { .. })
    }
}

/// libvirt, or a test's stand-in.
pub trait Hypervisor: Send + Sync + 'static {
    /// The name that a host has for itself.
    ///
    /// # Errors
    /// When libvirt does not answer; this holds for every call here.
    fn host(&self, place: Place<'_>) -> Result<String, HvError>;

    /// The VMs of this host that are paused by an I/O error.
    ///
    /// # Errors
    /// [`HvError`].
    fn stalled(&self) -> Result<Vec<Domain>, HvError>;

    /// All VMs, active and not.
    ///
    /// # Errors
    /// [`HvError`].
    fn domains(&self, place: Place<'_>) -> Result<Vec<Domain>, HvError>;

    /// One VM, or `None` when that host does not know it.
    ///
    /// # Errors
    /// [`HvError`].
    fn domain(&self, place: Place<'_>, uuid: Uuid) -> Result<Option<Domain>, HvError>;

    /// A pool of a peer, or `None` when the peer has none of that name.
    ///
    /// # Errors
    /// [`HvError`].
    fn pool_room(&self, peer: &Peer, pool: &PoolName) -> Result<Option<PoolRoom>, HvError>;

    /// What a peer has of what the VM needs, beside room for its disks.
    ///
    /// # Errors
    /// [`HvError`].
    fn host_room(&self, peer: &Peer, domain: &Domain) -> Result<HostRoom, HvError>;

    /// What libvirt has of a VM of this host that its XML does not tell.
    ///
    /// # Errors
    /// [`HvError`].
    fn holds(&self, domain: &Domain) -> Result<Holds, HvError>;

    /// A certificate or key that this host needs to encrypt a migration, and that is not there.
    fn lacks_certificate(&self) -> Option<PathBuf>;

    /// How disks are copied to that peer.
    ///
    /// # Errors
    /// [`HvError`].
    fn copying(&self, peer: &Peer) -> Result<Copying, HvError>;

    /// The names of all volumes of a peer's pool.
    ///
    /// # Errors
    /// [`HvError`].
    fn volume_names(&self, peer: &Peer, pool: &PoolName) -> Result<Vec<String>, HvError>;

    /// A volume of a peer, or `None`.
    ///
    /// # Errors
    /// [`HvError`].
    fn volume(
        &self,
        peer: &Peer,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<Option<RemoteVolume>, HvError>;

    /// Makes a thin volume at a peer.
    ///
    /// # Errors
    /// [`HvError`]; also when there is one of that name.
    fn create_volume(
        &self,
        peer: &Peer,
        pool: &PoolName,
        volume: &VolumeName,
        capacity: Bytes,
    ) -> Result<RemoteVolume, HvError>;

    /// Deletes a volume of a peer.
    ///
    /// # Errors
    /// [`HvError`].
    fn delete_volume(
        &self,
        peer: &Peer,
        pool: &PoolName,
        volume: &VolumeName,
    ) -> Result<(), HvError>;

    /// Moves a VM with some of its disks. It arrives paused, whether or not it ran. Returns when it is
    /// over.
    ///
    /// # Errors
    /// [`HvError`]; what really happened is found by looking at both sides.
    fn migrate(&self, order: Order<'_>) -> Result<(), HvError>;

    /// Ends the VM's migration away from here; it stays as it is.
    ///
    /// # Errors
    /// [`HvError`].
    fn abort(&self, uuid: Uuid) -> Result<(), HvError>;

    /// Writes into the VM's metadata where it comes from, and from where before: it takes that along.
    ///
    /// # Errors
    /// [`HvError`].
    fn set_origins(&self, uuid: Uuid, origins: &[Origin]) -> Result<(), HvError>;

    /// Writes into the VM's metadata whether it may move and where to: an element of `crate::wishes::WISHES`.
    ///
    /// # Errors
    /// [`HvError`].
    fn set_wishes(&self, uuid: Uuid, element: &str) -> Result<(), HvError>;

    /// What libvirt here is at for the VM.
    ///
    /// # Errors
    /// [`HvError`].
    fn job(&self, uuid: Uuid) -> Result<Job, HvError>;

    /// Decides whether a VM that is defined there starts with its host.
    ///
    /// # Errors
    /// [`HvError`].
    fn set_autostart(&self, place: Place<'_>, uuid: Uuid, on: bool) -> Result<(), HvError>;

    /// Starts a VM of this host that is off.
    ///
    /// # Errors
    /// [`HvError`].
    fn start(&self, uuid: Uuid) -> Result<(), HvError>;

    /// Lets a paused VM run.
    ///
    /// # Errors
    /// [`HvError`].
    fn resume(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError>;

    /// Stops a VM's CPUs; all else stays as it is.
    ///
    /// # Errors
    /// [`HvError`].
    fn suspend(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError>;

    /// Ends a VM at once, as pulling its plug does.
    ///
    /// # Errors
    /// [`HvError`].
    fn destroy(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError>;

    /// Removes the definition of a VM that is off.
    ///
    /// # Errors
    /// [`HvError`].
    fn undefine(&self, place: Place<'_>, uuid: Uuid) -> Result<(), HvError>;

    /// Changes with every change of a VM on this host: of its state, its devices or its metadata.
    fn changes(&self) -> watch::Receiver<u64>;
}
