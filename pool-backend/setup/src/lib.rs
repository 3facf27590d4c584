// SPDX-License-Identifier: LGPL-2.1-or-later
//! Puts virtnotify-proxy in front of libvirt's storage daemon, and takes it away again
//! (`virt-notify setup [--undo]`).
//!
//! Only drop-ins of ours under `/etc/systemd/system` are changed, each called `virtnotify.conf`,
//! and whether our units are enabled. The daemon behind is restarted on its other sockets; VMs do
//! not depend on it and run on. Every step may be repeated, so a run that was cut off is finished,
//! or undone, by the next one.
//!
//! A drop-in that a package has installed under `/usr/lib` is not ours to remove: undoing hides
//! it with a link to `/dev/null` of the same name, which is how systemd lets an administrator do
//! that; setting up removes the link again.

mod plan;

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;
use virtnotify_program::LibvirtSettings;

pub use plan::{DropIn, FILE, Mode, OURS, Permissions};

/// Where a run keeps, for each daemon, which of its units it stops and starts again: one that is cut
/// off in between leaves the list to the next run.
const RESTARTS: &str = "/run/virtnotify-setup.";

/// The mark by which a socket of libvirt's is known to be behind us.
const BEHIND: &str = "/run/libvirt/virtnotify/";

/// Why it was not done.
#[derive(Debug, Error)]
pub enum SetupError {
    /// There is no libvirt on this host.
    #[error("neither virtstoraged.socket nor libvirtd.socket is there: libvirt is not installed")]
    NoLibvirt,
    /// libvirt asks its clients for something that the daemon cannot ask for.
    #[error(
        "{path} says {key} = \"{value}\", and virtnotify-proxy can ask for 'polkit' or 'none' alone: with it \
         in front no client could connect. Let it say one of them first"
    )]
    Authentication {
        /// libvirt's configuration.
        path: String,
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Pools are active, and their VMs need the daemon.
    #[error(
        "these pools are active: {0}; stop them first (virsh pool-destroy), for a VM that writes \
         to one without virtnotifyd would wait for ever"
    )]
    Active(String),
    /// A file could not be written or removed.
    #[error("cannot {what} '{path}': {source}")]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// systemd did not do as it was told.
    #[error("'systemctl {command}' failed: {why}")]
    Systemctl {
        /// What it was told.
        command: String,
        /// What it said.
        why: String,
    },
}

/// The host, as far as setup needs it. [`Host::default`] is the one that this runs on.
#[derive(Debug, Clone)]
pub struct Host {
    /// A prefix of every path; empty on a real host.
    pub root: PathBuf,
    /// systemd's program.
    pub systemctl: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host { root: PathBuf::new(), systemctl: "systemctl".into() }
    }
}

/// What was done: a sentence for each thing that changed, and for what is left to a human. An empty
/// report means that everything was as asked already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What changed.
    pub done: Vec<String>,
    /// What a human should know.
    pub notes: Vec<String>,
}

/// Puts virtnotify-proxy in front of libvirt's daemon, and starts virtnotifyd and virtnotify-control.
///
/// # Errors
/// When there is no libvirt, or a step fails; running it again goes on from there.
pub fn setup(host: &Host) -> Result<Report, SetupError> {
    let mode = host.mode()?;
    let mut report = Report { notes: host.notes(mode)?, ..Report::default() };
    let restarts = host.begin(mode)?;
    let mut changed = restarts.cut_off;
    for drop_in in mode.drop_ins(host.permissions(mode)?) {
        if host.write(&drop_in)? {
            changed = true;
            report.done.push(format!("wrote a drop-in for {}", drop_in.unit));
        }
    }
    host.systemctl(&["daemon-reload"])?;
    if changed || !host.is_behind(mode)? {
        host.rebind(mode, &restarts)?;
        report.done.push(format!("moved {} behind virtnotify-proxy", mode.daemon()));
    }
    host.end(mode)?;
    let mut runs = true;
    for unit in OURS {
        runs &= host.is_enabled(unit)? && host.is_active(unit)?;
    }
    if changed || !runs {
        host.systemctl(&[&["enable", "--now"], &OURS[..]].concat())?;
        let done = "started virtnotifyd and virtnotify-control, and with the host";
        report.done.push(done.to_owned());
    }
    Ok(report)
}

