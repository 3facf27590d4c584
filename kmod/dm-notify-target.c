// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": what device-mapper calls, except for I/O.
 *
 * Table lines, suspend and resume, status, limits. dm-notify.h describes the
 * parts and the locking.
 */
#include "dm-notify.h"

#include <linux/log2.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

struct workqueue_struct *dm_notify_wq;

/* ---- construction ---- */

static int dm_notify_parse_chunk(struct dm_notify_target *nt,
				 struct dm_arg_set *as)
{
	static const struct dm_arg arg = {
		1U << DM_NOTIFY_MIN_CHUNK_SHIFT,
		1U << DM_NOTIFY_MAX_CHUNK_SHIFT,
		"Chunk size must be 128 to 2097152 sectors",
	};
	struct dm_target *ti = nt->ti;
	unsigned int sectors;

	if (dm_read_arg(&arg, as, &sectors, &ti->error))
		return -EINVAL;
	if (!is_power_of_2(sectors)) {
		ti->error = "Chunk size must be a power of two";
		return -EINVAL;
	}
	nt->chunk_shift = ilog2(sectors);
	nt->chunk_mask = sectors - 1;
	nt->nr_chunks = (ti->len + sectors - 1) >> nt->chunk_shift;
	if (nt->nr_chunks > DM_NOTIFY_MAX_CHUNKS) {
		ti->error = "Too many chunks: use larger ones";
		return -EINVAL;
	}
	return 0;
}

static int dm_notify_parse_notifier(struct dm_notify_target *nt,
				    struct dm_arg_set *as)
{
	static const struct dm_arg args[] = {
		{ 0, INT_MAX, "Invalid pid of the notifier" },
		{ 0, _NSIG, "Invalid signal number" },
	};
	struct dm_target *ti = nt->ti;
	unsigned int pid, signo;
	int r;

	if (dm_read_arg(&args[0], as, &pid, &ti->error) ||
	    dm_read_arg(&args[1], as, &signo, &ti->error))
		return -EINVAL;
	r = dm_notify_set_notifier(nt, pid, signo);
	if (r == -EINVAL)
		ti->error = "Signal must be 0 or a real-time signal";
	else if (r == -ESRCH)
		ti->error = "Notifier does not exist: use pid 0 for none";
	return r;
}

static int dm_notify_parse_devices(struct dm_notify_target *nt,
				   struct dm_arg_set *as)
{
	static const struct dm_arg arg = {
		0,
		DM_NOTIFY_MAX_DEVS,
		"Invalid number of data devices",
	};
	struct dm_target *ti = nt->ti;
	unsigned int nr;
	int r;

	if (dm_read_arg_group(&arg, as, &nr, &ti->error))
		return -EINVAL;
	while (nt->nr_devs < nr) {
		r = dm_get_device(ti, dm_shift_arg(as),
				  dm_table_get_mode(ti->table),
				  &nt->devs[nt->nr_devs]);
		if (r) {
			ti->error = "Cannot open a data device";
			return r;
		}
		nt->nr_devs++;
	}
	return 0;
}

static int dm_notify_parse_features(struct dm_notify_target *nt,
				    struct dm_arg_set *as)
{
	static const struct dm_arg group = {
		0,
		3,
		"Invalid number of feature arguments",
	};
	static const struct dm_arg seconds = {
		0,
		DM_NOTIFY_MAX_HOLD_TIMEOUT,
		"hold_timeout must be 0 to 86400 s",
	};
	struct dm_target *ti = nt->ti;
	unsigned int nr;
	const char *name;

	if (dm_read_arg_group(&group, as, &nr, &ti->error))
		return -EINVAL;
	while (nr) {
		name = dm_shift_arg(as);
		nr--;
		if (!strcasecmp(name, "skip_zero_writes")) {
			nt->skip_zero_writes = true;
		} else if (!strcasecmp(name, "hold_timeout") && nr) {
			if (dm_read_arg(&seconds, as, &nt->hold_timeout,
					&ti->error))
				return -EINVAL;
			nt->hold_timeout_given = true;
			nr--;
		} else {
			ti->error = "Unknown or incomplete feature";
			return -EINVAL;
		}
	}
	if (as->argc) {
		ti->error = "Too many arguments";
		return -EINVAL;
	}
	if (!nt->hold_timeout && !nt->pid_nr) {
		ti->error = "hold_timeout 0 needs a notifier";
		return -EINVAL;
	}
	return 0;
}

static void dm_notify_put_devices(struct dm_notify_target *nt)
{
	while (nt->nr_devs)
		dm_put_device(nt->ti, nt->devs[--nt->nr_devs]);
}

static void dm_notify_set_limits(struct dm_notify_target *nt)
{
	struct dm_target *ti = nt->ti;

	ti->num_flush_bios = nt->nr_devs;
	ti->num_discard_bios = 1;
	ti->num_write_zeroes_bios = 1;
	ti->discards_supported = true;
	ti->accounts_remapped_io = true;
	/* Swapping must not use up what memory there is before it is answered. */
	ti->limit_swap_bios = true;
	ti->per_io_data_size = sizeof(struct dm_notify_io);
}

