// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": what device-mapper calls.
 *
 * The life of a bio: ->map looks its chunk up. Mapped: it is passed down, as
 * far as the run of contiguous chunks reaches. A hole: reads give zeroes,
 * discards and zeroing do nothing, a write is held until user space maps the
 * chunk (dm-notify-hold.c). dm-notify.h describes the locking.
 */
#include "dm-notify.h"

#include <linux/bio.h>
#include <linux/highmem.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>

/* A bio is extended over this many chunks at most, to bound the look-ups. */
#define NOTIFY_MAX_RUN 1024

struct workqueue_struct *notify_wq;

/* ---- I/O ---- */

static void notify_trim(struct bio *bio, u64 sectors)
{
	if (bio_sectors(bio) > sectors)
		dm_accept_partial_bio(bio, sectors);
}

static u64 notify_chunk_left(const struct notify_target *nt, sector_t off)
{
	return (1ULL << nt->chunk_shift) -
	       (off & ((1ULL << nt->chunk_shift) - 1));
}

static int notify_complete(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

/**
 * notify_run_sectors() - how far a bio may go on without a gap.
 * @nt: the target
 * @xas: at the bio's first chunk
 * @entry: that chunk's entry
 * @off: where the bio starts in the target
 * @want: length of the bio
 *
 * Context: RCU read side.
 * Return: sectors, at most @want, that lie together on one device.
 */
static u64 notify_run_sectors(const struct notify_target *nt,
			      struct xa_state *xas, const void *entry,
			      sector_t off, u64 want)
{
	unsigned long bits = notify_entry_bits(entry);
	u64 have = notify_chunk_left(nt, off);
	unsigned int i;

	for (i = 0; have < want && i < NOTIFY_MAX_RUN; i++) {
		bits += NOTIFY_NEXT_CHUNK;
		if (xas_next(xas) != xa_mk_value(bits))
			break;
		have += 1ULL << nt->chunk_shift;
	}
	return min(have, want);
}

/* As notify_run_sectors(), for a hole. */
static u64 notify_hole_sectors(const struct notify_target *nt, sector_t off,
			       u64 want)
{
	unsigned long next = off >> nt->chunk_shift;
	unsigned long last = (off + want - 1) >> nt->chunk_shift;

	if (!xa_find(&nt->map->chunks, &next, last, XA_PRESENT))
		return want;
	/* Mapped meanwhile: one chunk of the hole that was there is right. */
	if (next == off >> nt->chunk_shift)
		return min(notify_chunk_left(nt, off), want);
	return ((u64)next << nt->chunk_shift) - off;
}

static bool notify_all_zero(struct bio *bio)
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

static int notify_hole(struct notify_target *nt, struct bio *bio, sector_t off)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		notify_trim(bio, notify_hole_sectors(nt, off, bio_sectors(bio)));
		zero_fill_bio(bio);
		return notify_complete(bio, BLK_STS_OK);
	case REQ_OP_DISCARD:
	case REQ_OP_WRITE_ZEROES:
		notify_trim(bio, notify_hole_sectors(nt, off, bio_sectors(bio)));
		return notify_complete(bio, BLK_STS_OK);
	case REQ_OP_WRITE:
		break;
	default:
		return DM_MAPIO_KILL;
	}

	/* One chunk at a time: what is held waits for exactly one chunk. */
	notify_trim(bio, notify_chunk_left(nt, off));
	if (nt->skip_zero_writes && notify_all_zero(bio)) {
		notify_count(nt->map, NOTIFY_ZERO_SKIPPED);
		return notify_complete(bio, BLK_STS_OK);
	}
	return notify_hold(nt, bio, off >> nt->chunk_shift);
}

/**
 * notify_flagged() - a write or discard meets a chunk that has a flag.
 * @nt: the target
 * @bio: the write
 * @off: where it starts in the target
 * @flags: the chunk's flags as the look-up saw them
 *
 * Return: what ->map returns, or NOTIFY_HOLD_RETRY to look up again.
 */
