// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": which tables have which map.
 *
 * A map belongs to a place (mapped device, first sector), not to a table. The
 * targets of all tables for that place share it, from their construction to
 * their end: the live one, one that is loaded, and one that was swapped in and
 * could not be resumed. So neither a reload (resize, another notifier, more
 * devices) nor a refused one can lose it. The last target that leaves
 * frees it, or the last one that inherits from it then.
 *
 * Whether a table fits the map is looked at when it is loaded, so that most
 * mistakes are told then. It is decided when the table is resumed: until then
 * the table before it changes the map.
 */
#include "dm-notify.h"

#include <linux/mm.h>
#include <linux/slab.h>

/* Guards dm_notify_maps and dm_notify_map.users; no memory is allocated under it. */
static DEFINE_MUTEX(dm_notify_maps_lock);
static LIST_HEAD(dm_notify_maps);

static void dm_notify_map_free(struct dm_notify_map *map)
{
	dm_notify_dir_free(map->hot.dir);
	dm_notify_reserve_free(map);
	kvfree(map->ages);
	free_percpu(map->hot.cpu);
	kfree(map);
}

static struct dm_notify_map *dm_notify_map_alloc(struct dm_notify_target *nt)
{
	struct dm_notify_map *map = kzalloc(sizeof(*map), GFP_KERNEL);

