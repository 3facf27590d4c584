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
#include "dm_notify_trace.h"
#include "dm-notify.h"

#include <linux/bio.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched.h>

static void dm_notify_end_all(struct bio_list *bios, blk_status_t status)
{
	struct bio *bio;

	while ((bio = bio_list_pop(bios))) {
		bio->bi_status = status;
		bio_endio(bio);
	}
}

/* ---- holding ---- */

/* Does what has that need wait for that chunk? */
static bool dm_notify_must_wait(const struct dm_notify_map *map,
				unsigned long entry, enum dm_notify_need need)
{
	if (dm_notify_frozen(map))
		return true;
	if (entry & DM_NOTIFY_MAPPED)
		return (entry & DM_NOTIFY_PROTECTED) ||
		       (need != DM_NOTIFY_NEED_TURN &&
			dm_notify_shared(map, entry));
	if (entry & DM_NOTIFY_LEAVING)
		return need != DM_NOTIFY_NEED_TURN;
	return need == DM_NOTIFY_NEED_CHUNK;
}

/*
 * Is the submitter to be told at once that this would wait? Not one that polls:
 * it does not stand still meanwhile, and device-mapper would only send the bio
 * once more from a thread of its own, whose answer says the submitter nothing.
 */
static bool dm_notify_would_block(struct bio *bio)
{
	return (bio->bi_opf & REQ_NOWAIT) && !(bio->bi_opf & REQ_POLLED) &&
	       !(current->flags & PF_KTHREAD);
}

/*
 * Another thread will pass the bio down, in the name of this one: what the
 * submitter is to be charged with is settled now. No thread polls for it there.
 */
static void dm_notify_hold_prepare(struct bio *bio)
{
	bio_associate_blkg(bio);
	bio_clear_polled(bio);
}

/* When the oldest write has waited too long. Caller holds nt->lock. */
static void dm_notify_arm_timeout(struct dm_notify_target *nt)
{
	struct dm_notify_io *oldest =
		list_first_entry_or_null(&nt->ages, struct dm_notify_io, age);
	u64 limit = (u64)nt->hold_timeout * NSEC_PER_SEC, waited;

	if (!limit || !oldest)
		return;
	waited = ktime_get_ns() - oldest->since_ns;
	mod_delayed_work(dm_notify_wq, &nt->timeout_work,
			 waited < limit ? nsecs_to_jiffies(limit - waited) + 1 :
					  0);
}

/*
 * Caller holds nt->lock. A write that was released and has to wait once more
 * has the age that it had. Return: whether there is news for user space.
 */
static bool dm_notify_hold_add(struct dm_notify_target *nt, struct bio *bio,
			       u64 chunk, unsigned long entry)
{
	struct dm_notify_io *io = dm_notify_bio_io(bio);
	bool frozen = dm_notify_frozen(nt->map);

	io->chunk = chunk;
	if (!io->since_ns) {
		io->since_ns = dm_notify_ages_since(nt->map->ages, chunk) ?:
				       ktime_get_ns();
		if (!frozen)
			dm_notify_count(nt->map, DM_NOTIFY_HELD_TOTAL);
	}
	dm_notify_held_insert(nt, io);
	trace_dm_notify_held(nt, bio, chunk);
	if (list_is_first(&io->age, &nt->ages))
		dm_notify_arm_timeout(nt);

	/* User space that freezes, or has a chunk leave, knows of it. */
	if (!dm_notify_held_is_alone(io) || (entry & DM_NOTIFY_LEAVING) ||
	    frozen)
		return false;
	dm_notify_count(nt->map, DM_NOTIFY_WANTED_TOTAL);
	if (entry & DM_NOTIFY_MAPPED)
		dm_notify_count(nt->map, DM_NOTIFY_PROTECTED_TOTAL);
	return true;
}

/**
 * dm_notify_hold() - a write cannot go on.
 * @nt: the target
 * @bio: the write, or discard, which lies in one chunk
 * @chunk: that chunk
 * @need: what it waits for
 *
 * The chunk is looked up again under the lock that dm_notify_release() takes
 * after the map has changed: either this sees the change, or that sees @bio.
 *
 * Context: process context; does not sleep.
 * Return: a DM_MAPIO_ value, or DM_NOTIFY_HOLD_RETRY if it need not wait now.
 */
int dm_notify_hold(struct dm_notify_target *nt, struct bio *bio, u64 chunk,
		   enum dm_notify_need need)
{
	bool would_block = dm_notify_would_block(bio), ring = false;
	blk_status_t status = BLK_STS_OK;
	int r = DM_MAPIO_SUBMITTED;
	unsigned long entry;

