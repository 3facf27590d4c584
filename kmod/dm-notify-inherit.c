// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": a map that begins as what another one has.
 *
 * What a snapshot or a clone shows is in the map of the volume that it was taken
 * from. With a million runs that is much to tell, and a moment to copy. User
 * space tells the rest: see dm-notify.rst.
 *
 * The copy is made where nobody sees it, a leaf at a time, under the lock of the
 * other map. That of the volume's own map is taken afterwards: two of them are
 * never held at once, whichever of two volumes inherits from the other.
 */
#include "dm-notify.h"

#include <linux/gfp.h>
#include <linux/sched.h>

/* The sender may serve the very device that memory would be written to. */
#define DM_NOTIFY_INHERIT_GFP (GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN)

/* Is there a place for the chunk of another map? Caller holds its lock. */
static int dm_notify_check_heir(const struct dm_notify_target *nt,
				const struct dm_notify_map *from, u64 chunk,
				unsigned long entry, const char **why)
{
	unsigned int dev = dm_notify_entry_dev(entry);

	if (chunk >= nt->nr_chunks) {
		*why = "it has chunks beyond the end of the volume";
		return -EINVAL;
	}
	if (dev >= nt->nr_devs ||
	    nt->devs[dev]->bdev->bd_dev != from->devt[dev]) {
		*why = "it has chunks on a device that is not at its place here";
		return -EINVAL;
	}
	return 0;
}

/* Copy the chunks of a leaf that are not younger. Caller holds from->lock. */
static int dm_notify_copy_leaf(const struct dm_notify_target *nt,
			       const struct dm_notify_map *from, u64 chunk,
			       unsigned int gen, struct dm_notify_dir *to,
			       const char **why)
{
	u64 last = chunk + DM_NOTIFY_LEAF_CHUNKS - 1;
	unsigned long entry;
	int r;

	for (; (entry = dm_notify_entry_next(from, &chunk, last,
					     DM_NOTIFY_MAPPED));
	     chunk++) {
		if (dm_notify_entry_gen(entry) > gen)
			continue;
		r = dm_notify_check_heir(nt, from, chunk, entry, why);
		if (r)
			return r;
		/* What is known of a chunk is known of the other volume's. */
		entry &= ~DM_NOTIFY_FLAGS;
		if (!dm_notify_dir_put(to, chunk, entry, DM_NOTIFY_INHERIT_GFP)) {
			*why = "out of memory";
			return -ENOMEM;
		}
	}
	return 0;
}

/* What is being copied, and how far it is. */
struct dm_notify_copy {
	struct dm_notify_map *from;
	struct dm_notify_dir *to;
	unsigned int gen;
	u64 chunk; /* U64_MAX after the last one */
	u64 renumbered;
};

/* Is the other map as it was at the first leaf? Caller holds its lock. */
static int dm_notify_check_from(const struct dm_notify_target *nt,
				struct dm_notify_copy *copy, const char **why)
{
	const struct dm_notify_map *from = copy->from;

	if (!from->hot.dir) {
		*why = "it has not been resumed";
		return -ENODEV;
	}
	if (from->chunk_shift != nt->chunk_shift) {
		*why = "it has chunks of another size";
		return -EINVAL;
	}
	if (!copy->chunk)
		copy->renumbered = from->renumbered;
	if (copy->renumbered != from->renumbered) {
		*why = "its generations were renumbered meanwhile";
		return -EAGAIN;
	}
	return 0;
}

static int dm_notify_copy_next(const struct dm_notify_target *nt,
			       struct dm_notify_copy *copy, const char **why)
{
	struct dm_notify_map *from = copy->from;
	int r;

	mutex_lock(&from->lock);
	r = dm_notify_check_from(nt, copy, why);
	if (!r && copy->chunk >= from->hot.dir->nr_leaves * DM_NOTIFY_LEAF_CHUNKS)
		copy->chunk = U64_MAX;
	else if (!r)
		r = dm_notify_copy_leaf(nt, from, copy->chunk, copy->gen,
					copy->to, why);
	mutex_unlock(&from->lock);
	return r;
}

static int dm_notify_copy_map(const struct dm_notify_target *nt,
			      struct dm_notify_copy *copy, const char **why)
{
	int r = 0;

	while (!r) {
		r = dm_notify_copy_next(nt, copy, why);
		if (copy->chunk == U64_MAX)
			break;
		copy->chunk += DM_NOTIFY_LEAF_CHUNKS;
		cond_resched();
	}
	return r;
}

/* Can the volume inherit chunks up to that generation? Caller holds map->lock. */
static int dm_notify_check_empty(const struct dm_notify_map *map,
				 unsigned int gen, const char **why)
{
	lockdep_assert_held(&map->lock);
	if (gen > map->gen) {
		*why = "no such generation yet";
		return -EINVAL;
	}
	if (map->nr_mapped || map->nr_leaving) {
		*why = "the volume has chunks";
		return -EEXIST;
	}
	return 0;
}

/* Check that, and have a copy be the volume's map, unless it is NULL. */
static int dm_notify_take_copy(struct dm_notify_map *map, unsigned int gen,
			       struct dm_notify_dir *copy, const char **why)
{
	int r;

	mutex_lock(&map->lock);
	r = dm_notify_check_empty(map, gen, why);
	if (!r && copy)
		dm_notify_dir_give(map, copy);
	mutex_unlock(&map->lock);
	return r;
}

static int dm_notify_inherit_from(struct dm_notify_target *nt,
				  struct dm_notify_map *from, unsigned int gen,
				  const char **why)
{
	struct dm_notify_copy copy = { .from = from, .gen = gen };
	int r;

	if (from == nt->map) {
		*why = "that is the volume itself";
		return -EINVAL;
	}
	r = dm_notify_take_copy(nt->map, gen, NULL, why);
	if (r)
		return r;
	copy.to = dm_notify_dir_alloc(nt->nr_chunks, GFP_NOIO | __GFP_NOWARN);
	if (!copy.to) {
		*why = "out of memory";
		return -ENOMEM;
	}
	r = dm_notify_copy_map(nt, &copy, why);
	if (!r)
		r = dm_notify_take_copy(nt->map, gen, copy.to, why);
	dm_notify_dir_free(copy.to);
	return r;
}

/**
 * dm_notify_map_inherit() - a volume without chunks shows those of another one.
 * @nt: the target
 * @minor: minor of the other volume's mapped device
 * @gen: the youngest generation whose chunks are copied
 * @why: what is wrong, if anything is
 *
 * What changes in the other map meanwhile is copied as it was or as it is.
 * Held writes are not yet released: the caller does that.
 *
 * Context: may sleep.
 * Return: 0, or a negative errno and nothing changed.
 */
int dm_notify_map_inherit(struct dm_notify_target *nt, unsigned int minor,
			  unsigned int gen, const char **why)
{
	struct mapped_device *md;
	struct dm_notify_map *from;
	int r = -ENODEV;

	*why = "no such volume";
	/* While it is held no other device can get its address, and so its map. */
	md = dm_get_md(MKDEV(MAJOR(dm_notify_devt(nt)), minor));
	if (!md)
		return r;
	from = dm_notify_map_borrow(md, nt->ti->begin);
	if (from) {
		r = dm_notify_inherit_from(nt, from, gen, why);
		dm_notify_map_return(from);
	}
	dm_put(md);
	return r;
}