static int notify_flagged(struct notify_target *nt, struct bio *bio,
			  sector_t off, unsigned long flags)
{
	u64 chunk = off >> nt->chunk_shift;

	if (flags & NOTIFY_PROTECTED) {
		notify_trim(bio, notify_chunk_left(nt, off));
		/* The chunk is shared: its other owner keeps the data. */
		if (bio_op(bio) == REQ_OP_DISCARD)
			return notify_complete(bio, BLK_STS_OK);
		return notify_hold(nt, bio, chunk);
	}
	if (notify_map_written(nt->map, chunk))
		notify_ring(nt);
	return NOTIFY_HOLD_RETRY;
}

/* Chunks that lie wholly inside a discard may go back to user space. */
static void notify_note_discard(struct notify_target *nt, struct bio *bio,
				sector_t off)
{
	u64 size = 1ULL << nt->chunk_shift;
	u64 end = off + bio_sectors(bio);
	u64 first = (off + size - 1) >> nt->chunk_shift;
	u64 last = end >> nt->chunk_shift;

	if (end == nt->ti->len)
		last = nt->nr_chunks;
	if (last > first && notify_map_discarded(nt->map, first, last - first))
		notify_ring(nt);
}

/*
 * Pass a bio down if its chunk is mapped and needs no care. The epoch is read
 * before the entry: see notify_map_drain().
 */
static int notify_try(struct notify_target *nt, struct bio *bio)
{
	struct notify_map *map = nt->map;
	sector_t off = dm_target_offset(nt->ti, bio->bi_iter.bi_sector);
	struct notify_io *io = notify_bio_io(bio);
	XA_STATE(xas, &map->chunks, off >> nt->chunk_shift);
	bool discard = bio_op(bio) == REQ_OP_DISCARD;
	struct block_device *bdev;
	unsigned long flags;
	unsigned int epoch;
	u64 sectors;
	void *entry;

	rcu_read_lock();
	epoch = smp_load_acquire(&map->epoch);
	do {
		entry = xas_load(&xas);
		/* A slot reserved by a "map" under way is still a hole. */
		if (xa_is_zero(entry))
			break;
	} while (xas_retry(&xas, entry));

	if (!xa_is_value(entry)) {
		rcu_read_unlock();
		return notify_hole(nt, bio, off);
	}

	flags = notify_entry_flags(entry);
	if (unlikely(flags) && op_is_write(bio_op(bio)) &&
	    ((flags & NOTIFY_PROTECTED) || !discard)) {
		rcu_read_unlock();
		return notify_flagged(nt, bio, off, flags);
	}

	sectors = bio_sectors(bio);
	if (unlikely(sectors > notify_chunk_left(nt, off)))
		sectors = notify_run_sectors(nt, &xas, entry, off, sectors);
	io->epoch = epoch;
	this_cpu_inc(map->inflight->nr[epoch]);
	rcu_read_unlock();

	notify_trim(bio, sectors);
	bdev = nt->devs[notify_entry_dev(entry)]->bdev;
	if (unlikely(discard)) {
		notify_note_discard(nt, bio, off);
		if (!bdev_max_discard_sectors(bdev))
			return notify_complete(bio, BLK_STS_OK);
	}

	bio_set_dev(bio, bdev);
	bio->bi_iter.bi_sector =
		(notify_entry_pchunk(entry) << nt->chunk_shift) +
		(off & ((1ULL << nt->chunk_shift) - 1));
	return DM_MAPIO_REMAPPED;
}

/**
 * notify_route() - decide what becomes of a bio with data.
 * @nt: the target
 * @bio: not yet remapped; a bio that was held lies in one chunk
 *
 * Context: process context.
 * Return: a DM_MAPIO_ value.
 */
int notify_route(struct notify_target *nt, struct bio *bio)
{
	int r;

	do {
		r = notify_try(nt, bio);
	} while (unlikely(r == NOTIFY_HOLD_RETRY));
	return r;
}

static int notify_target_map(struct dm_target *ti, struct bio *bio)
{
	struct notify_target *nt = ti->private;

	notify_bio_io(bio)->epoch = NOTIFY_NO_EPOCH;
	if (unlikely(bio->bi_opf & REQ_PREFLUSH)) {
		/* Empty: device-mapper sends a flush's data separately. */
		bio_set_dev(bio, nt->devs[dm_bio_get_target_bio_nr(bio)]->bdev);
		return DM_MAPIO_REMAPPED;
	}
	return notify_route(nt, bio);
}

