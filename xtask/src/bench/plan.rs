// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is measured in virtual time: the ways to store, and the jobs that each of them does.
//!
//! The script on the host gets this as a file and does no more and no less. So what was to run is
//! known here, and a figure that is missing is told from one that was never asked for.

use serde::Serialize;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The chunk of a pool where nothing else was chosen.
pub const CHUNK: u64 = 4 * MIB;
/// How often each chunk is written in `randfirst`; the first of these finds it unallocated.
pub const WRITES_EACH: u64 = 64;
const BLOCK: u64 = 4 * KIB;

/// A way to store.
pub struct Way {
    /// Its name in results.
    pub name: &'static str,
    /// Its name in tables.
    pub label: &'static str,
    /// What it allocates at once. A way that allocates nothing, or block by block, does the job of
    /// the one that stands beside it.
    pub chunk: u64,
    /// The part of the sequential and steady jobs that a slow one does.
    share: u64,
    /// Only what depends on the headroom.
    first_writes_only: bool,
}

const fn way(name: &'static str, label: &'static str, chunk: u64) -> Way {
    Way { name, label, chunk, share: 1, first_writes_only: false }
}

/// All ways, in the order of tables and of the first round.
pub const WAYS: [Way; 11] = [
    // In the target's place, on a logical volume; `lv` is such a volume alone.
    way("linear", "dm-linear", CHUNK),
    way("lv", "plain LV", CHUNK),
    way("notify", "notify, clean headroom", CHUNK),
    Way { first_writes_only: true, ..way("notify_installed", "notify, as installed", CHUNK) },
    Way { first_writes_only: true, ..way("notify_dirty", "notify, no headroom", CHUNK) },
    way("thin4m", "dm-thin 4 MiB", 4 * MIB),
    way("thin4m_skip", "dm-thin 4 MiB, not zeroed", 4 * MIB),
    way("thin64k", "dm-thin 64 KiB", 64 * KIB),
    way("thin64k_skip", "dm-thin 64 KiB, not zeroed", 64 * KIB),
    Way { share: 4, ..way("raw", "raw file, nbd", 64 * KIB) },
    Way { share: 4, ..way("qcow2", "qcow2, nbd", 64 * KIB) },
];
/// Who is measured on devices that take their time.
pub const SLOW_WAYS: [&str; 5] = ["linear", "notify", "thin4m", "thin64k", "thin64k_skip"];
/// These devices, as the script names them, and as tables do.
pub const SLOW_DEVICES: [(&str, &str); 3] = [
    ("flush50us", "a flush takes 50 us"),
    ("flush2ms", "a flush takes 2 ms"),
    ("request50us", "each request takes 50 us"),
];

/// The way of that name.
pub fn find(name: &str) -> Option<&'static Way> {
    WAYS.iter().find(|way| way.name == name)
}

/// One job of fio.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    pub name: &'static str,
    /// fio's word for it.
    pub rw: &'static str,
    pub block: u64,
    /// The area, from the volume's start.
    pub size: u64,
    /// Bytes in all.
    pub amount: u64,
    /// What a sequential job leaves out after each block.
    pub skip: u64,
    /// Requests at once.
    pub depth: u64,
    /// Whether each write is followed by a flush.
    pub flush: bool,
}

impl Job {
    /// How many chunks of this size it writes to. A random job fills its area's chunks often enough
    /// that none is left out; the script counts them on the device.
    pub fn chunks(&self, chunk: u64) -> u64 {
        if self.rw == "randwrite" {
            return self.size.div_ceil(chunk);
        }
        let offsets = (0..self.amount / self.block).map(|n| n * (self.block + self.skip));
        let chunks = |offset: u64| offset / chunk..(offset + self.block).div_ceil(chunk);
        let mut touched: Vec<u64> = offsets.flat_map(chunks).collect();
        touched.dedup();
        touched.len() as u64
    }
}

/// A fresh volume, and what is done on it in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume {
    pub size: u64,
    pub jobs: Vec<Job>,
}

/// A way with its volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub way: &'static str,
    pub volumes: Vec<Volume>,
}

/// Everything that the script does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub rows: Vec<Row>,
    /// A part of the same once more, in the reverse order.
    pub turned_rows: Vec<Row>,
    /// The headroom that counts as clean: more than half of it is left after any job, or the
    /// daemon would get more meanwhile.
    pub headroom: u64,
    pub slow_devices: Vec<&'static str>,
    pub slow_rows: Vec<Row>,
    pub slow_headroom: u64,
}

/// How much is done.
struct Amounts {
    sequential: u64,
    steady: u64,
    chunks: u64,
    slow_chunks: u64,
}

impl Amounts {
    fn new(quick: bool) -> Self {
        if quick {
            Self { sequential: 64 * MIB, steady: 4 * MIB, chunks: 16, slow_chunks: 8 }
        } else {
            Self { sequential: 512 * MIB, steady: 128 * MIB, chunks: 128, slow_chunks: 32 }
        }
    }
}

impl Plan {
    /// All rows, or those in `only`.
    pub fn new(quick: bool, only: &[String]) -> Self {
        let amounts = Amounts::new(quick);
        let wanted = |name: &str| only.is_empty() || only.iter().any(|word| word == name);
        let chosen = |ways: &mut dyn Iterator<Item = &'static Way>, slow: bool| -> Vec<Row> {
            ways.filter(|way| wanted(way.name))
                .map(|way| Row { way: way.name, volumes: volumes(way, &amounts, slow) })
                .collect()
        };
        let rows = chosen(&mut WAYS.iter(), false);
        let slow_rows = chosen(&mut SLOW_WAYS.iter().filter_map(|name| find(name)), true);
        Self {
            turned_rows: turned(&rows),
            rows,
            headroom: 3 * amounts.sequential.max(amounts.chunks * CHUNK),
            slow_devices: SLOW_DEVICES.iter().map(|(name, _)| *name).collect(),
            slow_rows,
            slow_headroom: 3 * amounts.slow_chunks * CHUNK,
        }
    }
}

