/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Device-mapper target "notify": what its parts offer each other.
 *
 * Included by dm-notify.h, which says which part uses which.
 */
#ifndef DM_NOTIFY_CALLS_H
#define DM_NOTIFY_CALLS_H

/* dm-notify-target.c */
extern struct workqueue_struct *dm_notify_wq;

/* dm-notify-io.c */
int dm_notify_io_map(struct dm_target *ti, struct bio *bio);
int dm_notify_io_end(struct dm_target *ti, struct bio *bio,
		     blk_status_t *error);
int dm_notify_route(struct dm_notify_target *nt, struct bio *bio);

/* dm-notify-leaf.c */
int dm_notify_leaf_init(void);
void dm_notify_leaf_exit(void);
struct dm_notify_dir *dm_notify_dir_alloc(u64 nr_chunks, gfp_t gfp);
void dm_notify_dir_free(struct dm_notify_dir *dir);
void dm_notify_dir_move(struct dm_notify_dir *to, struct dm_notify_dir *from);
bool dm_notify_dir_put(struct dm_notify_dir *dir, u64 chunk,
		       unsigned long entry, gfp_t gfp);
void dm_notify_dir_give(struct dm_notify_map *map, struct dm_notify_dir *dir);
bool dm_notify_reserve_fill(struct dm_notify_map *map, gfp_t gfp);
void dm_notify_reserve_free(struct dm_notify_map *map);
struct dm_notify_leaf *dm_notify_leaf_get(struct dm_notify_map *map, u64 chunk);
void dm_notify_leaf_put(struct dm_notify_map *map, struct dm_notify_leaf *leaf);
void dm_notify_entry_set(struct dm_notify_map *map, u64 chunk,
			 unsigned long entry);
unsigned long dm_notify_entry_next(const struct dm_notify_map *map, u64 *chunk,
				   u64 last, unsigned long kinds);
void dm_notify_report(struct dm_notify_map *map, u64 chunk, bool discard);
void dm_notify_unreport(struct dm_notify_map *map, u64 chunk);

/* dm-notify-share.c */
int dm_notify_map_attach(struct dm_notify_target *nt);
void dm_notify_map_detach(struct dm_notify_target *nt);
int dm_notify_map_go_live(struct dm_notify_target *nt);
void dm_notify_map_serve(struct dm_notify_target *nt);
struct dm_notify_map *dm_notify_map_borrow(struct mapped_device *md,
					   sector_t begin);
void dm_notify_map_return(struct dm_notify_map *map);

/* dm-notify-inherit.c */
int dm_notify_map_inherit(struct dm_notify_target *nt, unsigned int minor,
			  unsigned int gen, const char **why);

/* dm-notify-generation.c */
int dm_notify_snapshot(struct dm_notify_target *nt, u64 gen, const char **why);
int dm_notify_lower_mark(struct dm_notify_target *nt, u64 gen,
			 const char **why);
int dm_notify_renumber(struct dm_notify_target *nt, const u16 *kept,
		       unsigned int nr, const char **why);
void dm_notify_freeze(struct dm_notify_target *nt, unsigned int ms);
int dm_notify_thaw(struct dm_notify_target *nt, const char **why);
void dm_notify_thaw_init(struct dm_notify_target *nt);
void dm_notify_thaw_resume(struct dm_notify_target *nt);
void dm_notify_thaw_quiesce(struct dm_notify_target *nt);

/* dm-notify-chunk.c */
/**
 * struct dm_notify_runs - the runs or ranges that a message names
 * @nr: their number
 * @get: makes out the one of that number; does not fail once it has not
 * @arg: where it takes them from
 */
struct dm_notify_runs {
	unsigned int nr;
	int (*get)(const struct dm_notify_runs *runs, unsigned int i,
		   struct dm_notify_run *run, const char **why);
	void *arg;
};

/* Chunks that one hold of dm_notify_map.entry_lock may cover. */
#define DM_NOTIFY_MAX_AT_ONCE 65536

unsigned long dm_notify_run_entry(const struct dm_notify_run *run, u64 i);
bool dm_notify_same_place(unsigned long a, unsigned long b);
void dm_notify_breathe(struct dm_notify_map *map, u64 nr);
int dm_notify_get_run(const struct dm_notify_map *map,
		      const struct dm_notify_runs *runs, unsigned int i,
		      struct dm_notify_run *run, const char **why);
void dm_notify_unreserve_one(struct dm_notify_map *map, u64 chunk);
int dm_notify_check_runs(const struct dm_notify_target *nt,
			 const struct dm_notify_runs *runs, u64 most,
			 const char **why);
int dm_notify_check_ranges(const struct dm_notify_target *nt,
			   const struct dm_notify_runs *ranges, u64 *chunks,
			   const char **why);
int dm_notify_map_add(struct dm_notify_target *nt,
		      const struct dm_notify_runs *runs, const char **why);
int dm_notify_map_remove(struct dm_notify_map *map,
			 const struct dm_notify_runs *ranges, bool force,
			 bool leave, const char **why);
void dm_notify_map_forget(struct dm_notify_map *map,
			  const struct dm_notify_runs *ranges);

/* dm-notify-move.c */
int dm_notify_map_move(struct dm_notify_target *nt,
		       const struct dm_notify_runs *runs, const char **why);
