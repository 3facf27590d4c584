// SPDX-License-Identifier: LGPL-2.1-or-later
//! The network block device protocol, as much of it as QEMU needs of a disk: the fixed newstyle
//! handshake with `GO`, simple replies, and reads, writes, flushes, discards and zeroes.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Result, bail};

use super::Disk;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE_NO_ZEROES: u16 = 0b11;

const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 1 << 31 | 1;
const INFO_EXPORT: u16 = 0;

/// There are flags; flushes, discards and zeroes may be sent.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 5 | 1 << 6;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

const EIO: u32 = 5;
const EINVAL: u32 = 22;
/// As much as QEMU asks at once, and what a request may make us allocate.
const LARGEST: u32 = 32 << 20;
const LARGEST_OPTION: u32 = 4096;

/// Serves one connection until it ends, and gives the disk back.
pub fn serve(listener: &UnixListener, mut disk: Disk) -> Result<Disk> {
    let (mut stream, _) = listener.accept()?;
    match handshake(&mut stream, disk.size) {
        Ok(true) => transmission(&mut stream, &mut disk)?,
        Ok(false) => {}
        Err(error) if ended(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(disk)
}

/// Whether the other side has gone, in the middle of a sentence or not: as a killed QEMU does.
fn ended(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe))
}

fn bytes<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Whether transmission follows.
fn handshake(stream: &mut UnixStream, size: u64) -> Result<bool> {
    let mut hello = Vec::new();
    hello.extend(MAGIC.to_be_bytes());
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
    stream.write_all(&hello)?;
    let _flags: [u8; 4] = bytes(stream)?;
    loop {
        if u64::from_be_bytes(bytes(stream)?) != OPTION_MAGIC {
            bail!("an option does not begin as it must");
        }
        let option = u32::from_be_bytes(bytes(stream)?);
        let length = u32::from_be_bytes(bytes(stream)?);
        if length > LARGEST_OPTION {
            bail!("an option of {length} bytes");
        }
        io::copy(&mut Read::by_ref(stream).take(length.into()), &mut io::sink())?;
        match option {
            OPTION_GO => {
                let mut info = Vec::new();
                info.extend(INFO_EXPORT.to_be_bytes());
                info.extend(size.to_be_bytes());
                info.extend(EXPORT_FLAGS.to_be_bytes());
                answer(stream, option, REPLY_INFO, &info)?;
                answer(stream, option, REPLY_ACK, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => {
                answer(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => answer(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "answers are a few bytes long")]
fn answer(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> Result<()> {
    let mut text = Vec::new();
    text.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    text.extend(option.to_be_bytes());
    text.extend(kind.to_be_bytes());
    text.extend((data.len() as u32).to_be_bytes());
    text.extend(data);
    Ok(stream.write_all(&text)?)
}

struct Request {
    kind: u16,
    handle: [u8; 8],
    offset: u64,
    length: u32,
}

impl Request {
    fn read(stream: &mut UnixStream) -> Result<Self> {
        if u32::from_be_bytes(bytes(stream)?) != REQUEST_MAGIC {
            bail!("a request does not begin as it must");
        }
        let _flags: [u8; 2] = bytes(stream)?;
        let kind = u16::from_be_bytes(bytes(stream)?);
        let handle = bytes(stream)?;
        let offset = u64::from_be_bytes(bytes(stream)?);
        let length = u32::from_be_bytes(bytes(stream)?);
        Ok(Self { kind, handle, offset, length })
    }

    fn lies_within(&self, size: u64) -> bool {
        self.offset.checked_add(self.length.into()).is_some_and(|end| end <= size)
    }
}

fn transmission(stream: &mut UnixStream, disk: &mut Disk) -> Result<()> {
    loop {
        let request = match Request::read(stream) {
            Err(error) if ended(&error) => return Ok(()),
            request => request?,
        };
        if request.kind == DISCONNECT {
            return Ok(());
        }
        if matches!(request.kind, READ | WRITE) && request.length > LARGEST {
            bail!("a request of {} bytes", request.length);
        }
        let mut data = Vec::new();
        if request.kind == WRITE {
            data.resize(request.length as usize, 0);
            match stream.read_exact(&mut data).map_err(Into::into) {
                Err(error) if ended(&error) => return Ok(()),
                read => read?,
            }
        }
        let (error, data) = match carry_out(disk, &request, data) {
            Ok(data) => (0, data),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => (EINVAL, Vec::new()),
            Err(_) => (EIO, Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + data.len());
        reply.extend(REPLY_MAGIC.to_be_bytes());
        reply.extend(error.to_be_bytes());
        reply.extend(request.handle);
        reply.extend(data);
        match stream.write_all(&reply).map_err(Into::into) {
            Err(error) if ended(&error) => return Ok(()),
            written => written?,
        }
    }
}

/// What the request reads, if it reads.
fn carry_out(disk: &mut Disk, request: &Request, mut data: Vec<u8>) -> io::Result<Vec<u8>> {
    let (offset, length) = (request.offset, request.length);
    if request.kind != FLUSH && !request.lies_within(disk.size) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match request.kind {
        READ => {
            data.resize(length as usize, 0);
            disk.read(offset, &mut data)?;
            return Ok(data);
        }
        WRITE => disk.write(offset, data)?,
        FLUSH => disk.flush()?,
        TRIM | WRITE_ZEROES if length == 0 => {}
        TRIM | WRITE_ZEROES => disk.zero(offset, length.into())?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(Vec::new())
}
