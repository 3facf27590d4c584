// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": the bell that tells user space.
 *
 * It rings (a signal, or a device-mapper event where that cannot be sent) when a
 * chunk is first wanted, or there is something else to tell, and then not again
 * until user space asks "pending". It is an edge that may be lost; what waits is
 * the level.
 */
#include "dm-notify.h"

#include <linux/jiffies.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

/**
 * dm_notify_send() - send the signal to the notifier's thread.
 * @nt: the target
 * @pid: the notifier
 * @signo: the signal
 *
 * The struct pid is the notifier's own: a process that gets its number next is
 * not reached by it.
 *
 * Context: does not sleep.
 * Return: 0, -EAGAIN if the receiver's queue is full, -ESRCH if it is gone.
 */
static int dm_notify_send(struct dm_notify_target *nt, struct pid *pid,
			  unsigned int signo)
{
	struct kernel_siginfo info;
	struct task_struct *task;
	int r = -ESRCH;

	clear_siginfo(&info);
	info.si_signo = signo;
	info.si_code = SI_QUEUE;
	info.si_int = nt->minor;

	rcu_read_lock();
	task = pid_task(pid, PIDTYPE_PID);
	if (task)
		r = send_sig_info(signo, &info, task);
	rcu_read_unlock();
	return r;
}

/* The receiver has no room for the signal: send it later. */
static void dm_notify_signal_later(struct dm_notify_target *nt)
{
	unsigned int retry_ms;

	dm_notify_count(nt->map, DM_NOTIFY_SIGNAL_RETRIES);
	spin_lock(&nt->lock);
	retry_ms = nt->retry_ms;
	nt->retry_ms = min_t(unsigned int, 2 * retry_ms,
			     DM_NOTIFY_RETRY_MAX_MS);
	spin_unlock(&nt->lock);
	queue_delayed_work(dm_notify_wq, &nt->signal_work,
			   msecs_to_jiffies(retry_ms));
}

/*
 * Send the signal now, or later if the receiver has no room for it. Return:
 * whether it was sent now, or needs not be.
 */
static bool dm_notify_signal(struct dm_notify_target *nt)
{
	unsigned int signo;
	struct pid *pid;
	bool rung;
	int r;

	spin_lock(&nt->lock);
	rung = nt->rung;
	pid = rung ? get_pid(nt->pid) : NULL;
	signo = nt->signo;
	spin_unlock(&nt->lock);

	r = pid && signo ? dm_notify_send(nt, pid, signo) : -ESRCH;
	put_pid(pid);
	if (r == -EAGAIN) {
		dm_notify_signal_later(nt);
	} else if (!r) {
		dm_notify_count(nt->map, DM_NOTIFY_SIGNALS);
		spin_lock(&nt->lock);
		nt->retry_ms = DM_NOTIFY_RETRY_MIN_MS;
		spin_unlock(&nt->lock);
	}
	return !r || !rung;
}

static void dm_notify_signal_work(struct work_struct *work)
{
	dm_notify_signal(container_of(to_delayed_work(work),
				      struct dm_notify_target, signal_work));
}

/* dm_table_event() takes a mutex, so it has a work item of its own. */
static void dm_notify_event_work(struct work_struct *work)
{
	struct dm_notify_target *nt =
		container_of(work, struct dm_notify_target, event_work);

	dm_notify_count(nt->map, DM_NOTIFY_EVENTS);
	dm_table_event(nt->ti->table);
}

/**
 * dm_notify_ring() - tell user space that something waits.
 * @nt: the target
 *
 * Context: process context; does not sleep.
 */
void dm_notify_ring(struct dm_notify_target *nt)
{
	bool ring;

	spin_lock(&nt->lock);
	ring = !nt->rung;
	nt->rung = true;
	spin_unlock(&nt->lock);
	if (!ring)
		return;
	if (!dm_notify_signal(nt))
		queue_work(dm_notify_wq, &nt->event_work);
}

/**
 * dm_notify_ring_again() - the bell may not have been heard: ring if need be.
 * @nt: the target
 *
 * Context: process context; does not sleep.
 */
void dm_notify_ring_again(struct dm_notify_target *nt)
{
	struct dm_notify_map *map = nt->map;
	bool waits;

	spin_lock(&nt->lock);
	waits = nt->nr_held || nt->rung;
	nt->rung = false;
	spin_unlock(&nt->lock);

	/* The map is not there yet when a table line names the notifier. */
	if (map && !list_empty_careful(&map->reports))
		waits = true;
	if (waits)
		dm_notify_ring(nt);
}

/**
 * dm_notify_set_notifier() - register the process that is told.
 * @nt: the target
 * @pid_nr: process or thread as the caller sees it, 0 for none
 * @signo: real-time signal to send, 0 for none
 *
 * If something waits, the new notifier is told at once.
 *
 * Return: 0, -EINVAL for a signal that cannot be queued, -ESRCH.
 */
int dm_notify_set_notifier(struct dm_notify_target *nt, unsigned int pid_nr,
			   unsigned int signo)
{
	struct pid *pid = NULL;

	if (signo && (signo < SIGRTMIN || signo > SIGRTMAX))
		return -EINVAL;
	if (pid_nr) {
		pid = find_get_pid(pid_nr);
		if (!pid)
			return -ESRCH;
	}

	spin_lock(&nt->lock);
	swap(nt->pid, pid);
	nt->pid_nr = pid_nr;
	nt->signo = signo;
	nt->retry_ms = DM_NOTIFY_RETRY_MIN_MS;
	spin_unlock(&nt->lock);
	put_pid(pid);

	dm_notify_ring_again(nt);
	return 0;
}

/**
 * dm_notify_notifier_state() - is there a notifier?
 * @nt: the target
 *
 * Return: a word for the status line.
 */
const char *dm_notify_notifier_state(struct dm_notify_target *nt)
{
	struct task_struct *task = NULL;
	struct pid *pid;
	bool alive;

	spin_lock(&nt->lock);
	pid = get_pid(nt->pid);
	spin_unlock(&nt->lock);
	if (!pid)
		return "none";

	rcu_read_lock();
	task = pid_task(pid, PIDTYPE_PID);
	alive = task && !READ_ONCE(task->exit_state);
	rcu_read_unlock();
	put_pid(pid);
	return alive ? "alive" : "gone";
}

/**
 * dm_notify_bell_init() - no notifier, nothing to say.
 * @nt: the target
 */
void dm_notify_bell_init(struct dm_notify_target *nt)
{
	nt->retry_ms = DM_NOTIFY_RETRY_MIN_MS;
	INIT_WORK(&nt->event_work, dm_notify_event_work);
	INIT_DELAYED_WORK(&nt->signal_work, dm_notify_signal_work);
}

/**
 * dm_notify_bell_quiesce() - no work of this part runs afterwards.
 * @nt: the target, without I/O
 *
 * Context: may sleep.
 */
void dm_notify_bell_quiesce(struct dm_notify_target *nt)
{
	cancel_delayed_work_sync(&nt->signal_work);
	flush_work(&nt->event_work);
}

/**
 * dm_notify_bell_exit() - the target goes away.
 * @nt: the target, quiet
 */
void dm_notify_bell_exit(struct dm_notify_target *nt)
{
	put_pid(nt->pid);
	nt->pid = NULL;
}
