// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": who has which map.
 *
 * A map belongs to a place (mapped device, first sector), not to a table: the
 * target of a new table shares the map of the live one, so that a reload
 * (resize, another notifier, more devices) neither copies nor loses it. The
 * last target that leaves frees it.
 */
#include "dm-notify.h"

#include <linux/mm.h>
#include <linux/slab.h>

static DEFINE_MUTEX(notify_maps_lock);
static LIST_HEAD(notify_maps);

static void notify_map_free(struct notify_map *map)
{
	notify_dir_free(map->dir);
	free_percpu(map->inflight);
	kfree(map);
}

/* The map gets the target's directory. Caller holds notify_maps_lock. */
static struct notify_map *notify_map_create(struct notify_target *nt)
{
	struct notify_map *map = kzalloc(sizeof(*map), GFP_KERNEL);

	lockdep_assert_held(&notify_maps_lock);
	if (!map)
		return NULL;
	map->inflight = alloc_percpu(struct notify_inflight);
	if (!map->inflight) {
		kfree(map);
		return NULL;
	}
	map->dir = nt->spare_dir;
	nt->spare_dir = NULL;
	map->users = 1;
	map->md = dm_table_get_md(nt->ti->table);
	map->begin = nt->ti->begin;
	map->chunk_shift = nt->chunk_shift;
	mutex_init(&map->lock);
	mutex_init(&map->drain_lock);
	spin_lock_init(&map->entry_lock);
	INIT_LIST_HEAD(&map->reports);
	init_waitqueue_head(&map->drain_wait);
	list_add(&map->list, &notify_maps);
	return map;
}

/* Caller holds notify_maps_lock. */
static void notify_map_put(struct notify_map *map)
{
	lockdep_assert_held(&notify_maps_lock);
	if (--map->users)
		return;
	list_del(&map->list);
	notify_map_free(map);
}

/* Caller holds notify_maps_lock. The map that I/O used last comes first. */
static struct notify_map *notify_map_find_live(const struct notify_target *nt)
{
	struct mapped_device *md = dm_table_get_md(nt->ti->table);
	struct notify_map *map;

	lockdep_assert_held(&notify_maps_lock);
	list_for_each_entry(map, &notify_maps, list)
		if (map->live && map->md == md && map->begin == nt->ti->begin)
			return map;
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
	u64 beyond = nt->nr_chunks;
	unsigned int i;

	lockdep_assert_held(&map->lock);
	if (!map->nr_mapped)
		return NULL;
	if (map->chunk_shift != nt->chunk_shift)
		return "Chunk size differs from the live map's";
	if (notify_entry_next(map, &beyond, U64_MAX))
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

/*
 * The volume may be larger than it was: give the map a directory that covers
 * it. Caller holds map->lock. Return: the directory to free, if any.
 */
static struct notify_dir *notify_map_grow(struct notify_map *map,
					  struct notify_target *nt)
{
	struct notify_dir *old = map->dir;

	lockdep_assert_held(&map->lock);
	if (!nt->spare_dir || nt->spare_dir->nr_leaves <= old->nr_leaves)
		return NULL;
	spin_lock(&map->entry_lock);
	/* Who sees the new directory sees the leaves in it. */
	smp_store_release(&map->dir, notify_dir_copy(nt->spare_dir, old));
	spin_unlock(&map->entry_lock);
	nt->spare_dir = NULL;
	return old;
}

/* Free a directory, without its leaves, that lookers-up may still have. */
static void notify_dir_retire(struct notify_dir *dir)
{
	if (!dir)
		return;
	synchronize_rcu();
	kvfree(dir);
}

/**
 * notify_map_attach() - find or make the map of a new table's target.
 * @nt: the target, its arguments parsed
 *
 * A live map that would not fit is refused here, when the table is loaded:
 * at resume it is too late, since device-mapper then drops the old table.
 *
 * Return: 0, or a negative errno with ti->error set.
 */
int notify_map_attach(struct notify_target *nt)
{
	struct notify_dir *old = NULL;
	struct notify_map *map;
	char *misfit = NULL;
	bool share = false;
	int r = 0;

	/* Needed if the map is new, or grows; at resume nothing may fail. */
	nt->spare_dir = notify_dir_alloc(nt->nr_chunks);
	if (!nt->spare_dir) {
		nt->ti->error = "Cannot allocate the map";
		return -ENOMEM;
	}

	mutex_lock(&notify_maps_lock);
	map = notify_map_find_live(nt);
	if (map) {
		mutex_lock(&map->lock);
		misfit = notify_map_misfit(map, nt);
		share = !misfit && map->chunk_shift == nt->chunk_shift;
		if (share)
			old = notify_map_grow(map, nt);
		mutex_unlock(&map->lock);
	}
	if (misfit) {
		nt->ti->error = misfit;
		r = -EINVAL;
	} else if (share) {
		map->users++;
		nt->map = map;
	} else {
		nt->map = notify_map_create(nt);
		if (!nt->map) {
			nt->ti->error = "Cannot allocate the map";
			r = -ENOMEM;
		}
	}
	mutex_unlock(&notify_maps_lock);
	notify_dir_retire(old);
	if (r)
		notify_dir_free(nt->spare_dir);
	return r;
}

/**
 * notify_map_detach() - the target goes away.
 * @nt: the target
 */
void notify_map_detach(struct notify_target *nt)
{
	mutex_lock(&notify_maps_lock);
	notify_map_put(nt->map);
	if (nt->unused_map)
		notify_map_put(nt->unused_map);
	mutex_unlock(&notify_maps_lock);
	notify_dir_free(nt->spare_dir);
}

/*
 * The live map is not the one that was found when the table was loaded: the
 * table before this one was resumed, or its map grew, in between.
 * Caller holds notify_maps_lock.
 */
static char *notify_map_adopt(struct notify_target *nt,
			      struct notify_map *live, struct notify_dir **old)
{
	char *misfit;

	mutex_lock(&live->lock);
	misfit = notify_map_misfit(live, nt);
	if (!misfit && live->nr_mapped) {
		*old = notify_map_grow(live, nt);
		live->users++;
		/* Messages may be looking at it: it goes with the target. */
		nt->unused_map = nt->map;
		nt->map = live;
	}
	mutex_unlock(&live->lock);
	return misfit;
}

/**
 * notify_map_go_live() - a target is about to get I/O.
 * @nt: the target; the table that it replaces is still there, and suspended
 *
 * Return: 0, or -EINVAL if the live map does not fit this target. The device
 * stays suspended then and the map is kept for a table that fits.
 */
int notify_map_go_live(struct notify_target *nt)
{
	struct notify_dir *old = NULL;
	struct notify_map *map;
	char *misfit = NULL;
	unsigned int i;

	mutex_lock(&notify_maps_lock);
	map = notify_map_find_live(nt);
	if (map && map != nt->map)
		misfit = notify_map_adopt(nt, map, &old);

	map = nt->map;
	mutex_lock(&map->lock);
	if (!misfit)
		misfit = notify_map_misfit(map, nt);
	if (!misfit) {
		for (i = 0; i < nt->nr_devs; i++)
			map->devt[i] = nt->devs[i]->bdev->bd_dev;
		map->live = true;
		list_move(&map->list, &notify_maps);
	}
	mutex_unlock(&map->lock);
	mutex_unlock(&notify_maps_lock);
	notify_dir_retire(old);

	if (!misfit)
		return 0;
	DMERR("%s: cannot resume: %s", dm_table_device_name(nt->ti->table),
	      misfit);
	return -EINVAL;
}
