// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the messages user space sends.
 *
 * dm-notify.rst has the grammar. A message that cannot be done is refused,
 * changes nothing, and is named in the log (rate-limited).
 */
#include "dm-notify.h"

#include <linux/gfp.h>
#include <linux/kdev_t.h>
#include <linux/slab.h>
#include <linux/string.h>

/* A reply shorter than this could say nothing. */
#define DM_NOTIFY_MIN_REPLY 256

struct dm_notify_message {
	struct dm_notify_target *nt;
	unsigned int argc; /* without the message's name */
	char **argv;
	char *result;
	unsigned int maxlen;
	const char *why;
};

static int dm_notify_refuse(struct dm_notify_message *msg, int error,
			    const char *why)
{
	msg->why = why;
	return error;
}

/* The words of a message as runs or ranges. */
static struct dm_notify_runs dm_notify_words(struct dm_notify_message *msg,
					     typeof(dm_notify_parse_run) *get)
{
	return (struct dm_notify_runs){
		.nr = msg->argc,
		.get = get,
		.arg = msg->argv,
	};
}

/* Ranges that lie in the volume, and how many chunks they have. */
static int dm_notify_ranges(struct dm_notify_message *msg,
			    struct dm_notify_runs *ranges, u64 *chunks)
{
	*ranges = dm_notify_words(msg, dm_notify_parse_range);
	return dm_notify_check_ranges(msg->nt, ranges, chunks, &msg->why);
}

/* What waits for chunks that have changed goes on. */
static void dm_notify_release_runs(struct dm_notify_message *msg,
				   const struct dm_notify_runs *runs)
{
	struct dm_notify_run run;
	unsigned int i;

	for (i = 0; i < runs->nr; i++) {
		runs->get(runs, i, &run, &msg->why);
		dm_notify_release(msg->nt, run.virt, run.count);
	}
}

/* map <run>... */
static int dm_notify_msg_map(struct dm_notify_message *msg)
{
	struct dm_notify_runs runs = dm_notify_words(msg, dm_notify_parse_run);
	int r = dm_notify_map_add(msg->nt, &runs, &msg->why);

	if (!r)
		dm_notify_release_runs(msg, &runs);
	return r;
}

/* remap <run>... */
static int dm_notify_msg_remap(struct dm_notify_message *msg)
{
	struct dm_notify_runs runs = dm_notify_words(msg, dm_notify_parse_move);
	int r = dm_notify_map_move(msg->nt, &runs, &msg->why);

	if (!r)
		dm_notify_release_runs(msg, &runs);
	return r;
}

/* <range>... [force] */
static int dm_notify_make_holes(struct dm_notify_message *msg, bool leave)
{
	bool force = !strcasecmp(msg->argv[msg->argc - 1], "force");
	struct dm_notify_runs ranges;
	u64 chunks;
	int r;

	if (force && !--msg->argc)
		return dm_notify_refuse(msg, -EINVAL,
					"wrong number of arguments");
	r = dm_notify_ranges(msg, &ranges, &chunks);
	if (!r && !force && chunks > DM_NOTIFY_MAX_AT_ONCE)
		r = dm_notify_refuse(msg, -EINVAL, "too many chunks at once");
	if (!r)
		r = dm_notify_map_remove(msg->nt->map, &ranges, force, leave,
					 &msg->why);
	if (r)
		return r;
	/*
	 * What waited for a copy of a protected chunk, or for one to have left,
	 * waits in a hole now, or need not wait.
	 */
	dm_notify_release_runs(msg, &ranges);
	/* Of holes, too: the drain of who made them may have been killed. */
	return dm_notify_map_drain(msg->nt->map);
}

/* unmap <range>... [force] */
static int dm_notify_msg_unmap(struct dm_notify_message *msg)
{
	return dm_notify_make_holes(msg, false);
}

/* leave <range>... [force] */
static int dm_notify_msg_leave(struct dm_notify_message *msg)
{
	return dm_notify_make_holes(msg, true);
}

/* forget <range>... */
static int dm_notify_msg_forget(struct dm_notify_message *msg)
{
	struct dm_notify_runs ranges;
	u64 chunks;
	int r;

	r = dm_notify_ranges(msg, &ranges, &chunks);
	if (r)
		return r;
	dm_notify_map_forget(msg->nt->map, &ranges);
	dm_notify_release_runs(msg, &ranges);
	return 0;
}

/* Ranges get a flag: what was routed before has completed afterwards. */
static int dm_notify_begin_flag(struct dm_notify_message *msg,
				unsigned long flag)
{
	struct dm_notify_runs ranges;
	u64 chunks;
	int r;

	r = dm_notify_ranges(msg, &ranges, &chunks);
	if (r)
		return r;
	dm_notify_map_flag(msg->nt->map, &ranges, flag, true);
	return dm_notify_map_drain(msg->nt->map);
}

