/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device-mapper target "notify": structures shared by its parts.
 *
 * dm-notify-target.c      table lines, suspend, status
 * dm-notify-message.c     the messages user space sends
 * dm-notify-parse.c       the numbers, ranges and runs in them
 * dm-notify-inherit.c     a map that begins as what another one has
 * dm-notify-generation.c  snapshots and freezes
 * dm-notify-io.c          the life of a bio
 * dm-notify-move.c        chunks that stay mapped: protection, other places
 * dm-notify-hold.c        writes that wait
 * dm-notify-held.c        the writes that wait, in their orders
 * dm-notify-age.c         since when, across a suspend
 * dm-notify-report.c      what user space is told when it asks
 * dm-notify-bell.c        telling user space
 * dm-notify-share.c       which tables have which map
 * dm-notify-chunk.c       mapping chunks, and making holes of them
 * dm-notify-drain.c       waiting for the I/O that used an older map
 * dm-notify-leaf.c        where the map's entries lie in memory
 * dm-notify-trace.c       tracepoints
 *
 * Each part uses those below it in this list, never one above it, but for one
 * call: a held write that may go on is routed again.
 *
 * Locking, outermost first:
 *
 *   dm_notify_map.drain_lock (mutex)     one drain at a time
 *   dm_notify_map.lock       (mutex)     messages that change the map
 *   dm_notify_target.lock    (spinlock)  held writes, notifier, mode
 *   dm_notify_map.entry_lock (spinlock)  each change of an entry
 *
 * dm_notify_maps_lock (the list of maps and their users) is taken alone.
 *
 * The spinlocks are only taken in process context (->map, messages, work
 * items), and no I/O is submitted or completed under them. ->map looks chunks
 * up with preemption off and no lock; leaves are freed by RCU, which waits for
 * such readers as for others. ->end_io takes no lock. A drain waits for I/O
 * without holding dm_notify_map.lock, so that growth never waits for a drain.
 */
#ifndef DM_NOTIFY_H
#define DM_NOTIFY_H

#include <linux/bits.h>
#include <linux/blkdev.h>
#include <linux/cache.h>
#include <linux/device-mapper.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/pid.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "dm-notify-entry.h"

#define DM_MSG_PREFIX "notify"

#define DM_NOTIFY_MAX_DEVS		64
#define DM_NOTIFY_MIN_CHUNK_SHIFT	7	/* 64 KiB */
#define DM_NOTIFY_MAX_CHUNK_SHIFT	21	/* 1 GiB */
#define DM_NOTIFY_MAX_OPT_SHIFT		13	/* 4 MiB */
#define DM_NOTIFY_MAX_CHUNKS		BIT_ULL(32)
#define DM_NOTIFY_MAX_PCHUNK		BIT_ULL(35)
#define DM_NOTIFY_HOLD_TIMEOUT		30	/* seconds */
#define DM_NOTIFY_MAX_HOLD_TIMEOUT	86400

/* Above each generation: while a volume is frozen, no chunk is written. */
#define DM_NOTIFY_FROZEN		(DM_NOTIFY_MAX_GEN + 1)

/* The longest that a volume may be frozen. */
#define DM_NOTIFY_MAX_FREEZE_MS		30000

/* Chunks that are looked at or changed without a pause for others. */
#define DM_NOTIFY_BATCH			4096

#define DM_NOTIFY_LEAF_SHIFT		9
#define DM_NOTIFY_LEAF_CHUNKS		BIT(DM_NOTIFY_LEAF_SHIFT)

/* Leaves that each map keeps in hand: a run of 512 chunks needs two. */
#define DM_NOTIFY_RESERVE		2

/**
 * struct dm_notify_leaf - the entries of 512 chunks, and what belongs to them
 * @entry: a page; read without a lock, changed under dm_notify_map.entry_lock
 * @ahead: chunks whose first write user space has not been told of
 * @discard: chunks whose discard user space has not been told of
 * @first: the first chunk
 * @used: chunks whose entry is not 0
 * @reports: in dm_notify_map.reports if @ahead or @discard is not empty
 * @spare: in dm_notify_map.reserve
 * @rcu: for freeing it
 */
struct dm_notify_leaf {
	unsigned long *entry;
	DECLARE_BITMAP(ahead, DM_NOTIFY_LEAF_CHUNKS);
	DECLARE_BITMAP(discard, DM_NOTIFY_LEAF_CHUNKS);
	u64 first;
	unsigned int used;
	struct list_head reports;
	struct list_head spare;
	struct rcu_head rcu;
};

