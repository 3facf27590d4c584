// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the messages user space sends.
 *
 * dm-notify.rst has the grammar. A message that cannot be done is refused,
 * changes nothing, and is named in the log (rate-limited).
 */
#include "dm-notify.h"

#include <linux/ctype.h>
#include <linux/kstrtox.h>
#include <linux/string.h>

/* Without force, a whole "unmap" or "leave" is one hold of the map's spinlock. */
#define NOTIFY_MAX_UNMAP 65536

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

static int notify_parse_u64(struct notify_message *msg, const char *text,
			    u64 max, u64 *value)
{
	if (kstrtou64(text, 10, value) || *value > max)
		return notify_refuse(msg, -EINVAL, "not a number, or too large");
	return 0;
}

/* <virt chunk> [<count>], inside the volume */
static int notify_parse_range(struct notify_message *msg, unsigned int nr_args,
			      u64 *virt, u64 *count)
{
	u64 chunks = msg->nt->nr_chunks;

	*count = 1;
	if (notify_parse_u64(msg, msg->argv[0], NOTIFY_MAX_CHUNKS, virt) ||
	    (nr_args > 1 && notify_parse_u64(msg, msg->argv[1],
					     NOTIFY_MAX_CHUNKS, count)))
		return -EINVAL;
	if (!*count || *virt >= chunks || *count > chunks - *virt)
		return notify_refuse(msg, -EINVAL,
				     "chunks beyond the end of the volume");
	return 0;
}

/* <virt> <dev> <phys> [<count>]; notify_map_add() checks the ranges */
static int notify_parse_run(struct notify_message *msg, struct notify_run *run)
{
	u64 dev;

	run->count = 1;
	run->flags = 0;
	if (notify_parse_u64(msg, msg->argv[0], NOTIFY_MAX_CHUNKS,
			     &run->virt) ||
	    notify_parse_u64(msg, msg->argv[1], NOTIFY_MAX_DEVS, &dev) ||
	    notify_parse_u64(msg, msg->argv[2], NOTIFY_MAX_PCHUNK,
			     &run->phys) ||
	    (msg->argc > 3 && notify_parse_u64(msg, msg->argv[3],
					       NOTIFY_MAX_CHUNKS, &run->count)))
		return -EINVAL;
	run->dev = dev;
	return 0;
}

static int notify_add_runs(struct notify_message *msg,
			   const struct notify_runs *runs)
{
	struct notify_run run;
	unsigned int i;
	int r = notify_map_add(msg->nt, runs, &msg->why);

	for (i = 0; i < runs->nr && !r; i++) {
		runs->get(runs, i, &run, &msg->why);
		notify_release(msg->nt, run.virt, run.count);
	}
	return r;
}

static int notify_token_error(const char **why, const char *text)
{
	*why = text;
	return -EINVAL;
}

/* A number of a token, and the colon after it, if one is due. */
static int notify_token_u64(const char **text, bool last, u64 max, u64 *value,
			    const char **why)
{
	const char *p = *text;

	for (*value = 0; isdigit(*p); p++) {
		*value = 10 * *value + (*p - '0');
		if (*value > max)
			return notify_token_error(why,
						  "not a number, or too large");
	}
	if (*p != ':' && (*p || !last))
		return notify_token_error(why, isgraph(*p) ?
					  "not a number, or too large" :
					  "a run is virt:dev:phys:count[:flags]");
	if (p == *text)
		return notify_token_error(why, "not a number, or too large");
	*text = *p ? p + 1 : p;
	return 0;
}

/* w, p, d, wp or pd: a chunk is never both watched and discarded. */
static int notify_token_flags(const char *text, unsigned long *flags,
			      const char **why)
{
	*flags = 0;
	if (*text == 'w' && text++)
		*flags |= NOTIFY_WATCHED;
	if (*text == 'p' && text++)
		*flags |= NOTIFY_PROTECTED;
	if (*text == 'd' && text++)
		*flags |= NOTIFY_DISCARDED;
	if (!*flags || *text || (*flags & NOTIFY_UNWRITTEN) == NOTIFY_UNWRITTEN)
		return notify_token_error(why, "unknown flags of a run");
	return 0;
}

/* <virt>:<dev>:<phys>:<count>[:<flags>] */
static int notify_token_run(const struct notify_runs *runs, unsigned int i,
			    struct notify_run *run, const char **why)
{
	const char *text = ((char **)runs->arg)[i];
	u64 dev;

	if (notify_token_u64(&text, false, NOTIFY_MAX_CHUNKS, &run->virt, why) ||
	    notify_token_u64(&text, false, NOTIFY_MAX_DEVS, &dev, why) ||
	    notify_token_u64(&text, false, NOTIFY_MAX_PCHUNK, &run->phys, why) ||
	    notify_token_u64(&text, true, NOTIFY_MAX_CHUNKS, &run->count, why))
		return -EINVAL;
	run->dev = dev;
	run->flags = 0;
	if (text[-1] != ':')
		return 0;
	return notify_token_flags(text, &run->flags, why);
}

