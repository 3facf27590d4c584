// SPDX-License-Identifier: LGPL-2.1-or-later
//! A pool's map as text, in which backups and dumps are written, and from which restores are read.
//!
//! Lines of words, one fact each, in a fixed order (`docs/developer/on-disk.md`). Reading is strict: a line
//! that is not understood, is missing, is there twice or is out of order is an error with its number, and
//! the last line has a checksum of all before it. A person who edits the text by hand writes `end edited`
//! there. Pure: no I/O, and memory only for what is really in the text.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;
use virtnotify_model::{Bytes, ChunkSize, PoolName, VgName, VolumeKind};

use crate::alloc::{Extent, LayerRow, Place, Run};
use crate::meta::{Contents, Settings, VolumeRow};

/// The first line. The number is the format's version.
const FIRST: &str = "virtnotify-pool 2";
/// The keys of the lines before the first layer, in their order.
const HEAD: [&str; 9] =
    ["written", "host", "source", "sequence", "vg", "name", "pool", "metadata-lv", "chunk-bytes"];

/// Where a text's map was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The metadata LV.
    Metadata,
    /// The maps that the kernel has of the volumes that are active.
    Kernel,
}

impl Source {
    const ALL: [(Self, &'static str); 2] = [(Self::Metadata, "metadata"), (Self::Kernel, "kernel")];
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(source, _)| source == self).map(|(_, name)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

/// A line that is wrong.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct TextError {
    /// Its number; the first line is 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// The header of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) written: OffsetDateTime,
    pub(crate) host: String,
    pub(crate) source: Source,
    /// Counts the backups of a pool; 0 in a dump.
    pub(crate) sequence: u64,
    pub(crate) vg: VgName,
    pub(crate) name: Option<PoolName>,
    /// LVM's id of the metadata LV.
    pub(crate) meta_lv: String,
}

/// A whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) head: Head,
    /// Clean chunks are not in a text: a restore takes no free chunk for zeroes.
    pub(crate) contents: Contents,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.head_lines(&mut text)?;
        self.layer_lines(&mut text)?;
        self.volume_lines(&mut text)?;
        writeln!(text, "end {:08x}", crc32fast::hash(text.as_bytes()))?;
        f.write_str(&text)
    }
}

impl Description {
    fn head_lines(&self, text: &mut String) -> fmt::Result {
        let Self { head, contents } = self;
        writeln!(text, "{FIRST}")?;
        writeln!(text, "# The map of a pool; docs/developer/on-disk.md says what the lines mean.")?;
        let written = head.written.format(&Rfc3339).map_err(|_| fmt::Error)?;
        writeln!(text, "written {written}")?;
        writeln!(text, "host {}", head.host)?;
        writeln!(text, "source {}", head.source)?;
        writeln!(text, "sequence {}", head.sequence)?;
        writeln!(text, "vg {}", head.vg)?;
        let name = head.name.as_ref().map_or("-", |name| name.as_str());
        writeln!(text, "name {name}")?;
        writeln!(text, "pool {}", contents.pool)?;
        writeln!(text, "metadata-lv {}", head.meta_lv)?;
        writeln!(text, "chunk-bytes {}", contents.settings.chunk.bytes().0)?;
        for (index, uuid) in &contents.data_lvs {
            writeln!(text, "data-lv {index} {uuid}")?;
        }
        Ok(())
    }