/**
 * struct dm_notify_slot - where a directory has a leaf
 * @entry: the leaf's entries, or NULL; freed by RCU
 * @leaf: the leaf; under dm_notify_map.lock or .entry_lock
 */
struct dm_notify_slot {
	unsigned long __rcu *entry;
	struct dm_notify_leaf *leaf;
};

/* The leaves of a map; a hole of 512 chunks needs none. */
struct dm_notify_dir {
	u64 nr_leaves;
	struct dm_notify_slot slot[];
};

/* Wait times: four buckets per power of two of nanoseconds. */
#define DM_NOTIFY_WAIT_BUCKETS		(4 * 48)

/* What a message says of a run beside the flags that its entries get. */
#define DM_NOTIFY_RUN_KEEP		0x1	/* its generation and its protection */
#define DM_NOTIFY_RUN_OVERWRITE		0x2	/* a write of the whole chunk waits */
#define DM_NOTIFY_RUN_GEN		0x4	/* it names a generation */

/*
 * A run: @count chunks from @virt on lie at @phys on device @dev, and are of
 * generation @gen, or are leaving, if that is in @flags.
 */
struct dm_notify_run {
	u64 virt;
	u64 phys;
	u64 count;
	unsigned int dev;
	unsigned int gen;
	unsigned long flags;
	unsigned int how;
};

enum dm_notify_counter {
	DM_NOTIFY_HELD_TOTAL,
	DM_NOTIFY_WANTED_TOTAL,
	DM_NOTIFY_AHEAD_TOTAL,
	DM_NOTIFY_PROTECTED_TOTAL,
	DM_NOTIFY_ZERO_SKIPPED,
	DM_NOTIFY_SIGNALS,
	DM_NOTIFY_SIGNAL_RETRIES,
	DM_NOTIFY_EVENTS,
	DM_NOTIFY_TIMED_OUT,
	DM_NOTIFY_NOSPACE_FAILED,
	DM_NOTIFY_NR_COUNTERS,
};

/* Wait times of held writes; guarded by dm_notify_target.lock. */
struct dm_notify_waits {
	u64 count;
	u64 total_ns;
	u64 max_ns;
	u64 bucket[DM_NOTIFY_WAIT_BUCKETS];
};

struct dm_notify_age {
	u64 chunk;
	u64 since_ns;
};

/*
 * Since when chunks are waited for, by chunk; 0 if that is over. It holds until
 * @until_ns for writes that come back.
 */
struct dm_notify_ages {
	u64 until_ns;
	unsigned long room;
	unsigned long nr;
	struct dm_notify_age age[];
};

/* What bios are counted as, by what they do. */
enum dm_notify_kind {
	DM_NOTIFY_READS,
	DM_NOTIFY_WRITES,
	DM_NOTIFY_DISCARDS,	/* and zeroing */
	DM_NOTIFY_NR_KINDS,
};

/**
 * struct dm_notify_cpu - what each processor counts for itself
 * @inflight: I/O passed down less I/O completed, by epoch
 * @bios: bios that came, or pieces of them
 */
struct dm_notify_cpu {
	long inflight[2];
	u64 bios[DM_NOTIFY_NR_KINDS];
};

/**
 * struct dm_notify_hot - what a bio in a mapped chunk reads of a map
 * @dir: where the entries lie; NULL until a target is resumed, replaced by a
 *       larger one when the volume grows
 * @cpu: counters of each processor
 * @epoch: the half of dm_notify_cpu.inflight that new I/O is counted in
 * @draining: the half of it that a drain waits for, plus 1; or 0
 * @mark: chunks of generations below it are not written: the map's floor, or
 *        DM_NOTIFY_FROZEN; under the map's entry_lock
 *
 * Growth writes to none of it: each of these changes with a table, a drain, a
 * snapshot or a freeze.
 */
struct dm_notify_hot {
	struct dm_notify_dir *dir;
	struct dm_notify_cpu __percpu *cpu;
	unsigned int epoch;
	unsigned int draining;
	unsigned int mark;
};

