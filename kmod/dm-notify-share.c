// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": who has which map.
 *
 * A map belongs to a place (mapped device, first sector), not to a table. The
 * targets of all tables for that place share it, from their construction to
 * their end: the live one, one that is loaded, and one that was swapped in and
 * could not be resumed. So neither a reload (resize, another notifier, more
 * devices) nor a refused one can lose it. The last target that leaves frees it.
 *
 * Whether a table fits the map is looked at when it is loaded, so that most
 * mistakes are told then. It is decided when the table is resumed: until then
 * the table before it changes the map.
 */
#include "dm-notify.h"

#include <linux/mm.h>
#include <linux/slab.h>

/* Guards notify_maps and notify_map.users; no memory is allocated under it. */
static DEFINE_MUTEX(notify_maps_lock);
static LIST_HEAD(notify_maps);

static void notify_map_free(struct notify_map *map)
{
	notify_dir_free(map->dir);
	notify_reserve_free(map);
	kvfree(map->ages);
	free_percpu(map->inflight);
	kfree(map);
}

static struct notify_map *notify_map_alloc(struct notify_target *nt)
{
	struct notify_map *map = kzalloc(sizeof(*map), GFP_KERNEL);

	if (!map)
		return NULL;
	INIT_LIST_HEAD(&map->reserve);
	map->inflight = alloc_percpu(struct notify_inflight);
	if (!map->inflight || !notify_reserve_fill(map, GFP_KERNEL)) {
		notify_map_free(map);
		return NULL;
	}
	map->md = dm_table_get_md(nt->ti->table);
	map->begin = nt->ti->begin;
	mutex_init(&map->lock);
	mutex_init(&map->drain_lock);
	spin_lock_init(&map->entry_lock);
	INIT_LIST_HEAD(&map->reports);
	init_waitqueue_head(&map->drain_wait);
	return map;
}

/* Caller holds notify_maps_lock. Return: the map of the target's place. */
static struct notify_map *notify_map_find(const struct notify_target *nt)
{
	struct mapped_device *md = dm_table_get_md(nt->ti->table);
	struct notify_map *map;

	lockdep_assert_held(&notify_maps_lock);
	list_for_each_entry(map, &notify_maps, list)
		if (map->md == md && map->begin == nt->ti->begin)
			return map;
	return NULL;
}

/* Give the target the map of its place: the one that is there, or @fresh. */
static void notify_map_get(struct notify_target *nt, struct notify_map *fresh)
{
	struct notify_map *map;

	mutex_lock(&notify_maps_lock);
	map = notify_map_find(nt);
	if (!map) {
		map = fresh;
		fresh = NULL;
		list_add(&map->list, &notify_maps);
	}
	map->users++;
	mutex_unlock(&notify_maps_lock);
	nt->map = map;
	if (fresh)
		notify_map_free(fresh);
}

static void notify_map_put(struct notify_map *map)
{
	bool last;

	mutex_lock(&notify_maps_lock);
	last = !--map->users;
	if (last)
		list_del(&map->list);
	mutex_unlock(&notify_maps_lock);
	if (last)
		notify_map_free(map);
}

/* As notify_map_misfit(); caller holds map->entry_lock, too. */
static char *notify_map_misfit_locked(const struct notify_map *map,
				      const struct notify_target *nt)
{
	unsigned long kinds = NOTIFY_MAPPED | NOTIFY_LEAVING;
	u64 beyond = nt->nr_chunks;
	unsigned int i;

	lockdep_assert_held(&map->entry_lock);
	if (!map->nr_mapped && !map->nr_leaving)
		return NULL;
	if (map->chunk_shift != nt->chunk_shift)
		return "Chunk size differs from the live map's";
	if (notify_entry_next(map, &beyond, U64_MAX, kinds))
		return "A mapped chunk lies beyond the new end";
	for (i = 0; i < NOTIFY_MAX_DEVS; i++) {
		if (!map->nr_on_dev[i])
			continue;
		if (i >= nt->nr_devs ||
		    nt->devs[i]->bdev->bd_dev != map->devt[i])
			return "A device with mapped chunks is not at its place";
	}
	return NULL;
}

