// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a pool does by itself when space gets low, and within which limits.
//!
//! An operator writes it into the pool's XML (`<notify:policy>`), the driver keeps it with the
//! pool's definition, and code that acts on it asks the [`Backend`](crate::Backend) for it at that
//! moment. What the XML leaves out is as in [`Policy::default`], which is right for a pool on a
//! host with peers and harmless on one without.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Bytes, ChunkSize};

/// The policy of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The low mark: with less available, space is low.
    pub low_mark: LowMark,
    /// What is done at the low mark.
    pub at_low_mark: AtLowMark,
    /// What is done when a volume asks for space and there is none.
    pub when_full: WhenFull,
    /// The largest capacity a volume may have; the driver refuses a larger one.
    pub largest_volume: Option<Bytes>,
    /// The most that the capacities of the volumes may add up to; none is no limit.
    pub overcommit: Option<Overcommit>,
    /// How much a volume gets at a time.
    pub growth: GrowthLimits,
    /// Whether what goes back to the volume group is discarded on its disks first.
    pub passdown: bool,
    /// Whether a VM with a disk in this pool may be moved by us at all. A VM that may not is
    /// paused instead when the pool is full.
    pub movable: bool,
    /// The most that one move may send in a second; none is as fast as it goes.
    pub bandwidth: Option<Bytes>,
    /// When VMs may leave at the low mark; none is always. One that waits for space always may.
    pub window: Option<Window>,
    /// How many VMs may leave at the low mark within a day; none is any number. Those that wait for space do not
    /// count.
    pub daily: Option<u32>,
}

/// A time of day, to the minute, from 00:00 to 23:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TimeOfDay {
    minutes: u16,
}

/// A part of each day, in the host's own time: from a time up to another, over midnight where that is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it begins.
    pub from: TimeOfDay,
    /// When it is over.
    pub to: TimeOfDay,
}

/// The low mark of a pool: with less than this available, space is low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LowMark {
    /// A part of the volume group's size, 0 to 100; 0 is never.
    Percent(u8),
    /// A size; zero is never.
    Size(Bytes),
}

/// The most that the capacities of a pool's volumes may add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overcommit {
    /// A multiple of what the volumes hold and can still get.
    Ratio(Ratio),
    /// A size.
    Size(Bytes),
}

/// A ratio to two decimal places, from 0.01 to 9999.99.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratio {
    hundredths: u32,
}

/// What is done at the low mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AtLowMark {
    /// Nothing, and no event either.
    Nothing,
    /// The event `SpaceLow`, on D-Bus and in the log.
    Warn,
    /// The same, and a VM is moved while it runs.
    Migrate,
}

/// What is done when nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenFull {
    /// The VM pauses, is moved to a peer, and goes on there.
    Migrate,
    /// The VM pauses here, and goes on by itself when there is space.
    Pause,
    /// The write fails with "no space", and that is all: the VM's own `error_policy` and the
    /// operator decide what becomes of it; it is neither moved nor resumed.
    Error,
}

/// How much a volume may get at a time, between one chunk and what the pool finds right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthLimits {
    /// At least this, even for a volume that is written slowly.
    pub least: Option<Bytes>,
    /// At most this, even for one that is written fast.
    pub most: Option<Bytes>,
}

/// A value in a policy, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// A size.
    Size(Bytes),
    /// A part of a hundred.
    Percent(u8),
    /// A multiple.
    Ratio(Ratio),
    /// One of a few words.
    Word(&'static str),
    /// Yes or no.
    Flag(bool),
    /// A part of each day.
    Window(Window),
    /// How many.
    Number(u32),
}

impl AtLowMark {
    /// Each by its word.
    pub const WORDS: [(&str, Self); 3] =
        [("nothing", Self::Nothing), ("warn", Self::Warn), ("migrate", Self::Migrate)];
}

impl WhenFull {
    /// Each by its word.
    pub const WORDS: [(&str, Self); 3] =
        [("migrate", Self::Migrate), ("pause", Self::Pause), ("error", Self::Error)];
}

/// The word for one of these.
#[must_use]
pub fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| *word)
}