/// Takes them away again: libvirt is as it was before.
///
/// # Errors
/// [`SetupError::Active`]; when a step fails; running it again goes on from there.
pub fn undo(host: &Host) -> Result<Report, SetupError> {
    let active = host.active_pools();
    if !active.is_empty() {
        return Err(SetupError::Active(active.join(", ")));
    }
    let mut report = Report::default();
    let mut used = false;
    for unit in OURS {
        used |= host.is_enabled(unit)? || host.is_active(unit)?;
    }
    if used {
        host.systemctl(&[&["disable", "--now"], &OURS[..]].concat())?;
        let done =
            "stopped virtnotifyd and virtnotify-control, and they no longer start with the host";
        report.done.push(done.to_owned());
    }
    // Both sets: what an earlier run did for the other kind of libvirt goes as well.
    for mode in [Mode::Modular, Mode::Monolithic] {
        let restarts = host.begin(mode)?;
        let mut changed = restarts.cut_off;
        for drop_in in mode.drop_ins(Default::default()) {
            if host.remove(&drop_in.unit)? {
                changed = true;
                report.done.push(format!("removed the drop-in of {}", drop_in.unit));
            }
        }
        if changed {
            host.systemctl(&["daemon-reload"])?;
            host.rebind(mode, &restarts)?;
            report.done.push(format!("moved {} back to its own sockets", mode.daemon()));
        }
        host.end(mode)?;
    }
    Ok(report)
}

/// Units of libvirt's daemon that are to run in the end.
struct Restarts {
    sockets: Vec<String>,
    services: Vec<String>,
    /// Whether an earlier run was cut off, and may have left them stopped.
    cut_off: bool,
}

impl Host {
    fn path(&self, path: &str) -> PathBuf {
        let mut whole = self.root.clone().into_os_string();
        whole.push(path);
        whole.into()
    }

    /// Which libvirt this host runs: the monolithic one where its socket is in use.
    fn mode(&self) -> Result<Mode, SetupError> {
        for mode in [Mode::Monolithic, Mode::Modular] {
            for socket in mode.sockets() {
                if self.is_active(&socket)? || self.is_enabled(&socket)? {
                    return Ok(mode);
                }
            }
        }
        for mode in [Mode::Modular, Mode::Monolithic] {
            if self.show(&mode.sockets()[0], "LoadState")? == "loaded" {
                return Ok(mode);
            }
        }
        Err(SetupError::NoLibvirt)
    }

    fn is_behind(&self, mode: Mode) -> Result<bool, SetupError> {
        Ok(self.show(&mode.sockets()[0], "Listen")?.contains(BEHIND))
    }

    /// Who may connect to libvirt's sockets. Those that are behind us already let in only root;
    /// what they were before is in our own units.
    fn permissions(&self, mode: Mode) -> Result<[Permissions; 2], SetupError> {
        let behind = self.is_behind(mode)?;
        let sockets = mode.sockets();
        let mut both = [Permissions::default(), Permissions::default()];
        for ((place, theirs), ours) in both.iter_mut().zip(&sockets).zip(OURS) {
            let unit = if behind { ours } else { theirs };
            let mode = self.show(unit, "SocketMode")?;
            if !mode.is_empty() {
                place.mode = mode;
            }
            place.user = self.show(unit, "SocketUser")?;
            place.group = self.show(unit, "SocketGroup")?;
        }
        Ok(both)
    }

