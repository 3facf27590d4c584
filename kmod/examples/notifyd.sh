#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# notifyd.sh COMMAND [ARG...]: run the command each time the signal comes.
#
# The whole daemon of the demonstration: it knows nothing of device-mapper.
# Signal 35 is SIGRTMIN+1 to the C library. It ends the process that is waited
# for, and the next one is there before the command runs: so a signal that comes
# at any moment, also while the command runs, has the command run once more.
#
# One thing a shell cannot do, and a real one must: lock its memory, and call
# prctl(PR_SET_IO_FLUSHER), or memory that is full of data which waits for chunks
# may keep it from mapping them. See "Memory" in dm-notify.rst.
idle=
trap '[ ! "$idle" ] || kill $idle 2>/dev/null' 35
trap '[ ! "$idle" ] || kill $idle 2>/dev/null; exit' TERM INT
sleep infinity &
idle=$!
echo "notifyd: $$"
while :; do
	while kill -0 $idle 2>/dev/null; do wait $idle; done
	sleep infinity &
	idle=$!
	"$@"
done
