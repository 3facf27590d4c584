// SPDX-License-Identifier: LGPL-2.1-or-later
//! The only place that runs LVM: argument vectors, a clean environment, bounded time.
//!
//! No shell is involved, and names come checked ([`VgName`]). Every command is told to ignore the
//! volumes' own devices: a guest that makes a physical volume on its disk must not get it into the
//! host's LVM. That is done with `devices/filter` in front of the administrator's own.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use virtnotify_model::{Bytes, PoolSource, VgName};

use super::{Lvm, LvmError, PvSegment, VgReport, report};
use crate::names::DM_UUID_PREFIX;

/// How much of a command's output is kept; more is read and dropped.
const OUTPUT_LIMIT: usize = 4 << 20;
/// How long a killed command may take to go.
const GRACE: Duration = Duration::from_secs(2);
/// When a disk holds this many killed commands in the kernel no further command is started: it would be held, too,
/// and each keeps threads.
const MOST_STUCK: usize = 4;
/// What hides the volumes' devices.
const SYSFS: &str = "/sys/block";
const HIDE: [&str; 2] = ["r|^/dev/mapper/notify:|", "r|^/dev/notify/|"];

/// LVM's command line program.
#[derive(Debug)]
pub(crate) struct LvmProgram {
    program: PathBuf,
    timeout: Duration,
    filter: OnceLock<String>,
    new_fs_options: OnceLock<bool>,
    /// The number of killed commands that have not ended.
    stuck: Arc<AtomicUsize>,
}

impl LvmProgram {
    /// The program at an absolute path; a command that takes longer than `timeout` is killed.
    pub(crate) fn new(program: PathBuf, timeout: Duration) -> Self {
        let (filter, new_fs_options, stuck) = (OnceLock::new(), OnceLock::new(), Arc::default());
        Self { program, timeout, filter, new_fs_options, stuck }
    }

    /// Runs one LVM command that uses devices; returns what it printed.
    fn lvm(&self, args: &[&str]) -> Result<String, LvmError> {
        let config = self.config()?;
        let (command, rest) = args.split_first().unwrap_or((&"", &[]));
        let mut all = vec![*command, "--config", &config];
        all.extend_from_slice(rest);
        self.run(&all)
    }

    /// The `--config` of every command.
    fn config(&self) -> Result<String, LvmError> {
        let theirs = self.own_filter()?;
        let hidden = HIDE.map(str::to_owned).into_iter().chain(hidden_nodes(Path::new(SYSFS)));
        let mut all: Vec<_> = hidden.map(|pattern| format!("\"{pattern}\"")).collect();
        all.extend((!theirs.is_empty()).then_some(theirs));
        // A move that LVM resumes is looked at each second, not each fifteen.
        let polling = "activation { polling_interval=1 }";
        Ok(format!("devices {{ filter=[{}] hints=\"none\" }} {polling}", all.join(",")))
    }

    /// The administrator's own filter, which stays in force behind ours.
    fn own_filter(&self) -> Result<String, LvmError> {
        if let Some(known) = self.filter.get() {
            return Ok(known.clone());
        }
        // Exits 5 when no filter is set, which is the usual case.
        let theirs = match self.run(&["lvmconfig", "devices/filter"]) {
            Ok(text) => own_filter(&text),
            Err(LvmError::Failed { .. }) => String::new(),
            Err(other) => return Err(other),
        };
        Ok(self.filter.get_or_init(|| theirs).clone())
    }

    /// Whether `lvreduce` knows `--fs` (2.03.17), and would look for a file system otherwise.
    fn has_fs_option(&self) -> Result<bool, LvmError> {
        if let Some(known) = self.new_fs_options.get() {
            return Ok(*known);
        }
        let text = self.run(&["version"])?;
        let known = version(&text).is_some_and(|version| version >= (2, 3, 17));
        Ok(*self.new_fs_options.get_or_init(|| known))
    }