    fn layer_lines(&self, text: &mut String) -> fmt::Result {
        for (id, (row, runs)) in &self.contents.layers {
            let LayerRow { parent, generation, since } = row;
            writeln!(text, "\nlayer {id} {} {generation} {since}", parent.unwrap_or(0))?;
            for Run { at, to } in runs {
                match to.is_hole() {
                    true => writeln!(text, "hole {at}:{}", to.length)?,
                    false => {
                        let Extent { start: Place { lv, chunk }, length } = to;
                        writeln!(text, "run {at}:{lv}:{chunk}:{length}")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn volume_lines(&self, text: &mut String) -> fmt::Result {
        for (id, row) in &self.contents.volumes {
            let origin = row.origin.map_or_else(|| "-".to_owned(), |origin| origin.to_string());
            writeln!(text, "\nvolume {id} {}", row.name)?;
            writeln!(text, "uuid {}", row.uuid)?;
            writeln!(text, "kind {}", kind_name(row.kind))?;
            writeln!(text, "capacity {}", row.capacity.0)?;
            writeln!(text, "created {}", row.created)?;
            writeln!(text, "shows {}", row.layer)?;
            writeln!(text, "origin {origin}")?;
        }
        Ok(())
    }

    /// How many runs and chunks its layers have.
    pub(crate) fn size(&self) -> (u64, u64) {
        let runs = self.contents.owned();
        runs.fold((0, 0), |(n, chunks), (_, run)| (n + 1, chunks + run.to.length))
    }

    /// Whether two texts describe the same volumes, whatever these hold.
    pub(crate) fn same_volumes(&self, other: &Self) -> bool {
        self.contents.volumes == other.contents.volumes
    }
}

const KINDS: [(VolumeKind, &str); 2] =
    [(VolumeKind::Volume, "volume"), (VolumeKind::Snapshot, "snapshot")];

fn kind_name(kind: VolumeKind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, name)| name)
}

/// Reads lines, and remembers how far it came.
struct Lines<'a> {
    text: &'a str,
    /// Where the next line begins.
    at: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    fn error(&self, what: impl Into<String>) -> TextError {
        TextError { line: self.number, what: what.into() }
    }

    /// The next line that is neither empty nor a comment, and where it begins.
    fn next(&mut self) -> Result<(usize, &'a str), TextError> {
        while self.at < self.text.len() {
            self.number += 1;
            let begin = self.at;
            let rest = &self.text[begin..];
            let (line, more) = rest.split_once('\n').unwrap_or((rest, ""));
            self.at = self.text.len() - more.len();
            if !line.is_empty() && !line.starts_with('#') {
                return Ok((begin, line));
            }
        }
        self.number += 1;
        Err(self.error("the text ends here, without its line 'end'"))
    }

    /// The value of the next line, which must be this key's.
    fn value(&mut self, key: &str) -> Result<&'a str, TextError> {
        let (_, line) = self.next()?;
        let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(' '));
        value.ok_or_else(|| self.error(format!("'{key} ...' belongs here, not '{}'", short(line))))
    }

    fn parsed<T: FromStr>(&self, key: &str, value: &str) -> Result<T, TextError>
    where
        T::Err: fmt::Display,
    {
        let wrong = |e: T::Err| self.error(format!("'{}' is no {key}: {e}", short(value)));
        value.parse().map_err(wrong)
    }

    fn number(&self, what: &str, value: &str) -> Result<u64, TextError> {
        // Not "+1" or "007", which `parse` accepts as well.
        let plain = value == "0" || !value.starts_with(['0', '+']);
        let number = value.parse().ok().filter(|_| plain);
        number.ok_or_else(|| self.error(format!("'{}' is no {what}", short(value))))
    }
}

/// The beginning of a line, as much as fits a sentence.
fn short(line: &str) -> String {
    line.chars().take(60).collect::<String>().escape_debug().to_string()
}

/// LVM's ids: 32 letters and digits in seven groups.
pub(crate) fn is_lv_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let plain = groups.iter().all(|group| group.chars().all(|c| c.is_ascii_alphanumeric()));
    plain && lengths == [6, 4, 4, 4, 4, 4, 6]
}

