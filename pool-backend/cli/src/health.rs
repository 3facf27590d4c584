// SPDX-License-Identifier: LGPL-2.1-or-later
//! `status --check`: whether anything on a host needs a person, in the form that monitoring programs
//! expect (the Monitoring Plugins' guidelines: a line, figures behind `|`, and a status from 0 to 2).

use std::fmt;

use serde_json::{Value, json};

use crate::args::code;
use crate::client::Problem;
use crate::objects::{Move, Objects, Pool, Volume};
use crate::show::{seconds, size};
use crate::status::STANDS_STILL;

/// A pool that is full within this time needs a person now, in seconds.
const SOON: u64 = 3600;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Fine,
    /// Nothing stands still yet.
    Warning,
    /// A VM stands still, or may be lost.
    Critical,
}

impl State {
    /// The exit status of the program.
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => code::FINE,
            Self::Warning => code::FINDINGS,
            Self::Critical => code::DAMAGE,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        })
    }
}

/// The findings, the worst first; and figures.
#[derive(Debug, Default)]
pub struct Health {
    findings: Vec<(State, String)>,
    figures: Vec<String>,
}

impl Health {
    /// Looks at everything on a host; `now` is in seconds since 1970.
    pub fn of(all: &Objects, now: u64) -> Self {
        let mut health = Self::default();
        if all.stands_still {
            health.finds(State::Critical, STANDS_STILL.to_owned());
        }
        for waiting in &all.waiting {
            let (vm, volume) = (&waiting.domain, &waiting.volume);
            let time = seconds(now.saturating_sub(waiting.since));
            let why = because(&waiting.reason);
            health.finds(
                State::Critical,
                format!("'{vm}' waits for space in {volume} for {time}{why}"),
            );
        }
        all.moves.iter().for_each(|of| health.look_at_move(of));
        all.pools.iter().for_each(|pool| health.look_at_pool(pool));
        for peer in all.peers.iter().filter(|peer| !peer.problem.is_empty()) {
            health
                .finds(State::Warning, format!("no VM can go to {}: {}", peer.name, peer.problem));
        }
        health.sort();
        health
    }

    /// The daemon of a host cannot be asked: its volumes may not grow.
    pub fn unknown(problem: &Problem) -> Self {
        Self { findings: vec![(State::Critical, problem.to_string())], figures: Vec::new() }
    }

    /// Adds what was found on a host.
    pub fn add(&mut self, host: &str, of: Self) {
        let named = |(state, text)| (state, format!("{host}: {text}"));
        self.findings.extend(of.findings.into_iter().map(named));
        self.sort();
        self.figures.extend(of.figures.into_iter().map(|figure| format!("{host}/{figure}")));
    }

    /// How bad it is.
    pub fn state(&self) -> State {
        self.findings.first().map_or(State::Fine, |(state, _)| *state)
    }

    fn sort(&mut self) {
        self.findings.sort_by_key(|(state, _)| std::cmp::Reverse(*state));
    }

    fn finds(&mut self, state: State, text: String) {
        self.findings.push((state, text));
    }

    fn look_at_move(&mut self, of: &Move) {
        let (vm, to, why) = (&of.domain, &of.to, because(&of.reason));
        match of.phase.as_str() {
            "twice" => {
                self.finds(State::Critical, format!("'{vm}' ran here and on {to} at once{why}"))
            }
            _ if of.reason.is_empty() => {}
            phase => {
                self.finds(State::Warning, format!("the move of '{vm}' to {to} is {phase}{why}"))
            }
        }
    }

    fn look_at_pool(&mut self, pool: &Pool) {
        let (name, left) = (&pool.name, size(pool.available));
        if !pool.active {
            return self.finds(State::Warning, format!("the pool '{name}' is not started"));
        }
        if pool.damaged {
            // A daemon of an earlier version gives no reason.
            let why = match pool.reason.as_str() {
                "" => format!(": 'virt-notify check {name}' says how"),
                reason => because(reason),
            };
            self.finds(State::Critical, format!("the pool '{name}' is damaged{why}"));
        }
        let full = |volume: &&Volume| volume.state == "out-of-space";
        for volume in pool.volumes.iter().filter(full) {
            let text = format!("the volume {name}/{} was refused space", volume.name);
            self.finds(State::Critical, text);
        }
        if pool.available < pool.low_mark {
            let mark = size(pool.low_mark);
            self.finds(
                State::Warning,
                format!("the pool '{name}' has {left} left, and its low mark is {mark}"),
            );
        }
        if let Some(time) = pool.time_to_full.filter(|time| *time < SOON) {
            let time = seconds(time);
            self.finds(
                State::Warning,
                format!("the pool '{name}' will be full in {time}, with {left} left"),
            );
        }
        if pool.promised_limit != 0 && pool.promised > pool.promised_limit {
            let (promised, limit) = (size(pool.promised), size(pool.promised_limit));
            let text =
                format!("the pool '{name}' has promised {promised}, and its limit is {limit}");
            self.finds(State::Warning, text);
        }
        let (available, mark, capacity) = (pool.available, pool.low_mark, pool.capacity);
        self.figures.push(format!("{name}_available={available}B;{mark}:;;0;{capacity}"));
    }

