// SPDX-License-Identifier: LGPL-2.1-or-later
//! `snapshot` and `diff`: asked of the daemon. Reading what they hold is `stream`'s.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;
use virtnotify_driver::xml::{Element, Limits};
use virtnotify_model::{SnapshotName, VolumeName};

use crate::args::{Create, Snapshots, code};
use crate::client::{self, Host, ManagerProxy, Problem};
use crate::names::{self, Named};
use crate::show::{self, out, size, table};
use crate::{hook, objects, since, virsh};

/// How long guests may be frozen for the daemon.
const FROZEN: Duration = Duration::from_secs(10);
/// The time in the names of a series, in UTC.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Pool, `VOLUME@NAME`, UUID, created, capacity, allocation, the part of it that is exclusive.
pub type Row = (String, String, String, u64, u64, u64, u64);

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub pool: String,
    pub name: VolumeName,
    pub uuid: Uuid,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    pub capacity: u64,
    pub allocation: u64,
    pub exclusive: u64,
}

/// A part of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
    /// Whether there is data; else it reads as zeroes.
    pub data: bool,
}

impl Snapshot {
    fn from(row: Row) -> Result<Self, Problem> {
        let (pool, name, uuid, created, capacity, allocation, exclusive) = row;
        let strange = || Problem::Cannot("the daemon lists what is no snapshot".into());
        let name = name.parse().map_err(|_| strange())?;
        let uuid = uuid.parse().map_err(|_| strange())?;
        Ok(Self { pool, name, uuid, created, capacity, allocation, exclusive })
    }

    /// Whether it is a snapshot of that volume.
    pub fn of(&self, volume: &Named) -> bool {
        let of = self.name.snapshot().map(|(of, _)| of);
        self.pool == volume.pool.as_str() && of.as_ref() == Some(&volume.volume)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.pool, self.name)
    }

    fn taken(&self) -> String {
        let taken = since::timestamp(self.created);
        taken.map_or_else(|| "-".to_owned(), |taken| taken.to_string())
    }

    fn to_json(&self) -> Value {
        json!({ "snapshot": self.path(), "uuid": self.uuid.to_string(), "created": self.created,
                "capacity": self.capacity, "allocation": self.allocation,
                "exclusive": self.exclusive })
    }
}

/// `snapshot`.
pub async fn run(host: Host<'_>, action: &Snapshots, as_json: bool) -> Result<u8, Problem> {
    let daemon = client::daemon(host).await?;
    match action {
        Snapshots::Create(create) => self::create(host, &daemon, create, as_json).await,
        Snapshots::List { of } => {
            let all = self::of(&daemon, of.as_deref().unwrap_or_default()).await?;
            match as_json {
                true => show::json(&all.iter().map(Snapshot::to_json).collect())?,
                false => out(&to_text(&all))?,
            }
            Ok(code::FINE)
        }
        Snapshots::Rollback { snapshot } => {
            let snapshot = names::snapshot(snapshot)?.to_string();
            daemon.roll_back(&snapshot, HashMap::new()).await?;
            say(as_json, json!({ "rolled_back": snapshot }), String::new())
        }
        Snapshots::Delete { snapshots } => {
            let all: Vec<Named> =
                snapshots.iter().map(|name| names::snapshot(name)).collect::<Result<_, _>>()?;
            for snapshot in &all {
                daemon.delete_snapshot(&snapshot.to_string(), HashMap::new()).await?;
            }
            say(as_json, json!({ "deleted": snapshots }), String::new())
        }
    }
}

fn say(as_json: bool, value: Value, text: String) -> Result<u8, Problem> {
    match as_json {
        true => show::json(&value)?,
        false => out(&text)?,
    }
    Ok(code::FINE)
}

/// The snapshots of a volume, of a pool, or all; the oldest first.
pub async fn of(daemon: &ManagerProxy<'_>, of: &str) -> Result<Vec<Snapshot>, Problem> {
    daemon.list_snapshots(of).await?.into_iter().map(Snapshot::from).collect()
}

