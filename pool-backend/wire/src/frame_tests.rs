// SPDX-License-Identifier: LGPL-2.1-or-later
use proptest::prelude::*;

use super::*;
use crate::ErrorCode;

/// Frames recorded from real daemons; see the first lines of the files.
const RECORDED: [&str; 2] =
    [include_str!("../testdata/libvirt-9.0.txt"), include_str!("../testdata/libvirt-11.3.txt")];

struct Recorded {
    name: String,
    kind: String,
    status: String,
    bytes: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let lines = RECORDED.iter().flat_map(|file| file.lines());
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let digits = words[4].as_bytes().chunks(2);
            let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            Recorded {
                name: words[1].to_owned(),
                kind: words[2].to_owned(),
                status: words[3].to_owned(),
                bytes: digits.map(byte).collect(),
            }
        })
        .collect()
}

fn cut(bytes: &[u8]) -> Frame {
    let mut read = BytesMut::from(bytes);
    let frame = decode_frame(&mut read).unwrap().unwrap();
    assert!(read.is_empty());
    frame
}

fn decode_frame(read: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    super::decode(read)
}

#[test]
fn recorded_frames_keep_their_bytes_and_say_what_they_are() {
    for one in recorded() {
        let frame = cut(&one.bytes);
        assert_eq!(frame.bytes(), &one.bytes);
        let again = Frame::new(frame.header, &frame.payload()).unwrap();
        assert_eq!(again.bytes(), &one.bytes);
        if frame.header.program == KEEPALIVE_PROGRAM {
            continue;
        }
        let procedure = frame.known_procedure().expect(&one.name);
        assert_eq!(procedure.name(), one.name);
        let kind = match frame.header.kind {
            MessageType::Call => "CALL",
            MessageType::Reply => "REPLY",
            MessageType::Message => "MESSAGE",
            MessageType::Stream => "STREAM",
            MessageType::StreamHole => "STREAM_HOLE",
            other => panic!("{other:?}"),
        };
        assert_eq!(kind, one.kind);
        let status = match frame.header.status {
            Status::Ok => "OK",
            Status::Error => "ERROR",
            Status::Continue => "CONTINUE",
            other @ Status::Other(_) => panic!("{other:?}"),
        };
        assert_eq!(status, one.status);
    }
}

#[test]
fn recorded_payloads_decode_and_encode_to_the_same_bytes() {
    let mut called = std::collections::HashSet::new();
    for one in recorded() {
        let frame = cut(&one.bytes);
        let Some(again) = frame.payload_codec() else { continue };
        assert_eq!(again(&frame.payload()).as_deref(), Ok(&frame.payload()[..]), "{}", one.name);
        if frame.header.kind == MessageType::Call {
            called.insert(one.name);
        }
    }
    for procedure in Procedure::ALL.iter().filter(|procedure| procedure.is_storage()) {
        assert!(called.contains(procedure.name()), "{procedure} was not recorded");
    }
}

#[test]
fn recorded_frames_cut_short_ask_for_more() {
    for one in recorded() {
        for len in 0..one.bytes.len() {
            let mut read = BytesMut::from(&one.bytes[..len]);
            assert_eq!(decode_frame(&mut read).unwrap(), None);
            assert_eq!(read.len(), len, "nothing is taken before the frame is whole");
        }
    }
}

#[test]
fn recorded_payloads_cut_short_are_errors() {
    for one in recorded() {
        let frame = cut(&one.bytes);
        let Some(again) = frame.payload_codec() else { continue };
        let payload = frame.payload();
        for len in 0..payload.len() {
            assert!(again(&payload[..len]).is_err(), "{} at {len}", one.name);
        }
    }
}

fn header() -> Header {
    Header::remote(Procedure::StoragePoolGetInfo, MessageType::Call, 7, Status::Ok)
}