    /// Notes which units of libvirt's daemon are to run in the end, before anything changes.
    fn begin(&self, mode: Mode) -> Result<Restarts, SetupError> {
        let list = self.list_of(mode);
        let earlier = match fs::read_to_string(&list) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(SetupError::File { what: "read", path: list, source }),
        };
        let cut_off = earlier.is_some();
        let earlier = earlier.unwrap_or_default();
        let mut units = Vec::new();
        let sockets = mode.sockets().into_iter().chain(mode.bound());
        for unit in sockets.chain([mode.service()]) {
            if earlier.lines().any(|line| line == unit) || self.is_active(&unit)? {
                units.push(unit);
            }
        }
        if !units.is_empty() {
            replace(&list, &units.join("\n")).map_err(|source| SetupError::File {
                what: "write",
                path: list,
                source,
            })?;
        }
        let (services, sockets) = units.into_iter().partition(|unit| *unit == mode.service());
        Ok(Restarts { sockets, services, cut_off })
    }

    /// All of them run again.
    fn end(&self, mode: Mode) -> Result<(), SetupError> {
        let list = self.list_of(mode);
        match fs::remove_file(&list) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(SetupError::File { what: "remove", path: list, source })
            }
            _ => Ok(()),
        }
    }

    fn list_of(&self, mode: Mode) -> PathBuf {
        self.path(&format!("{RESTARTS}{}", mode.daemon()))
    }

    /// Has the daemon's sockets listen where their units now say.
    fn rebind(&self, mode: Mode, restarts: &Restarts) -> Result<(), SetupError> {
        let Restarts { sockets, services, .. } = restarts;
        let ([rw, ro], service) = (mode.sockets(), mode.service());
        if !sockets.is_empty() || !services.is_empty() {
            // systemd refuses to start the socket of a service that runs. Those that are bound to
            // the first socket would stop with it anyway.
            let bound = sockets.iter().filter(|unit| mode.bound().contains(unit));
            let units = [rw.as_str(), &ro].into_iter().chain(bound.map(String::as_str));
            let units = units.chain([service.as_str()]);
            self.systemctl(&["stop"].into_iter().chain(units).collect::<Vec<_>>())?;
        }
        for units in [sockets, services].into_iter().filter(|units| !units.is_empty()) {
            let units = units.iter().map(String::as_str);
            self.systemctl(&["start"].into_iter().chain(units).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Settings of libvirt's that the proxy does not have.
    fn notes(&self, mode: Mode) -> Result<Vec<String>, SetupError> {
        let path = format!("/etc/libvirt/{}.conf", mode.daemon());
        let theirs = LibvirtSettings::read(&self.path(&path)).unwrap_or_default();
        // Two of the keys are libvirt's, and are written as there.
        let ours = LibvirtSettings::read(&self.path("/etc/virtnotify/proxy.toml"));
        let ours = ours.unwrap_or_default();
        let mut notes = Vec::new();
        for key in ["auth_unix_rw", "auth_unix_ro"] {
            let Some(theirs) = theirs.word(key) else { continue };
            if !matches!(theirs, "polkit" | "none") {
                let value = theirs.to_owned();
                return Err(SetupError::Authentication { path, key, value });
            }
            if theirs != ours.word(key).unwrap_or("polkit") {
                notes.push(format!(
                    "{path} says {key} = \"{theirs}\": to have that here, say the same in \
                     /etc/virtnotify/proxy.toml"
                ));
            }
        }
        Ok(notes)
    }

    fn active_pools(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("/run/virtnotify/pools")) else {
            return Vec::new();
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter(|name| !name.starts_with('.'));
        let mut pools: Vec<String> =
            names.filter_map(|name| name.strip_suffix(".xml").map(str::to_owned)).collect();
        pools.sort();
        pools
    }

    fn drop_in(&self, unit: &str) -> PathBuf {
        self.path(&format!("/etc/systemd/system/{unit}.d")).join(FILE)
    }

    /// Writes a drop-in; false if it was there.
    fn write(&self, drop_in: &DropIn) -> Result<bool, SetupError> {
        let path = self.drop_in(&drop_in.unit);
        let linked = path.is_symlink();
        if !linked && fs::read_to_string(&path).is_ok_and(|text| text == drop_in.text) {
            return Ok(false);
        }
        replace(&path, &drop_in.text).map_err(|source| SetupError::File {
            what: "write",
            path,
            source,
        })?;
        Ok(true)
    }

    /// Removes a drop-in, or hides a package's; false if there was nothing to do.
    fn remove(&self, unit: &str) -> Result<bool, SetupError> {
        let path = self.drop_in(unit);
        let vendor = self.path(&format!("/usr/lib/systemd/system/{unit}.d")).join(FILE);
        let hidden = fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null"));
        if hidden && vendor.exists() {
            return Ok(false);
        }
        let there = path.symlink_metadata().is_ok();
        if there {
            fs::remove_file(&path).map_err(|source| SetupError::File {
                what: "remove",
                path: path.clone(),
                source,
            })?;
        }
        // A package has them for both kinds of libvirt; for one that is not there it does nothing.
        if vendor.exists() && self.show(unit, "LoadState")? == "loaded" {
            hide(&path).map_err(|source| SetupError::File { what: "make", path, source })?;
            return Ok(true);
        }
        if let Some(directory) = path.parent() {
            match fs::remove_dir(directory) {
                Err(error)
                    if !matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
                    ) =>
                {
                    let (what, path) = ("remove", directory.to_owned());
                    return Err(SetupError::File { what, path, source: error });
                }
                _ => {}
            }
        }
        Ok(there)
    }

    /// A property of a unit.
    fn show(&self, unit: &str, property: &str) -> Result<String, SetupError> {
        Ok(self.systemctl(&["show", "--value", "--property", property, unit])?.trim().to_owned())
    }

    fn is_active(&self, unit: &str) -> Result<bool, SetupError> {
        let state = self.show(unit, "ActiveState")?;
        Ok(matches!(state.as_str(), "active" | "activating" | "reloading" | "refreshing"))
    }

    fn is_enabled(&self, unit: &str) -> Result<bool, SetupError> {
        Ok(matches!(self.show(unit, "UnitFileState")?.as_str(), "enabled" | "enabled-runtime"))
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<String, SetupError> {
        let failed = |why: String| SetupError::Systemctl { command: arguments.join(" "), why };
        let output = Command::new(&self.systemctl)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Writes a file as a whole, and its directory if need be.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    virtnotify_files::replace(path, text.as_bytes(), 0o644)
}

fn hide(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    symlink("/dev/null", path)
}

#[cfg(test)]
mod tests;