impl FromStr for Description {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let mut lines = Lines { text, at: 0, number: 0 };
        let (_, first) = lines.next()?;
        if first != FIRST {
            let what = format!("this is no map of a pool: '{FIRST}' belongs here");
            return Err(lines.error(what));
        }
        let (head, pool, settings) = read_head(&mut lines)?;
        let mut contents = Contents {
            pool,
            settings,
            data_lvs: Default::default(),
            layers: Default::default(),
            volumes: Default::default(),
            clean: Vec::new(),
            vacated: Vec::new(),
        };
        loop {
            let (begin, line) = lines.next()?;
            match line.split_once(' ').unwrap_or((line, "")) {
                ("data-lv", rest) if contents.layers.is_empty() => {
                    data_lv(&lines, rest, &mut contents)?;
                }
                ("layer", rest) if contents.volumes.is_empty() => {
                    layer(&lines, rest, &mut contents)?;
                }
                ("run", rest) if contents.volumes.is_empty() => {
                    run(&lines, rest, &mut contents)?;
                }
                ("hole", rest) if contents.volumes.is_empty() => {
                    hole(&lines, rest, &mut contents)?;
                }
                ("volume", rest) => volume(&mut lines, rest, &mut contents)?,
                ("end", rest) => {
                    end(&mut lines, begin, rest)?;
                    return Ok(Self { head, contents });
                }
                _ => return Err(lines.error(format!("'{}' cannot be here", short(line)))),
            }
        }
    }
}

fn read_head(lines: &mut Lines<'_>) -> Result<(Head, Uuid, Settings), TextError> {
    let [written, host, source, sequence, vg, name, pool, meta_lv, chunk] = HEAD;
    let value = lines.value(written)?;
    let written = OffsetDateTime::parse(value, &Rfc3339);
    let written = written.map_err(|_| lines.error(format!("'{}' is no time", short(value))))?;
    let host = lines.value(host)?.to_owned();
    let value = lines.value(source)?;
    let source = Source::ALL.iter().find(|(_, name)| *name == value).map(|(source, _)| *source);
    let source = source.ok_or_else(|| lines.error(format!("'{}' is no source", short(value))))?;
    let value = lines.value(sequence)?;
    let sequence = lines.number(sequence, value)?;
    let value = lines.value(vg)?;
    let vg = lines.parsed("volume group", value)?;
    let name = match lines.value(name)? {
        "-" => None,
        name => Some(lines.parsed("pool's name", name)?),
    };
    let value = lines.value(pool)?;
    let pool = lines.parsed("pool's id", value)?;
    let meta_lv = lines.value(meta_lv)?.to_owned();
    if !is_lv_uuid(&meta_lv) {
        return Err(lines.error(format!("'{}' is no id of a logical volume", short(&meta_lv))));
    }
    let value = lines.value(chunk)?;
    let chunk = ChunkSize::new(Bytes(lines.number("size of a chunk", value)?));
    let chunk = chunk.map_err(|e| lines.error(e.to_string()))?;
    let head = Head { written, host, source, sequence, vg, name, meta_lv };
    Ok((head, pool, Settings { chunk }))
}

fn data_lv(lines: &Lines<'_>, rest: &str, contents: &mut Contents) -> Result<(), TextError> {
    let (index, uuid) = rest.split_once(' ').unwrap_or((rest, ""));
    let number = u16::try_from(lines.number("number of a data LV", index)?);
    let index = number.map_err(|_| lines.error("a data LV's number is 65534 at most"))?;
    if !is_lv_uuid(uuid) {
        return Err(lines.error(format!("'{}' is no id of a logical volume", short(uuid))));
    }
    match contents.data_lvs.insert(index, uuid.to_owned()) {
        None => Ok(()),
        Some(_) => Err(lines.error(format!("the data LV {index} is here twice"))),
    }
}

fn volume(lines: &mut Lines<'_>, rest: &str, contents: &mut Contents) -> Result<(), TextError> {
    let (id, name) = rest.split_once(' ').unwrap_or((rest, ""));
    let id = lines.number("volume's number", id)?;
    if contents.volumes.keys().next_back().is_some_and(|last| *last >= id) {
        return Err(lines.error(format!("the volume {id} is out of order")));
    }
    let name = lines.parsed("volume's name", name)?;
    let value = lines.value("uuid")?;
    let uuid = lines.parsed("UUID", value)?;
    let value = lines.value("kind")?;
    let kind = KINDS.iter().find(|(_, name)| *name == value).map(|(kind, _)| *kind);
    let kind = kind.ok_or_else(|| lines.error(format!("'{}' is no kind", short(value))))?;
    let value = lines.value("capacity")?;
    let capacity = Bytes(lines.number("capacity", value)?);
    let value = lines.value("created")?;
    let created = lines.number("time", value)?;
    let value = lines.value("shows")?;
    let layer = lines.number("layer's number", value)?;
    let origin = match lines.value("origin")? {
        "-" => None,
        value => Some(lines.parsed("UUID", value)?),
    };
    let row = VolumeRow { uuid, name, kind, capacity, created, layer, origin };
    contents.volumes.insert(id, row);
    Ok(())
}

