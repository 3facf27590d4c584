// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the life of a bio.
 *
 * Its chunk is looked up. Mapped: the bio is passed down, as far as the run of
 * contiguous chunks reaches. A hole: reads give zeroes, discards and zeroing
 * do nothing, a write is held until user space maps the chunk
 * (dm-notify-hold.c).
 */
#include "dm-notify.h"

#include <linux/bio.h>
#include <linux/highmem.h>
#include <linux/preempt.h>
#include <linux/string.h>

/* A bio is extended over this many chunks at most, to bound the look-ups. */
#define DM_NOTIFY_MAX_RUN 1024

static void dm_notify_trim(struct bio *bio, u64 sectors)
{
	if (bio_sectors(bio) > sectors)
		dm_accept_partial_bio(bio, sectors);
}

static u64 dm_notify_chunk_left(const struct dm_notify_target *nt, sector_t off)
{
	return nt->chunk_mask + 1 - (off & nt->chunk_mask);
}

static int dm_notify_complete(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

/**
 * dm_notify_run_sectors() - how far a bio may go on without a gap.
 * @nt: the target
 * @entry: the entry of the bio's first chunk
 * @off: where the bio starts in the target
 * @want: length of the bio
 * @alike: the bits of an entry in which the chunks must be alike
 *
 * Context: preemption off, or RCU read side.
 * Return: sectors, at most @want, that lie together on one device.
 */
static u64 dm_notify_run_sectors(const struct dm_notify_target *nt,
				 unsigned long entry, sector_t off, u64 want,
				 unsigned long alike)
{
	u64 chunk = off >> nt->chunk_shift;
	u64 have = dm_notify_chunk_left(nt, off);
	unsigned int i;

	for (i = 0; have < want && i < DM_NOTIFY_MAX_RUN; i++) {
		entry += DM_NOTIFY_NEXT_CHUNK;
		if ((dm_notify_entry(nt->map, ++chunk) ^ entry) & alike)
			break;
		have += nt->chunk_mask + 1;
	}
	return min(have, want);
}

/* As dm_notify_run_sectors(), for a hole, up to a chunk of one of the @kinds. */
static u64 dm_notify_hole_sectors(const struct dm_notify_target *nt,
				  sector_t off, u64 want, unsigned long kinds)
{
	u64 chunk = off >> nt->chunk_shift, next = chunk + 1;
	u64 last = (off + want - 1) >> nt->chunk_shift;
	u64 have = want;

	/* Mapped meanwhile or not, the first chunk was a hole. */
	rcu_read_lock();
	if (last > chunk && dm_notify_entry_next(nt->map, &next, last, kinds))
		have = (next << nt->chunk_shift) - off;
	rcu_read_unlock();
	return min(have, want);
}

static bool dm_notify_all_zero(struct bio *bio)
{
	struct bvec_iter iter;
	struct bio_vec bv;
	bool zero;

	bio_for_each_segment(bv, bio, iter) {
		char *data = bvec_kmap_local(&bv);

		zero = !memchr_inv(data, 0, bv.bv_len);
		kunmap_local(data);
		if (!zero)
			return false;
	}
	return true;
}

/*
 * Zeroes written into a hole need no chunk. But where a chunk is leaving,
 * they may not be acknowledged: until it is forgotten, it may come back.
 */
static int dm_notify_hole_zeroes(struct dm_notify_target *nt, struct bio *bio,
				 sector_t off, bool leaving)
{
	if (leaving) {
		dm_notify_trim(bio, dm_notify_chunk_left(nt, off));
		return dm_notify_hold(nt, bio, off >> nt->chunk_shift,
				      DM_NOTIFY_NEED_FORGOTTEN);
	}
	if (bio_op(bio) == REQ_OP_WRITE)
		dm_notify_count(nt->map, DM_NOTIFY_ZERO_SKIPPED);
	else
		dm_notify_trim(bio, dm_notify_hole_sectors(nt, off,
							   bio_sectors(bio),
							   DM_NOTIFY_MAPPED |
							   DM_NOTIFY_LEAVING));
	return dm_notify_complete(bio, BLK_STS_OK);
}

static int dm_notify_hole(struct dm_notify_target *nt, struct bio *bio,
			  sector_t off, bool leaving)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		dm_notify_trim(bio,
			       dm_notify_hole_sectors(nt, off, bio_sectors(bio),
						      DM_NOTIFY_MAPPED));
		zero_fill_bio(bio);
		return dm_notify_complete(bio, BLK_STS_OK);
	case REQ_OP_DISCARD:
		dm_notify_trim(bio,
			       dm_notify_hole_sectors(nt, off, bio_sectors(bio),
						      DM_NOTIFY_MAPPED));
		return dm_notify_complete(bio, BLK_STS_OK);
	case REQ_OP_WRITE_ZEROES:
		return dm_notify_hole_zeroes(nt, bio, off, leaving);
	case REQ_OP_WRITE:
		break;
	default:
		return DM_MAPIO_KILL;
	}

	/* One chunk at a time: what is held waits for exactly one chunk. */
	dm_notify_trim(bio, dm_notify_chunk_left(nt, off));
	if (nt->skip_zero_writes && dm_notify_all_zero(bio))
		return dm_notify_hole_zeroes(nt, bio, off, leaving);
	return dm_notify_hold(nt, bio, off >> nt->chunk_shift,
			      DM_NOTIFY_NEED_CHUNK);
}

