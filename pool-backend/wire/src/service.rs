// SPDX-License-Identifier: LGPL-2.1-or-later
//! The interface between the code that talks to clients and the code that knows the pools.
//!
//! The caller has authenticated the client and decided that a call is about a pool of ours before
//! it asks here. Functions may block (LVM is behind them) unless they say otherwise; the caller
//! runs them where they may block.

use std::fmt;

use crate::connect::StreamHole;
use crate::error::{ErrorCode, RemoteError};
use crate::procedure::Procedure;
use crate::storage::{StoragePool, Uuid};

/// The client on whose behalf a call is made, as the socket's owner saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Tells connections apart, for logs.
    pub id: u64,
    /// Its user, from the socket's credentials.
    pub uid: u32,
    /// Its group, from the socket's credentials.
    pub gid: u32,
    /// Its process, from the socket's credentials.
    pub pid: i32,
    /// Whether it may only read. Calls that change something were refused before.
    pub read_only: bool,
}

/// The type that a pool of ours is shown with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolView {
    /// Its own: `type='notify'`.
    #[default]
    Own,
    /// As `type='logical'`: virtqemud looks up a disk's volume, and its parser knows
    /// the built-in types only. It reads the type, the source's name and the target path.
    Logical,
    /// As `type='zfs'`: virt-install and its kin know the built-in types only, and of those one
    /// whose volumes are thin block devices.
    Zfs,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// A procedure of the storage family.
    pub procedure: Procedure,
    /// Its arguments, encoded.
    pub args: &'a [u8],
    /// How pools are shown; only `STORAGE_POOL_GET_XML_DESC` heeds it.
    pub view: PoolView,
}

/// The type and names in the XML of a pool. Nothing else of it has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolXmlPeek {
    /// Whether it is `<pool type='notify'>`.
    pub ours: bool,
    /// Its `<name>`, if one could be read.
    pub name: Option<String>,
    /// Its `<uuid>`, if one could be read.
    pub uuid: Option<Uuid>,
}

/// What the XML of a volume that is to be made says of what it will be. Nothing else of it has been
/// checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeXmlPeek {
    /// Its `<name>`, if one could be read.
    pub name: Option<String>,
    /// The path of the volume that it is to be made of, if it names one.
    pub backing: Option<String>,
}

/// Something that happened to a pool of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolEvent {
    /// The pool.
    pub pool: StoragePool,
    /// What happened.
    pub kind: PoolEventKind,
}

/// What happened to a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolEventKind {
    /// `virStoragePoolEventLifecycleType` and its detail.
    Lifecycle {
        /// 0 defined, 1 undefined, 2 started, 3 stopped, 4 created, 5 deleted.
        event: i32,
        /// 0: libvirt knows no details yet.
        detail: i32,
    },
    /// Its volumes were read anew.
    Refresh,
}

/// Where events go. Must not block.
pub type EventSink = Box<dyn Fn(PoolEvent) + Send + Sync>;

/// A piece of a volume on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownloadChunk {
    /// Bytes.
    Data(Vec<u8>),
    /// A number of zeroes that are not stored; only if sparse streams were asked for.
    Hole(u64),
    /// Nothing more.
    End,
}

/// A volume being read by `STORAGE_VOL_DOWNLOAD`. Dropped when the client gives up.
pub trait Download: Send {
    /// The next piece, of at most `max` bytes if it is data. Blocks.
    ///
    /// # Errors
    /// When the volume cannot be read; ends the stream.
    fn next(&mut self, max: usize) -> Result<DownloadChunk, RemoteError>;
}

/// A volume being written by `STORAGE_VOL_UPLOAD`. Dropped without
/// [`Upload::finish`] when the client gives up.
pub trait Upload: Send {
    /// Takes the next bytes. Blocks.
    ///
    /// # Errors
    /// When they cannot be written; ends the stream.
    fn write(&mut self, data: &[u8]) -> Result<(), RemoteError>;

    /// Takes a hole. Blocks.
    ///
    /// # Errors
    /// When it cannot be made; ends the stream.
    fn hole(&mut self, hole: &StreamHole) -> Result<(), RemoteError>;

    /// Everything was sent: make it durable. Blocks.
    ///
    /// # Errors
    /// When it cannot be.
    fn finish(self: Box<Self>) -> Result<(), RemoteError>;
}

/// A volume of ours that was made to hold what a volume of another type holds. It is gone again if
/// its content is dropped before [`Upload::finish`].
pub struct CloneIn {
    /// The answer to the call, encoded.
    pub answer: Vec<u8>,
    /// Takes what the other volume holds.
    pub content: Box<dyn Upload>,
}

