// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": where the map's entries lie in memory.
 *
 * A directory of leaves of 512 entries, both indexed directly: a look-up is
 * two loads, with no lock and no call. An xarray was tried first; its look-up
 * with the RCU calls around it took 1 % of the speed of small random reads.
 * The directory takes 16 bytes per 512 chunks of the volume; a leaf a page, and
 * what it has to tell user space. Leaves that become empty are freed.
 *
 * Memory may be short because what would be written to free it waits for the
 * very chunks that are to be mapped. So each map has a few leaves in hand.
 */
#include "dm-notify.h"

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>

static struct kmem_cache *dm_notify_leaves;

/**
 * dm_notify_leaf_init() - at module load.
 *
 * Return: 0 or -ENOMEM.
 */
int dm_notify_leaf_init(void)
{
	dm_notify_leaves = KMEM_CACHE(dm_notify_leaf, 0);
	return dm_notify_leaves ? 0 : -ENOMEM;
}

/**
 * dm_notify_leaf_exit() - at module unload, all maps are gone.
 */
void dm_notify_leaf_exit(void)
{
	/* Leaves may still wait for their grace period. */
	rcu_barrier();
	kmem_cache_destroy(dm_notify_leaves);
}

static void dm_notify_leaf_free(struct dm_notify_leaf *leaf)
{
	free_page((unsigned long)leaf->entry);
	kmem_cache_free(dm_notify_leaves, leaf);
}

static struct dm_notify_leaf *dm_notify_leaf_alloc(gfp_t gfp)
{
	struct dm_notify_leaf *leaf = kmem_cache_zalloc(dm_notify_leaves, gfp);

	if (!leaf)
		return NULL;
	BUILD_BUG_ON(DM_NOTIFY_LEAF_CHUNKS * sizeof(*leaf->entry) > PAGE_SIZE);
	leaf->entry = (unsigned long *)get_zeroed_page(gfp);
	if (!leaf->entry) {
		kmem_cache_free(dm_notify_leaves, leaf);
		return NULL;
	}
	INIT_LIST_HEAD(&leaf->reports);
	return leaf;
}

/**
 * dm_notify_reserve_fill() - have leaves in hand for when there is no memory.
 * @map: the map
 * @gfp: how to allocate
 *
 * Context: caller holds map->lock, unless the map is a new one.
 * Return: whether there are as many as there should be.
 */
bool dm_notify_reserve_fill(struct dm_notify_map *map, gfp_t gfp)
{
	struct dm_notify_leaf *leaf;

	while (map->nr_reserve < DM_NOTIFY_RESERVE) {
		leaf = dm_notify_leaf_alloc(gfp);
		if (!leaf)
			return false;
		list_add(&leaf->spare, &map->reserve);
		map->nr_reserve++;
	}
	return true;
}

static struct dm_notify_leaf *dm_notify_reserve_take(struct dm_notify_map *map)
{
	struct dm_notify_leaf *leaf;

	lockdep_assert_held(&map->lock);
	leaf = list_first_entry_or_null(&map->reserve, struct dm_notify_leaf,
					spare);
	if (!leaf)
		return NULL;
	list_del(&leaf->spare);
	map->nr_reserve--;
	return leaf;
}

/**
 * dm_notify_reserve_free() - free the leaves that are left.
 * @map: the map, which is not used any more
 */
void dm_notify_reserve_free(struct dm_notify_map *map)
{
	struct dm_notify_leaf *leaf, *next;

	list_for_each_entry_safe(leaf, next, &map->reserve, spare)
		dm_notify_leaf_free(leaf);
}

/**
 * dm_notify_dir_alloc() - an empty directory.
 * @nr_chunks: chunks of the volume
 * @gfp: how to allocate
 *
 * Return: the directory, or NULL.
 */
struct dm_notify_dir *dm_notify_dir_alloc(u64 nr_chunks, gfp_t gfp)
{
	u64 nr = DIV_ROUND_UP_ULL(nr_chunks, DM_NOTIFY_LEAF_CHUNKS);
	struct dm_notify_dir *dir;

	dir = kvzalloc(struct_size(dir, slot, nr), gfp);
	if (dir)
		dir->nr_leaves = nr;
	return dir;
}

/**
 * dm_notify_dir_free() - free a directory and its leaves, out of use.
 * @dir: the directory, or NULL
 */
void dm_notify_dir_free(struct dm_notify_dir *dir)
{
	u64 i;

	if (!dir)
		return;
	for (i = 0; i < dir->nr_leaves; i++)
		if (dir->slot[i].leaf)
			dm_notify_leaf_free(dir->slot[i].leaf);
	kvfree(dir);
}

