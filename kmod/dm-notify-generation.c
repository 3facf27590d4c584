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

/* Caller holds map->entry_lock. */
static void notify_set_mark(struct notify_map *map)
{
	lockdep_assert_held(&map->entry_lock);
	WRITE_ONCE(map->mark, map->frozen_ns ? NOTIFY_FROZEN : map->floor);
}

/**
 * notify_snapshot() - begin a generation: what is mapped is not written any more.
 * @nt: the target
 * @gen: the generation, or U64_MAX for the next one
 * @why: what is wrong, if anything is
 *
 * A repeated message for the generation that has begun changes nothing. Drain
 * afterwards: what was routed before is in the snapshot.
 *
 * Return: 0, or a negative errno and nothing changed.
 */
int notify_snapshot(struct notify_target *nt, u64 gen, const char **why)
{
	struct notify_map *map = nt->map;
	int r = 0;

	mutex_lock(&map->lock);
	if (gen == U64_MAX)
		gen = map->gen + 1;
	if (gen > NOTIFY_MAX_GEN) {
		*why = "no generation is left";
		r = -EOVERFLOW;
	} else if (gen < map->gen) {
		*why = "that generation is over";
		r = -EINVAL;
	} else if (gen > map->gen) {
		spin_lock(&map->entry_lock);
		WRITE_ONCE(map->gen, gen);
		WRITE_ONCE(map->floor, gen);
		notify_set_mark(map);
		spin_unlock(&map->entry_lock);
	}
	mutex_unlock(&map->lock);
	return r;
}

/**
 * notify_lower_mark() - chunks of snapshots that are gone are the volume's own.
 * @nt: the target
 * @gen: the oldest generation that is written again
 * @why: what is wrong, if anything is
 *
 * Return: 0, or -EINVAL and nothing changed.
 */
int notify_lower_mark(struct notify_target *nt, u64 gen, const char **why)
{
	struct notify_map *map = nt->map;
	int r = 0;

	mutex_lock(&map->lock);
	spin_lock(&map->entry_lock);
	if (gen > map->floor) {
		*why = "only a snapshot raises the mark";
		r = -EINVAL;
	} else {
		WRITE_ONCE(map->floor, gen);
		notify_set_mark(map);
	}
	spin_unlock(&map->entry_lock);
	mutex_unlock(&map->lock);
	if (!r)
		notify_release(nt, 0, U64_MAX);
	return r;
}

/**
 * notify_freeze() - hold all writes, for a while.
 * @nt: the target
 * @ms: when it ends by itself, in milliseconds from now on
 *
 * Nobody has to live for it to end.
 */
void notify_freeze(struct notify_target *nt, unsigned int ms)
{
	struct notify_map *map = nt->map;
	u64 now = ktime_get_ns();

	spin_lock(&map->entry_lock);
	if (!map->frozen_ns)
		map->frozen_ns = now;
	map->thaw_ns = now + (u64)ms * NSEC_PER_MSEC;
	notify_set_mark(map);
	spin_unlock(&map->entry_lock);
	mod_delayed_work(notify_wq, &nt->thaw_work, msecs_to_jiffies(ms) + 1);
}

/*
 * End a freeze, if there is one that is to end before @now. Return: whether
 * there was.
 */
static bool notify_thaw_until(struct notify_target *nt, u64 now)
{
	struct notify_map *map = nt->map;
	u64 since = 0;

	spin_lock(&map->entry_lock);
	if (map->frozen_ns && map->thaw_ns <= now) {
		since = map->frozen_ns;
		map->frozen_ns = 0;
		notify_set_mark(map);
	}
	spin_unlock(&map->entry_lock);
	if (since)
		notify_release_all(nt, since);
	return since;
}

/**
 * notify_thaw() - let writes go on.
 * @nt: the target
 * @why: what is wrong, if anything is
 *
 * Return: 0, or -ETIMEDOUT if that had happened by itself.
 */
int notify_thaw(struct notify_target *nt, const char **why)
{
	if (notify_thaw_until(nt, U64_MAX))
		return 0;
	*why = "the volume is not frozen any more";
	return -ETIMEDOUT;
}

/* In how many jiffies the freeze ends by itself. */
static unsigned long notify_thaw_delay(struct notify_map *map)
{
	u64 now = ktime_get_ns(), end;

	spin_lock(&map->entry_lock);
	end = map->thaw_ns;
	spin_unlock(&map->entry_lock);
	return end > now ? nsecs_to_jiffies(end - now) + 1 : 0;
}

static void notify_thaw_work(struct work_struct *work)
{
	struct notify_target *nt = container_of(to_delayed_work(work),
						struct notify_target,
						thaw_work);

	if (notify_thaw_until(nt, ktime_get_ns()))
		DMWARN_LIMIT("%s: nobody thawed it in time",
			     dm_table_device_name(nt->ti->table));
	else if (notify_frozen(nt->map))
		notify_thaw_resume(nt);
	else	/* The table before this one may have ended it. */
		notify_release_all(nt, 0);
}

/**
 * notify_thaw_init() - the volume is not frozen.
 * @nt: the target
 */
void notify_thaw_init(struct notify_target *nt)
{
	INIT_DELAYED_WORK(&nt->thaw_work, notify_thaw_work);
}

/**
 * notify_thaw_resume() - a volume that is frozen shall not stay so.
 * @nt: the target, live
 */
void notify_thaw_resume(struct notify_target *nt)
{
	if (notify_frozen(nt->map))
		mod_delayed_work(notify_wq, &nt->thaw_work,
				 notify_thaw_delay(nt->map));
}

/**
 * notify_thaw_quiesce() - no work of this part runs afterwards.
 * @nt: the target, without I/O
 *
 * Context: may sleep.
 */
void notify_thaw_quiesce(struct notify_target *nt)
{
	cancel_delayed_work_sync(&nt->thaw_work);
}