	if (!map)
		return NULL;
	INIT_LIST_HEAD(&map->reserve);
	map->hot.cpu = alloc_percpu(struct dm_notify_cpu);
	if (!map->hot.cpu || !dm_notify_reserve_fill(map, GFP_KERNEL)) {
		dm_notify_map_free(map);
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

/* Caller holds dm_notify_maps_lock. Return: the map of a place. */
static struct dm_notify_map *dm_notify_map_find(struct mapped_device *md,
						sector_t begin)
{
	struct dm_notify_map *map;

	lockdep_assert_held(&dm_notify_maps_lock);
	list_for_each_entry(map, &dm_notify_maps, list)
		if (map->md == md && map->begin == begin)
			return map;
	return NULL;
}

/* Give the target the map of its place: the one that is there, or @fresh. */
static void dm_notify_map_get(struct dm_notify_target *nt,
			      struct dm_notify_map *fresh)
{
	struct dm_notify_map *map;

	mutex_lock(&dm_notify_maps_lock);
	map = dm_notify_map_find(dm_table_get_md(nt->ti->table), nt->ti->begin);
	if (!map) {
		map = fresh;
		fresh = NULL;
		list_add(&map->list, &dm_notify_maps);
	}
	map->users++;
	mutex_unlock(&dm_notify_maps_lock);
	nt->map = map;
	if (fresh)
		dm_notify_map_free(fresh);
}

static void dm_notify_map_put(struct dm_notify_map *map)
{
	bool last;

	mutex_lock(&dm_notify_maps_lock);
	/* A later table of the place gets another one, also while this is read. */
	if (!--map->users)
		list_del(&map->list);
	last = !map->users && !map->borrowers;
	mutex_unlock(&dm_notify_maps_lock);
	if (last)
		dm_notify_map_free(map);
}

/**
 * dm_notify_map_borrow() - the map of another volume, which is not freed meanwhile.
 * @md: its mapped device, which stays
 * @begin: where its target starts
 *
 * Return: the map, or NULL.
 */
struct dm_notify_map *dm_notify_map_borrow(struct mapped_device *md,
					   sector_t begin)
{
	struct dm_notify_map *map;

	mutex_lock(&dm_notify_maps_lock);
	map = dm_notify_map_find(md, begin);
	if (map)
		map->borrowers++;
	mutex_unlock(&dm_notify_maps_lock);
	return map;
}

/**
 * dm_notify_map_return() - it is not read any longer.
 * @map: the map
 */
void dm_notify_map_return(struct dm_notify_map *map)
{
	bool last;

	mutex_lock(&dm_notify_maps_lock);
	last = !--map->borrowers && !map->users;
	mutex_unlock(&dm_notify_maps_lock);
	if (last)
		dm_notify_map_free(map);
}

/**
 * dm_notify_map_misfit() - can a target take a map over?
 * @map: the map
 * @nt: the target
 *
 * Context: caller holds map->lock. If the map is live, what a guest changes
 * meanwhile may be missed: only where no I/O is it is decided.
 * Return: NULL if each mapped chunk keeps its place, else what is wrong.
 */
static char *dm_notify_map_misfit(const struct dm_notify_map *map,
				  const struct dm_notify_target *nt)
{
	unsigned long kinds = DM_NOTIFY_MAPPED | DM_NOTIFY_LEAVING;
	u64 beyond = nt->nr_chunks;
	unsigned int i;

	lockdep_assert_held(&map->lock);
	if (!map->nr_mapped && !map->nr_leaving)
		return NULL;
	if (map->chunk_shift != nt->chunk_shift)
		return "Chunk size differs from the live map's";
	if (dm_notify_entry_next(map, &beyond, U64_MAX, kinds))
		return "A mapped chunk lies beyond the new end";
	for (i = 0; i < DM_NOTIFY_MAX_DEVS; i++) {
		if (!map->nr_on_dev[i])
			continue;
		if (i >= nt->nr_devs ||
		    nt->devs[i]->bdev->bd_dev != map->devt[i])
			return "A device with mapped chunks is not at its place";
	}
	return NULL;
}

/**
 * dm_notify_map_attach() - find or make the map of a new table's target.
 * @nt: the target, its arguments parsed
 *
 * Context: may sleep, and may do I/O; no lock is held meanwhile that a resume
 * needs, of this device or another.
 * Return: 0, or a negative errno with ti->error set.
 */
int dm_notify_map_attach(struct dm_notify_target *nt)
{
	struct dm_notify_map *fresh;
	char *misfit;

	/* At resume nothing may fail for lack of memory. */
	fresh = dm_notify_map_alloc(nt);
	nt->spare_dir = fresh ? dm_notify_dir_alloc(nt->nr_chunks, GFP_KERNEL) :
				NULL;
	if (!nt->spare_dir) {
		if (fresh)
			dm_notify_map_free(fresh);
		nt->ti->error = "Cannot allocate the map";
		return -ENOMEM;
	}
	dm_notify_map_get(nt, fresh);

	mutex_lock(&nt->map->lock);
	misfit = dm_notify_map_misfit(nt->map, nt);
	mutex_unlock(&nt->map->lock);
	if (!misfit)
		return 0;
	dm_notify_map_detach(nt);
	nt->ti->error = misfit;
	return -EINVAL;
}

/**
 * dm_notify_map_detach() - the target goes away.
 * @nt: the target
 */
void dm_notify_map_detach(struct dm_notify_target *nt)
{
	dm_notify_map_put(nt->map);
	dm_notify_dir_free(nt->spare_dir);
}

/*
 * Have the map be one of the target's: its chunk size, its length, its devices.
 * That may be repeated: another target of its table may have been refused.
 * Caller holds map->lock. Return: a directory to free.
 */
static struct dm_notify_dir *
dm_notify_map_take_over(struct dm_notify_map *map, struct dm_notify_target *nt)
{
	struct dm_notify_dir *spare = nt->spare_dir, *old = map->hot.dir;
	unsigned int i;

	lockdep_assert_held(&map->lock);
	nt->spare_dir = NULL;
	for (i = 0; i < nt->nr_devs; i++)
		map->devt[i] = nt->devs[i]->bdev->bd_dev;
	if (!spare)
		return NULL;
	/* Then it is of other chunks that ages are known. */
	if (map->ages && map->chunk_shift != nt->chunk_shift)
		map->ages->nr = 0;
	if (old && map->chunk_shift == nt->chunk_shift) {
		if (old->nr_leaves >= spare->nr_leaves)
			return spare;
		dm_notify_dir_move(spare, old);
	}
	/* With another chunk size the map is empty, and has no leaf. */
	map->chunk_shift = nt->chunk_shift;
	WRITE_ONCE(map->hot.dir, spare);
	return old;
}

/**
 * dm_notify_map_go_live() - a target is about to get I/O.
 * @nt: the target; its device is suspended
 *
 * The map is in use only where another table is loaded: there is no I/O, the
 * table before takes no messages any more and this one takes none before
 * dm_notify_map_serve().
 *
 * Return: 0, or -EINVAL if the map does not fit this target. The device stays
 * suspended then, and the map is there for a table that fits.
 */
int dm_notify_map_go_live(struct dm_notify_target *nt)
{
	struct dm_notify_map *map = nt->map;
	struct dm_notify_dir *unused = NULL;
	char *misfit;

	if (nt->live)
		return 0;
	mutex_lock(&map->lock);
	misfit = dm_notify_map_misfit(map, nt);
	if (!misfit)
		unused = dm_notify_map_take_over(map, nt);
	mutex_unlock(&map->lock);
	dm_notify_dir_free(unused);
	if (misfit) {
		DMERR("%s: cannot resume: %s",
		      dm_table_device_name(nt->ti->table), misfit);
		return -EINVAL;
	}
	return 0;
}

/**
 * dm_notify_map_serve() - a target takes messages from now on.
 * @nt: the target; no other of its table was refused
 */
void dm_notify_map_serve(struct dm_notify_target *nt)
{
	/* A message that sees the target live sees the map as it is now. */
	smp_store_release(&nt->live, true);
}
