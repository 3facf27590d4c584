// SPDX-License-Identifier: LGPL-2.1-or-later
//! systemd's watchdog: it ends a daemon that does not serve volumes, as long as that can help.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;
use virtnotify_engine::Engine;
use virtnotify_program::tell;

/// The threads of this process.
const THREADS: &str = "/proc/self/task";
/// Without systemd there is no watchdog, and pools that hang are told after the same time.
const INTERVAL: Duration = Duration::from_secs(60);

/// Says "alive" at a quarter of the interval that systemd expects, for as long as tasks are run and
/// volumes are served: a process that does everything else is of no use to a guest that waits.
///
/// Where the kernel waits for a disk that does not answer, no signal ends the process, and the next one
/// could not begin: growth would end in all pools at once. So the daemon is alive then, and the pools that stand
/// still are told.
pub async fn run(engine: Arc<Engine>) {
    let mut micros = 0;
    let interval = match sd_notify::watchdog_enabled(false, &mut micros) {
        true => Duration::from_micros(micros),
        false => INTERVAL,
    };
    let mut beat = tokio::time::interval(interval / 4);
    let (mut held, mut told) = (Held::default(), BTreeSet::new());
    loop {
        beat.tick().await;
        let hangs = held.look(Path::new(THREADS));
        let silent = engine.silent(interval / 2);
        if hangs || silent.is_empty() {
            tell(NotifyState::Watchdog);
        }
        for (pool, silence) in &silent {
            let seconds = silence.as_secs();
            if !hangs {
                warn!(%pool, "no volume was served for {seconds} s");
            } else if told.insert(pool.clone()) {
                engine.tell_damage(pool, hung(seconds));
            }
        }
        told.retain(|pool| silent.contains_key(pool));
    }
}

fn hung(seconds: u64) -> String {
    format!(
        "no volume has grown for {seconds} s: a disk does not answer, and the kernel ends no process that \
         waits for it. Other pools go on with what they have: LVM waits for that disk as well"
    )
}

/// So often the kernel itself may wake such a thread from one look to the next, to show that it does not hang
/// unnoticed (`blk_io_schedule()`: each half of `hung_task_timeout_secs`). One that a disk serves is woken
/// hundreds of times.
const WAKES: u64 = 3;

/// Threads that no signal ends: in an uninterruptible sleep, and not served since the last look.
#[derive(Debug, Default)]
struct Held(BTreeMap<String, u64>);

impl Held {
    /// Whether there is one that was so at the last look, too.
    fn look(&mut self, threads: &Path) -> bool {
        let entries = std::fs::read_dir(threads).into_iter().flatten().flatten();
        let now = entries.filter_map(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), switches_if_asleep(&status)?))
        });
        let before = std::mem::replace(&mut self.0, now.collect());
        let hangs = |(thread, now): (&String, &u64)| {
            before.get(thread).is_some_and(|before| now.saturating_sub(*before) <= WAKES)
        };
        self.0.iter().any(hangs)
    }
}

/// How often a thread was switched to another one, when it is in a sleep that no signal ends
/// (proc_pid_status(5)).
fn switches_if_asleep(status: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()
    };
    let count = |name: &str| field(name)?.parse::<u64>().ok();
    (field("State")? == "D").then_some(())?;
    count("voluntary_ctxt_switches")?.checked_add(count("nonvoluntary_ctxt_switches")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(dir: &Path, id: &str, state: &str, switches: u64) {
        let text = format!(
            "Name:\tgrow\nState:\t{state}\nvoluntary_ctxt_switches:\t{switches}\n\
             nonvoluntary_ctxt_switches:\t7\n"
        );
        std::fs::create_dir_all(dir.join(id)).unwrap();
        std::fs::write(dir.join(id).join("status"), text).unwrap();
    }

    #[test]
    fn a_thread_hangs_that_sleeps_and_has_not_run_since() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut held) = (dir.path(), Held::default());
        let disk = "D (disk sleep)";
        for (state, switches, hangs) in [
            (disk, 100, false),
            (disk, 200, false),
            (disk, 200, true),
            (disk, 202, true),
            ("S (sleeping)", 202, false),
            (disk, 202, false),
            (disk, 202, true),
        ] {
            thread(path, "10", "S (sleeping)", 5);
            thread(path, "11", state, switches);
            assert_eq!(held.look(path), hangs, "{state} {switches}");
        }
    }

    #[test]
    fn our_own_threads_are_read() {
        let mut held = Held::default();
        assert!(!held.look(Path::new(THREADS)));
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(switches_if_asleep(&status), None);
        assert!(switches_if_asleep(&status.replace("State:\tR", "State:\tD")).is_some());
    }
}
