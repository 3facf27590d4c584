// SPDX-License-Identifier: LGPL-2.1-or-later
//! Which runs of a layer get to lie together.

use std::iter::Peekable;

use virtnotify_model::BackendError;

use super::core::relocate::{Batch, Relocation};
use super::core::{Core, MOST_RUNS, Txn};
use crate::alloc::{LayerId, Run};

/// How the next step begins; each names the chunk of the layer behind it.
pub(super) enum Next {
    Batch(Batch, u64),
    /// The runs are being written for the first time, or discarded.
    Skip(u64),
    /// Others change the volumes.
    Busy(u64),
    /// The number of chunks that are wanted in one piece.
    NoRoom(u64, u64),
    /// There are no runs to join any more.
    End,
}

/// The first runs that follow each other in the layer and not on the disk: together `long` chunks, or
/// a little more. Runs as long as that stay where they are.
fn window<I: Iterator<Item = Run>>(runs: &mut Peekable<I>, long: u64) -> Vec<Run> {
    let mut window: Vec<Run> = Vec::new();
    while let Some(&run) = runs.peek() {
        let follows = window.last().is_none_or(|last| last.end() == run.at);
        let length: u64 = window.iter().map(|run| run.to.length).sum();
        let full = length >= long || window.len() >= MOST_RUNS;
        if full || !follows || run.to.length >= long {
            if window.len() > 1 {
                break;
            }
            window.clear();
        }
        if run.to.length < long {
            window.push(run);
        }
        runs.next();
    }
    if window.len() > 1 { window } else { Vec::new() }
}

/// How many chunks move when all windows of a layer with these runs are joined.
pub(super) fn total(runs: impl Iterator<Item = Run>, long: u64) -> u64 {
    let (mut runs, mut total) = (runs.peekable(), 0);
    while runs.peek().is_some() {
        total += window(&mut runs, long).iter().map(|run| run.to.length).sum::<u64>();
    }
    total
}

/// Begins to join runs of a layer behind a chunk, `long` chunks at once, in one piece of free space;
/// `spare` zeroed chunks stay free.
pub(super) fn begin(
    core: &mut Core,
    layer: LayerId,
    at: u64,
    long: u64,
    spare: u64,
) -> Result<Next, BackendError> {
    let window = window(&mut core.layer_runs_from(layer, at).peekable(), long);
    let (Some(first), Some(last)) = (window.first(), window.last()) else { return Ok(Next::End) };
    let (end, length) = (last.end(), last.end() - first.at);
    if !core.can_relocate(layer) {
        return Ok(Next::Busy(end));
    }
    if window.iter().any(core.in_motion(layer)) {
        return Ok(Next::Skip(end));
    }
    let batch = core.begin_relocating(layer, |txn| take(txn, layer, &window, spare))?;
    Ok(batch.map_or(Next::NoRoom(length, end), |batch| Next::Batch(batch, end)))
}

/// Takes room for all of these runs in one piece, where the run before them ends if that is free.
fn take(txn: &mut Txn<'_>, layer: LayerId, window: &[Run], spare: u64) -> Vec<Relocation> {
    let (Some(first), length) = (window.first(), window.iter().map(|r| r.to.length).sum()) else {
        return Vec::new();
    };
    let hint = first.at.checked_sub(1).and_then(|before| txn.own_place(layer, before));
    let hint = hint.map(|place| place.after(1));
    let Some(piece) = txn.take_piece_to_fill(hint, length, spare) else { return Vec::new() };
    let to = |run: &Run| Relocation { run: *run, to: piece.start.after(run.at - first.at) };
    window.iter().map(to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alloc::{Extent, Place};

    fn run(at: u64, chunk: u64, length: u64) -> Run {
        Run { at, to: Extent { start: Place { lv: 0, chunk }, length } }
    }

    fn windows(runs: &[Run], long: u64) -> Vec<Vec<u64>> {
        let mut runs = runs.iter().copied().peekable();
        let mut all = Vec::new();
        while runs.peek().is_some() {
            let window = window(&mut runs, long);
            all.push(window.iter().map(|run| run.at).collect::<Vec<_>>());
        }
        all.retain(|window| !window.is_empty());
        all
    }

    #[test]
    fn only_what_follows_each_other_is_joined() {
        // One run needs nothing; neither do runs with holes between them.
        assert_eq!(windows(&[run(0, 5, 3)], 8), Vec::<Vec<u64>>::new());
        assert_eq!(windows(&[run(0, 5, 3), run(4, 9, 3)], 8), Vec::<Vec<u64>>::new());
        assert_eq!(windows(&[run(0, 5, 3), run(3, 9, 3), run(8, 20, 1)], 8), [[0, 3]]);
    }

    #[test]
    fn windows_are_as_long_as_asked_and_long_runs_stay() {
        let short: Vec<Run> = (0..8).map(|n| run(n, 100 - 2 * n, 1)).collect();
        assert_eq!(windows(&short, 4), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(total(short.iter().copied(), 4), 8);
        let mixed = [run(0, 0, 1), run(1, 9, 1), run(2, 20, 4), run(6, 50, 1), run(7, 40, 2)];
        assert_eq!(windows(&mixed, 4), [[0, 1], [6, 7]]);
        assert_eq!(total(mixed.into_iter(), 4), 5);
        // What is as long as that at the end of a window is not torn apart.
        assert_eq!(total([run(0, 0, 1), run(1, 9, 4)].into_iter(), 4), 0);
    }
}
