// SPDX-License-Identifier: LGPL-2.1-or-later
//! What the model lets pass, and what it does not.

use super::*;
use crate::content::fill;

fn model() -> Model {
    Model::new(0, 4, 4)
}

fn begin(model: &Model, kind: Kind, blocks: Range<u64>, stamp: Stamp) -> Op {
    model.begin(kind, blocks, stamp).unwrap()
}

fn do_all(model: &Model, kind: Kind, blocks: Range<u64>, stamp: Stamp) {
    let op = begin(model, kind, blocks, stamp);
    model.done(&op).unwrap();
}

fn holds(block: u64, stamp: Stamp) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    fill(&mut bytes, 0, block, stamp);
    bytes
}

/// Whether a read may find that.
fn may_be(model: &Model, block: u64, stamp: Stamp) -> bool {
    let op = begin(model, Kind::Read, block..block + 1, ZERO);
    model.found(&op, &holds(block, stamp)).is_ok()
}

#[test]
fn a_write_that_is_acknowledged_leaves_its_own_value_alone() {
    let model = model();
    do_all(&model, Kind::Write, 0..2, 5);
    assert!(!may_be(&model, 0, ZERO) && may_be(&model, 0, 5));
    do_all(&model, Kind::Write, 1..3, 6);
    assert!(may_be(&model, 0, 5) && !may_be(&model, 1, 5) && may_be(&model, 1, 6));
    assert!(may_be(&model, 3, ZERO));
}

#[test]
fn one_that_fails_leaves_both() {
    for found in [ZERO, 5] {
        let model = model();
        let op = begin(&model, Kind::Write, 0..1, 5);
        model.failed(&op);
        assert!(may_be(&model, 0, found));
        // What was read is settled.
        assert!(!may_be(&model, 0, 5 - found));
        do_all(&model, Kind::Write, 0..1, 6);
        assert!(!may_be(&model, 0, found));
    }
}

#[test]
fn writes_that_meet_leave_both() {
    for found in [5, 6] {
        let model = model();
        let first = begin(&model, Kind::Write, 0..1, 5);
        let second = begin(&model, Kind::Write, 0..1, 6);
        assert!(may_be(&model, 0, ZERO) && may_be(&model, 0, 6));
        model.done(&first).unwrap();
        model.done(&second).unwrap();
        assert!(!may_be(&model, 0, ZERO) && may_be(&model, 0, found));
    }
}

#[test]
fn a_read_that_meets_a_write_may_find_old_and_new() {
    for found in [ZERO, 5] {
        let model = model();
        let read = begin(&model, Kind::Read, 0..1, ZERO);
        do_all(&model, Kind::Write, 0..1, 5);
        model.found(&read, &holds(0, found)).unwrap();
        assert!(!may_be(&model, 0, ZERO) && may_be(&model, 0, 5));
    }
}

#[test]
fn a_discard_leaves_what_was_there_or_zeroes() {
    for found in [ZERO, 5] {
        let model = model();
        do_all(&model, Kind::Write, 0..4, 5);
        do_all(&model, Kind::Discard, 0..4, ZERO);
        assert!(may_be(&model, 0, found) && !may_be(&model, 0, 5 - found));
        do_all(&model, Kind::Write, 0..4, 6);
        assert!(!may_be(&model, 0, ZERO));
    }
}

#[test]
fn a_discard_that_met_a_write_brings_zeroes_only_by_an_unmap() {
    let model = model();
    let discard = begin(&model, Kind::Discard, 0..4, ZERO);
    do_all(&model, Kind::Write, 0..1, 5);
    model.done(&discard).unwrap();
    assert!(may_be(&model, 0, 5) && !may_be(&model, 0, ZERO));
    let holes = model.begin_holes(0..1);
    model.done(&holes).unwrap();
    assert!(may_be(&model, 0, ZERO) && !may_be(&model, 0, 5));
}

#[test]
fn a_discard_of_a_part_is_no_reason_to_unmap() {
    let model = model();
    let discard = begin(&model, Kind::Discard, 0..3, ZERO);
    do_all(&model, Kind::Write, 0..1, 5);
    model.done(&discard).unwrap();
    assert!(may_be(&model, 0, 5));
    let holes = model.begin_holes(0..1);
    assert!(model.done(&holes).unwrap_err().contains("without force"));
}

