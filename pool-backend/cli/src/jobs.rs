// SPDX-License-Identifier: LGPL-2.1-or-later
//! `defrag`, `reclaim` and `evacuate`: begin a job of the collector, and watch it. Ctrl-C cancels the job; a second
//! one only stops watching.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use zbus::fdo::PropertiesProxy;
use zbus::message::Type;
use zbus::names::InterfaceName;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, proxy};

use crate::args::code;
use crate::client::{self, Host, NAME, Problem, ROOT};
use crate::names;
use crate::objects::{self, Job, Properties};
use crate::show::{out, seconds, size};

const JOB: &str = "org.virtnotify1.Job";

/// A pool's object.
#[proxy(interface = "org.virtnotify1.Pool", default_service = "org.virtnotify1")]
trait PoolObject {
    /// Moves the chunks of its volumes together.
    #[zbus(allow_interactive_auth)]
    fn defragment(&self) -> zbus::Result<OwnedObjectPath>;
    /// Takes back what the pool does not need.
    #[zbus(allow_interactive_auth)]
    fn reclaim(&self) -> zbus::Result<OwnedObjectPath>;
    /// The same, and before that chunks that hold zeroes only.
    #[zbus(allow_interactive_auth)]
    fn reclaim_zeroes(&self) -> zbus::Result<OwnedObjectPath>;
}

/// A volume's object.
#[proxy(interface = "org.virtnotify1.Volume", default_service = "org.virtnotify1")]
trait VolumeObject {
    /// Moves its chunks together.
    #[zbus(allow_interactive_auth)]
    fn defragment(&self) -> zbus::Result<OwnedObjectPath>;
    /// Takes back chunks that were never written.
    #[zbus(allow_interactive_auth)]
    fn reclaim(&self) -> zbus::Result<OwnedObjectPath>;
    /// The same, and before that its chunks that hold zeroes only.
    #[zbus(allow_interactive_auth)]
    fn reclaim_zeroes(&self) -> zbus::Result<OwnedObjectPath>;
}

/// A job's object.
#[proxy(interface = "org.virtnotify1.Job", default_service = "org.virtnotify1")]
trait JobObject {
    /// Ends it.
    #[zbus(allow_interactive_auth)]
    fn cancel(&self) -> zbus::Result<()>;
}

/// Whether this names a volume, and not a pool.
fn is_volume(of: &str) -> bool {
    of.trim_start_matches("/dev/notify/").contains('/')
}

/// `defrag`.
pub async fn defragment(host: Host<'_>, of: &str, as_json: bool) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    let connection = daemon.inner().connection();
    let mut watched = Watch::begin(connection).await?;
    let path = if is_volume(of) {
        let named = names::any(of)?;
        let path = daemon.get_volume(named.pool.as_str(), named.volume.as_str()).await?;
        VolumeObjectProxy::new(connection, path).await?.defragment().await?
    } else {
        let path = daemon.get_pool(of).await?;
        PoolObjectProxy::new(connection, path).await?.defragment().await?
    };
    let job = watched.until_it_ends(connection, &path, of, as_json).await?;
    let done = format!(
        "{of}: {} moved, {} became {}\n",
        size(job.moved),
        crate::show::count(job.runs_before, "run"),
        job.runs
    );
    tell(&job, &done, as_json)
}

/// `reclaim`.
pub async fn reclaim(host: Host<'_>, of: &str, zeroes: bool, as_json: bool) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    let connection = daemon.inner().connection();
    let mut watched = Watch::begin(connection).await?;
    let path = if is_volume(of) {
        let named = names::any(of)?;
        let path = daemon.get_volume(named.pool.as_str(), named.volume.as_str()).await?;
        let volume = VolumeObjectProxy::new(connection, path).await?;
        if zeroes { volume.reclaim_zeroes().await? } else { volume.reclaim().await? }
    } else {
        let path = daemon.get_pool(of).await?;
        let pool = PoolObjectProxy::new(connection, path).await?;
        if zeroes { pool.reclaim_zeroes().await? } else { pool.reclaim().await? }
    };
    let job = watched.until_it_ends(connection, &path, of, as_json).await?;
    let done = format!(
        "{of}: {} came back from volumes, {} moved, {} went to the volume group\n",
        size(job.freed),
        size(job.moved),
        size(job.to_group)
    );
    tell(&job, &done, as_json)
}