fn layer(lines: &Lines<'_>, rest: &str, contents: &mut Contents) -> Result<(), TextError> {
    let fields: Vec<&str> = rest.split(' ').collect();
    let [id, parent, generation_of, since] = fields[..] else {
        let what =
            format!("'{}' is no layer: NUMBER PARENT GENERATION SINCE belongs here", short(rest));
        return Err(lines.error(what));
    };
    let id = lines.number("layer's number", id)?;
    if id == 0 || contents.layers.keys().next_back().is_some_and(|last| *last >= id) {
        return Err(lines.error(format!("the layer {id} is out of order")));
    }
    let parent = Some(lines.number("layer's number", parent)?).filter(|parent| *parent > 0);
    let generation = |value| {
        let number = u16::try_from(lines.number("generation", value)?);
        number.map_err(|_| lines.error("a generation is 65535 at most"))
    };
    let row =
        LayerRow { parent, generation: generation(generation_of)?, since: generation(since)? };
    contents.layers.insert(id, (row, Vec::new()));
    Ok(())
}

fn hole(lines: &Lines<'_>, rest: &str, contents: &mut Contents) -> Result<(), TextError> {
    let (at, length) = rest.split_once(':').unwrap_or((rest, ""));
    let at = lines.number("chunk", at)?;
    let length = lines.number("count", length)?;
    if length == 0 || at.checked_add(length).is_none() {
        return Err(lines.error("a hole of no chunks, or one that has no end"));
    }
    add(lines, Run::hole(at, length), contents)
}

fn run(lines: &Lines<'_>, rest: &str, contents: &mut Contents) -> Result<(), TextError> {
    let fields: Vec<&str> = rest.split(':').collect();
    let [at, lv, chunk, length] = fields[..] else {
        let what = format!("'{}' is no run: CHUNK:LV:PLACE:COUNT belongs here", short(rest));
        return Err(lines.error(what));
    };
    let at = lines.number("chunk", at)?;
    let lv = u16::try_from(lines.number("number of a data LV", lv)?);
    let lv = lv.map_err(|_| lines.error("a data LV's number is 65534 at most"))?;
    let chunk = lines.number("place", chunk)?;
    let length = lines.number("count", length)?;
    if length == 0 || at.checked_add(length).is_none() || chunk.checked_add(length).is_none() {
        return Err(lines.error("a run of no chunks, or one that has no end"));
    }
    if lv == Place::NOWHERE {
        return Err(lines.error("a data LV's number is 65534 at most"));
    }
    add(lines, Run { at, to: Extent { start: Place { lv, chunk }, length } }, contents)
}

/// Adds a run to the last layer.
fn add(lines: &Lines<'_>, run: Run, contents: &mut Contents) -> Result<(), TextError> {
    let last = contents.layers.values_mut().next_back();
    let (_, runs) = last.ok_or_else(|| lines.error("a run before any layer"))?;
    let Some(last) = runs.last_mut().filter(|last| last.end() >= run.at) else {
        runs.push(run);
        return Ok(());
    };
    if last.end() > run.at {
        return Err(lines.error("this run is out of order, or overlaps the one before it"));
    }
    if last.to.end() == run.to.start {
        last.to.length += run.to.length;
    } else {
        runs.push(run);
    }
    Ok(())
}

