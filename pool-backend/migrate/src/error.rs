// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a VM does not move, or a move does not go on. What follows is decided by the kind; the text is for people.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::{Bytes, NameError, PoolName, StorageError, VolumeName};

use crate::domain::Image;
use crate::hypervisor::HvError;
use crate::journal::JournalError;
use crate::surroundings::Tie;
use crate::wishes::Kept;

/// Why a move does not begin, or does not go on.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// libvirt, here or at the peer.
    #[error(transparent)]
    Libvirt(#[from] HvError),
    /// The volumes of this host.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The journal of moves.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A name in the journal.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The VM is none that can go.
    #[error(transparent)]
    Stays(#[from] Stays),
    /// There is nowhere to go.
    #[error(transparent)]
    NoPeer(#[from] NoPeer),
    /// The chosen peer cannot take it after all.
    #[error("{peer} {why}")]
    Unfit {
        /// The peer.
        peer: String,
        /// Why.
        why: Unfit,
    },
    /// The peer made no volume that keeps the room.
    #[error("{peer} does not keep room for it: {source}")]
    RoomNotKept {
        /// The peer.
        peer: String,
        /// What its libvirt says.
        source: HvError,
    },
    /// The VM arrived, and its resume failed.
    #[error("it is on {peer} and does not resume: {source}")]
    NotResumed {
        /// The peer.
        peer: String,
        /// What its libvirt says.
        source: HvError,
    },
    /// The peer made a volume of another size.
    #[error("{peer} made the volume '{volume}' with another size, {size}")]
    OtherSize {
        /// The peer.
        peer: String,
        /// The volume.
        volume: VolumeName,
        /// The size that it has.
        size: Bytes,
    },
    /// A disk was plugged in or out meanwhile.
    #[error("its disks were changed while its move was prepared")]
    DisksChanged,
    /// A person cancelled it.
    #[error(
        "it was cancelled{}: it is left alone for {} s, or until its move is asked for",
        if *.ours { "" } else { " with libvirt's own means (virsh domjobabort)" },
        .rest.as_secs()
    )]
    Cancelled {
        /// Whether with our own means.
        ours: bool,
        /// How long it is left alone.
        rest: Duration,
    },
    /// The daemon gave it up: nothing was copied for so long.
    #[error("nothing was copied for {} s, so it was cancelled", .0.as_secs())]
    Stalled(Duration),
    /// The daemon gave it up: it came no nearer to its end for so long.
    #[error(
        "its guest writes as fast as is copied: for {} s what is left of its disks did not become less, so it was \
         cancelled",
        .0.as_secs()
    )]
    NoNearer(Duration),
    /// There is no such VM on this host.
    #[error("this host has no such VM")]
    NoVm,
    /// No peer of that name is configured.
    #[error("{}", no_such_peer(.named, .peers))]
    NoSuchPeer {
        /// What was asked for, fit to be shown.
        named: String,
        /// Those that are configured.
        peers: Vec<String>,
    },
    /// As many leave as may.
    #[error("no more than {most}{which} may leave this host at once")]
    Full {
        /// How many may.
        most: usize,
        /// Which VMs are counted, as the clause after the number.
        which: &'static str,
    },
    /// virtnotifyd does not run.
    #[error("virtnotifyd does not run")]
    NotServed,
    /// More ask than are heard.
    #[error("too many ask at once")]
    TooManyAsk,
    /// The daemon is about to end.
    #[error("the daemon ends")]
    Ends,
    /// No move of that VM, or none to that peer, is on record.
    #[error("this host has no move of it that is not over (virt-notify moves)")]
    NoMove,
    /// Moves to several peers are.
    #[error("moves of it to {} are not over: say which with the peer's name", .peers.join(" and "))]
    SeveralMoves {
        /// The peers.
        peers: Vec<String>,
    },
    /// It goes on.
    #[error(
        "its move is under way: cancel it (virt-notify cancel), or wait until it is looked at again"
    )]
    UnderWay,
    /// What a person said of it cannot be so, for this reason.
    #[error("{0}")]
    NotSo(String),
    /// A thread of ours was lost.
    #[error("the daemon has a fault there")]
    Fault,
    /// The move that was begun is to be looked at again: for this reason.
    #[error("{0}")]
    Open(String),
}

