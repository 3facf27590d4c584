// SPDX-License-Identifier: LGPL-2.1-or-later
//! Runs an operator's programs for each event: a mail, a webhook, a message to a chat.
//!
//! An event is JSON on a program's standard input, and `VIRTNOTIFY_*` in its environment; nothing of it becomes
//! an argument. Programs run one after the other, so that events arrive in their order.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::client::Problem;
use crate::events::Told;

/// How long one program may take for one event.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How many events wait while a program runs; later ones are lost, which is said.
const WAITING: usize = 1024;
/// Files that packages and editors leave beside those that they replace.
const LEFT: [&str; 8] =
    ["~", ".bak", ".dpkg-dist", ".dpkg-new", ".dpkg-old", ".rpmnew", ".rpmorig", ".rpmsave"];

/// The programs of a directory.
pub struct Programs {
    directory: PathBuf,
    limit: Duration,
}

impl Programs {
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), limit: LIMIT }
    }

    /// The programs that there are now, by name: executable files, but no hidden ones and no old
    /// ones.
    pub fn list(&self) -> Result<Vec<PathBuf>, Problem> {
        let failed =
            |e| Problem::Cannot(format!("cannot read '{}': {e}", self.directory.display()));
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let runs = fs::metadata(entry.path())
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
            if runs && !name.starts_with('.') && !LEFT.iter().any(|end| name.ends_with(end)) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Runs all of them for an event, whatever becomes of each.
    async fn tell(&self, event: &Told) {
        let programs = self.list().unwrap_or_else(|problem| {
            eprintln!("virt-notify: {problem}");
            Vec::new()
        });
        for program in programs {
            let why = match self.run(&program, event).await {
                Ok(status) if status.success() => continue,
                Ok(status) => status.to_string(),
                Err(why) => why,
            };
            eprintln!("virt-notify: '{}', told of {}: {why}", program.display(), event.signal);
        }
    }

    async fn run(&self, program: &Path, event: &Told) -> Result<ExitStatus, String> {
        let mut command = Command::new(program);
        command.envs(environment(event)).stdin(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|e| format!("cannot be run: {e}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let mut input = child.stdin.take();
        let told = async {
            if let Some(input) = &mut input {
                // A program need not read it, or may have ended.
                let _ = input.write_all(event.json().as_bytes()).await;
            }
            drop(input);
            child.wait().await
        };
        match tokio::time::timeout(self.limit, told).await {
            Ok(ended) => ended.map_err(|e| e.to_string()),
            Err(_) => {
                // With all processes that it has started.
                let _ = group.map(|group| kill_process_group(group, Signal::KILL));
                let _ = child.wait().await;
                Err(format!("ended after {} s without having ended", self.limit.as_secs()))
            }
        }
    }
}

/// The event in the environment.
fn environment(event: &Told) -> Vec<(String, String)> {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    let object = event.object();
    let named = object.iter().map(|(name, value)| (name.to_uppercase(), word(value)));
    let all = named.chain([("TEXT".to_owned(), event.line())]);
    all.map(|(name, text)| (format!("VIRTNOTIFY_{name}"), text)).collect()
}

/// Takes events, and runs the programs for them.
pub struct Teller {
    events: mpsc::Sender<Told>,
    lost: u64,
}

impl Teller {
    /// The sender of events, and the task that runs the programs, which ends once the sender is
    /// gone.
    pub fn new(programs: Programs) -> (Self, impl Future<Output = ()>) {
        let (events, mut told) = mpsc::channel(WAITING);
        let work = async move {
            while let Some(event) = told.recv().await {
                programs.tell(&event).await;
            }
        };
        (Self { events, lost: 0 }, work)
    }

    pub fn tell(&mut self, event: Told) {
        match self.events.try_send(event) {
            Ok(()) if self.lost > 0 => {
                eprintln!(
                    "virt-notify: {} events were lost: the programs took too long",
                    self.lost
                );
                self.lost = 0;
            }
            Ok(()) => {}
            Err(_) => self.lost += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use virtnotify_model::Severity;

    fn event(pool: &str) -> Told {
        let arguments = [("pool".to_owned(), json!(pool)), ("available".to_owned(), json!(7))];
        Told {
            signal: "SpaceLow".into(),
            severity: Severity::Warning,
            host: "host1".into(),
            time: "2026-11-22T10:00:00Z".into(),
            arguments: arguments.into_iter().collect(),
        }
    }

    fn put(directory: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = directory.path().join(name);
        // By another process: a child that this one forks meanwhile would have the file open for writing, and
        // then it cannot be run.
        let mut install = std::process::Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(&path).stdin(Stdio::piped());
        let mut install = install.spawn().unwrap();
        install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
        path
    }

    fn programs(directory: &TempDir) -> Programs {
        Programs { limit: Duration::from_secs(20), ..Programs::of(directory.path()) }
    }

    #[tokio::test]
    async fn programs_get_the_event_and_no_arguments() {
        let directory = TempDir::new().unwrap();
        let seen = directory.path().join("seen");
        let text = format!(
            "#!/bin/sh\n{{ echo \"$# $VIRTNOTIFY_SIGNAL $VIRTNOTIFY_SEVERITY $VIRTNOTIFY_HOST\"\n\
             echo \"$VIRTNOTIFY_POOL $VIRTNOTIFY_AVAILABLE\"; cat; }} >>'{}'\n",
            seen.display()
        );
        put(&directory, "10-first", "#!/bin/sh\nexit 3\n");
        put(&directory, "20-second.sh", &text);
        programs(&directory).tell(&event("$(touch /tmp/x); -v\n'")).await;
        let seen = fs::read_to_string(&seen).unwrap();
        let (words, json) = seen.split_at(seen.find('{').unwrap());
        assert_eq!(words, "0 SpaceLow warning host1\n$(touch /tmp/x); -v\n' 7\n");
        let json: Value = serde_json::from_str(json).unwrap();
        assert_eq!(
            (json["pool"].as_str(), json["severity"].as_str()),
            (Some("$(touch /tmp/x); -v\n'"), Some("warning"))
        );
    }

    #[test]
    fn what_is_left_beside_programs_is_not_run() {
        let directory = TempDir::new().unwrap();
        for name in ["mail", "web.sh", ".hidden", "mail~", "mail.dpkg-old", "mail.rpmsave"] {
            put(&directory, name, "#!/bin/sh\n");
        }
        fs::write(directory.path().join("README"), "not to be run").unwrap();
        fs::create_dir(directory.path().join("more")).unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.path().join("gone")).unwrap();
        let names: Vec<_> = programs(&directory).list().unwrap();
        assert_eq!(names, [directory.path().join("mail"), directory.path().join("web.sh")]);
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_what_it_started() {
        let directory = TempDir::new().unwrap();
        let held = directory.path().join("held");
        let program = put(
            &directory,
            "hangs",
            &format!("#!/bin/sh\nsleep 600 >'{}' & wait\n", held.display()),
        );
        // On a slow machine it may not have come that far.
        let mut limit = Duration::from_millis(300);
        while !held.exists() {
            let programs = Programs { limit, ..programs(&directory) };
            let why = programs.run(&program, &event("vms")).await.unwrap_err();
            assert!(why.contains("without having ended"), "{why}");
            limit *= 2;
        }
        let open = || {
            let links =
                fs::read_dir("/proc").unwrap().flatten().map(|process| process.path().join("fd/1"));
            links.into_iter().any(|link| fs::read_link(link).is_ok_and(|to| to == held))
        };
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while open() {
            assert!(std::time::Instant::now() < end, "its child runs on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn more_events_than_can_wait_are_counted() {
        let directory = TempDir::new().unwrap();
        let (mut teller, work) = Teller::new(programs(&directory));
        for _ in 0..WAITING + 3 {
            teller.tell(event("vms"));
        }
        assert_eq!(teller.lost, 3);
        drop(teller);
        work.await;
    }
}
