// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the numbers, ranges and runs in messages.
 *
 * dm-notify.rst has the grammar. Pure: what a run may be is for who uses it.
 */
#include "dm-notify.h"

#include <linux/ctype.h>
#include <linux/kstrtox.h>

static int notify_no_number(const char **why)
{
	*why = "not a number, or too large";
	return -EINVAL;
}

/**
 * notify_parse_u64() - a word that is a number.
 * @text: the word
 * @max: the largest that it may be
 * @value: set to it
 * @why: what is wrong, if anything is
 *
 * Return: 0 or -EINVAL.
 */
int notify_parse_u64(const char *text, u64 max, u64 *value, const char **why)
{
	if (kstrtou64(text, 10, value) || *value > max)
		return notify_no_number(why);
	return 0;
}

/* Digits. Return: what follows them, or NULL. */
static const char *notify_digits(const char *text, u64 max, u64 *value)
{
	const char *p = text;

	for (*value = 0; isdigit(*p); p++) {
		*value = 10 * *value + (*p - '0');
		if (*value > max)
			return NULL;
	}
	return p == text ? NULL : p;
}

struct notify_field {
	u64 max;
	u64 *value;
};

/* Numbers with colons between them. Return: what follows them, or NULL. */
static const char *notify_fields(const char *text,
				 const struct notify_field *field,
				 unsigned int nr, const char *form,
				 const char **why)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		text = notify_digits(text, field[i].max, field[i].value);
		if (!text || (*text && *text != ':')) {
			notify_no_number(why);
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
static int notify_place(const struct notify_runs *runs, unsigned int i,
			struct notify_run *run, const char **tail,
			const char **why)
{
	u64 dev;
	const struct notify_field fields[] = {
		{ NOTIFY_MAX_CHUNKS, &run->virt }, { NOTIFY_MAX_DEVS, &dev },
		{ NOTIFY_MAX_PCHUNK, &run->phys },
		{ NOTIFY_MAX_CHUNKS, &run->count },
	};
	const char *text = ((char **)runs->arg)[i];

	text = notify_fields(text, fields, ARRAY_SIZE(fields),
			     "a run is chunk:dev:pchunk:count[:flags]", why);
	if (!text)
		return -EINVAL;
	run->dev = dev;
	run->gen = 0;
	run->flags = 0;
	run->how = 0;
	*tail = text;
	/* A colon that nothing follows. */
	if (!*text && text[-1] == ':') {
		*why = "unknown flags of a run";
		return -EINVAL;
	}
	return 0;
}

/* What ends a run's flags: nothing, or its generation. */
static int notify_generation(const char *text, struct notify_run *run,
			     const char **why)
{
	u64 gen = 0;

	if (isdigit(*text)) {
		text = notify_digits(text, NOTIFY_MAX_GEN, &gen);
		if (!text)
			return notify_no_number(why);
		run->gen = gen;
		run->how |= NOTIFY_RUN_GEN;
	}
	if (!*text)
		return 0;
	*why = "unknown flags of a run";
	return -EINVAL;
}

/**
 * notify_parse_run() - a run that is to be mapped.
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
int notify_parse_run(const struct notify_runs *runs, unsigned int i,
		     struct notify_run *run, const char **why)
{
	const char *text;

	if (notify_place(runs, i, run, &text, why))
		return -EINVAL;
	if (*text == 'w' && text++)
		run->flags |= NOTIFY_WATCHED;
	if (*text == 'p' && text++)
		run->flags |= NOTIFY_PROTECTED;
	if (*text == 'd' && text++)
		run->flags |= NOTIFY_DISCARDED;
	if (*text == 'u' && text++)
		run->flags |= NOTIFY_UNCHANGED;
	if ((run->flags & NOTIFY_UNWRITTEN) == NOTIFY_UNWRITTEN) {
		*why = "unknown flags of a run";
		return -EINVAL;
	}
	return notify_generation(text, run, why);
}

/**
 * notify_parse_move() - a run that is to move.
 * @runs: the words
 * @i: number of the word: <chunk>:<dev>:<pchunk>:<count>[:<flags>]
 * @run: set to it
 * @why: what is wrong, if anything is
 *
 * Flags are k or a generation, and o before them.
 *
 * Return: 0 or -EINVAL.
 */
int notify_parse_move(const struct notify_runs *runs, unsigned int i,
		      struct notify_run *run, const char **why)
{
	const char *text;

	if (notify_place(runs, i, run, &text, why))
		return -EINVAL;
	if (*text == 'o' && text++)
		run->how |= NOTIFY_RUN_OVERWRITE;
	if (*text == 'k' && !text[1]) {
		run->how |= NOTIFY_RUN_KEEP;
		return 0;
	}
	return notify_generation(text, run, why);
}

/**
 * notify_parse_range() - a range of chunks.
 * @runs: the words
 * @i: number of the word: <chunk>:<count>
 * @run: its virt and count are set
 * @why: what is wrong, if anything is
 *
 * Return: 0 or -EINVAL.
 */
int notify_parse_range(const struct notify_runs *runs, unsigned int i,
		       struct notify_run *run, const char **why)
{
	const struct notify_field fields[] = {
		{ NOTIFY_MAX_CHUNKS, &run->virt },
		{ NOTIFY_MAX_CHUNKS, &run->count },
	};
	const char *text = ((char **)runs->arg)[i];

	text = notify_fields(text, fields, ARRAY_SIZE(fields),
			     "a range is chunk:count", why);
	if (!text)
		return -EINVAL;
	if (!*text && text[-1] != ':')
		return 0;
	*why = "a range is chunk:count";
	return -EINVAL;
}
