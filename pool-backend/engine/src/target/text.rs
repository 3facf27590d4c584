// SPDX-License-Identifier: LGPL-2.1-or-later
//! The target's grammar: table lines, messages and their answers. Pure.

use std::fmt;
use std::path::PathBuf;

use virtnotify_model::{ChunkSize, Sectors};

use crate::alloc::{Extent, Place, Run};

/// The target's name in tables.
pub(crate) const NAME: &str = "notify";
/// The version of the grammar that this file speaks: the same major one, this minor or newer.
pub(crate) const VERSION: (u32, u32) = (3, 0);
/// The first minor version that has `inherit`.
pub(crate) const INHERITS: u32 = 2;
/// The longest message; the kernel takes a little more.
const MESSAGE_LIMIT: usize = 12 << 10;

/// A table of one `notify` target over a whole device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) length: Sectors,
    pub(crate) chunk: ChunkSize,
    /// The thread that is told, and with which signal; thread 0 while there is none.
    pub(crate) thread: i32,
    pub(crate) signal: i32,
    /// The data LVs, by number.
    pub(crate) devices: Vec<PathBuf>,
    /// Seconds until a held write fails with "no space"; 0: never.
    pub(crate) hold_timeout: u32,
    /// Whether the device is read-only.
    pub(crate) read_only: bool,
}

impl Table {
    /// The parameters after start, length and target name.
    pub(crate) fn parameters(&self) -> String {
        let devices: String =
            self.devices.iter().map(|path| format!(" {}", path.display())).collect();
        let signal = if self.thread == 0 { 0 } else { self.signal };
        format!(
            "{} {} {signal} {}{devices} 3 skip_zero_writes hold_timeout {}",
            self.chunk.sectors().0,
            self.thread,
            self.devices.len(),
            self.hold_timeout
        )
    }
}

/// A table as the kernel prints it, as far as it says what a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveTable {
    pub(crate) length: Sectors,
    pub(crate) chunk: ChunkSize,
    /// The data LVs by position, as major and minor numbers.
    pub(crate) devices: Vec<(u32, u32)>,
}

impl LiveTable {
    /// `<chunk_sectors> <pid> <signo> <#devices> <device>...`; features follow.
    pub(crate) fn parse(length: Sectors, parameters: &str) -> Option<Self> {
        let mut words = parameters.split_whitespace();
        let sectors: u64 = words.next()?.parse().ok()?;
        let chunk = ChunkSize::new(Sectors(sectors).bytes()).ok()?;
        let count: usize = words.nth(2)?.parse().ok()?;
        let number = |word: &str| {
            let (major, minor) = word.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let devices: Vec<_> = words.take(count).map_while(number).collect();
        (devices.len() == count).then_some(Self { length, chunk, devices })
    }
}

/// Flags of a mapped chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct ChunkState {
    /// The first write to it rings.
    pub(crate) watched: bool,
    /// Writes to it wait.
    pub(crate) protected: bool,
    /// The guest discarded it, and has not written since.
    pub(crate) discarded: bool,
    /// It was not written since it was watched.
    pub(crate) unchanged: bool,
}

impl ChunkState {
    pub(crate) const PLAIN: Self =
        Self { watched: false, protected: false, discarded: false, unchanged: false };
    pub(crate) const WATCHED: Self = Self { watched: true, ..Self::PLAIN };

    /// `w`, `p`, `d` and `u`, in this order.
    fn parse(flags: &str) -> Option<Self> {
        let has = |flag| flags.contains(flag);
        let (watched, protected) = (has('w'), has('p'));
        let (discarded, unchanged) = (has('d'), has('u'));
        let state = Self { watched, protected, discarded, unchanged };
        (state.to_string() == flags).then_some(state)
    }

    fn flags(self) -> impl Iterator<Item = &'static str> {
        let flags = [
            (self.watched, "w"),
            (self.protected, "p"),
            (self.discarded, "d"),
            (self.unchanged, "u"),
        ];
        flags.into_iter().filter_map(|(on, flag)| on.then_some(flag))
    }
}