    /// Asks about one group, or about all.
    fn vgs<T>(
        &self,
        fields: &str,
        vg: Option<&VgName>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, LvmError> {
        let json = ["vgs", "--reportformat", "json", "--units", "b", "--nosuffix"];
        let mut args = [&json[..], &["-o", fields]].concat();
        args.extend(vg.map(VgName::as_str));
        read(&self.lvm(&args)?)
            .map_err(|why| LvmError::Output { command: "lvm vgs".to_owned(), why })
    }

    fn run(&self, args: &[&str]) -> Result<String, LvmError> {
        tracing::debug!(program = %self.program.display(), ?args, "runs");
        let text = format!("lvm {}", args.first().unwrap_or(&""));
        let stuck = self.stuck.load(Ordering::Relaxed);
        if stuck >= MOST_STUCK {
            return Err(LvmError::Stuck { command: text, stuck });
        }
        let mut child = Command::new(&self.program)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| LvmError::Start { command: text.clone(), source })?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let status = wait(child, self.timeout, &self.stuck)
            .map_err(|source| LvmError::Start { command: text.clone(), source })?;
        let Some(status) = status else {
            return Err(LvmError::Timeout { command: text, seconds: self.timeout.as_secs() });
        };
        let (stdout, stderr) = (stdout.join(), stderr.join());
        if !status.success() {
            let said = report::errors(stdout.as_deref().unwrap_or_default());
            let stderr = stderr.unwrap_or_default();
            let said = said.iter().map(String::as_str).chain(stderr.lines()).map(str::trim);
            let stderr = said.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
            return Err(LvmError::Failed { command: text, status: status.to_string(), stderr });
        }
        Ok(stdout.unwrap_or_default())
    }
}

/// A pattern for the nodes of the volumes' devices. LVM takes a device of which any one name is
/// accepted, so that an administrator's `a|.*|` would let `/dev/dm-7` in again.
fn hidden_nodes(sysfs: &Path) -> Option<String> {
    let ours = |name: &String| {
        let uuid = std::fs::read_to_string(sysfs.join(name).join("dm/uuid"));
        uuid.is_ok_and(|uuid| uuid.starts_with(DM_UUID_PREFIX))
    };
    let entries = std::fs::read_dir(sysfs).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut nodes: Vec<_> = names.filter(|name| name.starts_with("dm-")).filter(ours).collect();
    nodes.sort();
    (!nodes.is_empty()).then(|| format!("r,^/dev/({})$,", nodes.join("|")))
}

/// The elements of `filter=[...]` as `lvmconfig` prints them.
fn own_filter(text: &str) -> String {
    let list = text.split_once('[').and_then(|(_, rest)| rest.rsplit_once(']'));
    list.map(|(list, _)| list.trim().to_owned()).unwrap_or_default()
}

/// The version in the output of `lvm version`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("LVM version:"))?;
    let mut numbers = line.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Reads a pipe to its end on a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut pipe) = pipe {
            let mut part = [0; 16 << 10];
            while let Ok(read @ 1..) = pipe.read(&mut part) {
                let room = OUTPUT_LIMIT - kept.len();
                kept.extend_from_slice(&part[..read.min(room)]);
            }
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Waits for a child, `None` when it had to be killed.
fn wait(
    mut child: Child,
    timeout: Duration,
    stuck: &Arc<AtomicUsize>,
) -> std::io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(&child);
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    let ended = |limit: Duration| -> std::io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(std::io::Error::other)?;
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&limit))? > 0)
    };
    if ended(timeout)? {
        return child.wait().map(Some);
    }
    // The child leads its own group, so helpers that it started go with it.
    let _ = kill_process_group(pid, Signal::KILL);
    if ended(GRACE)? {
        child.wait()?;
    } else {
        // Stuck in the kernel: reaped whenever that lets go of it.
        let stuck = stuck.clone();
        stuck.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            let _ = child.wait();
            stuck.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(None)
}

fn bytes(size: Bytes) -> String {
    format!("{}b", size.0)
}