/// That snapshot.
pub async fn find(daemon: &ManagerProxy<'_>, named: &Named) -> Result<Snapshot, Problem> {
    let all = self::of(daemon, named.pool.as_str()).await?;
    let found = all.into_iter().find(|snapshot| snapshot.name == named.volume);
    found.ok_or_else(|| Problem::Cannot(format!("there is no snapshot '{named}'")))
}

/// A volume's size, and the parts in which it may differ from a snapshot; or all that it holds.
pub async fn all_extents(
    daemon: &ManagerProxy<'_>,
    volume: &Named,
    base: Option<&Named>,
) -> Result<(u64, Vec<Extent>), Problem> {
    let base = base.map(ToString::to_string).unwrap_or_default();
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let (capacity, page, next) = daemon.difference(&volume.to_string(), &base, from).await?;
        let extent = |(offset, length, data)| Extent { offset, length, data };
        all.extend(page.into_iter().map(extent));
        if next <= from {
            return Ok((capacity, all));
        }
        from = next;
    }
}

/// `diff`.
pub async fn diff(host: Host<'_>, from: &str, to: &str) -> Result<u8, Problem> {
    let (from, to) = (names::snapshot(from)?, names::any(to)?);
    let daemon = client::daemon(host).await?;
    let (_, extents) = all_extents(&daemon, &to, Some(&from)).await?;
    out(&map(&extents))?;
    Ok(code::FINE)
}

