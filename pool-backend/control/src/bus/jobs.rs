// SPDX-License-Identifier: LGPL-2.1-or-later
//! The objects of jobs of the collector: of each pool the one that runs, or the last one.

use std::time::UNIX_EPOCH;

use virtnotify_model::{JobInfo, JobState, PoolName, Task};
use zbus::message::Header;
use zbus::{Connection, ObjectPath, interface};

use super::error::Error;
use super::objects::Shown;
use super::{Sources, paths};

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts(pub JobInfo);

/// Its object.
pub struct Job {
    pub sources: Sources,
    pub shown: Shown<JobFacts>,
}

impl JobFacts {
    fn pool(&self) -> ObjectPath<'static> {
        paths::pool(&self.0.pool)
    }

    fn volume(&self) -> ObjectPath<'static> {
        match self.0.task.volume() {
            Some(volume) => paths::volume(&self.0.pool, volume),
            None => ObjectPath::from_static_str_unchecked("/"),
        }
    }

    fn device(&self) -> String {
        self.0.task.device().map(|device| device.display().to_string()).unwrap_or_default()
    }

    fn error(&self) -> String {
        match &self.0.state {
            JobState::Failed(why) => why.clone(),
            _ => String::new(),
        }
    }

    fn began(&self) -> u64 {
        self.0.began.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    }
}

#[interface(name = "org.virtnotify1.Job")]
impl Job {
    /// The pool that it works on.
    #[zbus(property(emits_changed_signal = "const"))]
    fn pool(&self) -> ObjectPath<'static> {
        self.shown.get().pool()
    }

    /// The volume that it works on; `/` for the whole pool.
    #[zbus(property(emits_changed_signal = "const"))]
    fn volume(&self) -> ObjectPath<'static> {
        self.shown.get().volume()
    }

    /// The disk that `evacuate` empties, as the caller named it; empty for other tasks.
    #[zbus(property(emits_changed_signal = "const"))]
    fn device(&self) -> String {
        self.shown.get().device()
    }

    /// `defragment`, `reclaim`, `reclaim-zeroes` or `evacuate`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn task(&self) -> &'static str {
        self.shown.get().0.task.name()
    }

    /// `running`, `done`, `cancelled` or `failed`.
    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.shown.get().0.state.name()
    }

    /// Why it failed: a sentence.
    #[zbus(property)]
    fn error(&self) -> String {
        self.shown.get().error()
    }

    /// When it began, in seconds since 1970.
    #[zbus(property(emits_changed_signal = "const"))]
    fn began(&self) -> u64 {
        self.shown.get().began()
    }

    /// Bytes that it has looked at for zeroes.
    #[zbus(property)]
    fn looked(&self) -> u64 {
        self.shown.get().0.looked.0
    }

    /// Bytes to look at in all, as far as was known when it began.
    #[zbus(property)]
    fn to_look(&self) -> u64 {
        self.shown.get().0.to_look.0
    }

    /// Bytes that it has moved.
    #[zbus(property)]
    fn moved(&self) -> u64 {
        self.shown.get().0.moved.0
    }

    /// Bytes to move in all, as far as was known when it began.
    #[zbus(property)]
    fn total(&self) -> u64 {
        self.shown.get().0.total.0
    }

    /// The number of runs in which the chunks lay when it began.
    #[zbus(property(emits_changed_signal = "const"))]
    fn runs_before(&self) -> u64 {
        self.shown.get().0.runs_before
    }

    /// The number of runs in which they lie now.
    #[zbus(property)]
    fn runs(&self) -> u64 {
        self.shown.get().0.runs
    }

    /// Bytes that volumes gave back.
    #[zbus(property)]
    fn freed(&self) -> u64 {
        self.shown.get().0.freed.0
    }

    /// Bytes that the pool gave to its volume group.
    #[zbus(property)]
    fn to_group(&self) -> u64 {
        self.shown.get().0.to_group.0
    }

    /// Ends it within about a second, `evacuate` when the part has moved that moves; what it did stays.
    async fn cancel(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.sources.may_manage(connection, &header).await?;
        let id = self.shown.get().0.id;
        self.sources.ask(move |sources| Ok(sources.storage.cancel_job(id)?)).await
    }
}

impl Sources {
    /// Begins a job for a caller who may manage; answers with its object, which is there a moment
    /// later.
    pub async fn begin_job(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        pool: PoolName,
        task: Task,
    ) -> Result<ObjectPath<'static>, Error> {
        self.may_manage(connection, header).await?;
        let id = self.ask(move |sources| Ok(sources.storage.start_job(&pool, &task)?)).await?;
        Ok(paths::job(id))
    }
}
