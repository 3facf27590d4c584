#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The signal: what it carries, to whom it goes, and what happens when it is lost.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 256 "$A"
MINOR=$(dmsetup info -c --noheadings -o minor "$NAME" | tr -d ' ')

listener() { helper listen.py "$NAME" "$@"; HEARD=1; }
# hear TEXT: the next line that the listener says
hear() {
	HEARD=$((HEARD + 1))
	said() { [ "$(wc -l <"$SAID")" -ge $HEARD ]; }
	until_true said
	[ "$(sed -n ${HEARD}p "$SAID")" = "$1" ] || die "heard '$(cat "$SAID")', not '$1'"
}
silence() {
	sleep 1
	[ "$(wc -l <"$SAID")" = $HEARD ] || die "heard '$(tail -1 "$SAID")'"
}

say "one signal until pending, to that thread, with the minor"
[ "$(info 6)" = none ]
listener
[ "$(info 6)" = alive ]
start put a 0 4; W0=$JOB
hear "40 -1 0 $MINOR"
start put a $KIB 4; W1=$JOB
until_info 3 2
silence
waiting "w 0 w 1"
start put a $((2 * KIB)) 4; W2=$JOB
hear "40 -1 0 $MINOR"
[ "$(info 4)" = 2 ]

say "a notifier that dies is seen, and a new one hears at once"
kill_helper
until_info 6 gone
msg pending >/dev/null
start put a $((3 * KIB)) 4; W3=$JOB
until_info 3 4
events_are() { [ "$(stat_of events)" = "$1" ]; }
events() { events_are "$1" || die "$(stat_of events) events, not $1"; }
# Two signals were sent, and then one could not be.
until_true events_are 1
listener
hear "40 -1 0 $MINOR"
msg map 0:0:0:4
for w in $W0 $W1 $W2 $W3; do ends_well $w a; done
kill_helper

say "an event takes the place of the signal, where that is sent to nobody"
events 1
event=$(dmsetup info -c --noheadings -o events "$NAME" | tr -d ' ')
start dmsetup wait --noflush "$NAME" "$event"; E=$JOB
msg pending >/dev/null
msg notifier 0 0
start put a $((4 * KIB)) 4; W=$JOB
wait $E
msg map 4:0:4:1
ends_well $W a

say "a receiver whose queue is full is tried again"
listener --queue 0
signals=$(info 4)
msg pending >/dev/null
before=$(stat_of events)
start put a $((5 * KIB)) 4; W=$JOB
retried() { [ "$(stat_of signal_retries)" -gt 2 ]; }
until_true retried
until_true events_are $((before + 1))
[ "$(info 4)" = "$signals" ]
silence
prlimit --pid "$HELPER" --sigpending=4096:4096
hear "40 -1 0 $MINOR"
msg map 5:0:5:1
ends_well $W a
kill_helper

say "a handler that is killed and started again loses nothing"
handler "$NAME"
put b $((10 * KIB)) $((20 * KIB))
kill_helper
start put c $((30 * KIB)) $((20 * KIB)); W=$JOB
until_info 2 20
handler "$NAME"
ends_well $W c
is b $((10 * KIB)) $((20 * KIB))
is c $((30 * KIB)) $((20 * KIB))
