#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# lab: --hosts 1 --cpus 2 --disk 256M
# Ten thousand writes wait at once, for a receiver that has room for no signal
# but one; a volume as large as they get.
. "$(dirname "$0")/lib.sh"
N=10000

data_device 640; A=$DEV
volume v $N "$A" hold_timeout 600

start python3 "$HERE/many.py" "$VOL" $N; W=$JOB
until_info 3 $N
[ "$(info 2)" = $N ]

say "a reply that is cut goes on, and names each of them once"
: >"$WORK/all"
for _ in $(seq 100); do
	msg pending >"$WORK/part"
	grep -v more "$WORK/part" >>"$WORK/all"
	grep -q more "$WORK/part" || break
done
[ "$(sort -u "$WORK/all" | wc -l)" = $N ]
[ "$(wc -l <"$WORK/all")" = $N ]

say "a suspend gives them all back, and they come again"
dmsetup suspend --noflush "$NAME"
dmsetup resume "$NAME"
until_info 3 $N

# The limit counts all pending signals of the user, so that perhaps none fits:
# who has no room has to look now and then.
say "a handler with room for one signal serves them all"
(ulimit -i 1; exec python3 "$HERE/notifyd.py" "$NAME" --sweep 2) >"$WORK/handler" 2>&1 &
JOBS+=($!)
DEADLINE=300 until_info 3 0 || { cat "$WORK/handler"; false; }
ends_well $W many
[ "$(info 1)" = $N/$N ]
[ "$(stat_of held_total)" -ge $N ]
[ "$(stat_of timedout) $(stat_of nospace_failed)" = "0 0" ]

say "16 TiB in chunks of 4 MiB"
dmsetup create ${PREFIX}big --table "0 34359738368 notify 8192 0 0 1 $A 0"
NAME=${PREFIX}big
msg map 4194303:0:5:1
put z $((17179869184 - 64)) 64 /dev/mapper/$NAME
is z $((17179869184 - 64)) 64 /dev/mapper/$NAME
is z $((6 * 4096 - 64)) 64 "$A"
chart 4194303:0:5:1
blkdiscard -o 0 -l 8T /dev/mapper/$NAME
[ "$(info 1)" = 1/4194304 ]
