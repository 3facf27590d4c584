// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": snapshots, and writes held for them.
 *
 * Each mapped chunk is of the generation that the volume was in when it was
 * mapped. A snapshot begins the next one and raises the mark: a chunk below it
 * belongs to the snapshot, and is not written any more. No entry changes. The
 * cut is where a bio reads the mark when it is routed: a write that is sent
 * after one that is not in the snapshot has been acknowledged is not in it.
 *
 * Several volumes are cut at one point by raising their marks beyond all
 * generations first: all writes to them are held until they are thawed.
 */
#include "dm-notify.h"

#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/rcupdate.h>

/* Caller holds map->entry_lock. */
static void dm_notify_set_mark(struct dm_notify_map *map)
{
	lockdep_assert_held(&map->entry_lock);
	WRITE_ONCE(map->hot.mark,
		   map->frozen_ns ? DM_NOTIFY_FROZEN : map->floor);
}

/**
 * dm_notify_snapshot() - begin a generation: what is mapped is not written any more.
 * @nt: the target
 * @gen: the generation, or U64_MAX for the next one
 * @why: what is wrong, if anything is
 *
 * A repeated message for the generation that has begun changes nothing. Drain
 * afterwards: what was routed before is in the snapshot.
 *
 * Return: 0, or a negative errno and nothing changed.
 */
int dm_notify_snapshot(struct dm_notify_target *nt, u64 gen, const char **why)
{
	struct dm_notify_map *map = nt->map;
	int r = 0;

	mutex_lock(&map->lock);
	if (gen == U64_MAX)
		gen = map->gen + 1;
	if (gen > DM_NOTIFY_MAX_GEN) {
		*why = "no generation is left";
		r = -EOVERFLOW;
	} else if (gen < map->gen) {
		*why = "that generation is over";
		r = -EINVAL;
	} else if (gen > map->gen) {
		spin_lock(&map->entry_lock);
		WRITE_ONCE(map->gen, gen);
		WRITE_ONCE(map->floor, gen);
		dm_notify_set_mark(map);
		spin_unlock(&map->entry_lock);
	}
	mutex_unlock(&map->lock);
	return r;
}

/**
 * dm_notify_lower_mark() - chunks of snapshots that are gone are the volume's own.
 * @nt: the target
 * @gen: the oldest generation that is written again
 * @why: what is wrong, if anything is
 *
 * Return: 0, or -EINVAL and nothing changed.
 */
int dm_notify_lower_mark(struct dm_notify_target *nt, u64 gen, const char **why)
{
	struct dm_notify_map *map = nt->map;
	int r = 0;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	if (gen > map->floor) {
		*why = "only a snapshot raises the mark";
		r = -EINVAL;
	} else {
		WRITE_ONCE(map->floor, gen);
		dm_notify_set_mark(map);
	}
	spin_unlock(&map->entry_lock);
	mutex_unlock(&map->lock);
	if (!r)
		dm_notify_release(nt, 0, U64_MAX);
	return r;
}

/* ---- when they are used up ---- */

/* How many of the generations that are kept are not above that one. */
static unsigned int dm_notify_rank(const u16 *kept, unsigned int nr,
				   unsigned int gen)
{
	unsigned int rank = 0;

	while (rank < nr && kept[rank] <= gen)
		rank++;
	return rank;
}

/*
 * Until the mark follows, a chunk may seem to be shared that is not: nothing
 * that would change it may look. Caller holds map->lock: the freeze does not end.
 */
static void dm_notify_renumber_chunks(struct dm_notify_map *map,
				      const u16 *kept, unsigned int nr)
{
	unsigned long entry, gen;
	u64 chunk = 0, looked = 0;

	spin_lock(&map->entry_lock);
	while ((entry = dm_notify_entry_next(map, &chunk, U64_MAX,
					     DM_NOTIFY_MAPPED))) {
		gen = dm_notify_rank(kept, nr, dm_notify_entry_gen(entry));
		entry &= ~DM_NOTIFY_GEN_MASK;
		dm_notify_entry_set(map, chunk++,
				    entry | gen << DM_NOTIFY_GEN_SHIFT);
		dm_notify_breathe(map, looked++);
	}
	spin_unlock(&map->entry_lock);
}

static int dm_notify_check_kept(struct dm_notify_map *map, const u16 *kept,
				unsigned int nr, const char **why)
{
	unsigned int i, rank = dm_notify_rank(kept, nr, map->floor);

	for (i = 0; i < nr; i++) {
		if (kept[i] > map->gen || !kept[i] ||
		    (i && kept[i] <= kept[i - 1])) {
			*why = "no generations in the order in which they began";
			return -EINVAL;
		}
	}
	if (map->floor && (!rank || kept[rank - 1] != map->floor)) {
		*why = "the mark is not among them";
		return -EINVAL;
	}
	if (!dm_notify_frozen(map)) {
		*why = "the volume is not frozen";
		return -ETIMEDOUT;
	}
	return 0;
}