/* The chunks that a discard covers as a whole. Return: how many. */
static u64 dm_notify_whole_chunks(const struct dm_notify_target *nt,
				  struct bio *bio, sector_t off, u64 *first)
{
	u64 end = off + bio_sectors(bio);
	u64 last = end >> nt->chunk_shift;

	*first = (off + nt->chunk_mask) >> nt->chunk_shift;
	if (end == nt->ti->len)
		last = nt->nr_chunks;
	return last > *first ? last - *first : 0;
}

/* A discard of one chunk of a snapshot: of a part of it, there is nothing to do. */
static int dm_notify_discard_shared(struct dm_notify_target *nt,
				    struct bio *bio, sector_t off)
{
	u64 chunk;

	if (dm_notify_whole_chunks(nt, bio, off, &chunk)) {
		if (!dm_notify_map_give_up(nt->map, chunk))
			return DM_NOTIFY_HOLD_RETRY;
		dm_notify_ring(nt);
	}
	return dm_notify_complete(bio, BLK_STS_OK);
}

/**
 * dm_notify_unplain() - a write or discard meets a chunk that is not a plain one.
 * @nt: the target
 * @bio: the write
 * @off: where it starts in the target
 * @entry: the chunk's entry as the look-up saw it
 * @shared: the chunk belongs to a snapshot
 *
 * Return: what ->map returns, or DM_NOTIFY_HOLD_RETRY to look up again.
 */
static int dm_notify_unplain(struct dm_notify_target *nt, struct bio *bio,
			     sector_t off, unsigned long entry, bool shared)
{
	bool discard = bio_op(bio) == REQ_OP_DISCARD;
	u64 chunk = off >> nt->chunk_shift;

	if ((entry & DM_NOTIFY_PROTECTED) || shared) {
		dm_notify_trim(bio, dm_notify_chunk_left(nt, off));
		if (!discard)
			return dm_notify_hold(nt, bio, chunk,
					      DM_NOTIFY_NEED_CHUNK);
		if (entry & DM_NOTIFY_PROTECTED)
			return dm_notify_hold(nt, bio, chunk,
					      DM_NOTIFY_NEED_TURN);
		return dm_notify_discard_shared(nt, bio, off);
	}
	if (dm_notify_map_written(nt->map, chunk, discard))
		dm_notify_ring(nt);
	return DM_NOTIFY_HOLD_RETRY;
}

/* Chunks that lie wholly inside a discard may go back to user space. */
static void dm_notify_note_discard(struct dm_notify_target *nt, struct bio *bio,
				   sector_t off)
{
	u64 first, nr = dm_notify_whole_chunks(nt, bio, off, &first);

	if (nr && dm_notify_map_discarded(nt->map, first, nr))
		dm_notify_ring(nt);
}

