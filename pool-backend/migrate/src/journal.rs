// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which moves were begun: one small file each, written before anything is done.
//!
//! libvirt and the volumes are the truth. The journal only says which of them to look at after
//! a restart, what was the move's own doing there, and which data it has two copies of. A file
//! that cannot be read is named and left alone; the rest works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::{Bytes, MoveInfo, NameError, PoolName, VolumeName};

use crate::hypervisor::{Copying, Peer};
use crate::phase::{Phase, Side};
use crate::policy::Needs;
use crate::verdict::Verdict;
use crate::wishes::Origin;

/// The version of the files that this code writes and reads.
const VERSION: u32 = 4;

/// A journal that cannot be kept: then nothing is moved.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The directory or a file of it.
    #[error("cannot keep the journal of moves in '{}': {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a record cannot be read.
#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    /// Its file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The text is no record.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    /// The record is of a version that another program wrote.
    #[error("it is of version {0}, and {VERSION} is known")]
    Version(u32),
    /// A name in it is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A disk that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRecord {
    /// Its name in the VM's XML.
    pub target: String,
    pool: String,
    volume: String,
    /// The id of the volume here: another volume of the same name is not ours to delete.
    pub id: Uuid,
    capacity: u64,
    allocation: u64,
    /// What its copy takes there.
    takes: u64,
    /// The key of the volume that the move made there, once it is known.
    pub made_there: Option<String>,
}

impl DiskRecord {
    /// A disk whose volume is not made there yet.
    pub(crate) fn new(
        target: &str,
        pool: &PoolName,
        volume: &VolumeName,
        id: Uuid,
        capacity: Bytes,
        allocation: Bytes,
    ) -> Self {
        Self {
            target: target.to_owned(),
            pool: pool.to_string(),
            volume: volume.to_string(),
            id,
            capacity: capacity.0,
            allocation: allocation.0,
            takes: allocation.0,
            made_there: None,
        }
    }

    /// Its pool, here and there.
    pub(crate) fn pool(&self) -> Result<PoolName, NameError> {
        self.pool.parse()
    }

    /// Its volume, here and there.
    pub(crate) fn volume(&self) -> Result<VolumeName, NameError> {
        self.volume.parse()
    }

    /// Both.
    pub(crate) fn names(&self) -> Result<(PoolName, VolumeName), NameError> {
        Ok((self.pool()?, self.volume()?))
    }

    /// Its size.
    pub(crate) fn capacity(&self) -> Bytes {
        Bytes(self.capacity)
    }

    /// What its copy takes there.
    pub(crate) fn takes(&self) -> Bytes {
        Bytes(self.takes)
    }

    /// Has it take so much there.
    pub(crate) fn set_takes(&mut self, takes: Bytes) {
        self.takes = takes.0;
    }

    /// What it held when the move was planned.
    pub(crate) fn allocation(&self) -> Bytes {
        Bytes(self.allocation)
    }
}

/// Something of these disks, added up by pool.
pub(crate) fn by_pool(disks: &[DiskRecord], of: impl Fn(&DiskRecord) -> Bytes) -> Needs {
    let mut sums = Needs::new();
    for disk in disks {
        let Ok(pool) = disk.pool() else { continue };
        let sum = sums.entry(pool).or_default();
        *sum = sum.saturating_add(of(disk));
    }
    sums
}

/// One move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The VM's UUID.
    pub uuid: Uuid,
    /// Its name.
    pub domain: String,
    /// Whether it is defined, or exists only while it runs.
    pub persistent: bool,
    /// The name of the host it leaves.
    pub from: String,
    peer_name: String,
    peer_uri: String,
    peer_address: Option<IpAddr>,
    /// How far the move has come.
    pub phase: Phase,
    /// Its disks that move.
    pub disks: Vec<DiskRecord>,
    /// How its disks are copied.
    pub copying: Copying,
    /// Room that is kept for it there: by pool, the name of the volume that keeps it.
    pub reserved: BTreeMap<String, String>,
    /// Whether it ran when libvirt was asked to move it. One that was paused is not resumed here.
    pub ran: bool,
    /// Whether libvirt said that it went. Only the process that asked hears that: what it did not write down was not said.
    #[serde(default)]
    pub went: bool,
    /// Whether it is to start with its host again. While it is under way it does not: after a power cut the other
    /// host may run it.
    pub autostart: bool,
    /// The boot of this host in which the move began, as the kernel names it.
    pub boot: String,
    /// The most that is sent in a second.
    pub bandwidth: Option<u64>,
    /// How many VMs may be on their way there at once.
    pub arrivals: Option<usize>,
    /// Groups whose VMs keep apart.
    pub apart: BTreeSet<String>,
    /// The hosts that it comes from, this one last.
    pub origins: Vec<Origin>,
    /// The pool that it leaves since that is low, or soon full; moves for other reasons have none.
    pub relieves: Option<PoolName>,
    /// What a person said of it.
    pub verdict: Option<Verdict>,
    /// Whether the last look saw that the VM is not active there.
    #[serde(skip)]
    pub alone: bool,
}

