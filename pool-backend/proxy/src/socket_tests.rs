// SPDX-License-Identifier: LGPL-2.1-or-later
use std::os::fd::AsRawFd;

use tokio::io::AsyncWriteExt;
use virtnotify_wire::{Header, MessageType, Procedure, Status};

use super::*;

fn pair() -> (FrameReader, FrameWriter) {
    let (near, far) = UnixStream::pair().unwrap();
    let (reader, _) = split(near);
    let (_, writer) = split(far);
    (reader, writer)
}

fn frame(kind: MessageType, payload: &[u8]) -> Frame {
    let header = Header::remote(Procedure::StoragePoolGetInfo, kind, 1, Status::Ok);
    let made = Frame::new(header, payload).unwrap();
    frame::decode(&mut BytesMut::from(&made.bytes()[..])).unwrap().unwrap()
}

#[tokio::test]
async fn frames_come_out_as_they_went_in() {
    let (mut reader, mut writer) = pair();
    let small = frame(MessageType::Call, b"abcd");
    let large = frame(MessageType::Stream, &vec![7; 3_000_000]);
    let sent = [small.clone(), large.clone(), small.clone()];
    let writing = tokio::spawn(async move {
        for frame in sent {
            writer.write(&frame.into()).await.unwrap();
        }
    });
    for expected in [&small, &large, &small] {
        assert_eq!(&reader.read().await.unwrap().unwrap().frame, expected);
    }
    writing.await.unwrap();
    assert!(reader.read().await.unwrap().is_none());
}

#[tokio::test]
async fn descriptors_arrive_with_their_frame() {
    let (mut reader, mut writer) = pair();
    let files: Vec<_> = (0..3).map(|_| tempfile::tempfile().unwrap()).collect();
    let inodes = |fds: &[OwnedFd]| -> Vec<u64> {
        fds.iter().map(|fd| rustix::fs::fstat(fd).unwrap().st_ino).collect()
    };
    let fds: Vec<OwnedFd> = files.into_iter().map(OwnedFd::from).collect();
    let expected = inodes(&fds);
    let with_fds = frame(MessageType::CallWithFds, &[0, 0, 0, 3, 1, 2, 3, 4]);
    let plain = frame(MessageType::Call, b"next");
    let sent = [Message { frame: with_fds.clone(), fds }, plain.clone().into()];
    tokio::spawn(async move {
        for message in sent {
            writer.write(&message).await.unwrap();
        }
    });
    let received = reader.read().await.unwrap().unwrap();
    assert_eq!(received.frame, with_fds);
    assert_eq!(inodes(&received.fds), expected);
    assert_eq!(reader.read().await.unwrap().unwrap().frame, plain);
}

#[tokio::test]
async fn giving_up_waiting_loses_nothing() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let (mut reader, _) = split(near);
    let expected = frame(MessageType::Call, b"abcd");
    let bytes = expected.bytes().clone();
    for byte in &bytes[..bytes.len() - 1] {
        far.write_all(&[*byte]).await.unwrap();
        tokio::select! {
            biased;
            _ = reader.read() => panic!("not whole yet"),
            () = tokio::task::yield_now() => {}
        }
    }
    far.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
    assert_eq!(reader.read().await.unwrap().unwrap().frame, expected);
}

#[tokio::test]
async fn a_descriptor_that_does_not_come_is_an_error() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let (mut reader, _) = split(near);
    far.write_all(frame(MessageType::CallWithFds, &[0, 0, 0, 1]).bytes()).await.unwrap();
    far.write_all(&[0]).await.unwrap();
    assert!(matches!(reader.read().await, Err(ReadError::Descriptor(0))));
}

#[tokio::test]
async fn descriptors_nobody_announced_are_closed() {
    let (near, far) = UnixStream::pair().unwrap();
    let (mut reader, _) = split(near);
    let (pipe_read, pipe_write) = std::io::pipe().unwrap();
    let plain = frame(MessageType::Call, b"abcd");
    let fds = [pipe_write.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let bytes = IoSlice::new(plain.bytes());
    sendmsg(&far, &[bytes], &mut control, SendFlags::empty()).unwrap();
    drop(pipe_write);
    let message = reader.read().await.unwrap().unwrap();
    assert_eq!((message.frame, message.fds.len()), (plain, 0));
    // The last writer is gone: reading ends at once.
    assert!(pipe_read.as_raw_fd() > 0);
    assert_eq!(std::io::read_to_string(pipe_read).unwrap(), "");
}

#[tokio::test]
async fn hostile_lengths_end_the_connection_without_memory() {
    for (word, expected) in [(27u32, "too short"), (33_554_437, "above the limit")] {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (mut reader, _) = split(near);
        far.write_all(&[&word.to_be_bytes()[..], &[0; 24]].concat()).await.unwrap();
        let error = reader.read().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (near, mut far) = UnixStream::pair().unwrap();
    let (mut reader, _) = split(near);
    far.write_all(&[&33_000_000u32.to_be_bytes()[..], &[0; 24]].concat()).await.unwrap();
    drop(far);
    assert!(matches!(reader.read().await, Err(ReadError::Cut)));
    assert!(reader.buffer.capacity() <= 2 * STEP);
}
