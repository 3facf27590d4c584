// SPDX-License-Identifier: LGPL-2.1-or-later
//! The form of what `send` writes and `receive` reads: `docs/developer/stream.md`. Pure; data is taken
//! only when its checksum is right.

use std::io::{self, ErrorKind, Read, Write};

use crc32fast::Hasher;
use thiserror::Error;
use uuid::Uuid;
use virtnotify_model::VolumeName;

/// The first bytes.
const MAGIC: &[u8; 16] = b"virtnotify-snap\n";
/// The only version so far.
const VERSION: u32 = 1;
/// The header without the name and the checksum.
const HEADER: usize = 72;
/// A record without its data and its checksum.
const RECORD: usize = 24;
/// The most data in one record.
pub const DATA_MAX: usize = 1 << 20;

const KIND_DATA: u32 = 1;
const KIND_ZEROES: u32 = 2;
const KIND_END: u32 = 3;

/// Why a stream is not taken.
#[derive(Debug, Error)]
pub enum StreamError {
    /// It is no such stream.
    #[error("this is no stream of 'virt-notify send'")]
    Other,
    /// Its version is newer.
    #[error("the stream has version {0}, and this program knows {VERSION}")]
    Version(u32),
    /// It ends before its end.
    #[error("the stream was cut off")]
    Cut,
    /// A checksum is wrong, or a record makes no sense.
    #[error("the stream is damaged: {0}")]
    Damaged(String),
    /// It could not be read or written.
    #[error("the stream cannot be {what}: {source}")]
    Io {
        /// Read or written.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn damaged(what: &str) -> StreamError {
    StreamError::Damaged(what.to_owned())
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The snapshot.
    pub uuid: Uuid,
    /// The snapshot that the receiver has to have; nil where all is sent.
    pub base: Uuid,
    /// The size of the volume.
    pub capacity: u64,
    /// When the snapshot was taken, in seconds since 1970.
    pub created: u64,
    /// `VOLUME@NAME` where it comes from.
    pub name: VolumeName,
}

/// A part of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Data.
    Data(u64, Vec<u8>),
    /// A length that reads as zeroes.
    Zeroes(u64, u64),
}

/// Writes a stream.
pub struct Writer<W> {
    out: W,
    number: u32,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins.
    pub fn new(mut out: W, header: &Header) -> Result<Self, StreamError> {
        let name = header.name.as_str().as_bytes();
        let mut text = Vec::with_capacity(HEADER + name.len() + 4);
        text.extend(MAGIC);
        text.extend(VERSION.to_le_bytes());
        text.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        text.extend(header.uuid.as_bytes());
        text.extend(header.base.as_bytes());
        text.extend(header.capacity.to_le_bytes());
        text.extend(header.created.to_le_bytes());
        text.extend(name);
        text.extend(crc32fast::hash(&text).to_le_bytes());
        out.write_all(&text).map_err(unwritten)?;
        Ok(Self { out, number: 0, bytes: 0 })
    }

    /// Data, of [`DATA_MAX`] at most.
    pub fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), StreamError> {
        self.bytes += data.len() as u64;
        self.record(KIND_DATA, offset, data.len() as u64, data)
    }

    /// Zeroes.
    pub fn zeroes(&mut self, offset: u64, length: u64) -> Result<(), StreamError> {
        self.record(KIND_ZEROES, offset, length, &[])
    }

    /// Ends the stream; returns how many bytes of data there were.
    pub fn finish(mut self) -> Result<u64, StreamError> {
        let bytes = self.bytes;
        self.record(KIND_END, 0, bytes, &[])?;
        self.out.flush().map_err(unwritten)?;
        Ok(bytes)
    }

    fn record(&mut self, kind: u32, at: u64, length: u64, data: &[u8]) -> Result<(), StreamError> {
        let mut head = Vec::with_capacity(RECORD);
        head.extend(kind.to_le_bytes());
        head.extend(self.number.to_le_bytes());
        head.extend(at.to_le_bytes());
        head.extend(length.to_le_bytes());
        let sum = sum(&head, data).to_le_bytes();
        self.number = self.number.wrapping_add(1);
        for part in [&head, data, &sum[..]] {
            self.out.write_all(part).map_err(unwritten)?;
        }
        Ok(())
    }
}