	dm_notify_hold_prepare(bio);
	spin_lock(&nt->lock);
	entry = dm_notify_look_up(nt->map, chunk);
	if (!dm_notify_must_wait(nt->map, entry, need))
		r = DM_NOTIFY_HOLD_RETRY;
	else if (dm_noflush_suspending(nt->ti))
		r = DM_MAPIO_REQUEUE;
	else if (nt->map->nospace && need == DM_NOTIFY_NEED_CHUNK &&
		 !dm_notify_frozen(nt->map))
		status = BLK_STS_NOSPC;
	else if (would_block)
		status = BLK_STS_AGAIN;
	else
		ring = dm_notify_hold_add(nt, bio, chunk, entry);
	spin_unlock(&nt->lock);

	if (status == BLK_STS_AGAIN) {
		bio_wouldblock_error(bio);
	} else if (status) {
		dm_notify_count(nt->map, DM_NOTIFY_NOSPACE_FAILED);
		bio->bi_status = status;
		bio_endio(bio);
	} else if (ring) {
		dm_notify_ring(nt);
	}
	return r;
}

/**
 * dm_notify_release() - chunks have changed: let the writes that wait there go.
 * @nt: the target
 * @chunk: the first chunk
 * @count: the number of chunks
 *
 * They are routed again, and wait again if they must.
 *
 * Context: process context; does not sleep.
 */
void dm_notify_release(struct dm_notify_target *nt, u64 chunk, u64 count)
{
	struct dm_notify_io *io, *next;
	bool any = false;

	spin_lock(&nt->lock);
	dm_notify_ages_clear(nt->map->ages, chunk, count);
	for (io = dm_notify_held_find(nt, chunk); io; io = next) {
		if (io->chunk - chunk >= count)
			break;
		next = rb_entry_safe(rb_next(&io->node),
				     struct dm_notify_io, node);
		dm_notify_held_remove(nt, io);
		bio_list_add(&nt->ready, dm_notify_io_bio(io));
		any = true;
	}
	spin_unlock(&nt->lock);
	if (any)
		dm_notify_submit_ready(nt);
}

/**
 * dm_notify_release_all() - the volume is not frozen any more: look at all anew.
 * @nt: the target
 * @frozen_ns: since when it was, or 0 if that has been taken account of; no
 *             write has waited for space meanwhile
 *
 * Context: process context; does not sleep.
 */
void dm_notify_release_all(struct dm_notify_target *nt, u64 frozen_ns)
{
	u64 now = ktime_get_ns();
	struct dm_notify_io *io;

	spin_lock(&nt->lock);
	if (frozen_ns) {
		list_for_each_entry(io, &nt->ages, age)
			io->since_ns = dm_notify_since_thawed(io->since_ns,
							      frozen_ns, now);
		dm_notify_ages_thaw(nt->map->ages, frozen_ns, now);
	}
	dm_notify_held_remove_all(nt, &nt->ready);
	spin_unlock(&nt->lock);
	dm_notify_submit_ready(nt);
}

static bool dm_notify_is_whole(const struct dm_notify_target *nt,
			       struct bio *bio)
{
	sector_t off = dm_target_offset(nt->ti, bio->bi_iter.bi_sector);

	return bio_op(bio) != REQ_OP_DISCARD && !(off & nt->chunk_mask) &&
	       (bio_sectors(bio) > nt->chunk_mask ||
		off + bio_sectors(bio) == nt->ti->len);
}

/**
 * dm_notify_hold_take_whole() - does a write of a whole chunk wait for it?
 * @nt: the target
 * @chunk: the chunk
 * @take: let it go on; it is submitted by dm_notify_submit_ready()
 *
 * Context: caller holds nt->lock.
 * Return: whether there is one.
 */
bool dm_notify_hold_take_whole(struct dm_notify_target *nt, u64 chunk,
			       bool take)
{
	struct dm_notify_io *io = dm_notify_held_find(nt, chunk);

	lockdep_assert_held(&nt->lock);
	if (io && io->chunk != chunk)
		io = NULL;
	while (io && !dm_notify_is_whole(nt, dm_notify_io_bio(io)))
		io = dm_notify_held_next(io);
	if (io && take) {
		dm_notify_held_remove(nt, io);
		bio_list_add(&nt->ready, dm_notify_io_bio(io));
	}
	return io;
}

/**
 * dm_notify_submit_ready() - have what may go on submitted.
 * @nt: the target
 */
void dm_notify_submit_ready(struct dm_notify_target *nt)
{
	queue_work(dm_notify_wq, &nt->ready_work);
}

