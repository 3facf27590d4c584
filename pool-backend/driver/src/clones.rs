// SPDX-License-Identifier: LGPL-2.1-or-later
//! Volumes that are made to hold what another volume holds.
//!
//! Within one pool of ours nothing is copied: the new volume has the source's chunks. Between two
//! pools of ours the content is copied here. Between a pool of ours and one of libvirt's the client
//! carries the content, since it can reach both. A clone is as thin as its source: `virsh vol-clone`
//! sends the source's XML, so an allocation in it is the source's, and is ignored.
//!
//! A copy that fails leaves no volume, and neither does one whose daemon is killed: before a volume
//! is made, its UUID is noted on disk, and the note goes when the content is on the disk. A volume
//! that is still noted when its pool starts is deleted before any client sees it.

use std::sync::Arc;

use uuid::Uuid;
use virtnotify_model::{Backend, BackendError, Bytes, PoolName, VolumeInfo, VolumeName};
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::service::{CloneIn, CloneOut, Upload};
use virtnotify_wire::storage::{StorageVolCreateXmlFromArgs, StorageVolCreateXmlFromRet};
use virtnotify_wire::{RemoteError, StoragePool, StorageVol, encode};

use crate::driver::Driver;
use crate::error::DriverError;
use crate::flags;
use crate::ground::Ground;
use crate::store::Store;
use crate::streams::{self, Reader, Writer};
use crate::xml::{self, VolumeDefinition};

impl Driver {
    /// Makes a volume that holds what another one holds, in the same pool or in another of
    /// ours.
    ///
    /// # Errors When the XML asks for something impossible, there is a volume of that name, or
    /// another call is at work with the source; if the copying fails, the new volume is gone.
    pub fn clone_volume(
        &self,
        pool: &StoragePool,
        xml: &str,
        source: &StorageVol,
        validate: bool,
    ) -> Result<VolumeInfo, DriverError> {
        self.active_name(pool)?;
        let wanted = thin(xml, validate)?;
        let from_pool = self.by_volume(source)?;
        let (_, _source_busy) =
            self.shared_job(&from_pool, || self.begin(&from_pool, &source.name))?;
        let from = self.volume(&from_pool, &source.name)?;
        let capacity = wanted.capacity.unwrap_or(Bytes::ZERO).max(from.capacity);
        if from_pool.uuid == pool.uuid {
            return self.shared_job(pool, || self.make_of(&from, &wanted, capacity));
        }
        let (name, made, unfinished, _busy) = self.shared_job(pool, || {
            let (made, unfinished) =
                self.make_unfinished(&self.active_name(pool)?, &wanted, capacity)?;
            let (name, busy) = self.begin(pool, made.name.as_str())?;
            Ok((name, made, unfinished, busy))
        })?;
        let ground = Ground::of(self.backend.clone(), &made);
        let copied = ground.and_then(|ground| streams::copy(&from.path, &made.path, ground));
        match copied {
            Ok(()) => unfinished.finish()?,
            Err(error) => {
                unfinished.undo();
                return Err(error);
            }
        }
        self.find(&name, made.name.as_str())
    }

    /// Makes a volume that is to be filled.
    fn make_unfinished(
        &self,
        pool: &PoolName,
        wanted: &VolumeDefinition,
        capacity: Bytes,
    ) -> Result<(VolumeInfo, Unfinished), DriverError> {
        let uuid = Uuid::new_v4();
        self.store.note_unfinished(uuid, pool)?;
        match self.make(pool, wanted, wanted.spec(capacity, uuid)) {
            Ok(made) => {
                let (backend, store) = (self.backend.clone(), self.store.clone());
                let (pool, volume) = (pool.clone(), made.name.clone());
                Ok((made, Unfinished { backend, store, pool, volume, uuid }))
            }
            Err(error) => {
                forget(&self.store, uuid);
                Err(error)
            }
        }
    }

    /// Deletes the volumes that the last daemon had begun to fill, in a pool that has just been
    /// started.
    pub(crate) fn remove_unfinished(&self, pool: &PoolName) {
        let noted = self.store.unfinished().unwrap_or_else(|error| {
            tracing::warn!("{error}: clones that were cut off may be left over");
            Vec::new()
        });
        if noted.is_empty() {
            return;
        }
        let Ok(volumes) = self.backend.volumes(pool) else { return };
        for (uuid, noted_for) in noted {
            let gone = match volumes.iter().find(|volume| volume.uuid == uuid) {
                Some(volume) => self.remove_cut_off(pool, &volume.name),
                // It was noted, and then not made.
                None => noted_for == pool.as_str(),
            };
            if gone {
                forget(&self.store, uuid);
            }
        }
    }

    /// Deletes a clone that was cut off; returns whether it need not be looked at again.
    fn remove_cut_off(&self, pool: &PoolName, volume: &VolumeName) -> bool {
        match self.backend.delete_volume(pool, volume) {
            Ok(()) => tracing::warn!("deleted '{volume}' of '{pool}': a clone that was cut off"),
            Err(error @ BackendError::VolumeInUse(_)) => {
                tracing::warn!("a clone that was cut off is kept: {error}");
            }
            Err(error) => {
                tracing::warn!("'{volume}' of '{pool}' is a clone that was cut off: {error}");
                return false;
            }
        }
        true
    }

