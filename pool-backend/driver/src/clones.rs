// SPDX-License-Identifier: LGPL-2.1-or-later
//! Volumes that are made to hold what another volume holds.
//!
//! Both in pools of ours: copied here. One of them in somebody else's pool: its content comes
//! from, or goes to, whoever called, who can reach that pool. A clone is as thin as its source:
//! an allocation in the XML is that of the source, where it comes from its XML (as
//! `virsh vol-clone` does it), and is not heeded.

use std::sync::Arc;

use virtnotify_model::{Backend, Bytes, PoolName, VolumeInfo, VolumeName};
use virtnotify_wire::connect::StreamHole;
use virtnotify_wire::service::{CloneIn, CloneOut, Upload};
use virtnotify_wire::storage::{StorageVolCreateXmlFromArgs, StorageVolCreateXmlFromRet};
use virtnotify_wire::{RemoteError, StoragePool, StorageVol, encode};

use crate::driver::Driver;
use crate::error::DriverError;
use crate::flags;
use crate::ground::Ground;
use crate::streams::{self, Reader, Writer};
use crate::xml::{self, VolumeDefinition};

impl Driver {
    /// Makes a volume that holds what another one holds, in the same pool or in another of
    /// ours.
    ///
    /// # Errors
    /// When the XML asks for what cannot be, there is a volume of that name, or something
    /// else is under way with the other volume; if the copying fails, the new one is gone.
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
            self.together(&from_pool, || self.begin(&from_pool, &source.name))?;
        let from = self.volume(&from_pool, &source.name)?;
        let capacity = wanted.capacity.unwrap_or(Bytes::ZERO).max(from.capacity);
        let (name, made, _busy) = self.together(pool, || {
            let made = self.make(&self.active_name(pool)?, &wanted, capacity)?;
            let (name, busy) = self.begin(pool, made.name.as_str())?;
            Ok((name, made, busy))
        })?;
        let ground = Ground::of(self.backend.clone(), &made);
        let copied = ground.and_then(|ground| streams::copy(&from.path, &made.path, ground));
        if let Err(error) = copied {
            self.backend.delete_volume(&name, &made.name)?;
            return Err(error);
        }
        self.find(&name, made.name.as_str())
    }

    /// Makes a volume for what a volume of somebody else's holds.
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
        self.together(&args.pool, || {
            let pool = self.active_name(&args.pool)?;
            let made = self.make(&pool, &wanted, capacity)?;
            let undo = Undo { backend: self.backend.clone(), pool, volume: made.name.clone() };
            // Open from here on, the volume is neither deleted nor wiped by anybody else.
            let ground = Ground::of(self.backend.clone(), &made);
            let open = |ground| Writer::open(&made.path, 0, 0, ground, Box::new(|| ()));
            let writer = ground.and_then(open);
            let content = match writer {
                Ok(writer) => Filling { writer: Some(writer), undo: Some(undo) },
                Err(error) => {
                    undo.run();
                    return Err(error);
                }
            };
            let answer = StorageVolCreateXmlFromRet { vol: Driver::volume_handle(&made) };
            Ok(CloneIn { answer: encode(&answer)?, content: Box::new(content) })
        })
    }

    /// Opens a volume whose content goes to a new one of somebody else's.
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

/// What is to be made, without an allocation of its own.
fn thin(xml: &str, validate: bool) -> Result<VolumeDefinition, DriverError> {
    Ok(VolumeDefinition { allocation: None, ..VolumeDefinition::parse(xml, validate)? })
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

/// How to unmake a volume that was not filled.
struct Undo {
    backend: Arc<dyn Backend>,
    pool: PoolName,
    volume: VolumeName,
}

impl Undo {
    fn run(self) {
        if let Err(error) = self.backend.delete_volume(&self.pool, &self.volume) {
            tracing::warn!("an incomplete clone is left over: {error}");
        }
    }
}

/// A volume that is being filled, and unmade unless that is finished.
struct Filling {
    writer: Option<Writer>,
    undo: Option<Undo>,
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
        self.undo = None;
        Ok(())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // Closed first: what is open is not deleted.
        self.writer = None;
        if let Some(undo) = self.undo.take() {
            undo.run();
        }
    }
}
