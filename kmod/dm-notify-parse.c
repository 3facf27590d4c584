// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the numbers, ranges and runs in messages.
 *
 * dm-notify.rst has the grammar. Pure: whether there is such a run is decided elsewhere.
 */
#include "dm-notify.h"

#include <linux/ctype.h>
#include <linux/kstrtox.h>

static int dm_notify_no_number(const char **why)
{
	*why = "not a number, or too large";
	return -EINVAL;
}

static int dm_notify_no_flags(const char **why)
{
	*why = "unknown flags of a run";
	return -EINVAL;
}

/**
 * dm_notify_parse_u64() - a word that is a number.
 * @text: the word
 * @max: the largest that it may be
 * @value: set to it
 * @why: what is wrong, if anything is
 *
 * Return: 0 or -EINVAL.
 */
int dm_notify_parse_u64(const char *text, u64 max, u64 *value, const char **why)
{
	if (kstrtou64(text, 10, value) || *value > max)
		return dm_notify_no_number(why);
	return 0;
}

/* Digits. Return: what follows them, or NULL. */
static const char *dm_notify_digits(const char *text, u64 max, u64 *value)
{
	const char *p = text;

	for (*value = 0; isdigit(*p); p++) {
		*value = 10 * *value + (*p - '0');
		if (*value > max)
			return NULL;
	}
	return p == text ? NULL : p;
}

struct dm_notify_field {
	u64 max;
	u64 *value;
};

/* Numbers with colons between them. Return: what follows them, or NULL. */
static const char *dm_notify_fields(const char *text,
				    const struct dm_notify_field *field,
				    unsigned int nr, const char *form,
				    const char **why)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		text = dm_notify_digits(text, field[i].max, field[i].value);
		if (!text || (*text && *text != ':')) {
			dm_notify_no_number(why);
			return NULL;
		}
		if (!*text && i < nr - 1) {
			*why = form;
			return NULL;
		}
		if (*text)
			text++;
	}
	return text;
}

/* <virt>:<dev>:<phys>:<count>; @tail is set to what follows. */
static int dm_notify_place(const struct dm_notify_runs *runs, unsigned int i,
			   struct dm_notify_run *run, const char **tail,
			   const char **why)
{
	u64 dev;
	const struct dm_notify_field fields[] = {
		{ DM_NOTIFY_MAX_CHUNKS, &run->virt },
		{ DM_NOTIFY_MAX_DEVS, &dev },
		{ DM_NOTIFY_MAX_PCHUNK, &run->phys },
		{ DM_NOTIFY_MAX_CHUNKS, &run->count },
	};
	const char *text = ((char **)runs->arg)[i];

	text = dm_notify_fields(text, fields, ARRAY_SIZE(fields),
				"a run is chunk:dev:pchunk:count[:flags]", why);
	if (!text)
		return -EINVAL;
	run->dev = dev;
	run->gen = 0;
	run->flags = 0;
	run->how = 0;
	*tail = text;
	/* A colon that nothing follows. */
	return !*text && text[-1] == ':' ? dm_notify_no_flags(why) : 0;
}

/* What ends a run's flags: nothing, or its generation. */
static int dm_notify_generation(const char *text, struct dm_notify_run *run,
				const char **why)
{
	u64 gen = 0;

	if (isdigit(*text)) {
		text = dm_notify_digits(text, DM_NOTIFY_MAX_GEN, &gen);
		if (!text)
			return dm_notify_no_number(why);
		run->gen = gen;
		run->how |= DM_NOTIFY_RUN_GEN;
	}
	return *text ? dm_notify_no_flags(why) : 0;
}

/**
 * dm_notify_parse_run() - a run that is to be mapped.
 * @runs: the words
 * @i: number of the word: <chunk>:<dev>:<pchunk>:<count>[:<flags>]
 * @run: set to it
 * @why: what is wrong, if anything is
 *
 * Flags are w, p, d, u and a generation: a chunk is never both watched and
 * discarded.
 *
 * Return: 0 or -EINVAL.
 */
int dm_notify_parse_run(const struct dm_notify_runs *runs, unsigned int i,
			struct dm_notify_run *run, const char **why)
{
	const char *text;

	if (dm_notify_place(runs, i, run, &text, why))
		return -EINVAL;
	if (*text == 'w' && text++)
		run->flags |= DM_NOTIFY_WATCHED;
	if (*text == 'p' && text++)
		run->flags |= DM_NOTIFY_PROTECTED;
	if (*text == 'd' && text++)
		run->flags |= DM_NOTIFY_DISCARDED;
	if (*text == 'u' && text++)
		run->flags |= DM_NOTIFY_UNCHANGED;
	if ((run->flags & DM_NOTIFY_UNWRITTEN) == DM_NOTIFY_UNWRITTEN)
		return dm_notify_no_flags(why);
	return dm_notify_generation(text, run, why);
}

/**
 * dm_notify_parse_move() - a run that is to move.
 * @runs: the words
 * @i: number of the word: <chunk>:<dev>:<pchunk>:<count>[:<flags>]
 * @run: set to it
 * @why: what is wrong, if anything is
 *
 * Flags are k or a generation, and o before them.
 *
 * Return: 0 or -EINVAL.
 */
int dm_notify_parse_move(const struct dm_notify_runs *runs, unsigned int i,
			 struct dm_notify_run *run, const char **why)
{
	const char *text;

	if (dm_notify_place(runs, i, run, &text, why))
		return -EINVAL;
	if (*text == 'o' && text++)
		run->how |= DM_NOTIFY_RUN_OVERWRITE;
	if (*text == 'k' && !text[1]) {
		run->how |= DM_NOTIFY_RUN_KEEP;
		return 0;
	}
	return dm_notify_generation(text, run, why);
}

/**
 * dm_notify_parse_range() - a range of chunks.
 * @runs: the words
 * @i: number of the word: <chunk>:<count>
 * @run: its virt and count are set
 * @why: what is wrong, if anything is
 *
 * Return: 0 or -EINVAL.
 */
int dm_notify_parse_range(const struct dm_notify_runs *runs, unsigned int i,
			  struct dm_notify_run *run, const char **why)
{
	const struct dm_notify_field fields[] = {
		{ DM_NOTIFY_MAX_CHUNKS, &run->virt },
		{ DM_NOTIFY_MAX_CHUNKS, &run->count },
	};
	const char *text = ((char **)runs->arg)[i];

	text = dm_notify_fields(text, fields, ARRAY_SIZE(fields),
				"a range is chunk:count", why);
	if (!text)
		return -EINVAL;
	if (!*text && text[-1] != ':')
		return 0;
	*why = "a range is chunk:count";
	return -EINVAL;
}