void dm_notify_map_flag(struct dm_notify_map *map,
			const struct dm_notify_runs *ranges, unsigned long flag,
			bool on);
bool dm_notify_map_written(struct dm_notify_map *map, u64 chunk, bool discard);
bool dm_notify_map_discarded(struct dm_notify_map *map, u64 chunk, u64 count);
bool dm_notify_map_give_up(struct dm_notify_map *map, u64 chunk);

/* dm-notify-drain.c */
int dm_notify_map_drain(struct dm_notify_map *map);
void dm_notify_map_drain_wake(struct dm_notify_map *map);

/* dm-notify-report.c */
size_t dm_notify_map_dump(struct dm_notify_map *map, u64 from, char *result,
			  size_t maxlen);
size_t dm_notify_pending(struct dm_notify_target *nt, char *result,
			 size_t maxlen);
void dm_notify_account_wait(struct dm_notify_target *nt, struct bio *bio);
size_t dm_notify_stats(struct dm_notify_target *nt, char *result,
		       size_t maxlen);
void dm_notify_stats_reset(struct dm_notify_target *nt);

/* dm-notify-hold.c */
#define DM_NOTIFY_HOLD_RETRY (-1)
void dm_notify_hold_init(struct dm_notify_target *nt);
void dm_notify_hold_quiesce(struct dm_notify_target *nt);
/* What a bio waits for, beside the end of protection and of a freeze. */
enum dm_notify_need {
	DM_NOTIFY_NEED_CHUNK, /* a chunk of the volume's own */
	DM_NOTIFY_NEED_FORGOTTEN, /* a hole that is not leaving, or a chunk */
	DM_NOTIFY_NEED_TURN, /* nothing else */
};

int dm_notify_hold(struct dm_notify_target *nt, struct bio *bio, u64 chunk,
		   enum dm_notify_need need);
void dm_notify_release(struct dm_notify_target *nt, u64 chunk, u64 count);
void dm_notify_release_all(struct dm_notify_target *nt, u64 frozen_ns);
bool dm_notify_hold_take_whole(struct dm_notify_target *nt, u64 chunk,
			       bool take);
void dm_notify_submit_ready(struct dm_notify_target *nt);
void dm_notify_hold_give_back(struct dm_notify_target *nt);
void dm_notify_hold_resume(struct dm_notify_target *nt);
void dm_notify_set_nospace(struct dm_notify_target *nt, bool nospace);

/* dm-notify-held.c */
bool dm_notify_held_is_first(struct dm_notify_io *io);
struct dm_notify_io *dm_notify_held_next(struct dm_notify_io *io);
bool dm_notify_held_is_alone(struct dm_notify_io *io);
void dm_notify_held_insert(struct dm_notify_target *nt,
			   struct dm_notify_io *io);
void dm_notify_held_remove(struct dm_notify_target *nt,
			   struct dm_notify_io *io);
struct dm_notify_io *dm_notify_held_find(struct dm_notify_target *nt,
					 u64 chunk);
void dm_notify_held_remove_all(struct dm_notify_target *nt,
			       struct bio_list *bios);

/* dm-notify-age.c */
struct dm_notify_ages *dm_notify_ages_alloc(unsigned long nr);
void dm_notify_ages_add(struct dm_notify_ages *ages, u64 chunk, u64 since_ns);
u64 dm_notify_ages_since(const struct dm_notify_ages *ages, u64 chunk);
void dm_notify_ages_clear(struct dm_notify_ages *ages, u64 chunk, u64 count);
u64 dm_notify_since_thawed(u64 since_ns, u64 frozen_ns, u64 now);
void dm_notify_ages_thaw(struct dm_notify_ages *ages, u64 frozen_ns, u64 now);
void dm_notify_ages_resume(struct dm_notify_ages *ages);

/* dm-notify-bell.c */
#define DM_NOTIFY_RETRY_MIN_MS 10
#define DM_NOTIFY_RETRY_MAX_MS 100
void dm_notify_bell_init(struct dm_notify_target *nt);
void dm_notify_bell_quiesce(struct dm_notify_target *nt);
void dm_notify_bell_exit(struct dm_notify_target *nt);
int dm_notify_set_notifier(struct dm_notify_target *nt, unsigned int pid_nr,
			   unsigned int signo);
void dm_notify_ring(struct dm_notify_target *nt);
void dm_notify_ring_again(struct dm_notify_target *nt);
const char *dm_notify_notifier_state(struct dm_notify_target *nt);

/* dm-notify-parse.c */
int dm_notify_parse_u64(const char *text, u64 max, u64 *value,
			const char **why);
int dm_notify_parse_run(const struct dm_notify_runs *runs, unsigned int i,
			struct dm_notify_run *run, const char **why);
int dm_notify_parse_move(const struct dm_notify_runs *runs, unsigned int i,
			 struct dm_notify_run *run, const char **why);
int dm_notify_parse_range(const struct dm_notify_runs *runs, unsigned int i,
			  struct dm_notify_run *run, const char **why);

/* dm-notify-message.c */
int dm_notify_message(struct dm_target *ti, unsigned int argc, char **argv,
		      char *result, unsigned int maxlen);

#endif
