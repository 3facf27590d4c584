// SPDX-License-Identifier: LGPL-2.1-or-later
//! Who does something at the same time, and what must hold at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, ensure};

use crate::bell::Bell;
use crate::disturbance::Disturbance;
use crate::dm::Mapper;
use crate::fault::Faults;
use crate::server::{Server, Signs};
use crate::store::Store;
use crate::upheaval::Upheaval;
use crate::volume::Volume;
use crate::{Plan, chance};

/// Where the files behind the data devices lie: in memory.
pub const MEMORY: &str = "/dev/shm";

/// What all volumes of a run share.
pub struct Ground {
    /// The device mapper.
    pub mapper: Mapper,
    /// The data devices.
    pub store: Store,
    /// The notifier's process.
    pub notifier: Mutex<u32>,
    bell: Mutex<Option<(Bell, std::sync::mpsc::Sender<()>)>>,
    rung: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

impl Ground {
    /// Data devices of so many chunks each, one of them as slow as is asked for, and a notifier.
    pub fn make(chunk_bytes: usize, chunks: u64, slow: Option<u64>) -> Result<Self> {
        let (sender, rung) = channel();
        let bell = Bell::start(sender.clone())?;
        let mapper = Mapper::open()?;
        Ok(Self {
            store: Store::make(&mapper, Path::new(MEMORY), chunk_bytes, chunks, slow)?,
            mapper,
            notifier: Mutex::new(bell.pid()),
            bell: Mutex::new(Some((bell, sender))),
            rung: Mutex::new(Some(rung)),
        })
    }
}

/// Ends the whole run at once, whatever its other threads do.
pub fn give_up(seed: u64, error: &Error) -> ! {
    println!("FAILED: {error:#}\nThe seed was {seed}.");
    std::process::exit(1);
}

/// Does a thread's work, and ends the run if that fails.
pub fn or_give_up<T>(seed: u64, work: impl FnOnce() -> Result<T>) -> T {
    work().unwrap_or_else(|error| give_up(seed, &error))
}

/// Has everything happen to the volumes as long as the load lasts, which gets the time of its end.
/// Returns the notifier, which still is there.
pub fn all_at_once<'a>(
    plan: Plan,
    ground: &'a Ground,
    volumes: &'a [Volume<'a>],
    load: impl FnOnce(Instant) -> Result<()>,
) -> Result<Bell> {
    let taken = |text| anyhow::anyhow!("{text} is in use");
    let (bell, sender) =
        ground.bell.lock().ok().and_then(|mut b| b.take()).ok_or_else(|| taken("the bell"))?;
    let rung = ground
        .rung
        .lock()
        .ok()
        .and_then(|mut r| r.take())
        .ok_or_else(|| taken("the bell's pipe"))?;
    let (signs, seed) = (Signs::default(), plan.seed);
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let mut seen = BTreeMap::new();
    let faults = if plan.memory_lasts { Faults::none() } else { Faults::prepare()? };
    let mut disturbance = Disturbance::new(volumes, &ground.notifier, bell, sender, &signs, faults);
    let (signs, taken) = (&signs, &mut seen);
    std::thread::scope(|scope| {
        let mut server = Server::new(volumes, seed, rung, signs);
        scope.spawn(move || {
            or_give_up(seed, || server.run());
            *taken = server.seen;
        });
        let disturbed = &mut disturbance;
        let disturbing = scope.spawn(move || {
            let mut rng = chance(seed, "disturbance");
            while Instant::now() < end {
                or_give_up(seed, || disturbed.turn(&mut rng));
            }
        });
        let deeds: Vec<_> = (0..)
            .zip(volumes)
            .map(|(number, volume): (u64, _)| {
                scope.spawn(move || {
                    let mut rng = chance(seed, &format!("upheaval {number}"));
                    let mut upheaval = Upheaval::new(volume);
                    while Instant::now() < end {
                        or_give_up(seed, || upheaval.turn(&mut rng));
                    }
                    or_give_up(seed, || calm(&upheaval, volume, plan.seconds));
                })
            })
            .collect();
        or_give_up(seed, || load(end));
        for thread in deeds {
            let _ = thread.join();
        }
        let _ = disturbing.join();
        signs.over.store(true, Ordering::Release);
    });
    println!(
        "the server was told {seen:?}; {:?}; {} allocations failed",
        disturbance.done,
        disturbance.faults.count()?
    );
    let mut kinds = vec!["w", "p", "a", "d"];
    if volumes.iter().any(|volume| volume.model.is_some()) {
        kinds.push("h");
    }
    ensure!(
        plan.seconds < 60 || kinds.iter().all(|kind| seen.contains_key(*kind)),
        "the server was not told all of {kinds:?}"
    );
    Ok(disturbance.end())
}

/// Nothing is protected for ever; and each deed was done.
fn calm(upheaval: &Upheaval<'_>, volume: &Volume<'_>, seconds: u64) -> Result<()> {
    let mut map = volume.map();
    let all = 0..map.chunks;
    volume.protect(&mut map, std::slice::from_ref(&all), false)?;
    println!("{}: {:?}", volume.shape.name, upheaval.done);
    let missing: Vec<_> =
        upheaval.names().filter(|name| !upheaval.done.contains_key(name)).collect();
    ensure!(seconds < 60 || missing.is_empty(), "{}: never done: {missing:?}", volume.shape.name);
    Ok(())
}

/// Nothing waits, the map is what it should be, and the counters agree.
pub fn check_still(volume: &Volume<'_>) -> Result<BTreeMap<String, u64>> {
    let map = volume.map();
    volume.check_map(&map)?;
    let status = volume.patiently("status", || volume.mapper().status(&volume.shape.name))?;
    let [_, wanted, held, _, mode, notifier, timed_out, _, _, state, ..] = status.as_slice() else {
        anyhow::bail!("a status of other fields: {status:?}");
    };
    let calm = [wanted, held, mode, notifier, state];
    ensure!(
        calm == ["0", "0", "rw", "alive", "live"],
        "{}: at the end {status:?}",
        volume.shape.name
    );
    let counters = volume.counters(&map)?;
    let of = |name: &str| counters.get(name).copied().unwrap_or_default();
    let before = map.counters.get("timedout").copied().unwrap_or_default();
    ensure!(
        of("timedout") == before + timed_out.parse::<u64>()?,
        "{}: {counters:?}, {status:?}",
        volume.shape.name
    );
    // What a suspend gave back waits anew.
    let ended = of("wait_count") + of("timedout");
    ensure!(
        ended <= of("held_total"),
        "{}: more writes went on than waited: {counters:?}",
        volume.shape.name
    );
    ensure!(
        of("held_total") > 0 && of("signals") > 0,
        "{}: nothing waited: {counters:?}",
        volume.shape.name
    );
    Ok(counters)
}

/// Removes the volumes and the data devices: nothing else was written to.
pub fn clear(
    ground: Ground,
    mut bell: Bell,
    volumes: &[(String, usize)],
    places: usize,
) -> Result<()> {
    bell.kill()?;
    ground.store.check_free()?;
    let mapped: usize = volumes.iter().map(|(_, mapped)| mapped).sum();
    let free = ground.store.count_free();
    ensure!(free + mapped == places, "{free} chunks are free and {mapped} mapped, of {places}");
    for (name, _) in volumes {
        ground.mapper.remove(name)?;
    }
    ground.store.remove(&ground.mapper)
}
