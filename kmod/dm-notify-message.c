// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the messages user space sends.
 *
 * dm-notify.rst has the grammar. A message that cannot be done is refused,
 * changes nothing, and is named in the log (rate-limited).
 */
#include "dm-notify.h"

#include <linux/string.h>

/* A reply shorter than this could say nothing. */
#define NOTIFY_MIN_REPLY 256

struct notify_message {
	struct notify_target *nt;
	unsigned int argc;	/* without the message's name */
	char **argv;
	char *result;
	unsigned int maxlen;
	const char *why;
};

static int notify_refuse(struct notify_message *msg, int error, const char *why)
{
	msg->why = why;
	return error;
}

/* The words of a message as runs or ranges. */
static struct notify_runs notify_words(struct notify_message *msg,
				       typeof(notify_parse_run) *get)
{
	return (struct notify_runs){
		.nr = msg->argc,
		.get = get,
		.arg = msg->argv,
	};
}

/* Ranges that lie in the volume, and how many chunks they have. */
static int notify_ranges(struct notify_message *msg, struct notify_runs *ranges,
			 u64 *chunks)
{
	*ranges = notify_words(msg, notify_parse_range);
	return notify_check_ranges(msg->nt, ranges, chunks, &msg->why);
}

/* What waits for chunks that have changed goes on. */
static void notify_release_runs(struct notify_message *msg,
				const struct notify_runs *runs)
{
	struct notify_run run;
	unsigned int i;

	for (i = 0; i < runs->nr; i++) {
		runs->get(runs, i, &run, &msg->why);
		notify_release(msg->nt, run.virt, run.count);
	}
}

/* map <run>... */
static int notify_msg_map(struct notify_message *msg)
{
	struct notify_runs runs = notify_words(msg, notify_parse_run);
	int r = notify_map_add(msg->nt, &runs, &msg->why);

	if (!r)
		notify_release_runs(msg, &runs);
	return r;
}

/* remap <run>... */
static int notify_msg_remap(struct notify_message *msg)
{
	struct notify_runs runs = notify_words(msg, notify_parse_move);
	int r = notify_map_move(msg->nt, &runs, &msg->why);

	if (!r)
		notify_release_runs(msg, &runs);
	return r;
}

/* <range>... [force] */
static int notify_make_holes(struct notify_message *msg, bool leave)
{
	bool force = !strcasecmp(msg->argv[msg->argc - 1], "force");
	struct notify_runs ranges;
	u64 chunks;
	int r;

	if (force && !--msg->argc)
		return notify_refuse(msg, -EINVAL, "wrong number of arguments");
	r = notify_ranges(msg, &ranges, &chunks);
	if (!r && !force && chunks > NOTIFY_MAX_AT_ONCE)
		r = notify_refuse(msg, -EINVAL, "too many chunks at once");
	if (!r)
		r = notify_map_remove(msg->nt->map, &ranges, force, leave,
				      &msg->why);
	if (r < 0)
		return r;
	/*
	 * What waited for a copy of a protected chunk, or for one to have left,
	 * waits in a hole now, or need not wait.
	 */
	notify_release_runs(msg, &ranges);
	return r ? notify_map_drain(msg->nt->map) : 0;
}

/* unmap <range>... [force] */
static int notify_msg_unmap(struct notify_message *msg)
{
	return notify_make_holes(msg, false);
}

/* leave <range>... [force] */
static int notify_msg_leave(struct notify_message *msg)
{
	return notify_make_holes(msg, true);
}

/* forget <range>... */
static int notify_msg_forget(struct notify_message *msg)
{
	struct notify_runs ranges;
	u64 chunks;
	int r;

	r = notify_ranges(msg, &ranges, &chunks);
	if (r)
		return r;
	notify_map_forget(msg->nt->map, &ranges);
	notify_release_runs(msg, &ranges);
	return 0;
}