impl fmt::Display for ChunkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flags().try_for_each(|flag| f.write_str(flag))
    }
}

/// A run with the state of its chunks: `<v>:<d>:<p>:<n>[:<flags>][<generation>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MappedRun {
    pub(crate) run: Run,
    pub(crate) state: ChunkState,
    /// The generation of its chunks; `None`: the volume's current one.
    pub(crate) generation: Option<u16>,
}

impl fmt::Display for MappedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

impl MappedRun {
    /// Adds the run to a message. A device gets a million of them, and `fmt` is slow.
    fn push_to(&self, message: &mut String) {
        let Run { at, to: Extent { start, length } } = self.run;
        let mut digits = itoa::Buffer::new();
        for (n, number) in [at, start.lv.into(), start.chunk, length].into_iter().enumerate() {
            if n > 0 {
                message.push(':');
            }
            message.push_str(digits.format(number));
        }
        if self.state != ChunkState::PLAIN || self.generation.is_some() {
            message.push(':');
            message.extend(self.state.flags());
            if let Some(generation) = self.generation {
                message.push_str(digits.format(generation));
            }
        }
    }

    /// A run without flags.
    pub(crate) fn plain(run: Run) -> Self {
        Self { run, state: ChunkState::PLAIN, generation: None }
    }

    fn parse(token: &str) -> Option<Self> {
        let mut fields = token.split(':');
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (at, lv, chunk, length) = (number()?, number()?, number()?, number()?);
        let (state, generation) = match fields.next() {
            None => (ChunkState::PLAIN, None),
            Some(flags) => Self::parse_flags(flags)?,
        };
        let sane = length > 0 && at.checked_add(length).is_some();
        let sane = sane && chunk.checked_add(length).is_some() && fields.next().is_none();
        let start = Place { lv: u16::try_from(lv).ok()?, chunk };
        sane.then_some(Self { run: Run { at, to: Extent { start, length } }, state, generation })
    }

    fn parse_flags(flags: &str) -> Option<(ChunkState, Option<u16>)> {
        let digits = flags.find(|c: char| c.is_ascii_digit()).unwrap_or(flags.len());
        let (state, generation) = flags.split_at(digits);
        let generation = match generation {
            "" => None,
            number => Some(number.parse().ok()?),
        };
        let state = ChunkState::parse(state)?;
        (!flags.is_empty()).then_some((state, generation))
    }
}

/// The messages that map (or `remap`) all of `runs`, each as long as a message may be.
pub(crate) fn map_messages(verb: &str, runs: &[MappedRun]) -> Vec<String> {
    messages(verb, runs, |run, message| run.push_to(message))
}

/// The messages that say something of all of `ranges`, each as long as a message may be.
pub(crate) fn range_messages(verb: &str, ranges: &[(u64, u64)]) -> Vec<String> {
    messages(verb, ranges, |(from, chunks), message| {
        let mut digits = itoa::Buffer::new();
        message.push_str(digits.format(*from));
        message.push(':');
        message.push_str(digits.format(*chunks));
    })
}

fn messages<T>(verb: &str, words: &[T], push: impl Fn(&T, &mut String)) -> Vec<String> {
    let mut messages = Vec::new();
    let mut message = verb.to_owned();
    for word in words {
        let before = message.len();
        message.push(' ');
        push(word, &mut message);
        if message.len() > MESSAGE_LIMIT {
            let last = message.split_off(before);
            messages.push(std::mem::replace(&mut message, verb.to_owned() + &last));
        }
    }
    if message.len() > verb.len() {
        messages.push(message);
    }
    messages
}

/// A write that waits, or news, with its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wish {
    /// A write is held in this hole.
    Write(u64),
    /// A write is held on this chunk, which is protected or shared.
    Copy(u64),
    /// This watched chunk was written for the first time.
    Ahead(u64),
    /// The guest discarded this chunk.
    Discarded(u64),
    /// The guest discarded this shared chunk, which is a leaving hole now.
    Holed(u64),
}

