// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": chunks that stay mapped.
 *
 * User space protects them, watches whether they are written, and moves them
 * to where it has copied them. A guest writes and discards them.
 */
#include "dm_notify_trace.h"
#include "dm-notify.h"

/* ---- other places ---- */

/* What a chunk that moves becomes. */
static unsigned long dm_notify_moved(const struct dm_notify_map *map,
				     const struct dm_notify_run *run, u64 i,
				     unsigned long old)
{
	unsigned long entry = dm_notify_run_entry(run, i);

	if (run->how & DM_NOTIFY_RUN_KEEP)
		return (entry & ~DM_NOTIFY_GEN_MASK) |
		       (old & (DM_NOTIFY_GEN_MASK | DM_NOTIFY_PROTECTED |
			       DM_NOTIFY_UNWRITTEN));
	return entry | (old & DM_NOTIFY_UNWRITTEN);
}

/*
 * A chunk may move if it was not written since it was copied, or is
 * there already. Caller holds nt->lock and map->entry_lock.
 */
static int dm_notify_check_move(struct dm_notify_target *nt,
				const struct dm_notify_run *run, u64 i,
				const char **why)
{
	struct dm_notify_map *map = nt->map;
	unsigned long old = dm_notify_entry(map, run->virt + i);

	if (old & DM_NOTIFY_RESERVED) {
		*why = "chunk named twice";
		return -EINVAL;
	}
	if (!(old & DM_NOTIFY_MAPPED)) {
		*why = "chunk is not mapped";
		return -ENXIO;
	}
	if (dm_notify_same_place(old, dm_notify_run_entry(run, i)))
		return 0;
	if (!(old & (DM_NOTIFY_PROTECTED | DM_NOTIFY_UNCHANGED)) &&
	    !dm_notify_shared(map, old)) {
		*why = "chunk is not protected, or was written";
		return -EBUSY;
	}
	if ((run->how & DM_NOTIFY_RUN_OVERWRITE) &&
	    !dm_notify_hold_take_whole(nt, run->virt + i, false)) {
		*why = "no write of the whole chunk waits";
		return -ENODATA;
	}
	return 0;
}

/*
 * Check a run, and reserve its chunks, so that none is named twice. Caller holds
 * nt->lock and map->entry_lock.
 */
static int dm_notify_reserve_move(struct dm_notify_target *nt,
				  const struct dm_notify_run *run,
				  const char **why)
{
	u64 i;
	int r = 0;

	for (i = 0; i < run->count && !r; i++) {
		u64 chunk = run->virt + i;

		r = dm_notify_check_move(nt, run, i, why);
		if (!r)
			dm_notify_entry_set(nt->map, chunk,
					    dm_notify_entry(nt->map, chunk) |
						    DM_NOTIFY_RESERVED);
	}
	return r;
}

/* Caller holds map->entry_lock. */
static void dm_notify_unreserve_move(struct dm_notify_map *map,
				     const struct dm_notify_run *run)
{
	u64 i;

	for (i = 0; i < run->count; i++)
		dm_notify_unreserve_one(map, run->virt + i);
}

/* Caller holds nt->lock and map->entry_lock; the run has been reserved. */
static void dm_notify_commit_move(struct dm_notify_target *nt,
				  const struct dm_notify_run *run)
{
	struct dm_notify_map *map = nt->map;
	u64 i;

	for (i = 0; i < run->count; i++) {
		u64 chunk = run->virt + i;
		unsigned long old;

		dm_notify_unreserve_one(map, chunk);
		old = dm_notify_entry(map, chunk);
		if (dm_notify_same_place(old, dm_notify_run_entry(run, i)))
			continue;
		dm_notify_entry_set(map, chunk,
				    dm_notify_moved(map, run, i, old));
		WRITE_ONCE(map->copies, map->copies + 1);
		/* It is on its way before it can time out: the copy was not made. */
		if (run->how & DM_NOTIFY_RUN_OVERWRITE)
			dm_notify_hold_take_whole(nt, chunk, true);
	}
}

/**
 * dm_notify_map_move() - chunks have been copied and live elsewhere now.
 * @nt: the target
 * @runs: the new places
 * @why: what is wrong, if anything is
 *
 * Return: 0, or a negative errno and nothing changed.
 */
int dm_notify_map_move(struct dm_notify_target *nt,
		       const struct dm_notify_runs *runs, const char **why)
{
	struct dm_notify_map *map = nt->map;
	struct dm_notify_run run;
	unsigned int i, reserved;
	int r;

	mutex_lock(&map->lock);
	r = dm_notify_check_runs(nt, runs, DM_NOTIFY_MAX_AT_ONCE, why);
	spin_lock(&nt->lock);
	spin_lock(&map->entry_lock);
	for (reserved = 0; reserved < runs->nr && !r; reserved++) {
		dm_notify_get_run(map, runs, reserved, &run, why);
		r = dm_notify_reserve_move(nt, &run, why);
	}
	while (r && reserved) {
		dm_notify_get_run(map, runs, --reserved, &run, why);
		dm_notify_unreserve_move(map, &run);
	}
	for (i = 0; i < runs->nr && !r; i++) {
		dm_notify_get_run(map, runs, i, &run, why);
		dm_notify_commit_move(nt, &run);
		trace_dm_notify_mapped(nt, &run, true);
	}
	spin_unlock(&map->entry_lock);
	spin_unlock(&nt->lock);
	mutex_unlock(&map->lock);
	dm_notify_submit_ready(nt);
	return r;
}