static int notify_msg_map_tokens(struct notify_message *msg)
{
	struct notify_runs runs = {
		.nr = msg->argc,
		.get = notify_token_run,
		.arg = msg->argv,
	};

	return notify_add_runs(msg, &runs);
}

static int notify_single_run(const struct notify_runs *runs, unsigned int i,
			     struct notify_run *run, const char **why)
{
	*run = *(struct notify_run *)runs->arg;
	return 0;
}

/* map <virt> <dev> <phys> [<count> [watched|protected]], or map <run>... */
static int notify_msg_map(struct notify_message *msg)
{
	struct notify_run run;
	struct notify_runs runs = {
		.nr = 1,
		.get = notify_single_run,
		.arg = &run,
	};

	if (msg->argc && strchr(msg->argv[0], ':'))
		return notify_msg_map_tokens(msg);
	if (msg->argc < 3 || msg->argc > 5)
		return notify_refuse(msg, -EINVAL, "wrong number of arguments");
	if (notify_parse_run(msg, &run))
		return -EINVAL;
	if (msg->argc == 5) {
		if (!strcasecmp(msg->argv[4], "watched"))
			run.flags = NOTIFY_WATCHED;
		else if (!strcasecmp(msg->argv[4], "protected"))
			run.flags = NOTIFY_PROTECTED;
		else
			return notify_refuse(msg, -EINVAL, "unknown flag");
	}
	return notify_add_runs(msg, &runs);
}

/* remap <virt> <dev> <phys> [<count>] */
static int notify_msg_remap(struct notify_message *msg)
{
	struct notify_run run;
	int r;

	r = notify_parse_run(msg, &run);
	if (!r)
		r = notify_map_move(msg->nt, &run, &msg->why);
	if (!r)
		notify_release(msg->nt, run.virt, run.count);
	return r;
}

/* <virt> [<count>] [force] */
static int notify_make_holes(struct notify_message *msg, bool leave)
{
	unsigned int nr = msg->argc;
	bool force = false;
	u64 virt, count;
	int r;

	if (nr > 1 && !strcasecmp(msg->argv[nr - 1], "force")) {
		force = true;
		nr--;
	}
	if (nr > 2)
		return notify_refuse(msg, -EINVAL, "wrong number of arguments");
	r = notify_parse_range(msg, nr, &virt, &count);
	if (!r && !force && count > NOTIFY_MAX_UNMAP)
		r = notify_refuse(msg, -EINVAL, "too many chunks at once");
	if (!r)
		r = notify_map_remove(msg->nt->map, virt, count, force, leave,
				      &msg->why);
	if (r < 0)
		return r;
	/*
	 * Who waited for a copy of a protected chunk, or for one to have left,
	 * waits in a hole now, or need not wait.
	 */
	notify_release(msg->nt, virt, count);
	return r ? notify_map_drain(msg->nt->map) : 0;
}

/* unmap <virt> [<count>] [force] */
static int notify_msg_unmap(struct notify_message *msg)
{
	return notify_make_holes(msg, false);
}

/* leave <virt> [<count>] [force] */
static int notify_msg_leave(struct notify_message *msg)
{
	return notify_make_holes(msg, true);
}

/* forget <virt> [<count>] */
static int notify_msg_forget(struct notify_message *msg)
{
	u64 virt, count;
	int r;

	r = notify_parse_range(msg, msg->argc, &virt, &count);
	if (r)
		return r;
	notify_map_forget(msg->nt->map, virt, count);
	notify_release(msg->nt, virt, count);
	return 0;
}

/* protect <virt> [<count>] */
static int notify_msg_protect(struct notify_message *msg)
{
	u64 virt, count;
	int r;

	r = notify_parse_range(msg, msg->argc, &virt, &count);
	if (r)
		return r;
	notify_map_protect(msg->nt->map, virt, count, true);
	return notify_map_drain(msg->nt->map);
}

/* unprotect <virt> [<count>] */
static int notify_msg_unprotect(struct notify_message *msg)
{
	u64 virt, count;
	int r;

	r = notify_parse_range(msg, msg->argc, &virt, &count);
	if (r)
		return r;
	notify_map_protect(msg->nt->map, virt, count, false);
	notify_release(msg->nt, virt, count);
	return 0;
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

	if (notify_parse_u64(msg, msg->argv[0], INT_MAX, &pid) ||
	    notify_parse_u64(msg, msg->argv[1], _NSIG, &signo))
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

	if (msg->argc && notify_parse_u64(msg, msg->argv[0], NOTIFY_MAX_CHUNKS,
					  &from))
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
	{ "remap", notify_msg_remap, 3, 4 },
	{ "unmap", notify_msg_unmap, 1, 3 },
	{ "leave", notify_msg_leave, 1, 3 },
	{ "forget", notify_msg_forget, 1, 2 },
	{ "protect", notify_msg_protect, 1, 2 },
	{ "unprotect", notify_msg_unprotect, 1, 2 },
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
