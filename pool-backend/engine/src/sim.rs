// SPDX-License-Identifier: LGPL-2.1-or-later
//! A host in memory: an engine that is real, over the LVM, the device mapper and the guests that its tests have.
//!
//! It needs no root, no kernel module and no disk, and all is gone with the process. Packages are built without it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use virtnotify_model::{Bytes, EventBus};

use crate::engine::{Engine, EngineConfig, EngineError};
use crate::pool::start::Parts;
use crate::target::DeviceId;
use crate::testing::{FakeLvm, FakeTarget, GROUP, SECTOR, device_of};

/// How large an extent of the group is.
const EXTENT: Bytes = Bytes::mib(1);

/// A host with one volume group.
pub struct SimHost {
    lvm: Arc<FakeLvm>,
    target: Arc<FakeTarget>,
}

/// How a guest's writes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of them went through.
    Done,
    /// One got an error: no space, a snapshot, or the end of the volume.
    Failed,
    /// One still waits.
    Waits,
    /// The volume is not active.
    Inactive,
}

impl SimHost {
    /// The name of the volume group.
    pub const GROUP: &str = GROUP;

    /// A host whose group lies on devices of these sizes, `/dev/pv0` and so on.
    #[must_use]
    pub fn new(devices: &[Bytes]) -> Self {
        let (lvm, target) = (FakeLvm::on(devices, EXTENT), Arc::new(FakeTarget::default()));
        target.set_power(lvm.power());
        target.write_to(lvm.clone());
        Self { lvm, target }
    }

    /// An engine on this host.
    ///
    /// # Errors
    /// When another one runs in the same directory.
    pub fn engine(&self, config: EngineConfig, bus: EventBus) -> Result<Arc<Engine>, EngineError> {
        let (lvm, disks, target) = (self.lvm.clone(), self.lvm.clone(), self.target.clone());
        Engine::with_parts(Parts { config, lvm, target, disks, bus })
    }

    /// A guest writes the beginning of this text to each chunk of a part of a volume; returns how many bytes of
    /// chunks it has written to, and how that ended. No write waits longer than `limit`.
    #[must_use]
    pub fn write(
        &self,
        volume: Uuid,
        part: Range<Bytes>,
        text: &str,
        limit: Duration,
    ) -> (Bytes, Ended) {
        let device = device_of(volume);
        let Some(chunk) = self.chunk(&device) else { return (Bytes::ZERO, Ended::Inactive) };
        let (mut written, mut sector) = (Bytes::ZERO, [0; SECTOR]);
        for (to, from) in sector.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        for number in part.start.0 / chunk.0..part.end.0.div_ceil(chunk.0) {
            match self.target.try_put(&device, number, &sector, limit) {
                Some(true) => written = written.saturating_add(chunk),
                Some(false) => return (written, Ended::Failed),
                None => return (written, Ended::Waits),
            }
        }
        (written, Ended::Done)
    }

    /// A guest discards a part of a volume; returns whether it is active.
    #[must_use]
    pub fn discard(&self, volume: Uuid, part: Range<Bytes>) -> bool {
        let device = device_of(volume);
        let Some(chunk) = self.chunk(&device) else { return false };
        self.target.discard(&device, part.start.0.div_ceil(chunk.0)..part.end.0 / chunk.0);
        true
    }

    /// What a guest reads at the beginning of the chunk there: the text of the last write, nothing where none was.
    /// `None` for a volume that is not active.
    #[must_use]
    pub fn read(&self, volume: Uuid, at: Bytes) -> Option<String> {
        let device = device_of(volume);
        let chunk = self.chunk(&device)?;
        let sector = self.target.read(&device, at.0 / chunk.0);
        let text = sector.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn chunk(&self, device: &DeviceId) -> Option<Bytes> {
        self.target.has(device).then(|| self.target.state(device).chunk.bytes())
    }
}