/// A volume of ours whose content goes to a new volume in a pool of another type.
pub struct CloneOut {
    /// XML for the new volume: that of the call, with a capacity that is large enough.
    pub xml: String,
    /// The volume's content, sparse.
    pub content: Box<dyn Download>,
}

/// What answers for the pools of type `notify`.
pub trait StorageService: Send + Sync + 'static {
    /// Answers a call with its encoded result. Blocks.
    ///
    /// - Calls with a pool or a volume are about one of ours.
    /// - Lists and counts answer for our pools alone, filtered by their flags; `maxnames`
    ///   and `need_results` hold. The caller merges.
    /// - Look-ups that find nothing of ours answer `NO_STORAGE_POOL` or `NO_STORAGE_VOL`;
    ///   the caller then asks elsewhere.
    /// - `CONNECT_GET_STORAGE_POOL_CAPABILITIES` answers with the `<pool>` element for
    ///   `notify` alone; the caller puts it among the others.
    /// - `CONNECT_FIND_STORAGE_POOL_SOURCES` comes with the type `notify`.
    /// - Defining and creating come with XML whose peek says ours, after the caller made sure that
    ///   no other pool has that name or UUID.
    /// - `STORAGE_VOL_CREATE_XML_FROM` comes with a pool and a volume that are both ours.
    /// - `STORAGE_VOL_UPLOAD` and `STORAGE_VOL_DOWNLOAD` never come here.
    ///
    /// # Errors
    /// What the client is to see.
    fn call(&self, session: &Session, call: Call<'_>) -> Result<Vec<u8>, RemoteError>;

    /// The pool of ours with that name. Does not block: memory only.
    fn pool_by_name(&self, name: &str) -> Option<StoragePool>;

    /// The pool of ours with that UUID. Does not block: memory only.
    fn pool_by_uuid(&self, uuid: &Uuid) -> Option<StoragePool>;

    /// Reads as much of a pool's XML as is needed to tell its type. Does not block. For text that
    /// is no pool's XML the answer is the default.
    fn peek_pool_xml(&self, xml: &str) -> PoolXmlPeek;

    /// Reads as much of the XML of a volume to be made as tells whether a client may make it. Does
    /// not block. Of text that is no volume's XML the answer is the default.
    fn peek_volume_xml(&self, xml: &str) -> VolumeXmlPeek;

    /// Sets where events go from now on. Called once, before any other call.
    fn set_event_sink(&self, sink: EventSink);

    /// Starts reading a volume; `args` are those of `STORAGE_VOL_DOWNLOAD`. Blocks.
    ///
    /// # Errors
    /// What the client is to see.
    fn download(&self, session: &Session, args: &[u8]) -> Result<Box<dyn Download>, RemoteError> {
        let _ = (session, args);
        Err(unsupported("downloading a volume"))
    }

    /// Starts writing a volume; `args` are those of `STORAGE_VOL_UPLOAD`. Blocks.
    ///
    /// # Errors
    /// What the client is to see.
    fn upload(&self, session: &Session, args: &[u8]) -> Result<Box<dyn Upload>, RemoteError> {
        let _ = (session, args);
        Err(unsupported("uploading to a volume"))
    }

    /// Makes a volume of ours that is to hold what a volume of another type holds; `args` are those
    /// of `STORAGE_VOL_CREATE_XML_FROM`, `source` is the other volume's XML. Blocks.
    ///
    /// # Errors
    /// What the client is to see.
    fn clone_in(
        &self,
        session: &Session,
        args: &[u8],
        source: &str,
    ) -> Result<CloneIn, RemoteError> {
        let _ = (session, args, source);
        Err(unsupported("cloning into a volume"))
    }

    /// Starts reading a volume of ours for a new one of another type; `args` are those of
    /// `STORAGE_VOL_CREATE_XML_FROM`. Blocks.
    ///
    /// # Errors
    /// What the client is to see.
    fn clone_out(&self, session: &Session, args: &[u8]) -> Result<CloneOut, RemoteError> {
        let _ = (session, args);
        Err(unsupported("cloning a volume"))
    }
}

fn unsupported(what: &str) -> RemoteError {
    let detail = format!("{what} of a pool of type 'notify'");
    RemoteError::new(ErrorCode::OPERATION_UNSUPPORTED, detail)
}

impl fmt::Display for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Session { id, uid, pid, .. } = self;
        let mode = if self.read_only { "read-only" } else { "read-write" };
        write!(out, "client {id} (uid {uid}, pid {pid}, {mode})")
    }
}