static int notify_target_end_io(struct dm_target *ti, struct bio *bio,
				blk_status_t *error)
{
	struct notify_target *nt = ti->private;
	struct notify_map *map = nt->map;
	unsigned int epoch = notify_bio_io(bio)->epoch;

	if (epoch != NOTIFY_NO_EPOCH) {
		this_cpu_dec(map->inflight->nr[epoch]);
		if (unlikely(READ_ONCE(map->draining)))
			notify_map_drain_wake(map);
	}
	return DM_ENDIO_DONE;
}

/* ---- construction ---- */

static int notify_parse_chunk(struct notify_target *nt, struct dm_arg_set *as)
{
	static const struct dm_arg arg = {
		1U << NOTIFY_MIN_CHUNK_SHIFT, 1U << NOTIFY_MAX_CHUNK_SHIFT,
		"Chunk size must be 128 to 2097152 sectors",
	};
	struct dm_target *ti = nt->ti;
	unsigned int sectors;

	if (dm_read_arg(&arg, as, &sectors, &ti->error))
		return -EINVAL;
	if (!is_power_of_2(sectors)) {
		ti->error = "Chunk size must be a power of two";
		return -EINVAL;
	}
	nt->chunk_shift = ilog2(sectors);
	nt->nr_chunks = (ti->len + sectors - 1) >> nt->chunk_shift;
	if (nt->nr_chunks > NOTIFY_MAX_CHUNKS) {
		ti->error = "Too many chunks: use larger ones";
		return -EINVAL;
	}
	return 0;
}

static int notify_parse_notifier(struct notify_target *nt, struct dm_arg_set *as)
{
	static const struct dm_arg args[] = {
		{ 0, INT_MAX, "Invalid pid of the notifier" },
		{ 0, _NSIG, "Invalid signal number" },
	};
	struct dm_target *ti = nt->ti;
	unsigned int pid, signo;
	int r;

	if (dm_read_arg(&args[0], as, &pid, &ti->error) ||
	    dm_read_arg(&args[1], as, &signo, &ti->error))
		return -EINVAL;
	r = notify_set_notifier(nt, pid, signo);
	if (r == -EINVAL)
		ti->error = "Signal must be 0 or a real-time signal";
	else if (r == -ESRCH)
		ti->error = "Notifier does not exist: use pid 0 for none";
	return r;
}

static int notify_parse_devices(struct notify_target *nt, struct dm_arg_set *as)
{
	static const struct dm_arg arg = {
		0, NOTIFY_MAX_DEVS, "Invalid number of data devices",
	};
	struct dm_target *ti = nt->ti;
	unsigned int nr;
	int r;

	if (dm_read_arg_group(&arg, as, &nr, &ti->error))
		return -EINVAL;
	while (nt->nr_devs < nr) {
		r = dm_get_device(ti, dm_shift_arg(as),
				  dm_table_get_mode(ti->table),
				  &nt->devs[nt->nr_devs]);
		if (r) {
			ti->error = "Cannot open a data device";
			return r;
		}
		nt->nr_devs++;
	}
	return 0;
}

static int notify_parse_features(struct notify_target *nt, struct dm_arg_set *as)
{
	static const struct dm_arg group = {
		0, 3, "Invalid number of feature arguments",
	};
	static const struct dm_arg seconds = {
		0, NOTIFY_MAX_HOLD_TIMEOUT, "hold_timeout must be 0 to 86400 s",
	};
	struct dm_target *ti = nt->ti;
	unsigned int nr;
	const char *name;

	if (dm_read_arg_group(&group, as, &nr, &ti->error))
		return -EINVAL;
	while (nr) {
		name = dm_shift_arg(as);
		nr--;
		if (!strcasecmp(name, "skip_zero_writes")) {
			nt->skip_zero_writes = true;
		} else if (!strcasecmp(name, "hold_timeout") && nr) {
			if (dm_read_arg(&seconds, as, &nt->hold_timeout,
					&ti->error))
				return -EINVAL;
			nt->hold_timeout_given = true;
			nr--;
		} else {
			ti->error = "Unknown or incomplete feature";
			return -EINVAL;
		}
	}
	if (as->argc) {
		ti->error = "Too many arguments";
		return -EINVAL;
	}
	return 0;
}

