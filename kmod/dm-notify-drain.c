// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": waiting for the I/O that used an older map.
 *
 * A physical chunk that is unmapped, or was copied, may be given to another
 * volume only when nothing is on its way to it any more. Suspending the device
 * would do, and would stop all I/O; this does not.
 */
#include "dm-notify.h"

static long dm_notify_inflight_sum(struct dm_notify_map *map,
				   unsigned int epoch)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu) {
		struct dm_notify_cpu *own = per_cpu_ptr(map->hot.cpu, cpu);

		sum += READ_ONCE(own->inflight[epoch]);
	}
	return sum;
}

/*
 * map->hot.draining names the epoch, and a grace period has passed since. A CPU
 * that read it before has taken its bio out of the count; one that reads it
 * later wakes the drain.
 */
static int dm_notify_wait_epoch(struct dm_notify_map *map, unsigned int epoch)
{
	return wait_event_killable(map->drain_wait,
				   !dm_notify_inflight_sum(map, epoch)) ?
		       -EINTR :
		       0;
}

/* What an earlier drain, which was killed, left in the half that is next. */
static int dm_notify_drain_leftovers(struct dm_notify_map *map,
				     unsigned int next)
{
	if (!dm_notify_inflight_sum(map, next))
		return 0;
	WRITE_ONCE(map->hot.draining, next + 1);
	synchronize_rcu();
	return dm_notify_wait_epoch(map, next);
}

/**
 * dm_notify_map_drain() - wait for the I/O that may have used an older map.
 * @map: the map, already changed
 *
 * ->map counts each bio that it passes down in the half of the counter that
 * map->hot.epoch names, and ->end_io takes it out again. A drain turns new I/O to
 * the other half and waits until the first one is empty; a steady stream of
 * new I/O thus cannot hold it up. ->map reads the epoch before the entry,
 * this function turns it after the change: a bio that saw an old entry is
 * counted in an old epoch, and is counted before synchronize_rcu() returns,
 * which waits for code that runs with preemption off.
 *
 * Context: may sleep, for as long as the data devices take.
 * Return: 0, or -EINTR if the caller was killed.
 */
int dm_notify_map_drain(struct dm_notify_map *map)
{
	unsigned int old;
	int r;

	if (mutex_lock_killable(&map->drain_lock))
		return -EINTR;
	old = map->hot.epoch;
	r = dm_notify_drain_leftovers(map, !old);
	if (!r) {
		WRITE_ONCE(map->hot.draining, old + 1);
		/* Pairs with ->map: a new epoch there means new entries. */
		smp_store_release(&map->hot.epoch, !old);
		synchronize_rcu();
		r = dm_notify_wait_epoch(map, old);
	}
	WRITE_ONCE(map->hot.draining, 0);
	mutex_unlock(&map->drain_lock);
	return r;
}

/**
 * dm_notify_map_drain_wake() - a bio completed that a drain waits for.
 * @map: the map
 *
 * Context: any.
 */
void dm_notify_map_drain_wake(struct dm_notify_map *map)
{
	wake_up(&map->drain_wait);
}
