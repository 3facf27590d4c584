// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": writes that wait.
 *
 * A write that needs a chunk waits in a tree ordered by chunk, and in a list
 * ordered by age. "map" moves the writes of its chunks to the ready list,
 * from which a work item submits them: a message never waits for a data
 * device. A write leaves in one of four ways: its chunk is mapped, the volume
 * is out of space, it waited too long, or the device is suspended.
 */
#include "dm-notify.h"

#include <linux/bio.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/log2.h>

/* A reply is no longer than this, however large the caller's buffer. */
#define NOTIFY_MAX_REPLY	65536

/* ---- the tree of held writes; callers hold nt->lock ---- */

static struct notify_io *notify_node_io(struct rb_node *node)
{
	return rb_entry_safe(node, struct notify_io, node);
}

static bool notify_node_wants(struct rb_node *node, u64 chunk)
{
	return node && notify_node_io(node)->chunk == chunk;
}

/* Is this the oldest write that waits for its chunk? */
static bool notify_io_is_first(struct notify_io *io)
{
	return !notify_node_wants(rb_prev(&io->node), io->chunk);
}

/* The next younger write that waits for the same chunk. */
static struct notify_io *notify_io_next(struct notify_io *io)
{
	struct rb_node *next = rb_next(&io->node);

	return notify_node_wants(next, io->chunk) ? notify_node_io(next) : NULL;
}

static bool notify_io_is_alone(struct notify_io *io)
{
	return notify_io_is_first(io) && !notify_io_next(io);
}

static void notify_hold_insert(struct notify_target *nt, struct notify_io *io)
{
	struct rb_node **link = &nt->held.rb_node, *parent = NULL;

	while (*link) {
		parent = *link;
		/* Equal chunks go right: the oldest is leftmost. */
		if (io->chunk < notify_node_io(parent)->chunk)
			link = &parent->rb_left;
		else
			link = &parent->rb_right;
	}
	rb_link_node(&io->node, parent, link);
	rb_insert_color(&io->node, &nt->held);
	list_add_tail(&io->age, &nt->ages);
	nt->nr_held++;
	if (notify_io_is_alone(io)) {
		list_add_tail(&io->want, &nt->unsaid);
		nt->nr_wanted++;
	}
}

static void notify_hold_remove(struct notify_target *nt, struct notify_io *io)
{
	struct notify_io *next = notify_io_next(io);

	if (notify_io_is_first(io)) {
		if (next) {
			list_replace(&io->want, &next->want);
		} else {
			list_del(&io->want);
			nt->nr_wanted--;
		}
	}
	rb_erase(&io->node, &nt->held);
	list_del(&io->age);
	nt->nr_held--;
}

/* The first held write, by chunk, at or after @chunk. */
static struct notify_io *notify_hold_find(struct notify_target *nt, u64 chunk)
{
	struct rb_node *node = nt->held.rb_node, *best = NULL;

	while (node) {
		if (notify_node_io(node)->chunk < chunk) {
			node = node->rb_right;
		} else {
			best = node;
			node = node->rb_left;
		}
	}
	return notify_node_io(best);
}

static void notify_hold_remove_all(struct notify_target *nt,
				   struct bio_list *bios)
{
	struct notify_io *io, *next;

	list_for_each_entry_safe(io, next, &nt->ages, age)
		bio_list_add(bios, notify_io_bio(io));
	INIT_LIST_HEAD(&nt->ages);
	INIT_LIST_HEAD(&nt->unsaid);
	INIT_LIST_HEAD(&nt->said);
	nt->held = RB_ROOT;
	nt->nr_held = 0;
	nt->nr_wanted = 0;
}

static void notify_end_all(struct bio_list *bios, blk_status_t status)
{
	struct bio *bio;

	while ((bio = bio_list_pop(bios))) {
		bio->bi_status = status;
		bio_endio(bio);
	}
}

/* ---- wait times ---- */

static unsigned int notify_wait_bucket(u64 ns)
{
	unsigned int log, bucket;

	if (ns < 4)
		return ns;
	log = ilog2(ns);
	bucket = 4 * (log - 1) + ((ns >> (log - 2)) & 3);
	return min_t(unsigned int, bucket, NOTIFY_WAIT_BUCKETS - 1);
}

/* The shortest time that notify_wait_bucket() puts into a bucket. */
static u64 notify_bucket_ns(unsigned int bucket)
{
	if (bucket < 4)
		return bucket;
	return (4ULL + bucket % 4) << (bucket / 4 - 1);
}