impl Record {
    /// A move that is about to begin.
    pub(crate) fn new(
        uuid: Uuid,
        domain: &str,
        persistent: bool,
        from: &str,
        peer: &Peer,
        disks: Vec<DiskRecord>,
    ) -> Self {
        Self {
            version: VERSION,
            uuid,
            domain: domain.to_owned(),
            persistent,
            from: from.to_owned(),
            peer_name: peer.name.clone(),
            peer_uri: peer.uri.clone(),
            peer_address: peer.address,
            phase: Phase::new(),
            disks,
            copying: Copying::default(),
            reserved: BTreeMap::new(),
            ran: false,
            went: false,
            autostart: false,
            boot: String::new(),
            bandwidth: None,
            arrivals: Some(peer.arrivals),
            apart: BTreeSet::new(),
            origins: Vec::new(),
            relieves: None,
            verdict: None,
            alone: false,
        }
    }

    /// Whether a person said that the VM here is the one that counts.
    pub(crate) fn is_kept_here(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.keep == Side::Here)
    }

    /// The name of the host it goes to.
    pub(crate) fn to(&self) -> &str {
        &self.peer_name
    }

    /// The host it goes to.
    pub(crate) fn peer(&self) -> Peer {
        let (name, uri) = (self.peer_name.clone(), self.peer_uri.clone());
        let arrivals = self.arrivals.unwrap_or(usize::MAX);
        Peer { name, uri, arrivals, address: self.peer_address }
    }

    /// What it takes there, by pool.
    pub(crate) fn needs(&self) -> Needs {
        by_pool(&self.disks, DiskRecord::takes)
    }

    /// What it gives back here, by pool.
    pub(crate) fn frees(&self) -> Needs {
        by_pool(&self.disks, DiskRecord::allocation)
    }

    /// What events say of it.
    pub(crate) fn info(&self) -> Result<MoveInfo, NameError> {
        let first = self.disks.first().ok_or(NameError::Empty { kind: "pool" })?;
        let volumes: Result<Vec<_>, _> = self.disks.iter().map(DiskRecord::names).collect();
        Ok(MoveInfo {
            domain: self.domain.clone(),
            uuid: self.uuid,
            pool: first.pool()?,
            volumes: volumes?,
            from: self.from.clone(),
            to: self.peer_name.clone(),
            allocation: self.disks.iter().map(DiskRecord::allocation).sum(),
        })
    }

    fn check(&self) -> Result<(), Unreadable> {
        if self.version != VERSION {
            return Err(Unreadable::Version(self.version));
        }
        for disk in &self.disks {
            disk.pool()?;
        }
        for (pool, volume) in &self.reserved {
            pool.parse::<PoolName>()?;
            volume.parse::<VolumeName>()?;
        }
        Ok(self.info().map(drop)?)
    }
}

/// Where the records are kept.
pub(crate) trait Journal: Send + Sync {
    /// Keeps a record durably, wholly or not at all.
    fn write(&self, record: &Record) -> Result<(), JournalError>;

    /// Forgets a move. One that is not on record is fine.
    fn remove(&self, record: &Record) -> Result<(), JournalError>;

    /// All moves on record.
    fn load(&self) -> Result<Loaded, JournalError>;
}

/// What a journal has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The moves.
    pub records: Vec<Record>,
    /// Sentences about records that cannot be read.
    pub broken: Vec<String>,
}

/// The directory with the files.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens it, and makes it when it is not there.
    pub(crate) fn open(directory: &Path) -> Result<Self, JournalError> {
        fs::create_dir_all(directory).map_err(|e| failed(directory, e))?;
        Ok(Self(directory.to_owned()))
    }

    /// One file for each VM and peer: what a failed move left at one peer must not keep the VM
    /// from another.
    fn path(&self, record: &Record) -> PathBuf {
        self.0.join(format!("{}.{}.json", record.uuid, record.peer_name))
    }
}