    /// Makes a volume for the content of a volume in a pool of another type.
    pub(crate) fn clone_from_other(
        &self,
        args: &StorageVolCreateXmlFromArgs,
        source: &str,
    ) -> Result<CloneIn, DriverError> {
        let validate = check_flags(args)?;
        self.active_name(&args.pool)?;
        let wanted = thin(&args.xml, validate)?;
        let least = xml::raw_capacity(source, &args.clonevol.name)?;
        let capacity = wanted.capacity.unwrap_or(Bytes::ZERO).max(least);
        self.shared_job(&args.pool, || {
            let pool = self.active_name(&args.pool)?;
            let (made, unfinished) = self.make_unfinished(&pool, &wanted, capacity)?;
            // Open from here on, the volume is neither deleted nor wiped by another call.
            let ground = Ground::of(self.backend.clone(), &made);
            let open = |ground| Writer::open(&made.path, 0, 0, ground, Box::new(|| ()));
            let writer = ground.and_then(open);
            let content = match writer {
                Ok(writer) => Filling { writer: Some(writer), unfinished: Some(unfinished) },
                Err(error) => {
                    unfinished.undo();
                    return Err(error);
                }
            };
            let answer = StorageVolCreateXmlFromRet { vol: Driver::volume_handle(&made) };
            Ok(CloneIn { answer: encode(&answer)?, content: Box::new(content) })
        })
    }

    /// Opens a volume whose content goes to a new one in a pool of another type.
    pub(crate) fn clone_for_other(
        &self,
        args: &StorageVolCreateXmlFromArgs,
    ) -> Result<CloneOut, DriverError> {
        check_flags(args)?;
        let pool = self.by_volume(&args.clonevol)?;
        let (_, info) = self.free_volume(&pool, &args.clonevol.name)?;
        let xml = xml::with_capacity(&args.xml, info.capacity)?;
        let content = Reader::open(&info.path, 0, 0, true)?;
        Ok(CloneOut { xml, content: Box::new(content) })
    }
}

/// The volume to be made, without an allocation or a backing store of its own: in the source's XML
/// both are the source's.
fn thin(xml: &str, validate: bool) -> Result<VolumeDefinition, DriverError> {
    let wanted = VolumeDefinition::parse(xml, validate)?;
    Ok(VolumeDefinition { allocation: None, backing: None, ..wanted })
}

/// Checks the flags of a clone; says whether the XML is to be validated.
///
/// # Errors
/// [`DriverError::Flags`], [`DriverError::Unsupported`].
pub(crate) fn check_flags(args: &StorageVolCreateXmlFromArgs) -> Result<bool, DriverError> {
    let known = flags::VOL_PREALLOC_METADATA | flags::VOL_REFLINK | flags::VOL_VALIDATE;
    flags::check(args.flags, known, "storageVolCreateXMLFrom")?;
    if args.flags & flags::VOL_REFLINK != 0 {
        let text = "a volume of a pool of type 'notify' cannot be cloned by reflink";
        return Err(DriverError::Unsupported(text.to_owned()));
    }
    Ok(args.flags & flags::VOL_VALIDATE != 0)
}

/// A volume that is not filled yet.
struct Unfinished {
    backend: Arc<dyn Backend>,
    store: Store,
    pool: PoolName,
    volume: VolumeName,
    uuid: Uuid,
}

impl Unfinished {
    /// Ends the filling. If the note cannot be removed the next daemon would delete the volume, so
    /// it is deleted now.
    fn finish(self) -> Result<(), DriverError> {
        if let Err(error) = self.store.forget_unfinished(self.uuid) {
            self.undo();
            return Err(error.into());
        }
        Ok(())
    }

    /// Gives the volume up: it is deleted now, or when the next daemon starts its pool.
    fn undo(self) {
        match self.backend.delete_volume(&self.pool, &self.volume) {
            Ok(_) => forget(&self.store, self.uuid),
            Err(error) => tracing::warn!("an incomplete clone is left over: {error}"),
        }
    }
}

/// Takes a note away whose volume is not there any more, or is kept: no harm if it stays.
fn forget(store: &Store, uuid: Uuid) {
    if let Err(error) = store.forget_unfinished(uuid) {
        tracing::warn!("{error}");
    }
}

/// A volume that is being filled, and unmade unless that is finished.
struct Filling {
    writer: Option<Writer>,
    unfinished: Option<Unfinished>,
}

impl Filling {
    fn writer(&mut self) -> Result<&mut Writer, RemoteError> {
        let ended = || DriverError::Argument("the stream has ended".to_owned());
        Ok(self.writer.as_mut().ok_or_else(ended)?)
    }
}

impl Upload for Filling {
    fn write(&mut self, data: &[u8]) -> Result<(), RemoteError> {
        Ok(self.writer()?.fill(data)?)
    }

    fn hole(&mut self, hole: &StreamHole) -> Result<(), RemoteError> {
        self.writer()?.skip(hole)
    }

    fn finish(mut self: Box<Self>) -> Result<(), RemoteError> {
        self.writer()?.sync()?;
        self.writer = None;
        match self.unfinished.take() {
            Some(unfinished) => Ok(unfinished.finish()?),
            None => Ok(()),
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // Closed first: what is open is not deleted.
        self.writer = None;
        if let Some(unfinished) = self.unfinished.take() {
            unfinished.undo();
        }
    }
}