/// Extents as `qemu-img map --output=json` prints those of a raw image.
fn map(extents: &[Extent]) -> String {
    let line = |extent: &Extent| {
        let Extent { offset, length, data } = extent;
        json!({ "start": offset, "length": length, "depth": 0, "present": true, "zero": !data,
                "data": data, "compressed": false, "offset": offset })
        .to_string()
    };
    format!("[{}]\n", extents.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

fn to_text(all: &[Snapshot]) -> String {
    if all.is_empty() {
        return "no snapshots\n".into();
    }
    let row = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![row(["SNAPSHOT", "TAKEN", "CAPACITY", "HOLDS", "ALONE"])];
    rows.extend(all.iter().map(|snapshot| {
        let sizes = [snapshot.capacity, snapshot.allocation, snapshot.exclusive].map(size);
        [vec![snapshot.path(), snapshot.taken()], sizes.to_vec()].concat()
    }));
    table(&rows, &[2, 3, 4])
}

/// `snapshot create`.
async fn create(
    host: Host<'_>,
    daemon: &ManagerProxy<'_>,
    create: &Create,
    as_json: bool,
) -> Result<u8, Problem> {
    let volumes = match &create.vm {
        Some(vm) => of_vm(host, daemon, vm).await?,
        None => create.volumes.iter().map(|v| names::volume(v)).collect::<Result<_, _>>()?,
    };
    let now = Timestamp::now().strftime(TIME).to_string();
    let name = match create.keep {
        Some(_) => format!("{}-{now}", create.name),
        None => create.name.clone(),
    };
    let name: SnapshotName = name.parse().map_err(|e| Problem::Usage(format!("{e}")))?;
    let names: Vec<String> = volumes.iter().map(ToString::to_string).collect();
    match create.vm.as_deref().filter(|_| create.quiesce) {
        Some(vm) => take_quiesced(host, daemon, vm, &names, &name).await?,
        None => take(daemon, &names, &name).await?,
    }
    let made: Vec<String> = names.iter().map(|volume| format!("{volume}@{name}")).collect();
    let deleted = match create.keep {
        Some(keep) => thin_out(daemon, &volumes, &create.name, keep).await?,
        None => Vec::new(),
    };
    let lines = made.iter().map(|made| format!("{made}\n")).collect();
    say(as_json, json!({ "snapshots": made, "deleted": deleted }), lines)
}

async fn take(
    daemon: &ManagerProxy<'_>,
    volumes: &[String],
    name: &SnapshotName,
) -> Result<(), Problem> {
    daemon.take_snapshot(volumes, name.as_str(), HashMap::new()).await?;
    Ok(())
}

/// Takes snapshots while the guest's agent has its file systems frozen. They are thawed whatever
/// happens, also when this program is told to end.
async fn take_quiesced(
    host: Host<'_>,
    daemon: &ManagerProxy<'_>,
    vm: &str,
    volumes: &[String],
    name: &SnapshotName,
) -> Result<(), Problem> {
    let uri = virsh::guests(host);
    let failed = |e: std::io::Error| Problem::Cannot(format!("cannot wait for signals: {e}"));
    // From here on signals do not end this program; what follows is short.
    let _signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(|kind| signal(kind).map_err(failed));
    let frozen = virsh::run(&uri, &["domfsfreeze", "--domain", vm]);
    let taken = match &frozen {
        Ok(_) => tokio::time::timeout(FROZEN, take(daemon, volumes, name)).await,
        Err(_) => Ok(Ok(())),
    };
    let thawed = virsh::run(&uri, &["domfsthaw", "--domain", vm]);
    frozen.map_err(|e| {
        Problem::Cannot(format!("the file systems of '{vm}' cannot be frozen: {e}"))
    })?;
    thawed.map_err(|e| {
        Problem::Cannot(format!(
            "the file systems of '{vm}' are frozen still, 'virsh domfsthaw' has to be tried again: {e}"
        ))
    })?;
    taken.unwrap_or_else(|_| {
        let seconds = FROZEN.as_secs();
        Err(Problem::Cannot(format!("no snapshot was taken within {seconds} s")))
    })
}

/// The volumes of a VM's disks that lie in a pool of type notify.
async fn of_vm(host: Host<'_>, daemon: &ManagerProxy<'_>, vm: &str) -> Result<Vec<Named>, Problem> {
    let xml = virsh::run(&virsh::guests(host), &["dumpxml", "--domain", vm])?;
    let pools = objects::look(daemon.inner().connection()).await?.pools;
    let pools: Vec<String> = pools.into_iter().map(|pool| pool.name).collect();
    let (ours, others) = disks(&xml, &pools).map_err(|why| {
        Problem::Cannot(format!("the disks of '{vm}' cannot be read from its XML: {why}"))
    })?;
    if ours.is_empty() {
        return Err(Problem::Cannot(format!("'{vm}' has no disk in a pool of type notify")));
    }
    for target in others {
        eprintln!("virt-notify: the disk '{target}' of '{vm}' is in no such pool: no snapshot");
    }
    Ok(ours)
}

/// The volumes of a guest's disks, and the names of disks that are elsewhere.
fn disks(xml: &str, pools: &[String]) -> Result<(Vec<Named>, Vec<String>), String> {
    let guest = Element::parse_within(xml, Limits::GUEST).map_err(|error| error.to_string())?;
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for disk in guest.children("devices").flat_map(|devices| devices.children("disk")) {
        let named = hook::disk(disk).and_then(|found| names::any(&found.volume).ok());
        let named = named.filter(|named| pools.iter().any(|pool| pool == named.pool.as_str()));
        match named {
            // A disk that is a snapshot is read-only.
            Some(named) if named.volume.snapshot().is_some() => {}
            Some(named) if ours.contains(&named) => {}
            Some(named) => ours.push(named),
            None if matches!(disk.attribute("device"), Some("cdrom" | "floppy")) => {}
            None => {
                let target = disk.child("target").and_then(|target| target.attribute("dev"));
                others.push(target.unwrap_or("?").to_owned());
            }
        }
    }
    Ok((ours, others))
}

/// Deletes the oldest snapshots of a series beyond `keep`; returns their names.
async fn thin_out(
    daemon: &ManagerProxy<'_>,
    volumes: &[Named],
    series: &str,
    keep: u64,
) -> Result<Vec<String>, Problem> {
    let mut deleted = Vec::new();
    for volume in volumes {
        let all = self::of(daemon, &volume.to_string()).await?;
        for snapshot in superfluous(&all, series, keep) {
            daemon.delete_snapshot(&snapshot, HashMap::new()).await?;
            deleted.push(snapshot);
        }
    }
    Ok(deleted)
}

/// The snapshots of a series beyond the number that is kept: the oldest.
fn superfluous(all: &[Snapshot], series: &str, keep: u64) -> Vec<String> {
    let is_of = |snapshot: &&Snapshot| {
        let name = snapshot.name.snapshot().map(|(_, name)| name.to_string()).unwrap_or_default();
        let time = name.strip_prefix(series).and_then(|rest| rest.strip_prefix('-'));
        time.is_some_and(is_time)
    };
    let of: Vec<&Snapshot> = all.iter().filter(is_of).collect();
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    of[..of.len().saturating_sub(keep)].iter().map(|snapshot| snapshot.path()).collect()
}

/// Whether it looks like 20261128T180000Z.
fn is_time(text: &str) -> bool {
    let form = "00000000T000000Z";
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            letter => byte == letter,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str, created: u64) -> Snapshot {
        Snapshot {
            pool: "vms".into(),
            name: format!("a@{name}").parse().unwrap(),
            uuid: Uuid::from_u128(created.into()),
            created,
            capacity: 1 << 30,
            allocation: 8 << 20,
            exclusive: 4 << 20,
        }
    }

    #[test]
    fn only_the_oldest_of_a_series_go() {
        let names = [
            "daily-20261101T000000Z",
            "daily-mine",
            "daily-20261102T000000Z",
            "daily",
            "weekly-20261102T000000Z",
            "daily-20261103T000000Z",
            "daily-20261104T000000Zx",
        ];
        let all: Vec<Snapshot> = names.iter().zip(1..).map(|(n, at)| snapshot(n, at)).collect();
        let gone = |keep| superfluous(&all, "daily", keep);
        assert_eq!(gone(3), Vec::<String>::new());
        assert_eq!(gone(1), ["vms/a@daily-20261101T000000Z", "vms/a@daily-20261102T000000Z"]);
        assert_eq!(superfluous(&all, "dai", 0), Vec::<String>::new());
        assert!(is_time(&Timestamp::now().strftime(TIME).to_string()));
    }

    #[test]
    fn the_disks_in_our_pools_are_found() {
        let xml = "<domain><devices>\
            <disk type='volume' device='disk'><source pool='vms' volume='a'/>\
            <target dev='vda'/></disk>\
            <disk type='block' device='disk'><source dev='/dev/notify/vms/b'/>\
            <target dev='vdb'/></disk>\
            <disk type='volume' device='disk'><source pool='files' volume='c'/>\
            <target dev='vdc'/></disk>\
            <disk type='block' device='disk'><source dev='/dev/notify/vms/b@mon'/><readonly/>\
            <target dev='vdd'/></disk>\
            <disk type='file' device='cdrom'><target dev='sda'/></disk>\
            <disk type='file' device='disk'><source file='/x'/><target dev='vde'/></disk>\
            </devices></domain>";
        let (ours, others) = disks(xml, &["vms".to_owned()]).unwrap();
        let ours: Vec<String> = ours.iter().map(ToString::to_string).collect();
        assert_eq!(
            (ours, others),
            (vec!["vms/a".into(), "vms/b".into()], vec!["vdc".into(), "vde".into()])
        );
        assert!(disks("<domain><devices>", &[]).is_err());
    }

    #[test]
    fn snapshots_are_listed() {
        let text = to_text(&[snapshot("mon", 1_700_000_000)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("SNAPSHOT"), "{text}");
        let row = "vms/a@mon  2023-11-14T22:13:20Z  1.00 GiB  8.00 MiB  4.00 MiB";
        assert_eq!(lines[1], row, "{text}");
        assert_eq!(to_text(&[]), "no snapshots\n");
    }

    #[test]
    fn a_difference_has_the_form_of_qemu_img_map() {
        let extents = [
            Extent { offset: 0, length: 65536, data: true },
            Extent { offset: 131_072, length: 65536, data: false },
        ];
        assert_eq!(
            map(&extents),
            "[{\"start\":0,\"length\":65536,\"depth\":0,\"present\":true,\"zero\":false,\
             \"data\":true,\"compressed\":false,\"offset\":0},\n\
             {\"start\":131072,\"length\":65536,\"depth\":0,\"present\":true,\"zero\":true,\
             \"data\":false,\"compressed\":false,\"offset\":131072}]\n"
        );
        assert_eq!(map(&[]), "[]\n");
    }
}