/**
 * dm_notify_dir_move() - let a larger directory have the leaves.
 * @to: the larger directory, empty
 * @from: the smaller one, which is empty afterwards
 */
void dm_notify_dir_move(struct dm_notify_dir *to, struct dm_notify_dir *from)
{
	memcpy(to->slot, from->slot, from->nr_leaves * sizeof(from->slot[0]));
	from->nr_leaves = 0;
}

/**
 * dm_notify_dir_put() - set an entry that nobody sees yet.
 * @dir: a directory of no map
 * @chunk: a chunk whose entry is 0
 * @entry: its new entry
 * @gfp: how to allocate
 *
 * Return: whether there was memory for its leaf.
 */
bool dm_notify_dir_put(struct dm_notify_dir *dir, u64 chunk,
		       unsigned long entry, gfp_t gfp)
{
	struct dm_notify_slot *slot = &dir->slot[chunk >> DM_NOTIFY_LEAF_SHIFT];

	if (!slot->leaf) {
		slot->leaf = dm_notify_leaf_alloc(gfp);
		if (!slot->leaf)
			return false;
		slot->leaf->first = round_down(chunk, DM_NOTIFY_LEAF_CHUNKS);
	}
	slot->leaf->entry[chunk % DM_NOTIFY_LEAF_CHUNKS] = entry;
	slot->leaf->used++;
	return true;
}

static struct dm_notify_slot *dm_notify_slot(const struct dm_notify_map *map,
					     u64 chunk)
{
	return &map->hot.dir->slot[chunk >> DM_NOTIFY_LEAF_SHIFT];
}

/**
 * dm_notify_leaf_get() - the leaf of a chunk, made if need be.
 * @map: the map
 * @chunk: the chunk
 *
 * Context: caller holds map->lock; may sleep.
 * Return: the leaf, or NULL if there is no memory and no leaf in hand.
 */
struct dm_notify_leaf *dm_notify_leaf_get(struct dm_notify_map *map, u64 chunk)
{
	struct dm_notify_slot *slot = dm_notify_slot(map, chunk);
	struct dm_notify_leaf *leaf = slot->leaf;