/// Why a VM stays: the end of a sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Stays {
    /// Its metadata say so.
    #[error(transparent)]
    Kept(#[from] Kept),
    /// libvirt would not let it go.
    #[error(transparent)]
    Tied(#[from] Tie),
    /// A pool's policy says so.
    #[error("the policy of its pool '{0}' says that VMs are not to be moved")]
    Policy(PoolName),
    /// Others use that disk, too.
    #[error("its disk {0} is shared with other VMs, which stay here")]
    SharedDisk(String),
    /// libvirt does not copy that disk, since the VM only reads it.
    #[error("its disk {0} is read-only, and libvirt copies no such disk")]
    ReadOnlyDisk(String),
    /// libvirt copies what the guest reads, and QEMU there cannot open a new volume with a key.
    #[error("its disk {0} is encrypted by QEMU (<encryption>), and libvirt copies no such disk")]
    EncryptedDisk(String),
    /// The disk is no volume of ours, and the peer does not have it.
    #[error("its disk {target} is {what}: on this host only, and not copied by a move")]
    LocalDisk {
        /// Which.
        target: String,
        /// Where it is.
        what: String,
    },
    /// No disk of it is on a volume of ours.
    #[error("it has no disk on a notify volume")]
    NoDisk,
    /// libvirt does something with it.
    #[error("libvirt is at work on it already, with a migration perhaps")]
    Busy,
    /// libvirt refuses it (`qemuMigrationSrcIsAllowed`), after the room is kept and the disks are made.
    #[error(
        "it has snapshots of libvirt's own (`virsh snapshot-list`), and libvirt moves no such VM"
    )]
    Snapshots,
    /// They are about disks here, and libvirt does not take them along.
    #[error(
        "it has checkpoints of libvirt's own (`virsh checkpoint-list`), which do not go with it"
    )]
    Checkpoints,
    /// libvirt refuses it, too.
    #[error("libvirt is at work on its disk {0} (`virsh blockjob` tells of it)")]
    BlockJob(String),
    /// Moves are to be encrypted, and cannot be.
    #[error("moves are to be encrypted (`tls` in virtnotify.toml), and there is no '{}' on this host", .0.display())]
    NoCertificate(PathBuf),
    /// It is on its way.
    #[error("it is being moved already")]
    Moves,
    /// It is off.
    #[error("it does not run")]
    Off,
    /// It comes from another host.
    #[error("it is arriving from another host")]
    Arrives,
    /// A person stopped it.
    #[error("a person paused it, and a move would resume it there")]
    Paused,
    /// A disk failed.
    #[error("an I/O error paused it, and not the end of space")]
    IoError,
}

/// Why a peer cannot take a VM: the end of a sentence that names the peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// Its libvirt did not answer, or with an error.
    #[error("cannot be asked: {0}")]
    NotAsked(#[from] HvError),
    /// It was not ready when it was asked last.
    #[error("{0}")]
    NotReady(String),
    /// The thread that asked it was lost.
    #[error("could not be asked")]
    Fault,
    /// It is the host that asks.
    #[error("is this host itself")]
    ThisHost,
    /// An earlier move of the VM to it failed.
    #[error("is left out after a failed move to it")]
    LeftOut,
    /// The VM names its peers, and this is none of them.
    #[error("is not among the peers that its <metadata> names")]
    NotNamed,
    /// The VM is there, or another one of its UUID.
    #[error("has a VM of the same UUID already")]
    SameVm,
    /// A VM of a group that keeps apart is there, or on its way there.
    #[error("has '{vm}', and the group '{group}' is to keep apart")]
    Together {
        /// The VM there.
        vm: String,
        /// The group of both.
        group: String,
    },
    /// The VM came from there.
    #[error("is where it came from less than {} s ago", .0.as_secs())]
    CameFromThere(Duration),
    /// As many VMs arrive there as may.
    #[error("takes {most} VMs at once, and {arriving} are on their way to it")]
    Crowded {
        /// How many it takes.
        most: usize,
        /// How many arrive.
        arriving: usize,
    },
    /// It is being emptied.
    #[error("is drained: it takes no VMs")]
    Drained,
    /// It lacks a pool.
    #[error("has no pool '{0}'")]
    NoPool(PoolName),
    /// Its pool is no thin one of ours.
    #[error("has a pool '{0}' that is not of type notify")]
    OtherPool(PoolName),
    /// Its pool does not run.
    #[error("has not started its pool '{0}'")]
    PoolNotStarted(PoolName),
    /// It has a volume of that name.
    #[error("has a volume '{volume}' in its pool '{pool}' already")]
    VolumeThere {
        /// The volume.
        volume: VolumeName,
        /// Its pool.
        pool: PoolName,
    },
    /// Its pool has not the room.
    #[error(
        "has {left} left in its pool '{pool}', and {wanted}{} are to come and {margin} to stay free",
        if *.whole { " (disks whole: libvirt before 10.9)" } else { "" }
    )]
    Room {
        /// The pool.
        pool: PoolName,
        /// What it has.
        left: Bytes,
        /// What is to come.
        wanted: Bytes,
        /// Whether disks are copied with their holes.
        whole: bool,
        /// What is to stay free.
        margin: Bytes,
    },
    /// Its QEMU makes no such machine.
    #[error("has no machine like the VM's: {0}")]
    NoMachine(String),
    /// Its QEMU cannot make the VM's CPU.
    #[error("cannot make the VM's CPU (`virsh hypervisor-cpu-compare`)")]
    OtherCpu,
    /// It lacks the memory.
    #[error("has {left} of memory left, and the VM has {wanted}")]
    Memory {
        /// What it has.
        left: Bytes,
        /// What the VM has.
        wanted: Bytes,
    },
    /// It lacks a network.
    #[error("has no network '{0}' that is started, and the VM is connected to it")]
    NoNetwork(String),
    /// It lacks what a disk is read from.
    #[error("lacks {0}, which a disk of the VM is read from")]
    NoImage(Image),
    /// It lacks a secret.
    #[error("has no secret {0} (`virsh secret-list`), and the VM needs it")]
    NoSecret(Uuid),
}

/// Why no peer can take the VM: each with its reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Error)]
pub struct NoPeer(pub(crate) Vec<(String, Unfit)>);

impl fmt::Display for NoPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no peer is configured");
        }
        let clause = |(peer, why): &(String, Unfit)| format!("{peer} {why}");
        let clauses: Vec<String> = self.0.iter().map(clause).collect();
        write!(f, "no peer can take it: {}", clauses.join("; "))
    }
}

fn no_such_peer(named: &str, peers: &[String]) -> String {
    match peers.is_empty() {
        true => format!("'{named}' is no configured peer, and there are none"),
        false => format!("'{named}' is no configured peer: there are {}", peers.join(", ")),
    }
}
