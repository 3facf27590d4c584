// SPDX-License-Identifier: LGPL-2.1-or-later
//! `receive`: a snapshot from standard input.
//!
//! Only what is complete is seen: a whole volume is received under another name and then cloned, which
//! copies nothing; a difference goes into the volume that has its base, which is rolled back to that
//! when it fails. A receiver that is killed leaves a note, and the next one begins by cleaning up: what has
//! its snapshot, and the note which one of the sender's that is, is complete; all else goes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, IsTerminal as _, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde_json::json;
use uuid::Uuid;
use virtnotify_model::{NameError, SnapshotName};

use super::format::{DATA_MAX, Header, Reader, Record, StreamError};
use super::notes::Notes;
use super::place::{Live, Place};
use crate::args::code;
use crate::client::{self, Problem};
use crate::names::{self, Named};
use crate::show::{self, out, size};

/// How much may be written before it is synced: what waits in memory stays bounded.
const UNSYNCED_MAX: u64 = 64 << 20;
/// The suffix of the name of a volume that is being received.
const RECEIVING: &str = ".receiving";

/// What was received.
#[derive(Debug)]
pub struct Received {
    /// The snapshot.
    pub snapshot: Named,
    /// How many bytes of data came.
    pub bytes: u64,
}

/// `receive`.
pub async fn run(volume: &str, as_json: bool) -> Result<u8, Problem> {
    let to = names::volume(volume)?;
    if io::stdin().is_terminal() {
        let text = "standard input is a terminal: this takes what 'virt-notify send' writes";
        return Err(Problem::Usage(text.into()));
    }
    let place = Live::new(client::daemon(None).await?);
    let input = BufReader::with_capacity(2 * DATA_MAX, io::stdin().lock());
    let Received { snapshot, bytes } = receive(&place, &Notes::default(), &to, input).await?;
    match as_json {
        true => show::json(&json!({ "received": snapshot.to_string(), "bytes": bytes }))?,
        false => out(&format!("{snapshot}: received, {} of data\n", size(bytes)))?,
    }
    Ok(code::FINE)
}

/// Receives into a volume.
pub async fn receive(
    place: &impl Place,
    notes: &Notes,
    to: &Named,
    input: impl Read,
) -> Result<Received, Problem> {
    let _alone = notes.lock(to)?;
    let mut stream = Reader::new(input)?;
    let header = stream.header().clone();
    let parts = header.name.snapshot();
    let (_, name) = parts.ok_or_else(|| Problem::Cannot("the stream has no snapshot".into()))?;
    let wrong = |error: NameError| Problem::Usage(error.to_string());
    let snapshot = to.beside(to.volume.at(&name).map_err(wrong)?);
    let wanted = Wanted { place, notes, to, header: &header, name: &name };
    wanted.clean_up(&snapshot).await?;
    let there = place.snapshots(&to.pool).await?;
    for other in there.iter().filter(|other| other.of(to)) {
        if notes.identity(other.uuid)? == header.uuid {
            let text = format!("this snapshot is there already: '{}/{}'", to.pool, other.name);
            return Err(Problem::Cannot(text));
        }
    }
    if there.iter().any(|other| other.name == snapshot.volume) {
        return Err(Problem::Cannot(format!("'{snapshot}' is there already, and another one")));
    }
    match header.base.is_nil() {
        true => wanted.whole(&mut stream).await?,
        false => wanted.difference(&mut stream).await?,
    }
    Ok(Received { snapshot, bytes: stream.bytes() })
}

/// What is to be received, and where.
struct Wanted<'a, P> {
    place: &'a P,
    notes: &'a Notes,
    to: &'a Named,
    header: &'a Header,
    name: &'a SnapshotName,
}