/* Point a bio at its place on a data device. */
static int dm_notify_remap(struct dm_notify_target *nt, struct bio *bio,
			   unsigned long entry, sector_t off)
{
	bio_set_dev(bio, nt->devs[dm_notify_entry_dev(entry)]->bdev);
	bio->bi_iter.bi_sector =
		(dm_notify_entry_pchunk(entry) << nt->chunk_shift) +
		(off & nt->chunk_mask);
	return DM_MAPIO_REMAPPED;
}

static int dm_notify_discard(struct dm_notify_target *nt, struct bio *bio,
			     unsigned long entry, sector_t off)
{
	struct block_device *bdev = nt->devs[dm_notify_entry_dev(entry)]->bdev;

	dm_notify_note_discard(nt, bio, off);
	if (!bdev_max_discard_sectors(bdev))
		return dm_notify_complete(bio, BLK_STS_OK);
	return dm_notify_remap(nt, bio, entry, off);
}

/*
 * Look a chunk up and count the bio as on its way there, all with preemption
 * off, for the sake of dm_notify_map_drain(). A bio that turns out not to be
 * passed down has to be taken out of the count again.
 */
static unsigned long dm_notify_enter(struct dm_notify_map *map, struct bio *bio,
				     u64 chunk)
{
	unsigned long entry;
	unsigned int epoch;

	/* Pairs with dm_notify_map_drain(): the epoch first, then the entry. */
	epoch = smp_load_acquire(&map->hot.epoch);
	entry = dm_notify_entry(map, chunk);
	this_cpu_inc(map->hot.cpu->inflight[epoch]);
	dm_notify_bio_io(bio)->epoch = epoch + 1;
	return entry;
}

static void dm_notify_leave(struct dm_notify_map *map, struct bio *bio)
{
	struct dm_notify_io *io = dm_notify_bio_io(bio);
	unsigned int epoch = io->epoch;
	bool wake;

	if (!epoch)
		return;
	io->epoch = 0;
	preempt_disable();
	this_cpu_dec(map->hot.cpu->inflight[epoch - 1]);
	/* Pairs with dm_notify_wait_epoch(): it is seen, or this was counted. */
	wake = READ_ONCE(map->hot.draining) == epoch;
	preempt_enable();
	if (unlikely(wake))
		dm_notify_map_drain_wake(map);
}

/* The flags that end, or hold, what changes a chunk. */
static unsigned long dm_notify_flags_against(struct bio *bio)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return 0;
	case REQ_OP_DISCARD:
		return DM_NOTIFY_PROTECTED | DM_NOTIFY_UNCHANGED;
	default:
		return DM_NOTIFY_FLAGS;
	}
}

/* What needs more than a look at one entry. */
static noinline int dm_notify_try(struct dm_notify_target *nt, struct bio *bio)
{
	sector_t off = dm_target_offset(nt->ti, bio->bi_iter.bi_sector);
	bool write = op_is_write(bio_op(bio)), shared;
	unsigned long entry, alike = ~0UL;
	unsigned int mark;
	u64 sectors;

	/* Reads pass whatever is said of a chunk. */
	if (!write)
		alike = ~(DM_NOTIFY_FLAGS | DM_NOTIFY_GEN_MASK);
	preempt_disable();
	entry = dm_notify_enter(nt->map, bio, off >> nt->chunk_shift);
	mark = write ? READ_ONCE(nt->map->hot.mark) : 0;
	sectors = dm_notify_run_sectors(nt, entry, off, bio_sectors(bio), alike);
	preempt_enable();

	if (mark == DM_NOTIFY_FROZEN) {
		dm_notify_leave(nt->map, bio);
		dm_notify_trim(bio, dm_notify_chunk_left(nt, off));
		return dm_notify_hold(nt, bio, off >> nt->chunk_shift,
				      DM_NOTIFY_NEED_TURN);
	}
	if (!(entry & DM_NOTIFY_MAPPED)) {
		dm_notify_leave(nt->map, bio);
		return dm_notify_hole(nt, bio, off, entry & DM_NOTIFY_LEAVING);
	}
	shared = dm_notify_entry_gen(entry) < mark;
	if (shared || (entry & dm_notify_flags_against(bio))) {
		dm_notify_leave(nt->map, bio);
		return dm_notify_unplain(nt, bio, off, entry, shared);
	}
	dm_notify_trim(bio, sectors);
	if (bio_op(bio) == REQ_OP_DISCARD)
		return dm_notify_discard(nt, bio, entry, off);
	return dm_notify_remap(nt, bio, entry, off);
}

