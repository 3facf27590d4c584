// SPDX-License-Identifier: LGPL-2.1-or-later
//! The objects of moves, of VMs that wait for space, and of the peers.

use virtnotify_migrate::{PeerState, UnderWay, WaitingVm};
use zbus::message::Header;
use zbus::{Connection, ObjectPath, interface};

use super::error::Error;
use super::objects::Shown;
use super::{Sources, paths};

/// A move that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveFacts(pub UnderWay);

/// A VM that is paused for want of space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingFacts(pub WaitingVm);

/// A host that VMs may move to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts(pub PeerState);

/// A move.
pub struct Move {
    pub sources: Sources,
    pub shown: Shown<MoveFacts>,
}

/// A VM that waits.
pub struct Waiting(pub Shown<WaitingFacts>);

/// A peer.
pub struct Peer(pub Shown<PeerFacts>);

impl MoveFacts {
    pub fn pool_path(&self) -> ObjectPath<'static> {
        paths::pool(&self.0.info.pool)
    }

    /// The volumes that move.
    pub fn volumes(&self) -> Vec<ObjectPath<'static>> {
        let info = &self.0.info;
        info.volumes.iter().map(|(pool, volume)| paths::volume(pool, volume)).collect()
    }

    pub fn done(&self) -> u64 {
        self.0.progress.map_or(0, |progress| progress.done.0)
    }

    pub fn total(&self) -> u64 {
        self.0.progress.map_or(0, |progress| progress.total.0)
    }
}

impl PeerFacts {
    /// Name, then bytes: capacity, available, and the part of available that is kept for VMs on their way.
    fn pools(&self) -> Vec<(String, u64, u64, u64)> {
        let pools = self.0.pools.iter();
        pools
            .map(|of| (of.name.to_string(), of.capacity.0, of.available.0, of.reserved.0))
            .collect()
    }
}

#[interface(name = "org.virtnotify1.Move")]
impl Move {
    /// The VM's name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn domain(&self) -> String {
        self.shown.get().0.info.domain
    }

    /// The VM's UUID.
    #[zbus(property(emits_changed_signal = "const"))]
    fn uuid(&self) -> String {
        self.shown.get().0.info.uuid.to_string()
    }

    /// The pool of its first volume.
    #[zbus(property(emits_changed_signal = "const"))]
    fn pool(&self) -> ObjectPath<'static> {
        self.shown.get().pool_path()
    }

    /// The volumes that are copied.
    #[zbus(property(emits_changed_signal = "const"))]
    fn volumes(&self) -> Vec<ObjectPath<'static>> {
        self.shown.get().volumes()
    }

    /// The host that it leaves.
    #[zbus(property(emits_changed_signal = "const"))]
    fn from(&self) -> String {
        self.shown.get().0.info.from
    }

    /// The host that it goes to.
    #[zbus(property)]
    fn to(&self) -> String {
        self.shown.get().0.info.to
    }

    /// The space that its volumes hold.
    #[zbus(property)]
    fn allocation(&self) -> u64 {
        self.shown.get().0.info.allocation.0
    }

    /// Bytes copied.
    #[zbus(property)]
    fn done(&self) -> u64 {
        self.shown.get().done()
    }

    /// Bytes to copy in all, as far as known; 0 before copying has begun.
    #[zbus(property)]
    fn total(&self) -> u64 {
        self.shown.get().total()
    }

    /// Whether it was cancelled.
    #[zbus(property)]
    fn cancelled(&self) -> bool {
        self.shown.get().0.cancelled
    }

    /// How far it is, in a word.
    #[zbus(property)]
    fn phase(&self) -> &'static str {
        self.shown.get().0.phase
    }

    /// Why it does not end; empty while it goes on.
    #[zbus(property)]
    fn reason(&self) -> String {
        self.shown.get().0.reason
    }

    /// Ends it within about a second, unless it has switched over by then; the VM stays here.
    async fn cancel(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let uuid = self.shown.get().0.info.uuid.to_string();
        self.sources.moves.cancel(&uuid).map_err(|e| Error::NotFound(e.to_string()))
    }
}

#[interface(name = "org.virtnotify1.Waiting")]
impl Waiting {
    /// The VM's name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn domain(&self) -> String {
        self.0.get().0.domain
    }

    /// The VM's UUID.
    #[zbus(property(emits_changed_signal = "const"))]
    fn uuid(&self) -> String {
        self.0.get().0.uuid.to_string()
    }

    /// The volume that needs space.
    #[zbus(property)]
    fn volume(&self) -> ObjectPath<'static> {
        let facts = self.0.get().0;
        paths::volume(&facts.pool, &facts.volume)
    }

    /// The time at which it began to wait, in seconds since 1970.
    #[zbus(property)]
    fn since(&self) -> u64 {
        self.0.get().0.since
    }

    /// Why it was not moved; empty before a move was tried, and while one goes on.
    #[zbus(property)]
    fn reason(&self) -> String {
        self.0.get().0.reason
    }
}

#[interface(name = "org.virtnotify1.Peer")]
impl Peer {
    /// Its name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.0.get().0.name
    }

    /// libvirt's URI of it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn uri(&self) -> String {
        self.0.get().0.uri
    }

    /// The time of its last answer or failure, in seconds since 1970; 0 before the first one.
    #[zbus(property)]
    fn checked(&self) -> u64 {
        self.0.get().0.checked.unwrap_or(0)
    }

    /// Why no VM could go there; empty when all is well.
    #[zbus(property)]
    fn problem(&self) -> String {
        self.0.get().0.problem.unwrap_or_default()
    }

    /// How many VMs are on their way there, from all hosts.
    #[zbus(property)]
    fn arriving(&self) -> u64 {
        self.0.get().0.arriving as u64
    }

    /// How many may be at once.
    #[zbus(property(emits_changed_signal = "const"))]
    fn arrivals(&self) -> u64 {
        self.0.get().0.arrivals as u64
    }

    /// Those of its pools that have the name of a pool of this host: name, then bytes: capacity, available, and the part
    /// of available that is kept for VMs on their way.
    #[zbus(property)]
    fn pools(&self) -> Vec<(String, u64, u64, u64)> {
        self.0.get().pools()
    }
}
