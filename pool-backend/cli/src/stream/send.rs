// SPDX-License-Identifier: LGPL-2.1-or-later
//! `send`: a snapshot, or what was written between two, to standard output. Only what is
//! allocated is read.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::json;
use uuid::Uuid;

use super::format::{DATA_MAX, Header, StreamError, Writer};
use super::notes::Notes;
use super::place::{Live, Place};
use crate::args::code;
use crate::client::{self, Problem};
use crate::names::{self, Named};
use crate::show::size;
use crate::snapshots::{Extent, Snapshot};

/// Parts of this size that are zeroes are not sent as data.
const PART: usize = 64 << 10;

/// `send`.
pub async fn run(snapshot: &str, from: Option<&str>, as_json: bool) -> Result<u8, Problem> {
    if io::stdout().is_terminal() {
        let text = "a stream is not for a terminal: send it to a file, or to 'virt-notify receive'";
        return Err(Problem::Usage(text.into()));
    }
    let named = names::snapshot(snapshot)?;
    let from = from.map(|from| base(&named, from)).transpose()?;
    let daemon = client::daemon(None).await?;
    let out = BufWriter::with_capacity(2 * DATA_MAX, io::stdout().lock());
    let bytes = send(&Live::new(daemon), &Notes::default(), &named, from.as_ref(), out).await?;
    match as_json {
        true => eprintln!("{}", json!({ "sent": named.to_string(), "bytes": bytes })),
        false => eprintln!("virt-notify: sent {named}, {} of data", size(bytes)),
    }
    Ok(code::FINE)
}

/// Writes the stream of a snapshot, from another one on where one is named; returns how many bytes of data there
/// were. The end is written when the names mean the same snapshots as at the beginning: one may be deleted, and
/// another one of its name be taken, at any moment.
pub async fn send(
    place: &impl Place,
    notes: &Notes,
    named: &Named,
    from: Option<&Named>,
    out: impl Write,
) -> Result<u64, Problem> {
    let sent = find(place, named).await?;
    let base = match from {
        Some(from) => Some((from, find(place, from).await?.uuid)),
        None => None,
    };
    let device = place.device(named);
    // While it is open, the daemon does not delete it.
    let file = File::open(&device).map_err(|e| unread(&device, &e))?;
    let (capacity, extents) = place.difference(named, from).await?;
    if let Some((from, uuid)) = base {
        check_same(place, from, uuid).await?;
    }
    let header = Header {
        uuid: notes.identity(sent.uuid)?,
        base: base.map_or(Ok(Uuid::nil()), |(_, uuid)| notes.identity(uuid))?,
        capacity,
        created: sent.created,
        name: named.volume.clone(),
    };
    let writer = copy((&file, &device), &header, &extents, out)?;
    check_same(place, named, sent.uuid).await?;
    writer.finish().map_err(unsent)
}

async fn find(place: &impl Place, named: &Named) -> Result<Snapshot, Problem> {
    let all = place.snapshots(&named.pool).await?;
    let found = all.into_iter().find(|snapshot| snapshot.name == named.volume);
    found.ok_or_else(|| Problem::Cannot(format!("there is no snapshot '{named}'")))
}

/// Refuses when the name means another snapshot than before, or none.
async fn check_same(place: &impl Place, named: &Named, uuid: Uuid) -> Result<(), Problem> {
    match find(place, named).await {
        Ok(found) if found.uuid == uuid => Ok(()),
        Ok(_) => Err(Problem::Cannot(format!(
            "the snapshot '{named}' was deleted and taken anew while it was read: the stream is not complete, send \
             it again"
        ))),
        Err(error) => Err(error),
    }
}

/// The older snapshot; its name alone is enough.
fn base(of: &Named, from: &str) -> Result<Named, Problem> {
    if from.contains('/') {
        return names::snapshot(from);
    }
    let volume = of.volume.snapshot().map_or_else(String::new, |(volume, _)| volume.to_string());
    let from = from.strip_prefix(&format!("{volume}@")).unwrap_or(from);
    names::snapshot(&format!("{}/{volume}@{from}", of.pool))
}

