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
#include <linux/slab.h>

static struct kmem_cache *notify_leaves;

/**
 * notify_table_init() - at module load.
 *
 * Return: 0 or -ENOMEM.
 */
int notify_table_init(void)
{
	notify_leaves = KMEM_CACHE(notify_leaf, 0);
	return notify_leaves ? 0 : -ENOMEM;
}

/**
 * notify_table_exit() - at module unload, all maps are gone.
 */
void notify_table_exit(void)
{
	/* Leaves may still wait for their grace period. */
	rcu_barrier();
	kmem_cache_destroy(notify_leaves);
}

static void notify_leaf_free(struct notify_leaf *leaf)
{
	free_page((unsigned long)leaf->entry);
	kmem_cache_free(notify_leaves, leaf);
}

static struct notify_leaf *notify_leaf_alloc(gfp_t gfp)
{
	struct notify_leaf *leaf = kmem_cache_zalloc(notify_leaves, gfp);

	if (!leaf)
		return NULL;
	BUILD_BUG_ON(NOTIFY_LEAF_CHUNKS * sizeof(*leaf->entry) > PAGE_SIZE);
	leaf->entry = (unsigned long *)get_zeroed_page(gfp);
	if (!leaf->entry) {
		kmem_cache_free(notify_leaves, leaf);
		return NULL;
	}
	INIT_LIST_HEAD(&leaf->reports);
	return leaf;
}

/**
 * notify_reserve_fill() - have leaves in hand for when there is no memory.
 * @map: the map
 * @gfp: how to allocate
 *
 * Context: caller holds map->lock, unless nobody else has the map yet.
 * Return: whether there are as many as there should be.
 */
bool notify_reserve_fill(struct notify_map *map, gfp_t gfp)
{
	struct notify_leaf *leaf;

	while (map->nr_reserve < NOTIFY_RESERVE) {
		leaf = notify_leaf_alloc(gfp);
		if (!leaf)
			return false;
		list_add(&leaf->spare, &map->reserve);
		map->nr_reserve++;
	}
	return true;
}

static struct notify_leaf *notify_reserve_take(struct notify_map *map)
{
	struct notify_leaf *leaf =
		list_first_entry_or_null(&map->reserve, struct notify_leaf,
					 spare);

	lockdep_assert_held(&map->lock);
	if (!leaf)
		return NULL;
	list_del(&leaf->spare);
	map->nr_reserve--;
	return leaf;
}

/**
 * notify_reserve_free() - free the leaves that are left.
 * @map: the map, which nobody uses
 */
void notify_reserve_free(struct notify_map *map)
{
	struct notify_leaf *leaf, *next;

	list_for_each_entry_safe(leaf, next, &map->reserve, spare)
		notify_leaf_free(leaf);
}

/**
 * notify_dir_alloc() - an empty directory.
 * @nr_chunks: chunks of the volume
 *
 * Return: the directory, or NULL.
 */
struct notify_dir *notify_dir_alloc(u64 nr_chunks)
{
	u64 nr = DIV_ROUND_UP_ULL(nr_chunks, NOTIFY_LEAF_CHUNKS);
	struct notify_dir *dir;

	dir = kvzalloc(struct_size(dir, slot, nr), GFP_KERNEL);
	if (dir)
		dir->nr_leaves = nr;
	return dir;
}

/**
 * notify_dir_free() - free a directory and its leaves, which nobody uses.
 * @dir: the directory, or NULL
 */
void notify_dir_free(struct notify_dir *dir)
{
	u64 i;

	if (!dir)
		return;
	for (i = 0; i < dir->nr_leaves; i++)
		if (dir->slot[i].leaf)
			notify_leaf_free(dir->slot[i].leaf);
	kvfree(dir);
}

/**
 * notify_dir_move() - let a larger directory have the leaves.
 * @to: the larger directory, empty
 * @from: the smaller one, which is empty afterwards
 */
void notify_dir_move(struct notify_dir *to, struct notify_dir *from)
{
	memcpy(to->slot, from->slot, from->nr_leaves * sizeof(from->slot[0]));
	from->nr_leaves = 0;
}

static struct notify_slot *notify_slot(const struct notify_map *map, u64 chunk)
{
	return &map->dir->slot[chunk >> NOTIFY_LEAF_SHIFT];
}

/**
 * notify_leaf_get() - the leaf of a chunk, made if need be.
 * @map: the map
 * @chunk: the chunk
 *
 * Context: caller holds map->lock; may sleep.
 * Return: the leaf, or NULL if there is no memory and no leaf in hand.
 */
struct notify_leaf *notify_leaf_get(struct notify_map *map, u64 chunk)
{
	struct notify_slot *slot = notify_slot(map, chunk);
	struct notify_leaf *leaf = slot->leaf;

