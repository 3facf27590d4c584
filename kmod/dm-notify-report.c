// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": what user space is told when it asks.
 *
 * "pending": what waits, and what there is to tell. "dump": the map. "stats":
 * counters, and how long writes waited.
 */
#include "dm_notify_trace.h"
#include "dm-notify.h"

#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/sched.h>

/* A reply is no longer than this, however large the caller's buffer. */
#define DM_NOTIFY_MAX_REPLY 65536

/* ---- the map ---- */

/* Room for the longest line of "dump", and for "more <chunk>" after it. */
#define DM_NOTIFY_DUMP_LINE 96

static size_t dm_notify_emit_run(const struct dm_notify_run *run, char *result,
				 size_t sz, size_t maxlen)
{
	size_t start = sz;

	if (run->flags & DM_NOTIFY_LEAVING) {
		DMEMIT("leaving %llu %llu\n", run->virt, run->count);
		return sz - start;
	}
	DMEMIT("%llu:%u:%llu:%llu", run->virt, run->dev, run->phys, run->count);
	if (run->flags || run->how)
		DMEMIT(":%s%s%s%s", run->flags & DM_NOTIFY_WATCHED ? "w" : "",
		       run->flags & DM_NOTIFY_PROTECTED ? "p" : "",
		       run->flags & DM_NOTIFY_DISCARDED ? "d" : "",
		       run->flags & DM_NOTIFY_UNCHANGED ? "u" : "");
	if (run->how)
		DMEMIT("%u", run->gen);
	DMEMIT("\n");
	return sz - start;
}

/* What the entry of the chunk after @entry's is in the same run. */
static unsigned long dm_notify_entry_after(unsigned long entry)
{
	return entry & DM_NOTIFY_MAPPED ? entry + DM_NOTIFY_NEXT_CHUNK : entry;
}

/**
 * dm_notify_map_dump() - the runs of the map as text.
 * @map: the map
 * @from: first chunk of interest
 * @result: where to write
 * @maxlen: room there
 *
 * Return: length of the text; its last line is "more <chunk>" if it is cut.
 */
size_t dm_notify_map_dump(struct dm_notify_map *map, u64 from, char *result,
			  size_t maxlen)
{
	unsigned long kinds = DM_NOTIFY_MAPPED | DM_NOTIFY_LEAVING;
	struct dm_notify_run run = {};
	unsigned long entry, next = 0;
	u64 chunk = from, n = 0;
	size_t sz = 0;

	mutex_lock(&map->lock);
	for (; (entry = dm_notify_entry_next(map, &chunk, U64_MAX, kinds));
	     chunk++) {
		if (++n % DM_NOTIFY_BATCH == 0)
			cond_resched();
		if (run.count && chunk == run.virt + run.count &&
		    entry == next) {
			run.count++;
			next = dm_notify_entry_after(entry);
			continue;
		}
		if (run.count)
			sz += dm_notify_emit_run(&run, result, sz, maxlen);
		run.virt = chunk;
		run.dev = dm_notify_entry_dev(entry);
		run.phys = dm_notify_entry_pchunk(entry);
		run.flags = entry & (DM_NOTIFY_FLAGS | DM_NOTIFY_LEAVING);
		run.gen = dm_notify_entry_gen(entry);
		run.how = (entry & DM_NOTIFY_MAPPED) && run.gen != map->gen ?
				  DM_NOTIFY_RUN_GEN :
				  0;
		run.count = 1;
		next = dm_notify_entry_after(entry);
		if (maxlen - sz < 2 * DM_NOTIFY_DUMP_LINE) {
			DMEMIT("more %llu\n", run.virt);
			run.count = 0;
			break;
		}
	}
	mutex_unlock(&map->lock);
	if (run.count)
		sz += dm_notify_emit_run(&run, result, sz, maxlen);
	return sz;
}

/* ---- what waits, and what there is to tell ---- */

/* A chunk that user space is told of. */
static char dm_notify_report_kind(bool ahead, unsigned long entry)
{
	if (ahead)
		return 'a';
	return entry & DM_NOTIFY_MAPPED ? 'd' : 'h';
}

