// SPDX-License-Identifier: LGPL-2.1-or-later
//! The objects of pools and volumes: their properties and methods.
//!
//! A method takes no name: it works on the object that it is called on, so no caller can make the
//! daemon touch anything but pools and volumes of type `notify`.
#![allow(clippy::type_complexity, reason = "zbus takes the arguments' types from the signature")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;
use virtnotify_migrate::time_to_full;
use virtnotify_model::{Bytes, Task};
use zbus::message::Header;
use zbus::{Connection, ObjectPath, OwnedVariant, Variant, interface};

use super::error::Error;
use super::facts::{PoolFacts, VolumeFacts};
use super::options::Options;
use super::{Sources, paths, policy};
use crate::history::Point;

/// What is shown, as the tree of objects and the object itself have it.
pub struct Shown<F>(Arc<Mutex<F>>);

impl<F: Clone> Shown<F> {
    pub fn new(facts: F) -> Self {
        Self(Arc::new(Mutex::new(facts)))
    }

    pub fn get(&self) -> F {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows something else; returns what was shown.
    pub fn set(&self, facts: F) -> F {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), facts)
    }
}

impl<F> Clone for Shown<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A pool.
pub struct Pool {
    pub sources: Sources,
    pub shown: Shown<PoolFacts>,
}

/// A volume.
pub struct Volume {
    pub sources: Sources,
    pub shown: Shown<VolumeFacts>,
}

