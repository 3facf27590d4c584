// SPDX-License-Identifier: LGPL-2.1-or-later
//! Child processes that never outlive us.
//!
//! Every child is started under `setpriv --pdeathsig`, so that even a killed
//! xtask leaves none behind, and is listed in a registry, so that a signal can
//! end them in an orderly way. Directories that must go at the end are listed
//! beside them. A pid leaves the registry in the same critical section that
//! reaps it: a recycled pid is never signalled.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

struct Registry {
    pids: Vec<Pid>,
    dirs: Vec<PathBuf>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { pids: Vec::new(), dirs: Vec::new() });

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn registry() -> std::sync::MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Installs the handler that ends all children and removes all listed
/// directories when the user (or CI) interrupts us.
pub fn watch_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            eprintln!("xtask: interrupted, cleaning up");
            end_everything();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// After an interruption everything fails, and none of it is news: this leaves
/// the end of the process to the signal's thread. Otherwise it does nothing.
pub fn give_way_to_signal() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn end_everything() {
    let registry = registry();
    for &pid in &registry.pids {
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    for &pid in &registry.pids {
        while !gone(pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if !gone(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for dir in &registry.dirs {
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Whether a child of ours has ended (reaped or not).
fn gone(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

/// A directory that is removed when dropped, and on a signal too.
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes a fresh directory inside `parent`.
    pub fn new(parent: &Path, prefix: &str) -> Result<Self> {
        std::fs::create_dir_all(parent)?;
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?.keep();
        registry().dirs.push(dir.clone());
        Ok(Self(dir))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Hands the directory over: it will not be removed any more.
    pub fn release(self) -> PathBuf {
        registry().dirs.retain(|d| *d != self.0);
        let path = self.0.clone();
        std::mem::forget(self);
        path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        registry().dirs.retain(|d| *d != self.0);
    }
}

/// A registered child. Dropping it kills it.
pub struct Proc {
    child: Child,
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Proc {
    /// Starts `command` (see [`command`]) and registers it.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut registry = registry();
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let pid = Pid::from_child(&child);
        registry.pids.push(pid);
        Ok(Self { child, pid, status: None })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its standard output and error, if they are pipes.
    pub fn take_output(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        self.take_stdout().zip(self.child.stderr.take())
    }

    /// Its standard output, if it is a pipe.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        wait_unreaped(self.pid);
        let mut registry = registry();
        let status = self.child.wait()?;
        registry.pids.retain(|p| *p != self.pid);
        self.status = Some(status);
        Ok(status)
    }

    /// Kills it (nothing if it has ended) and reaps it.
    pub fn kill(&mut self) {
        if self.status.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = self.wait();
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Blocks until the child has ended, and leaves it to be reaped by its owner.
pub fn wait_unreaped(pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
}

/// A command that dies with us. Standard input is empty.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program).stdin(Stdio::null());
    command
}

/// Runs `command` with its output appended to `log`; an unsuccessful end is an error.
pub fn run_logged(mut command: Command, log: &Path) -> Result<()> {
    let file = open_log(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let text = shown(&command);
    check(&text, Proc::spawn(command)?.wait()?)
}

/// Runs `command` with our own output; an unsuccessful end is an error.
pub fn run(command: Command) -> Result<()> {
    let text = shown(&command);
    check(&text, Proc::spawn(command)?.wait()?)
}

/// Runs a short command and returns what it printed.
pub fn capture(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {} failed ({}): {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` and returns what it printed; an unsuccessful end is an error with what it said.
pub fn output(mut command: Command) -> Result<String> {
    let text = shown(&command);
    let output = command.output().with_context(|| format!("cannot start {text}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{text} failed ({}): {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Opens a log for appending.
pub fn open_log(log: &Path) -> Result<File> {
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent)?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))
}

/// The status a shell would report for this end.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().skip(2).map(|a| a.to_string_lossy()).collect();
    words.join(" ")
}

fn check(text: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let short: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    bail!("failed ({status}): {short}")
}

/// Whether a child of ours still runs.
pub fn is_running(pid: Pid) -> bool {
    !gone(pid)
}
