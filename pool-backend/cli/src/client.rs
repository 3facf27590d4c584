// SPDX-License-Identifier: LGPL-2.1-or-later
//! Where commands are carried out: by virtnotify-control over D-Bus, or by this program in virtnotifyd's place when that
//! does not run.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use virtnotify_driver::group_of;
use virtnotify_engine::repair::{Checked, Offline, RepairError};
use virtnotify_engine::{EngineConfig, EngineError};
use virtnotify_model::VgName;
use zbus::address::transport::{Transport, Unixexec};
use zbus::fdo::DBusProxy;
use zbus::wire::Type;
use zbus::{Address, Connection, OwnedObjectPath, OwnedVariant, Variant, connection, proxy};

use crate::args::code;
use crate::snapshots::Row as SnapshotRow;

/// The name of virtnotify-control on the bus.
pub const NAME: &str = "org.virtnotify1";
/// Its root object.
pub const ROOT: &str = "/org/virtnotify1";
/// Where pools are defined.
const DEFINITIONS: &str = "/etc/virtnotify/pools";

/// Why something was not done.
#[derive(Debug, Error)]
pub enum Problem {
    /// The metadata, or the map to restore, is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Any other failure.
    #[error("{0}")]
    Cannot(String),
    /// The command line makes no sense here.
    #[error("{0}")]
    Usage(String),
}

impl Problem {
    /// The exit status of the program.
    pub fn code(&self) -> u8 {
        match self {
            Self::Damaged(_) => code::DAMAGE,
            Self::Cannot(_) => code::CANNOT,
            Self::Usage(_) => code::USAGE,
        }
    }
}

impl From<RepairError> for Problem {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Damaged(text) => Self::Damaged(text),
            other => Self::Cannot(other.to_string()),
        }
    }
}

impl From<zbus::Error> for Problem {
    fn from(error: zbus::Error) -> Self {
        match &error {
            zbus::Error::MethodError(name, text, _) => {
                let text = text.clone().unwrap_or_else(|| name.to_string());
                match name.as_str() {
                    "org.virtnotify1.Error.Damaged" => Self::Damaged(text),
                    _ => Self::Cannot(text),
                }
            }
            other => Self::Cannot(format!("virtnotify-control cannot be asked: {other}")),
        }
    }
}

/// VM and its UUID, pool, volume and its UUID, bytes times hours.
pub type Row = (String, String, String, String, String, u64);

/// Since and until when, and who.
pub type Used = (u64, u64, Vec<Row>);

/// Options by name.
pub type Options<'a> = HashMap<&'a str, Variant<'a>>;

/// A VM that waited: its name and UUID, what it does now, and why it still waits.
pub type Retried = (String, String, String, String);

/// A page of a difference: capacity; offset, length and whether there is data; where the next begins.
pub type Difference = (u64, Vec<(u64, u64, bool)>, u64);

/// A peer: its name, whether the VM can go there, bytes that stay free there then, and why it cannot.
pub type PlanPeer = (String, bool, u64, String);

/// A pool that no VM leaves at its low mark for now: its name, why, and until when, in seconds since 1970, or 0.
pub type PlanHeld = (String, String, u64);

/// A move that has not begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Plan {
    pub domain: String,
    pub uuid: String,
    /// Why it stays; empty when it can go.
    pub stays: String,
    pub to: String,
    /// Bytes.
    pub copies: u64,
    pub seconds: u64,
    pub peers: Vec<PlanPeer>,
    /// Snapshots that stay here.
    pub leaves: Vec<String>,
    /// Whether it has a disk in a pool of type notify.
    pub ours: bool,
    /// Pools that it does not leave by itself for now.
    pub held: Vec<PlanHeld>,
}

/// An event: when it happened, its severity, its signal, and the signal's arguments.
pub type EventRow = (u64, String, String, HashMap<String, OwnedVariant>);

/// How a job or a move ended: when it began and ended, its task, which object it was about, to where, its state, and why.
pub type ResultRow = (u64, u64, String, String, String, String, String);

