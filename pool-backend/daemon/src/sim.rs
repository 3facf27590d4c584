// SPDX-License-Identifier: LGPL-2.1-or-later
//! `--sim DIR`: the whole daemon on a host in memory, with a pool `vms`, three volumes and guests that write when they
//! are told to.
//!
//! | in the directory | what |
//! |---|---|
//! | `virtnotify.toml` | the configuration of this host: `virtnotify-control --config` reads it |
//! | `vms.xml` | its VMs, for libvirt's own test driver |
//! | `storage.sock` | the private socket |
//! | `guests` | a socket for guests: a line each way, as [`Guests::answer`] has them |
//!
//! What is on the host is gone with the process, so each start needs a new directory.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use virtnotify_driver::Driver;
use virtnotify_engine::sim::{Ended, SimHost};
use virtnotify_model::{Bytes, VolumeInfo};

use crate::run::Ground;

/// How large each of the group's two devices is. What is written takes twice as much memory.
const DEVICE: Bytes = Bytes::mib(128);
/// The VMs: name, disk, and libvirt's number of the state that they are in (1: runs, 5: off).
const VMS: [(&str, &str, u8); 3] =
    [("web1", "disk0", 1), ("db1", "disk1", 1), ("old1", "disk2", 5)];
/// How large their disks are: together more than there is.
const DISK_MIB: u64 = 128;
/// How long a guest's write may wait before that is the answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host in memory whose files are in a directory.
pub struct Sim {
    directory: PathBuf,
    host: Arc<SimHost>,
}

impl Sim {
    /// Makes the directory, and in it what the daemons of this host read.
    ///
    /// # Errors
    /// When it is not new, or cannot be made.
    pub fn prepare(directory: &Path) -> io::Result<Self> {
        let directory = new_directory(directory).map_err(|error| {
            let shown = directory.display();
            io::Error::new(error.kind(), format!("'{shown}' cannot hold a simulated host: {error}"))
        })?;
        fs::write(directory.join("virtnotify.toml"), configuration(&directory))?;
        fs::write(directory.join("vms.xml"), vms())?;
        Ok(Self { directory, host: Arc::new(SimHost::new(&[DEVICE, DEVICE])) })
    }

    /// The configuration of its daemons.
    pub fn config(&self) -> PathBuf {
        self.directory.join("virtnotify.toml")
    }

    /// What the daemon stands on.
    pub fn ground(self) -> Ground {
        let Self { directory, host } = self;
        let (received, run, guests) =
            (directory.join("received"), directory.join("run"), directory.join("guests"));
        let (lvm_backup, backup_dir) = (directory.join("lvm-backup"), directory.join("backup"));
        let ground = host.clone();
        Ground {
            engine: Box::new(move |mut config, bus| {
                (config.run_dir, config.lvm_backup) = (run, lvm_backup);
                config.backup_dir = backup_dir;
                ground.engine(config, bus)
            }),
            received,
            begin: Box::new(move |driver| begin(&guests, driver, host)),
        }
    }
}

/// Makes a directory, or takes one that is empty: all that is in it belongs to this host.
fn new_directory(directory: &Path) -> io::Result<PathBuf> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(directory);
    let empty = made.and_then(|()| Ok(fs::read_dir(directory)?.next().is_none()))?;
    if !empty {
        return Err(io::Error::other("it is not empty; name a new one"));
    }
    let directory = directory.canonicalize()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match directory.to_str().is_some_and(|path| path.chars().all(plain)) {
        true => Ok(directory),
        false => Err(io::Error::other("its path may have letters, digits and / . _ - only")),
    }
}

fn configuration(directory: &Path) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        "[storage]\nheadroom_mib = 8\nstep_mib = 8\n\n\
         [move]\nuri = \"test://{}\"\n\n\
         [metrics]\ntextfile = \"{}\"\n\n\
         [paths]\ndefinitions = \"{}\"\nstate = \"{}\"\nmoves = \"{}\"\nusage = \"{}\"\n\
         history = \"{}\"\nstorage = \"{}\"\n",
        at("vms.xml"),
        at("virtnotify.prom"),
        at("pools"),
        at("state"),
        at("moves"),
        at("usage"),
        at("history"),
        at("storage.sock"),
    )
}

/// The host as libvirt's test driver reads it.
fn vms() -> String {
    let vm = |(name, disk, state): (&str, &str, u8)| {
        format!(
            "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>\
             <name>{name}</name><memory unit='MiB'>128</memory><os><type>hvm</type></os>\
             <devices><disk type='block' device='disk'><source dev='/dev/notify/vms/{disk}'/>\
             <target dev='vda' bus='virtio'/></disk></devices>\
             <test:runstate>{state}</test:runstate></domain>\n"
        )
    };
    let all: String = VMS.into_iter().map(vm).collect();
    format!("<node>\n{all}</node>\n")
}