/*
 * notify <chunk_sectors> <pid> <signo> <#devs> <dev>* <#features> <feature>*
 *
 * Features: skip_zero_writes, hold_timeout <seconds>
 */
static int dm_notify_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct mapped_device *md = dm_table_get_md(ti->table);
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	struct dm_notify_target *nt;
	int r;

	nt = kzalloc(sizeof(*nt), GFP_KERNEL);
	if (!nt) {
		ti->error = "Cannot allocate the target";
		return -ENOMEM;
	}
	nt->ti = ti;
	nt->minor = MINOR(disk_devt(dm_disk(md)));
	nt->hold_timeout = DM_NOTIFY_HOLD_TIMEOUT;
	dm_notify_hold_init(nt);
	dm_notify_thaw_init(nt);
	dm_notify_bell_init(nt);

	r = dm_notify_parse_chunk(nt, &as);
	if (!r)
		r = dm_notify_parse_notifier(nt, &as);
	if (r)
		goto out_bell;
	r = dm_notify_parse_devices(nt, &as);
	if (!r)
		r = dm_notify_parse_features(nt, &as);
	if (r)
		goto out_devices;
	r = dm_notify_map_attach(nt);
	if (r)
		goto out_devices;

	dm_notify_set_limits(nt);
	ti->private = nt;
	return 0;

out_devices:
	dm_notify_put_devices(nt);
out_bell:
	dm_notify_bell_exit(nt);
	kfree(nt);
	return r;
}

static void dm_notify_dtr(struct dm_target *ti)
{
	struct dm_notify_target *nt = ti->private;

	/* A table that was never resumed was never suspended either. */
	dm_notify_thaw_quiesce(nt);
	dm_notify_hold_quiesce(nt);
	dm_notify_bell_quiesce(nt);
	dm_notify_map_detach(nt);
	dm_notify_put_devices(nt);
	dm_notify_bell_exit(nt);
	kfree(nt);
}

/* ---- suspend and resume ---- */

/*
 * Device-mapper waits for every bio. A noflush suspend has those back that are
 * held, and they are mapped by whatever table comes next. A flushing one first
 * writes what the file system on the device has to write, which may need
 * chunks: its writes are held and served like any others.
 */
static void dm_notify_presuspend(struct dm_target *ti)
{
	if (dm_noflush_suspending(ti))
		dm_notify_hold_give_back(ti->private);
}

/* It was interrupted: what was given back comes back to the same table. */
static void dm_notify_presuspend_undo(struct dm_target *ti)
{
	dm_notify_hold_resume(ti->private);
}

/* All I/O has ended, and none begins until a resume. Messages may come. */
static void dm_notify_postsuspend(struct dm_target *ti)
{
	dm_notify_thaw_quiesce(ti->private);
	dm_notify_hold_quiesce(ti->private);
	dm_notify_bell_quiesce(ti->private);
}

/* A table that is swapped in takes the map over here, while nothing moves. */
static int dm_notify_preresume(struct dm_target *ti)
{
	return dm_notify_map_go_live(ti->private);
}

/* All targets of the table have been asked by now. */
static void dm_notify_resume(struct dm_target *ti)
{
	dm_notify_map_serve(ti->private);
	dm_notify_hold_resume(ti->private);
	dm_notify_thaw_resume(ti->private);
	dm_notify_ring_again(ti->private);
}

/* ---- status and limits ---- */

static u64 dm_notify_bios(const struct dm_notify_map *map,
			  enum dm_notify_kind kind)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(map->hot.cpu, cpu)->bios[kind]);
	return sum;
}

static void dm_notify_status_info(struct dm_notify_target *nt, char *result,
				  unsigned int maxlen)
{
	struct dm_notify_map *map = nt->map;
	unsigned long wanted, held;
	size_t sz = 0;

	spin_lock(&nt->lock);
	wanted = nt->nr_wanted;
	held = nt->nr_held;
	spin_unlock(&nt->lock);

	DMEMIT("%llu/%llu %lu %lu %lld %s %s %lld %u %u %s",
	       READ_ONCE(map->nr_mapped), nt->nr_chunks, wanted, held,
	       atomic64_read(&map->counters[DM_NOTIFY_SIGNALS]),
	       READ_ONCE(map->nospace) ? "nospace" : "rw",
	       dm_notify_notifier_state(nt),
	       atomic64_read(&map->counters[DM_NOTIFY_TIMED_OUT]),
	       READ_ONCE(map->gen), READ_ONCE(map->floor),
	       dm_notify_frozen(map) ? "frozen" : "live");
	DMEMIT(" %llu %llu %llu %llu %llu",
	       dm_notify_bios(map, DM_NOTIFY_READS),
	       dm_notify_bios(map, DM_NOTIFY_WRITES),
	       dm_notify_bios(map, DM_NOTIFY_DISCARDS), READ_ONCE(map->growths),
	       READ_ONCE(map->copies));
}