impl Policy {
    /// All that it says, by the names under which it is set; a limit that there is not is left out.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, Setting)> {
        let low_mark = match self.low_mark {
            LowMark::Percent(percent) => Setting::Percent(percent),
            LowMark::Size(size) => Setting::Size(size),
        };
        let overcommit = self.overcommit.map(|limit| match limit {
            Overcommit::Ratio(ratio) => Setting::Ratio(ratio),
            Overcommit::Size(size) => Setting::Size(size),
        });
        let word = |word| Some(Setting::Word(word));
        let all = [
            ("low-mark", Some(low_mark)),
            ("at-low-mark", word(word_of(&AtLowMark::WORDS, self.at_low_mark))),
            ("when-full", word(word_of(&WhenFull::WORDS, self.when_full))),
            ("largest-volume", self.largest_volume.map(Setting::Size)),
            ("overcommit", overcommit),
            ("growth-least", self.growth.least.map(Setting::Size)),
            ("growth-most", self.growth.most.map(Setting::Size)),
            ("passdown", Some(Setting::Flag(self.passdown))),
            ("movable", Some(Setting::Flag(self.movable))),
            ("bandwidth", self.bandwidth.map(Setting::Size)),
            ("window", self.window.map(Setting::Window)),
            ("daily", self.daily.map(Setting::Number)),
        ];
        all.into_iter().filter_map(|(name, setting)| Some((name, setting?))).collect()
    }
}

impl fmt::Display for Setting {
    /// As it is set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(Bytes(bytes)) => write!(f, "{bytes}B"),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Ratio(ratio) => write!(f, "{ratio}"),
            Self::Word(word) => f.write_str(word),
            Self::Flag(true) => f.write_str("yes"),
            Self::Flag(false) => f.write_str("no"),
            Self::Window(Window { from, to }) => write!(f, "{from}-{to}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            low_mark: LowMark::default(),
            at_low_mark: AtLowMark::Warn,
            when_full: WhenFull::Migrate,
            largest_volume: None,
            overcommit: None,
            growth: GrowthLimits::default(),
            passdown: false,
            movable: true,
            bandwidth: None,
            window: None,
            daily: None,
        }
    }
}

impl TimeOfDay {
    /// That hour and minute, where a day has them.
    #[must_use]
    pub fn new(hour: u16, minute: u16) -> Option<Self> {
        (hour < 24 && minute < 60).then_some(Self { minutes: hour * 60 + minute })
    }

    /// So many minutes later, on the next day perhaps.
    #[must_use]
    pub fn later(self, minutes: u16) -> Self {
        Self { minutes: (self.minutes + minutes % (24 * 60)) % (24 * 60) }
    }

    /// The hour of the day.
    #[must_use]
    pub fn hour(self) -> u16 {
        self.minutes / 60
    }

    /// The minute of that hour.
    #[must_use]
    pub fn minute(self) -> u16 {
        self.minutes % 60
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour(), self.minute())
    }
}

impl FromStr for TimeOfDay {
    type Err = ();

    /// Reads `HH:MM`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let two = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        let (hour, minute) = text.split_once(':').ok_or(())?;
        two(hour).zip(two(minute)).and_then(|(hour, minute)| Self::new(hour, minute)).ok_or(())
    }
}

impl Window {
    /// Whether it is that time.
    #[must_use]
    pub fn holds(self, now: TimeOfDay) -> bool {
        let Self { from, to } = self;
        if from < to { from <= now && now < to } else { from <= now || now < to }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

impl Default for LowMark {
    fn default() -> Self {
        LowMark::Percent(10)
    }
}

impl LowMark {
    /// The mark in bytes, for a volume group of that size.
    #[must_use]
    pub fn of(self, capacity: Bytes) -> Bytes {
        match self {
            LowMark::Size(size) => size,
            LowMark::Percent(percent) => {
                let part = u128::from(capacity.0) * u128::from(percent.min(100)) / 100;
                Bytes(u64::try_from(part).unwrap_or(u64::MAX))
            }
        }
    }
}

impl Overcommit {
    /// The limit in bytes, for a pool whose volumes hold and can still get this much.
    #[must_use]
    pub fn of(self, obtainable: Bytes) -> Bytes {
        match self {
            Overcommit::Size(size) => size,
            Overcommit::Ratio(Ratio { hundredths }) => {
                let limit = u128::from(obtainable.0) * u128::from(hundredths) / 100;
                Bytes(u64::try_from(limit).unwrap_or(u64::MAX))
            }
        }
    }
}

impl FromStr for Ratio {
    /// The text is no ratio.
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || whole.len() > 4 || !(1..=2).contains(&part.len()) {
            return Err(());
        }
        let whole: u32 = whole.parse().map_err(drop)?;
        let part: u32 = format!("{part:0<2}").parse().map_err(drop)?;
        match whole * 100 + part {
            0 => Err(()),
            hundredths => Ok(Self { hundredths }),
        }
    }
}

impl Ratio {
    /// As a number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.hundredths) / 100.0
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.hundredths / 100, self.hundredths % 100);
        match part % 10 {
            0 => write!(f, "{whole}.{}", part / 10),
            _ => write!(f, "{whole}.{part:02}"),
        }
    }
}

