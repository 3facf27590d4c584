// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device-mapper target "notify": its tracepoints.
 */
#include "dm-notify.h"

#define CREATE_TRACE_POINTS
#include "dm_notify_trace.h"