	lockdep_assert_held(&map->lock);
	if (leaf)
		return leaf;
	leaf = dm_notify_leaf_alloc(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	if (!leaf)
		leaf = dm_notify_reserve_take(map);
	if (!leaf)
		return NULL;
	leaf->first = round_down(chunk, DM_NOTIFY_LEAF_CHUNKS);
	slot->leaf = leaf;
	/* A reader that sees the page sees its zeroes. */
	rcu_assign_pointer(slot->entry, leaf->entry);
	return leaf;
}

static void dm_notify_leaf_free_rcu(struct rcu_head *rcu)
{
	dm_notify_leaf_free(container_of(rcu, struct dm_notify_leaf, rcu));
}

/**
 * dm_notify_leaf_put() - free a leaf if it is empty.
 * @map: the map
 * @leaf: one of its leaves, or NULL
 *
 * Context: caller holds map->lock.
 */
void dm_notify_leaf_put(struct dm_notify_map *map, struct dm_notify_leaf *leaf)
{
	struct dm_notify_slot *slot;

	lockdep_assert_held(&map->lock);
	if (!leaf || leaf->used)
		return;
	slot = dm_notify_slot(map, leaf->first);
	spin_lock(&map->entry_lock);
	RCU_INIT_POINTER(slot->entry, NULL);
	slot->leaf = NULL;
	list_del_init(&leaf->reports);
	spin_unlock(&map->entry_lock);
	call_rcu(&leaf->rcu, dm_notify_leaf_free_rcu);
}

/* Caller holds map->entry_lock, so that neither changes. */
static struct dm_notify_leaf *dm_notify_leaf_of(const struct dm_notify_map *map,
						u64 chunk)
{
	lockdep_assert_held(&map->entry_lock);
	return dm_notify_slot(map, chunk)->leaf;
}

/* One chunk more, or less, in the counts of its kind. */
static void dm_notify_entry_account(struct dm_notify_map *map,
				    unsigned long entry, int change)
{
	if (entry & DM_NOTIFY_MAPPED) {
		WRITE_ONCE(map->nr_mapped, map->nr_mapped + change);
		map->nr_on_dev[dm_notify_entry_dev(entry)] += change;
	} else if (entry & DM_NOTIFY_LEAVING) {
		map->nr_leaving += change;
	}
}

/**
 * dm_notify_dir_give() - a map gets the leaves of a directory.
 * @map: the map, which has none
 * @dir: a directory that is no larger, without leaves afterwards
 *
 * Context: caller holds map->lock.
 */
void dm_notify_dir_give(struct dm_notify_map *map, struct dm_notify_dir *dir)
{
	u64 i;

	lockdep_assert_held(&map->lock);
	for (i = 0; i < dir->nr_leaves; i++) {
		struct dm_notify_leaf *leaf = dir->slot[i].leaf;
		struct dm_notify_slot *slot = &map->hot.dir->slot[i];
		unsigned int n;

		if (!leaf)
			continue;
		dir->slot[i].leaf = NULL;
		spin_lock(&map->entry_lock);
		for (n = 0; n < DM_NOTIFY_LEAF_CHUNKS; n++)
			dm_notify_entry_account(map, leaf->entry[n], 1);
		slot->leaf = leaf;
		/* A reader that sees the page sees its entries. */
		rcu_assign_pointer(slot->entry, leaf->entry);
		spin_unlock(&map->entry_lock);
		cond_resched();
	}
}

/**
 * dm_notify_entry_set() - change an entry.
 * @map: the map
 * @chunk: a chunk that has a leaf
 * @entry: its new entry
 *
 * What there is to tell of the chunk stays: see dm_notify_unreport().
 *
 * Context: caller holds map->entry_lock.
 */
void dm_notify_entry_set(struct dm_notify_map *map, u64 chunk,
			 unsigned long entry)
{
	struct dm_notify_leaf *leaf = dm_notify_leaf_of(map, chunk);
	unsigned int i = chunk % DM_NOTIFY_LEAF_CHUNKS;

	lockdep_assert_held(&map->entry_lock);
	leaf->used += !!entry - !!leaf->entry[i];
	dm_notify_entry_account(map, leaf->entry[i], -1);
	dm_notify_entry_account(map, entry, 1);
	WRITE_ONCE(leaf->entry[i], entry);
}

/**
 * dm_notify_entry_next() - find a chunk of some kind.
 * @map: the map
 * @chunk: where to begin; set to what is found
 * @last: where to end
 * @kinds: DM_NOTIFY_MAPPED, DM_NOTIFY_LEAVING or both
 *
 * Context: preemption off, RCU read side, or one of the map's locks held.
 * Return: the entry of the first such chunk in [*@chunk, @last], or 0.
 */
unsigned long dm_notify_entry_next(const struct dm_notify_map *map, u64 *chunk,
				   u64 last, unsigned long kinds)
{
	const struct dm_notify_dir *dir = READ_ONCE(map->hot.dir);
	u64 c = *chunk;

	last = min(last, dir->nr_leaves * DM_NOTIFY_LEAF_CHUNKS - 1);
	while (c <= last) {
		const unsigned long *leaf = dm_notify_leaf_at(map, dir, c);
		unsigned long entry;

		if (!leaf) {
			c = round_down(c, DM_NOTIFY_LEAF_CHUNKS) +
			    DM_NOTIFY_LEAF_CHUNKS;
			continue;
		}
		entry = READ_ONCE(leaf[c % DM_NOTIFY_LEAF_CHUNKS]);
		if (entry & kinds) {
			*chunk = c;
			return entry;
		}
		c++;
	}
	return 0;
}

/**
 * dm_notify_report() - user space is to be told of a chunk.
 * @map: the map
 * @chunk: a chunk that has a leaf
 * @discard: it was discarded; else a watched chunk was written
 *
 * Context: caller holds map->entry_lock.
 */
void dm_notify_report(struct dm_notify_map *map, u64 chunk, bool discard)
{
	struct dm_notify_leaf *leaf = dm_notify_leaf_of(map, chunk);

	lockdep_assert_held(&map->entry_lock);
	__set_bit(chunk % DM_NOTIFY_LEAF_CHUNKS,
		  discard ? leaf->discard : leaf->ahead);
	if (list_empty(&leaf->reports))
		list_add_tail(&leaf->reports, &map->reports);
}

/**
 * dm_notify_unreport() - what there was to tell of a chunk is no longer true.
 * @map: the map
 * @chunk: a chunk that has a leaf
 *
 * Context: caller holds map->entry_lock.
 */
void dm_notify_unreport(struct dm_notify_map *map, u64 chunk)
{
	struct dm_notify_leaf *leaf = dm_notify_leaf_of(map, chunk);

	lockdep_assert_held(&map->entry_lock);
	__clear_bit(chunk % DM_NOTIFY_LEAF_CHUNKS, leaf->ahead);
	__clear_bit(chunk % DM_NOTIFY_LEAF_CHUNKS, leaf->discard);
}
