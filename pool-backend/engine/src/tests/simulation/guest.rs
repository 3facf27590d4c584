// SPDX-License-Identifier: LGPL-2.1-or-later
//! A guest: it does one thing after the other to its disks, and looks at what it has written.

use std::time::Duration;

use super::model::{BLOCKS, Effect};
use super::world::{World, offset};
use crate::testing::SECTOR;

/// How long a write may wait: longer than anything fails.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The disks of a guest begin with its number.
pub(super) fn owns(guest: usize, name: &str) -> bool {
    name.starts_with(&guest.to_string()) && !name.contains('@')
}

/// Lives until the host ends.
pub(super) fn live(world: &World, guest: usize) {
    // The daemon was killed while it waited: it waits on.
    let waited = world.model.borrow().guests.get(&guest).cloned();
    if let Some((name, effect)) = waited {
        run(world, guest, &name, effect);
    }
    let mut next = None;
    loop {
        if world.chance(2) {
            world.pause(Duration::from_millis(60));
        }
        let Some(name) = choose(world, guest) else {
            world.pause(Duration::from_millis(500));
            continue;
        };
        world.did_a_step();
        if world.chance(8) {
            look(world, &name);
            continue;
        }
        let effect = effect(world, &name, &mut next);
        world.model.borrow_mut().begin(guest, &name, effect);
        run(world, guest, &name, effect);
    }
}

/// A disk that nobody has taken away.
fn choose(world: &World, guest: usize) -> Option<String> {
    let model = world.model.borrow();
    let open = model.known.iter().filter(|(name, known)| owns(guest, name) && !known.closed);
    let names: Vec<_> = open.map(|(name, _)| name.clone()).collect();
    drop(model);
    let chosen = world.below(names.len() as u64);
    names.get(usize::try_from(chosen).unwrap()).cloned()
}

fn effect(world: &World, name: &str, next: &mut Option<u64>) -> Effect {
    let chunks = world.model.borrow().known[name].chunks;
    if world.chance(10) {
        let chunk = world.below(chunks);
        return Effect::Discard { chunk, chunks: 1 + world.below((chunks - chunk).min(6)) };
    }
    // Some are written in order.
    let block = next.filter(|block| block / BLOCKS < chunks);
    let block = block.unwrap_or_else(|| world.below(chunks * BLOCKS));
    *next = (!world.chance(5)).then_some(block + 1);
    let zero = block.is_multiple_of(BLOCKS) && world.chance(20);
    let value = if zero { 0 } else { world.model.borrow_mut().fresh() };
    Effect::Put { block, value }
}

/// Does it, and notes what it was told.
fn run(world: &World, guest: usize, name: &str, effect: Effect) {
    let target = world.target();
    let Some((_, device)) = world.find(name) else {
        // It has no device for now.
        drop(world.model.borrow_mut().guests.remove(&guest));
        return;
    };
    let done = match effect {
        Effect::Discard { chunk, chunks } => {
            target.discard(&device, chunk..chunk + chunks);
            Some(true)
        }
        Effect::Put { block, value: 0 } => {
            target.try_zeroes(&device, block / BLOCKS, PATIENCE).then_some(true)
        }
        Effect::Put { block, value } => {
            let mut sector = [0; SECTOR];
            sector[..8].copy_from_slice(&value.to_le_bytes());
            target.try_put_at(&device, block / BLOCKS, offset(block), &sector, PATIENCE)
        }
    };
    match done {
        // It does not hear of it.
        _ if world.is_over() => {}
        Some(done) => world.model.borrow_mut().end(guest, done),
        None => world.wrong(format!("guest {guest} waits for ever: {effect:?} to '{name}'")),
    }
}

/// Looks at a disk or a snapshot of it.
fn look(world: &World, name: &str) {
    let names: Vec<_> = {
        let model = world.model.borrow();
        let open = model.known.iter().filter(|(_, known)| !known.closed);
        let of = |other: &str| other.split('@').next() == Some(name);
        open.map(|(other, _)| other.clone()).filter(|other| of(other)).collect()
    };
    for name in names {
        let seen = world.see(&name);
        let model = world.model.borrow();
        let open = model.known.get(&name).is_some_and(|known| !known.closed);
        if !open || model.is_changing(&name) {
            continue;
        }
        // A snapshot may have no device after a failure.
        let absent = seen.is_none() && world.troubled.get();
        let whole = if absent { Ok(()) } else { model.check(&name, &|_| seen.clone()) };
        drop(model);
        if let Err(what) = whole {
            world.wrong(what);
        }
    }
}