/**
 * notify_map_misfit() - can a target take a map over?
 * @map: the map
 * @nt: the target
 *
 * Context: caller holds map->lock.
 * Return: NULL if each mapped chunk keeps its place, else what is wrong.
 */
static char *notify_map_misfit(struct notify_map *map,
			       const struct notify_target *nt)
{
	char *misfit;

	lockdep_assert_held(&map->lock);
	spin_lock(&map->entry_lock);
	misfit = notify_map_misfit_locked(map, nt);
	spin_unlock(&map->entry_lock);
	return misfit;
}

/**
 * notify_map_attach() - find or make the map of a new table's target.
 * @nt: the target, its arguments parsed
 *
 * Context: may sleep, and may do I/O; no lock is held meanwhile that a resume
 * needs, of this device or another.
 * Return: 0, or a negative errno with ti->error set.
 */
int notify_map_attach(struct notify_target *nt)
{
	struct notify_map *fresh;
	char *misfit;

	/* At resume nothing may fail for lack of memory. */
	fresh = notify_map_alloc(nt);
	nt->spare_dir = fresh ? notify_dir_alloc(nt->nr_chunks) : NULL;
	if (!nt->spare_dir) {
		if (fresh)
			notify_map_free(fresh);
		nt->ti->error = "Cannot allocate the map";
		return -ENOMEM;
	}
	notify_map_get(nt, fresh);

	mutex_lock(&nt->map->lock);
	misfit = notify_map_misfit(nt->map, nt);
	mutex_unlock(&nt->map->lock);
	if (!misfit)
		return 0;
	notify_map_detach(nt);
	nt->ti->error = misfit;
	return -EINVAL;
}

/**
 * notify_map_detach() - the target goes away.
 * @nt: the target
 */
void notify_map_detach(struct notify_target *nt)
{
	notify_map_put(nt->map);
	notify_dir_free(nt->spare_dir);
}

/*
 * Have the map be one of the target's: its chunk size, its length, its devices.
 * Caller holds map->lock. Return: a directory to free.
 */
static struct notify_dir *notify_map_take_over(struct notify_map *map,
					       struct notify_target *nt)
{
	struct notify_dir *spare = nt->spare_dir, *old = map->dir;
	unsigned int i;

	lockdep_assert_held(&map->lock);
	nt->spare_dir = NULL;
	for (i = 0; i < nt->nr_devs; i++)
		map->devt[i] = nt->devs[i]->bdev->bd_dev;
	if (old && map->chunk_shift == nt->chunk_shift) {
		if (old->nr_leaves >= spare->nr_leaves)
			return spare;
		notify_dir_move(spare, old);
	}
	/* With another chunk size the map is empty, and has no leaf. */
	map->chunk_shift = nt->chunk_shift;
	WRITE_ONCE(map->dir, spare);
	return old;
}

/**
 * notify_map_go_live() - a target is about to get I/O.
 * @nt: the target; its device is suspended
 *
 * Nobody uses the map now but for who loads a table: there is no I/O, the
 * table before takes no messages any more and this one takes none yet.
 *
 * Return: 0, or -EINVAL if the map does not fit this target. The device stays
 * suspended then, and the map is there for a table that fits.
 */
int notify_map_go_live(struct notify_target *nt)
{
	struct notify_map *map = nt->map;
	struct notify_dir *unused = NULL;
	char *misfit;

	if (nt->live)
		return 0;
	mutex_lock(&map->lock);
	misfit = notify_map_misfit(map, nt);
	if (!misfit)
		unused = notify_map_take_over(map, nt);
	mutex_unlock(&map->lock);
	notify_dir_free(unused);
	if (misfit) {
		DMERR("%s: cannot resume: %s",
		      dm_table_device_name(nt->ti->table), misfit);
		return -EINVAL;
	}
	/* A message that sees the target live sees the map as it is now. */
	smp_store_release(&nt->live, true);
	return 0;
}
