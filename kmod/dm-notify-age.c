// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": since when chunks are waited for, across a
 * suspend.
 *
 * A noflush suspend gives held writes back to device-mapper, and they come back
 * as new ones. What is kept here meanwhile is since when each chunk is waited
 * for, so that the hold timeout does not begin anew. All of it is guarded by
 * the lock of the target that is live.
 */
#include "dm-notify.h"

#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

/*
 * Device-mapper sends what it took back as soon as it has resumed the device.
 * Some of it may not need a chunk any more, and then nothing is to be known of
 * how long it waited: a later write would have too little time.
 */
#define DM_NOTIFY_COME_BACK_NS (2 * NSEC_PER_SEC)

/**
 * dm_notify_ages_alloc() - room for as many chunks.
 * @nr: their number
 *
 * Context: may sleep, does no I/O.
 * Return: the room, or NULL: then writes begin to wait anew.
 */
struct dm_notify_ages *dm_notify_ages_alloc(unsigned long nr)
{
	unsigned int noio = memalloc_noio_save();
	struct dm_notify_ages *ages;

	ages = kvmalloc(struct_size(ages, age, nr),
			GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
	memalloc_noio_restore(noio);
	if (ages) {
		ages->room = nr;
		ages->nr = 0;
		ages->until_ns = U64_MAX;
	}
	return ages;
}

/**
 * dm_notify_ages_add() - remember a chunk.
 * @ages: where, or NULL; what is there already is of chunks before this one
 * @chunk: the chunk
 * @since_ns: since when it is waited for
 */
void dm_notify_ages_add(struct dm_notify_ages *ages, u64 chunk, u64 since_ns)
{
	if (ages && ages->nr < ages->room)
		ages->age[ages->nr++] =
			(struct dm_notify_age){ chunk, since_ns };
}

/* The place of the first chunk at or after @chunk. */
static unsigned long dm_notify_ages_find(const struct dm_notify_ages *ages,
					 u64 chunk)
{
	unsigned long low = 0, high = ages->nr;

	while (low < high) {
		unsigned long mid = low + (high - low) / 2;

		if (ages->age[mid].chunk < chunk)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/**
 * dm_notify_ages_since() - since when is a chunk waited for?
 * @ages: what is remembered, or NULL
 * @chunk: the chunk
 *
 * Return: the time, or 0 if it was not waited for before the suspend, or what
 * waited must have come back by now.
 */
u64 dm_notify_ages_since(const struct dm_notify_ages *ages, u64 chunk)
{
	unsigned long i;

	if (!ages || ktime_get_ns() > ages->until_ns)
		return 0;
	i = dm_notify_ages_find(ages, chunk);
	return i < ages->nr && ages->age[i].chunk == chunk ?
		       ages->age[i].since_ns :
		       0;
}

/**
 * dm_notify_ages_clear() - the wait for some chunks is over.
 * @ages: what is remembered, or NULL
 * @chunk: the first chunk
 * @count: their number
 */
void dm_notify_ages_clear(struct dm_notify_ages *ages, u64 chunk, u64 count)
{
	unsigned long i;

	if (!ages)
		return;
	for (i = dm_notify_ages_find(ages, chunk);
	     i < ages->nr && ages->age[i].chunk - chunk < count; i++)
		ages->age[i].since_ns = 0;
}

/**
 * dm_notify_since_thawed() - a freeze is no part of a wait for space.
 * @since_ns: since when a write waits
 * @frozen_ns: when the freeze began that has ended
 * @now: when it ended
 *
 * Return: since when it seems to wait, or 0 if it has not yet waited at all.
 */
u64 dm_notify_since_thawed(u64 since_ns, u64 frozen_ns, u64 now)
{
	if (!since_ns || since_ns >= frozen_ns)
		return 0;
	return since_ns + (now - frozen_ns);
}

/**
 * dm_notify_ages_thaw() - a freeze has ended.
 * @ages: what is remembered, or NULL
 * @frozen_ns: when it began
 * @now: when it ended
 */
void dm_notify_ages_thaw(struct dm_notify_ages *ages, u64 frozen_ns, u64 now)
{
	unsigned long i;

	for (i = 0; ages && i < ages->nr; i++)
		ages->age[i].since_ns =
			dm_notify_since_thawed(ages->age[i].since_ns,
					       frozen_ns, now);
}

/**
 * dm_notify_ages_resume() - what was given back comes back now.
 * @ages: what is remembered, or NULL
 */
void dm_notify_ages_resume(struct dm_notify_ages *ages)
{
	if (!ages)
		return;
	if (ages->until_ns == U64_MAX)
		ages->until_ns = ktime_get_ns() + DM_NOTIFY_COME_BACK_NS;
	else /* A suspend since then had nothing to give back. */
		ages->nr = 0;
}
