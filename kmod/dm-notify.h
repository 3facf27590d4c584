/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device-mapper target "notify": structures shared by its parts.
 *
 * dm-notify-target.c   table lines, suspend, status
 * dm-notify-message.c  the messages user space sends
 * dm-notify-parse.c    the numbers, ranges and runs in them
 * dm-notify-io.c       the life of a bio
 * dm-notify-hold.c     writes that wait
 * dm-notify-age.c      since when, across a suspend
 * dm-notify-report.c   what user space is told when it asks
 * dm-notify-bell.c     telling user space
 * dm-notify-share.c    who has which map
 * dm-notify-generation.c  snapshots, and writes held for them
 * dm-notify-map.c      mapping chunks, and making holes of them
 * dm-notify-move.c     chunks that stay mapped: protection, other places
 * dm-notify-drain.c    waiting for the I/O that used an older map
 * dm-notify-table.c    where the map's entries lie in memory
 *
 * Who comes first in this list uses who comes later, never the other way
 * round, but for one call: a held write that may go on is routed again.
 *
 * Locking, outermost first:
 *
 *   notify_map.drain_lock (mutex)     one drain at a time
 *   notify_map.lock       (mutex)     messages that change the map
 *   notify_target.lock    (spinlock)  held writes, notifier, mode
 *   notify_map.entry_lock (spinlock)  each change of an entry
 *
 * notify_maps_lock (the list of maps and who shares them) is taken alone.
 *
 * The spinlocks are only taken in process context (->map, messages, work
 * items), and no I/O is submitted or completed under them. ->map looks chunks
 * up with preemption off and no lock; leaves are freed by RCU, which waits for
 * such readers as for others. ->end_io takes no lock. A drain waits for I/O
 * without holding notify_map.lock, so that growth never waits for a drain.
 */
#ifndef DM_NOTIFY_H
#define DM_NOTIFY_H

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

#define DM_MSG_PREFIX "notify"

#define NOTIFY_MAX_DEVS		64
#define NOTIFY_MIN_CHUNK_SHIFT	7	/* 64 KiB */
#define NOTIFY_MAX_CHUNK_SHIFT	21	/* 1 GiB */
#define NOTIFY_MAX_CHUNKS	(1ULL << 32)
#define NOTIFY_MAX_PCHUNK	(1ULL << 35)
#define NOTIFY_HOLD_TIMEOUT	30	/* seconds */
#define NOTIFY_MAX_HOLD_TIMEOUT	86400

/*
 * A chunk's entry is one 64-bit word. That of a mapped chunk:
 *
 *   bit 0       NOTIFY_WATCHED    never written; the first write is reported
 *   bit 1       NOTIFY_PROTECTED  reads pass, all else is held
 *   bit 2       NOTIFY_DISCARDED  discarded as a whole, not written since
 *   bit 3       NOTIFY_UNCHANGED  not written since "watch"
 *   bit 4       NOTIFY_MAPPED     it has a place
 *   bits 5-10   number of the device
 *   bits 13-28  the generation that it is of
 *   bits 29-63  chunk on that device
 *
 * Adding NOTIFY_NEXT_CHUNK to it gives the entry that a physically contiguous
 * next chunk has. That of a hole is 0, or has one or both of these:
 *
 *   bit 11      NOTIFY_LEAVING    it had a place that is not yet forgotten:
 *                                 zeroes written there are held, too
 *   bit 12      NOTIFY_RESERVED   a message is about to map it
 */
#if BITS_PER_LONG != 64
#error "the notify target packs a chunk's place into one 64-bit word"
#endif

#define NOTIFY_WATCHED		0x1UL
#define NOTIFY_PROTECTED	0x2UL
#define NOTIFY_DISCARDED	0x4UL
#define NOTIFY_UNCHANGED	0x8UL
#define NOTIFY_FLAGS		0xfUL
#define NOTIFY_UNWRITTEN	(NOTIFY_WATCHED | NOTIFY_DISCARDED)
#define NOTIFY_MAPPED		0x10UL
#define NOTIFY_DEV_SHIFT	5
#define NOTIFY_DEV_MASK		0x3fUL
#define NOTIFY_LEAVING		0x800UL
#define NOTIFY_RESERVED		0x1000UL
#define NOTIFY_GEN_SHIFT	13
#define NOTIFY_MAX_GEN		0xffffUL
#define NOTIFY_GEN_MASK		(NOTIFY_MAX_GEN << NOTIFY_GEN_SHIFT)
#define NOTIFY_PCHUNK_SHIFT	29
#define NOTIFY_NEXT_CHUNK	(1UL << NOTIFY_PCHUNK_SHIFT)