/// The answer to `pending`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) wishes: Vec<Wish>,
    /// The answer was cut: ask again.
    pub(crate) more: bool,
}

impl Pending {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut pending = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if line == "more" {
                pending.more = true;
                continue;
            }
            let (kind, numbers) = line.split_once(' ')?;
            let numbers: Option<Vec<u64>> = numbers.split(' ').map(|n| n.parse().ok()).collect();
            // Of what waits, the target says which sectors of the chunk are to be written.
            pending.wishes.push(match (kind, &numbers?[..]) {
                ("w", &[chunk, _offset, _length]) => Wish::Write(chunk),
                ("p", &[chunk, _offset, _length]) => Wish::Copy(chunk),
                ("a", &[chunk]) => Wish::Ahead(chunk),
                ("d", &[chunk]) => Wish::Discarded(chunk),
                ("h", &[chunk]) => Wish::Holed(chunk),
                _ => return None,
            });
        }
        Some(pending)
    }
}

/// The kernel's map of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dump {
    pub(crate) runs: Vec<MappedRun>,
    /// First chunk and length of each range that has left and is not forgotten.
    pub(crate) leaving: Vec<(u64, u64)>,
}

impl Dump {
    /// Adds one part of the answer to `dump`; returns the chunk from which on to ask for the next.
    pub(crate) fn add(&mut self, text: &str) -> Option<Option<u64>> {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(from) = line.strip_prefix("more ") {
                return Some(Some(from.parse().ok()?));
            }
            if let Some(range) = line.strip_prefix("leaving ") {
                let (from, length) = range.split_once(' ')?;
                let (from, length): (u64, u64) = (from.parse().ok()?, length.parse().ok()?);
                from.checked_add(length).filter(|_| length > 0)?;
                self.leaving.push((from, length));
            } else {
                self.runs.push(MappedRun::parse(line)?);
            }
        }
        Some(None)
    }
}

/// The target's status line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Mapped chunks.
    pub(crate) mapped: u64,
    /// Different chunks that writes wait for.
    pub(crate) wanted: u64,
    /// Writes to holes fail with "no space".
    pub(crate) nospace: bool,
    /// Whether the registered thread is alive.
    pub(crate) notifier: bool,
    /// Writes that failed because they waited too long.
    pub(crate) timed_out: u64,
    /// Of chunks that are mapped now.
    pub(crate) generation: u16,
    /// Chunks of older generations are shared.
    pub(crate) mark: u16,
}

