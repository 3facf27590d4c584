// SPDX-License-Identifier: LGPL-2.1-or-later
//! Makes the first inputs of the targets `frame` and `xdr` of the frames that were recorded from
//! real daemons (`pool-backend/wire/testdata`).

use std::path::Path;
use std::{fs, io};

use bytes::BytesMut;
use virtnotify_wire::{MessageType, Procedure, frame};

const RECORDED: [&str; 2] = [
    include_str!("../../pool-backend/wire/testdata/libvirt-9.0.txt"),
    include_str!("../../pool-backend/wire/testdata/libvirt-11.3.txt"),
];

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2).map(std::str::from_utf8);
    pairs.map(|pair| u8::from_str_radix(pair.ok()?, 16).ok()).collect()
}

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    fs::create_dir_all(corpus.join("frame"))?;
    fs::create_dir_all(corpus.join("xdr"))?;
    let lines = RECORDED.iter().flat_map(|file| file.lines()).filter(|line| !line.starts_with('#'));
    let frames = lines.filter_map(|line| bytes(line.split(' ').nth(4)?));
    for (number, raw) in frames.enumerate() {
        fs::write(corpus.join(format!("frame/{number}")), &raw)?;
        let Ok(Some(frame)) = frame::decode(&mut BytesMut::from(&raw[..])) else { continue };
        let known = frame.known_procedure();
        let place = known.and_then(|known| Procedure::ALL.iter().position(|one| *one == known));
        let reply = u8::from(frame.header.kind == MessageType::Reply);
        if let Some(place) = place.and_then(|place| u8::try_from(place).ok()) {
            let value = [&[place << 1 | reply], &frame.payload()[..]].concat();
            fs::write(corpus.join(format!("xdr/{number}")), value)?;
        }
    }
    Ok(())
}