/* Above each generation: while a volume is frozen, no chunk is written. */
#define NOTIFY_FROZEN		(NOTIFY_MAX_GEN + 1)

/* The longest that a volume may be frozen. */
#define NOTIFY_MAX_FREEZE_MS	30000

/* Chunks that are looked at or changed without a pause for others. */
#define NOTIFY_BATCH		4096

#define NOTIFY_LEAF_SHIFT	9
#define NOTIFY_LEAF_CHUNKS	(1U << NOTIFY_LEAF_SHIFT)

/* Leaves that each map keeps in hand: a run of 512 chunks needs two. */
#define NOTIFY_RESERVE		2

/**
 * struct notify_leaf - the entries of 512 chunks, and what belongs to them
 * @entry: a page; read without a lock, changed under notify_map.entry_lock
 * @ahead: chunks whose first write user space has not been told of
 * @discard: chunks whose discard user space has not been told of
 * @first: the first chunk
 * @used: chunks whose entry is not 0
 * @reports: in notify_map.reports if @ahead or @discard is not empty
 * @spare: in notify_map.reserve
 * @rcu: for freeing it
 */
struct notify_leaf {
	unsigned long *entry;
	DECLARE_BITMAP(ahead, NOTIFY_LEAF_CHUNKS);
	DECLARE_BITMAP(discard, NOTIFY_LEAF_CHUNKS);
	u64 first;
	unsigned int used;
	struct list_head reports;
	struct list_head spare;
	struct rcu_head rcu;
};

/**
 * struct notify_slot - where a directory has a leaf
 * @entry: the leaf's entries, or NULL; read without a lock
 * @leaf: the leaf; under notify_map.lock or .entry_lock
 */
struct notify_slot {
	unsigned long *entry;
	struct notify_leaf *leaf;
};

/* The leaves of a map; a hole of 512 chunks needs none. */
struct notify_dir {
	u64 nr_leaves;
	struct notify_slot slot[];
};

/* Wait times: four buckets per power of two of nanoseconds. */
#define NOTIFY_WAIT_BUCKETS	(4 * 48)

/* What a message says of a run beside the flags that its entries get. */
#define NOTIFY_RUN_KEEP		0x1	/* its generation and its protection */
#define NOTIFY_RUN_OVERWRITE	0x2	/* a write of the whole chunk waits */
#define NOTIFY_RUN_GEN		0x4	/* it names a generation */

/*
 * A run: @count chunks from @virt on lie at @phys on device @dev, and are of
 * generation @gen, or are leaving, if that is in @flags.
 */
struct notify_run {
	u64 virt;
	u64 phys;
	u64 count;
	unsigned int dev;
	unsigned int gen;
	unsigned long flags;
	unsigned int how;
};

enum notify_counter {
	NOTIFY_HELD_TOTAL,
	NOTIFY_WANTED_TOTAL,
	NOTIFY_AHEAD_TOTAL,
	NOTIFY_PROTECTED_TOTAL,
	NOTIFY_ZERO_SKIPPED,
	NOTIFY_SIGNALS,
	NOTIFY_SIGNAL_RETRIES,
	NOTIFY_EVENTS,
	NOTIFY_TIMED_OUT,
	NOTIFY_NOSPACE_FAILED,
	NOTIFY_NR_COUNTERS,
};

/* Wait times of held writes; guarded by notify_target.lock. */
struct notify_waits {
	u64 count;
	u64 total_ns;
	u64 max_ns;
	u64 bucket[NOTIFY_WAIT_BUCKETS];
};

struct notify_age {
	u64 chunk;
	u64 since_ns;
};

/* Since when chunks are waited for, by chunk; 0 if that is over. */
struct notify_ages {
	unsigned long room;
	unsigned long nr;
	struct notify_age age[];
};

struct notify_inflight {
	long nr[2];
};