/**
 * struct dm_notify_map - the map of one volume, and what outlives a table reload
 * @hot: in a cache line of its own
 * @list: in the module's list of maps
 * @users: targets that share the map; guarded by dm_notify_maps_lock, like @borrowers
 * @borrowers: other volumes that inherit from it just now
 * @md: the mapped device that the map belongs to
 * @begin: where the target starts on @md
 * @chunk_shift: log2 of the chunk size in sectors, of the target that was
 *               resumed last, like @hot.dir and @devt
 * @lock: held by messages that change the map
 * @entry_lock: guards each change of an entry and of what belongs to it, and
 *              what comes after it up to @reports
 * @floor: chunks of generations below it belong to a snapshot
 * @gen: the generation that chunks which are mapped now are of
 * @frozen_ns: since when the volume is frozen, 0 if it is not
 * @thaw_ns: when that ends by itself
 * @nr_mapped: mapped chunks
 * @nr_leaving: chunks that are leaving
 * @nr_on_dev: mapped chunks of each device
 * @reports: leaves with something to tell user space
 * @reserve: leaves for when there is no memory; guarded by @lock
 * @nr_reserve: number of them
 * @renumbered: how often generations were renumbered; guarded by @lock
 * @growths: runs that were mapped; guarded by @lock
 * @copies: chunks that were moved; guarded by @lock
 * @devt: devices that the chunks are on; guarded by @lock
 * @nospace: writes that need a chunk fail
 * @drain_lock: one drain at a time
 * @drain_wait: where a drain waits
 * @counters: statistics
 * @ages: of the writes that the last noflush suspend gave back, or NULL; under
 *        the live target's lock
 * @waits: how long held writes waited
 */
struct dm_notify_map {
	struct dm_notify_hot hot ____cacheline_aligned;

	struct list_head list ____cacheline_aligned;
	unsigned int users;
	unsigned int borrowers;
	struct mapped_device *md;
	sector_t begin;
	unsigned int chunk_shift;

	struct mutex lock; /* messages that change the map */
	spinlock_t entry_lock; /* each change of an entry */
	unsigned int floor;
	unsigned int gen;
	u64 frozen_ns;
	u64 thaw_ns;
	u64 nr_mapped;
	u64 nr_leaving;
	u64 nr_on_dev[DM_NOTIFY_MAX_DEVS];
	struct list_head reports;
	struct list_head reserve;
	unsigned int nr_reserve;
	u64 renumbered;
	u64 growths;
	u64 copies;
	dev_t devt[DM_NOTIFY_MAX_DEVS];
	bool nospace;

	struct mutex drain_lock; /* one drain at a time */
	wait_queue_head_t drain_wait;

	atomic64_t counters[DM_NOTIFY_NR_COUNTERS];
	struct dm_notify_ages *ages;
	struct dm_notify_waits waits;
};

/* Nothing that changes all the time lies beside what each bio reads. */
static_assert(sizeof(struct dm_notify_hot) <= SMP_CACHE_BYTES);
static_assert(offsetof(struct dm_notify_map, list) >= SMP_CACHE_BYTES);

/**
 * struct dm_notify_target - one line of a table
 * @ti: device-mapper's side
 * @map: the map, shared with the other tables for the same place
 * @chunk_mask: the sectors' bits inside a chunk
 * @nr_chunks: chunks of the volume, the last one may be partial
 * @chunk_shift: log2 of the chunk size in sectors
 * @nr_devs: number of @devs
 * @skip_zero_writes: writes of zeroes into holes allocate nothing
 * @hold_timeout_given: the table line names a timeout
 * @live: it has been resumed; until then there are neither I/O nor messages
 * @hold_timeout: seconds a write may wait, 0 for ever
 * @minor: minor of the mapped device, which the signal carries
 * @spare_dir: for the map, if the volume is larger than it was; until @live
 * @devs: the data devices; what comes before does not change while there is I/O
 * @lock: guards all that follows
 * @held: held writes by chunk, then age
 * @ages: held writes by age
 * @unsaid: of each chunk's held writes the oldest, if "pending" has not named
 *          the chunk in this round; by age
 * @said: the same, if it has
 * @nr_held: number of held writes
 * @nr_wanted: number of distinct chunks in @held
 * @ready: writes that go on
 * @rung: the bell has rung and user space has not asked "pending" since
 * @pid: the thread to signal, or NULL
 * @pid_nr: @pid as user space named it
 * @signo: signal to send, 0 for none
 * @retry_ms: pause before the next try to send a signal
 * @ready_work: submits @ready
 * @event_work: raises the device-mapper event
 * @signal_work: sends a signal again
 * @timeout_work: fails writes that waited too long
 * @thaw_work: ends a freeze whose time is over
 */
struct dm_notify_target {
	struct dm_target *ti;
	struct dm_notify_map *map;
	sector_t chunk_mask;
	u64 nr_chunks;
	unsigned int chunk_shift;
	unsigned int nr_devs;
	bool skip_zero_writes;
	bool hold_timeout_given;
	bool live;
	unsigned int hold_timeout;
	int minor;
	struct dm_notify_dir *spare_dir;
	struct dm_dev *devs[DM_NOTIFY_MAX_DEVS];

