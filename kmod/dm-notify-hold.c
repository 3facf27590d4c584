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
#include <linux/mm.h>

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

/* Nearly always at the end: a write that waits once more may be older. */
static void notify_hold_insert_age(struct notify_target *nt,
				   struct notify_io *io)
{
	struct notify_io *older;

	list_for_each_entry_reverse(older, &nt->ages, age)
		if (older->since_ns <= io->since_ns)
			break;
	list_add(&io->age, &older->age);
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
	notify_hold_insert_age(nt, io);
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

/* ---- holding ---- */

/* Does what has that need wait for that chunk? */
static bool notify_must_wait(const struct notify_map *map, unsigned long entry,
			     enum notify_need need)
{
	if (notify_frozen(map))
		return true;
	if (entry & NOTIFY_MAPPED)
		return (entry & NOTIFY_PROTECTED) ||
		       (need != NOTIFY_NEED_TURN && notify_shared(map, entry));
	if (entry & NOTIFY_LEAVING)
		return need != NOTIFY_NEED_TURN;
	return need == NOTIFY_NEED_CHUNK;
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

/* When the oldest write has waited too long. Caller holds nt->lock. */
static void notify_arm_timeout(struct notify_target *nt)
{
	struct notify_io *oldest =
		list_first_entry_or_null(&nt->ages, struct notify_io, age);
	u64 limit = (u64)nt->hold_timeout * NSEC_PER_SEC, waited;

	if (!limit || !oldest)
		return;
	waited = ktime_get_ns() - oldest->since_ns;
	mod_delayed_work(notify_wq, &nt->timeout_work,
			 waited < limit ?
			 nsecs_to_jiffies(limit - waited) + 1 : 0);
}

/*
 * Caller holds nt->lock. A write that was released and has to wait once more
 * has the age that it had. Return: whether there is news for user space.
 */
static bool notify_hold_add(struct notify_target *nt, struct bio *bio,
			    u64 chunk, unsigned long entry)
{
	struct notify_io *io = notify_bio_io(bio);
	bool frozen = notify_frozen(nt->map);

	io->chunk = chunk;
	if (!io->since_ns) {
		io->since_ns = notify_ages_since(nt->map->ages, chunk) ?:
			       ktime_get_ns();
		if (!frozen)
			notify_count(nt->map, NOTIFY_HELD_TOTAL);
	}
	notify_hold_insert(nt, io);
	if (list_is_first(&io->age, &nt->ages))
		notify_arm_timeout(nt);

	/* User space that freezes, or has a chunk leave, knows of it. */
	if (!notify_io_is_alone(io) || (entry & NOTIFY_LEAVING) || frozen)
		return false;
	notify_count(nt->map, NOTIFY_WANTED_TOTAL);
	if (entry & NOTIFY_MAPPED)
		notify_count(nt->map, NOTIFY_PROTECTED_TOTAL);
	return true;
}

/**
 * notify_hold() - a write cannot go on.
 * @nt: the target
 * @bio: the write, or discard, which lies in one chunk
 * @chunk: that chunk
 * @need: what it waits for
 *
 * The chunk is looked up again under the lock that notify_release() takes
 * after the map has changed: either this sees the change, or that sees @bio.
 *
 * Context: process context; does not sleep.
 * Return: a DM_MAPIO_ value, or NOTIFY_HOLD_RETRY if it need not wait now.
 */
int notify_hold(struct notify_target *nt, struct bio *bio, u64 chunk,
		enum notify_need need)
{
	blk_status_t status = BLK_STS_OK;
	int r = DM_MAPIO_SUBMITTED;
	unsigned long entry;
	bool ring = false;

