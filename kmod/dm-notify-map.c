// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the map from virtual to physical chunks.
 *
 * A map belongs to a place (mapped device, first sector), not to a table: the
 * target of a new table shares the map of the live one, so that a reload
 * (resize, another notifier, more devices) neither copies nor loses it. The
 * last target that leaves frees it.
 *
 * Changes are all or nothing: everything is checked and all memory is there
 * before the first chunk changes. Readers (->map) see each chunk before or
 * after its change, never between.
 */
#include "dm-notify.h"

#include <linux/sched/mm.h>
#include <linux/slab.h>

/* Chunks changed under one hold of the map's spinlock. */
#define NOTIFY_BATCH 4096

static DEFINE_MUTEX(notify_maps_lock);
static LIST_HEAD(notify_maps);

/* ---- sharing ---- */

static struct notify_map *notify_map_create(struct notify_target *nt)
{
	struct notify_map *map = kzalloc(sizeof(*map), GFP_KERNEL);

	if (!map)
		return NULL;
	map->inflight = alloc_percpu(struct notify_inflight);
	if (!map->inflight) {
		kfree(map);
		return NULL;
	}
	map->users = 1;
	map->md = dm_table_get_md(nt->ti->table);
	map->begin = nt->ti->begin;
	map->chunk_shift = nt->chunk_shift;
	mutex_init(&map->lock);
	mutex_init(&map->drain_lock);
	init_waitqueue_head(&map->drain_wait);
	xa_init(&map->chunks);
	list_add(&map->list, &notify_maps);
	return map;
}

/* Caller holds notify_maps_lock. */
static void notify_map_put(struct notify_map *map)
{
	lockdep_assert_held(&notify_maps_lock);
	if (--map->users)
		return;
	list_del(&map->list);
	xa_destroy(&map->chunks);
	free_percpu(map->inflight);
	kfree(map);
}

/* Caller holds notify_maps_lock. The map that I/O used last comes first. */
static struct notify_map *notify_map_find_live(const struct notify_target *nt)
{
	struct mapped_device *md = dm_table_get_md(nt->ti->table);
	struct notify_map *map;

	lockdep_assert_held(&notify_maps_lock);
	list_for_each_entry(map, &notify_maps, list)
		if (map->live && map->md == md && map->begin == nt->ti->begin)
			return map;
	return NULL;
}

/**
 * notify_map_misfit() - can a target take a map over?
 * @map: the map
 * @nt: the target
 *
 * Context: caller holds map->lock.
 * Return: NULL if each mapped chunk keeps its place, else what is wrong.
 */
static char *notify_map_misfit(struct notify_map *map,
			       const struct notify_target *nt)
{
	unsigned long beyond = nt->nr_chunks;
	unsigned int i;

	lockdep_assert_held(&map->lock);
	if (!map->nr_mapped)
		return NULL;
	if (map->chunk_shift != nt->chunk_shift)
		return "Chunk size differs from the live map's";
	if (xa_find(&map->chunks, &beyond, ULONG_MAX, XA_PRESENT))
		return "A mapped chunk lies beyond the new end";
	for (i = 0; i < NOTIFY_MAX_DEVS; i++) {
		if (!map->nr_on_dev[i])
			continue;
		if (i >= nt->nr_devs ||
		    nt->devs[i]->bdev->bd_dev != map->devt[i])
			return "A device with mapped chunks is not at its place";
	}
	return NULL;
}

/**
 * notify_map_attach() - find or make the map of a new table's target.
 * @nt: the target, its arguments parsed
 *
 * A live map that would not fit is refused here, when the table is loaded:
 * at resume it is too late, since device-mapper then drops the old table.
 *
 * Return: 0, or a negative errno with ti->error set.
 */
int notify_map_attach(struct notify_target *nt)
{
	struct notify_map *map;
	char *misfit = NULL;
	bool share = false;
	int r = 0;

	mutex_lock(&notify_maps_lock);
	map = notify_map_find_live(nt);
	if (map) {
		mutex_lock(&map->lock);
		misfit = notify_map_misfit(map, nt);
		share = map->chunk_shift == nt->chunk_shift;
		mutex_unlock(&map->lock);
	}
	if (misfit) {
		nt->ti->error = misfit;
		r = -EINVAL;
	} else if (share) {
		map->users++;
		nt->map = map;
	} else {
		nt->map = notify_map_create(nt);
		if (!nt->map) {
			nt->ti->error = "Cannot allocate the map";
			r = -ENOMEM;
		}
	}
	mutex_unlock(&notify_maps_lock);
	return r;
}

