// SPDX-License-Identifier: LGPL-2.1-or-later
//! The device-mapper target `notify`, as the engine talks to it.
//!
//! [`dm`] is the only place that opens `/dev/mapper/control`; [`text`] is the target's grammar
//! (`kmod/dm-notify.rst`), pure.

pub(crate) mod dm;
pub(crate) mod stats;
pub(crate) mod text;

use std::ops::Range;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;
use virtnotify_model::{Sectors, VolumeStats};

use crate::pool::core::{Durable, Gap, Heritage};
pub(crate) use text::{ChunkState, Dump, LiveTable, MappedRun, Pending, Status, Table, Wish};

/// Why a call of the device mapper or the target failed.
#[derive(Debug, Error)]
pub(crate) enum TargetError {
    #[error("the device mapper cannot be reached: {0}")]
    Unreachable(String),
    #[error("{0}")]
    Version(String),
    #[error("the kernel refused to {step} '{device}': {errno}")]
    Refused { step: &'static str, device: String, errno: Errno },
    #[error("'{device}' stays suspended: {why}")]
    Suspended { device: String, why: Box<TargetError> },
    #[error("'{device}' answered '{step}' with what cannot be understood: {text}")]
    Answer { step: &'static str, device: String, text: String },
}

impl TargetError {
    /// The kernel's reason, where it is one.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the kernel has no such device.
    pub(crate) fn is_gone(&self) -> bool {
        self.errno() == Some(Errno::ENXIO)
    }
}

/// Names a device: the device mapper's uuid, which never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeviceId(pub(crate) String);

/// A device of ours that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) minor: u32,
    pub(crate) openers: u32,
    pub(crate) length: Sectors,
    /// Whether a table is live. A device without one was left half made.
    pub(crate) live: bool,
    /// Whether its I/O waits for a resume.
    pub(crate) suspended: bool,
}

/// The device mapper, for devices with the target `notify`. Calls are ioctls: they do not wait
/// for other devices, but may wait for I/O of their own device where the text says so.
pub(crate) trait Target: Send + Sync + 'static {
    /// Whether kernel and target are ones that this program can work with.
    fn check(&self) -> Result<(), TargetError>;
    /// All devices of ours, of every pool.
    fn devices(&self) -> Result<Vec<Device>, TargetError>;
    /// Makes a device with this table, and returns it.
    fn create(&self, name: &str, id: &DeviceId, table: &Table) -> Result<Device, TargetError>;
    /// Loads a table that is live after the next resume; refused when it does not fit the map.
    fn load(&self, id: &DeviceId, table: &Table) -> Result<(), TargetError>;
    /// Suspends a device without flushing: a flush would wait for writes that wait for us.
    fn suspend(&self, id: &DeviceId) -> Result<(), TargetError>;
    /// Lets the I/O of a device go on, with the table that was loaded last. Refused when that does
    /// not fit the map any more: then the device stays suspended, and takes no messages.
    fn resume(&self, id: &DeviceId) -> Result<(), TargetError>;
    /// Removes a device that no program has open.
    fn remove(&self, id: &DeviceId) -> Result<(), TargetError>;
    /// How a device is doing.
    fn device(&self, id: &DeviceId) -> Result<Device, TargetError>;
    /// The target's status line.
    fn status(&self, id: &DeviceId) -> Result<Status, TargetError>;
    /// The live table of a device.
    fn live_table(&self, id: &DeviceId) -> Result<LiveTable, TargetError>;
    /// Maps runs, all or nothing; the same place again changes nothing.
    fn map(&self, id: &DeviceId, runs: Durable<&[MappedRun]>) -> Result<(), TargetError>;
    /// Gives a device without chunks those of another one, up to a generation that has begun in both.
    fn inherit(&self, id: &DeviceId, from: Durable<Heritage>) -> Result<(), TargetError>;
    /// Makes chunks holes again; afterwards no I/O is on its way to where they were. Without
    /// `force` only if none of them holds data, else `EBUSY` and nothing changed. All writes to
    /// them wait, of zeroes too, until they are forgotten or mapped again.
    fn leave(&self, id: &DeviceId, from: u64, chunks: u64, force: bool) -> Result<(), TargetError>;
    /// Tells the target that the chunks of a range that left are durably gone; others stay as they
    /// are.
    fn forget(&self, id: &DeviceId, gap: Durable<Gap>) -> Result<(), TargetError>;
    /// Holds writes to the mapped chunks of these ranges (none is on its way afterwards), or lets them
    /// go on. The kernel waits once for all of them.
    fn protect(&self, id: &DeviceId, ranges: &[Gap], on: bool) -> Result<(), TargetError>;
    /// Watches the mapped chunks of these ranges: each counts as unchanged until it is written or
    /// discarded. What was written before has completed.
    fn watch(&self, id: &DeviceId, ranges: &[Gap]) -> Result<(), TargetError>;
    /// Waits until all I/O that was routed before has completed.
    fn drain(&self, id: &DeviceId) -> Result<(), TargetError>;
    /// Puts copies in the place of chunks: runs in the form of [`Target::map`]. Refused when a
    /// chunk is neither shared nor protected, or is a hole.
    fn remap(&self, id: &DeviceId, runs: Durable<&[MappedRun]>) -> Result<(), TargetError>;
    /// Begins a generation: all chunks of older ones are shared. What was routed before has
    /// completed.
    fn snapshot(&self, id: &DeviceId, generation: u16) -> Result<(), TargetError>;
    /// Chunks of this generation and younger ones are not shared.
    fn mark(&self, id: &DeviceId, generation: u16) -> Result<(), TargetError>;
    /// Freezes a volume, for this long at most: all that would change it waits.
    fn freeze(&self, id: &DeviceId, limit: Duration) -> Result<(), TargetError>;
    /// Thaws a volume. `ETIMEDOUT`: it has gone on before.
    fn thaw(&self, id: &DeviceId) -> Result<(), TargetError>;
    /// Whether a chunk has left and is not forgotten.
    fn is_leaving(&self, id: &DeviceId, chunk: u64) -> Result<bool, TargetError>;
    /// The writes that wait; the target rings again from now on.
    fn pending(&self, id: &DeviceId) -> Result<Pending, TargetError>;
    /// The kernel's map of a range, roughly: chunks beside it may be there too.
    fn dump_part(&self, id: &DeviceId, part: Range<u64>) -> Result<Dump, TargetError>;
    /// The kernel's whole map.
    fn dump(&self, id: &DeviceId) -> Result<Dump, TargetError> {
        self.dump_part(id, 0..u64::MAX)
    }
    /// The target's counters.
    fn stats(&self, id: &DeviceId) -> Result<VolumeStats, TargetError>;
    /// Sets which thread gets which signal.
    fn notifier(&self, id: &DeviceId, thread: i32, signal: i32) -> Result<(), TargetError>;
    /// Writes that need a chunk fail with "no space" (`false`), or wait again (`true`).
    fn space(&self, id: &DeviceId, there_is: bool) -> Result<(), TargetError>;
}

/// Gives a device another table; held writes wait on. If it cannot be resumed with that one, it is
/// resumed with a table of the length that it had.
pub(crate) fn reload(
    target: &dyn Target,
    device: &Device,
    table: &Table,
) -> Result<(), TargetError> {
    let id = &device.id;
    target.load(id, table)?;
    let Err(error) = target.suspend(id).and_then(|()| target.resume(id)) else { return Ok(()) };
    let former = Table { length: device.length, ..table.clone() };
    match target.load(id, &former).and_then(|()| target.resume(id)) {
        Ok(()) => Err(error),
        Err(why) => Err(TargetError::Suspended { device: id.0.clone(), why: Box::new(why) }),
    }
}