fn end(lines: &mut Lines<'_>, begin: usize, rest: &str) -> Result<(), TextError> {
    let checksum = format!("{:08x}", crc32fast::hash(&lines.text.as_bytes()[..begin]));
    if rest != checksum && rest != "edited" {
        return Err(lines.error(
            "the checksum is not that of the text: it is damaged, or was edited by hand (then \
             write 'end edited')",
        ));
    }
    match lines.text[lines.at..].trim() {
        "" => Ok(()),
        _ => {
            lines.number += 1;
            Err(lines.error("something follows the end"))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    pub(crate) const META: &str = "AbCdEf-0000-1111-2222-3333-4444-555555";
    pub(crate) const DATA: &str = "AbCdEf-0000-1111-2222-3333-4444-666666";

    /// Volumes with this many runs each, nothing shared.
    pub(crate) fn description(volumes: u64, runs: u64) -> Description {
        let volume = |id: u64| {
            let row = VolumeRow {
                uuid: Uuid::from_u128(id.into()),
                name: format!("disk{id}").parse().unwrap(),
                kind: VolumeKind::Volume,
                capacity: Bytes::mib(64),
                created: 1_763_830_000,
                layer: id,
                origin: None,
            };
            (id, row)
        };
        let layer = |id: u64| {
            let place = |n| Place { lv: 0, chunk: (id * runs + n) * 3 };
            let run = |n| Run { at: n * 4, to: Extent { start: place(n), length: n % 3 + 1 } };
            (id, (LayerRow::FIRST, (0..runs).map(run).collect()))
        };
        let head = Head {
            written: OffsetDateTime::from_unix_timestamp(1_763_830_000).unwrap(),
            host: "host1".into(),
            source: Source::Metadata,
            sequence: 7,
            vg: "vg0".parse().unwrap(),
            name: Some("vms".parse().unwrap()),
            meta_lv: META.into(),
        };
        let contents = Contents {
            pool: Uuid::from_u128(5),
            settings: Settings { chunk: ChunkSize::default() },
            data_lvs: BTreeMap::from([(0, DATA.to_owned())]),
            layers: (1..=volumes).map(layer).collect(),
            volumes: (1..=volumes).map(volume).collect(),
            clean: Vec::new(),
            vacated: Vec::new(),
        };
        Description { head, contents }
    }

    #[test]
    fn a_text_reads_as_it_was_written() {
        let text = description(2, 2).to_string();
        assert!(text.starts_with("virtnotify-pool 2\n# "), "{text}");
        assert!(text.contains("\nwritten 2025-11-22T16:46:40Z\nhost host1\n"), "{text}");
        assert!(text.contains("\nvolume 2 disk2\nuuid "), "{text}");
        assert!(text.contains("\nlayer 2 0 0 0\nrun 0:0:12:1\nrun 4:0:15:2\n"), "{text}");
        assert!(text.contains("\ncapacity 67108864\n"), "{text}");
    }

    #[test]
    fn layers_and_snapshots_read_as_they_were_written() {
        let mut written = description(2, 2);
        let row = LayerRow { parent: Some(2), generation: 5, since: 3 };
        let runs = vec![Run::hole(0, 3), Run::hole(9, 1)];
        written.contents.layers.insert(7, (row, runs));
        let mut snapshot = written.contents.volumes[&2].clone();
        snapshot.name = "disk2@mon".parse().unwrap();
        snapshot.uuid = Uuid::from_u128(9);
        (snapshot.kind, snapshot.origin) = (VolumeKind::Snapshot, Some(Uuid::from_u128(2)));
        written.contents.volumes.get_mut(&2).unwrap().layer = 7;
        written.contents.volumes.insert(3, snapshot);
        let text = written.to_string();
        assert!(text.contains("\nlayer 7 2 5 3\nhole 0:3\nhole 9:1\n"), "{text}");
        assert_eq!(text.parse::<Description>().unwrap(), written);
    }

    fn error_of(text: &str) -> String {
        text.parse::<Description>().unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let edited = |from: &str, to: &str| {
            let text = description(2, 2).to_string();
            assert!(text.contains(from), "{from}");
            let text = text.replacen(from, to, 1);
            let body = &text[..text.find("\nend ").unwrap()];
            error_of(&format!("{body}\nend edited\n"))
        };
        for (from, to, says) in [
            ("virtnotify-pool 2", "virtnotify-pool 1", "line 1: this is no map"),
            ("sequence 7", "sequence 07", "line 6: '07' is no sequence"),
            ("sequence 7\n", "", "line 6: 'sequence ...' belongs here, not 'vg vg0'"),
            ("host host1\n", "host host1\nhost host1\n", "line 5: 'source ...' belongs"),
            ("pool 00000000", "pool x0000000", "line 9: 'x0000000"),
            ("name vms", "name a/b", "line 8: 'a/b' is no pool's name"),
            (META, "AbCdEf", "line 10: 'AbCdEf' is no id"),
            ("chunk-bytes 4194304", "chunk-bytes 5", "line 11: a chunk of 5 bytes"),
            ("data-lv 0 ", "data-lv 70000 ", "line 12: a data LV's number"),
            ("volume 2 disk2", "volume 1 disk2", "line 30: the volume 1 is out of order"),
            ("layer 1 0 0 0\n", "run 0:0:0:1\nlayer 1 0 0 0\n", "line 14: a run before any"),
            ("layer 2 0 0 0", "layer 1 0 0 0", "line 18: the layer 1 is out of order"),
            ("layer 2 0 0 0", "layer 2 0 0", "line 18: '2 0 0' is no layer"),
            ("layer 2 0 0 0", "layer 2 0 70000 0", "line 18: a generation is 65535"),
            ("run 4:0:9:2", "hole 4:0", "line 16: a hole of no chunks"),
            ("run 4:0:9:2", "run 4:65535:9:2", "line 16: a data LV's number is 65534"),
            ("kind volume", "kind thing", "line 24: 'thing' is no kind"),
            ("shows 1", "shows one", "line 27: 'one' is no layer's number"),
            ("origin -", "origin x", "line 28: 'x' is no UUID"),
            ("volume 1 disk1", "hole 9:1\nvolume 1 disk1\nhole 9:1", "line 24: 'uuid ...' belongs"),
            ("run 4:0:9:2", "run 4:0:9", "line 16: '4:0:9' is no run"),
            ("run 4:0:9:2", "run 4:0:9:0", "line 16: a run of no chunks"),
            ("run 4:0:9:2", "run 0:0:9:2", "line 16: this run is out of order"),
            ("run 4:0:9:2", "walk 4:0:9:2", "line 16: 'walk 4:0:9:2' cannot be here"),
            ("run 4:0:9:2", "run 4:0:18446744073709551615:2", "line 16: a run of no chunks"),
            ("run 4:0:9:2", "run 4:0:+9:2", "line 16: '+9' is no place"),
        ] {
            let error = edited(from, to);
            assert!(error.starts_with(says), "{to}: {error}");
        }
    }

    #[test]
    fn a_text_that_was_cut_off_or_changed_is_refused() {
        let text = description(2, 2).to_string();
        for length in 0..text.len() - 1 {
            assert!(text[..length].parse::<Description>().is_err(), "cut at {length}");
        }
        let changed = text.replace("run 4:0:9:2", "run 4:0:8:2");
        assert!(error_of(&changed).contains("checksum"));
        assert!(error_of(&format!("{text}run 0:0:0:1\n")).contains("follows the end"));
        assert!(error_of("").starts_with("line 1: the text ends"));
    }

    proptest! {
        #[test]
        fn any_map_comes_back(volumes in 0u64..5, runs in 0u64..50) {
            let written = description(volumes, runs);
            prop_assert_eq!(written.to_string().parse(), Ok(written));
        }

        #[test]
        fn no_text_makes_it_panic(at in 0usize..900, byte in any::<u8>()) {
            let mut bytes = description(2, 9).to_string().into_bytes();
            let at = at.min(bytes.len() - 1);
            let same = bytes[at] == byte;
            bytes[at] = byte;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert!(same || text.parse::<Description>().is_err());
        }
    }
}