/// Reads a stream.
pub struct Reader<R> {
    input: R,
    header: Header,
    number: u32,
    bytes: u64,
    /// Where the last record ended.
    at: u64,
}

impl<R: Read> Reader<R> {
    /// Begins: reads the header.
    pub fn new(mut input: R) -> Result<Self, StreamError> {
        let mut head = vec![0; HEADER];
        // A stream that is shorter than a header may be anything.
        input.read_exact(&mut head).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => StreamError::Other,
            _ => unread(error),
        })?;
        if !head.starts_with(MAGIC) {
            return Err(StreamError::Other);
        }
        let version = u32_at(&head, 16);
        if version != VERSION {
            return Err(StreamError::Version(version));
        }
        let length = usize::try_from(u32_at(&head, 20)).unwrap_or(usize::MAX);
        if length > VolumeName::LIMIT {
            return Err(damaged("its header names no snapshot"));
        }
        let mut name = vec![0; length];
        read(&mut input, &mut name)?;
        if checksum(&mut input)? != sum(&head, &name) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let name = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<VolumeName>().ok());
        let name = name.filter(|name| name.snapshot().is_some());
        let header = Header {
            uuid: uuid_at(&head, 24),
            base: uuid_at(&head, 40),
            capacity: u64_at(&head, 56),
            created: u64_at(&head, 64),
            name: name.ok_or_else(|| damaged("its header names no snapshot"))?,
        };
        // No snapshot has this UUID: a difference from it would be taken for the whole.
        if header.uuid.is_nil() {
            return Err(damaged("its header has no UUID"));
        }
        Ok(Self { input, header, number: 0, bytes: 0, at: 0 })
    }

    /// What is sent.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes of data there were so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part; `None` where the stream has its end.
    pub fn next(&mut self) -> Result<Option<Record>, StreamError> {
        let mut head = [0; RECORD];
        read(&mut self.input, &mut head)?;
        let (kind, number) = (u32_at(&head, 0), u32_at(&head, 4));
        let (offset, length) = (u64_at(&head, 8), u64_at(&head, 16));
        let size = match kind {
            KIND_DATA => usize::try_from(length).unwrap_or(usize::MAX),
            _ => 0,
        };
        if size > DATA_MAX {
            return Err(damaged("a part is too long"));
        }
        let mut data = vec![0; size];
        read(&mut self.input, &mut data)?;
        if checksum(&mut self.input)? != sum(&head, &data) {
            return Err(StreamError::Damaged(format!("the checksum of part {number} is wrong")));
        }
        if number != self.number {
            return Err(StreamError::Damaged(format!("part {} is missing", self.number)));
        }
        self.number = self.number.wrapping_add(1);
        if kind == KIND_END {
            return match (offset, length == self.bytes) {
                (0, true) => Ok(None),
                _ => Err(damaged("its end is not the end of this")),
            };
        }
        let end = offset.checked_add(length).filter(|end| *end <= self.header.capacity);
        match end {
            Some(end) if offset >= self.at && length > 0 => self.at = end,
            _ => return Err(damaged("a part lies where it cannot")),
        }
        match kind {
            KIND_DATA => {
                self.bytes += length;
                Ok(Some(Record::Data(offset, data)))
            }
            KIND_ZEROES => Ok(Some(Record::Zeroes(offset, length))),
            _ => Err(damaged("a part is of no known kind")),
        }
    }
}

fn sum(head: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(head);
    hasher.update(rest);
    hasher.finalize()
}

fn unwritten(source: io::Error) -> StreamError {
    StreamError::Io { what: "written", source }
}

