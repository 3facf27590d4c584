// SPDX-License-Identifier: LGPL-2.1-or-later
//! The whole engine over disks, an LVM and a device mapper in memory, in a host whose threads and time are
//! simulated: guests and operators at random, failures, kills and power cuts, and after each restart
//! a look at every block.
//!
//! The default run is the same each time; `cargo xtask stress --simulate N` has fresh seeds, and as many
//! steps as wanted. A world that fails is made smaller before it is told. With `VIRTNOTIFY_SIMULATE_WORLD=SEED,STEPS,TROUBLE,WITHOUT`, as it was told,
//! the test is that world alone, and logs all that it does.

mod guest;
mod model;
mod operator;
mod trouble;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use self::world::World;

/// How many steps the default run has, from which seed, and how many one world has.
const STEPS: u64 = 1_000_000;
const SEED: u64 = 1;
const WORLD: u64 = 4000;

/// What decides everything that happens in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    seed: u64,
    steps: u64,
    /// Whether disks, LVM and the device mapper fail.
    trouble: bool,
    /// Which kinds of change operators leave out, a bit each.
    without: u64,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, steps, trouble, without } = self;
        write!(out, "VIRTNOTIFY_SIMULATE_WORLD={seed},{steps},{},{without}", u8::from(*trouble))
    }
}

/// Lives until all steps are done; says how often threads were let run, and a number that is the same
/// for the same run.
fn live(plan: Plan) -> Result<(u64, u64), String> {
    let world = World::new(plan);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        while world.steps.get() < plan.steps {
            world.live()?;
        }
        world.end()
    }));
    lived.unwrap_or_else(|_| Err("it panicked".into())).map(|()| world.trace())
}

/// What a failure has in common with others: its first words without names and numbers.
fn kind(what: &str) -> String {
    let words = what.split_whitespace().filter(|word| word.chars().all(char::is_alphabetic));
    words.take(6).collect()
}

/// The smallest plan that fails as well: fewer steps, no trouble, fewer kinds of change.
fn smaller(mut plan: Plan, what: &str) -> Plan {
    let failing = |candidate: Plan| {
        let alike = live(candidate).is_err_and(|other| kind(&other) == kind(what));
        alike.then_some(candidate)
    };
    let mut step = plan.steps / 2;
    while step > 0 {
        match failing(Plan { steps: plan.steps - step, ..plan }) {
            Some(shorter) => plan = shorter,
            None => step /= 2,
        }
        step = step.min(plan.steps / 2);
    }
    plan = failing(Plan { trouble: false, ..plan }).unwrap_or(plan);
    for kind in 0..16 {
        plan = failing(Plan { without: plan.without | (1 << kind), ..plan }).unwrap_or(plan);
    }
    plan
}

/// Lives in worlds of these seeds until so many steps are done.
fn simulate(first: u64, steps: u64) {
    let next = AtomicU64::new(0);
    let worlds = steps.div_ceil(WORLD);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= worlds {
                        break;
                    }
                    let seed = first.wrapping_add(number);
                    let trouble = number % 2 == 1;
                    let plan = Plan { seed, steps: WORLD, trouble, without: 0 };
                    if let Err(what) = live(plan) {
                        next.store(worlds, Ordering::SeqCst);
                        let small = smaller(plan, &what);
                        let again = live(small).err();
                        panic!("{plan}: {what}\nsmaller: {small}: {}", again.unwrap_or_default());
                    }
                }
            });
        }
    });
}

pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// One world again: seed, steps, whether there is trouble, and which kinds of change are left out.
fn world(words: &str) -> Plan {
    let words: Vec<_> = words.split(',').collect();
    let number = |at: usize| words[at].parse().expect("a number");
    Plan { seed: number(0), steps: number(1), trouble: number(2) != 0, without: number(3) }
}

#[test]
fn whatever_happens_each_block_reads_what_it_may() {
    let steps = number("VIRTNOTIFY_SIMULATE_STEPS").unwrap_or(STEPS);
    let seed = number("VIRTNOTIFY_SIMULATE_SEED").unwrap_or(SEED);
    if let Ok(words) = std::env::var("VIRTNOTIFY_SIMULATE_WORLD") {
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).init();
        return assert_eq!(live(world(&words)).err(), None);
    }
    eprintln!("{steps} steps from seed {seed}");
    simulate(seed, steps);
}

#[test]
fn a_seed_gives_the_same_world_each_time() {
    for trouble in [false, true] {
        let plan = Plan { seed: 7, steps: 500, trouble, without: 0 };
        assert_eq!(live(plan), live(plan));
    }
}