/**
 * notify_map_detach() - the target goes away.
 * @nt: the target
 */
void notify_map_detach(struct notify_target *nt)
{
	mutex_lock(&notify_maps_lock);
	notify_map_put(nt->map);
	nt->map = NULL;
	mutex_unlock(&notify_maps_lock);
}

/*
 * The live map is not the one that was found when the table was loaded: the
 * table before this one was resumed, or its map grew, in between.
 * Caller holds notify_maps_lock.
 */
static char *notify_map_adopt(struct notify_target *nt, struct notify_map *live)
{
	char *misfit;

	mutex_lock(&live->lock);
	misfit = notify_map_misfit(live, nt);
	if (!misfit && live->nr_mapped) {
		live->users++;
		swap(nt->map, live);
		mutex_unlock(&nt->map->lock);
		notify_map_put(live);
		return NULL;
	}
	mutex_unlock(&live->lock);
	return misfit;
}

/**
 * notify_map_go_live() - a target is about to get I/O.
 * @nt: the target; the table that it replaces is still there, and suspended
 *
 * Return: 0, or -EINVAL if the live map does not fit this target. The device
 * stays suspended then and the map is kept for a table that fits.
 */
int notify_map_go_live(struct notify_target *nt)
{
	struct notify_map *map;
	char *misfit = NULL;
	unsigned int i;

	mutex_lock(&notify_maps_lock);
	map = notify_map_find_live(nt);
	if (map && map != nt->map)
		misfit = notify_map_adopt(nt, map);

	map = nt->map;
	mutex_lock(&map->lock);
	if (!misfit)
		misfit = notify_map_misfit(map, nt);
	if (!misfit) {
		for (i = 0; i < nt->nr_devs; i++)
			map->devt[i] = nt->devs[i]->bdev->bd_dev;
		map->live = true;
		list_move(&map->list, &notify_maps);
	}
	mutex_unlock(&map->lock);
	mutex_unlock(&notify_maps_lock);

	if (!misfit)
		return 0;
	DMERR("%s: cannot resume: %s", dm_table_device_name(nt->ti->table),
	      misfit);
	return -EINVAL;
}

/* ---- mapping ---- */

static void *notify_run_entry(const struct notify_run *run, u64 i)
{
	return xa_mk_value((run->phys + i) << NOTIFY_PCHUNK_SHIFT |
			   (unsigned long)run->dev << NOTIFY_DEV_SHIFT |
			   run->flags);
}

/* Same place, and protected in both or in neither. */
static bool notify_same_place(const void *a, const void *b)
{
	unsigned long differ = notify_entry_bits(a) ^ notify_entry_bits(b);

	return !(differ & ~(NOTIFY_WATCHED | NOTIFY_DISCARDED));
}

static int notify_check_run(const struct notify_target *nt,
			    const struct notify_run *run, const char **why)
{
	u64 sectors;

	if (!run->count || run->virt >= nt->nr_chunks ||
	    run->count > nt->nr_chunks - run->virt) {
		*why = "chunks beyond the end of the volume";
		return -EINVAL;
	}
	if (run->dev >= nt->nr_devs) {
		*why = "no such data device";
		return -EINVAL;
	}
	if (run->phys >= NOTIFY_MAX_PCHUNK) {
		*why = "physical chunk out of range";
		return -EINVAL;
	}
	/* Read now: data devices grow while the table stays. */
	sectors = bdev_nr_sectors(nt->devs[run->dev]->bdev);
	if (run->phys + run->count > sectors >> nt->chunk_shift) {
		*why = "chunks beyond the end of the data device";
		return -ENOSPC;
	}
	return 0;
}

/* Reserve one chunk's slot, or find that it already is what it should be. */
static int notify_reserve_one(struct xa_state *xas, const void *entry,
			      const char **why)
{
	void *old = xas_load(xas);

	if (!old) {
		xas_store(xas, XA_ZERO_ENTRY);
		return 0;
	}
	if (xa_is_zero(old)) {
		*why = "chunk named twice";
		return -EINVAL;
	}
	if (notify_same_place(old, entry))
		return 0;
	*why = "chunk is mapped to another place, or protected differently";
	return -EEXIST;
}

