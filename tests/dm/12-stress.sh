#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# lab: --hosts 1 --cpus 2 --disk 256M
# Twelve writers at random over holes, who write, zero and discard, while chunks
# are mapped, taken back, protected and moved, the table is reloaded and the
# notifier dies: every write ends, and every block is what it may be. The seed is
# printed; SEED=... repeats what the writers and the handler choose, SECONDS_OF_LOAD=... sets the time.
. "$(dirname "$0")/lib.sh"

CHUNKS=576
SEED=${SEED:-$EPOCHREALTIME}
export SEED
say "seed $SEED"
data_device 96; A=$DEV
volume v $CHUNKS "$A" skip_zero_writes hold_timeout 120
TABLE=$(dmsetup table "$NAME")
helper chaos.py "$NAME" "$A" $CHUNKS 1536 "$TABLE" "$WORK/told"

python3 "$HERE/load.py" "$VOL" $((CHUNKS * KIB)) "${SECONDS_OF_LOAD:-40}" "$SEED" "$WORK/told" >"$WORK/load" 2>&1 ||
	{ cat "$WORK/load" "$SAID"; die "seed $SEED: a block is wrong, or a request failed"; }
test -e "/proc/$HELPER" || { cat "$SAID"; die "seed $SEED: the handler ended"; }
kill "$HELPER"
until_true test ! -e "/proc/$HELPER"
tail -n +2 "$SAID"
grep -q rounds "$SAID"
for kind in w p a d; do
	grep -q "'$kind'" "$SAID" || die "the handler was never told '$kind'"
done
[ "$(info 2) $(info 3) $(info 7)" = "0 0 0" ]