/* ---- protection, watching ---- */

/**
 * dm_notify_map_flag() - say something of mapped chunks, or no longer.
 * @map: the map
 * @ranges: which; holes among them stay holes
 * @flag: DM_NOTIFY_PROTECTED or DM_NOTIFY_UNCHANGED
 * @on: whether it is so
 *
 * A chunk that is watched or discarded stays so.
 */
void dm_notify_map_flag(struct dm_notify_map *map,
			const struct dm_notify_runs *ranges, unsigned long flag,
			bool on)
{
	struct dm_notify_run run;
	const char *why;
	unsigned int i;

	mutex_lock(&map->lock);
	for (i = 0; i < ranges->nr; i++) {
		u64 nr = 0, chunk, last;
		unsigned long entry;

		ranges->get(ranges, i, &run, &why);
		chunk = run.virt;
		last = run.virt + run.count - 1;
		spin_lock(&map->entry_lock);
		while ((entry = dm_notify_entry_next(map, &chunk, last,
						     DM_NOTIFY_MAPPED))) {
			entry = on ? entry | flag : entry & ~flag;
			dm_notify_entry_set(map, chunk++, entry);
			dm_notify_breathe(map, nr++);
		}
		spin_unlock(&map->entry_lock);
	}
	mutex_unlock(&map->lock);
}

/* ---- what the guest did ---- */

/**
 * dm_notify_map_written() - a bio is about to change a chunk that has a flag.
 * @map: the map
 * @chunk: the chunk
 * @discard: it is a discard
 *
 * From here on a chunk that is written holds data and is only unmapped by
 * force, and one that was copied meanwhile does not move.
 *
 * Return: whether user space is to be told.
 */
bool dm_notify_map_written(struct dm_notify_map *map, u64 chunk, bool discard)
{
	unsigned long flags = DM_NOTIFY_UNCHANGED, entry;
	bool tell = false;

	if (!discard)
		flags |= DM_NOTIFY_UNWRITTEN;
	spin_lock(&map->entry_lock);
	entry = dm_notify_entry(map, chunk);
	if ((entry & DM_NOTIFY_MAPPED) && (entry & flags) &&
	    !(entry & DM_NOTIFY_PROTECTED) && !dm_notify_shared(map, entry)) {
		dm_notify_entry_set(map, chunk, entry & ~flags);
		if (!discard)
			dm_notify_unreport(map, chunk);
		tell = (entry & flags) & DM_NOTIFY_WATCHED;
	}
	if (tell) {
		dm_notify_report(map, chunk, false);
		dm_notify_count(map, DM_NOTIFY_AHEAD_TOTAL);
	}
	spin_unlock(&map->entry_lock);
	return tell;
}

/**
 * dm_notify_map_discarded() - a discard covers whole chunks.
 * @map: the map
 * @chunk: the first of them
 * @count: their number
 *
 * Return: whether user space is to be told.
 */
bool dm_notify_map_discarded(struct dm_notify_map *map, u64 chunk, u64 count)
{
	u64 last = chunk + count - 1;
	unsigned long entry;
	bool tell = false;

	spin_lock(&map->entry_lock);
	for (; (entry = dm_notify_entry_next(map, &chunk, last,
					     DM_NOTIFY_MAPPED));
	     chunk++) {
		if (entry & (DM_NOTIFY_UNWRITTEN | DM_NOTIFY_PROTECTED))
			continue;
		dm_notify_entry_set(map, chunk, entry | DM_NOTIFY_DISCARDED);
		dm_notify_report(map, chunk, true);
		tell = true;
	}
	spin_unlock(&map->entry_lock);
	return tell;
}

/**
 * dm_notify_map_give_up() - a discard covers a whole chunk of a snapshot.
 * @map: the map
 * @chunk: the chunk
 *
 * The snapshot keeps it, and the volume gets a hole. It is a leaving one: user
 * space does not know yet that the chunk is not the volume's any more.
 *
 * Return: whether it was done; else the chunk has changed: look it up again.
 */
bool dm_notify_map_give_up(struct dm_notify_map *map, u64 chunk)
{
	unsigned long entry;
	bool done;

	spin_lock(&map->entry_lock);
	entry = dm_notify_entry(map, chunk);
	done = dm_notify_shared(map, entry) && !(entry & DM_NOTIFY_PROTECTED) &&
	       !map->frozen_ns;
	if (done) {
		dm_notify_unreport(map, chunk);
		dm_notify_entry_set(map, chunk, DM_NOTIFY_LEAVING);
		dm_notify_report(map, chunk, true);
	}
	spin_unlock(&map->entry_lock);
	return done;
}
