// SPDX-License-Identifier: LGPL-2.1-or-later
//! The fuzz targets' bodies on the corpus, and on what comes of it when it is tampered with, for
//! a moment; `fuzz/run.sh` does it for long.

#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../../../fuzz/bodies/xml.rs"]
mod body;

/// The files of a target's corpus that are kept.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "xml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// One change: what is at a place gives way to something that XML is made of.
fn change() -> impl Strategy<Value = (Index, Index, &'static str)> {
    const PARTS: [&str; 18] = [
        "",
        "<",
        ">",
        "/>",
        "</",
        "'",
        "=",
        "&",
        ";",
        "&#0;",
        "&amp;",
        " ",
        "\n",
        "xmlns='x'",
        "<!DOCTYPE x>",
        "99999999999999999999",
        "-1",
        "é",
    ];
    (any::<Index>(), any::<Index>(), prop::sample::select(PARTS.to_vec()))
}

fn tampered(seeds: &[Vec<u8>], which: Index, changes: &[(Index, Index, &str)]) -> Vec<u8> {
    let mut data = seeds[which.index(seeds.len())].clone();
    for (place, length, part) in changes {
        let from = place.index(data.len() + 1);
        let to = from + length.index((data.len() - from).min(8) + 1);
        data.splice(from..to, part.bytes());
    }
    data
}

#[test]
fn the_corpus_holds() {
    corpus("pool").iter().for_each(|data| body::pool(data));
    corpus("volume").iter().for_each(|data| body::volume(data));
    corpus("policy").iter().for_each(|data| body::policy(data));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_corpus_tampered_with(which: Index, changes in vec(change(), 1..5)) {
        body::pool(&tampered(&corpus("pool"), which, &changes));
        body::volume(&tampered(&corpus("volume"), which, &changes));
        body::policy(&tampered(&corpus("policy"), which, &changes));
    }
}