/* Ranges get a flag: what was routed before has completed afterwards. */
static int notify_begin_flag(struct notify_message *msg, unsigned long flag)
{
	struct notify_runs ranges;
	u64 chunks;
	int r;

	r = notify_ranges(msg, &ranges, &chunks);
	if (r)
		return r;
	notify_map_flag(msg->nt->map, &ranges, flag, true);
	return notify_map_drain(msg->nt->map);
}

/* protect <range>... */
static int notify_msg_protect(struct notify_message *msg)
{
	return notify_begin_flag(msg, NOTIFY_PROTECTED);
}

/* watch <range>... */
static int notify_msg_watch(struct notify_message *msg)
{
	return notify_begin_flag(msg, NOTIFY_UNCHANGED);
}

/* unprotect <range>... */
static int notify_msg_unprotect(struct notify_message *msg)
{
	struct notify_runs ranges;
	u64 chunks;
	int r;

	r = notify_ranges(msg, &ranges, &chunks);
	if (r)
		return r;
	notify_map_flag(msg->nt->map, &ranges, NOTIFY_PROTECTED, false);
	notify_release_runs(msg, &ranges);
	return 0;
}

/* snapshot [<generation>] */
static int notify_msg_snapshot(struct notify_message *msg)
{
	u64 gen = U64_MAX;
	int r;

	if (msg->argc && notify_parse_u64(msg->argv[0], NOTIFY_MAX_GEN, &gen,
					  &msg->why))
		return -EINVAL;
	r = notify_snapshot(msg->nt, gen, &msg->why);
	return r ?: notify_map_drain(msg->nt->map);
}

/* mark <generation> */
static int notify_msg_mark(struct notify_message *msg)
{
	u64 gen;

	if (notify_parse_u64(msg->argv[0], NOTIFY_MAX_GEN, &gen, &msg->why))
		return -EINVAL;
	return notify_lower_mark(msg->nt, gen, &msg->why);
}

/* freeze <milliseconds> */
static int notify_msg_freeze(struct notify_message *msg)
{
	u64 ms;

	if (notify_parse_u64(msg->argv[0], NOTIFY_MAX_FREEZE_MS, &ms,
			     &msg->why))
		return -EINVAL;
	if (!ms)
		return notify_refuse(msg, -EINVAL, "no time to freeze for");
	notify_freeze(msg->nt, ms);
	return 0;
}

static int notify_msg_thaw(struct notify_message *msg)
{
	return notify_thaw(msg->nt, &msg->why);
}

static int notify_msg_drain(struct notify_message *msg)
{
	return notify_map_drain(msg->nt->map);
}

/* notifier <pid> <signo> */
static int notify_msg_notifier(struct notify_message *msg)
{
	u64 pid, signo;
	int r;

	if (notify_parse_u64(msg->argv[0], INT_MAX, &pid, &msg->why) ||
	    notify_parse_u64(msg->argv[1], _NSIG, &signo, &msg->why))
		return -EINVAL;
	if (!pid && !msg->nt->hold_timeout)
		return notify_refuse(msg, -EINVAL,
				     "hold_timeout 0 needs a notifier");
	r = notify_set_notifier(msg->nt, pid, signo);
	if (r == -ESRCH)
		msg->why = "no such process";
	else if (r)
		msg->why = "signal must be 0 or a real-time signal";
	return r;
}

static int notify_msg_nospace(struct notify_message *msg)
{
	notify_set_nospace(msg->nt, true);
	return 0;
}

static int notify_msg_space(struct notify_message *msg)
{
	notify_set_nospace(msg->nt, false);
	return 0;
}

static int notify_msg_pending(struct notify_message *msg)
{
	notify_pending(msg->nt, msg->result, msg->maxlen);
	return 1;
}

