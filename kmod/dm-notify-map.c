// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": changing the map of a volume.
 *
 * Changes are all or nothing: everything is checked and all memory is there
 * before the first chunk changes. Readers (->map) see each chunk before or
 * after its change, never between. dm-notify-table.c has the entries.
 */
#include "dm-notify.h"

#include <linux/gfp.h>
#include <linux/sched.h>

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
	return !((a ^ b) & ~NOTIFY_UNWRITTEN);
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

	if (old & NOTIFY_RESERVED) {
		*why = "chunk named twice";
		return -EINVAL;
	}
	if (!(old & NOTIFY_MAPPED)) {
		notify_entry_set(map, chunk, old | NOTIFY_RESERVED);
		return 0;
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
		notify_leaf_put(map, map->dir->slot[i].leaf);
}

static void notify_unreserve(struct notify_map *map,
			     const struct notify_run *run)
{
	u64 i;

	spin_lock(&map->entry_lock);
	for (i = 0; i < run->count; i++) {
		unsigned long entry = notify_entry(map, run->virt + i);

		if (entry & NOTIFY_RESERVED)
			notify_entry_set(map, run->virt + i,
					 entry & ~NOTIFY_RESERVED);
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
		if (notify_entry(map, run->virt + i) & NOTIFY_RESERVED) {
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

/* Check all runs, then reserve their chunks; on failure none stays reserved. */
static int notify_reserve_all(struct notify_target *nt,
			      const struct notify_runs *runs, const char **why)
{
	struct notify_run run;
	unsigned int i, reserved;
	int r = 0;

	for (i = 0; i < runs->nr && !r; i++) {
		r = runs->get(runs, i, &run, why);
		if (!r)
			r = notify_check_run(nt, &run, why);
	}
	for (reserved = 0; reserved < runs->nr && !r; reserved++) {
		runs->get(runs, reserved, &run, why);
		r = notify_reserve(nt->map, &run, why);
	}
	while (r && reserved) {
		runs->get(runs, --reserved, &run, why);
		notify_unreserve(nt->map, &run);
	}
	return r;
}

/**
 * notify_map_add() - map runs of chunks, all or none.
 * @nt: the target
 * @runs: what to map
 * @why: what is wrong, if anything is
 *
 * Held writes are not yet released: the caller does that.
 *
 * Context: may sleep. The only memory that is allocated is for leaves, without
 * I/O: the sender of the message may serve the very device that memory would
 * be written to.
 * Return: 0, or a negative errno and nothing changed.
 */
int notify_map_add(struct notify_target *nt, const struct notify_runs *runs,
		   const char **why)
{
	struct notify_map *map = nt->map;
	struct notify_run run;
	unsigned int i;
	int r;

	mutex_lock(&map->lock);
	r = notify_reserve_all(nt, runs, why);
	for (i = 0; i < runs->nr && !r; i++) {
		runs->get(runs, i, &run, why);
		notify_commit(map, &run);
	}
	notify_reserve_fill(map, GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	mutex_unlock(&map->lock);
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

		if (!(old & NOTIFY_MAPPED)) {
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
					 notify_run_entry(run, i) |
					 (old & NOTIFY_UNWRITTEN));
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
	unsigned long entry;

	for (; (entry = notify_entry_next(map, &virt, last, NOTIFY_MAPPED));
	     virt++)
		if (!(entry & NOTIFY_UNWRITTEN))
			return true;
	return false;
}

/**
 * notify_map_remove() - make chunks holes again.
 * @map: the map
 * @virt: first chunk
 * @count: number of chunks; without @force one hold of the lock covers them
 * @force: also those that have been written
 * @leave: the holes are leaving ones; else also those that were are plain ones
 * @why: what is wrong, if anything is
 *
 * I/O that was passed down before may still be on its way: drain afterwards,
 * unless no chunk was mapped.
 *
 * Return: 1, 0 if none was mapped, or -EBUSY and nothing changed.
 */
int notify_map_remove(struct notify_map *map, u64 virt, u64 count, bool force,
		      bool leave, const char **why)
{
	unsigned long kinds = leave ? NOTIFY_MAPPED :
				      NOTIFY_MAPPED | NOTIFY_LEAVING;
	u64 nr = 0, mapped = 0, chunk = virt, last = virt + count - 1;
	unsigned long entry;
	bool busy;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	busy = !force && notify_in_use(map, virt, last);
	while (!busy && (entry = notify_entry_next(map, &chunk, last, kinds))) {
		notify_entry_set(map, chunk++, leave ? NOTIFY_LEAVING : 0);
		if (entry & NOTIFY_MAPPED) {
			map->nr_on_dev[notify_entry_dev(entry)]--;
			mapped++;
		}
		/* A watched chunk written now would be lost: do not let go. */
		if (force)
			notify_breathe(map, nr++);
	}
	spin_unlock(&map->entry_lock);
	WRITE_ONCE(map->nr_mapped, map->nr_mapped - mapped);
	if (!busy && !leave)
		notify_prune(map, virt, count);
	mutex_unlock(&map->lock);

	if (!busy)
		return mapped > 0;
	*why = "chunk has been written";
	return -EBUSY;
}

/**
 * notify_map_forget() - where chunks were is forgotten: plain holes are left.
 * @map: the map
 * @virt: first chunk
 * @count: number of chunks; only those that are leaving change
 */
void notify_map_forget(struct notify_map *map, u64 virt, u64 count)
{
	u64 nr = 0, chunk = virt, last = virt + count - 1;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	while (notify_entry_next(map, &chunk, last, NOTIFY_LEAVING)) {
		notify_entry_set(map, chunk++, 0);
		notify_breathe(map, nr++);
	}
	spin_unlock(&map->entry_lock);
	notify_prune(map, virt, count);
	mutex_unlock(&map->lock);
}

/**
 * notify_map_protect() - hold or let pass the writes to mapped chunks.
 * @map: the map
 * @virt: first chunk
 * @count: number of chunks; holes among them stay holes
 * @on: protect, or end it
 *
 * A chunk that is watched or discarded stays so: nobody writes to it meanwhile.
 */
void notify_map_protect(struct notify_map *map, u64 virt, u64 count, bool on)
{
	u64 nr = 0, chunk = virt, last = virt + count - 1;
	unsigned long entry;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	while ((entry = notify_entry_next(map, &chunk, last, NOTIFY_MAPPED))) {
		entry = on ? entry | NOTIFY_PROTECTED :
			     entry & ~NOTIFY_PROTECTED;
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
	unsigned long entry;
	bool tell = false;

	spin_lock(&map->entry_lock);
	entry = notify_entry(map, chunk);
	if ((entry & NOTIFY_MAPPED) && (entry & NOTIFY_UNWRITTEN) &&
	    !(entry & NOTIFY_PROTECTED)) {
		notify_entry_set(map, chunk, entry & ~NOTIFY_UNWRITTEN);
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
	for (; (entry = notify_entry_next(map, &chunk, last, NOTIFY_MAPPED));
	     chunk++) {
		if (entry & NOTIFY_FLAGS)
			continue;
		notify_entry_set(map, chunk, entry | NOTIFY_DISCARDED);
		notify_report(map, chunk, true);
		tell = true;
	}
	spin_unlock(&map->entry_lock);
	return tell;
}
