// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": mapping chunks, and making holes of them.
 *
 * Changes are all or nothing: everything is checked and all memory is there
 * before the first chunk changes. Readers (->map) see each chunk before or
 * after its change, never between. dm-notify-leaf.c has the entries.
 */
#include "dm_notify_trace.h"
#include "dm-notify.h"

#include <linux/gfp.h>
#include <linux/sched.h>

/* ---- what all changes need ---- */

/**
 * dm_notify_run_entry() - what a chunk of a run is to be.
 * @run: the run
 * @i: number of the chunk in it
 *
 * Return: the entry.
 */
unsigned long dm_notify_run_entry(const struct dm_notify_run *run, u64 i)
{
	return (run->phys + i) << DM_NOTIFY_PCHUNK_SHIFT |
	       (unsigned long)run->gen << DM_NOTIFY_GEN_SHIFT |
	       (unsigned long)run->dev << DM_NOTIFY_DEV_SHIFT |
	       DM_NOTIFY_MAPPED | run->flags;
}

/**
 * dm_notify_same_place() - are two chunks one?
 * @a: the entry of one
 * @b: the entry of the other
 *
 * Return: whether they lie at one place, whatever else is said of them.
 */
bool dm_notify_same_place(unsigned long a, unsigned long b)
{
	return !((a ^ b) & ~(DM_NOTIFY_FLAGS | DM_NOTIFY_GEN_MASK));
}

/**
 * dm_notify_breathe() - let others have the lock and the processor.
 * @map: the map
 * @nr: chunks that were looked at; it is let go after each batch of them
 *
 * Context: caller holds map->entry_lock.
 */
void dm_notify_breathe(struct dm_notify_map *map, u64 nr)
{
	if (nr % DM_NOTIFY_BATCH == DM_NOTIFY_BATCH - 1) {
		spin_unlock(&map->entry_lock);
		cond_resched();
		spin_lock(&map->entry_lock);
	}
}

static int dm_notify_check_range(const struct dm_notify_target *nt,
				 const struct dm_notify_run *run,
				 const char **why)
{
	if (run->count && run->virt < nt->nr_chunks &&
	    run->count <= nt->nr_chunks - run->virt)
		return 0;
	*why = "chunks beyond the end of the volume";
	return -EINVAL;
}

/**
 * dm_notify_check_ranges() - are the ranges of a message ones of the volume?
 * @nt: the target
 * @ranges: the ranges
 * @chunks: set to how many chunks they have
 * @why: what is wrong, if anything is
 *
 * Return: 0 or -EINVAL.
 */
int dm_notify_check_ranges(const struct dm_notify_target *nt,
			   const struct dm_notify_runs *ranges, u64 *chunks,
			   const char **why)
{
	struct dm_notify_run run = {};
	unsigned int i;
	int r = 0;

	for (i = 0, *chunks = 0; i < ranges->nr && !r; i++) {
		r = ranges->get(ranges, i, &run, why);
		if (!r)
			r = dm_notify_check_range(nt, &run, why);
		*chunks += run.count;
	}
	return r;
}