/// Steady and single first writes, by the last way first: enough to see whether the order decides.
fn turned(rows: &[Row]) -> Vec<Row> {
    let kept = |volume: &&Volume| ["seqfirst", "touch"].contains(&volume.jobs[0].name);
    let row = |row: &Row| Row {
        way: row.way,
        volumes: row.volumes.iter().filter(kept).cloned().collect(),
    };
    rows.iter().rev().map(row).collect()
}

/// A first write to each second chunk: nothing of it is sequential, and each finds its chunk
/// unallocated, as long as chunks are no larger than the default.
fn touch(name: &'static str, count: u64, depth: u64, flush: bool) -> Job {
    let stride = 2 * CHUNK;
    Job {
        name,
        rw: "write",
        block: BLOCK,
        size: count * stride,
        amount: count * BLOCK,
        skip: stride - BLOCK,
        depth,
        flush,
    }
}

/// Random writes to unallocated chunks of the way's own size, the same number of each.
fn random_first(way: &Way, count: u64) -> Job {
    Job {
        name: "randfirst",
        rw: "randwrite",
        block: BLOCK,
        size: count * way.chunk,
        amount: count * WRITES_EACH * BLOCK,
        skip: 0,
        depth: 1,
        flush: false,
    }
}

fn plain(
    name: &'static str,
    rw: &'static str,
    block: u64,
    size: u64,
    amount: u64,
    depth: u64,
) -> Job {
    Job { name, rw, block, size, amount, skip: 0, depth, flush: false }
}

/// What is done on one volume, where everything was written before except by the first job.
fn steady(way: &Way, amounts: &Amounts) -> Volume {
    let (size, amount) = (amounts.sequential / way.share, amounts.steady / way.share);
    let mut jobs = vec![plain("seqfirst", "write", MIB, size, size, 1)];
    if !way.first_writes_only {
        jobs.extend([
            plain("seqagain", "write", MIB, size, size, 1),
            plain("seqread", "read", MIB, size, size, 1),
            plain("randread", "randread", BLOCK, size, amount, 1),
            plain("randwrite", "randwrite", BLOCK, size, amount, 1),
            plain("randread32", "randread", BLOCK, size, amount, 32),
            plain("randwrite32", "randwrite", BLOCK, size, amount, 32),
        ]);
    }
    Volume { size, jobs }
}

fn volumes(way: &Way, amounts: &Amounts, slow: bool) -> Vec<Volume> {
    let count = if slow { amounts.slow_chunks } else { amounts.chunks };
    let first = touch("touch", count, 1, false);
    let again = Job { name: "touch_again", ..first.clone() };
    let flushed = touch("touch_flush", count, 1, true);
    let volume = |jobs: Vec<Job>| Volume { size: jobs[0].size, jobs };
    if slow {
        return vec![volume(vec![first]), volume(vec![flushed])];
    }
    vec![
        steady(way, amounts),
        volume(vec![first, again]),
        volume(vec![touch("touch32", count, 32, false)]),
        volume(vec![flushed]),
        volume(vec![random_first(way, count)]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The jobs on a fresh volume that are about first writes.
    fn first_jobs(rows: &[Row]) -> Vec<(&'static str, &Job)> {
        let jobs = rows.iter().flat_map(|row| row.volumes.iter().map(|v| (row.way, &v.jobs[0])));
        jobs.filter(|(_, job)| job.name != "seqfirst").collect()
    }

    #[test]
    fn each_way_has_as_many_chunks_touched_for_the_first_time() {
        for quick in [false, true] {
            let plan = Plan::new(quick, &[]);
            for (rows, count) in [
                (&plan.rows, 4 * WAYS.len()),
                (&plan.slow_rows, 2 * SLOW_WAYS.len()),
                (&plan.turned_rows, WAYS.len()),
            ] {
                let jobs = first_jobs(rows);
                assert_eq!(jobs.len(), count);
                let chunks = jobs[0].1.chunks(CHUNK);
                assert!(chunks >= 8);
                for (name, job) in jobs {
                    assert_eq!(job.chunks(find(name).unwrap().chunk), chunks, "{name} {job:?}");
                }
            }
        }
    }

    #[test]
    fn a_touch_is_one_write_to_a_chunk() {
        let job = touch("touch", 256, 1, false);
        for chunk in [64 * KIB, 4 * MIB] {
            assert_eq!(job.chunks(chunk), job.amount / job.block);
        }
        // The same area for all would compare 64 writes to a chunk with one or two.
        let wide = plain("randfirst", "randwrite", BLOCK, 1 << 30, 64 * MIB, 1);
        assert_ne!(wide.chunks(64 * KIB), wide.chunks(4 * MIB));
    }

    #[test]
    fn rows_can_be_chosen() {
        let plan = Plan::new(true, &["thin4m".into(), "qcow2".into()]);
        let names: Vec<_> = plan.rows.iter().map(|row| row.way).collect();
        assert_eq!(names, ["thin4m", "qcow2"]);
        assert_eq!(plan.slow_rows.len(), 1);
        assert!(SLOW_WAYS.iter().all(|name| find(name).is_some()));
    }
}