    /// A line, and one for each further finding.
    pub fn to_text(&self) -> String {
        let first = match self.findings.first() {
            None => "nothing needs a person".to_owned(),
            Some((_, first)) if self.findings.len() == 1 => first.clone(),
            Some((_, first)) => format!("{first} (and {} more)", self.findings.len() - 1),
        };
        let figures = match self.figures.is_empty() {
            true => String::new(),
            false => format!(" | {}", self.figures.join(" ")),
        };
        let mut text = format!("VIRTNOTIFY {} - {first}{figures}\n", self.state());
        for (state, finding) in self.findings.iter().skip(1) {
            text.push_str(&format!("{state} - {finding}\n"));
        }
        text
    }

    /// The same, for programs.
    pub fn to_json(&self) -> Value {
        let word = |state: State| state.to_string().to_lowercase();
        let finding =
            |(state, text): &(State, String)| json!({ "state": word(*state), "text": text });
        let findings: Vec<Value> = self.findings.iter().map(finding).collect();
        json!({ "state": word(self.state()), "findings": findings })
    }
}

/// A reason, where there is one. A bar would begin the figures.
fn because(reason: &str) -> String {
    match reason.is_empty() {
        true => String::new(),
        false => format!(": {}", reason.replace(['|', '\n'], "/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Peer, Waiting};

    fn pool() -> Pool {
        Pool {
            name: "vms".into(),
            active: true,
            capacity: 100 << 20,
            available: 50 << 20,
            low_mark: 10 << 20,
            time_to_full: None,
            ..Pool::default()
        }
    }

    fn with(pool: Pool) -> Objects {
        Objects { pools: vec![pool], ..Objects::default() }
    }

    #[test]
    fn a_host_on_which_nothing_is_wrong_is_fine() {
        let health = Health::of(&with(pool()), 0);
        assert_eq!(health.state().code(), 0);
        let figures = "vms_available=52428800B;10485760:;;0;104857600";
        assert_eq!(
            health.to_text(),
            format!("VIRTNOTIFY OK - nothing needs a person | {figures}\n")
        );
        assert_eq!(health.to_json(), json!({ "state": "ok", "findings": [] }));
        // A pool that is not started has no numbers.
        let off = Health::of(&with(Pool { active: false, available: 0, ..pool() }), 0);
        assert_eq!(off.to_text(), "VIRTNOTIFY WARNING - the pool 'vms' is not started\n");
    }

    #[test]
    fn each_thing_that_is_wrong_is_found() {
        let low = Pool { available: 5 << 20, ..pool() };
        let soon = Pool { time_to_full: Some(90), ..pool() };
        let over = Pool { promised: 3 << 20, promised_limit: 2 << 20, ..pool() };
        let full = Volume { name: "d".into(), state: "out-of-space".into(), ..Volume::default() };
        let refused = Pool { volumes: vec![full], ..pool() };
        let pools = [
            (low, 1, "the pool 'vms' has 5.00 MiB left, and its low mark is 10.00 MiB"),
            (soon, 1, "the pool 'vms' will be full in 1m 30s, with 50.00 MiB left"),
            (over, 1, "the pool 'vms' has promised 3.00 MiB, and its limit is 2.00 MiB"),
            (refused, 2, "the volume vms/d was refused space"),
        ];
        for (pool, status, text) in pools {
            let health = Health::of(&with(pool), 0);
            assert_eq!((health.state().code(), health.findings[0].1.as_str()), (status, text));
        }
        let moving = |phase: &str, reason: &str| Objects {
            moves: vec![Move {
                domain: "a".into(),
                to: "host2".into(),
                phase: phase.into(),
                reason: reason.into(),
                ..Move::default()
            }],
            ..Objects::default()
        };
        for (phase, reason, status) in
            [("copying", "", 0), ("unknown", "host2 does not answer", 1), ("twice", "look", 2)]
        {
            assert_eq!(Health::of(&moving(phase, reason), 0).state().code(), status, "{phase}");
        }
    }

    #[test]
    fn the_worst_comes_first_and_each_host_is_named() {
        let waiting = Waiting {
            domain: "b".into(),
            volume: "vms/d".into(),
            since: 100,
            reason: "a | b\nc".into(),
        };
        let peer = Peer { name: "host3".into(), problem: "is drained".into(), ..Peer::default() };
        let low = Pool { available: 5 << 20, ..pool() };
        let (pools, peers, waiting) = (vec![low], vec![peer], vec![waiting]);
        let here = Health::of(&Objects { pools, peers, waiting, ..Objects::default() }, 130);
        let mut all = Health::default();
        all.add("host1", Health::unknown(&Problem::Cannot("no ssh".into())));
        all.add("host2", here);
        assert_eq!(all.state(), State::Critical);
        let figures = "host2/vms_available=5242880B;10485760:;;0;104857600";
        let text = format!(
            "VIRTNOTIFY CRITICAL - host1: no ssh (and 3 more) | {figures}\n\
             CRITICAL - host2: 'b' waits for space in vms/d for 30s: a / b/c\n\
             WARNING - host2: the pool 'vms' has 5.00 MiB left, and its low mark is 10.00 MiB\n\
             WARNING - host2: no VM can go to host3: is drained\n"
        );
        assert_eq!(all.to_text(), text);
        assert_eq!(all.to_json()["findings"][3]["state"], json!("warning"));
    }
}