/* Caller holds nt->lock. */
static void notify_account_wait(struct notify_target *nt, u64 ns)
{
	struct notify_waits *waits = &nt->map->waits;

	waits->count++;
	waits->total_ns += ns;
	waits->max_ns = max(waits->max_ns, ns);
	waits->bucket[notify_wait_bucket(ns)]++;
}

/* ---- holding ---- */

/* As notify_entry(), from where no lock of the map is held. */
static unsigned long notify_look_up(struct notify_target *nt, u64 chunk)
{
	unsigned long entry;

	rcu_read_lock();
	entry = notify_entry(nt->map, chunk);
	rcu_read_unlock();
	return entry & NOTIFY_MAPPED ? entry : 0;
}

static bool notify_chunk_needed(struct notify_target *nt, u64 chunk)
{
	unsigned long entry = notify_look_up(nt, chunk);

	return !entry || (entry & NOTIFY_PROTECTED);
}

/*
 * Another thread will pass the bio down, in the name of this one: what the
 * submitter is to be charged with is settled now. Nobody polls for it there.
 */
static void notify_hold_prepare(struct bio *bio)
{
	bio_associate_blkg(bio);
	bio_clear_polled(bio);
}

/* Caller holds nt->lock. */
static void notify_hold_add(struct notify_target *nt, struct bio *bio,
			    u64 chunk)
{
	struct notify_io *io = notify_bio_io(bio);

	io->chunk = chunk;
	io->since_ns = ktime_get_ns();
	notify_hold_insert(nt, io);
	notify_count(nt->map, NOTIFY_HELD_TOTAL);

	/* Is it not yet waited for? Then it is one chunk more. */
	if (notify_io_is_alone(io)) {
		notify_count(nt->map, NOTIFY_WANTED_TOTAL);
		if (notify_look_up(nt, chunk))
			notify_count(nt->map, NOTIFY_PROTECTED_TOTAL);
	}
}

/**
 * notify_hold() - a write needs a chunk.
 * @nt: the target
 * @bio: the write, which lies in one chunk
 * @chunk: a hole, or protected, when it was looked up
 *
 * The chunk is looked up again under the lock that notify_release() takes
 * after the map has changed: either this sees the change, or that sees @bio.
 *
 * Context: process context; does not sleep.
 * Return: a DM_MAPIO_ value, or NOTIFY_HOLD_RETRY if the chunk is there now.
 */
int notify_hold(struct notify_target *nt, struct bio *bio, u64 chunk)
{
	blk_status_t status = BLK_STS_OK;
	int r = DM_MAPIO_SUBMITTED;
	unsigned long wanted;
	bool ring = false;

	notify_hold_prepare(bio);
	spin_lock(&nt->lock);
	if (!notify_chunk_needed(nt, chunk)) {
		r = NOTIFY_HOLD_RETRY;
	} else if (dm_noflush_suspending(nt->ti)) {
		r = DM_MAPIO_REQUEUE;
	} else if (nt->map->nospace) {
		status = BLK_STS_NOSPC;
	} else if (bio->bi_opf & REQ_NOWAIT) {
		status = BLK_STS_AGAIN;
	} else {
		if (nt->hold_timeout && list_empty(&nt->ages))
			queue_delayed_work(notify_wq, &nt->timeout_work,
					   nt->hold_timeout * HZ);
		wanted = nt->nr_wanted;
		notify_hold_add(nt, bio, chunk);
		ring = nt->nr_wanted != wanted;
	}
	spin_unlock(&nt->lock);

	if (status == BLK_STS_AGAIN) {
		bio_wouldblock_error(bio);
	} else if (status) {
		notify_count(nt->map, NOTIFY_NOSPACE_FAILED);
		bio->bi_status = status;
		bio_endio(bio);
	} else if (ring) {
		notify_ring(nt);
	}
	return r;
}

/**
 * notify_release() - chunks are there: let the writes that wait for them go.
 * @nt: the target
 * @chunk: the first chunk
 * @count: the number of chunks
 *
 * Context: process context; does not sleep.
 */
void notify_release(struct notify_target *nt, u64 chunk, u64 count)
{
	struct notify_io *io, *next;
	u64 now = ktime_get_ns();
	bool any = false;

	spin_lock(&nt->lock);
	for (io = notify_hold_find(nt, chunk); io; io = next) {
		if (io->chunk - chunk >= count)
			break;
		next = notify_node_io(rb_next(&io->node));
		notify_hold_remove(nt, io);
		notify_account_wait(nt, now - io->since_ns);
		bio_list_add(&nt->ready, notify_io_bio(io));
		any = true;
	}
	spin_unlock(&nt->lock);
	if (any)
		queue_work(notify_wq, &nt->ready_work);
}