static void notify_put_devices(struct notify_target *nt)
{
	while (nt->nr_devs)
		dm_put_device(nt->ti, nt->devs[--nt->nr_devs]);
}

static void notify_set_limits(struct notify_target *nt)
{
	struct dm_target *ti = nt->ti;

	ti->num_flush_bios = nt->nr_devs;
	ti->num_discard_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->discards_supported = true;
	ti->accounts_remapped_io = true;
	ti->per_io_data_size = sizeof(struct notify_io);
}

/*
 * notify <chunk_sectors> <pid> <signo> <#devs> <dev>* <#features> <feature>*
 *
 * Features: skip_zero_writes, hold_timeout <seconds>
 */
static int notify_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct mapped_device *md = dm_table_get_md(ti->table);
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	struct notify_target *nt;
	int r;

	nt = kzalloc(sizeof(*nt), GFP_KERNEL);
	if (!nt) {
		ti->error = "Cannot allocate the target";
		return -ENOMEM;
	}
	nt->ti = ti;
	nt->minor = MINOR(disk_devt(dm_disk(md)));
	nt->hold_timeout = NOTIFY_HOLD_TIMEOUT;
	notify_hold_init(nt);

	r = notify_parse_chunk(nt, &as);
	if (!r)
		r = notify_parse_notifier(nt, &as);
	if (r)
		goto out_hold;
	r = notify_parse_devices(nt, &as);
	if (!r)
		r = notify_parse_features(nt, &as);
	if (r)
		goto out_devices;
	r = notify_map_attach(nt);
	if (r)
		goto out_devices;

	notify_set_limits(nt);
	ti->private = nt;
	return 0;

out_devices:
	notify_put_devices(nt);
out_hold:
	notify_hold_exit(nt);
	kfree(nt);
	return r;
}

static void notify_dtr(struct dm_target *ti)
{
	struct notify_target *nt = ti->private;

	notify_hold_exit(nt);
	notify_map_detach(nt);
	notify_put_devices(nt);
	kfree(nt);
}

/* ---- suspend and resume ---- */

/*
 * Device-mapper waits for every bio, so none may stay held: a noflush suspend
 * gives them back, to be mapped by whatever table comes next; a flushing one
 * has nowhere to put them.
 */
static void notify_presuspend(struct dm_target *ti)
{
	notify_set_gate(ti->private, dm_noflush_suspending(ti) ?
			NOTIFY_GATE_REQUEUE : NOTIFY_GATE_FAIL);
}

static void notify_presuspend_undo(struct dm_target *ti)
{
	notify_set_gate(ti->private, NOTIFY_GATE_HOLD);
}

/* All I/O has ended: nothing may touch the target until it is resumed. */
static void notify_postsuspend(struct dm_target *ti)
{
	notify_hold_quiesce(ti->private);
}

/* A table that is swapped in takes the map over here, while nothing moves. */
static int notify_preresume(struct dm_target *ti)
{
	return notify_map_go_live(ti->private);
}

static void notify_resume(struct dm_target *ti)
{
	notify_set_gate(ti->private, NOTIFY_GATE_HOLD);
	notify_ring_again(ti->private);
}

/* ---- status and limits ---- */

static void notify_status_info(struct notify_target *nt, char *result,
			       unsigned int maxlen)
{
	struct notify_map *map = nt->map;
	unsigned long wanted, held;
	size_t sz = 0;

	spin_lock(&nt->lock);
	wanted = nt->nr_wanted;
	held = nt->nr_held;
	spin_unlock(&nt->lock);

	DMEMIT("%llu/%llu %lu %lu %lld %s %s %lld",
	       READ_ONCE(map->nr_mapped), nt->nr_chunks, wanted, held,
	       atomic64_read(&map->counters[NOTIFY_SIGNALS]),
	       READ_ONCE(map->nospace) ? "nospace" : "rw",
	       notify_notifier_state(nt),
	       atomic64_read(&map->counters[NOTIFY_TIMED_OUT]));
}

