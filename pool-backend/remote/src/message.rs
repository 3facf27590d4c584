// SPDX-License-Identifier: LGPL-2.1-or-later
//! The messages on the private socket: frames of a length (32 bits, big endian) and a message in
//! postcard's encoding. The first one of a connection begins with the version of all of this.

use std::io::{self, ErrorKind, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use virtnotify_model::{
    Bytes, Changes, Event, Guest, NewVolume, Picture, PoolName, RestoreWords, SnapshotName, Task,
    VolumeName,
};
use virtnotify_wire::service::{PoolEvent, PoolEventKind, PoolView, Session};
use virtnotify_wire::{RemoteError, StoragePool, Uuid, decode, encode};

/// Raised whenever a message changes: a package that brings new programs restarts all, one after
/// the other.
pub(crate) const VERSION: u32 = 4;
/// The longest message: a call's arguments are at most libvirt's longest frame of 32 MiB.
const LONGEST: usize = 64 << 20;

/// A message of a neighbour.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Tell me from now on which pools there are, and what happens to them.
    Watch,
    /// Tell me from now on how pools and volumes are, and each event.
    Follow,
    /// A question about pools, or something to do with one.
    Storage(Question),
    /// A call of the storage driver.
    Call {
        client: Client,
        procedure: i32,
        #[serde(with = "serde_bytes")]
        args: Vec<u8>,
        view: View,
    },
    /// Reads or writes a volume.
    Stream {
        client: Client,
        what: Stream,
        #[serde(with = "serde_bytes")]
        args: Vec<u8>,
    },
    /// The next piece, of at most this many bytes.
    Next(u64),
    /// The next bytes.
    Write(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A hole, as libvirt's clients send it.
    Hole { length: i64, flags: u32 },
    /// Nothing more.
    Finish,
}

/// A call of [`Storage`](virtnotify_model::Storage).
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Brings the clients that follow up to date.
    CatchUp,
    VolumeStats {
        pool: PoolName,
        volume: VolumeName,
    },
    DeleteVolume {
        pool: PoolName,
        volume: VolumeName,
        uuid: uuid::Uuid,
    },
    StartJob {
        pool: PoolName,
        task: Task,
    },
    CancelJob(u64),
    PrepareWrite {
        pool: PoolName,
        volume: VolumeName,
        offset: Bytes,
        length: Bytes,
    },
    SetPolicy {
        pool: PoolName,
        settings: Vec<(String, String)>,
    },
    CreateVolume {
        pool: PoolName,
        new: NewVolume,
    },
    ResizeVolume {
        pool: PoolName,
        volume: VolumeName,
        uuid: uuid::Uuid,
        capacity: Bytes,
        shrink: bool,
    },
    RemoveVolume {
        pool: PoolName,
        volume: VolumeName,
        uuid: uuid::Uuid,
        snapshots: bool,
    },
    RefreshPool(PoolName),
    EnsureActive(Vec<String>),
    GuestStarts(Guest),
    TakeSnapshot {
        pool: PoolName,
        volumes: Vec<VolumeName>,
        name: SnapshotName,
    },
    RollBack {
        pool: PoolName,
        snapshot: VolumeName,
    },
    DeleteSnapshot {
        pool: PoolName,
        snapshot: VolumeName,
    },
    Difference {
        pool: PoolName,
        volume: VolumeName,
        base: Option<VolumeName>,
    },
    Check(String),
    Dump {
        what: String,
        from: String,
    },
    Restore(RestoreWords),
    SetDrained(bool),
}

impl Question {
    /// Whether the call may change something, of which the clients that follow are told before the
    /// answer.
    pub(crate) fn changes(&self) -> bool {
        !matches!(
            self,
            Self::VolumeStats { .. } | Self::Difference { .. } | Self::Check(_) | Self::Dump { .. }
        )
    }
}

/// News for the clients that follow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct News {
    /// Which daemon tells it: another one, another number.
    pub daemon: u64,
    /// It is told up to here; counts on from one daemon to the next.
    pub sequence: u64,
    /// All that there is, in the first one.
    pub picture: Option<Picture>,
    /// What has changed since the one before.
    pub changes: Changes,
    /// What happened; the changes show it already.
    pub events: Vec<Event>,
    /// More happened, which is not told; the changes show it all the same.
    pub lost: bool,
}

impl News {
    /// Merges the news that come after it, with at most this many events.
    pub(crate) fn merge(&mut self, later: News, most: usize) {
        let News { daemon, sequence, picture, changes, events, lost } = later;
        (self.daemon, self.sequence) = (daemon, sequence);
        if picture.is_some() {
            (self.picture, self.changes) = (picture, changes);
        } else {
            self.changes.merge(changes);
        }
        self.lost |= lost;
        self.events.extend(events);
        if self.events.len() > most {
            self.lost = true;
            // The newest half: so that this is done now and then, and not each time.
            self.events.drain(..self.events.len() - most / 2);
        }
    }
}

/// What is done with a volume.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Stream {
    Download,
    Upload,
    /// Made of another pool's volume with that XML.
    CloneIn(String),
    CloneOut,
}

