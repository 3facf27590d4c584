// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": where the map's entries lie in memory.
 *
 * A directory of leaves of 512 entries, both indexed directly: a look-up is
 * two loads, with no lock and no call. An xarray was tried first; its look-up
 * with the RCU calls around it took 1 % of the speed of small random reads.
 * The directory takes 8 bytes per 512 chunks of the volume, a leaf 4 KiB and
 * what it has to tell user space. Leaves that become empty are freed.
 */
#include "dm-notify.h"

#include <linux/bitmap.h>
#include <linux/bitops.h>
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

	dir = kvzalloc(struct_size(dir, leaf, nr), GFP_KERNEL);
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
		if (dir->leaf[i])
			kmem_cache_free(notify_leaves, dir->leaf[i]);
	kvfree(dir);
}

/**
 * notify_dir_move() - let a larger directory have the leaves.
 * @to: the larger directory, empty
 * @from: the smaller one, which is empty afterwards
 */
void notify_dir_move(struct notify_dir *to, struct notify_dir *from)
{
	memcpy(to->leaf, from->leaf, from->nr_leaves * sizeof(from->leaf[0]));
	from->nr_leaves = 0;
}

/**
 * notify_leaf_get() - the leaf of a chunk, made if need be.
 * @map: the map
 * @chunk: the chunk
 *
 * Context: caller holds map->lock; may sleep.
 * Return: the leaf, or NULL if there is no memory.
 */
struct notify_leaf *notify_leaf_get(struct notify_map *map, u64 chunk)
{
	struct notify_leaf **slot =
		&map->dir->leaf[chunk >> NOTIFY_LEAF_SHIFT];
	struct notify_leaf *leaf = *slot;

	lockdep_assert_held(&map->lock);
	if (leaf)
		return leaf;
	leaf = kmem_cache_zalloc(notify_leaves, GFP_KERNEL);
	if (!leaf)
		return NULL;
	leaf->first = round_down(chunk, NOTIFY_LEAF_CHUNKS);
	INIT_LIST_HEAD(&leaf->reports);
	/* A reader that sees the leaf sees its zeroes. */
	smp_store_release(slot, leaf);
	return leaf;
}

static void notify_leaf_free(struct rcu_head *rcu)
{
	kmem_cache_free(notify_leaves,
			container_of(rcu, struct notify_leaf, rcu));
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
	lockdep_assert_held(&map->lock);
	if (!leaf || leaf->used)
		return;
	spin_lock(&map->entry_lock);
	WRITE_ONCE(map->dir->leaf[leaf->first >> NOTIFY_LEAF_SHIFT], NULL);
	list_del_init(&leaf->reports);
	spin_unlock(&map->entry_lock);
	call_rcu(&leaf->rcu, notify_leaf_free);
}

/* Caller holds map->entry_lock, so that neither changes. */
static struct notify_leaf *notify_leaf_of(const struct notify_map *map,
					  u64 chunk)
{
	lockdep_assert_held(&map->entry_lock);
	return map->dir->leaf[chunk >> NOTIFY_LEAF_SHIFT];
}

/**
 * notify_entry_set() - change an entry.
 * @map: the map
 * @chunk: a chunk that has a leaf
 * @entry: its new entry
 *
 * Context: caller holds map->entry_lock.
 */
void notify_entry_set(struct notify_map *map, u64 chunk, unsigned long entry)
{
	struct notify_leaf *leaf = notify_leaf_of(map, chunk);
	unsigned int i = chunk % NOTIFY_LEAF_CHUNKS;

	lockdep_assert_held(&map->entry_lock);
	leaf->used += !!entry - !!leaf->entry[i];
	WRITE_ONCE(leaf->entry[i], entry);
	if (!(entry & NOTIFY_MAPPED))
		notify_unreport(map, chunk);
}

/**
 * notify_entry_next() - find a mapped chunk.
 * @map: the map
 * @chunk: where to begin; set to what is found
 * @last: where to end
 *
 * Context: preemption off, RCU read side, or one of the map's locks held.
 * Return: the entry of the first mapped chunk in [*@chunk, @last], or 0.
 */
unsigned long notify_entry_next(const struct notify_map *map, u64 *chunk,
				u64 last)
{
	const struct notify_dir *dir = READ_ONCE(map->dir);
	u64 c = *chunk;

	last = min(last, dir->nr_leaves * NOTIFY_LEAF_CHUNKS - 1);
	while (c <= last) {
		const struct notify_leaf *leaf =
			READ_ONCE(dir->leaf[c >> NOTIFY_LEAF_SHIFT]);
		unsigned long entry;

		if (!leaf) {
			c = round_down(c, NOTIFY_LEAF_CHUNKS) +
			    NOTIFY_LEAF_CHUNKS;
			continue;
		}
		entry = READ_ONCE(leaf->entry[c % NOTIFY_LEAF_CHUNKS]);
		if (entry & NOTIFY_MAPPED) {
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
 * @chunk: a mapped chunk
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
