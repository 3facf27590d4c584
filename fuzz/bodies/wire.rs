// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is done with bytes that came over the wire.

use bytes::BytesMut;
use virtnotify_wire::codec::Again;
use virtnotify_wire::{Procedure, frame};

/// Reads a payload: an error, or a value that is the same when it was written and read again.
/// Whether libvirt would have read it is not asked: we are not stricter.
fn read(again: Again, payload: &[u8]) {
    if let Ok(written) = again(payload) {
        assert_eq!(again(&written).as_deref(), Ok(&written[..]));
    }
}

/// Reads frames as long as there are any. A frame is the bytes it came from.
pub fn frames(data: &[u8]) {
    let mut read = BytesMut::from(data);
    let mut at = 0;
    while let Ok(Some(frame)) = frame::decode(&mut read) {
        let bytes = frame.bytes().clone();
        assert_eq!(&data[at..at + bytes.len()], &bytes[..]);
        at += bytes.len();
        assert!(frame.n_fds <= frame::FDS_MAX);
        let _ = frame.decode_error();
        if let Some(again) = frame.payload_codec() {
            self::read(again, &frame.payload());
        }
        let serial = frame.header.serial;
        assert_eq!(frame.clone().with_serial(!serial).with_serial(serial), frame);
    }
    assert!(at + read.len() == data.len());
}

/// Takes the first byte as the choice of a type and the rest as a value of it.
pub fn values(data: &[u8]) {
    let Some((choice, payload)) = data.split_first() else { return };
    let procedure = Procedure::ALL[usize::from(choice >> 1) % Procedure::ALL.len()];
    if let Some(codec) = procedure.codec() {
        read(if choice & 1 == 0 { codec.args } else { codec.ret }, payload);
    }
}