static void notify_status_table(struct notify_target *nt, char *result,
				unsigned int maxlen)
{
	unsigned int i, pid, signo;
	size_t sz = 0;

	spin_lock(&nt->lock);
	pid = nt->pid_nr;
	signo = nt->signo;
	spin_unlock(&nt->lock);

	DMEMIT("%u %u %u %u", 1U << nt->chunk_shift, pid, signo, nt->nr_devs);
	for (i = 0; i < nt->nr_devs; i++)
		DMEMIT(" %s", nt->devs[i]->name);
	DMEMIT(" %u", nt->skip_zero_writes + 2 * nt->hold_timeout_given);
	if (nt->skip_zero_writes)
		DMEMIT(" skip_zero_writes");
	if (nt->hold_timeout_given)
		DMEMIT(" hold_timeout %u", nt->hold_timeout);
}

static void notify_status_ima(struct notify_target *nt, char *result,
			      unsigned int maxlen)
{
	unsigned int i;
	size_t sz = 0;

	DMEMIT_TARGET_NAME_VERSION(nt->ti->type);
	DMEMIT(",chunk_sectors=%u", 1U << nt->chunk_shift);
	for (i = 0; i < nt->nr_devs; i++)
		DMEMIT(",device_%u=%s", i, nt->devs[i]->name);
	DMEMIT(",skip_zero_writes=%c", nt->skip_zero_writes ? 'y' : 'n');
	DMEMIT(",hold_timeout=%u;", nt->hold_timeout);
}

static void notify_status(struct dm_target *ti, status_type_t type,
			  unsigned int status_flags, char *result,
			  unsigned int maxlen)
{
	switch (type) {
	case STATUSTYPE_INFO:
		notify_status_info(ti->private, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		notify_status_table(ti->private, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		notify_status_ima(ti->private, result, maxlen);
		break;
	}
}

static int notify_iterate_devices(struct dm_target *ti,
				  iterate_devices_callout_fn fn, void *data)
{
	struct notify_target *nt = ti->private;
	unsigned int i;
	int r = 0;

	for (i = 0; i < nt->nr_devs && !r; i++)
		r = fn(ti, nt->devs[i], 0, bdev_nr_sectors(nt->devs[i]->bdev),
		       data);
	return r;
}

/*
 * Only a discard of a whole chunk gives space back, so say that chunks are
 * the grain. Discards work whatever the data devices support: there is
 * nothing to do in a hole, and the devices split what is too large for them.
 */
static void notify_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct notify_target *nt = ti->private;

	limits->discard_granularity = 1U << (nt->chunk_shift + SECTOR_SHIFT);
	limits->max_discard_sectors = UINT_MAX;
	limits->max_hw_discard_sectors = UINT_MAX;
}

static struct target_type notify_target = {
	.name = "notify",
	.version = { 1, 0, 0 },
	.features = DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = notify_ctr,
	.dtr = notify_dtr,
	.map = notify_target_map,
	.end_io = notify_target_end_io,
	.presuspend = notify_presuspend,
	.presuspend_undo = notify_presuspend_undo,
	.postsuspend = notify_postsuspend,
	.preresume = notify_preresume,
	.resume = notify_resume,
	.status = notify_status,
	.message = notify_message,
	.iterate_devices = notify_iterate_devices,
	.io_hints = notify_io_hints,
};

static int __init dm_notify_init(void)
{
	int r;

	notify_wq = alloc_workqueue("dm-notify", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!notify_wq)
		return -ENOMEM;
	r = dm_register_target(&notify_target);
	if (r)
		destroy_workqueue(notify_wq);
	return r;
}

static void __exit dm_notify_exit(void)
{
	dm_unregister_target(&notify_target);
	destroy_workqueue(notify_wq);
}

module_init(dm_notify_init);
module_exit(dm_notify_exit);

MODULE_DESCRIPTION(DM_NAME " target that asks user space for space");
MODULE_AUTHOR("The virtnotify developers");
MODULE_LICENSE("GPL");