/// `evacuate`.
pub async fn evacuate(
    host: Host<'_>,
    group: &str,
    device: &str,
    as_json: bool,
) -> Result<u8, Problem> {
    if !device.starts_with('/') {
        return Err(Problem::Usage(format!("'{device}' is no absolute path of a device")));
    }
    let daemon = client::daemon(host).await?;
    let connection = daemon.inner().connection();
    let mut watched = Watch::begin(connection).await?;
    let path = daemon.evacuate(group, device).await?;
    let job = watched.until_it_ends(connection, &path, device, as_json).await?;
    let rest = match job.state.as_str() {
        "done" => format!("it is empty: 'vgreduce {group} {device}' takes it out of the group"),
        _ => "growth may use it again".to_owned(),
    };
    tell(&job, &format!("{device}: {} moved; {rest}\n", size(job.moved)), as_json)
}

/// Tells how a job has ended.
fn tell(job: &Job, done: &str, as_json: bool) -> Result<u8, Problem> {
    if as_json {
        out(&format!("{}\n", to_json(job)))?;
    } else {
        let newline = if io::stdout().is_terminal() { "\r\x1b[K" } else { "" };
        let how = if job.state == "cancelled" { "cancelled; " } else { "" };
        if job.state != "failed" {
            out(&format!("{newline}{how}{done}"))?;
        }
    }
    match job.state.as_str() {
        "done" => Ok(code::FINE),
        "cancelled" => Ok(code::FINDINGS),
        _ if as_json => Ok(code::CANNOT),
        _ => Err(Problem::Cannot(job.error.clone())),
    }
}

fn to_json(job: &Job) -> Value {
    json!({ "state": job.state, "error": job.error, "looked": job.looked, "to_look": job.to_look,
            "moved": job.moved, "total": job.total,
            "runs_before": job.runs_before, "runs": job.runs,
            "freed": job.freed, "to_group": job.to_group })
}

/// Within this time the object of a job appears once it has begun.
const COMES: Duration = Duration::from_secs(15);

/// Hears when jobs come, change and go, and when virtnotify-control comes and goes.
struct Watch {
    come: MessageStream,
    go: MessageStream,
    changed: MessageStream,
    gone: MessageStream,
}

impl Watch {
    /// Made before a job begins, so that nothing is missed.
    async fn begin(connection: &Connection) -> Result<Self, Problem> {
        let signal = || MatchRule::builder().msg_type(Type::Signal);
        let come = signal().sender(NAME).path(ROOT).member("InterfacesAdded");
        let go = signal().sender(NAME).path(ROOT).member("InterfacesRemoved");
        let changed = signal().sender(NAME).member("PropertiesChanged").arg(0, JOB);
        let gone = signal().sender("org.freedesktop.DBus").member("NameOwnerChanged").arg(0, NAME);
        let stream = |rule| MessageStream::for_match_rule(rule, connection, None);
        Ok(Self {
            come: stream(come.build()?).await?,
            go: stream(go.build()?).await?,
            changed: stream(changed.build()?).await?,
            gone: stream(gone.build()?).await?,
        })
    }