#[test]
fn a_later_write_to_the_chunk_ends_what_the_discard_may_bring() {
    let model = model();
    let discard = begin(&model, Kind::Discard, 0..4, ZERO);
    do_all(&model, Kind::Write, 0..1, 5);
    model.done(&discard).unwrap();
    assert!(may_be(&model, 0, 5));
    do_all(&model, Kind::Write, 2..3, 6);
    let holes = model.begin_holes(0..1);
    assert!(model.done(&holes).is_err());
}

#[test]
fn holes_that_are_refused_change_nothing() {
    let model = model();
    do_all(&model, Kind::Write, 0..4, 5);
    let holes = model.begin_holes(0..1);
    model.refused(&holes);
    assert!(may_be(&model, 0, 5) && !may_be(&model, 0, ZERO));
    let holes = model.begin_holes(0..1);
    model.done_by_force(&holes);
    assert!(may_be(&model, 0, ZERO) && !may_be(&model, 0, 5));
}

#[test]
fn a_torn_block_is_wrong_unless_two_values_are_possible() {
    let model = model();
    let torn = [&holds(0, 5)[..512], &holds(0, 6)[512..]].concat();
    do_all(&model, Kind::Write, 0..1, 5);
    let op = begin(&model, Kind::Read, 0..1, ZERO);
    assert!(model.found(&op, &torn).is_err());
    let op = begin(&model, Kind::Write, 0..1, 6);
    model.failed(&op);
    let op = begin(&model, Kind::Read, 0..1, ZERO);
    model.found(&op, &torn).unwrap();
}

#[test]
fn what_goes_beyond_the_end_does_not_begin() {
    let model = model();
    model.set_limit(2);
    assert!(model.begin(Kind::Write, 6..9, 5).is_none());
    assert!(model.begin(Kind::Write, 6..8, 5).is_some());
}

#[test]
fn a_snapshot_has_what_was_acknowledged_and_may_have_what_was_under_way() {
    let model = model();
    do_all(&model, Kind::Write, 0..2, 5);
    let under_way = begin(&model, Kind::Write, 1..2, 6);
    let cut = model.begin_cut();
    do_all(&model, Kind::Write, 2..3, 7);
    let blocks = model.cut(&cut);
    do_all(&model, Kind::Write, 0..4, 8);
    model.done(&under_way).unwrap();
    assert_eq!(blocks.len(), 16);
    assert_eq!(blocks[0], [5]);
    let sorted = |block: usize| {
        let mut stamps = blocks[block].clone();
        stamps.sort_unstable();
        stamps
    };
    assert_eq!((sorted(1), sorted(2), sorted(3)), (vec![5, 6], vec![ZERO, 7], vec![ZERO]));
}

#[test]
fn a_chunk_that_is_overwritten_may_be_zeroes_until_the_write_is_done() {
    let model = model();
    do_all(&model, Kind::Write, 0..4, 5);
    let write = begin(&model, Kind::Write, 0..4, 6);
    assert!(!may_be(&model, 0, ZERO));
    let op = model.begin_overwrite(0);
    assert!(may_be(&model, 0, ZERO));
    model.done(&write).unwrap();
    model.overwritten(&op).unwrap();
    assert!(may_be(&model, 0, 6) && !may_be(&model, 0, ZERO) && !may_be(&model, 0, 5));
}

#[test]
fn one_that_is_not_overwritten_stays_what_it_was() {
    let model = model();
    do_all(&model, Kind::Write, 0..4, 5);
    let op = model.begin_overwrite(0);
    model.refused(&op);
    assert!(may_be(&model, 0, 5) && !may_be(&model, 0, ZERO));
}

#[test]
fn a_chunk_is_overwritten_by_a_write_of_all_of_it() {
    let model = model();
    do_all(&model, Kind::Write, 0..4, 5);
    begin(&model, Kind::Write, 1..4, 6);
    let op = model.begin_overwrite(0);
    assert!(model.overwritten(&op).unwrap_err().contains("without a copy"));
    begin(&model, Kind::Write, 0..8, 7);
    model.overwritten(&op).unwrap();
}