static void dm_notify_status_table(struct dm_notify_target *nt, char *result,
				   unsigned int maxlen)
{
	unsigned int i, pid, signo;
	size_t sz = 0;

	spin_lock(&nt->lock);
	pid = nt->pid_nr;
	signo = nt->signo;
	spin_unlock(&nt->lock);

	DMEMIT("%u %u %u %u", 1U << nt->chunk_shift, pid, signo, nt->nr_devs);
	for (i = 0; i < nt->nr_devs; i++)
		DMEMIT(" %s", nt->devs[i]->name);
	DMEMIT(" %u", nt->skip_zero_writes + 2 * nt->hold_timeout_given);
	if (nt->skip_zero_writes)
		DMEMIT(" skip_zero_writes");
	if (nt->hold_timeout_given)
		DMEMIT(" hold_timeout %u", nt->hold_timeout);
}

static void dm_notify_status_ima(struct dm_notify_target *nt, char *result,
				 unsigned int maxlen)
{
	unsigned int i;
	size_t sz = 0;

	DMEMIT_TARGET_NAME_VERSION(nt->ti->type);
	DMEMIT(",chunk_sectors=%u", 1U << nt->chunk_shift);
	for (i = 0; i < nt->nr_devs; i++)
		DMEMIT(",device_%u=%s", i, nt->devs[i]->name);
	DMEMIT(",skip_zero_writes=%c", nt->skip_zero_writes ? 'y' : 'n');
	DMEMIT(",hold_timeout=%u;", nt->hold_timeout);
}

static void dm_notify_status(struct dm_target *ti, status_type_t type,
			     unsigned int status_flags, char *result,
			     unsigned int maxlen)
{
	switch (type) {
	case STATUSTYPE_INFO:
		dm_notify_status_info(ti->private, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		dm_notify_status_table(ti->private, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		dm_notify_status_ima(ti->private, result, maxlen);
		break;
	}
}

static int dm_notify_iterate_devices(struct dm_target *ti,
				     iterate_devices_callout_fn fn, void *data)
{
	struct dm_notify_target *nt = ti->private;
	unsigned int i;
	int r = 0;

	for (i = 0; i < nt->nr_devs && !r; i++)
		r = fn(ti, nt->devs[i], 0, bdev_nr_sectors(nt->devs[i]->bdev),
		       data);
	return r;
}

/*
 * Only a discard of a whole chunk gives space back, so say that chunks are
 * the grain. Discards are cut at multiples of the grain, counted from the
 * start of the device: where chunks begin in between, it has to be smaller, or
 * no discard of a single chunk would ever come in one piece. Discards work
 * whatever the data devices support: there is nothing to do in a hole, and the
 * devices split what is too large for them.
 *
 * A file system that lays its files out by chunks uses fewer of them. The kernel
 * reads ahead twice of what is optimal, so large chunks are not named.
 */
static void dm_notify_io_hints(struct dm_target *ti,
			       struct queue_limits *limits)
{
	struct dm_notify_target *nt = ti->private;
	u64 align = nt->ti->begin | BIT_ULL(nt->chunk_shift);

	limits->discard_granularity = 1U << (__ffs64(align) + SECTOR_SHIFT);
	limits->max_discard_sectors = UINT_MAX;
	limits->max_hw_discard_sectors = UINT_MAX;
	if (nt->chunk_shift <= DM_NOTIFY_MAX_OPT_SHIFT)
		limits->io_opt = 1U << (nt->chunk_shift + SECTOR_SHIFT);
}

static struct target_type dm_notify_target = {
	.name = "notify",
	.version = { 3, 2, 0 },
	.features = DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = dm_notify_ctr,
	.dtr = dm_notify_dtr,
	.map = dm_notify_io_map,
	.end_io = dm_notify_io_end,
	.presuspend = dm_notify_presuspend,
	.presuspend_undo = dm_notify_presuspend_undo,
	.postsuspend = dm_notify_postsuspend,
	.preresume = dm_notify_preresume,
	.resume = dm_notify_resume,
	.status = dm_notify_status,
	.message = dm_notify_message,
	.iterate_devices = dm_notify_iterate_devices,
	.io_hints = dm_notify_io_hints,
};

static int __init dm_notify_init(void)
{
	int r;

	r = dm_notify_leaf_init();
	if (r)
		return r;
	dm_notify_wq =
		alloc_workqueue("dm-notify", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!dm_notify_wq) {
		r = -ENOMEM;
		goto out_table;
	}
	r = dm_register_target(&dm_notify_target);
	if (!r)
		return 0;

	destroy_workqueue(dm_notify_wq);
out_table:
	dm_notify_leaf_exit();
	return r;
}

static void __exit dm_notify_exit(void)
{
	dm_unregister_target(&dm_notify_target);
	destroy_workqueue(dm_notify_wq);
	dm_notify_leaf_exit();
}

module_init(dm_notify_init);
module_exit(dm_notify_exit);

MODULE_DESCRIPTION(DM_NAME " target that asks user space for space");
MODULE_AUTHOR("The virtnotify developers");
MODULE_LICENSE("GPL");