    /// Shows a job until it has ended.
    async fn until_it_ends(
        &mut self,
        connection: &Connection,
        path: &OwnedObjectPath,
        of: &str,
        as_json: bool,
    ) -> Result<Job, Problem> {
        let (began, mut cancelled, mut seen) = (Instant::now(), false, false);
        loop {
            let job = match look(connection, path).await {
                Ok(job) => job,
                Err(error) => return Err(gone(connection, path, Some(error)).await),
            };
            if job.is_none() && (seen || began.elapsed() > COMES) {
                return Err(gone(connection, path, None).await);
            }
            if let Some(job) = job {
                seen = true;
                if job.state != "running" {
                    return Ok(job);
                }
                if as_json {
                    out(&format!("{}\n", to_json(&job)))?;
                } else {
                    out(&progress(of, &job, began.elapsed()))?;
                }
            }
            tokio::select! {
                Some(_) = self.come.next() => {}
                Some(_) = self.changed.next() => {}
                Some(_) = self.go.next() => {}
                _ = self.gone.next() => return Err(gone(connection, path, None).await),
                () = tokio::time::sleep(COMES), if !seen => {}
                _ = tokio::signal::ctrl_c() => {
                    if std::mem::replace(&mut cancelled, true) {
                        let text = "the job is not watched any more; it ends by itself";
                        return Err(Problem::Cannot(text.into()));
                    }
                    eprintln!("virt-notify: cancelling");
                    JobObjectProxy::new(connection, path.clone()).await?.cancel().await?;
                }
            }
        }
    }
}

/// Why a job is not shown any more.
async fn gone(connection: &Connection, path: &OwnedObjectPath, error: Option<Problem>) -> Problem {
    let job = path.rsplit('/').next().unwrap_or_default();
    if client::on_bus(connection).await.ok().flatten().is_none() {
        let text =
            format!("virtnotify-control is gone, and tells no more of it: the job goes on ({job})");
        return Problem::Cannot(text);
    }
    if let Some(error) = error {
        return error;
    }
    let manager = match objects::of_manager(connection).await {
        Ok(manager) => manager,
        Err(error) => return error,
    };
    Problem::Cannot(match objects::flag(&manager, "StorageRuns") {
        true => format!("job {job} is not shown: its pool has stopped, or has begun another one"),
        false => "virtnotifyd is gone, and the job with it".to_owned(),
    })
}

/// The properties of a job; `None` before its object is there.
async fn look(connection: &Connection, path: &OwnedObjectPath) -> Result<Option<Job>, Problem> {
    let object = PropertiesProxy::new(connection, NAME, path.clone()).await?;
    let interface = InterfaceName::from_static_str(JOB)?;
    let all: Properties = match object.get_all(interface).await {
        Ok(all) => all,
        Err(zbus::fdo::Error::UnknownObject(_) | zbus::fdo::Error::UnknownInterface(_)) => {
            return Ok(None);
        }
        Err(error) => return Err(zbus::Error::from(error).into()),
    };
    Ok(Some(objects::job(&all)))
}

/// On a terminal one line that changes, elsewhere a line each time.
fn progress(of: &str, job: &Job, after: Duration) -> String {
    let (done, all) = (u128::from(job.done()), u128::from(job.all()));
    let part = (done * 100).checked_div(all).unwrap_or(0);
    let rate = done * 1000 / after.as_millis().max(1);
    let left = all.saturating_sub(done).checked_div(rate);
    let left = left.and_then(|left| u64::try_from(left).ok()).map_or("-".into(), seconds);
    let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
    let looked = match job.to_look {
        0 => String::new(),
        all => format!("{} of {} looked at, ", size(job.looked), size(all)),
    };
    let text = format!(
        "{of}: {looked}{} of {} moved, {}%, {rate}/s, {left} left",
        size(job.moved),
        size(job.total),
        part.min(100)
    );
    if io::stdout().is_terminal() { format!("\r\x1b[K{text}") } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_line_with_rate_and_time() {
        let job = Job { moved: 16 << 20, total: 64 << 20, ..Job::default() };
        let line = "vms: 16.00 MiB of 64.00 MiB moved, 25%, 8.00 MiB/s, 6s left\n";
        assert_eq!(progress("vms", &job, Duration::from_secs(2)), line);
        let line = "vms: 0 bytes of 0 bytes moved, 0%, 0 bytes/s, - left\n";
        assert_eq!(progress("vms", &Job::default(), Duration::ZERO), line);
        let job = Job { looked: 16 << 20, to_look: 32 << 20, ..job };
        let line = "vms: 16.00 MiB of 32.00 MiB looked at, 16.00 MiB of 64.00 MiB moved, 33%, \
                    16.00 MiB/s, 4s left\n";
        assert_eq!(progress("vms", &job, Duration::from_secs(2)), line);
    }
}