static int dm_notify_check_run(const struct dm_notify_target *nt,
			       const struct dm_notify_run *run,
			       const char **why)
{
	u64 sectors;
	int r;

	r = dm_notify_check_range(nt, run, why);
	if (r)
		return r;
	if (run->dev >= nt->nr_devs) {
		*why = "no such data device";
		return -EINVAL;
	}
	if (run->phys >= DM_NOTIFY_MAX_PCHUNK ||
	    run->count > DM_NOTIFY_MAX_PCHUNK - run->phys) {
		*why = "physical chunk out of range";
		return -EINVAL;
	}
	if ((run->how & DM_NOTIFY_RUN_GEN) && run->gen > nt->map->gen) {
		*why = "no such generation yet";
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

/**
 * dm_notify_get_run() - a run of a message.
 * @map: the map; its generation is that of the run's chunks, if it names none
 * @runs: the runs
 * @i: number of the run
 * @run: set to it
 * @why: what is wrong, if anything is
 *
 * Context: caller holds map->lock.
 * Return: 0 or -EINVAL.
 */
int dm_notify_get_run(const struct dm_notify_map *map,
		      const struct dm_notify_runs *runs, unsigned int i,
		      struct dm_notify_run *run, const char **why)
{
	int r = runs->get(runs, i, run, why);

	if (!r && !(run->how & DM_NOTIFY_RUN_GEN))
		run->gen = map->gen;
	return r;
}

/**
 * dm_notify_check_runs() - are there such runs?
 * @nt: the target
 * @runs: the runs
 * @most: how many chunks they may have
 * @why: what is wrong, if anything is
 *
 * Context: caller holds the map's lock.
 * Return: 0 or a negative errno.
 */
int dm_notify_check_runs(const struct dm_notify_target *nt,
			 const struct dm_notify_runs *runs, u64 most,
			 const char **why)
{
	struct dm_notify_run run;
	u64 chunks = 0;
	unsigned int i;
	int r;

	for (i = 0; i < runs->nr; i++) {
		r = dm_notify_get_run(nt->map, runs, i, &run, why);
		if (!r)
			r = dm_notify_check_run(nt, &run, why);
		if (r)
			return r;
		chunks += run.count;
		if (chunks > most) {
			*why = "too many chunks at once";
			return -EINVAL;
		}
	}
	return 0;
}

/* ---- mapping ---- */

/* Written to, or not written to, in both or in neither. */
static bool dm_notify_same_protection(const struct dm_notify_map *map,
				      unsigned long a, unsigned long b)
{
	return !((a ^ b) & DM_NOTIFY_PROTECTED) &&
	       dm_notify_shared(map, a) == dm_notify_shared(map, b);
}

/* Reserve one chunk, or find that it already is what it should be. */
static int dm_notify_reserve_one(struct dm_notify_map *map, u64 chunk,
				 unsigned long entry, const char **why)
{
	unsigned long old = dm_notify_entry(map, chunk);

	if (old & DM_NOTIFY_RESERVED) {
		*why = "chunk named twice";
		return -EINVAL;
	}
	if (!(old & DM_NOTIFY_MAPPED)) {
		dm_notify_entry_set(map, chunk, old | DM_NOTIFY_RESERVED);
		return 0;
	}
	if (dm_notify_same_place(old, entry) &&
	    dm_notify_same_protection(map, old, entry))
		return 0;
	*why = "chunk is mapped to another place, or protected differently";
	return -EEXIST;
}

/*
 * Reserve the chunks of a run: afterwards storing it cannot fail. On failure
 * some chunks may stay reserved.
 */
static int dm_notify_reserve(struct dm_notify_map *map,
			     const struct dm_notify_run *run, const char **why)
{
	u64 i, chunk;
	int r = 0;

	for (chunk = round_down(run->virt, DM_NOTIFY_LEAF_CHUNKS);
	     chunk < run->virt + run->count; chunk += DM_NOTIFY_LEAF_CHUNKS) {
		if (!dm_notify_leaf_get(map, chunk)) {
			*why = "out of memory";
			return -ENOMEM;
		}
	}

	spin_lock(&map->entry_lock);
	for (i = 0; i < run->count && !r; i++) {
		r = dm_notify_reserve_one(map, run->virt + i,
					  dm_notify_run_entry(run, i), why);
		dm_notify_breathe(map, i);
	}
	spin_unlock(&map->entry_lock);
	return r;
}

/* Free the leaves of a range that are empty. Caller holds map->lock. */
static void dm_notify_prune(struct dm_notify_map *map, u64 virt, u64 count)
{
	u64 i, last = (virt + count - 1) >> DM_NOTIFY_LEAF_SHIFT;

	for (i = virt >> DM_NOTIFY_LEAF_SHIFT; i <= last; i++)
		dm_notify_leaf_put(map, map->hot.dir->slot[i].leaf);
}

/**
 * dm_notify_unreserve_one() - no message is about to change a chunk any more.
 * @map: the map
 * @chunk: the chunk
 *
 * Context: caller holds map->entry_lock.
 */
void dm_notify_unreserve_one(struct dm_notify_map *map, u64 chunk)
{
	unsigned long entry = dm_notify_entry(map, chunk);

	if (entry & DM_NOTIFY_RESERVED)
		dm_notify_entry_set(map, chunk, entry & ~DM_NOTIFY_RESERVED);
}

static void dm_notify_unreserve(struct dm_notify_map *map,
				const struct dm_notify_run *run)
{
	u64 i;

	spin_lock(&map->entry_lock);
	for (i = 0; i < run->count; i++) {
		dm_notify_unreserve_one(map, run->virt + i);
		dm_notify_breathe(map, i);
	}
	spin_unlock(&map->entry_lock);
	dm_notify_prune(map, run->virt, run->count);
}

/* Fill the reserved chunks of a run. Cannot fail. */
static void dm_notify_commit(struct dm_notify_map *map,
			     const struct dm_notify_run *run)
{
	u64 i;

	spin_lock(&map->entry_lock);
	for (i = 0; i < run->count; i++) {
		if (dm_notify_entry(map, run->virt + i) & DM_NOTIFY_RESERVED) {
			dm_notify_unreport(map, run->virt + i);
			dm_notify_entry_set(map, run->virt + i,
					    dm_notify_run_entry(run, i));
		}
		dm_notify_breathe(map, i);
	}
	spin_unlock(&map->entry_lock);
}

/* Check all runs, then reserve their chunks; on failure none stays reserved. */
static int dm_notify_reserve_all(struct dm_notify_target *nt,
				 const struct dm_notify_runs *runs,
				 const char **why)
{
	struct dm_notify_run run;
	unsigned int reserved;
	int r = dm_notify_check_runs(nt, runs, U64_MAX, why);

	for (reserved = 0; reserved < runs->nr && !r; reserved++) {
		dm_notify_get_run(nt->map, runs, reserved, &run, why);
		r = dm_notify_reserve(nt->map, &run, why);
	}
	while (r && reserved) {
		dm_notify_get_run(nt->map, runs, --reserved, &run, why);
		dm_notify_unreserve(nt->map, &run);
	}
	return r;
}

/**
 * dm_notify_map_add() - map runs of chunks, all or none.
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
int dm_notify_map_add(struct dm_notify_target *nt,
		      const struct dm_notify_runs *runs, const char **why)
{
	struct dm_notify_map *map = nt->map;
	struct dm_notify_run run;
	unsigned int i;
	int r;

	mutex_lock(&map->lock);
	r = dm_notify_reserve_all(nt, runs, why);
	for (i = 0; i < runs->nr && !r; i++) {
		dm_notify_get_run(map, runs, i, &run, why);
		dm_notify_commit(map, &run);
		trace_dm_notify_mapped(nt, &run, false);
		WRITE_ONCE(map->growths, map->growths + 1);
	}
	dm_notify_reserve_fill(map, GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	mutex_unlock(&map->lock);
	return r;
}

/* ---- holes ---- */

/* Caller holds map->entry_lock. */
static bool dm_notify_in_use(struct dm_notify_map *map, u64 virt, u64 last)
{
	unsigned long entry;

	for (;
	     (entry = dm_notify_entry_next(map, &virt, last, DM_NOTIFY_MAPPED));
	     virt++)
		if (!(entry & DM_NOTIFY_UNWRITTEN))
			return true;
	return false;
}

/* Caller holds map->entry_lock. */
static bool dm_notify_any_in_use(struct dm_notify_map *map,
				 const struct dm_notify_runs *ranges,
				 const char **why)
{
	struct dm_notify_run run;
	unsigned int i;

	for (i = 0; i < ranges->nr; i++) {
		ranges->get(ranges, i, &run, why);
		if (dm_notify_in_use(map, run.virt, run.virt + run.count - 1))
			return true;
	}
	return false;
}

/*
 * A range becomes a hole. Caller holds map->entry_lock, which is let go now and
 * then if @breathe.
 */
static void dm_notify_make_hole(struct dm_notify_map *map,
				const struct dm_notify_run *run, bool breathe,
				bool leave)
{
	unsigned long kinds = DM_NOTIFY_MAPPED;
	u64 nr = 0, chunk = run->virt, last = run->virt + run->count - 1;

	if (!leave)
		kinds |= DM_NOTIFY_LEAVING;
	while (dm_notify_entry_next(map, &chunk, last, kinds)) {
		dm_notify_unreport(map, chunk);
		dm_notify_entry_set(map, chunk++,
				    leave ? DM_NOTIFY_LEAVING : 0);
		if (breathe)
			dm_notify_breathe(map, nr++);
	}
}

/**
 * dm_notify_map_remove() - make chunks holes again.
 * @map: the map
 * @ranges: which; without @force one hold of the lock covers them
 * @force: also those that have been written
 * @leave: the holes are leaving ones; else also those that were are plain ones
 * @why: what is wrong, if anything is
 *
 * I/O that was passed down before may still be on its way: drain afterwards.
 *
 * Return: 0, or -EBUSY and nothing changed.
 */
int dm_notify_map_remove(struct dm_notify_map *map,
			 const struct dm_notify_runs *ranges, bool force,
			 bool leave, const char **why)
{
	bool busy;
	struct dm_notify_run run;
	unsigned int i;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	busy = !force && dm_notify_any_in_use(map, ranges, why);
	for (i = 0; i < ranges->nr && !busy; i++) {
		ranges->get(ranges, i, &run, why);
		/* A watched chunk written now would be lost: do not let go. */
		dm_notify_make_hole(map, &run, force, leave);
	}
	spin_unlock(&map->entry_lock);
	for (i = 0; i < ranges->nr && !busy && !leave; i++) {
		ranges->get(ranges, i, &run, why);
		dm_notify_prune(map, run.virt, run.count);
	}
	mutex_unlock(&map->lock);

	if (!busy)
		return 0;
	*why = "chunk has been written";
	return -EBUSY;
}

/**
 * dm_notify_map_forget() - where chunks were is forgotten: plain holes are left.
 * @map: the map
 * @ranges: which; only those that are leaving change
 */
void dm_notify_map_forget(struct dm_notify_map *map,
			  const struct dm_notify_runs *ranges)
{
	const char *why;
	struct dm_notify_run run;
	unsigned int i;

	mutex_lock(&map->lock);
	for (i = 0; i < ranges->nr; i++) {
		u64 nr = 0, chunk, last;

		ranges->get(ranges, i, &run, &why);
		chunk = run.virt;
		last = run.virt + run.count - 1;
		spin_lock(&map->entry_lock);
		while (dm_notify_entry_next(map, &chunk, last,
					    DM_NOTIFY_LEAVING)) {
			dm_notify_unreport(map, chunk);
			dm_notify_entry_set(map, chunk++, 0);
			dm_notify_breathe(map, nr++);
		}
		spin_unlock(&map->entry_lock);
		dm_notify_prune(map, run.virt, run.count);
	}
	mutex_unlock(&map->lock);
}
