// SPDX-License-Identifier: LGPL-2.1-or-later
//! Writers of blocks on three volumes that share their data devices.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::content::BLOCK;
use crate::model::Model;
use crate::run::{self, Ground, all_at_once, check_still};
use crate::volume::{Shape, Volume};
use crate::worker::{Outcomes, Worker};
use crate::{Plan, chance};

/// Chunks of a volume, at most.
const CHUNKS: u64 = 192;
/// Chunks of each of the two data devices: more than all volumes and their snapshots can have.
const PLACES: u64 = 950;
/// Milliseconds that one of them takes longer than it has to.
const SLOW: u64 = 60;
/// How long a write waits on each volume: on the last one not long enough for a notifier that is stopped.
const HOLD: [u64; 3] = [60, 120, 2];
const WRITERS: u64 = 4;

/// The part.
pub fn run(plan: Plan) -> Result<()> {
    let chunk_sectors = if chance(plan.seed, "shape").bool() { 128 } else { 256 };
    let chunk_bytes = chunk_sectors * 512;
    let ground = Ground::make(usize::try_from(chunk_bytes)?, PLACES, Some(SLOW))?;
    let volumes = make(plan, &ground, chunk_sectors)?;
    let outcomes: Vec<Outcomes> = volumes.iter().map(|_| Outcomes::default()).collect();
    println!("{} volumes of {CHUNKS} chunks of {} KiB", volumes.len(), chunk_bytes >> 10);
    let bell = all_at_once(plan, &ground, &volumes, |end| write(plan, &volumes, &outcomes, end))?;
    let mut left = Vec::new();
    for (volume, outcomes) in volumes.iter().zip(&outcomes) {
        Worker::new(volume, 0, chance(0, "")).read_all()?;
        volume.settle_leaving(&mut volume.map())?;
        volume.drop_snapshots(&mut volume.map())?;
        let counters = check_still(volume)?;
        let [done, no_space, no_memory] = [&outcomes.done, &outcomes.no_space, &outcomes.no_memory]
            .map(|c| c.load(Ordering::Relaxed));
        println!(
            "{}: {done} requests, {no_space} without space, {no_memory} without memory",
            volume.shape.name
        );
        let of = |name: &str| counters.get(name).copied().unwrap_or_default();
        let failed = of("timedout") + of("nospace_failed");
        ensure!(
            no_space <= failed,
            "{}: {no_space} requests failed, and {failed} writes",
            volume.shape.name
        );
        ensure!(
            (failed == 0) == (no_space == 0),
            "{}: {failed} writes failed unseen",
            volume.shape.name
        );
        left.push((volume.shape.name.clone(), volume.map().mapped.len()));
    }
    drop(volumes);
    run::clear(ground, bell, &left, usize::try_from(2 * PLACES)?)
}

fn make(plan: Plan, ground: &Ground, chunk_sectors: u64) -> Result<Vec<Volume<'_>>> {
    let one = |(number, hold_timeout): (u64, u64)| {
        let name = format!("stress{number}");
        let shape = Shape { name, chunk_sectors, chunks: CHUNKS, hold_timeout };
        let model = Model::new(number, chunk_sectors * 512 / BLOCK, CHUNKS);
        let rng = chance(plan.seed, &format!("places {number}"));
        Volume::make(shape, Some(model), &ground.mapper, &ground.store, &ground.notifier, rng)
    };
    (0..).zip(HOLD).map(one).collect()
}

/// All writers at once, until the end.
fn write(plan: Plan, volumes: &[Volume<'_>], outcomes: &[Outcomes], end: Instant) -> Result<()> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, (volume, outcomes)) in (0..).zip(volumes.iter().zip(outcomes)) {
            for writer in number * WRITERS..(number + 1) * WRITERS {
                let rng = chance(plan.seed, &format!("writer {writer}"));
                let mut worker = Worker::new(volume, writer + 1, rng);
                threads.push(scope.spawn(move || {
                    while Instant::now() < end {
                        run::or_give_up(plan.seed, || worker.step(outcomes));
                    }
                }));
            }
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    });
    Ok(())
}
