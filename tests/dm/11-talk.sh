#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The demonstration of the talk: linear + notify, grown by scripts on each
# signal, by plain dmsetup, until a maximum size.
. "$(dirname "$0")/lib.sh"
need bash
EXAMPLES=$HERE/../../kmod/examples
[ -d "$EXAMPLES" ] || { echo "SKIP: no kmod/examples"; exit 200; }

data_device 32; A=$DEV
NAME=${PREFIX}demo; VOL=/dev/mapper/$NAME

# notify NAME MAX_MIB: a notifier, $PID. It says so when it takes the signal, in a
# file of its own: what one before it said is no sign of that.
notify() {
	"$EXAMPLES/notifyd.sh" "$EXAMPLES/master.sh" "$1" "$2" >"$WORK/notifyd.$1" &
	PID=$!
	disown $PID
	JOBS+=("$PID")
	until_true grep -qs notifyd "$WORK/notifyd.$1"
}

notify "$NAME" 12
"$EXAMPLES/create.sh" "$NAME" 4 $PID "$A"
[ "$(blockdev --getsz "$VOL")" = $((5 * 2048)) ]

say "dd writes through it until the maximum"
dd if=/dev/urandom of="$WORK/random" bs=1M count=20 status=none
if dd if="$WORK/random" of="$VOL" bs=64k oflag=direct conv=notrunc 2>"$WORK/err"; then
	die "it did not end"
fi
grep -q "No space left" "$WORK/err"
[ "$(dmsetup table "$NAME" | wc -l)" = 1 ]
[ "$(blockdev --getsz "$VOL")" = $((12 * 2048)) ]

say "and all of it is there"
cmp <(head -c 12M "$WORK/random") <(content "$VOL" 0 12288)
cmp <(head -c 12M "$WORK/random") <(content "$A" 0 12288)
kill $PID
until_true test ! -e /proc/$PID

say "with nothing behind it at all: reads are zeroes, a write waits"
notify "${NAME}2" 6
"$EXAMPLES/create.sh" "${NAME}2" 2 $PID
is 0 0 3072 /dev/mapper/${NAME}2
if dd if="$WORK/random" of=/dev/mapper/${NAME}2 bs=64k oflag=direct conv=notrunc status=none 2>"$WORK/err"; then
	die "it did not end"
fi
[ "$(blockdev --getsz /dev/mapper/${NAME}2)" = $((6 * 2048)) ]