/* Caller holds map->entry_lock. Return: whether all found room. */
static bool dm_notify_report_leaf(struct dm_notify_leaf *leaf, char *result,
				  size_t *size, size_t maxlen)
{
	size_t sz = *size;
	unsigned int i = 0;

	while (i < DM_NOTIFY_LEAF_CHUNKS) {
		bool ahead = test_bit(i, leaf->ahead);

		if (!ahead && !test_bit(i, leaf->discard)) {
			i++;
			continue;
		}
		if (maxlen - sz < DM_NOTIFY_PENDING_LINE)
			break;
		DMEMIT("%c %llu\n",
		       dm_notify_report_kind(ahead, leaf->entry[i]),
		       leaf->first + i);
		/* A chunk that was written, then discarded, is told twice. */
		__clear_bit(i, ahead ? leaf->ahead : leaf->discard);
	}
	*size = sz;
	return i == DM_NOTIFY_LEAF_CHUNKS;
}

/*
 * What "pending" says of chunks that no write waits for. @more is set if not all
 * found room. Return: length of the text.
 */
static size_t dm_notify_pending_reports(struct dm_notify_map *map, char *result,
					size_t sz, size_t maxlen, bool *more)
{
	struct dm_notify_leaf *leaf, *next;

	spin_lock(&map->entry_lock);
	list_for_each_entry_safe(leaf, next, &map->reports, reports) {
		if (!dm_notify_report_leaf(leaf, result, &sz, maxlen)) {
			*more = true;
			list_move_tail(&leaf->reports, &map->reports);
			break;
		}
		list_del_init(&leaf->reports);
	}
	spin_unlock(&map->entry_lock);
	return sz;
}

/* The kind of line for a chunk that a write waits for, or 0 for none. */
static char dm_notify_wanted_kind(const struct dm_notify_map *map,
				  unsigned long entry)
{
	if ((entry & DM_NOTIFY_PROTECTED) || dm_notify_shared(map, entry))
		return 'p';
	return entry & (DM_NOTIFY_MAPPED | DM_NOTIFY_LEAVING) ? 0 : 'w';
}

/* Caller holds nt->lock. Return: length of the line. */
static size_t dm_notify_pending_line(const struct dm_notify_target *nt,
				     struct dm_notify_io *io, char *result,
				     size_t sz, size_t maxlen)
{
	struct bio *bio = dm_notify_io_bio(io);
	sector_t off = dm_target_offset(nt->ti, bio->bi_iter.bi_sector);
	unsigned long entry = dm_notify_look_up(nt->map, io->chunk);
	char kind = dm_notify_wanted_kind(nt->map, entry);
	size_t start = sz;

	if (kind)
		DMEMIT("%c %llu %llu %u\n", kind, io->chunk,
		       off & nt->chunk_mask, bio_sectors(bio));
	return sz - start;
}

/*
 * The chunks that writes wait for, oldest first. A reply that is cut goes on
 * at the next call: once all have been named, the next round begins.
 * Caller holds nt->lock.
 */
static size_t dm_notify_pending_held(struct dm_notify_target *nt, char *result,
				     size_t maxlen, bool *more)
{
	struct dm_notify_io *io, *next;
	size_t sz = 0;

	/* User space has frozen it; what then still waits rings. */
	if (dm_notify_frozen(nt->map))
		return 0;
	list_for_each_entry_safe(io, next, &nt->unsaid, want) {
		if (maxlen - sz < DM_NOTIFY_PENDING_LINE) {
			*more = true;
			return sz;
		}
		list_move_tail(&io->want, &nt->said);
		sz += dm_notify_pending_line(nt, io, result, sz, maxlen);
	}
	list_splice_init(&nt->said, &nt->unsaid);
	return sz;
}

/**
 * dm_notify_pending() - what waits; the bell may ring again afterwards.
 * @nt: the target
 * @result: where to write
 * @maxlen: room there
 *
 * Return: length of the text.
 */
size_t dm_notify_pending(struct dm_notify_target *nt, char *result,
			 size_t maxlen)
{
	size_t sz, room;
	bool more = false;

	maxlen = min_t(size_t, maxlen, DM_NOTIFY_MAX_REPLY);
	/* Neither may keep the other out of sight. */
	room = list_empty_careful(&nt->map->reports) ? maxlen : maxlen / 2;
	spin_lock(&nt->lock);
	nt->rung = false;
	nt->retry_ms = DM_NOTIFY_RETRY_MIN_MS;
	sz = dm_notify_pending_held(nt, result, room, &more);
	spin_unlock(&nt->lock);
	sz = dm_notify_pending_reports(nt->map, result, sz, maxlen, &more);
	if (more)
		DMEMIT("more\n");
	return sz;
}