impl GrowthLimits {
    /// The number of chunks nearest to `wanted` within the limits; at least one.
    #[must_use]
    pub fn clamp(self, wanted: u64, chunk: ChunkSize) -> u64 {
        let most = self.most.map_or(u64::MAX, |most| chunk.whole_chunks(most).0.max(1));
        let least = self.least.map_or(1, |least| chunk.chunks_for(least).0.max(1));
        wanted.max(least).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_go_over_midnight() {
        let time = |text: &str| text.parse::<TimeOfDay>().unwrap();
        let holds = |from, to, now| Window { from: time(from), to: time(to) }.holds(time(now));
        assert!(holds("09:00", "17:30", "09:00") && holds("09:00", "17:30", "17:29"));
        assert!(!holds("09:00", "17:30", "17:30") && !holds("09:00", "17:30", "08:59"));
        assert!(holds("22:00", "06:00", "23:59") && holds("22:00", "06:00", "00:00"));
        assert!(!holds("22:00", "06:00", "06:00") && !holds("22:00", "06:00", "21:59"));
    }

    #[test]
    fn times_are_read_and_printed_and_nothing_else_is_one() {
        assert_eq!("07:05".parse::<TimeOfDay>().unwrap().to_string(), "07:05");
        assert_eq!(TimeOfDay::new(23, 59).unwrap().later(61).to_string(), "01:00");
        for none in ["", "7:05", "24:00", "00:60", "0a:00", "00:000", "+1:00", "00:00 "] {
            assert_eq!(none.parse::<TimeOfDay>(), Err(()), "{none}");
        }
    }

    #[test]
    fn the_mark_is_a_part_or_a_size() {
        assert_eq!(LowMark::default().of(Bytes::mib(1000)), Bytes::mib(100));
        assert_eq!(LowMark::Percent(0).of(Bytes::mib(1000)), Bytes::ZERO);
        assert_eq!(LowMark::Percent(100).of(Bytes(u64::MAX)), Bytes(u64::MAX));
        assert_eq!(LowMark::Size(Bytes(7)).of(Bytes::mib(1)), Bytes(7));
    }

    #[test]
    fn the_limit_of_capacities_is_a_multiple_or_a_size() {
        let of = |text: &str, mib| Overcommit::Ratio(text.parse().unwrap()).of(Bytes::mib(mib));
        assert_eq!(of("2", 100), Bytes::mib(200));
        assert_eq!(of("1.5", 100), Bytes::mib(150));
        assert_eq!(of("0.01", 100), Bytes::mib(1));
        assert_eq!(of("9999.99", u64::MAX >> 20), Bytes(u64::MAX));
        assert_eq!(Overcommit::Size(Bytes(7)).of(Bytes::mib(1)), Bytes(7));
    }

    #[test]
    fn a_ratio_is_read_as_it_is_written() {
        for text in ["2.0", "1.25", "0.5", "0.05", "100.0", "9999.99"] {
            assert_eq!(text.parse::<Ratio>().unwrap().to_string(), text);
        }
        assert_eq!("007".parse::<Ratio>().unwrap().to_string(), "7.0");
        for text in
            ["", ".", "1.", ".5", "0", "0.00", "-1", "+1", "1,5", "1.255", "10000", "1e3", " 1"]
        {
            assert_eq!(text.parse::<Ratio>(), Err(()), "{text}");
        }
    }

    #[test]
    fn growth_stays_within_its_limits() {
        let chunk = ChunkSize::default();
        let limits = GrowthLimits { least: Some(Bytes::mib(9)), most: Some(Bytes::mib(16)) };
        assert_eq!([1, 3, 4, 100].map(|wanted| limits.clamp(wanted, chunk)), [3, 3, 4, 4]);
        assert_eq!(GrowthLimits::default().clamp(0, chunk), 1);
        let tiny = GrowthLimits { least: None, most: Some(Bytes(1)) };
        assert_eq!(tiny.clamp(100, chunk), 1);
    }
}