/*
 * Reserve the slots of a run: afterwards storing it cannot fail. Readers take
 * a reserved slot for a hole. On failure some slots may stay reserved.
 */
static int notify_reserve(struct notify_map *map, const struct notify_run *run,
			  const char **why)
{
	XA_STATE(xas, &map->chunks, run->virt);
	u64 i = 0;
	int r = 0;

	do {
		xas_lock(&xas);
		while (i < run->count) {
			xas_set(&xas, run->virt + i);
			r = notify_reserve_one(&xas, notify_run_entry(run, i),
					       why);
			if (r || xas_error(&xas))
				break;
			if (++i % NOTIFY_BATCH == 0) {
				xas_unlock(&xas);
				cond_resched();
				xas_lock(&xas);
			}
		}
		xas_unlock(&xas);
	/* Also frees what was allocated and not needed. */
	} while (xas_nomem(&xas, GFP_KERNEL) && !r);

	if (!r && xas_error(&xas)) {
		*why = "out of memory";
		r = xas_error(&xas);
	}
	return r;
}

static void notify_unreserve(struct notify_map *map,
			     const struct notify_run *run)
{
	XA_STATE(xas, &map->chunks, run->virt);
	u64 i;

	xas_lock(&xas);
	for (i = 0; i < run->count; i++) {
		xas_set(&xas, run->virt + i);
		if (xa_is_zero(xas_load(&xas)))
			xas_store(&xas, NULL);
		if (i % NOTIFY_BATCH == NOTIFY_BATCH - 1) {
			xas_unlock(&xas);
			cond_resched();
			xas_lock(&xas);
		}
	}
	xas_unlock(&xas);
}

/* Fill the reserved slots of a run. Cannot fail. */
static void notify_commit(struct notify_map *map, const struct notify_run *run)
{
	XA_STATE(xas, &map->chunks, run->virt);
	u64 i, added = 0;

	xas_lock(&xas);
	for (i = 0; i < run->count; i++) {
		xas_set(&xas, run->virt + i);
		if (xa_is_zero(xas_load(&xas))) {
			xas_store(&xas, notify_run_entry(run, i));
			added++;
		}
		if (i % NOTIFY_BATCH == NOTIFY_BATCH - 1) {
			xas_unlock(&xas);
			cond_resched();
			xas_lock(&xas);
		}
	}
	xas_unlock(&xas);
	WRITE_ONCE(map->nr_mapped, map->nr_mapped + added);
	map->nr_on_dev[run->dev] += added;
}

/**
 * notify_map_add() - map runs of chunks, all or none.
 * @nt: the target
 * @runs: what to map
 * @nr: number of @runs
 * @why: what is wrong, if anything is
 *
 * Held writes are not yet released: the caller does that.
 *
 * Context: may sleep. Allocations do no I/O: the caller of the message may
 * serve the very device that memory would be written to.
 * Return: 0, or a negative errno and nothing changed.
 */
int notify_map_add(struct notify_target *nt, const struct notify_run *runs,
		   unsigned int nr, const char **why)
{
	struct notify_map *map = nt->map;
	unsigned int noio = memalloc_noio_save();
	unsigned int i, reserved;
	int r = 0;

	mutex_lock(&map->lock);
	for (i = 0; i < nr && !r; i++)
		r = notify_check_run(nt, &runs[i], why);
	for (reserved = 0; reserved < nr && !r; reserved++)
		r = notify_reserve(map, &runs[reserved], why);
	if (r) {
		while (reserved)
			notify_unreserve(map, &runs[--reserved]);
	} else {
		for (i = 0; i < nr; i++)
			notify_commit(map, &runs[i]);
	}
	mutex_unlock(&map->lock);
	memalloc_noio_restore(noio);
	return r;
}

/*
 * A chunk may move if it is protected (nobody writes to it), or is there
 * already. Caller holds map->lock, so a protected chunk stays as it is.
 */
static int notify_check_move(struct notify_map *map,
			     const struct notify_run *run, const char **why)
{
	u64 i;

	for (i = 0; i < run->count; i++) {
		void *old = xa_load(&map->chunks, run->virt + i);

		if (!old) {
			*why = "chunk is not mapped";
			return -ENXIO;
		}
		if (!(notify_entry_flags(old) & NOTIFY_PROTECTED) &&
		    !notify_same_place(old, notify_run_entry(run, i))) {
			*why = "chunk is not protected";
			return -EEXIST;
		}
		if (i % NOTIFY_BATCH == NOTIFY_BATCH - 1)
			cond_resched();
	}
	return 0;
}

