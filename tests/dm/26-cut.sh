#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# lab: --hosts 1 --cpus 2 --disk 256M
# Snapshots of two volumes at one point: a writer numbers its writes over both,
# and each is sent after the one before was acknowledged. Whatever a snapshot
# shows, it shows with all numbers before it, and none is older than the last one
# that was acknowledged when the snapshot began. Writes are served all the while,
# so that one volume is written between the cuts of both, if it can be. The seed
# is printed.
. "$(dirname "$0")/lib.sh"

SEED=${SEED:-$EPOCHREALTIME}
say "seed $SEED"
data_device 512; A=$DEV
volume one 8 "$A" hold_timeout 60
volume two 8 "$A" hold_timeout 60
volume show1 8 "$A"
volume show2 8 "$A"
python3 "$HERE/cut.py" "$PREFIX" "$A" ${SNAPSHOTS:-100} "$SEED"
for NAME in ${PREFIX}one ${PREFIX}two; do
	[ "$(info 2) $(info 3) $(info 7) $(info 10)" = "0 0 0 live" ]
done
