/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device-mapper target "notify": what the map has of a chunk.
 */
#ifndef DM_NOTIFY_ENTRY_H
#define DM_NOTIFY_ENTRY_H

#include <linux/bits.h>
#include <linux/types.h>

/*
 * A chunk's entry is one 64-bit word. That of a mapped chunk:
 *
 *   bit 0       DM_NOTIFY_WATCHED    never written; the first write is reported
 *   bit 1       DM_NOTIFY_PROTECTED  reads pass, all else is held
 *   bit 2       DM_NOTIFY_DISCARDED  discarded as a whole, not written since
 *   bit 3       DM_NOTIFY_UNCHANGED  not written since "watch"
 *   bit 4       DM_NOTIFY_MAPPED     it has a place
 *   bits 5-10   number of the device
 *   bit 12      DM_NOTIFY_RESERVED   a message is about to move it
 *   bits 13-28  the generation that it is of
 *   bits 29-63  chunk on that device
 *
 * Adding DM_NOTIFY_NEXT_CHUNK to it gives the entry that a physically contiguous
 * next chunk has. That of a hole is 0, or has one or both of these:
 *
 *   bit 11      DM_NOTIFY_LEAVING    it had a place that is not yet forgotten:
 *                                 zeroes written there are held, too
 *   bit 12      DM_NOTIFY_RESERVED   a message is about to map it
 */
#if BITS_PER_LONG != 64
#error "the notify target packs a chunk's place into one 64-bit word"
#endif

#define DM_NOTIFY_WATCHED	0x1UL
#define DM_NOTIFY_PROTECTED	0x2UL
#define DM_NOTIFY_DISCARDED	0x4UL
#define DM_NOTIFY_UNCHANGED	0x8UL
#define DM_NOTIFY_FLAGS		0xfUL
#define DM_NOTIFY_UNWRITTEN	(DM_NOTIFY_WATCHED | DM_NOTIFY_DISCARDED)
#define DM_NOTIFY_MAPPED	0x10UL
#define DM_NOTIFY_DEV_SHIFT	5
#define DM_NOTIFY_DEV_MASK	0x3fUL
#define DM_NOTIFY_LEAVING	0x800UL
#define DM_NOTIFY_RESERVED	0x1000UL
#define DM_NOTIFY_GEN_SHIFT	13
#define DM_NOTIFY_MAX_GEN	0xffffUL
#define DM_NOTIFY_GEN_MASK	(DM_NOTIFY_MAX_GEN << DM_NOTIFY_GEN_SHIFT)
#define DM_NOTIFY_PCHUNK_SHIFT	29
#define DM_NOTIFY_NEXT_CHUNK	BIT(DM_NOTIFY_PCHUNK_SHIFT)

static inline unsigned int dm_notify_entry_dev(unsigned long entry)
{
	return (entry >> DM_NOTIFY_DEV_SHIFT) & DM_NOTIFY_DEV_MASK;
}

static inline u64 dm_notify_entry_pchunk(unsigned long entry)
{
	return entry >> DM_NOTIFY_PCHUNK_SHIFT;
}

static inline unsigned int dm_notify_entry_gen(unsigned long entry)
{
	return (entry & DM_NOTIFY_GEN_MASK) >> DM_NOTIFY_GEN_SHIFT;
}

#endif