/**
 * notify_map_move() - protected chunks have been copied and live elsewhere now.
 * @nt: the target
 * @run: the new place
 * @why: what is wrong, if anything is
 *
 * Return: 0, or a negative errno and nothing changed.
 */
int notify_map_move(struct notify_target *nt, const struct notify_run *run,
		    const char **why)
{
	struct notify_map *map = nt->map;
	u64 i;
	int r;

	mutex_lock(&map->lock);
	r = notify_check_run(nt, run, why);
	if (!r)
		r = notify_check_move(map, run, why);
	for (i = 0; !r && i < run->count; i++) {
		void *old = xa_load(&map->chunks, run->virt + i);

		if (!(notify_entry_flags(old) & NOTIFY_PROTECTED))
			continue;
		xa_store(&map->chunks, run->virt + i, notify_run_entry(run, i),
			 GFP_NOWAIT);
		map->nr_on_dev[notify_entry_dev(old)]--;
		map->nr_on_dev[run->dev]++;
		if (i % NOTIFY_BATCH == NOTIFY_BATCH - 1)
			cond_resched();
	}
	mutex_unlock(&map->lock);
	return r;
}

/*
 * Remove what is mapped in [*next, last], at most a batch of it.
 * Caller holds map->lock and the xarray's lock. Return: whether more is left.
 */
static bool notify_remove_batch(struct notify_map *map, unsigned long *next,
				unsigned long last)
{
	unsigned int n = 0;
	void *entry;

	while (n++ < NOTIFY_BATCH) {
		entry = xa_find(&map->chunks, next, last, XA_PRESENT);
		if (!entry)
			return false;
		__xa_erase(&map->chunks, *next);
		WRITE_ONCE(map->nr_mapped, map->nr_mapped - 1);
		map->nr_on_dev[notify_entry_dev(entry)]--;
	}
	return true;
}

/* Caller holds the xarray's lock. */
static bool notify_in_use(struct notify_map *map, u64 virt, u64 count)
{
	unsigned long i;
	void *entry;

	xa_for_each_range(&map->chunks, i, entry, virt, virt + count - 1)
		if (!(notify_entry_flags(entry) &
		      (NOTIFY_WATCHED | NOTIFY_DISCARDED)))
			return true;
	return false;
}

/**
 * notify_map_remove() - make chunks holes again.
 * @map: the map
 * @virt: first chunk
 * @count: number of chunks; without @force one hold of the lock covers them
 * @force: also those that have been written
 * @why: what is wrong, if anything is
 *
 * I/O that was passed down before may still be on its way: drain afterwards.
 *
 * Return: 0, or -EBUSY and nothing changed.
 */
int notify_map_remove(struct notify_map *map, u64 virt, u64 count, bool force,
		      const char **why)
{
	unsigned long next = virt;
	bool busy, more = false;

	mutex_lock(&map->lock);
	xa_lock(&map->chunks);
	busy = !force && notify_in_use(map, virt, count);
	while (!busy) {
		more = notify_remove_batch(map, &next, virt + count - 1);
		if (!more)
			break;
		/* A watched chunk written now would be lost: do not let go. */
		if (!force)
			continue;
		xa_unlock(&map->chunks);
		cond_resched();
		xa_lock(&map->chunks);
	}
	xa_unlock(&map->chunks);
	mutex_unlock(&map->lock);

	if (!busy)
		return 0;
	*why = "chunk has been written";
	return -EBUSY;
}

/**
 * notify_map_protect() - hold or let pass the writes to mapped chunks.
 * @map: the map
 * @virt: first chunk
 * @count: number of chunks; holes among them stay holes
 * @on: protect, or end it
 */