	lockdep_assert_held(&map->lock);
	if (leaf)
		return leaf;
	leaf = notify_leaf_alloc(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	if (!leaf)
		leaf = notify_reserve_take(map);
	if (!leaf)
		return NULL;
	leaf->first = round_down(chunk, NOTIFY_LEAF_CHUNKS);
	slot->leaf = leaf;
	/* A reader that sees the page sees its zeroes. */
	smp_store_release(&slot->entry, leaf->entry);
	return leaf;
}

static void notify_leaf_free_rcu(struct rcu_head *rcu)
{
	notify_leaf_free(container_of(rcu, struct notify_leaf, rcu));
}

/**
 * notify_leaf_put() - free a leaf if it is empty.
 * @map: the map
 * @leaf: one of its leaves, or NULL
 *
 * Context: caller holds map->lock.
 */
void notify_leaf_put(struct notify_map *map, struct notify_leaf *leaf)
{
	struct notify_slot *slot;

	lockdep_assert_held(&map->lock);
	if (!leaf || leaf->used)
		return;
	slot = notify_slot(map, leaf->first);
	spin_lock(&map->entry_lock);
	WRITE_ONCE(slot->entry, NULL);
	slot->leaf = NULL;
	list_del_init(&leaf->reports);
	spin_unlock(&map->entry_lock);
	call_rcu(&leaf->rcu, notify_leaf_free_rcu);
}

/* Caller holds map->entry_lock, so that neither changes. */
static struct notify_leaf *notify_leaf_of(const struct notify_map *map,
					  u64 chunk)
{
	lockdep_assert_held(&map->entry_lock);
	return notify_slot(map, chunk)->leaf;
}

/* One chunk more, or less, in the counts of its kind. */
static void notify_entry_account(struct notify_map *map, unsigned long entry,
				 int change)
{
	if (entry & NOTIFY_MAPPED) {
		WRITE_ONCE(map->nr_mapped, map->nr_mapped + change);
		map->nr_on_dev[notify_entry_dev(entry)] += change;
	} else if (entry & NOTIFY_LEAVING) {
		map->nr_leaving += change;
	}
}

/**
 * notify_entry_set() - change an entry.
 * @map: the map
 * @chunk: a chunk that has a leaf
 * @entry: its new entry
 *
 * What there is to tell of the chunk stays: see notify_unreport().
 *
 * Context: caller holds map->entry_lock.
 */
void notify_entry_set(struct notify_map *map, u64 chunk, unsigned long entry)
{
	struct notify_leaf *leaf = notify_leaf_of(map, chunk);
	unsigned int i = chunk % NOTIFY_LEAF_CHUNKS;

	lockdep_assert_held(&map->entry_lock);
	leaf->used += !!entry - !!leaf->entry[i];
	notify_entry_account(map, leaf->entry[i], -1);
	notify_entry_account(map, entry, 1);
	WRITE_ONCE(leaf->entry[i], entry);
}

/**
 * notify_entry_next() - find a chunk of some kind.
 * @map: the map
 * @chunk: where to begin; set to what is found
 * @last: where to end
 * @kinds: NOTIFY_MAPPED, NOTIFY_LEAVING or both
 *
 * Context: preemption off, RCU read side, or one of the map's locks held.
 * Return: the entry of the first such chunk in [*@chunk, @last], or 0.
 */
unsigned long notify_entry_next(const struct notify_map *map, u64 *chunk,
				u64 last, unsigned long kinds)
{
	const struct notify_dir *dir = READ_ONCE(map->dir);
	u64 c = *chunk;

	last = min(last, dir->nr_leaves * NOTIFY_LEAF_CHUNKS - 1);
	while (c <= last) {
		const unsigned long *leaf =
			READ_ONCE(dir->slot[c >> NOTIFY_LEAF_SHIFT].entry);
		unsigned long entry;

		if (!leaf) {
			c = round_down(c, NOTIFY_LEAF_CHUNKS) +
			    NOTIFY_LEAF_CHUNKS;
			continue;
		}
		entry = READ_ONCE(leaf[c % NOTIFY_LEAF_CHUNKS]);
		if (entry & kinds) {
			*chunk = c;
			return entry;
		}
		c++;
	}
	return 0;
}

/**
 * notify_report() - user space is to be told of a chunk.
 * @map: the map
 * @chunk: a chunk that has a leaf
 * @discard: it was discarded; else a watched chunk was written
 *
 * Context: caller holds map->entry_lock.
 */
void notify_report(struct notify_map *map, u64 chunk, bool discard)
{
	struct notify_leaf *leaf = notify_leaf_of(map, chunk);

	lockdep_assert_held(&map->entry_lock);
	__set_bit(chunk % NOTIFY_LEAF_CHUNKS,
		  discard ? leaf->discard : leaf->ahead);
	if (list_empty(&leaf->reports))
		list_add_tail(&leaf->reports, &map->reports);
}

/**
 * notify_unreport() - what there was to tell of a chunk is no longer true.
 * @map: the map
 * @chunk: a chunk that has a leaf
 *
 * Context: caller holds map->entry_lock.
 */
void notify_unreport(struct notify_map *map, u64 chunk)
{
	struct notify_leaf *leaf = notify_leaf_of(map, chunk);

	lockdep_assert_held(&map->entry_lock);
	__clear_bit(chunk % NOTIFY_LEAF_CHUNKS, leaf->ahead);
	__clear_bit(chunk % NOTIFY_LEAF_CHUNKS, leaf->discard);
}