fn unread(source: io::Error) -> StreamError {
    StreamError::Io { what: "read", source }
}

fn read(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), StreamError> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => StreamError::Cut,
        _ => unread(error),
    })
}

fn checksum(input: &mut impl Read) -> Result<u32, StreamError> {
    let mut sum = [0; 4];
    read(input, &mut sum)?;
    Ok(u32::from_le_bytes(sum))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..).and_then(|rest| rest.first_chunk());
    eight.map_or(0, |eight| u64::from_le_bytes(*eight))
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let sixteen = bytes.get(at..).and_then(|rest| rest.first_chunk());
    sixteen.map_or(Uuid::nil(), |sixteen| Uuid::from_bytes(*sixteen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            uuid: Uuid::from_u128(7),
            base: Uuid::nil(),
            capacity: 1 << 20,
            created: 1_700_000_000,
            name: "disk0@mon".parse().unwrap(),
        }
    }

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &header()).unwrap();
        writer.data(4096, &[1; 512]).unwrap();
        writer.zeroes(8192, 4096).unwrap();
        writer.data((1 << 20) - 3, b"end").unwrap();
        assert_eq!(writer.finish().unwrap(), 515);
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<(Header, Vec<Record>), StreamError> {
        let mut reader = Reader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(record) = reader.next()? {
            all.push(record);
        }
        Ok((reader.header().clone(), all))
    }

    #[test]
    fn what_was_written_is_read() {
        let (read, all) = read_all(&stream()).unwrap();
        assert_eq!(read, header());
        let expected = [
            Record::Data(4096, vec![1; 512]),
            Record::Zeroes(8192, 4096),
            Record::Data((1 << 20) - 3, b"end".to_vec()),
        ];
        assert_eq!(all, expected);
        assert!(stream().starts_with(b"virtnotify-snap\n\x01\0\0\0\x09\0\0\0"));
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_has_no_end() {
        let whole = stream();
        for length in 0..whole.len() {
            let error = read_all(&whole[..length]).unwrap_err();
            assert!(matches!(error, StreamError::Cut | StreamError::Other), "{length}: {error}");
        }
    }

    #[test]
    fn each_bit_is_looked_at() {
        let whole = stream();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read_all(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let refused = |write: &dyn Fn(&mut Writer<&mut Vec<u8>>)| {
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes, &header()).unwrap();
            write(&mut writer);
            writer.finish().unwrap();
            read_all(&bytes).unwrap_err().to_string()
        };
        let beyond = refused(&|to| to.data(1 << 20, b"x").unwrap());
        assert!(beyond.contains("lies where it cannot"), "{beyond}");
        assert_eq!(refused(&|to| to.zeroes(u64::MAX, 2).unwrap()), beyond);
        assert_eq!(refused(&|to| to.zeroes(0, 0).unwrap()), beyond);
        let twice = |to: &mut Writer<&mut Vec<u8>>| {
            to.zeroes(0, 8192).unwrap();
            to.zeroes(4096, 4096).unwrap();
        };
        assert_eq!(refused(&twice), beyond);
        let long = refused(&|to| to.data(0, &vec![0; DATA_MAX + 1]).unwrap());
        assert!(long.contains("too long"), "{long}");
        // Two parts in the wrong order, each whole.
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut writer = Writer::new(&mut a, &header()).unwrap();
        writer.zeroes(0, 1).unwrap();
        writer.out = &mut b;
        writer.zeroes(1, 1).unwrap();
        let first = a.split_off(a.len() - RECORD - 4);
        a.extend(b);
        a.extend(first);
        assert!(read_all(&a).unwrap_err().to_string().contains("part 0 is missing"));
        let version = |bytes: &mut Vec<u8>| bytes[16] = 2;
        let mut newer = stream();
        version(&mut newer);
        assert!(matches!(read_all(&newer), Err(StreamError::Version(2))));
    }
}