fn tag_args<'a>(add: &[&'a str], del: &[&'a str]) -> Vec<&'a str> {
    let added = add.iter().flat_map(|tag| ["--addtag", *tag]);
    added.chain(del.iter().flat_map(|tag| ["--deltag", *tag])).collect()
}

impl Lvm for LvmProgram {
    fn report(&self, vg: &VgName) -> Result<VgReport, LvmError> {
        let group = self.vgs(report::GROUP, Some(vg), report::group)?;
        let lvs = |text: &str| report::volumes(text, &group.uuid);
        let lvs = self.vgs(report::VOLUMES, Some(vg), lvs)?;
        Ok(VgReport { lvs, ..group })
    }

    fn groups(&self) -> Result<Vec<PoolSource>, LvmError> {
        self.vgs(report::SOURCES, None, report::sources)
    }

    fn create_lv(&self, vg: &VgName, lv: &str, size: Bytes, tags: &[&str]) -> Result<(), LvmError> {
        let size = bytes(size);
        // Neither wiped nor zeroed by LVM: the engine does both where it matters.
        let fixed = ["lvcreate", "--yes", "--wipesignatures", "n", "--zero", "n"];
        let sized = ["--size", &size, "--name", lv];
        let args = [&fixed[..], &sized[..], &tag_args(tags, &[]), &[vg.as_str()]].concat();
        self.lvm(&args).map(drop)
    }

    fn extend_lv(&self, vg: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError> {
        let (size, name) = (bytes(to), format!("{vg}/{lv}"));
        self.lvm(&["lvextend", "--yes", "--size", &size, &name]).map(drop)
    }

    fn reduce_lv(&self, vg: &VgName, lv: &str, to: Bytes) -> Result<(), LvmError> {
        let (size, name) = (bytes(to), format!("{vg}/{lv}"));
        let mut args = vec!["lvreduce", "--yes", "--force", "--size", &size];
        if self.has_fs_option()? {
            // A guest's file system may begin in our first chunk; its size says nothing here.
            args.extend(["--fs", "ignore"]);
        }
        args.push(&name);
        self.lvm(&args).map(drop)
    }

    fn refresh_lv(&self, vg: &VgName, lv: &str) -> Result<(), LvmError> {
        self.lvm(&["lvchange", "--refresh", &format!("{vg}/{lv}")]).map(drop)
    }

    fn remove_lv(&self, vg: &VgName, lv: &str) -> Result<(), LvmError> {
        self.lvm(&["lvremove", "--yes", "--force", &format!("{vg}/{lv}")]).map(drop)
    }

    fn activate_lv(&self, vg: &VgName, lv: &str, active: bool) -> Result<(), LvmError> {
        let active = if active { "y" } else { "n" };
        self.lvm(&["lvchange", "--yes", "--activate", active, &format!("{vg}/{lv}")]).map(drop)
    }

    fn tag_lv(&self, vg: &VgName, lv: &str, add: &[&str], del: &[&str]) -> Result<(), LvmError> {
        let name = format!("{vg}/{lv}");
        self.lvm(&[&["lvchange"], &tag_args(add, del)[..], &[&name]].concat()).map(drop)
    }

    fn tag_vg(&self, vg: &VgName, add: &[&str], del: &[&str]) -> Result<(), LvmError> {
        self.lvm(&[&["vgchange"], &tag_args(add, del)[..], &[vg.as_str()]].concat()).map(drop)
    }

    fn create_vg(&self, vg: &VgName, devices: &[PathBuf], force: bool) -> Result<(), LvmError> {
        let paths: Vec<String> = devices.iter().map(|d| d.display().to_string()).collect();
        // Without --yes, a question (is that signature to go?) is answered with no: there is no
        // terminal on standard input.
        let mut args = vec!["vgcreate"];
        if force {
            args.extend(["--yes", "--force"]);
        }
        args.push(vg.as_str());
        args.extend(paths.iter().map(String::as_str));
        self.lvm(&args).map(drop)
    }

    fn remove_vg(&self, vg: &VgName) -> Result<(), LvmError> {
        self.lvm(&["vgremove", vg.as_str()]).map(drop)
    }

    fn segments(&self, vg: &VgName) -> Result<Vec<PvSegment>, LvmError> {
        let only = format!("vg_name={vg}");
        let json = ["pvs", "--reportformat", "json", "--segments"];
        let args = [&json[..], &["-o", report::SEGMENTS, "--select", &only]].concat();
        report::segments(&self.lvm(&args)?)
            .map_err(|why| LvmError::Output { command: "lvm pvs".to_owned(), why })
    }

    fn open_pv(&self, pv: &str, open: bool) -> Result<(), LvmError> {
        self.lvm(&["pvchange", "--allocatable", if open { "y" } else { "n" }, pv]).map(drop)
    }

    fn begin_move(&self, part: &PvSegment) -> Result<(), LvmError> {
        let PvSegment { pv, start, extents, lv } = part;
        let extents = format!("{pv}:{start}-{}", start + extents.saturating_sub(1));
        let fixed = ["pvmove", "--background", "--interval", "1", "--name", lv];
        self.lvm(&[&fixed[..], &[&extents]].concat()).map(drop)
    }

    fn resume_moves(&self, vg: &VgName) -> Result<(), LvmError> {
        self.lvm(&["vgchange", "--poll", "y", vg.as_str()]).map(drop)
    }

    fn remove_pv(&self, device: &Path) -> Result<(), LvmError> {
        self.lvm(&["pvremove", &device.display().to_string()]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Instant;

    fn program(script: &str, timeout: Duration) -> (tempfile::TempDir, LvmProgram) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lvm");
        // By another process: a child that this one forks meanwhile would have the file open for
        // writing, and then it cannot be run.
        let mut install = Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(&path).stdin(Stdio::piped());
        let mut install = install.spawn().unwrap();
        write!(install.stdin.take().unwrap(), "#!/bin/sh\n{script}\n").unwrap();
        assert!(install.wait().unwrap().success());
        (dir, LvmProgram::new(path, timeout))
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let (_dir, lvm) = program("sleep 600", Duration::from_millis(200));
        let begin = Instant::now();
        let error = lvm.report(&"vg0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, LvmError::Timeout { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn failures_are_told_with_what_lvm_said() {
        let (_dir, lvm) = program("echo nothing there >&2; exit 5", Duration::from_secs(9));
        let error = lvm.report(&"vg0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("nothing there") && error.contains("exit status: 5"), "{error}");
        let log = r#"echo '{"report":[{"vg":[]}],"log":[
            {"log_type":"error","log_message":"Volume group \"vg0\" not found"},
            {"log_type":"status","log_message":"failure"}]}'; exit 5"#;
        let (_dir, lvm) = program(log, Duration::from_secs(9));
        let error = lvm.report(&"vg0".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "'lvm vgs' failed (exit status: 5): Volume group \"vg0\" not found");
        let (_dir, lvm) = program("echo '{'", Duration::from_secs(9));
        let error = lvm.report(&"vg0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, LvmError::Output { .. }), "{error}");
    }

    #[test]
    fn the_administrators_filter_stays() {
        let script = r#"[ "$1" = lvmconfig ] && echo 'filter=["a|sda|","r|.*|"]' && exit
            echo "$@" >&2; exit 1"#;
        let (_dir, lvm) = program(script, Duration::from_secs(9));
        let error = lvm.remove_vg(&"vg0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(r#""r|^/dev/notify/|","a|sda|","r|.*|"]"#), "{error}");
    }

    #[test]
    fn nodes_of_volumes_are_hidden() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hidden_nodes(dir.path()), None);
        for (name, uuid) in [("dm-0", "LVM-abc"), ("dm-12", "NOTIFY-1"), ("dm-3", "NOTIFY-2")] {
            std::fs::create_dir_all(dir.path().join(name).join("dm")).unwrap();
            std::fs::write(dir.path().join(name).join("dm/uuid"), uuid).unwrap();
        }
        std::fs::create_dir(dir.path().join("sda")).unwrap();
        assert_eq!(hidden_nodes(dir.path()).unwrap(), "r,^/dev/(dm-12|dm-3)$,");
    }

    #[test]
    fn versions_are_read() {
        let text = "  LVM version:     2.03.31(2) (2025-02-27)\n  Library version: 1.02.205\n";
        assert_eq!(version(text), Some((2, 3, 31)));
        assert_eq!(version("nothing"), None);
    }
}