/* dump [<from virt>] */
static int notify_msg_dump(struct notify_message *msg)
{
	u64 from = 0;

	if (msg->argc && notify_parse_u64(msg->argv[0], NOTIFY_MAX_CHUNKS, &from,
					  &msg->why))
		return -EINVAL;
	notify_map_dump(msg->nt->map, from, msg->result, msg->maxlen);
	return 1;
}

/* stats [reset] */
static int notify_msg_stats(struct notify_message *msg)
{
	if (!msg->argc) {
		notify_stats(msg->nt, msg->result, msg->maxlen);
		return 1;
	}
	if (strcasecmp(msg->argv[0], "reset"))
		return notify_refuse(msg, -EINVAL, "unknown argument");
	notify_stats_reset(msg->nt);
	return 0;
}

static const struct notify_verb {
	const char *name;
	int (*run)(struct notify_message *msg);
	unsigned int min_args;
	unsigned int max_args;
	bool replies;
} notify_verbs[] = {
	{ "map", notify_msg_map, 1, UINT_MAX },
	{ "remap", notify_msg_remap, 1, UINT_MAX },
	{ "unmap", notify_msg_unmap, 1, UINT_MAX },
	{ "leave", notify_msg_leave, 1, UINT_MAX },
	{ "forget", notify_msg_forget, 1, UINT_MAX },
	{ "protect", notify_msg_protect, 1, UINT_MAX },
	{ "unprotect", notify_msg_unprotect, 1, UINT_MAX },
	{ "watch", notify_msg_watch, 1, UINT_MAX },
	{ "snapshot", notify_msg_snapshot, 0, 1 },
	{ "mark", notify_msg_mark, 1, 1 },
	{ "freeze", notify_msg_freeze, 1, 1 },
	{ "thaw", notify_msg_thaw, 0, 0 },
	{ "drain", notify_msg_drain, 0, 0 },
	{ "pending", notify_msg_pending, 0, 0, true },
	{ "notifier", notify_msg_notifier, 2, 2 },
	{ "nospace", notify_msg_nospace, 0, 0 },
	{ "space", notify_msg_space, 0, 0 },
	{ "dump", notify_msg_dump, 0, 1, true },
	{ "stats", notify_msg_stats, 0, 1, true },
};

static int notify_run_verb(const struct notify_verb *verb,
			   struct notify_message *msg)
{
	if (msg->argc < verb->min_args || msg->argc > verb->max_args)
		return notify_refuse(msg, -EINVAL, "wrong number of arguments");
	/* Swapped in, and not resumed, or refused when it was to be resumed. */
	if (!smp_load_acquire(&msg->nt->live))
		return notify_refuse(msg, -EAGAIN, "not resumed yet");
	if (verb->replies && msg->maxlen < NOTIFY_MIN_REPLY)
		return notify_refuse(msg, -EINVAL, "no room for the reply");
	if (verb->replies)
		msg->result[0] = '\0';
	return verb->run(msg);
}

/**
 * notify_message() - run one message.
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
int notify_message(struct dm_target *ti, unsigned int argc, char **argv,
		   char *result, unsigned int maxlen)
{
	struct notify_message msg = {
		.nt = ti->private,
		.argc = argc - 1,
		.argv = argv + 1,
		.result = result,
		.maxlen = maxlen,
	};
	const struct notify_verb *verb = notify_verbs;
	unsigned int i;
	int r;

	for (i = 0; i < ARRAY_SIZE(notify_verbs); i++, verb++)
		if (!strcasecmp(argv[0], verb->name))
			break;
	if (i < ARRAY_SIZE(notify_verbs))
		r = notify_run_verb(verb, &msg);
	else
		r = notify_refuse(&msg, -EINVAL, "unknown message");

	/* A chunk in use is a normal answer to "leave" and "unmap". */
	if (r < 0 && r != -EBUSY && msg.why)
		DMWARN_LIMIT("%s: message \"%.16s\" refused: %s",
			     dm_table_device_name(ti->table), argv[0], msg.why);
	return r;
}