/* Submit what may go on; a chunk that vanished meanwhile is waited for again. */
static void notify_ready_work(struct work_struct *work)
{
	struct notify_target *nt = container_of(work, struct notify_target,
						ready_work);
	struct bio_list ready;
	struct blk_plug plug;
	struct bio *bio;

	spin_lock(&nt->lock);
	ready = nt->ready;
	bio_list_init(&nt->ready);
	spin_unlock(&nt->lock);

	blk_start_plug(&plug);
	while ((bio = bio_list_pop(&ready))) {
		switch (notify_route(nt, bio)) {
		case DM_MAPIO_REMAPPED:
			dm_submit_bio_remap(bio, NULL);
			break;
		case DM_MAPIO_SUBMITTED:
			break;
		case DM_MAPIO_REQUEUE:
			bio->bi_status = BLK_STS_DM_REQUEUE;
			bio_endio(bio);
			break;
		default:
			bio_io_error(bio);
		}
		cond_resched();
	}
	blk_finish_plug(&plug);
}

/* Fail the writes that waited too long, and look again when the next is due. */
static void notify_timeout_work(struct work_struct *work)
{
	struct notify_target *nt = container_of(to_delayed_work(work),
						struct notify_target,
						timeout_work);
	u64 limit = (u64)nt->hold_timeout * NSEC_PER_SEC;
	struct bio_list late = BIO_EMPTY_LIST;
	u64 now = ktime_get_ns();
	struct notify_io *io, *next;

	spin_lock(&nt->lock);
	list_for_each_entry_safe(io, next, &nt->ages, age) {
		u64 waited = now - io->since_ns;

		if (waited < limit) {
			queue_delayed_work(notify_wq, &nt->timeout_work,
					   nsecs_to_jiffies(limit - waited) + 1);
			break;
		}
		notify_hold_remove(nt, io);
		notify_count(nt->map, NOTIFY_TIMED_OUT);
		bio_list_add(&late, notify_io_bio(io));
	}
	spin_unlock(&nt->lock);

	if (!bio_list_empty(&late))
		DMWARN_LIMIT("%s: no space came within %u s: writes failed",
			     dm_table_device_name(nt->ti->table),
			     nt->hold_timeout);
	notify_end_all(&late, BLK_STS_NOSPC);
}

/**
 * notify_hold_give_back() - a noflush suspend begins: nothing may stay held.
 * @nt: the target, dm_noflush_suspending() true for it
 *
 * Device-mapper takes bios back only as long as dm_noflush_suspending() says
 * so, which may end before ->presuspend_undo is called. So notify_hold() asks
 * it each time, and writes that were on their way out of here are gone when
 * this returns: one of them could find its chunk unmapped, and be given back
 * too late.
 *
 * Context: may sleep.
 */
void notify_hold_give_back(struct notify_target *nt)
{
	struct bio_list bios = BIO_EMPTY_LIST;

	spin_lock(&nt->lock);
	notify_hold_remove_all(nt, &bios);
	spin_unlock(&nt->lock);
	notify_end_all(&bios, BLK_STS_DM_REQUEUE);
	flush_work(&nt->ready_work);
}

/**
 * notify_set_nospace() - fail, or hold again, writes that need a chunk.
 * @nt: the target
 * @nospace: fail these and those that wait
 *
 * Context: process context.
 */
void notify_set_nospace(struct notify_target *nt, bool nospace)
{
	struct bio_list bios = BIO_EMPTY_LIST;

	spin_lock(&nt->lock);
	WRITE_ONCE(nt->map->nospace, nospace);
	if (nospace) {
		atomic64_add(nt->nr_held,
			     &nt->map->counters[NOTIFY_NOSPACE_FAILED]);
		notify_hold_remove_all(nt, &bios);
	}
	spin_unlock(&nt->lock);
	notify_end_all(&bios, BLK_STS_NOSPC);
}

/* ---- reports ---- */

/*
 * The chunks that writes wait for, oldest first. A reply that is cut goes on
 * at the next call: once all have been named, the next round begins.
 * Caller holds nt->lock.
 */
static size_t notify_pending_held(struct notify_target *nt, char *result,
				  size_t maxlen, bool *more)
{
	struct notify_io *io, *next;
	unsigned long entry;
	size_t sz = 0;

	list_for_each_entry_safe(io, next, &nt->unsaid, want) {
		if (maxlen - sz < NOTIFY_PENDING_LINE) {
			*more = true;
			return sz;
		}
		list_move_tail(&io->want, &nt->said);
		entry = notify_look_up(nt, io->chunk);
		if (!entry)
			DMEMIT("w %llu\n", io->chunk);
		else if (entry & NOTIFY_PROTECTED)
			DMEMIT("p %llu\n", io->chunk);
	}
	list_splice_init(&nt->said, &nt->unsaid);
	return sz;
}