	spinlock_t lock ____cacheline_aligned; /* all that follows */
	struct rb_root held;
	struct list_head ages;
	struct list_head unsaid;
	struct list_head said;
	unsigned long nr_held;
	unsigned long nr_wanted;
	struct bio_list ready;

	bool rung;
	struct pid *pid;
	unsigned int pid_nr;
	unsigned int signo;
	unsigned int retry_ms;

	struct work_struct ready_work;
	struct work_struct event_work;
	struct delayed_work signal_work;
	struct delayed_work timeout_work;
	struct delayed_work thaw_work;
};

static_assert(offsetofend(struct dm_notify_target, spare_dir) <=
	      SMP_CACHE_BYTES);
static_assert(offsetof(struct dm_notify_target, lock) % SMP_CACHE_BYTES == 0);

/**
 * struct dm_notify_io - what the target keeps with each bio
 * @node: in dm_notify_target.held
 * @age: in dm_notify_target.ages
 * @want: in dm_notify_target.unsaid or .said, if it is the oldest of its chunk
 * @chunk: the chunk that is waited for
 * @since_ns: when the wait began
 * @epoch: the half of the in-flight count that has the bio, plus 1; or 0
 */
struct dm_notify_io {
	struct rb_node node;
	struct list_head age;
	struct list_head want;
	u64 chunk;
	u64 since_ns;
	unsigned int epoch;
};

/* Room for the longest line of "pending", and for "more" and a NUL after it. */
#define DM_NOTIFY_PENDING_LINE		48

/**
 * dm_notify_leaf_at() - the entries beside a chunk's.
 * @map: the map
 * @dir: its directory
 * @chunk: a chunk of the volume
 *
 * Context: preemption off, RCU read side, or one of the map's locks held.
 * Return: the entries of its leaf, or NULL if all are holes.
 */
static inline const unsigned long *
dm_notify_leaf_at(const struct dm_notify_map *map,
		  const struct dm_notify_dir *dir, u64 chunk)
{
	return rcu_dereference_check(dir->slot[chunk >> DM_NOTIFY_LEAF_SHIFT].entry,
				     rcu_read_lock_sched_held() ||
				     lockdep_is_held(&map->lock) ||
				     lockdep_is_held(&map->entry_lock));
}

/**
 * dm_notify_entry() - look a chunk up.
 * @map: the map
 * @chunk: a chunk of the volume
 *
 * Context: preemption off, RCU read side, or one of the map's locks held.
 * Return: its entry; without DM_NOTIFY_MAPPED the chunk is a hole.
 */
static inline unsigned long dm_notify_entry(const struct dm_notify_map *map,
					    u64 chunk)
{
	const struct dm_notify_dir *dir = READ_ONCE(map->hot.dir);
	const unsigned long *leaf = dm_notify_leaf_at(map, dir, chunk);

	if (unlikely(!leaf))
		return 0;
	return READ_ONCE(leaf[chunk % DM_NOTIFY_LEAF_CHUNKS]);
}

/* Does the chunk of an entry belong to a snapshot? Caller holds a lock. */
static inline bool dm_notify_shared(const struct dm_notify_map *map,
				    unsigned long entry)
{
	return (entry & DM_NOTIFY_MAPPED) &&
	       dm_notify_entry_gen(entry) < READ_ONCE(map->floor);
}

static inline bool dm_notify_frozen(const struct dm_notify_map *map)
{
	return READ_ONCE(map->hot.mark) == DM_NOTIFY_FROZEN;
}

/* As dm_notify_entry(), from where no lock of the map is held. */
static inline unsigned long dm_notify_look_up(const struct dm_notify_map *map,
					      u64 chunk)
{
	unsigned long entry;

	rcu_read_lock();
	entry = dm_notify_entry(map, chunk);
	rcu_read_unlock();
	return entry;
}

/* The number of the mapped device. */
static inline dev_t dm_notify_devt(const struct dm_notify_target *nt)
{
	return disk_devt(dm_disk(dm_table_get_md(nt->ti->table)));
}

static inline struct dm_notify_io *dm_notify_bio_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct dm_notify_io));
}

static inline struct bio *dm_notify_io_bio(struct dm_notify_io *io)
{
	return dm_bio_from_per_bio_data(io, sizeof(struct dm_notify_io));
}

static inline void dm_notify_count(struct dm_notify_map *map, enum dm_notify_counter c)
{
	atomic64_inc(&map->counters[c]);
}

#include "dm-notify-calls.h"

#endif