/// A message of virtnotifyd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The first message was of another version than this one. It stays the first here: both versions have to read it.
    OtherVersion(u32),
    /// It was done. A watch has reached `generation` when it shows what the call changed.
    Done {
        generation: u64,
        #[serde(with = "serde_bytes")]
        result: Vec<u8>,
    },
    /// It was not done; the error in libvirt's encoding.
    Refused {
        generation: u64,
        #[serde(with = "serde_bytes")]
        error: Vec<u8>,
    },
    /// A piece of a volume.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// This many zeroes.
    Hole(u64),
    /// The volume's end.
    End,
    /// Nothing was done: this daemon ends, or has too much to do. It may be asked again.
    Busy,
    /// What a question about pools was answered with. Those who follow have been told up to there.
    Storage {
        sequence: u64,
        #[serde(with = "serde_bytes")]
        result: Vec<u8>,
    },
    /// What has changed.
    News(Box<News>),
    /// All pools that there are now.
    Pools { generation: u64, pools: Vec<Pool> },
    /// Something happened to a pool.
    Event { pool: Pool, kind: Kind },
}

/// A [`Session`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Client {
    id: u64,
    uid: u32,
    gid: u32,
    pid: i32,
    read_only: bool,
}

/// A [`PoolView`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum View {
    Own,
    Logical,
    Zfs,
}

/// A [`StoragePool`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pool {
    name: String,
    uuid: [u8; 16],
}

/// A [`PoolEventKind`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Lifecycle { event: i32, detail: i32 },
    Refresh,
}

impl From<&Session> for Client {
    fn from(session: &Session) -> Self {
        let Session { id, uid, gid, pid, read_only } = *session;
        Self { id, uid, gid, pid, read_only }
    }
}

impl From<Client> for Session {
    fn from(client: Client) -> Self {
        let Client { id, uid, gid, pid, read_only } = client;
        Self { id, uid, gid, pid, read_only }
    }
}

impl From<PoolView> for View {
    fn from(view: PoolView) -> Self {
        match view {
            PoolView::Own => Self::Own,
            PoolView::Logical => Self::Logical,
            PoolView::Zfs => Self::Zfs,
        }
    }
}

impl From<View> for PoolView {
    fn from(view: View) -> Self {
        match view {
            View::Own => Self::Own,
            View::Logical => Self::Logical,
            View::Zfs => Self::Zfs,
        }
    }
}

impl From<StoragePool> for Pool {
    fn from(pool: StoragePool) -> Self {
        Self { name: pool.name, uuid: pool.uuid.0 }
    }
}

impl From<Pool> for StoragePool {
    fn from(pool: Pool) -> Self {
        Self { name: pool.name, uuid: Uuid(pool.uuid) }
    }
}

impl Answer {
    pub(crate) fn event(event: PoolEvent) -> Self {
        let kind = match event.kind {
            PoolEventKind::Lifecycle { event, detail } => Kind::Lifecycle { event, detail },
            PoolEventKind::Refresh => Kind::Refresh,
        };
        Self::Event { pool: event.pool.into(), kind }
    }

    /// The answer to a call.
    pub(crate) fn to_call(generation: u64, result: Result<Vec<u8>, RemoteError>) -> Self {
        match result {
            Ok(result) => Self::Done { generation, result },
            // An error that cannot be encoded does not exist: its texts were cut when it was made.
            Err(error) => Self::Refused { generation, error: encode(&error).unwrap_or_default() },
        }
    }
}

impl From<Kind> for PoolEventKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Lifecycle { event, detail } => Self::Lifecycle { event, detail },
            Kind::Refresh => Self::Refresh,
        }
    }
}

/// An error as it was encoded on the other side.
pub(crate) fn error(encoded: &[u8]) -> RemoteError {
    decode(encoded).unwrap_or_else(RemoteError::from)
}

/// An answer to a question about pools, as it travels.
pub(crate) fn pack<T: Serialize>(result: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(result).map_err(invalid)
}

/// The same, as it is read.
pub(crate) fn unpack<T: DeserializeOwned>(result: &[u8]) -> io::Result<T> {
    postcard::from_bytes(result).map_err(invalid)
}

/// Sends a message.
pub(crate) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(invalid)?;
    let length = frame.len() - 4;
    let length = u32::try_from(length).ok().filter(|_| length <= LONGEST);
    let length = length.ok_or_else(|| invalid("a message is too long"))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    to.write_all(&frame)
}

/// Receives a message. A connection that ends before one is `UnexpectedEof`.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    postcard::from_bytes(&frame(from)?).map_err(invalid)
}

/// Sends the first message of a connection.
pub(crate) fn send_first(to: &mut impl Write, ask: &Ask) -> io::Result<()> {
    send(to, &(VERSION, ask))
}

/// Receives the first message of a connection; the other side's version, if it is not ours.
pub(crate) fn receive_first(from: &mut impl Read) -> io::Result<Result<Ask, u32>> {
    let frame = frame(from)?;
    let (version, rest) = postcard::take_from_bytes::<u32>(&frame).map_err(invalid)?;
    if version != VERSION {
        return Ok(Err(version));
    }
    postcard::from_bytes(rest).map(Ok).map_err(invalid)
}

fn frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST {
        return Err(invalid("a message is too long"));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

pub(crate) fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}