impl Status {
    /// `<mapped>/<total> <wanted> <held> <signals> <rw|nospace> <none|alive|gone> <timedout>
    /// <generation> <mark>`, and more.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [chunks, wanted, _, _, mode, notifier, timed_out, generation, mark, ..] = fields[..]
        else {
            return None;
        };
        let nospace = match mode {
            "rw" => false,
            "nospace" => true,
            _ => return None,
        };
        Some(Self {
            mapped: chunks.split_once('/')?.0.parse().ok()?,
            wanted: wanted.parse().ok()?,
            nospace,
            notifier: notifier == "alive",
            timed_out: timed_out.parse().ok()?,
            generation: generation.parse().ok()?,
            mark: mark.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use virtnotify_model::Bytes;

    fn run(at: u64, chunk: u64, length: u64) -> MappedRun {
        let to = Extent { start: Place { lv: 0, chunk }, length };
        MappedRun::plain(Run { at, to })
    }

    #[test]
    fn a_table_line() {
        let table = Table {
            length: Bytes::mib(1024).whole_sectors(),
            chunk: ChunkSize::default(),
            thread: 1234,
            signal: 34,
            devices: vec!["/dev/vg0/notify-data0".into()],
            hold_timeout: 30,
            read_only: false,
        };
        let line = "8192 1234 34 1 /dev/vg0/notify-data0 3 skip_zero_writes hold_timeout 30";
        assert_eq!(table.parameters(), line);
        let nobody = Table { thread: 0, devices: vec![], ..table };
        assert_eq!(nobody.parameters(), "8192 0 0 0 3 skip_zero_writes hold_timeout 30");
    }

    #[test]
    fn live_tables_are_read() {
        let parse = |text| LiveTable::parse(Sectors(8), text);
        let table = parse("8192 0 0 2 254:3 254:17 3 skip_zero_writes hold_timeout 30").unwrap();
        assert_eq!((table.chunk, table.length), (ChunkSize::default(), Sectors(8)));
        assert_eq!(table.devices, [(254, 3), (254, 17)]);
        for bad in ["", "8192 0 0", "8192 0 0 2 254:3 x", "8191 0 0 0 0", "8192 0 0 9 254:3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn pending_is_read() {
        let pending = Pending::parse("w 5 0 8\np 6 128 64\na 7\nd 8\nh 9\nmore\n").unwrap();
        assert!(pending.more);
        let told = [Wish::Ahead(7), Wish::Discarded(8), Wish::Holed(9)];
        assert_eq!(pending.wishes[..2], [Wish::Write(5), Wish::Copy(6)]);
        assert_eq!(pending.wishes[2..], told);
        assert_eq!(Pending::parse(""), Some(Pending::default()));
        for bad in ["x 5", "w", "w 5", "w five 0 8", "w -1 0 8", "a 7 0 8", "w 5  0 8"] {
            assert_eq!(Pending::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn dumps_are_read() {
        let mut dump = Dump::default();
        let text =
            "0:0:9:2\nleaving 3 4\n7:0:1:1:w\n8:0:3:1:wp\n9:0:7:2:pd3\n11:0:9:1:65535\nmore 12\n";
        assert_eq!(dump.add(text), Some(Some(12)));
        assert_eq!(dump.runs[0], run(0, 9, 2));
        assert_eq!(dump.runs[1].state, ChunkState::WATCHED);
        assert_eq!(
            dump.runs.iter().map(MappedRun::to_string).collect::<Vec<_>>(),
            ["0:0:9:2", "7:0:1:1:w", "8:0:3:1:wp", "9:0:7:2:pd3", "11:0:9:1:65535"]
        );
        assert_eq!(dump.runs[3].generation, Some(3));
        assert_eq!(dump.add("leaving 20 1\n"), Some(None));
        assert_eq!(dump.leaving, [(3, 4), (20, 1)]);
        for bad in [
            "0:0:9",
            "0:0:9:0",
            "0:0:9:1:",
            "0:0:9:1:x",
            "0:0:9:1:pw",
            "0:0:9:1:ww",
            "0:99999:9:1",
            "18446744073709551615:0:0:1",
            "leaving 3",
            "leaving 3 0",
            "leaving 18446744073709551615 1",
        ] {
            assert_eq!(Dump::default().add(bad), None, "{bad}");
        }
    }

    #[test]
    fn status_is_read() {
        let status = Status::parse("3/256 1 2 17 rw alive 0 5 4 live 1 2 future").unwrap();
        assert_eq!((status.generation, status.mark), (5, 4));
        assert_eq!((status.mapped, status.wanted, status.nospace), (3, 1, false));
        assert!(status.notifier);
        assert_eq!(Status::parse("3/256 1 2 17 paused alive 0 5 4"), None);
        assert_eq!(Status::parse("3/256 1 2 17 rw alive 0"), None);
    }

    proptest! {
        #[test]
        fn map_messages_say_every_run_once(count in 0u64..2000) {
            let runs: Vec<_> = (0..count).map(|i| run(i * 2, i * 3, 1)).collect();
            let messages = map_messages("map", &runs);
            prop_assert!(messages.iter().all(|m| m.len() <= MESSAGE_LIMIT));
            let back: Vec<_> = messages
                .iter()
                .flat_map(|m| m.strip_prefix("map ").unwrap().split(' '))
                .map(|token| MappedRun::parse(token).unwrap())
                .collect();
            prop_assert_eq!(back, runs);
        }
    }
}