void notify_map_protect(struct notify_map *map, u64 virt, u64 count, bool on)
{
	unsigned long i, n = 0;
	void *entry;

	mutex_lock(&map->lock);
	xa_lock(&map->chunks);
	xa_for_each_range(&map->chunks, i, entry, virt, virt + count - 1) {
		unsigned long bits = notify_entry_bits(entry);
		unsigned long place = bits & ~NOTIFY_FLAGS;

		if (on)
			bits = place | NOTIFY_PROTECTED;
		else
			bits &= ~NOTIFY_PROTECTED;
		/* Replacing an entry takes no memory. */
		__xa_store(&map->chunks, i, xa_mk_value(bits), GFP_NOWAIT);
		if (on) {
			__xa_clear_mark(&map->chunks, i, NOTIFY_MARK_AHEAD);
			__xa_clear_mark(&map->chunks, i, NOTIFY_MARK_DISCARD);
		}
		if (++n % NOTIFY_BATCH == 0) {
			xa_unlock(&map->chunks);
			cond_resched();
			xa_lock(&map->chunks);
		}
	}
	xa_unlock(&map->chunks);
	mutex_unlock(&map->lock);
}

/* ---- what the guest did ---- */

/**
 * notify_map_written() - a write reaches a watched or discarded chunk.
 * @map: the map
 * @chunk: the chunk
 *
 * From here on the chunk holds data and is only unmapped by force.
 *
 * Return: whether user space is to be told.
 */
bool notify_map_written(struct notify_map *map, u64 chunk)
{
	unsigned long flags, gone = NOTIFY_WATCHED | NOTIFY_DISCARDED;
	bool tell = false;
	void *entry;

	xa_lock(&map->chunks);
	entry = xa_load(&map->chunks, chunk);
	flags = entry ? notify_entry_flags(entry) : 0;
	if (flags & gone) {
		/* Replacing an entry takes no memory. */
		__xa_store(&map->chunks, chunk,
			   xa_mk_value(notify_entry_bits(entry) & ~gone),
			   GFP_NOWAIT);
		__xa_clear_mark(&map->chunks, chunk, NOTIFY_MARK_DISCARD);
		if (flags & NOTIFY_WATCHED) {
			__xa_set_mark(&map->chunks, chunk, NOTIFY_MARK_AHEAD);
			notify_count(map, NOTIFY_AHEAD_TOTAL);
			tell = true;
		}
	}
	xa_unlock(&map->chunks);
	return tell;
}

/**
 * notify_map_discarded() - a discard covers whole chunks.
 * @map: the map
 * @chunk: the first of them
 * @count: their number
 *
 * Return: whether user space is to be told.
 */
bool notify_map_discarded(struct notify_map *map, u64 chunk, u64 count)
{
	unsigned long i, skip = NOTIFY_FLAGS;
	bool tell = false;
	void *entry;

	xa_lock(&map->chunks);
	xa_for_each_range(&map->chunks, i, entry, chunk, chunk + count - 1) {
		if (notify_entry_flags(entry) & skip)
			continue;
		/* Replacing an entry takes no memory. */
		__xa_store(&map->chunks, i,
			   xa_mk_value(notify_entry_bits(entry) |
				       NOTIFY_DISCARDED), GFP_NOWAIT);
		__xa_set_mark(&map->chunks, i, NOTIFY_MARK_DISCARD);
		tell = true;
	}
	xa_unlock(&map->chunks);
	return tell;
}

/* ---- waiting for I/O ---- */

static long notify_inflight_sum(struct notify_map *map, unsigned int epoch)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(map->inflight, cpu)->nr[epoch]);
	return sum;
}

static int notify_wait_epoch(struct notify_map *map, unsigned int epoch)
{
	/* The timeout is a net for a wake-up that the flag below missed. */
	while (notify_inflight_sum(map, epoch)) {
		long r = wait_event_killable_timeout(map->drain_wait,
				!notify_inflight_sum(map, epoch), HZ / 20);

		if (r < 0)
			return -EINTR;
	}
	return 0;
}

/**
 * notify_map_drain() - wait for the I/O that may have used an older map.
 * @map: the map, already changed
 *
 * ->map counts each bio that it passes down in the half of the counter that
 * map->epoch names, and ->end_io takes it out again. A drain turns new I/O to
 * the other half and waits until the first one is empty; a steady stream of
 * new I/O thus cannot hold it up. ->map reads the epoch before the entry,
 * this function turns it after the change: a bio that saw an old entry is
 * counted in an old epoch, and is counted before synchronize_rcu() returns.
 *
 * An earlier drain that was killed may have left I/O in the half that is used
 * next, so that one is emptied first.
 *
 * Context: may sleep, for as long as the data devices take.
 * Return: 0, or -EINTR if the caller was killed.
 */
