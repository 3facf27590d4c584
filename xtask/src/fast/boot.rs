// SPDX-License-Identifier: LGPL-2.1-or-later
//! One run of the fast lab, from its first process to its end.
//!
//! Its kernel runs in namespaces of its own for mounts and processes: whatever of it is left goes
//! with the first one of them. Its root is the hosts' Debian tree, bound so that nothing can be
//! written to it; what the script changes is in the lab's memory (`tests/fast/init`).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use super::{FastArgs, Parts};
use crate::cache::Cache;
use crate::lab::quoted;
use crate::proc::{self, Proc, ScratchDir};
use crate::{product, ui, uml};

/// The lab's first process.
const INIT: &str = "tests/fast/init";
/// What a script finds in /root, beside each other as in the checkout.
const SHOWN: &[&str] = &["tests", "kmod", "docs"];
/// The time that a kernel which was asked what hangs has for its answer.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// What is to be run.
pub struct Plan {
    /// What the lab is made of.
    pub lab: FastArgs,
    /// What is copied into /root, beside parts of the checkout.
    pub files: Vec<PathBuf>,
    /// The command and its arguments, started in /root.
    pub words: Vec<String>,
    /// Which processor of this machine it has, counted round.
    pub turn: usize,
}

/// How a run ended.
pub struct Ended {
    /// The status of the command; none if there was none within the limit.
    pub status: Option<i32>,
    /// All that the kernel said.
    pub kernel_log: String,
    /// The limit, if it was reached: the kernel's log ends with what hung then.
    pub limit: Option<Duration>,
}

/// Boots, runs the command with its output into `output`, and waits for the end.
pub fn run(cache: &Cache, parts: &Parts, plan: &Plan, output: impl Write + Send) -> Result<Ended> {
    let (run, _lock) = run_directory(cache)?;
    lay_out(run.path(), parts, plan)?;
    let mut linux = start(run.path(), parts, plan)?;
    let (told, kernel) = linux.take_output().context("the kernel has no output")?;
    let log = run.path().join("kernel.log");
    let file = File::create(&log)?;
    let in_time = std::thread::scope(|scope| {
        scope.spawn(move || copy(told, output));
        scope.spawn(move || copy(kernel, file));
        wait(&mut linux, run.path(), plan.lab.limit())
    })?;
    let status = std::fs::read_to_string(run.path().join("status")).ok();
    Ok(Ended {
        status: status.and_then(|status| status.trim().parse().ok()),
        kernel_log: String::from_utf8_lossy(&std::fs::read(log)?).into_owned(),
        limit: (!in_time).then_some(plan.lab.limit()),
    })
}

/// A run's directory, and the lock that says that it is in use. Those of killed runs are removed.
fn run_directory(cache: &Cache) -> Result<(ScratchDir, File)> {
    let runs = cache.path("fast");
    std::fs::create_dir_all(&runs)?;
    // One at a time: a directory whose lock is not taken yet is not left over.
    let starting = File::create(cache.path("fast.lock"))?;
    flock(&starting, FlockOperation::LockExclusive)?;
    let left = std::fs::read_dir(&runs).into_iter().flatten().flatten();
    for dir in left.map(|entry| entry.path()).filter(|dir| !in_use(dir)) {
        let _ = std::fs::remove_dir_all(dir);
    }
    let run = ScratchDir::new(&runs, "")?;
    let lock = File::create(run.path().join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok((run, lock))
}

fn in_use(dir: &Path) -> bool {
    let lock = File::open(dir.join("lock"));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Puts into the run's directory what the lab finds in its /mnt.
fn lay_out(run: &Path, parts: &Parts, plan: &Plan) -> Result<()> {
    let top = crate::top()?;
    let home = run.join("layer/root");
    std::fs::create_dir_all(&home)?;
    uml::lay_out(run)?;
    let mut copy = proc::command("cp");
    copy.args(["-a", "--no-preserve=ownership", "-t"]).arg(&home);
    copy.args(SHOWN.iter().map(|name| top.join(name))).args(&plan.files);
    proc::run(copy)?;
    if let Some(programs) = &parts.programs {
        product::lay_out(programs, &run.join("layer"))?;
    }
    if let Some(program) = &parts.stress {
        let programs = run.join("layer/usr/bin");
        std::fs::create_dir_all(&programs)?;
        std::fs::copy(program, programs.join(crate::file_name(program)?))?;
    }
    std::fs::copy(top.join(INIT), run.join("init"))?;
    std::fs::copy(&parts.module, run.join("dm-notify.ko"))?;
    let words: Vec<String> = plan.words.iter().map(|word| quoted(word)).collect();
    std::fs::write(run.join("command"), format!("set -- {}\n", words.join(" ")))?;
    for (number, &size) in plan.lab.disk.iter().enumerate() {
        File::create(run.join(format!("disk{number}")))?.set_len(size)?;
    }
    Ok(())
}

fn start(run: &Path, parts: &Parts, plan: &Plan) -> Result<Proc> {
    let mut command = uml::command(
        &parts.tree,
        run,
        &parts.kernel,
        parts.libvirt.as_deref(),
        plan.lab.mem,
        plan.turn,
    );
    command
        // Where it is, and what its disks are.
        .args(["rootfstype=hostfs", "root=none", "rootflags=/", "rw", "init=/mnt/init"])
        .args((0..plan.lab.disk.len()).map(|number| format!("ubd{number}=/mnt/disk{number}")))
        // The command's output, the kernel's, and the way to ask the kernel.
        .args(["con=null", "con0=null,fd:1", "con1=null,fd:2", "console=tty1", "ssl=null"])
        .arg("ignore_loglevel")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Proc::spawn(command)
}

/// Waits for the end; whether it came within the limit. After it the lab is asked what hangs, which
/// goes into the kernel's log, and is ended.
fn wait(linux: &mut Proc, run: &Path, limit: Duration) -> Result<bool> {
    let (sender, ended) = channel();
    let pid = linux.pid();
    std::thread::spawn(move || {
        proc::wait_unreaped(pid);
        let _ = sender.send(());
    });
    let in_time = ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout);
    if !in_time {
        let deadline = Instant::now() + LAST_WORDS;
        match uml::ask(run, &["sysrq d", "cad"], deadline) {
            Ok(()) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let _ = ended.recv_timeout(left);
            }
            Err(error) => ui::say(&format!("the kernel does not say what hangs: {error:#}")),
        }
        linux.kill();
    }
    linux.wait()?;
    Ok(in_time)
}

/// Copies to the end. What cannot be written any more is read all the same, so that the lab goes on.
fn copy(mut from: impl std::io::Read, mut to: impl Write) {
    if std::io::copy(&mut from, &mut to).and_then(|_| to.flush()).is_err() {
        let _ = std::io::copy(&mut from, &mut std::io::sink());
    }
}