#[test]
fn two_frames_in_one_read_come_out_one_by_one() {
    let first = Frame::new(header(), b"abcd").unwrap();
    let second = Frame::new(Header { serial: 8, ..header() }, b"").unwrap();
    let mut read = BytesMut::from(&[&first.bytes()[..], second.bytes()].concat()[..]);
    assert_eq!(decode_frame(&mut read).unwrap(), Some(first));
    assert_eq!(decode_frame(&mut read).unwrap(), Some(second));
    assert_eq!(decode_frame(&mut read).unwrap(), None);
}

#[test]
fn impossible_lengths_are_refused_from_the_first_word_on() {
    let refused = |len: u32| announced_len(&len.to_be_bytes()).unwrap_err();
    assert_eq!(refused(0), FrameError::TooShort(0));
    assert_eq!(refused(27), FrameError::TooShort(27));
    assert_eq!(refused(33_554_437), FrameError::TooLong(33_554_437));
    assert_eq!(refused(u32::MAX), FrameError::TooLong(4_294_967_295));
    assert_eq!(announced_len(&28u32.to_be_bytes()), Ok(Some(28)));
    assert_eq!(announced_len(&33_554_436u32.to_be_bytes()), Ok(Some(FRAME_MAX)));
    assert_eq!(announced_len(&[0, 0, 1]), Ok(None));
}

#[test]
fn a_frame_that_is_too_long_is_not_made() {
    let payload = vec![0; FRAME_MAX - FRAME_MIN + 1];
    assert_eq!(Frame::new(header(), &payload), Err(FrameError::TooLong(FRAME_MAX + 1)));
    assert!(Frame::new(header(), &payload[1..]).is_ok());
}

fn with_fds(count: &[u8]) -> Result<Option<Frame>, FrameError> {
    let frame = Frame::new(Header { kind: MessageType::CallWithFds, ..header() }, count).unwrap();
    decode_frame(&mut BytesMut::from(&frame.bytes()[..]))
}

#[test]
fn the_count_of_descriptors_is_no_part_of_the_payload() {
    let frame = with_fds(&[0, 0, 0, 2, 9, 9, 9, 9]).unwrap().unwrap();
    assert_eq!((frame.n_fds, &frame.payload()[..]), (2, &[9, 9, 9, 9][..]));
    assert_eq!(with_fds(&[0, 0, 0, 33]), Err(FrameError::TooManyFds(33)));
    assert_eq!(with_fds(&[0, 0]), Err(FrameError::NoFdCount));
}

#[test]
fn a_new_serial_changes_nothing_else() {
    let frame = Frame::new(header(), b"abcd").unwrap();
    let shared = frame.clone();
    let other = frame.with_serial(0xF000_0001);
    assert_eq!(other.header.serial, 0xF000_0001);
    assert_eq!(cut(other.bytes()), other);
    assert_eq!(shared.header.serial, 7);
    assert_eq!(other.with_serial(7), shared);
}

#[test]
fn an_error_survives_the_wire() {
    let error = RemoteError::new(ErrorCode::NO_STORAGE_VOL, "no storage vol 'x'");
    assert_eq!(error.message.as_deref(), Some("Storage volume not found: no storage vol 'x'"));
    let frame = cut(Frame::error_reply(&header(), &error).bytes());
    assert_eq!(frame.header.status, Status::Error);
    assert_eq!(frame.header.serial, 7);
    assert_eq!(frame.decode_error().unwrap(), error);
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut read = BytesMut::from(&bytes[..]);
        if let Ok(Some(frame)) = decode_frame(&mut read) {
            prop_assert_eq!(&frame.bytes()[..], &bytes[..frame.bytes().len()]);
            let _ = frame.payload();
        }
    }

    #[test]
    fn any_header_survives(
        program: u32, version: u32, procedure: i32, kind: u32, serial: u32, status: u32,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (kind, status) = (MessageType::from(kind), Status::from(status));
        prop_assume!(!kind.has_fds());
        let header = Header { program, version, procedure, kind, serial, status };
        let frame = Frame::new(header, &payload).unwrap();
        prop_assert_eq!(&frame, &cut(frame.bytes()));
        prop_assert_eq!(&frame.payload()[..], &payload[..]);
    }
}
