// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": chunks that stay mapped.
 *
 * User space protects them, watches whether they are written, and moves them
 * to where it has copied them. A guest writes and discards them.
 */
#include "dm-notify.h"

/* ---- other places ---- */

/* What a chunk that moves becomes. */
static unsigned long notify_moved(const struct notify_map *map,
				  const struct notify_run *run, u64 i,
				  unsigned long old)
{
	unsigned long entry = notify_run_entry(run, i);

	if (run->how & NOTIFY_RUN_KEEP)
		return (entry & ~NOTIFY_GEN_MASK) |
		       (old & (NOTIFY_GEN_MASK | NOTIFY_PROTECTED |
			       NOTIFY_UNWRITTEN));
	return entry | (old & NOTIFY_UNWRITTEN);
}

/*
 * A chunk may move if nobody has written to it since it was copied, or is
 * there already. Caller holds nt->lock and map->entry_lock.
 */
static int notify_check_move(struct notify_target *nt,
			     const struct notify_run *run, u64 i,
			     const char **why)
{
	struct notify_map *map = nt->map;
	unsigned long old = notify_entry(map, run->virt + i);

	if (!(old & NOTIFY_MAPPED)) {
		*why = "chunk is not mapped";
		return -ENXIO;
	}
	if (notify_same_place(old, notify_run_entry(run, i)))
		return 0;
	if (!(old & (NOTIFY_PROTECTED | NOTIFY_UNCHANGED)) &&
	    !notify_shared(map, old)) {
		*why = "chunk is not protected, or was written";
		return -EBUSY;
	}
	if ((run->how & NOTIFY_RUN_OVERWRITE) &&
	    !notify_hold_take_whole(nt, run->virt + i, false)) {
		*why = "no write of the whole chunk waits";
		return -ENODATA;
	}
	return 0;
}

/* Caller holds nt->lock and map->entry_lock; the run has been checked. */
static void notify_commit_move(struct notify_target *nt,
			       const struct notify_run *run)
{
	struct notify_map *map = nt->map;
	u64 i;

	for (i = 0; i < run->count; i++) {
		u64 chunk = run->virt + i;
		unsigned long old = notify_entry(map, chunk);

		if (notify_same_place(old, notify_run_entry(run, i)))
			continue;
		notify_entry_set(map, chunk, notify_moved(map, run, i, old));
		/* From here on it does not time out: the copy was not made. */
		if (run->how & NOTIFY_RUN_OVERWRITE)
			notify_hold_take_whole(nt, chunk, true);
	}
}

/* Caller holds map->lock. */
static int notify_get_move(struct notify_target *nt,
			   const struct notify_runs *runs, unsigned int i,
			   struct notify_run *run, const char **why)
{
	int r = runs->get(runs, i, run, why);

	if (!r && !(run->how & NOTIFY_RUN_GEN))
		run->gen = nt->map->gen;
	return r;
}

/* Are the places there, and not too many? */
static int notify_check_moves(struct notify_target *nt,
			      const struct notify_runs *runs, const char **why)
{
	struct notify_run run;
	u64 chunks = 0;
	unsigned int i;
	int r = 0;

	for (i = 0; i < runs->nr && !r; i++) {
		r = notify_get_move(nt, runs, i, &run, why);
		if (!r)
			r = notify_check_run(nt, &run, why);
		chunks += run.count;
		if (!r && chunks > NOTIFY_MAX_AT_ONCE) {
			*why = "too many chunks at once";
			r = -EINVAL;
		}
	}
	return r;
}

/**
 * notify_map_move() - chunks have been copied and live elsewhere now.
 * @nt: the target
 * @runs: the new places
 * @why: what is wrong, if anything is
 *
 * Return: 0, or a negative errno and nothing changed.
 */