/**
 * notify_pending() - what waits; the bell may ring again afterwards.
 * @nt: the target
 * @result: where to write
 * @maxlen: room there
 *
 * Return: length of the text.
 */
size_t notify_pending(struct notify_target *nt, char *result, size_t maxlen)
{
	size_t sz, room;
	bool more = false;

	maxlen = min_t(size_t, maxlen, NOTIFY_MAX_REPLY);
	/* Neither may keep the other out of sight. */
	room = list_empty_careful(&nt->map->reports) ? maxlen : maxlen / 2;
	spin_lock(&nt->lock);
	nt->rung = false;
	nt->retry_ms = NOTIFY_RETRY_MIN_MS;
	sz = notify_pending_held(nt, result, room, &more);
	spin_unlock(&nt->lock);
	sz = notify_map_reports(nt->map, result, sz, maxlen, &more);
	if (more)
		DMEMIT("more\n");
	return sz;
}

static const char * const notify_counter_names[NOTIFY_NR_COUNTERS] = {
	[NOTIFY_HELD_TOTAL] = "held_total",
	[NOTIFY_WANTED_TOTAL] = "wanted_total",
	[NOTIFY_AHEAD_TOTAL] = "ahead_total",
	[NOTIFY_PROTECTED_TOTAL] = "protected_total",
	[NOTIFY_ZERO_SKIPPED] = "zero_skipped",
	[NOTIFY_SIGNALS] = "signals",
	[NOTIFY_SIGNAL_RETRIES] = "signal_retries",
	[NOTIFY_EVENTS] = "events",
	[NOTIFY_TIMED_OUT] = "timedout",
	[NOTIFY_NOSPACE_FAILED] = "nospace_failed",
};

/**
 * notify_stats() - the counters as text.
 * @nt: the target
 * @result: where to write
 * @maxlen: room there
 *
 * Return: length of the text.
 */
size_t notify_stats(struct notify_target *nt, char *result, size_t maxlen)
{
	struct notify_waits *waits = &nt->map->waits;
	unsigned int i;
	size_t sz = 0;

	for (i = 0; i < NOTIFY_NR_COUNTERS; i++)
		DMEMIT("%s %lld\n", notify_counter_names[i],
		       atomic64_read(&nt->map->counters[i]));

	spin_lock(&nt->lock);
	DMEMIT("wait_count %llu\nwait_total_ns %llu\nwait_max_ns %llu\n",
	       waits->count, waits->total_ns, waits->max_ns);
	DMEMIT("wait_hist");
	for (i = 0; i < NOTIFY_WAIT_BUCKETS; i++)
		if (waits->bucket[i])
			DMEMIT(" %llu:%llu", notify_bucket_ns(i),
			       waits->bucket[i]);
	DMEMIT("\n");
	spin_unlock(&nt->lock);
	return sz;
}

/**
 * notify_stats_reset() - start counting from zero.
 * @nt: the target
 */
void notify_stats_reset(struct notify_target *nt)
{
	unsigned int i;

	for (i = 0; i < NOTIFY_NR_COUNTERS; i++)
		atomic64_set(&nt->map->counters[i], 0);
	spin_lock(&nt->lock);
	memset(&nt->map->waits, 0, sizeof(nt->map->waits));
	spin_unlock(&nt->lock);
}

/* ---- life ---- */

/**
 * notify_hold_init() - nothing waits.
 * @nt: the target
 */
void notify_hold_init(struct notify_target *nt)
{
	spin_lock_init(&nt->lock);
	nt->held = RB_ROOT;
	INIT_LIST_HEAD(&nt->ages);
	INIT_LIST_HEAD(&nt->unsaid);
	INIT_LIST_HEAD(&nt->said);
	bio_list_init(&nt->ready);
	INIT_WORK(&nt->ready_work, notify_ready_work);
	INIT_DELAYED_WORK(&nt->timeout_work, notify_timeout_work);
}

/**
 * notify_hold_quiesce() - no work of this part runs afterwards.
 * @nt: the target, without I/O
 *
 * Context: may sleep.
 */
void notify_hold_quiesce(struct notify_target *nt)
{
	cancel_delayed_work_sync(&nt->timeout_work);
	flush_work(&nt->ready_work);
}