/* protect <range>... */
static int dm_notify_msg_protect(struct dm_notify_message *msg)
{
	return dm_notify_begin_flag(msg, DM_NOTIFY_PROTECTED);
}

/* watch <range>... */
static int dm_notify_msg_watch(struct dm_notify_message *msg)
{
	return dm_notify_begin_flag(msg, DM_NOTIFY_UNCHANGED);
}

/* unprotect <range>... */
static int dm_notify_msg_unprotect(struct dm_notify_message *msg)
{
	struct dm_notify_runs ranges;
	u64 chunks;
	int r;

	r = dm_notify_ranges(msg, &ranges, &chunks);
	if (r)
		return r;
	dm_notify_map_flag(msg->nt->map, &ranges, DM_NOTIFY_PROTECTED, false);
	dm_notify_release_runs(msg, &ranges);
	return 0;
}

/* snapshot [<generation>] */
static int dm_notify_msg_snapshot(struct dm_notify_message *msg)
{
	u64 gen = U64_MAX;
	int r;

	if (msg->argc && dm_notify_parse_u64(msg->argv[0], DM_NOTIFY_MAX_GEN,
					     &gen, &msg->why))
		return -EINVAL;
	r = dm_notify_snapshot(msg->nt, gen, &msg->why);
	return r ?: dm_notify_map_drain(msg->nt->map);
}

/* mark <generation> */
static int dm_notify_msg_mark(struct dm_notify_message *msg)
{
	u64 gen;

	if (dm_notify_parse_u64(msg->argv[0], DM_NOTIFY_MAX_GEN, &gen,
				&msg->why))
		return -EINVAL;
	return dm_notify_lower_mark(msg->nt, gen, &msg->why);
}