/**
 * struct notify_map - the map of one volume, and what outlives a table reload
 * @list: in the module's list of maps
 * @users: targets that share the map; guarded by notify_maps_lock
 * @md: the mapped device that the map belongs to
 * @begin: where the target starts on @md
 * @chunk_shift: log2 of the chunk size in sectors, of the target that was
 *               resumed last, like @dir and @devt
 * @lock: held by messages that change the map
 * @dir: where the entries lie; NULL until a target is resumed, replaced by a
 *       larger one when the volume grows
 * @entry_lock: guards each change of an entry and of what belongs to it, and
 *              the four after it
 * @mark: chunks of generations below it are not written: @floor, or
 *        NOTIFY_FROZEN; read without a lock
 * @floor: chunks of generations below it belong to a snapshot
 * @gen: the generation that chunks which are mapped now are of
 * @frozen_ns: since when the volume is frozen, 0 if it is not
 * @thaw_ns: when that ends by itself
 * @reports: leaves with something to tell user space; under @entry_lock
 * @reserve: leaves for when there is no memory; guarded by @lock
 * @nr_reserve: number of them
 * @nr_mapped: mapped chunks; under @entry_lock
 * @nr_leaving: chunks that are leaving; under @entry_lock
 * @nr_on_dev: chunks per device; under @entry_lock
 * @devt: devices that the chunks are on; guarded by @lock
 * @nospace: writes that need a chunk fail
 * @drain_lock: one drain at a time
 * @drain_wait: where a drain waits
 * @draining: the half of @inflight that a drain waits for, plus 1; or 0
 * @epoch: the half of @inflight that new I/O is counted in
 * @inflight: I/O passed down and not yet completed, by epoch
 * @counters: statistics
 * @ages: of the writes that the last noflush suspend gave back, or NULL; under
 *        the live target's lock
 * @waits: how long held writes waited
 */
struct notify_map {
	struct list_head list;
	unsigned int users;
	struct mapped_device *md;
	sector_t begin;
	unsigned int chunk_shift;

	struct mutex lock;
	struct notify_dir *dir;
	spinlock_t entry_lock;
	unsigned int mark;
	unsigned int floor;
	unsigned int gen;
	u64 frozen_ns;
	u64 thaw_ns;
	struct list_head reports;
	struct list_head reserve;
	unsigned int nr_reserve;
	u64 nr_mapped;
	u64 nr_leaving;
	u64 nr_on_dev[NOTIFY_MAX_DEVS];
	dev_t devt[NOTIFY_MAX_DEVS];
	bool nospace;

	struct mutex drain_lock;
	wait_queue_head_t drain_wait;
	unsigned int draining;
	unsigned int epoch;
	struct notify_inflight __percpu *inflight;

	atomic64_t counters[NOTIFY_NR_COUNTERS];
	struct notify_ages *ages;
	struct notify_waits waits;
};

/**
 * struct notify_target - one line of a table
 * @ti: device-mapper's side
 * @map: the map, shared with the other tables for the same place
 * @live: it has been resumed; until then there are neither I/O nor messages
 * @chunk_shift: log2 of the chunk size in sectors
 * @chunk_mask: the sectors' bits inside a chunk
 * @nr_chunks: chunks of the volume, the last one may be partial
 * @spare_dir: for the map, if the volume is larger than it was; until @live
 * @nr_devs: number of @devs
 * @devs: the data devices
 * @skip_zero_writes: writes of zeroes into holes allocate nothing
 * @hold_timeout_given: the table line names a timeout
 * @hold_timeout: seconds a write may wait, 0 for ever
 * @minor: minor of the mapped device, which the signal carries
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
 * @pid: whom to signal, or NULL
 * @pid_nr: @pid as user space named it
 * @signo: signal to send, 0 for none
 * @retry_ms: pause before the next try to send a signal
 * @ready_work: submits @ready
 * @event_work: raises the device-mapper event
 * @signal_work: sends a signal again
 * @timeout_work: fails writes that waited too long
 * @thaw_work: ends a freeze that nobody ends
 */
struct notify_target {
	struct dm_target *ti;
	struct notify_map *map;
	bool live;
	unsigned int chunk_shift;
	sector_t chunk_mask;
	u64 nr_chunks;
	struct notify_dir *spare_dir;
	unsigned int nr_devs;
	struct dm_dev *devs[NOTIFY_MAX_DEVS];
	bool skip_zero_writes;
	bool hold_timeout_given;
	unsigned int hold_timeout;
	int minor;

