// SPDX-License-Identifier: LGPL-2.1-or-later
//! Serves the volumes as a daemon would: when the bell rings, and only then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;

use crate::chance;
use crate::map::Map;
use crate::volume::{Leave, Volume};

/// How often it looks whether it is over, and whether the bell ought to have rung.
const TICK: Duration = Duration::from_millis(200);
/// A write that waits must have rung the bell after so long.
const RING: Duration = Duration::from_secs(10);

/// What the server and those who disturb it tell each other.
#[derive(Default)]
pub struct Signs {
    /// Nothing more has to be served.
    pub over: AtomicBool,
    /// How often the notifier was stopped, killed, started: odd while it cannot ring.
    pub disturbed: AtomicU64,
}

/// The server.
pub struct Server<'a> {
    volumes: &'a [Volume<'a>],
    seed: u64,
    rung: Receiver<()>,
    signs: &'a Signs,
    /// How often each chunk was served: what is done then depends on that and on the seed alone.
    turns: BTreeMap<(usize, u64), u64>,
    /// What `pending` has told: how often each kind.
    pub seen: BTreeMap<String, u64>,
}

impl<'a> Server<'a> {
    /// A server that hears the bell through `rung`.
    pub fn new(volumes: &'a [Volume<'a>], seed: u64, rung: Receiver<()>, signs: &'a Signs) -> Self {
        Self { volumes, seed, rung, signs, turns: BTreeMap::new(), seen: BTreeMap::new() }
    }

    /// Serves until it is over.
    pub fn run(&mut self) -> Result<()> {
        rustix::process::configure_io_flusher_behavior(true).context("PR_SET_IO_FLUSHER")?;
        let (mut silent, mut disturbed) = (Instant::now(), 0);
        while !self.signs.over.load(Ordering::Acquire) {
            match self.rung.recv_timeout(TICK) {
                Ok(()) => {
                    while self.rung.try_recv().is_ok() {}
                    (0..self.volumes.len()).try_for_each(|number| self.serve(number))?;
                    silent = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the bell is gone"),
                Err(RecvTimeoutError::Timeout) => {
                    let now = self.signs.disturbed.load(Ordering::Acquire);
                    if now % 2 == 1 || now != disturbed || !self.anything_waits()? {
                        (silent, disturbed) = (Instant::now(), now);
                    }
                    ensure!(
                        silent.elapsed() < RING,
                        "writes wait, and no signal has come: {}",
                        self.waiting()
                    );
                }
            }
        }
        Ok(())
    }

    fn anything_waits(&self) -> Result<bool> {
        for volume in self.volumes {
            let _map = volume.map();
            let status =
                volume.patiently("status", || volume.mapper().status(&volume.shape.name))?;
            if status.get(2).is_some_and(|held| held != "0") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn waiting(&self) -> String {
        let status =
            |volume: &Volume<'_>| volume.mapper().status(&volume.shape.name).unwrap_or_default();
        self.volumes.iter().map(|v| format!("{} {:?}; ", v.shape.name, status(v))).collect()
    }

    fn serve(&mut self, number: usize) -> Result<()> {
        let volume = &self.volumes[number];
        let mut map = volume.map();
        let mut more = true;
        while more {
            let reply = volume.tell("pending")?;
            more = reply.lines().any(|line| line == "more");
            let before: Vec<u64> = map.mapped.keys().copied().collect();
            for line in reply.lines().filter(|line| *line != "more") {
                let words: Vec<&str> = line.split(' ').collect();
                let [kind, chunk, ref part @ ..] = words[..] else {
                    bail!("no answer of 'pending': {line}")
                };
                *self.seen.entry(kind.to_owned()).or_default() += 1;
                let chunk = chunk.parse()?;
                let whole = part == ["0", &volume.shape.chunk_sectors.to_string()];
                let was_mapped = before.binary_search(&chunk).is_ok();
                ensure!(
                    was_mapped != (kind == "w"),
                    "{}: '{line}', and it is mapped: {was_mapped}",
                    volume.shape.name
                );
                let turn = self.turns.entry((number, chunk)).or_default();
                *turn += 1;
                let rng = chance(self.seed, &format!("turn {number} {chunk} {turn}"));
                one(volume, &mut map, (kind, chunk, whole), rng)?;
            }
        }
        Ok(())
    }
}

/// Does what one line of `pending` asks for: its kind, the chunk, and whether all of it is written.
fn one(
    volume: &Volume<'_>,
    map: &mut Map,
    (kind, chunk, whole): (&str, u64, bool),
    mut rng: Rng,
) -> Result<()> {
    let alone = chunk..chunk + 1;
    let alone = std::slice::from_ref(&alone);
    match kind {
        "w" => {
            volume.grow(map, chunk..chunk + if rng.bool() { 1 } else { rng.u64(1..=4) }, false)?
        }
        "p" => {
            let shared = map.mapped.get(&chunk).is_some_and(|mapped| map.is_shared(mapped));
            // The target knows whether there is such a write, also where the server errs.
            if rng.u32(0..10) < if whole { 7 } else { 2 } {
                volume.overwrite_chunk(map, chunk)?;
            }
            if shared || rng.u32(0..10) < 7 {
                volume.move_chunk(map, chunk)?;
            } else {
                volume.protect(map, alone, false)?;
            }
        }
        "a" if rng.bool() => volume.grow(map, chunk + 1..chunk + 2, true)?,
        "a" => {}
        "d" => {
            let how = match rng.u32(0..10) {
                0..2 => return Ok(()),
                2..5 => Leave::AtOnce,
                5..9 => Leave::InTwoSteps,
                _ => Leave::AndComeBack,
            };
            volume.take_back(map, alone, false, how)?;
        }
        "h" => volume.give_up(map, chunk)?,
        other => bail!("an unknown answer of 'pending': {other}"),
    }
    Ok(())
}