int notify_map_drain(struct notify_map *map)
{
	unsigned int old;
	int r;

	if (mutex_lock_killable(&map->drain_lock))
		return -EINTR;
	WRITE_ONCE(map->draining, true);
	old = map->epoch;
	r = notify_wait_epoch(map, !old);
	if (!r) {
		smp_store_release(&map->epoch, !old);
		synchronize_rcu();
		r = notify_wait_epoch(map, old);
	}
	WRITE_ONCE(map->draining, false);
	mutex_unlock(&map->drain_lock);
	return r;
}

/**
 * notify_map_drain_wake() - a bio completed while someone drains.
 * @map: the map
 *
 * Context: any.
 */
void notify_map_drain_wake(struct notify_map *map)
{
	wake_up(&map->drain_wait);
}

/* ---- reports ---- */

/* The longest line that a reply has, with room for the last one. */
#define NOTIFY_LINE 96

static size_t notify_emit_run(const struct notify_run *run, char *result,
			      size_t sz, size_t maxlen)
{
	size_t start = sz;
	const char *flag = "";

	if (run->flags & NOTIFY_PROTECTED)
		flag = ":p";
	else if (run->flags & NOTIFY_WATCHED)
		flag = ":w";
	else if (run->flags & NOTIFY_DISCARDED)
		flag = ":d";
	DMEMIT("%llu:%u:%llu:%llu%s\n", run->virt, run->dev, run->phys,
	       run->count, flag);
	return sz - start;
}

/**
 * notify_map_dump() - the runs of the map as text.
 * @map: the map
 * @from: first chunk of interest
 * @result: where to write
 * @maxlen: room there
 *
 * Return: length of the text; its last line is "more <chunk>" if it is cut.
 */
size_t notify_map_dump(struct notify_map *map, u64 from, char *result,
		       size_t maxlen)
{
	struct notify_run run = {};
	unsigned long i, next = 0, n = 0;
	size_t sz = 0;
	void *entry;

	mutex_lock(&map->lock);
	xa_for_each_start(&map->chunks, i, entry, from) {
		unsigned long bits = notify_entry_bits(entry);

		if (++n % NOTIFY_BATCH == 0)
			cond_resched();
		if (run.count && i == run.virt + run.count && bits == next) {
			run.count++;
			next += NOTIFY_NEXT_CHUNK;
			continue;
		}
		if (run.count)
			sz += notify_emit_run(&run, result, sz, maxlen);
		run.virt = i;
		run.dev = notify_entry_dev(entry);
		run.phys = notify_entry_pchunk(entry);
		run.flags = notify_entry_flags(entry);
		run.count = 1;
		next = bits + NOTIFY_NEXT_CHUNK;
		if (maxlen - sz < 2 * NOTIFY_LINE) {
			DMEMIT("more %llu\n", run.virt);
			run.count = 0;
			break;
		}
	}
	mutex_unlock(&map->lock);
	if (run.count)
		sz += notify_emit_run(&run, result, sz, maxlen);
	return sz;
}

static size_t notify_report_marked(struct notify_map *map, xa_mark_t mark,
				   char kind, char *result, size_t sz,
				   size_t maxlen, bool *more)
{
	unsigned long i;
	void *entry;

	xa_lock(&map->chunks);
	xa_for_each_marked(&map->chunks, i, entry, mark) {
		if (maxlen - sz < 2 * NOTIFY_LINE) {
			*more = true;
			break;
		}
		__xa_clear_mark(&map->chunks, i, mark);
		DMEMIT("%c %lu\n", kind, i);
	}
	xa_unlock(&map->chunks);
	return sz;
}

/**
 * notify_map_reports() - what "pending" says of chunks that nobody waits for.
 * @map: the map
 * @result: where to write
 * @sz: length of the text there
 * @maxlen: room there
 * @more: set if not all found room
 *
 * Return: length of the text.
 */
size_t notify_map_reports(struct notify_map *map, char *result, size_t sz,
			  size_t maxlen, bool *more)
{
	sz = notify_report_marked(map, NOTIFY_MARK_AHEAD, 'a', result, sz,
				  maxlen, more);
	return notify_report_marked(map, NOTIFY_MARK_DISCARD, 'd', result, sz,
				    maxlen, more);
}