	spinlock_t lock;
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

/**
 * struct notify_io - what the target keeps with each bio
 * @node: in notify_target.held
 * @want: in notify_target.unsaid or .said, if it is the oldest of its chunk
 * @chunk: the chunk that is waited for
 * @since_ns: when the wait began
 * @epoch: the half of the in-flight count that has the bio, plus 1; or 0
 */
struct notify_io {
	struct rb_node node;
	struct list_head age;
	struct list_head want;
	u64 chunk;
	u64 since_ns;
	unsigned int epoch;
};

/* Room for the longest line of "pending", and for "more" and a NUL after it. */
#define NOTIFY_PENDING_LINE 48

static inline unsigned int notify_entry_dev(unsigned long entry)
{
	return (entry >> NOTIFY_DEV_SHIFT) & NOTIFY_DEV_MASK;
}

static inline u64 notify_entry_pchunk(unsigned long entry)
{
	return entry >> NOTIFY_PCHUNK_SHIFT;
}

static inline unsigned int notify_entry_gen(unsigned long entry)
{
	return (entry & NOTIFY_GEN_MASK) >> NOTIFY_GEN_SHIFT;
}

/**
 * notify_entry() - look a chunk up.
 * @map: the map
 * @chunk: a chunk of the volume
 *
 * Context: preemption off, RCU read side, or one of the map's locks held.
 * Return: its entry; without NOTIFY_MAPPED the chunk is a hole.
 */
static inline unsigned long notify_entry(const struct notify_map *map,
					 u64 chunk)
{
	const struct notify_dir *dir = READ_ONCE(map->dir);
	const unsigned long *leaf =
		READ_ONCE(dir->slot[chunk >> NOTIFY_LEAF_SHIFT].entry);

	if (unlikely(!leaf))
		return 0;
	return READ_ONCE(leaf[chunk % NOTIFY_LEAF_CHUNKS]);
}

/* Does the chunk of an entry belong to a snapshot? Caller holds a lock. */
static inline bool notify_shared(const struct notify_map *map,
				 unsigned long entry)
{
	return (entry & NOTIFY_MAPPED) &&
	       notify_entry_gen(entry) < READ_ONCE(map->floor);
}

static inline bool notify_frozen(const struct notify_map *map)
{
	return READ_ONCE(map->mark) == NOTIFY_FROZEN;
}

/* As notify_entry(), from where no lock of the map is held. */
static inline unsigned long notify_look_up(const struct notify_map *map,
					   u64 chunk)
{
	unsigned long entry;

	rcu_read_lock();
	entry = notify_entry(map, chunk);
	rcu_read_unlock();
	return entry;
}

static inline struct notify_io *notify_bio_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct notify_io));
}

static inline struct bio *notify_io_bio(struct notify_io *io)
{
	return dm_bio_from_per_bio_data(io, sizeof(struct notify_io));
}

static inline void notify_count(struct notify_map *map, enum notify_counter c)
{
	atomic64_inc(&map->counters[c]);
}

/* dm-notify-target.c */
extern struct workqueue_struct *notify_wq;

/* dm-notify-io.c */
int notify_io_map(struct dm_target *ti, struct bio *bio);
int notify_io_end(struct dm_target *ti, struct bio *bio, blk_status_t *error);
int notify_route(struct notify_target *nt, struct bio *bio);

/* dm-notify-table.c */
int notify_table_init(void);
void notify_table_exit(void);
struct notify_dir *notify_dir_alloc(u64 nr_chunks);
void notify_dir_free(struct notify_dir *dir);
void notify_dir_move(struct notify_dir *to, struct notify_dir *from);
bool notify_reserve_fill(struct notify_map *map, gfp_t gfp);
void notify_reserve_free(struct notify_map *map);
struct notify_leaf *notify_leaf_get(struct notify_map *map, u64 chunk);
void notify_leaf_put(struct notify_map *map, struct notify_leaf *leaf);
void notify_entry_set(struct notify_map *map, u64 chunk, unsigned long entry);
unsigned long notify_entry_next(const struct notify_map *map, u64 *chunk,
				u64 last, unsigned long kinds);
void notify_report(struct notify_map *map, u64 chunk, bool discard);
void notify_unreport(struct notify_map *map, u64 chunk);

/* dm-notify-share.c */
int notify_map_attach(struct notify_target *nt);
void notify_map_detach(struct notify_target *nt);
int notify_map_go_live(struct notify_target *nt);

/* dm-notify-generation.c */
int notify_snapshot(struct notify_target *nt, u64 gen, const char **why);
int notify_lower_mark(struct notify_target *nt, u64 gen, const char **why);
void notify_freeze(struct notify_target *nt, unsigned int ms);
int notify_thaw(struct notify_target *nt, const char **why);
void notify_thaw_init(struct notify_target *nt);
void notify_thaw_resume(struct notify_target *nt);
void notify_thaw_quiesce(struct notify_target *nt);

/* dm-notify-map.c */
/**
 * struct notify_runs - the runs or ranges that a message names
 * @nr: their number
 * @get: makes out the one of that number; does not fail once it has not
 * @arg: where it takes them from
 */
struct notify_runs {
	unsigned int nr;
	int (*get)(const struct notify_runs *runs, unsigned int i,
		   struct notify_run *run, const char **why);
	void *arg;
};

