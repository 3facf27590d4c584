#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# notifyd.sh COMMAND [ARG...]: run the command each time the signal comes.
#
# The whole daemon of the demonstration: it knows nothing of device-mapper.
# Signal 35 is SIGRTMIN+1 to the C library. Signals that come while the command
# runs are not lost: bash remembers them, and the trap runs afterwards.
trap 'signals=$((signals + 1))' 35
signals=0
trap 'kill $idle 2>/dev/null; exit' TERM INT
sleep infinity &
idle=$!
echo "notifyd: $$"
while :; do
	while [ $signals -gt 0 ]; do
		signals=$((signals - 1))
		"$@"
	done
	wait $idle
done