/**
 * dm_notify_renumber() - generations get low numbers, and there are others again.
 * @nt: the target
 * @kept: those in which something begins that matters, in ascending order
 * @nr: their number, at most DM_NOTIFY_MAX_GEN
 * @why: what is wrong, if anything is
 *
 * A generation becomes the number of those that are kept and not above it. All
 * writes are held meanwhile, also if the time of the freeze is over before.
 *
 * Return: 0, or a negative errno and nothing changed.
 */
int dm_notify_renumber(struct dm_notify_target *nt, const u16 *kept,
		       unsigned int nr, const char **why)
{
	struct dm_notify_map *map = nt->map;
	int r;

	mutex_lock(&map->lock);
	r = dm_notify_check_kept(map, kept, nr, why);
	if (!r) {
		map->renumbered++;
		dm_notify_renumber_chunks(map, kept, nr);
		/* A bio that has read an older entry compares it with the older mark. */
		synchronize_rcu();
		spin_lock(&map->entry_lock);
		WRITE_ONCE(map->gen, dm_notify_rank(kept, nr, map->gen));
		WRITE_ONCE(map->floor, dm_notify_rank(kept, nr, map->floor));
		dm_notify_set_mark(map);
		spin_unlock(&map->entry_lock);
	}
	mutex_unlock(&map->lock);
	return r;
}

/* ---- freezes ---- */

/**
 * dm_notify_freeze() - hold all writes, for a while.
 * @nt: the target
 * @ms: when it ends by itself, in milliseconds from now on
 *
 * It ends whichever process dies.
 */
void dm_notify_freeze(struct dm_notify_target *nt, unsigned int ms)
{
	struct dm_notify_map *map = nt->map;
	u64 now = ktime_get_ns();

	spin_lock(&map->entry_lock);
	if (!map->frozen_ns)
		map->frozen_ns = now;
	map->thaw_ns = now + (u64)ms * NSEC_PER_MSEC;
	dm_notify_set_mark(map);
	spin_unlock(&map->entry_lock);
	mod_delayed_work(dm_notify_wq, &nt->thaw_work,
			 msecs_to_jiffies(ms) + 1);
}

/*
 * End a freeze, if there is one that is to end before @now. Not while a message
 * changes the map: it may rely on it. Return: whether there was.
 */
static bool dm_notify_thaw_until(struct dm_notify_target *nt, u64 now)
{
	struct dm_notify_map *map = nt->map;
	u64 since = 0;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	if (map->frozen_ns && map->thaw_ns <= now) {
		since = map->frozen_ns;
		map->frozen_ns = 0;
		dm_notify_set_mark(map);
	}
	spin_unlock(&map->entry_lock);
	mutex_unlock(&map->lock);
	if (since)
		dm_notify_release_all(nt, since);
	return since;
}

/**
 * dm_notify_thaw() - let writes go on.
 * @nt: the target
 * @why: what is wrong, if anything is
 *
 * Return: 0, or -ETIMEDOUT if that had happened by itself.
 */
int dm_notify_thaw(struct dm_notify_target *nt, const char **why)
{
	if (dm_notify_thaw_until(nt, U64_MAX))
		return 0;
	*why = "the volume is not frozen any more";
	return -ETIMEDOUT;
}

/* In how many jiffies the freeze ends by itself. */
static unsigned long dm_notify_thaw_delay(struct dm_notify_map *map)
{
	u64 now = ktime_get_ns(), end;

	spin_lock(&map->entry_lock);
	end = map->thaw_ns;
	spin_unlock(&map->entry_lock);
	return end > now ? nsecs_to_jiffies(end - now) + 1 : 0;
}

static void dm_notify_thaw_work(struct work_struct *work)
{
	struct delayed_work *delayed = to_delayed_work(work);
	struct dm_notify_target *nt =
		container_of(delayed, struct dm_notify_target, thaw_work);

	if (dm_notify_thaw_until(nt, ktime_get_ns()))
		DMWARN_LIMIT("%s: frozen for too long: writes go on",
			     dm_table_device_name(nt->ti->table));
	else if (dm_notify_frozen(nt->map))
		dm_notify_thaw_resume(nt);
	else /* The table before this one may have ended it. */
		dm_notify_release_all(nt, 0);
}

/**
 * dm_notify_thaw_init() - the volume is not frozen.
 * @nt: the target
 */
void dm_notify_thaw_init(struct dm_notify_target *nt)
{
	INIT_DELAYED_WORK(&nt->thaw_work, dm_notify_thaw_work);
}

/**
 * dm_notify_thaw_resume() - a volume that is frozen shall not stay so.
 * @nt: the target, live
 */
void dm_notify_thaw_resume(struct dm_notify_target *nt)
{
	if (dm_notify_frozen(nt->map))
		mod_delayed_work(dm_notify_wq, &nt->thaw_work,
				 dm_notify_thaw_delay(nt->map));
}

/**
 * dm_notify_thaw_quiesce() - no work of this part runs afterwards.
 * @nt: the target, without I/O
 *
 * Context: may sleep.
 */
void dm_notify_thaw_quiesce(struct dm_notify_target *nt)
{
	cancel_delayed_work_sync(&nt->thaw_work);
}