impl<P: Place> Wanted<'_, P> {
    /// A volume that is not there yet.
    async fn whole(&self, stream: &mut Reader<impl Read>) -> Result<(), Problem> {
        let Self { place, notes, to, header, .. } = self;
        if place.volume(to).await?.is_some() {
            return Err(Problem::Cannot(format!(
                "'{to}' is there already: receive the whole into a volume that is not, or a \
                 difference ('send --from')"
            )));
        }
        let partial = self.partial()?;
        if place.volume(&partial).await?.is_some() {
            return Err(Problem::Cannot(format!("'{partial}' is in the way: delete it")));
        }
        place.create(&partial, header.capacity, None).await?;
        let uuid = self.uuid_of(&partial).await?;
        notes.begin(uuid)?;
        let filled = fill(stream, &place.device(&partial), true);
        let done = match filled {
            Ok(()) => self.finish_whole(&partial).await,
            Err(error) => Err(error),
        };
        // Either way: a complete volume has another name by now.
        let removed = place.delete(&partial).await;
        if removed.is_ok() {
            notes.end(uuid)?;
        }
        done.and(removed)
    }

    /// The volume that the whole is received into.
    fn partial(&self) -> Result<Named, Problem> {
        let name = format!("{}{RECEIVING}", self.to.volume).parse();
        Ok(self.to.beside(name.map_err(|e: NameError| Problem::Usage(e.to_string()))?))
    }

    /// Cleans up after a receiver that was killed.
    async fn clean_up(&self, snapshot: &Named) -> Result<(), Problem> {
        let Self { place, notes, to, .. } = self;
        let partial = self.partial()?;
        if let Some(old) = place.volume(&partial).await?
            && notes.is_receiving(old.uuid)?
        {
            let named = place.volume(to).await?.is_some();
            if named && place.is_made_of(to, &partial).await? && !self.has_received().await? {
                self.remove_unfinished(snapshot).await?;
                place.delete(to).await?;
            }
            place.delete(&partial).await?;
            notes.end(old.uuid)?;
        }
        match place.volume(to).await? {
            Some(volume) if notes.is_receiving(volume.uuid)? => {
                self.remove_unfinished(snapshot).await?;
                if self.is_complete().await? { notes.end(volume.uuid) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Whether the volume has a snapshot that was received.
    async fn has_received(&self) -> Result<bool, Problem> {
        let mut all = self.place.snapshots(&self.to.pool).await?.into_iter();
        let received = |other: Uuid| self.notes.is_received(other);
        all.try_fold(false, |any, other| Ok(any || (other.of(self.to) && received(other.uuid)?)))
    }

    /// Whether the volume is as the snapshot that is sent, which it has: only the note about it was left.
    async fn is_complete(&self) -> Result<bool, Problem> {
        for other in self.place.snapshots(&self.to.pool).await? {
            if other.of(self.to) && self.notes.identity(other.uuid)? == self.header.uuid {
                return Ok(!self.place.is_changed(self.to, &self.to.beside(other.name)).await?);
            }
        }
        Ok(false)
    }

    /// Takes a snapshot of the incomplete volume away that a receiver took, and did not note which one of the
    /// sender's it is.
    async fn remove_unfinished(&self, snapshot: &Named) -> Result<(), Problem> {
        let all = self.place.snapshots(&self.to.pool).await?;
        let Some(found) = all.into_iter().find(|other| other.name == snapshot.volume) else {
            return Ok(());
        };
        let is_base = self.notes.identity(found.uuid)? == self.header.base;
        // Another one of that name was there before, and is not what the volume holds now.
        let is_last = matches!(self.place.is_changed(self.to, snapshot).await, Ok(false));
        match is_base || !is_last || self.notes.is_received(found.uuid)? {
            true => Ok(()),
            false => self.place.delete(snapshot).await,
        }
    }

    /// Gives a complete volume its name, and its snapshot.
    async fn finish_whole(&self, partial: &Named) -> Result<(), Problem> {
        let Self { place, to, header, .. } = self;
        place.create(to, header.capacity, Some(&partial.volume)).await?;
        let taken = self.take().await;
        if taken.is_err() {
            place.delete(to).await?;
        }
        taken
    }

    /// A difference, into the volume that has its base.
    async fn difference(&self, stream: &mut Reader<impl Read>) -> Result<(), Problem> {
        let Self { place, notes, to, header, .. } = self;
        let volume = place.volume(to).await?.ok_or_else(|| {
            Problem::Cannot(format!(
                "'{to}' is not there: a difference goes into a volume that was received whole"
            ))
        })?;
        let base = self.base().await?;
        let receiving = notes.is_receiving(volume.uuid)?;
        if header.capacity < volume.capacity && !receiving {
            return Err(Problem::Cannot(format!(
                "the volume that was sent is smaller now than '{to}': send the whole"
            )));
        }
        if !receiving && place.is_changed(to, &base).await? {
            return Err(Problem::Cannot(format!(
                "'{to}' was changed since '{base}': 'virt-notify snapshot rollback {base}' takes \
                 that back"
            )));
        }
        // Refused when a VM uses it, and takes away what a receiver that was killed left.
        place.roll_back(&base).await?;
        notes.begin(volume.uuid)?;
        // A receiver that was killed may have made it larger, and the roll-back has taken that back.
        let capacity = place.volume(to).await?.map_or(volume.capacity, |volume| volume.capacity);
        let done = self.fill_difference(stream, capacity).await;
        let undone = match &done {
            Ok(()) => Ok(()),
            Err(_) => place.roll_back(&base).await,
        };
        match undone {
            Ok(()) => notes.end(volume.uuid)?,
            Err(error) => eprintln!("virt-notify: '{to}' is incomplete, roll it back: {error}"),
        }
        done
    }

    async fn fill_difference(
        &self,
        stream: &mut Reader<impl Read>,
        capacity: u64,
    ) -> Result<(), Problem> {
        let Self { place, to, header, .. } = self;
        if header.capacity > capacity {
            place.grow(to, header.capacity).await?;
        }
        fill(stream, &place.device(to), false)?;
        self.take().await
    }

    /// The snapshot here that the difference starts from.
    async fn base(&self) -> Result<Named, Problem> {
        for snapshot in self.place.snapshots(&self.to.pool).await? {
            let same =
                snapshot.of(self.to) && self.notes.identity(snapshot.uuid)? == self.header.base;
            if same {
                return Ok(self.to.beside(snapshot.name));
            }
        }
        Err(Problem::Cannot(format!(
            "'{}' does not have the snapshot from which on this was sent ({}): send it from one that \
             both have, or the whole",
            self.to, self.header.base
        )))
    }

    /// Takes the snapshot, and notes which one of the sender's it is.
    async fn take(&self) -> Result<(), Problem> {
        let uuid = self.place.snapshot(self.to, self.name).await?;
        self.notes.set_identity(uuid, self.header.uuid)
    }

    async fn uuid_of(&self, volume: &Named) -> Result<Uuid, Problem> {
        let found = self.place.volume(volume).await?;
        found.map(|found| found.uuid).ok_or_else(|| Problem::Cannot(format!("'{volume}' is gone")))
    }
}

/// Puts a stream into a device; a fresh one reads as zeroes already.
fn fill(stream: &mut Reader<impl Read>, device: &Path, fresh: bool) -> Result<(), Problem> {
    let failed =
        |e: io::Error| Problem::Cannot(format!("cannot write '{}': {e}", device.display()));
    let file = OpenOptions::new().write(true).open(device).map_err(failed)?;
    let mut unsynced = 0;
    while let Some(record) = stream.next()? {
        match record {
            Record::Data(offset, data) => {
                file.write_all_at(&data, offset).map_err(failed)?;
                unsynced += data.len() as u64;
            }
            Record::Zeroes(..) if fresh => {}
            Record::Zeroes(offset, length) => clear(&file, offset, length).map_err(failed)?,
        }
        if unsynced >= UNSYNCED_MAX {
            file.sync_data().map_err(failed)?;
            unsynced = 0;
        }
    }
    file.sync_all().map_err(failed)
}

/// Makes a part read as zeroes, without storing them where that is possible.
fn clear(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let keep = FallocateFlags::KEEP_SIZE;
    match fallocate(file, FallocateFlags::PUNCH_HOLE | keep, offset, length) {
        Err(Errno::OPNOTSUPP) => {
            Ok(fallocate(file, FallocateFlags::ZERO_RANGE | keep, offset, length)?)
        }
        done => Ok(done?),
    }
}

impl From<StreamError> for Problem {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Damaged(_) | StreamError::Cut => Self::Damaged(error.to_string()),
            other => Self::Cannot(other.to_string()),
        }
    }
}
