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
 * counted in an old epoch, and is counted before synchronize_rcu() returns,
 * which waits for code that runs with preemption off.
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
		/* Pairs with ->map: a new epoch there means new entries. */
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
