// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the writes that wait, in their orders.
 *
 * A tree by chunk, a list by age, and of each chunk the oldest write in a list of
 * what "pending" has to name. All callers hold the target's lock.
 */
#include "dm-notify.h"

static struct dm_notify_io *dm_notify_node_io(struct rb_node *node)
{
	return rb_entry_safe(node, struct dm_notify_io, node);
}

static bool dm_notify_node_wants(struct rb_node *node, u64 chunk)
{
	return node && dm_notify_node_io(node)->chunk == chunk;
}

/**
 * dm_notify_held_is_first() - is this the oldest write that waits for its chunk?
 * @io: the write
 *
 * Return: whether it is.
 */
bool dm_notify_held_is_first(struct dm_notify_io *io)
{
	return !dm_notify_node_wants(rb_prev(&io->node), io->chunk);
}

/**
 * dm_notify_held_next() - the next younger write that waits for the same chunk.
 * @io: a write
 *
 * Return: the write, or NULL.
 */
struct dm_notify_io *dm_notify_held_next(struct dm_notify_io *io)
{
	struct rb_node *next = rb_next(&io->node);

	return dm_notify_node_wants(next, io->chunk) ? dm_notify_node_io(next) :
						       NULL;
}

/**
 * dm_notify_held_is_alone() - does no other write wait for its chunk?
 * @io: the write
 *
 * Return: whether none does.
 */
bool dm_notify_held_is_alone(struct dm_notify_io *io)
{
	return dm_notify_held_is_first(io) && !dm_notify_held_next(io);
}

/* Nearly always at the end: a write that waits once more may be older. */
static void dm_notify_held_insert_age(struct dm_notify_target *nt,
				      struct dm_notify_io *io)
{
	struct dm_notify_io *older;

	list_for_each_entry_reverse(older, &nt->ages, age)
		if (older->since_ns <= io->since_ns)
			break;
	list_add(&io->age, &older->age);
}

/* The same among those that "pending" has to name, oldest first. */
static void dm_notify_held_insert_want(struct dm_notify_target *nt,
				       struct dm_notify_io *io)
{
	struct dm_notify_io *older;

	list_for_each_entry_reverse(older, &nt->unsaid, want)
		if (older->since_ns <= io->since_ns)
			break;
	list_add(&io->want, &older->want);
}

/**
 * dm_notify_held_insert() - a write waits.
 * @nt: the target
 * @io: the write, its chunk and its age set
 */
void dm_notify_held_insert(struct dm_notify_target *nt, struct dm_notify_io *io)
{
	struct rb_node **link = &nt->held.rb_node, *parent = NULL;

	while (*link) {
		parent = *link;
		/* Equal chunks go right: the oldest is leftmost. */
		if (io->chunk < dm_notify_node_io(parent)->chunk)
			link = &parent->rb_left;
		else
			link = &parent->rb_right;
	}
	rb_link_node(&io->node, parent, link);
	rb_insert_color(&io->node, &nt->held);
	dm_notify_held_insert_age(nt, io);
	nt->nr_held++;
	if (dm_notify_held_is_alone(io)) {
		dm_notify_held_insert_want(nt, io);
		nt->nr_wanted++;
	}
}

/**
 * dm_notify_held_remove() - a write waits no longer.
 * @nt: the target
 * @io: the write
 */
void dm_notify_held_remove(struct dm_notify_target *nt, struct dm_notify_io *io)
{
	struct dm_notify_io *next = dm_notify_held_next(io);

	if (dm_notify_held_is_first(io)) {
		if (next) {
			list_replace(&io->want, &next->want);
		} else {
			list_del(&io->want);
			nt->nr_wanted--;
		}
	}
	rb_erase(&io->node, &nt->held);
	list_del(&io->age);
	nt->nr_held--;
}

/**
 * dm_notify_held_find() - the first held write in the order of chunks.
 * @nt: the target
 * @chunk: where to begin
 *
 * Return: the oldest write of the first chunk at or after @chunk, or NULL.
 */
struct dm_notify_io *dm_notify_held_find(struct dm_notify_target *nt, u64 chunk)
{
	struct rb_node *node = nt->held.rb_node, *best = NULL;

	while (node) {
		if (dm_notify_node_io(node)->chunk < chunk) {
			node = node->rb_right;
		} else {
			best = node;
			node = node->rb_left;
		}
	}
	return dm_notify_node_io(best);
}

/**
 * dm_notify_held_remove_all() - no write waits any longer.
 * @nt: the target
 * @bios: the writes are added to it, oldest first
 */
void dm_notify_held_remove_all(struct dm_notify_target *nt,
			       struct bio_list *bios)
{
	struct dm_notify_io *io, *next;

	list_for_each_entry_safe(io, next, &nt->ages, age)
		bio_list_add(bios, dm_notify_io_bio(io));
	INIT_LIST_HEAD(&nt->ages);
	INIT_LIST_HEAD(&nt->unsaid);
	INIT_LIST_HEAD(&nt->said);
	nt->held = RB_ROOT;
	nt->nr_held = 0;
	nt->nr_wanted = 0;
}
