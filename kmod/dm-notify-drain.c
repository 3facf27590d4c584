// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": waiting for the I/O that used an older map.
 *
 * A physical chunk that is unmapped, or was copied, may be given to another
 * volume only when nothing is on its way to it any more. Suspending the device
 * would do, and would stop everybody; this does not.
 */
#include "dm-notify.h"

static long notify_inflight_sum(struct notify_map *map, unsigned int epoch)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(map->inflight, cpu)->nr[epoch]);
	return sum;
}

/*
 * map->draining names the epoch, and a grace period has passed since. A CPU
 * that read it before has taken its bio out of the count; one that reads it
 * later wakes the drain.
 */
static int notify_wait_epoch(struct notify_map *map, unsigned int epoch)
{
	return wait_event_killable(map->drain_wait,
				   !notify_inflight_sum(map, epoch)) ?
		-EINTR : 0;
}

/* What an earlier drain, which was killed, left in the half that is next. */
static int notify_drain_leftovers(struct notify_map *map, unsigned int next)
{
	if (!notify_inflight_sum(map, next))
		return 0;
	WRITE_ONCE(map->draining, next + 1);
	synchronize_rcu();
	return notify_wait_epoch(map, next);
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
 * counted in an old epoch, and is counted before synchronize_rcu() returns,
 * which waits for code that runs with preemption off.
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
	old = map->epoch;
	r = notify_drain_leftovers(map, !old);
	if (!r) {
		WRITE_ONCE(map->draining, old + 1);
		/* Pairs with ->map: a new epoch there means new entries. */
		smp_store_release(&map->epoch, !old);
		synchronize_rcu();
		r = notify_wait_epoch(map, old);
	}
	WRITE_ONCE(map->draining, 0);
	mutex_unlock(&map->drain_lock);
	return r;
}

/**
 * notify_map_drain_wake() - a bio completed that a drain waits for.
 * @map: the map
 *
 * Context: any.
 */
void notify_map_drain_wake(struct notify_map *map)
{
	wake_up(&map->drain_wait);
}
