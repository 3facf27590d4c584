/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device-mapper target "notify": its tracepoints, as dm-notify.rst has them.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dm_notify

#if !defined(DM_NOTIFY_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define DM_NOTIFY_TRACE_H

#include <linux/tracepoint.h>

#include "dm-notify.h"

/* A write, zeroing or discard begins to wait. */
TRACE_EVENT(dm_notify_held,
	    TP_PROTO(const struct dm_notify_target *nt, struct bio *bio, u64 chunk),
	    TP_ARGS(nt, bio, chunk),
	    TP_STRUCT__entry(__field(dev_t, dev)
			     __field(u64, chunk)
			     __field(u64, sector)
			     __field(unsigned int, sectors)),
	    TP_fast_assign(__entry->dev = dm_notify_devt(nt);
			   __entry->chunk = chunk;
			   __entry->sector = bio->bi_iter.bi_sector;
			   __entry->sectors = bio_sectors(bio);),
	    TP_printk("%d:%d chunk %llu sector %llu + %u",
		      MAJOR(__entry->dev), MINOR(__entry->dev), __entry->chunk,
		      __entry->sector, __entry->sectors)
);

/* It goes on, to where its chunk is. */
TRACE_EVENT(dm_notify_released,
	    TP_PROTO(const struct dm_notify_target *nt, u64 chunk, u64 wait_ns),
	    TP_ARGS(nt, chunk, wait_ns),
	    TP_STRUCT__entry(__field(dev_t, dev)
			     __field(u64, chunk)
			     __field(u64, wait_ns)),
	    TP_fast_assign(__entry->dev = dm_notify_devt(nt);
			   __entry->chunk = chunk;
			   __entry->wait_ns = wait_ns;),
	    TP_printk("%d:%d chunk %llu after %llu ns",
		      MAJOR(__entry->dev), MINOR(__entry->dev), __entry->chunk,
		      __entry->wait_ns)
);

/* A run of chunks has places now: by "map", or, if @moved, by "remap". */
TRACE_EVENT(dm_notify_mapped,
	    TP_PROTO(const struct dm_notify_target *nt,
		     const struct dm_notify_run *run, bool moved),
	    TP_ARGS(nt, run, moved),
	    TP_STRUCT__entry(__field(dev_t, dev)
			     __field(u64, chunk)
			     __field(u64, count)
			     __field(dev_t, data_dev)
			     __field(u64, pchunk)
			     __field(bool, moved)),
	    TP_fast_assign(__entry->dev = dm_notify_devt(nt);
			   __entry->chunk = run->virt;
			   __entry->count = run->count;
			   __entry->data_dev = nt->devs[run->dev]->bdev->bd_dev;
			   __entry->pchunk = run->phys;
			   __entry->moved = moved;),
	    TP_printk("%d:%d chunk %llu + %llu at %d:%d chunk %llu%s",
		      MAJOR(__entry->dev), MINOR(__entry->dev), __entry->chunk,
		      __entry->count, MAJOR(__entry->data_dev),
		      MINOR(__entry->data_dev), __entry->pchunk,
		      __entry->moved ? " moved" : "")
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE dm_notify_trace
#include <trace/define_trace.h>