/* renumber [<generation>...] */
static int dm_notify_msg_renumber(struct dm_notify_message *msg)
{
	unsigned int i;
	u16 *kept;
	u64 gen;
	int r = 0;

	kept = kmalloc_array(msg->argc, sizeof(*kept),
			     GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	if (!kept)
		return dm_notify_refuse(msg, -ENOMEM, "out of memory");
	for (i = 0; i < msg->argc && !r; i++) {
		r = dm_notify_parse_u64(msg->argv[i], DM_NOTIFY_MAX_GEN, &gen,
					&msg->why);
		kept[i] = gen;
	}
	if (!r)
		r = dm_notify_renumber(msg->nt, kept, msg->argc, &msg->why);
	kfree(kept);
	return r;
}

/* freeze <milliseconds> */
static int dm_notify_msg_freeze(struct dm_notify_message *msg)
{
	u64 ms;

	if (dm_notify_parse_u64(msg->argv[0], DM_NOTIFY_MAX_FREEZE_MS, &ms,
				&msg->why))
		return -EINVAL;
	if (!ms)
		return dm_notify_refuse(msg, -EINVAL, "no time to freeze for");
	dm_notify_freeze(msg->nt, ms);
	return 0;
}

static int dm_notify_msg_thaw(struct dm_notify_message *msg)
{
	return dm_notify_thaw(msg->nt, &msg->why);
}

/* inherit <minor> <generation> */
static int dm_notify_msg_inherit(struct dm_notify_message *msg)
{
	u64 minor, gen;
	int r;

	if (dm_notify_parse_u64(msg->argv[0], MINORMASK, &minor, &msg->why) ||
	    dm_notify_parse_u64(msg->argv[1], DM_NOTIFY_MAX_GEN, &gen,
				&msg->why))
		return -EINVAL;
	r = dm_notify_map_inherit(msg->nt, minor, gen, &msg->why);
	if (!r)
		dm_notify_release(msg->nt, 0, U64_MAX);
	return r;
}

static int dm_notify_msg_drain(struct dm_notify_message *msg)
{
	return dm_notify_map_drain(msg->nt->map);
}

/* notifier <pid> <signo> */
static int dm_notify_msg_notifier(struct dm_notify_message *msg)
{
	u64 pid, signo;
	int r;

	if (dm_notify_parse_u64(msg->argv[0], INT_MAX, &pid, &msg->why) ||
	    dm_notify_parse_u64(msg->argv[1], _NSIG, &signo, &msg->why))
		return -EINVAL;
	if (!pid && !msg->nt->hold_timeout)
		return dm_notify_refuse(msg, -EINVAL,
					"hold_timeout 0 needs a notifier");
	r = dm_notify_set_notifier(msg->nt, pid, signo);
	if (r == -ESRCH)
		msg->why = "no such process";
	else if (r)
		msg->why = "signal must be 0 or a real-time signal";
	return r;
}

static int dm_notify_msg_nospace(struct dm_notify_message *msg)
{
	dm_notify_set_nospace(msg->nt, true);
	return 0;
}

static int dm_notify_msg_space(struct dm_notify_message *msg)
{
	dm_notify_set_nospace(msg->nt, false);
	return 0;
}

static int dm_notify_msg_pending(struct dm_notify_message *msg)
{
	dm_notify_pending(msg->nt, msg->result, msg->maxlen);
	return 1;
}

/* dump [<from virt>] */
static int dm_notify_msg_dump(struct dm_notify_message *msg)
{
	u64 from = 0;

	if (msg->argc && dm_notify_parse_u64(msg->argv[0], DM_NOTIFY_MAX_CHUNKS,
					     &from, &msg->why))
		return -EINVAL;
	dm_notify_map_dump(msg->nt->map, from, msg->result, msg->maxlen);
	return 1;
}

/* stats [reset] */
static int dm_notify_msg_stats(struct dm_notify_message *msg)
{
	if (!msg->argc) {
		dm_notify_stats(msg->nt, msg->result, msg->maxlen);
		return 1;
	}
	if (strcasecmp(msg->argv[0], "reset"))
		return dm_notify_refuse(msg, -EINVAL, "unknown argument");
	dm_notify_stats_reset(msg->nt);
	return 0;
}

static const struct dm_notify_verb {
	const char *name;
	int (*run)(struct dm_notify_message *msg);
	unsigned int min_args;
	unsigned int max_args;
	bool replies;
} dm_notify_verbs[] = {
	{ "map", dm_notify_msg_map, 1, UINT_MAX },
	{ "remap", dm_notify_msg_remap, 1, UINT_MAX },
	{ "unmap", dm_notify_msg_unmap, 1, UINT_MAX },
	{ "leave", dm_notify_msg_leave, 1, UINT_MAX },
	{ "forget", dm_notify_msg_forget, 1, UINT_MAX },
	{ "protect", dm_notify_msg_protect, 1, UINT_MAX },
	{ "unprotect", dm_notify_msg_unprotect, 1, UINT_MAX },
	{ "watch", dm_notify_msg_watch, 1, UINT_MAX },
	{ "snapshot", dm_notify_msg_snapshot, 0, 1 },
	{ "mark", dm_notify_msg_mark, 1, 1 },
	{ "renumber", dm_notify_msg_renumber, 0, DM_NOTIFY_MAX_GEN },
	{ "freeze", dm_notify_msg_freeze, 1, 1 },
	{ "thaw", dm_notify_msg_thaw, 0, 0 },
	{ "inherit", dm_notify_msg_inherit, 2, 2 },
	{ "drain", dm_notify_msg_drain, 0, 0 },
	{ "pending", dm_notify_msg_pending, 0, 0, true },
	{ "notifier", dm_notify_msg_notifier, 2, 2 },
	{ "nospace", dm_notify_msg_nospace, 0, 0 },
	{ "space", dm_notify_msg_space, 0, 0 },
	{ "dump", dm_notify_msg_dump, 0, 1, true },
	{ "stats", dm_notify_msg_stats, 0, 1, true },
};

static int dm_notify_run_verb(const struct dm_notify_verb *verb,
			      struct dm_notify_message *msg)
{
	if (msg->argc < verb->min_args || msg->argc > verb->max_args)
		return dm_notify_refuse(msg, -EINVAL,
					"wrong number of arguments");
	/* Swapped in, and not resumed, or refused when it was to be resumed. */
	if (!smp_load_acquire(&msg->nt->live))
		return dm_notify_refuse(msg, -EAGAIN, "not resumed yet");
	if (verb->replies && msg->maxlen < DM_NOTIFY_MIN_REPLY)
		return dm_notify_refuse(msg, -EINVAL, "no room for the reply");
	if (verb->replies)
		msg->result[0] = '\0';
	return verb->run(msg);
}

/**
 * dm_notify_message() - run one message.
 * @ti: the target
 * @argc: number of words
 * @argv: the words, the first of them names the message
 * @result: where a reply goes
 * @maxlen: room for it
 *
 * Context: may sleep. Messages run at the same time as I/O, suspends and
 * other messages.
 * Return: 0, 1 if there is a reply, or a negative errno.
 */
int dm_notify_message(struct dm_target *ti, unsigned int argc, char **argv,
		      char *result, unsigned int maxlen)
{
	struct dm_notify_message msg = {
		.nt = ti->private,
		.argc = argc - 1,
		.argv = argv + 1,
		.result = result,
		.maxlen = maxlen,
	};
	const struct dm_notify_verb *verb = dm_notify_verbs;
	unsigned int i;
	int r;

	for (i = 0; i < ARRAY_SIZE(dm_notify_verbs); i++, verb++)
		if (!strcasecmp(argv[0], verb->name))
			break;
	if (i < ARRAY_SIZE(dm_notify_verbs))
		r = dm_notify_run_verb(verb, &msg);
	else
		r = dm_notify_refuse(&msg, -EINVAL, "unknown message");

	/* A chunk in use is a normal answer to "leave" and "unmap". */
	if (r < 0 && r != -EBUSY && msg.why)
		DMWARN_LIMIT("%s: message \"%.16s\" refused: %s",
			     dm_table_device_name(ti->table), argv[0], msg.why);
	return r;
}