impl Journal for Directory {
    fn write(&self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(record);
        let text = to_json(record).map_err(|e| failed(&path, e.into()))?;
        virtnotify_files::replace_durably(&path, &text, 0o666).map_err(|e| failed(&path, e))
    }

    fn remove(&self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(record);
        virtnotify_files::remove_durably(&path).map_err(|e| failed(&path, e))
    }

    fn load(&self) -> Result<Loaded, JournalError> {
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(&self.0).map_err(|e| failed(&self.0, e))? {
            let path = entry.map_err(|e| failed(&self.0, e))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match fs::read(&path).map_err(Unreadable::from).and_then(|text| from_json(&text)) {
                Ok(record) => loaded.records.push(record),
                Err(reason) => loaded.broken.push(format!(
                    "the record of a move '{}' cannot be read, and is left alone: {reason}. The VM of that UUID may \
                     be on its way, or paused on the other host: look there, and remove the file",
                    path.display()
                )),
            }
        }
        Ok(loaded)
    }
}

pub(crate) fn to_json(record: &Record) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(record)
}

pub(crate) fn from_json(text: &[u8]) -> Result<Record, Unreadable> {
    let record: Record = serde_json::from_slice(text)?;
    record.check().map(|()| record)
}

fn failed(path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::{At, Side};

    fn record(peer: &str) -> Record {
        let uri = "qemu+ssh://x/system".into();
        let address = Some([10, 0, 0, 2].into());
        let peer = Peer { name: peer.into(), uri, arrivals: 1, address };
        let disk = DiskRecord::new(
            "vda",
            &"vms".parse().unwrap(),
            &"disk0".parse().unwrap(),
            Uuid::from_u128(7),
            Bytes::mib(1024),
            Bytes::mib(900),
        );
        Record::new(Uuid::from_u128(1), "guest", true, "host1", &peer, vec![disk])
    }

    #[test]
    fn records_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Directory::open(&dir.path().join("moves")).unwrap();
        let mut one = record("host2");
        journal.write(&one).unwrap();
        one.phase.enter(At::Twice(Side::There), Some("why".into()));
        journal.write(&one).unwrap();
        let other = record("host3");
        journal.write(&other).unwrap();
        let mut all = journal.load().unwrap().records;
        all.sort_by(|a, b| a.peer_name.cmp(&b.peer_name));
        assert_eq!(all, [one.clone(), other.clone()]);
        journal.remove(&one).unwrap();
        journal.remove(&one).unwrap();
        assert_eq!(journal.load().unwrap().records, [other]);
    }

    #[test]
    fn each_disk_is_in_its_own_pool() {
        let mut record = record("host2");
        let (pool, volume) = ("other".parse().unwrap(), "disk1".parse().unwrap());
        let id = Uuid::from_u128(8);
        record.disks.push(DiskRecord::new("vdb", &pool, &volume, id, Bytes(2), Bytes(1)));
        let info = record.info().unwrap();
        assert_eq!(info.pool.as_str(), "vms");
        let names: Vec<_> = info.volumes.iter().map(|(p, v)| format!("{p}/{v}")).collect();
        assert_eq!(names, ["vms/disk0", "other/disk1"]);
    }

    #[test]
    fn broken_files_are_told_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Directory::open(dir.path()).unwrap();
        let one = record("host2");
        journal.write(&one).unwrap();
        let good = fs::read_to_string(journal.path(&one)).unwrap();
        for (name, text) in [
            ("a.json", "{".to_owned()),
            ("b.json", good.replace("\"version\": 4", "\"version\": 2")),
            ("c.json", good.replace("disk0", "../x")),
            ("d.json", good.replace("\"disks\": [", "\"disks\": [], \"x\": [")),
            ("e.new", "half".to_owned()),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let Loaded { records, mut broken } = journal.load().unwrap();
        assert_eq!(records, [one]);
        broken.sort();
        assert_eq!(broken.len(), 4);
        assert!(broken[1].contains("b.json' cannot be read"), "{}", broken[1]);
        assert!(broken[1].contains("it is of version 2, and 4 is known"), "{}", broken[1]);
        assert!(dir.path().join("a.json").exists());
    }
}