/**
 * dm_notify_route() - decide what becomes of a bio with data.
 * @nt: the target
 * @bio: not yet remapped; a bio that was held lies in one chunk
 *
 * Context: process context.
 * Return: a DM_MAPIO_ value.
 */
int dm_notify_route(struct dm_notify_target *nt, struct bio *bio)
{
	int r;

	do {
		r = dm_notify_try(nt, bio);
	} while (r == DM_NOTIFY_HOLD_RETRY);
	return r;
}

static int dm_notify_map_flush(struct dm_notify_target *nt, struct bio *bio)
{
	/* Empty: device-mapper sends a flush's data separately. */
	bio_set_dev(bio, nt->devs[dm_bio_get_target_bio_nr(bio)]->bdev);
	return DM_MAPIO_REMAPPED;
}

/*
 * May a read or write go to a chunk as it is? Preemption is off: the mark has
 * its order with the epoch as the entry has.
 */
static bool dm_notify_may_pass(const struct dm_notify_map *map, struct bio *bio,
			       unsigned long entry)
{
	if (bio_op(bio) == REQ_OP_READ)
		return entry & DM_NOTIFY_MAPPED;
	return (entry & (DM_NOTIFY_MAPPED | DM_NOTIFY_FLAGS)) ==
		       DM_NOTIFY_MAPPED &&
	       dm_notify_entry_gen(entry) >= READ_ONCE(map->hot.mark);
}

static enum dm_notify_kind dm_notify_kind(struct bio *bio)
{
	if (bio_op(bio) == REQ_OP_READ)
		return DM_NOTIFY_READS;
	return bio_op(bio) == REQ_OP_WRITE ? DM_NOTIFY_WRITES :
					     DM_NOTIFY_DISCARDS;
}

/**
 * dm_notify_io_map() - device-mapper's ->map.
 * @ti: the target
 * @bio: the clone of a bio
 *
 * Most bios are reads and writes inside one mapped chunk: they are passed down
 * from here, and the rest is left to dm_notify_route().
 *
 * Return: a DM_MAPIO_ value.
 */
int dm_notify_io_map(struct dm_target *ti, struct bio *bio)
{
	struct dm_notify_target *nt = ti->private;
	struct dm_notify_map *map = nt->map;
	sector_t off = dm_target_offset(ti, bio->bi_iter.bi_sector);
	unsigned long entry;
	bool pass;

	dm_notify_bio_io(bio)->epoch = 0;
	dm_notify_bio_io(bio)->since_ns = 0;
	if (unlikely(bio->bi_opf & REQ_PREFLUSH))
		return dm_notify_map_flush(nt, bio);
	this_cpu_inc(map->hot.cpu->bios[dm_notify_kind(bio)]);
	if (unlikely((bio_op(bio) != REQ_OP_READ &&
		      bio_op(bio) != REQ_OP_WRITE) ||
		     bio_sectors(bio) > dm_notify_chunk_left(nt, off)))
		return dm_notify_route(nt, bio);

	preempt_disable();
	entry = dm_notify_enter(map, bio, off >> nt->chunk_shift);
	pass = dm_notify_may_pass(map, bio, entry);
	preempt_enable();
	if (likely(pass))
		return dm_notify_remap(nt, bio, entry, off);
	dm_notify_leave(map, bio);
	return dm_notify_route(nt, bio);
}

/**
 * dm_notify_io_end() - device-mapper's ->end_io.
 * @ti: the target
 * @bio: a clone that has completed
 * @error: how it went, which is left as it is
 *
 * Context: any.
 * Return: DM_ENDIO_DONE.
 */
int dm_notify_io_end(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct dm_notify_target *nt = ti->private;

	dm_notify_leave(nt->map, bio);
	return DM_ENDIO_DONE;
}