#[interface(name = "org.virtnotify1.Pool")]
impl Pool {
    /// Its name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.shown.get().name.to_string()
    }

    /// libvirt's UUID of it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn uuid(&self) -> String {
        self.shown.get().uuid.to_string()
    }

    /// Its volume group.
    #[zbus(property)]
    fn volume_group(&self) -> String {
        self.shown.get().vg.to_string()
    }

    /// Whether it is started.
    #[zbus(property)]
    fn active(&self) -> bool {
        self.shown.get().active
    }

    /// `well`, `inactive`, `low` (less is available than its low mark), `full` or `damaged`: the worst that there is to say.
    #[zbus(property)]
    fn health(&self) -> &'static str {
        self.shown.get().health().word()
    }

    /// Why it is not well, and what to do: a sentence; empty where it is well.
    #[zbus(property)]
    fn reason(&self) -> String {
        self.shown.get().reason()
    }

    /// Whether its metadata is damaged, or cannot be written: its volumes work on as far as they have space, and
    /// nothing is changed.
    #[zbus(property)]
    fn damaged(&self) -> bool {
        self.shown.get().damaged
    }

    /// The size of its volume group.
    #[zbus(property)]
    fn capacity(&self) -> u64 {
        self.shown.get().capacity
    }

    /// The space that its volumes hold, metadata included.
    #[zbus(property)]
    fn allocation(&self) -> u64 {
        self.shown.get().allocation
    }

    /// The space that its volumes can still get.
    #[zbus(property)]
    fn available(&self) -> u64 {
        self.shown.get().available
    }

    /// The part of that which it has taken from the volume group already.
    #[zbus(property)]
    fn headroom(&self) -> u64 {
        self.shown.get().headroom
    }

    /// The size of a chunk.
    #[zbus(property)]
    fn chunk_size(&self) -> u64 {
        self.shown.get().chunk
    }

    /// The pool is low on space when less than this is available; 0: never.
    #[zbus(property)]
    fn low_mark(&self) -> u64 {
        self.shown.get().low_mark
    }

    /// The sum of the capacities of its volumes, without snapshots.
    #[zbus(property)]
    fn promised(&self) -> u64 {
        self.shown.get().promised
    }

    /// The largest sum that its policy allows; 0: no limit.
    #[zbus(property)]
    fn promised_limit(&self) -> u64 {
        self.shown.get().promised_limit
    }

    /// What it does by itself when space gets low, and within which limits; empty while it is not active.
    #[zbus(property)]
    fn policy(&self) -> HashMap<&'static str, Variant<'static>> {
        self.shown.get().policy()
    }

    /// Why no VM leaves it at its low mark for now, as its policy says; empty where one may, or none has to.
    #[zbus(property)]
    fn held_back(&self) -> String {
        self.shown.get().held_back.map(|of| of.reason).unwrap_or_default()
    }

    /// Until when, in seconds since 1970; 0 where that is not known.
    #[zbus(property)]
    fn held_back_until(&self) -> u64 {
        self.shown.get().held_back.and_then(|of| of.until).unwrap_or(0)
    }

    /// The growth of its volumes in bytes a second, averaged over about the last minute.
    #[zbus(property(emits_changed_signal = "false"))]
    fn growth_rate(&self) -> u64 {
        whole(self.sources.rates().of_pool(&self.shown.get().name, Instant::now()))
    }

    /// The seconds until it is full at that rate; 0 if it does not grow.
    #[zbus(property(emits_changed_signal = "false"))]
    fn time_to_full(&self) -> u64 {
        let shown = self.shown.get();
        let rate = self.sources.rates().of_pool(&shown.name, Instant::now());
        match time_to_full(Bytes(shown.available), rate) {
            Duration::MAX => 0,
            // One that is full this moment is not one that does not grow.
            time => time.as_secs().max(1),
        }
    }

    /// How full it was since a time in seconds since 1970, the oldest first: the time, then bytes: capacity,
    /// available. A day by the minute, and six days before that by the quarter of an hour, of which the fullest
    /// moment counts; none for times when it was not active, or no daemon ran.
    #[zbus(out_args("points"))]
    async fn history(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        since: u64,
    ) -> Result<Vec<(u64, u64, u64)>, Error> {
        let pool = self.shown.get().uuid;
        let row = |point: Point| (point.time, point.capacity, point.available);
        self.sources
            .look(connection, &header, move |sources| {
                Ok(sources.history.since(pool, since).into_iter().map(row).collect())
            })
            .await
    }

    /// Changes settings of its policy, now and in its definition; others stay. There are no options yet.
    async fn set_policy(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        settings: HashMap<String, OwnedVariant>,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        Options::none(options)?;
        let settings = policy::settings(&settings)?;
        let (pool, told) = (self.shown.get().name, settings.clone());
        let name = pool.clone();
        self.sources.ask(move |sources| Ok(sources.storage.set_policy(&pool, &told)?)).await?;
        let who = self.sources.who(connection, &header).await;
        let words: Vec<String> = settings.iter().map(policy::told).collect();
        info!("{who} has changed the policy of '{name}': {}", words.join(", "));
        Ok(())
    }

    /// Makes a volume of this many bytes. It takes no space until it is written, or as much as the option `allocation`
    /// (`t`) says.
    #[zbus(out_args("volume"))]
    async fn create_volume(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        name: String,
        capacity: u64,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<ObjectPath<'static>, Error> {
        let (pool, new) = (self.shown.get().name, (name, capacity));
        self.sources.create_volume(connection, &header, pool, new, options).await
    }

    /// Looks at the volume group again; volumes that wait for space go on if there is some.
    async fn refresh(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let pool = self.shown.get().name;
        self.sources.ask(move |sources| Ok(sources.storage.refresh_pool(&pool)?)).await
    }

    /// Begins a job that takes back chunks that volumes were given and never wrote, moves chunks from the end of the
    /// pool's data, and then gives the volume group all free space beyond the headroom.
    #[zbus(out_args("job"))]
    async fn reclaim(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        self.sources
            .begin_job(connection, &header, self.shown.get().name, Task::Reclaim(None))
            .await
    }

    /// Begins a job that takes back chunks of its volumes that are all zeroes, and then does what `Reclaim` does.
    #[zbus(out_args("job"))]
    async fn reclaim_zeroes(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let task = Task::ReclaimZeroes(None);
        self.sources.begin_job(connection, &header, self.shown.get().name, task).await
    }

    /// Begins a job that moves the chunks of its volumes together, in their order.
    #[zbus(out_args("job"))]
    async fn defragment(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        self.sources
            .begin_job(connection, &header, self.shown.get().name, Task::Defragment(None))
            .await
    }
}

