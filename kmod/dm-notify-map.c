// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": changing the map of a volume.
 *
 * Changes are all or nothing: everything is checked and all memory is there
 * before the first chunk changes. Readers (->map) see each chunk before or
 * after its change, never between. dm-notify-table.c has the entries.
 */
#include "dm-notify.h"

#include <linux/sched/mm.h>
#include <linux/slab.h>

/* Chunks changed under one hold of the map's spinlock. */
#define NOTIFY_BATCH 4096

/* ---- mapping ---- */

static unsigned long notify_run_entry(const struct notify_run *run, u64 i)
{
	return (run->phys + i) << NOTIFY_PCHUNK_SHIFT |
	       (unsigned long)run->dev << NOTIFY_DEV_SHIFT |
	       NOTIFY_MAPPED | run->flags;
}

/* Same place, and protected in both or in neither. */
static bool notify_same_place(unsigned long a, unsigned long b)
{
	return !((a ^ b) & ~(NOTIFY_WATCHED | NOTIFY_DISCARDED));
}

/* After each batch of chunks, let others have the lock and the processor. */
static void notify_breathe(struct notify_map *map, u64 nr)
{
	if (nr % NOTIFY_BATCH == NOTIFY_BATCH - 1) {
		spin_unlock(&map->entry_lock);
		cond_resched();
		spin_lock(&map->entry_lock);
	}
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

/* Reserve one chunk, or find that it already is what it should be. */
static int notify_reserve_one(struct notify_map *map, u64 chunk,
			      unsigned long entry, const char **why)
{
	unsigned long old = notify_entry(map, chunk);

	if (!old) {
		notify_entry_set(map, chunk, NOTIFY_RESERVED);
		return 0;
	}
	if (!(old & NOTIFY_MAPPED)) {
		*why = "chunk named twice";
		return -EINVAL;
	}
	if (notify_same_place(old, entry))
		return 0;
	*why = "chunk is mapped to another place, or protected differently";
	return -EEXIST;
}

/*
 * Reserve the chunks of a run: afterwards storing it cannot fail. On failure
 * some chunks may stay reserved.
 */
static int notify_reserve(struct notify_map *map, const struct notify_run *run,
			  const char **why)
{
	u64 i, chunk;
	int r = 0;

	for (chunk = round_down(run->virt, NOTIFY_LEAF_CHUNKS);
	     chunk < run->virt + run->count; chunk += NOTIFY_LEAF_CHUNKS) {
		if (!notify_leaf_get(map, chunk)) {
			*why = "out of memory";
			return -ENOMEM;
		}
	}

	spin_lock(&map->entry_lock);
	for (i = 0; i < run->count && !r; i++) {
		r = notify_reserve_one(map, run->virt + i,
				       notify_run_entry(run, i), why);
		notify_breathe(map, i);
	}
	spin_unlock(&map->entry_lock);
	return r;
}

/* Free the leaves of a range that are empty. Caller holds map->lock. */
static void notify_prune(struct notify_map *map, u64 virt, u64 count)
{
	u64 i, last = (virt + count - 1) >> NOTIFY_LEAF_SHIFT;

	for (i = virt >> NOTIFY_LEAF_SHIFT; i <= last; i++)
		notify_leaf_put(map, map->dir->leaf[i]);
}

static void notify_unreserve(struct notify_map *map,
			     const struct notify_run *run)
{
	u64 i;

	spin_lock(&map->entry_lock);
	for (i = 0; i < run->count; i++) {
		if (notify_entry(map, run->virt + i) == NOTIFY_RESERVED)
			notify_entry_set(map, run->virt + i, 0);
		notify_breathe(map, i);
	}
	spin_unlock(&map->entry_lock);
	notify_prune(map, run->virt, run->count);
}

/* Fill the reserved chunks of a run. Cannot fail. */
static void notify_commit(struct notify_map *map, const struct notify_run *run)
{
	u64 i, added = 0;

	spin_lock(&map->entry_lock);
	for (i = 0; i < run->count; i++) {
		if (notify_entry(map, run->virt + i) == NOTIFY_RESERVED) {
			notify_entry_set(map, run->virt + i,
					 notify_run_entry(run, i));
			added++;
		}
		notify_breathe(map, i);
	}
	spin_unlock(&map->entry_lock);
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
		unsigned long old = notify_entry(map, run->virt + i);

		if (!old) {
			*why = "chunk is not mapped";
			return -ENXIO;
		}
		if (!(old & NOTIFY_PROTECTED) &&
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
	spin_lock(&map->entry_lock);
	for (i = 0; !r && i < run->count; i++) {
		unsigned long old = notify_entry(map, run->virt + i);

		if (old & NOTIFY_PROTECTED) {
			notify_entry_set(map, run->virt + i,
					 notify_run_entry(run, i));
			map->nr_on_dev[notify_entry_dev(old)]--;
			map->nr_on_dev[run->dev]++;
		}
		notify_breathe(map, i);
	}
	spin_unlock(&map->entry_lock);
	mutex_unlock(&map->lock);
	return r;
}

/* Caller holds map->entry_lock. */
static bool notify_in_use(struct notify_map *map, u64 virt, u64 last)
{
	unsigned long entry, spare = NOTIFY_WATCHED | NOTIFY_DISCARDED;

	for (; (entry = notify_entry_next(map, &virt, last)); virt++)
		if (!(entry & spare))
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
	u64 nr = 0, chunk = virt, last = virt + count - 1;
	unsigned long entry;
	bool busy;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	busy = !force && notify_in_use(map, virt, last);
	while (!busy && (entry = notify_entry_next(map, &chunk, last))) {
		notify_entry_set(map, chunk++, 0);
		map->nr_on_dev[notify_entry_dev(entry)]--;
		nr++;
		/* A watched chunk written now would be lost: do not let go. */
		if (force)
			notify_breathe(map, nr);
	}
	spin_unlock(&map->entry_lock);
	WRITE_ONCE(map->nr_mapped, map->nr_mapped - nr);
	if (!busy)
		notify_prune(map, virt, count);
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
	u64 nr = 0, chunk = virt, last = virt + count - 1;
	unsigned long entry;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	while ((entry = notify_entry_next(map, &chunk, last))) {
		if (on) {
			entry = (entry & ~NOTIFY_FLAGS) | NOTIFY_PROTECTED;
			notify_unreport(map, chunk);
		} else {
			entry &= ~NOTIFY_PROTECTED;
		}
		notify_entry_set(map, chunk++, entry);
		notify_breathe(map, nr++);
	}
	spin_unlock(&map->entry_lock);
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
	unsigned long entry, gone = NOTIFY_WATCHED | NOTIFY_DISCARDED;
	bool tell = false;

	spin_lock(&map->entry_lock);
	entry = notify_entry(map, chunk);
	if ((entry & NOTIFY_MAPPED) && (entry & gone)) {
		notify_entry_set(map, chunk, entry & ~gone);
		notify_unreport(map, chunk);
		tell = entry & NOTIFY_WATCHED;
	}
	if (tell) {
		notify_report(map, chunk, false);
		notify_count(map, NOTIFY_AHEAD_TOTAL);
	}
	spin_unlock(&map->entry_lock);
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
	u64 last = chunk + count - 1;
	unsigned long entry;
	bool tell = false;

	spin_lock(&map->entry_lock);
	for (; (entry = notify_entry_next(map, &chunk, last)); chunk++) {
		if (entry & NOTIFY_FLAGS)
			continue;
		notify_entry_set(map, chunk, entry | NOTIFY_DISCARDED);
		notify_report(map, chunk, true);
		tell = true;
	}
	spin_unlock(&map->entry_lock);
	return tell;
}

/* ---- reports ---- */

/* Room for the longest line of "dump", and for "more <chunk>" after it. */
#define NOTIFY_DUMP_LINE 96

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
	unsigned long entry, next = 0;
	u64 chunk = from, n = 0;
	size_t sz = 0;

	mutex_lock(&map->lock);
	for (; (entry = notify_entry_next(map, &chunk, U64_MAX)); chunk++) {
		if (++n % NOTIFY_BATCH == 0)
			cond_resched();
		if (run.count && chunk == run.virt + run.count &&
		    entry == next) {
			run.count++;
			next += NOTIFY_NEXT_CHUNK;
			continue;
		}
		if (run.count)
			sz += notify_emit_run(&run, result, sz, maxlen);
		run.virt = chunk;
		run.dev = notify_entry_dev(entry);
		run.phys = notify_entry_pchunk(entry);
		run.flags = entry & NOTIFY_FLAGS;
		run.count = 1;
		next = entry + NOTIFY_NEXT_CHUNK;
		if (maxlen - sz < 2 * NOTIFY_DUMP_LINE) {
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

/* Caller holds map->entry_lock. Return: whether all found room. */
static bool notify_report_leaf(struct notify_leaf *leaf, char *result,
			       size_t *size, size_t maxlen)
{
	size_t sz = *size;
	unsigned int i;

	for (i = 0; i < NOTIFY_LEAF_CHUNKS; i++) {
		bool ahead = test_bit(i, leaf->ahead);

		if (!ahead && !test_bit(i, leaf->discard))
			continue;
		if (maxlen - sz < NOTIFY_PENDING_LINE)
			break;
		DMEMIT("%c %llu\n", ahead ? 'a' : 'd', leaf->first + i);
		__clear_bit(i, leaf->ahead);
		__clear_bit(i, leaf->discard);
	}
	*size = sz;
	return i == NOTIFY_LEAF_CHUNKS;
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
	struct notify_leaf *leaf, *next;

	spin_lock(&map->entry_lock);
	list_for_each_entry_safe(leaf, next, &map->reports, reports) {
		if (!notify_report_leaf(leaf, result, &sz, maxlen)) {
			*more = true;
			list_move_tail(&leaf->reports, &map->reports);
			break;
		}
		list_del_init(&leaf->reports);
	}
	spin_unlock(&map->entry_lock);
	return sz;
}