	notify_hold_prepare(bio);
	spin_lock(&nt->lock);
	entry = notify_look_up(nt->map, chunk);
	if (!notify_must_wait(nt->map, entry, need))
		r = NOTIFY_HOLD_RETRY;
	else if (dm_noflush_suspending(nt->ti))
		r = DM_MAPIO_REQUEUE;
	else if (nt->map->nospace && need == NOTIFY_NEED_CHUNK &&
		 !notify_frozen(nt->map))
		status = BLK_STS_NOSPC;
	else if (bio->bi_opf & REQ_NOWAIT)
		status = BLK_STS_AGAIN;
	else
		ring = notify_hold_add(nt, bio, chunk, entry);
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
 * notify_release() - chunks have changed: let the writes that wait there go.
 * @nt: the target
 * @chunk: the first chunk
 * @count: the number of chunks
 *
 * They are routed again, and wait again if they must.
 *
 * Context: process context; does not sleep.
 */
void notify_release(struct notify_target *nt, u64 chunk, u64 count)
{
	struct notify_io *io, *next;
	bool any = false;

	spin_lock(&nt->lock);
	notify_ages_clear(nt->map->ages, chunk, count);
	for (io = notify_hold_find(nt, chunk); io; io = next) {
		if (io->chunk - chunk >= count)
			break;
		next = notify_node_io(rb_next(&io->node));
		notify_hold_remove(nt, io);
		bio_list_add(&nt->ready, notify_io_bio(io));
		any = true;
	}
	spin_unlock(&nt->lock);
	if (any)
		notify_submit_ready(nt);
}

/**
 * notify_release_all() - the volume is not frozen any more: look at all anew.
 * @nt: the target
 * @frozen_ns: since when it was; what began to wait then has not waited yet
 *
 * Context: process context; does not sleep.
 */
void notify_release_all(struct notify_target *nt, u64 frozen_ns)
{
	struct notify_io *io;

	spin_lock(&nt->lock);
	list_for_each_entry(io, &nt->ages, age)
		if (frozen_ns && io->since_ns >= frozen_ns)
			io->since_ns = 0;
	notify_hold_remove_all(nt, &nt->ready);
	spin_unlock(&nt->lock);
	notify_submit_ready(nt);
}

static bool notify_is_whole(const struct notify_target *nt, struct bio *bio)
{
	sector_t off = dm_target_offset(nt->ti, bio->bi_iter.bi_sector);

	return bio_op(bio) != REQ_OP_DISCARD && !(off & nt->chunk_mask) &&
	       (bio_sectors(bio) > nt->chunk_mask ||
		off + bio_sectors(bio) == nt->ti->len);
}

/**
 * notify_hold_take_whole() - does a write of a whole chunk wait for it?
 * @nt: the target
 * @chunk: the chunk
 * @take: let it go on; it is submitted by notify_submit_ready()
 *
 * Context: caller holds nt->lock.
 * Return: whether there is one.
 */
bool notify_hold_take_whole(struct notify_target *nt, u64 chunk, bool take)
{
	struct notify_io *io = notify_hold_find(nt, chunk);

	lockdep_assert_held(&nt->lock);
	if (io && io->chunk != chunk)
		io = NULL;
	while (io && !notify_is_whole(nt, notify_io_bio(io)))
		io = notify_io_next(io);
	if (io && take) {
		notify_hold_remove(nt, io);
		bio_list_add(&nt->ready, notify_io_bio(io));
	}
	return io;
}

/**
 * notify_submit_ready() - have what may go on submitted.
 * @nt: the target
 */
void notify_submit_ready(struct notify_target *nt)
{
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
			notify_account_wait(nt, bio);
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
		/* Frozen: when that ends, all that waits is looked at anew. */
		if (notify_frozen(nt->map) || now - io->since_ns < limit)
			break;
		notify_hold_remove(nt, io);
		notify_ages_clear(nt->map->ages, io->chunk, 1);
		notify_count(nt->map, NOTIFY_TIMED_OUT);
		bio_list_add(&late, notify_io_bio(io));
	}
	if (!notify_frozen(nt->map))
		notify_arm_timeout(nt);
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
	struct notify_ages *ages = notify_ages_alloc(READ_ONCE(nt->nr_wanted));
	struct bio_list bios = BIO_EMPTY_LIST;
	struct rb_node *node;

	spin_lock(&nt->lock);
	for (node = rb_first(&nt->held); node; node = rb_next(node)) {
		struct notify_io *io = notify_node_io(node);

		if (notify_io_is_first(io))
			notify_ages_add(ages, io->chunk, io->since_ns);
	}
	swap(nt->map->ages, ages);
	notify_hold_remove_all(nt, &bios);
	spin_unlock(&nt->lock);
	kvfree(ages);
	notify_end_all(&bios, BLK_STS_DM_REQUEUE);
	flush_work(&nt->ready_work);
}

/**
 * notify_set_nospace() - fail, or hold again, writes that need a chunk.
 * @nt: the target
 * @nospace: fail these and those that wait; zeroes that wait need none, and stay
 *
 * Context: process context.
 */
void notify_set_nospace(struct notify_target *nt, bool nospace)
{
	spin_lock(&nt->lock);
	WRITE_ONCE(nt->map->nospace, nospace);
	spin_unlock(&nt->lock);
	if (nospace)
		notify_release(nt, 0, U64_MAX);
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