/// The daemon.
#[proxy(
    interface = "org.virtnotify1.Manager",
    default_service = "org.virtnotify1",
    default_path = "/org/virtnotify1"
)]
pub trait Manager {
    /// What volumes held for how long.
    fn usage(&self, since: u64) -> zbus::Result<Used>;
    /// Since when events are known, and the events since a time.
    fn events(&self, since: u64) -> zbus::Result<(u64, Vec<EventRow>)>;
    /// How the last jobs and moves ended.
    fn results(&self) -> zbus::Result<Vec<ResultRow>>;
    /// The object of a pool.
    fn get_pool(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    /// Name, UUID, path, state, capacity and allocation of the volumes of a pool.
    fn list_volumes(
        &self,
        pool: &str,
    ) -> zbus::Result<Vec<(String, String, String, String, u64, u64)>>;
    /// The object of a volume.
    fn get_volume(&self, pool: &str, volume: &str) -> zbus::Result<OwnedObjectPath>;
    /// Empties a physical volume of a group with a pool; answers with the job's object.
    #[zbus(allow_interactive_auth)]
    fn evacuate(&self, group: &str, device: &str) -> zbus::Result<OwnedObjectPath>;
    /// Moves a VM; answers with the move's object.
    #[zbus(allow_interactive_auth)]
    fn migrate(&self, domain: &str, to: &str) -> zbus::Result<OwnedObjectPath>;
    /// What the move of a VM would be.
    #[zbus(allow_interactive_auth)]
    fn plan(&self, domain: &str, to: &str) -> zbus::Result<Plan>;
    /// Has what waits for space tried again.
    #[zbus(allow_interactive_auth)]
    fn retry_now(&self, options: Options<'_>) -> zbus::Result<Vec<Retried>>;
    /// Pins a VM to its host, or unpins it.
    #[zbus(allow_interactive_auth)]
    fn pin(&self, domain: &str, pinned: bool) -> zbus::Result<()>;
    /// Drains the host, or ends that.
    #[zbus(allow_interactive_auth)]
    fn drain(&self, drained: bool) -> zbus::Result<()>;
    /// Cancels its move.
    #[zbus(allow_interactive_auth)]
    fn cancel_move(&self, domain: &str) -> zbus::Result<()>;
    /// Ends a move that does not end by itself; answers with what follows.
    #[zbus(allow_interactive_auth)]
    fn settle_move(
        &self,
        domain: &str,
        keep: &str,
        peer: &str,
        options: Options<'_>,
    ) -> zbus::Result<String>;
    /// Takes snapshots at one moment; answers with their objects.
    #[zbus(allow_interactive_auth)]
    fn take_snapshot(
        &self,
        volumes: &[String],
        name: &str,
        options: Options<'_>,
    ) -> zbus::Result<Vec<OwnedObjectPath>>;
    /// Rolls a volume back.
    #[zbus(allow_interactive_auth)]
    fn roll_back(&self, snapshot: &str, options: Options<'_>) -> zbus::Result<()>;
    /// Deletes a snapshot.
    #[zbus(allow_interactive_auth)]
    fn delete_snapshot(&self, snapshot: &str, options: Options<'_>) -> zbus::Result<()>;
    /// The snapshots of a volume, of a pool, or all.
    fn list_snapshots(&self, of: &str) -> zbus::Result<Vec<SnapshotRow>>;
    /// The parts in which a volume may differ from a snapshot, from an offset on.
    #[zbus(allow_interactive_auth)]
    fn difference(&self, volume: &str, base: &str, offset: u64) -> zbus::Result<Difference>;
    /// Checks a pool.
    #[zbus(allow_interactive_auth)]
    fn check(&self, what: &str) -> zbus::Result<Checked>;
    /// A pool's map.
    #[zbus(allow_interactive_auth)]
    fn dump(&self, what: &str, from: &str) -> zbus::Result<String>;
    /// Restores a pool's metadata.
    #[zbus(allow_interactive_auth)]
    fn restore(
        &self,
        vg: &str,
        from: &str,
        map: &str,
        without: &[String],
        options: Options<'_>,
    ) -> zbus::Result<Vec<String>>;
}

/// The program that does the work.
pub enum Client {
    /// The daemon.
    Daemon(ManagerProxy<'static>),
    /// This program, in the daemon's place.
    Here(Box<Offline>),
}

/// The host whose daemon is asked: one that ssh reaches, or this one.
pub type Host<'a> = Option<&'a str>;

/// What connects standard input and output with the system bus; busctl does it in the same way.
const BRIDGE: &str = "systemd-stdio-bridge";

/// Yields each time that Ctrl-C is pressed from now on; until then that ends the program.
pub fn interrupts() -> Result<Signal, Problem> {
    let heard = signal(SignalKind::interrupt());
    heard.map_err(|e| Problem::Cannot(format!("Ctrl-C cannot be heard: {e}")))
}

/// The system bus, if there is one.
pub async fn bus(host: Host<'_>) -> Result<Connection, Problem> {
    let Some(host) = host else {
        let bus = Connection::system().await;
        return bus.map_err(|e| Problem::Cannot(format!("no system bus: {e}")));
    };
    let args = ["-xT", "--", host, BRIDGE].map(OsString::from);
    let ssh = Transport::Unixexec(Unixexec::new("ssh".into(), None, args.to_vec()));
    let bus = connection::Builder::address(Address::from(ssh)).build().await;
    bus.map_err(|e| {
        Problem::Cannot(format!("the system bus of {host} is not reached with ssh: {e}"))
    })
}

/// The daemon on the bus, if it is there.
pub async fn on_bus(bus: &Connection) -> Result<Option<ManagerProxy<'static>>, Problem> {
    let names = DBusProxy::new(bus).await?;
    let name = NAME.try_into().map_err(|_| Problem::Cannot("a bad name".into()))?;
    match names.name_has_owner(name).await {
        Ok(true) => Ok(Some(ManagerProxy::new(bus).await?)),
        Ok(false) => Ok(None),
        Err(error) => Err(Problem::Cannot(format!("the bus cannot be asked: {error}"))),
    }
}

/// The daemon, which must be there.
pub async fn daemon(host: Host<'_>) -> Result<ManagerProxy<'static>, Problem> {
    let found = on_bus(&bus(host).await?).await?;
    let on = host.map_or_else(String::new, |host| format!(" on {host}"));
    found.ok_or_else(|| {
        Problem::Cannot(format!(
            "virtnotify-control does not run{on}: 'systemctl start virtnotify-control'"
        ))
    })
}

/// The place of virtnotifyd, which only this host's can be taken; or what it answers where it runs.
pub async fn any(host: Host<'_>) -> Result<Client, Problem> {
    if host.is_some() {
        return Ok(Client::Daemon(daemon(host).await?));
    }
    // Not the other way round: virtnotify-control is on the bus, also while virtnotifyd does not run.
    let taken = match Offline::new(EngineConfig::default()) {
        Ok(here) => return Ok(Client::Here(Box::new(here))),
        Err(taken) => taken,
    };
    if let Ok(bus) = bus(None).await
        && let Some(daemon) = on_bus(&bus).await?
    {
        return Ok(Client::Daemon(daemon));
    }
    Err(Problem::Cannot(match taken {
        EngineError::SecondDaemon(_) => {
            "virtnotifyd runs, but virtnotify-control is not on D-Bus (yet): \
             'systemctl start virtnotify-control', or stop virtnotifyd"
                .into()
        }
        error => format!("virtnotifyd does not run, and its place cannot be taken: {error}"),
    }))
}

/// The volume group of a pool, or the one of that name.
pub fn group(what: &str) -> Result<VgName, Problem> {
    group_in(Path::new(DEFINITIONS), what)
}

fn group_in(definitions: &Path, what: &str) -> Result<VgName, Problem> {
    let defined = || group_of(definitions, &what.parse().ok()?);
    match defined() {
        Some(group) => Ok(group),
        None => what
            .parse()
            .map_err(|e| Problem::Cannot(format!("there is no pool or volume group there: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_found_by_their_definitions() {
        let dir = tempfile::tempdir().unwrap();
        let xml = "<pool type='notify'><name>vms</name><source><name>vg0</name></source></pool>";
        std::fs::write(dir.path().join("vms.xml"), xml).unwrap();
        assert_eq!(group_in(dir.path(), "vms").unwrap().as_str(), "vg0");
        assert_eq!(group_in(dir.path(), "vg1").unwrap().as_str(), "vg1");
        let refused = group_in(dir.path(), "../x").unwrap_err();
        assert_eq!(refused.code(), code::CANNOT);
    }
}