/// Makes the pool and its volumes, and lets guests in.
fn begin(socket: &Path, driver: Arc<Driver>, host: Arc<SimHost>) -> io::Result<()> {
    make_pool(&driver)?;
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    let guests = Arc::new(Guests { driver, host });
    std::thread::spawn(move || guests.serve(&listener));
    info!("a simulated host; guests write through '{}'", socket.display());
    Ok(())
}

fn make_pool(driver: &Driver) -> io::Result<()> {
    let xml = format!(
        "<pool type='notify'><name>vms</name><source><name>{}</name></source>\
         <target><path>/dev/notify/vms</path></target></pool>",
        SimHost::GROUP
    );
    let pool = driver.define(&xml, false).map_err(io::Error::other)?;
    driver.start(&pool, None).map_err(io::Error::other)?;
    for (_, disk, _) in VMS {
        let xml = format!(
            "<volume><name>{disk}</name><capacity unit='MiB'>{DISK_MIB}</capacity></volume>"
        );
        driver.create_volume(&pool, &xml, false).map_err(io::Error::other)?;
    }
    Ok(())
}

/// What guests ask for.
struct Guests {
    driver: Arc<Driver>,
    host: Arc<SimHost>,
}

impl Guests {
    fn serve(self: Arc<Self>, listener: &UnixListener) {
        for connection in listener.incoming() {
            let guests = self.clone();
            let served = connection.map(|connection| {
                std::thread::spawn(move || guests.talk(&connection));
            });
            if let Err(error) = served {
                warn!("no guest is let in any more: {error}");
                return;
            }
        }
    }

    /// Answers line by line until the other side ends.
    fn talk(&self, connection: &UnixStream) {
        let (lines, mut answers) = (BufReader::new(connection).lines(), connection);
        for line in lines.map_while(Result::ok) {
            let answer = self.answer(&line).unwrap_or_else(|why| format!("error {why}"));
            if writeln!(answers, "{answer}").is_err() {
                return;
            }
        }
    }

    /// Does what a line says:
    ///
    /// | line | answer |
    /// |---|---|
    /// | `write POOL/VOLUME FROM TO TEXT` | `done N`, `failed N` (no space, or no such place) or `waits N`, with the MiB that were written |
    /// | `read POOL/VOLUME AT` | `text` and the text that was written last to the chunk there |
    /// | `discard POOL/VOLUME FROM TO` | `done` |
    ///
    /// Places are in MiB. To write means to each chunk that the part touches.
    fn answer(&self, line: &str) -> Result<String, String> {
        let mut words = line.splitn(5, ' ');
        let (what, volume) = (words.next().unwrap_or_default(), words.next());
        let volume = self.active(volume.unwrap_or_default())?;
        match what {
            "write" => {
                let part = part(&mut words)?;
                let text = words.next().unwrap_or("written");
                let (written, ended) = self.host.write(volume.uuid, part, text, PATIENCE);
                Ok(format!("{} {}", word(ended), written.0 >> 20))
            }
            "read" => {
                let text = self.host.read(volume.uuid, place(&mut words)?);
                Ok(format!("text {}", text.ok_or("the volume is not active")?))
            }
            "discard" => match self.host.discard(volume.uuid, part(&mut words)?) {
                true => Ok("done".into()),
                false => Err("the volume is not active".into()),
            },
            other => Err(format!("a guest can write, read and discard, not '{other}'")),
        }
    }

    /// The volume, which a VM that starts makes active.
    fn active(&self, path: &str) -> Result<VolumeInfo, String> {
        let found = self.driver.ensure_active(path).map_err(|error| error.to_string())?;
        found.ok_or_else(|| format!("there is no volume '{path}': name one as POOL/VOLUME"))
    }
}

fn word(ended: Ended) -> &'static str {
    match ended {
        Ended::Done => "done",
        Ended::Failed => "failed",
        Ended::Waits => "waits",
        Ended::Inactive => "inactive",
    }
}

fn place<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Bytes, String> {
    let word = words.next().unwrap_or_default();
    let mib: u32 = word.parse().map_err(|_| format!("'{word}' is no number of MiB"))?;
    Ok(Bytes::mib(mib.into()))
}

fn part<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Range<Bytes>, String> {
    Ok(place(words)?..place(words)?)
}