#[interface(name = "org.virtnotify1.Volume")]
impl Volume {
    /// Its name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.shown.get().info.name.to_string()
    }

    /// Its pool.
    #[zbus(property(emits_changed_signal = "const"))]
    fn pool(&self) -> ObjectPath<'static> {
        self.shown.get().pool_path()
    }

    /// libvirt's key of it, which no other volume ever has.
    #[zbus(property)]
    fn uuid(&self) -> String {
        self.shown.get().info.uuid.to_string()
    }

    /// Its device.
    #[zbus(property(emits_changed_signal = "const"))]
    fn path(&self) -> String {
        self.shown.get().path()
    }

    /// `active`, `out-of-space` or `inactive`.
    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.shown.get().state()
    }

    /// Its size.
    #[zbus(property)]
    fn capacity(&self) -> u64 {
        self.shown.get().info.capacity.0
    }

    /// `volume` or `snapshot`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> &'static str {
        self.shown.get().kind()
    }

    /// The volume that it is a snapshot of, or the volume or snapshot that it was cloned from; `/` if that is gone, or
    /// there was none.
    #[zbus(property)]
    fn backing(&self) -> ObjectPath<'static> {
        self.shown.get().backing()
    }

    /// When it was made, in seconds since 1970.
    #[zbus(property)]
    fn created(&self) -> u64 {
        self.shown.get().created()
    }

    /// How many programs have its device open.
    #[zbus(property)]
    fn openers(&self) -> u32 {
        self.shown.get().info.openers
    }

    /// The VMs that have it among their disks, also those that are off.
    #[zbus(property)]
    fn vms(&self) -> Vec<ObjectPath<'static>> {
        self.shown.get().vms.into_iter().map(paths::vm).collect()
    }

    /// The space of its pool that it holds.
    #[zbus(property)]
    fn allocation(&self) -> u64 {
        self.shown.get().info.allocation.0
    }

    /// The part of that which no other volume or snapshot shares.
    #[zbus(property)]
    fn exclusive(&self) -> u64 {
        self.shown.get().info.exclusive.0
    }

    /// Its growth in bytes a second, averaged over about the last minute.
    #[zbus(property(emits_changed_signal = "false"))]
    fn growth_rate(&self) -> u64 {
        let info = self.shown.get().info;
        whole(self.sources.rates().of(&info.pool, &info.name, Instant::now()))
    }

    /// Gives it the space that it lacks in this range, so that writes there need not wait. The part of the range beyond
    /// its end is ignored.
    async fn reserve(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        offset: u64,
        length: u64,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let info = self.shown.get().info;
        let (offset, length) = (Bytes(offset), Bytes(length));
        let reserved = self.sources.ask(move |sources| {
            Ok(sources.storage.prepare_write(&info.pool, &info.name, offset, length)?)
        });
        reserved.await
    }

    /// Makes a volume in its pool with the same content; nothing is copied. The option `capacity` (`t`) is the size of the
    /// new one, which is this one's without it.
    #[zbus(name = "Clone", out_args("volume"))]
    async fn clone_as(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        name: String,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<ObjectPath<'static>, Error> {
        let info = self.shown.get().info;
        self.sources.clone_volume(connection, &header, info, name, options).await
    }

    /// Gives it another capacity. A smaller one needs the option `shrink` (`b`): what lies behind it is lost.
    async fn resize(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        capacity: u64,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<(), Error> {
        let info = self.shown.get().info;
        self.sources.resize_volume(connection, &header, info, capacity, options).await
    }

    /// Deletes it. The option `snapshots` (`b`) says that a volume's snapshots go with it; without that, a volume that
    /// has some is refused.
    async fn delete(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<(), Error> {
        let info = self.shown.get().info;
        self.sources.delete_volume(connection, &header, info, options).await
    }

    /// Begins a job that moves its chunks together, in their order.
    #[zbus(out_args("job"))]
    async fn defragment(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let info = self.shown.get().info;
        let task = Task::Defragment(Some(info.name));
        self.sources.begin_job(connection, &header, info.pool, task).await
    }

    /// Begins a job that takes back chunks that it was given and never wrote, and those that its guest discarded.
    #[zbus(out_args("job"))]
    async fn reclaim(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let info = self.shown.get().info;
        let task = Task::Reclaim(Some(info.name));
        self.sources.begin_job(connection, &header, info.pool, task).await
    }

    /// Begins a job that takes back chunks of it that are all zeroes, and then does what `Reclaim` does.
    #[zbus(out_args("job"))]
    async fn reclaim_zeroes(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let info = self.shown.get().info;
        let task = Task::ReclaimZeroes(Some(info.name));
        self.sources.begin_job(connection, &header, info.pool, task).await
    }

    /// Figures: `written` (the bytes that it holds, without those that it was given and is not known to have written),
    /// `waits`, `wait-total-ns`, `wait-max-ns`, `timed-out` and `refused` writes; and the number of waits by class, each a
    /// least time in nanoseconds.
    #[zbus(out_args("figures", "waits"))]
    async fn statistics(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(Vec<(String, u64)>, Vec<(u64, u64)>), Error> {
        let info = self.shown.get().info;
        let asked = self.sources.look(connection, &header, move |sources| {
            let stats = sources.storage.volume_stats(&info.pool, &info.name)?;
            Ok((sources.storage.volume(&info.pool, &info.name)?.allocation, stats))
        });
        let (allocation, stats) = asked.await?;
        let figures = [
            ("written", allocation.saturating_sub(stats.ahead).0),
            ("waits", stats.waits),
            ("wait-total-ns", stats.wait_total_ns),
            ("wait-max-ns", stats.wait_max_ns),
            ("timed-out", stats.timed_out),
            ("refused", stats.refused),
        ];
        let figures = figures.map(|(name, value)| (name.to_owned(), value));
        Ok((figures.to_vec(), stats.wait_classes))
    }
}

/// Bytes a second without their fraction.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn whole(rate: f64) -> u64 {
    rate as u64
}
