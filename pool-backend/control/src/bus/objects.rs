// SPDX-License-Identifier: LGPL-2.1-or-later
//! The objects of pools and volumes: their properties and methods.
//!
//! A method names nothing: it works on the object that it is called on, so nobody can have the
//! daemon touch what is no pool or volume of ours.
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
use super::{Sources, policy};
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

    /// What its volumes hold, metadata included.
    #[zbus(property)]
    fn allocation(&self) -> u64 {
        self.shown.get().allocation
    }

    /// What its volumes can still get.
    #[zbus(property)]
    fn available(&self) -> u64 {
        self.shown.get().available
    }

    /// What of that it has taken from the volume group already.
    #[zbus(property)]
    fn headroom(&self) -> u64 {
        self.shown.get().headroom
    }

    /// The size of a chunk.
    #[zbus(property)]
    fn chunk_size(&self) -> u64 {
        self.shown.get().chunk
    }

    /// With less than this available its space is low; 0 is never.
    #[zbus(property)]
    fn low_mark(&self) -> u64 {
        self.shown.get().low_mark
    }

    /// The capacities of its volumes, all together; those of snapshots are not counted.
    #[zbus(property)]
    fn promised(&self) -> u64 {
        self.shown.get().promised
    }

    /// The most that its policy allows that to be; 0 is no limit.
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

    /// How fast its volumes grow, in bytes a second, over about the last minute.
    #[zbus(property(emits_changed_signal = "false"))]
    fn growth_rate(&self) -> u64 {
        whole(self.sources.rates().of_pool(&self.shown.get().name, Instant::now()))
    }

    /// In how many seconds it is full if that goes on; 0 when it does not grow.
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
    /// moment counts; none while it was not active, or nobody noted it.
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

    /// Makes a volume of so many bytes. The option `allocation` (`t`) is what it is given at once; without it, it
    /// takes no space before it is written.
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

    /// Looks at the volume group again; volumes that wait for space go on when there is some.
    async fn refresh(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let pool = self.shown.get().name;
        self.sources.ask(move |sources| Ok(sources.storage.refresh_pool(&pool)?)).await
    }

    /// Begins to take back what volumes were given ahead and nobody wrote, to move chunks from the
    /// end of the pool's data, and to give the volume group what is beyond the headroom then.
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

    /// Begins to take back chunks of its volumes that are all zeroes, and then what `Reclaim` does.
    #[zbus(out_args("job"))]
    async fn reclaim_zeroes(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let task = Task::ReclaimZeroes(None);
        self.sources.begin_job(connection, &header, self.shown.get().name, task).await
    }

    /// Begins to have the chunks of its volumes lie together, in their order.
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
        self.shown.get().0.name.to_string()
    }

    /// Its pool.
    #[zbus(property(emits_changed_signal = "const"))]
    fn pool(&self) -> ObjectPath<'static> {
        self.shown.get().pool_path()
    }

    /// libvirt's key of it, which no other volume ever has.
    #[zbus(property)]
    fn uuid(&self) -> String {
        self.shown.get().0.uuid.to_string()
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
        self.shown.get().0.capacity.0
    }

    /// `volume` or `snapshot`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> &'static str {
        self.shown.get().kind()
    }

    /// The volume that it is a snapshot of, or what it was made from; `/` where that is gone, or
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
        self.shown.get().0.openers
    }

    /// What it holds of its pool.
    #[zbus(property)]
    fn allocation(&self) -> u64 {
        self.shown.get().0.allocation.0
    }

    /// What of that no other volume or snapshot has.
    #[zbus(property)]
    fn exclusive(&self) -> u64 {
        self.shown.get().0.exclusive.0
    }

    /// How fast it grows, in bytes a second, over about the last minute.
    #[zbus(property(emits_changed_signal = "false"))]
    fn growth_rate(&self) -> u64 {
        let VolumeFacts(info) = self.shown.get();
        whole(self.sources.rates().of(&info.pool, &info.name, Instant::now()))
    }

    /// Gives it now what it lacks of a part of it, so that writes there wait for nobody. What is
    /// beyond its end is not heeded.
    async fn reserve(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        offset: u64,
        length: u64,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let VolumeFacts(info) = self.shown.get();
        let (offset, length) = (Bytes(offset), Bytes(length));
        let reserved = self.sources.ask(move |sources| {
            Ok(sources.storage.prepare_write(&info.pool, &info.name, offset, length)?)
        });
        reserved.await
    }

    /// Makes a volume in its pool that holds what it holds; nothing is copied. The option `capacity` (`t`) is the size
    /// of the new one, which is this one's without it.
    #[zbus(name = "Clone", out_args("volume"))]
    async fn clone_as(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        name: String,
        options: HashMap<String, OwnedVariant>,
    ) -> Result<ObjectPath<'static>, Error> {
        let VolumeFacts(info) = self.shown.get();
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
        let VolumeFacts(info) = self.shown.get();
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
        let VolumeFacts(info) = self.shown.get();
        self.sources.delete_volume(connection, &header, info, options).await
    }

    /// Begins to have its chunks lie together, in their order, for all that show them.
    #[zbus(out_args("job"))]
    async fn defragment(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let VolumeFacts(info) = self.shown.get();
        let task = Task::Defragment(Some(info.name));
        self.sources.begin_job(connection, &header, info.pool, task).await
    }

    /// Begins to take back what it was given ahead and nobody wrote, and what its guest discarded.
    #[zbus(out_args("job"))]
    async fn reclaim(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let VolumeFacts(info) = self.shown.get();
        let task = Task::Reclaim(Some(info.name));
        self.sources.begin_job(connection, &header, info.pool, task).await
    }

    /// Begins to take back chunks that it shows and that are all zeroes, and then what `Reclaim` does.
    #[zbus(out_args("job"))]
    async fn reclaim_zeroes(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<ObjectPath<'static>, Error> {
        let VolumeFacts(info) = self.shown.get();
        let task = Task::ReclaimZeroes(Some(info.name));
        self.sources.begin_job(connection, &header, info.pool, task).await
    }

    /// What was counted: `written` bytes (what it holds, less what it was given ahead and nobody
    /// is known to have written), `waits`, `wait-total-ns`, `wait-max-ns`, `timed-out` and
    /// `refused` writes; and how many waits took so many nanoseconds at least, by class.
    #[zbus(out_args("figures", "waits"))]
    async fn statistics(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(Vec<(String, u64)>, Vec<(u64, u64)>), Error> {
        let VolumeFacts(info) = self.shown.get();
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