/* ---- counters and wait times ---- */

static unsigned int dm_notify_wait_bucket(u64 ns)
{
	unsigned int log, bucket;

	if (ns < 4)
		return ns;
	log = ilog2(ns);
	bucket = 4 * (log - 1) + ((ns >> (log - 2)) & 3);
	return min_t(unsigned int, bucket, DM_NOTIFY_WAIT_BUCKETS - 1);
}

/* The shortest time that dm_notify_wait_bucket() puts into a bucket. */
static u64 dm_notify_bucket_ns(unsigned int bucket)
{
	if (bucket < 4)
		return bucket;
	return (4ULL + bucket % 4) << (bucket / 4 - 1);
}

/**
 * dm_notify_account_wait() - a write that waited goes on.
 * @nt: the target
 * @bio: the write
 */
void dm_notify_account_wait(struct dm_notify_target *nt, struct bio *bio)
{
	u64 since = dm_notify_bio_io(bio)->since_ns,
	    ns = ktime_get_ns() - since;
	struct dm_notify_waits *waits = &nt->map->waits;

	trace_dm_notify_released(nt, dm_notify_bio_io(bio)->chunk,
				 since ? ns : 0);
	/* It only waited for the end of a freeze. */
	if (!since)
		return;
	spin_lock(&nt->lock);
	waits->count++;
	waits->total_ns += ns;
	waits->max_ns = max(waits->max_ns, ns);
	waits->bucket[dm_notify_wait_bucket(ns)]++;
	spin_unlock(&nt->lock);
}

static const char *const dm_notify_counter_names[DM_NOTIFY_NR_COUNTERS] = {
	[DM_NOTIFY_HELD_TOTAL] = "held_total",
	[DM_NOTIFY_WANTED_TOTAL] = "wanted_total",
	[DM_NOTIFY_AHEAD_TOTAL] = "ahead_total",
	[DM_NOTIFY_PROTECTED_TOTAL] = "protected_total",
	[DM_NOTIFY_ZERO_SKIPPED] = "zero_skipped",
	[DM_NOTIFY_SIGNALS] = "signals",
	[DM_NOTIFY_SIGNAL_RETRIES] = "signal_retries",
	[DM_NOTIFY_EVENTS] = "events",
	[DM_NOTIFY_TIMED_OUT] = "timedout",
	[DM_NOTIFY_NOSPACE_FAILED] = "nospace_failed",
};

/**
 * dm_notify_stats() - the counters as text.
 * @nt: the target
 * @result: where to write
 * @maxlen: room there
 *
 * Return: length of the text.
 */
size_t dm_notify_stats(struct dm_notify_target *nt, char *result, size_t maxlen)
{
	struct dm_notify_waits *waits = &nt->map->waits;
	unsigned int i;
	size_t sz = 0;

	for (i = 0; i < DM_NOTIFY_NR_COUNTERS; i++)
		DMEMIT("%s %lld\n", dm_notify_counter_names[i],
		       atomic64_read(&nt->map->counters[i]));

	spin_lock(&nt->lock);
	DMEMIT("wait_count %llu\nwait_total_ns %llu\nwait_max_ns %llu\n",
	       waits->count, waits->total_ns, waits->max_ns);
	DMEMIT("wait_hist");
	for (i = 0; i < DM_NOTIFY_WAIT_BUCKETS; i++)
		if (waits->bucket[i])
			DMEMIT(" %llu:%llu", dm_notify_bucket_ns(i),
			       waits->bucket[i]);
	DMEMIT("\n");
	spin_unlock(&nt->lock);
	return sz;
}

/**
 * dm_notify_stats_reset() - start counting from zero.
 * @nt: the target
 */
void dm_notify_stats_reset(struct dm_notify_target *nt)
{
	unsigned int i;

	for (i = 0; i < DM_NOTIFY_NR_COUNTERS; i++)
		atomic64_set(&nt->map->counters[i], 0);
	spin_lock(&nt->lock);
	memset(&nt->map->waits, 0, sizeof(nt->map->waits));
	spin_unlock(&nt->lock);
}