fn unread(device: &Path, error: &io::Error) -> Problem {
    Problem::Cannot(format!("cannot read '{}': {error}", device.display()))
}

/// Reads these parts of a device into a stream, which has no end yet.
fn copy<W: Write>(
    (file, device): (&File, &Path),
    header: &Header,
    extents: &[Extent],
    out: W,
) -> Result<Writer<W>, Problem> {
    let mut writer = Writer::new(out, header).map_err(unsent)?;
    let full = header.base.is_nil();
    let mut buffer = vec![0; DATA_MAX];
    for extent in extents {
        if !extent.data {
            writer.zeroes(extent.offset, extent.length).map_err(unsent)?;
            continue;
        }
        let end = extent.offset.saturating_add(extent.length);
        let mut at = extent.offset;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(DATA_MAX).min(DATA_MAX);
            let data = &mut buffer[..length];
            file.read_exact_at(data, at).map_err(|e| unread(device, &e))?;
            parts(&mut writer, at, data, full).map_err(unsent)?;
            at += length as u64;
        }
    }
    Ok(writer)
}

/// Writes data and zeroes; a receiver of the whole has zeroes there already.
fn parts(
    to: &mut Writer<impl Write>,
    offset: u64,
    data: &[u8],
    full: bool,
) -> Result<(), StreamError> {
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == 0);
    let mut start = 0;
    while start < data.len() {
        let zero = is_zero(&data[start..data.len().min(start + PART)]);
        let mut end = start;
        while end < data.len() && is_zero(&data[end..data.len().min(end + PART)]) == zero {
            end = data.len().min(end + PART);
        }
        match (zero, full) {
            (true, true) => {}
            (true, false) => to.zeroes(offset + start as u64, (end - start) as u64)?,
            (false, _) => to.data(offset + start as u64, &data[start..end])?,
        }
        start = end;
    }
    Ok(())
}

fn unsent(error: StreamError) -> Problem {
    match error {
        StreamError::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe => {
            Problem::Cannot("the reader of the stream is gone".into())
        }
        other => Problem::Cannot(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::format::{Reader, Record};

    #[test]
    fn a_base_is_named_alone_or_in_full() {
        let of = names::snapshot("vms/a@tue").unwrap();
        for from in ["mon", "a@mon", "vms/a@mon", "/dev/notify/vms/a@mon"] {
            assert_eq!(base(&of, from).unwrap().to_string(), "vms/a@mon");
        }
        for bad in ["vms/a", "", "b@mon", "a@b@c"] {
            assert!(base(&of, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_allocated_is_sent_and_zeroes_as_such() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let mut content = vec![0; 4 << 20];
        content[PART] = 1;
        content[3 << 20] = 2;
        std::fs::write(device.path(), &content).unwrap();
        let extents = [
            Extent { offset: 0, length: 2 << 20, data: true },
            Extent { offset: 2 << 20, length: 1 << 20, data: false },
        ];
        let records = |base: u128| {
            let header = Header {
                uuid: Uuid::from_u128(1),
                base: Uuid::from_u128(base),
                capacity: 4 << 20,
                created: 0,
                name: "a@b".parse().unwrap(),
            };
            let mut bytes = Vec::new();
            let device = (device.as_file(), device.path());
            let writer = copy(device, &header, &extents, &mut bytes).unwrap();
            assert_eq!(writer.finish().unwrap(), PART as u64);
            let mut reader = Reader::new(&bytes[..]).unwrap();
            std::iter::from_fn(|| reader.next().unwrap()).collect::<Vec<_>>()
        };
        let part = PART as u64;
        let data = Record::Data(part, content[PART..2 * PART].to_vec());
        let hole = Record::Zeroes(2 << 20, 1 << 20);
        assert_eq!(records(0), [data.clone(), hole.clone()]);
        let zeroes = |at, end| Record::Zeroes(at, end - at);
        let (mib, two) = (1 << 20, 2 << 20);
        assert_eq!(
            records(9),
            [zeroes(0, part), data, zeroes(2 * part, mib), zeroes(mib, two), hole]
        );
    }
}