int notify_map_move(struct notify_target *nt, const struct notify_runs *runs,
		    const char **why)
{
	struct notify_map *map = nt->map;
	struct notify_run run;
	unsigned int i;
	u64 c;
	int r;

	mutex_lock(&map->lock);
	r = notify_check_moves(nt, runs, why);
	spin_lock(&nt->lock);
	spin_lock(&map->entry_lock);
	for (i = 0; i < runs->nr && !r; i++) {
		notify_get_move(nt, runs, i, &run, why);
		for (c = 0; c < run.count && !r; c++)
			r = notify_check_move(nt, &run, c, why);
	}
	for (i = 0; i < runs->nr && !r; i++) {
		notify_get_move(nt, runs, i, &run, why);
		notify_commit_move(nt, &run);
	}
	spin_unlock(&map->entry_lock);
	spin_unlock(&nt->lock);
	mutex_unlock(&map->lock);
	notify_submit_ready(nt);
	return r;
}

/* ---- protection, watching ---- */

/**
 * notify_map_flag() - say something of mapped chunks, or no longer.
 * @map: the map
 * @ranges: which; holes among them stay holes
 * @flag: NOTIFY_PROTECTED or NOTIFY_UNCHANGED
 * @on: whether it is so
 *
 * A chunk that is watched or discarded stays so.
 */
void notify_map_flag(struct notify_map *map, const struct notify_runs *ranges,
		     unsigned long flag, bool on)
{
	struct notify_run run;
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
		while ((entry = notify_entry_next(map, &chunk, last,
						  NOTIFY_MAPPED))) {
			entry = on ? entry | flag : entry & ~flag;
			notify_entry_set(map, chunk++, entry);
			notify_breathe(map, nr++);
		}
		spin_unlock(&map->entry_lock);
	}
	mutex_unlock(&map->lock);
}

/* ---- what the guest did ---- */

/**
 * notify_map_written() - a bio is about to change a chunk that has a flag.
 * @map: the map
 * @chunk: the chunk
 * @discard: it is a discard
 *
 * From here on a chunk that is written holds data and is only unmapped by
 * force, and one that was copied meanwhile does not move.
 *
 * Return: whether user space is to be told.
 */
bool notify_map_written(struct notify_map *map, u64 chunk, bool discard)
{
	unsigned long flags = NOTIFY_UNCHANGED, entry;
	bool tell = false;

	if (!discard)
		flags |= NOTIFY_UNWRITTEN;
	spin_lock(&map->entry_lock);
	entry = notify_entry(map, chunk);
	if ((entry & NOTIFY_MAPPED) && (entry & flags) &&
	    !(entry & NOTIFY_PROTECTED) && !notify_shared(map, entry)) {
		notify_entry_set(map, chunk, entry & ~flags);
		if (!discard)
			notify_unreport(map, chunk);
		tell = (entry & flags) & NOTIFY_WATCHED;
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
		if (entry & (NOTIFY_UNWRITTEN | NOTIFY_PROTECTED))
			continue;
		notify_entry_set(map, chunk, entry | NOTIFY_DISCARDED);
		notify_report(map, chunk, true);
		tell = true;
	}
	spin_unlock(&map->entry_lock);
	return tell;
}

/**
 * notify_map_give_up() - a discard covers a whole chunk of a snapshot.
 * @map: the map
 * @chunk: the chunk
 *
 * The snapshot keeps it, and the volume gets a hole. It is a leaving one: user
 * space does not know yet that the chunk is not the volume's any more.
 *
 * Return: whether it was done; else the chunk has changed: look it up again.
 */
bool notify_map_give_up(struct notify_map *map, u64 chunk)
{
	unsigned long entry;
	bool done;

	spin_lock(&map->entry_lock);
	entry = notify_entry(map, chunk);
	done = notify_shared(map, entry) && !(entry & NOTIFY_PROTECTED) &&
	       !map->frozen_ns;
	if (done) {
		notify_unreport(map, chunk);
		notify_entry_set(map, chunk, NOTIFY_LEAVING);
		notify_report(map, chunk, true);
	}
	spin_unlock(&map->entry_lock);
	return done;
}