/* Chunks that one hold of notify_map.entry_lock may cover. */
#define NOTIFY_MAX_AT_ONCE 65536

unsigned long notify_run_entry(const struct notify_run *run, u64 i);
bool notify_same_place(unsigned long a, unsigned long b);
void notify_breathe(struct notify_map *map, u64 nr);
int notify_check_run(const struct notify_target *nt,
		     const struct notify_run *run, const char **why);
int notify_check_ranges(const struct notify_target *nt,
			const struct notify_runs *ranges, u64 *chunks,
			const char **why);
int notify_map_add(struct notify_target *nt, const struct notify_runs *runs,
		   const char **why);
int notify_map_remove(struct notify_map *map, const struct notify_runs *ranges,
		      bool force, bool leave, const char **why);
void notify_map_forget(struct notify_map *map,
		       const struct notify_runs *ranges);

/* dm-notify-move.c */
int notify_map_move(struct notify_target *nt, const struct notify_runs *runs,
		    const char **why);
void notify_map_flag(struct notify_map *map, const struct notify_runs *ranges,
		     unsigned long flag, bool on);
bool notify_map_written(struct notify_map *map, u64 chunk, bool discard);
bool notify_map_discarded(struct notify_map *map, u64 chunk, u64 count);
bool notify_map_give_up(struct notify_map *map, u64 chunk);

/* dm-notify-drain.c */
int notify_map_drain(struct notify_map *map);
void notify_map_drain_wake(struct notify_map *map);

/* dm-notify-report.c */
size_t notify_map_dump(struct notify_map *map, u64 from, char *result,
		       size_t maxlen);
size_t notify_pending(struct notify_target *nt, char *result, size_t maxlen);
void notify_account_wait(struct notify_target *nt, struct bio *bio);
size_t notify_stats(struct notify_target *nt, char *result, size_t maxlen);
void notify_stats_reset(struct notify_target *nt);

/* dm-notify-hold.c */
#define NOTIFY_HOLD_RETRY	(-1)
void notify_hold_init(struct notify_target *nt);
void notify_hold_quiesce(struct notify_target *nt);
/* What a bio waits for, beside the end of protection and of a freeze. */
enum notify_need {
	NOTIFY_NEED_CHUNK,	/* a chunk of the volume's own */
	NOTIFY_NEED_FORGOTTEN,	/* a hole that is not leaving, or a chunk */
	NOTIFY_NEED_TURN,	/* nothing else */
};
int notify_hold(struct notify_target *nt, struct bio *bio, u64 chunk,
		enum notify_need need);
void notify_release(struct notify_target *nt, u64 chunk, u64 count);
void notify_release_all(struct notify_target *nt, u64 frozen_ns);
bool notify_hold_take_whole(struct notify_target *nt, u64 chunk, bool take);
void notify_submit_ready(struct notify_target *nt);
void notify_hold_give_back(struct notify_target *nt);
void notify_set_nospace(struct notify_target *nt, bool nospace);

/* dm-notify-age.c */
struct notify_ages *notify_ages_alloc(unsigned long nr);
void notify_ages_add(struct notify_ages *ages, u64 chunk, u64 since_ns);
u64 notify_ages_since(const struct notify_ages *ages, u64 chunk);
void notify_ages_clear(struct notify_ages *ages, u64 chunk, u64 count);

/* dm-notify-bell.c */
#define NOTIFY_RETRY_MIN_MS	10
#define NOTIFY_RETRY_MAX_MS	100
void notify_bell_init(struct notify_target *nt);
void notify_bell_quiesce(struct notify_target *nt);
void notify_bell_exit(struct notify_target *nt);
int notify_set_notifier(struct notify_target *nt, unsigned int pid_nr,
			unsigned int signo);
void notify_ring(struct notify_target *nt);
void notify_ring_again(struct notify_target *nt);
const char *notify_notifier_state(struct notify_target *nt);

/* dm-notify-parse.c */
int notify_parse_u64(const char *text, u64 max, u64 *value, const char **why);
int notify_parse_run(const struct notify_runs *runs, unsigned int i,
		     struct notify_run *run, const char **why);
int notify_parse_move(const struct notify_runs *runs, unsigned int i,
		      struct notify_run *run, const char **why);
int notify_parse_range(const struct notify_runs *runs, unsigned int i,
		       struct notify_run *run, const char **why);

/* dm-notify-message.c */
int notify_message(struct dm_target *ti, unsigned int argc, char **argv,
		   char *result, unsigned int maxlen);

#endif