/* Submit what may go on; a chunk that vanished meanwhile is waited for again. */
static void dm_notify_ready_work(struct work_struct *work)
{
	struct dm_notify_target *nt =
		container_of(work, struct dm_notify_target, ready_work);
	struct bio_list ready;
	struct blk_plug plug;
	struct bio *bio;

	spin_lock(&nt->lock);
	ready = nt->ready;
	bio_list_init(&nt->ready);
	spin_unlock(&nt->lock);

	blk_start_plug(&plug);
	while ((bio = bio_list_pop(&ready))) {
		switch (dm_notify_route(nt, bio)) {
		case DM_MAPIO_REMAPPED:
			dm_notify_account_wait(nt, bio);
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
static void dm_notify_timeout_work(struct work_struct *work)
{
	struct delayed_work *delayed = to_delayed_work(work);
	struct dm_notify_target *nt =
		container_of(delayed, struct dm_notify_target, timeout_work);
	u64 limit = (u64)nt->hold_timeout * NSEC_PER_SEC;
	struct bio_list late = BIO_EMPTY_LIST;
	u64 now = ktime_get_ns();
	struct dm_notify_io *io, *next;

	spin_lock(&nt->lock);
	list_for_each_entry_safe(io, next, &nt->ages, age) {
		/* Frozen: when that ends, all that waits is looked at anew. */
		if (dm_notify_frozen(nt->map) || now - io->since_ns < limit)
			break;
		dm_notify_held_remove(nt, io);
		dm_notify_ages_clear(nt->map->ages, io->chunk, 1);
		dm_notify_count(nt->map, DM_NOTIFY_TIMED_OUT);
		bio_list_add(&late, dm_notify_io_bio(io));
	}
	if (!dm_notify_frozen(nt->map))
		dm_notify_arm_timeout(nt);
	spin_unlock(&nt->lock);

	if (!bio_list_empty(&late))
		DMWARN_LIMIT("%s: no space came within %u s: writes failed",
			     dm_table_device_name(nt->ti->table),
			     nt->hold_timeout);
	dm_notify_end_all(&late, BLK_STS_NOSPC);
}

/**
 * dm_notify_hold_give_back() - a noflush suspend begins: nothing may stay held.
 * @nt: the target, dm_noflush_suspending() true for it
 *
 * Device-mapper takes bios back only as long as dm_noflush_suspending() says
 * so, which may end before ->presuspend_undo is called. So dm_notify_hold() asks
 * it each time, and writes that were on their way out of here are gone when
 * this returns: one of them could find its chunk unmapped, and be given back
 * too late.
 *
 * Context: may sleep.
 */
void dm_notify_hold_give_back(struct dm_notify_target *nt)
{
	struct dm_notify_ages *ages =
		dm_notify_ages_alloc(READ_ONCE(nt->nr_wanted));
	struct bio_list bios = BIO_EMPTY_LIST, newest_first = BIO_EMPTY_LIST;
	struct rb_node *node;
	struct bio *bio;

	spin_lock(&nt->lock);
	for (node = rb_first(&nt->held); node; node = rb_next(node)) {
		struct dm_notify_io *io =
			rb_entry(node, struct dm_notify_io, node);

		if (dm_notify_held_is_first(io))
			dm_notify_ages_add(ages, io->chunk, io->since_ns);
	}
	swap(nt->map->ages, ages);
	dm_notify_held_remove_all(nt, &bios);
	spin_unlock(&nt->lock);
	kvfree(ages);
	/*
	 * Device-mapper puts each before those that it has already, so they come
	 * back in order, but for some that it sends meanwhile.
	 */
	while ((bio = bio_list_pop(&bios)))
		bio_list_add_head(&newest_first, bio);
	dm_notify_end_all(&newest_first, BLK_STS_DM_REQUEUE);
	flush_work(&nt->ready_work);
}

/**
 * dm_notify_hold_resume() - what was given back comes back from now on.
 * @nt: the target, live
 */
void dm_notify_hold_resume(struct dm_notify_target *nt)
{
	spin_lock(&nt->lock);
	dm_notify_ages_resume(nt->map->ages);
	spin_unlock(&nt->lock);
}

/**
 * dm_notify_set_nospace() - fail, or hold again, writes that need a chunk.
 * @nt: the target
 * @nospace: fail these and those that wait; zeroes that wait need none, and stay
 *
 * Context: process context.
 */
void dm_notify_set_nospace(struct dm_notify_target *nt, bool nospace)
{
	spin_lock(&nt->lock);
	WRITE_ONCE(nt->map->nospace, nospace);
	spin_unlock(&nt->lock);
	if (nospace)
		dm_notify_release(nt, 0, U64_MAX);
}

/* ---- life ---- */

/**
 * dm_notify_hold_init() - nothing waits.
 * @nt: the target
 */
void dm_notify_hold_init(struct dm_notify_target *nt)
{
	spin_lock_init(&nt->lock);
	nt->held = RB_ROOT;
	INIT_LIST_HEAD(&nt->ages);
	INIT_LIST_HEAD(&nt->unsaid);
	INIT_LIST_HEAD(&nt->said);
	bio_list_init(&nt->ready);
	INIT_WORK(&nt->ready_work, dm_notify_ready_work);
	INIT_DELAYED_WORK(&nt->timeout_work, dm_notify_timeout_work);
}

/**
 * dm_notify_hold_quiesce() - no work of this part runs afterwards.
 * @nt: the target, without I/O
 *
 * Context: may sleep.
 */
void dm_notify_hold_quiesce(struct dm_notify_target *nt)
{
	cancel_delayed_work_sync(&nt->timeout_work);
	flush_work(&nt->ready_work);
}
