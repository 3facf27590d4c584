#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# Bad table lines and bad messages: refused by name, and nothing changes.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV

bad_line() {
	refused "$1" dmsetup create ${PREFIX}bad --table "$2"
	if dmsetup info ${PREFIX}bad >/dev/null 2>&1; then die "it is there: $2"; fi
}

say "table lines"
bad_line "Chunk size must be" "0 1024 notify 64 0 0 0 0"
bad_line "Chunk size must be" "0 1024 notify 4194304 0 0 0 0"
bad_line "Chunk size must be" "0 1024 notify x 0 0 0 0"
bad_line "power of two" "0 1024 notify 129 0 0 0 0"
bad_line "Too many chunks" "0 $((129 * 4294967296)) notify 128 0 0 0 0"
bad_line "Invalid pid" "0 1024 notify 128 -1 0 0 0"
bad_line "does not exist" "0 1024 notify 128 4194303 34 0 0"
bad_line "real-time signal" "0 1024 notify 128 $$ 9 0 0"
bad_line "Invalid signal" "0 1024 notify 128 $$ 65 0 0"
bad_line "Invalid number of data devices" "0 1024 notify 128 0 0 65"
bad_line "Invalid number of data devices" "0 1024 notify 128 0 0 2 $A"
bad_line "Cannot open a data device" "0 1024 notify 128 0 0 1 /dev/nowhere 0"
bad_line "Invalid number of feature" "0 1024 notify 128 0 0 0"
bad_line "Invalid number of feature" "0 1024 notify 128 0 0 0 4 a b c d"
bad_line "Unknown or incomplete feature" "0 1024 notify 128 0 0 0 1 fly"
bad_line "Unknown or incomplete feature" "0 1024 notify 128 0 0 0 1 hold_timeout"
bad_line "hold_timeout must be" "0 1024 notify 128 0 0 0 2 hold_timeout 86401"
bad_line "hold_timeout 0 needs" "0 1024 notify 128 0 0 0 2 hold_timeout 0"
bad_line "Too many arguments" "0 1024 notify 128 0 0 0 0 more"

say "every good line reads back"
for good in "0 1024 notify 128 0 0 0 0" \
	"0 1024 notify 2097152 $$ 34 0 1 skip_zero_writes" \
	"0 1024 notify 8192 $$ 64 0 2 hold_timeout 0" \
	"0 1024 notify 8192 $$ 0 0 3 skip_zero_writes hold_timeout 86400"; do
	dmsetup create ${PREFIX}good --table "$good"
	[ "$(dmsetup table ${PREFIX}good)" = "$good" ]
	dmsetup remove ${PREFIX}good
done

say "messages"
volume v 64 "$A"
msg map 0:0:0:2
before=$(msg dump; dmsetup status "$NAME"; dmsetup table "$NAME")
bad() { refused "$@"; }
bad "unknown message" msg fly
bad "wrong number" msg map
bad "a run is" msg map 1 0 1
bad "not a number" msg map 1:0:1:1:w again
bad "not a number" msg "map -1:0:1:1"
bad "not a number" msg map 1:0:0x10:1
bad "not a number" msg map 1:0:99999999999999999999:1
bad "end of the volume" msg map 64:0:1:1
bad "end of the volume" msg map 63:0:1:2
bad "end of the volume" msg map 5:0:1:0
bad "no such data device" msg map 5:1:1:1
bad "end of the data device" msg map 5:0:1024:1
bad "end of the data device" msg map 5:0:34359738367:1
bad "not a number" msg map 5:0:34359738369:1
bad "a run is" msg map 5:0:1
bad "unknown flags of a run" msg map 5:0:1:1:w:w
for flags in x ww pw dw wd wpd ud k o k3 w3p ""; do
	bad "unknown flags of a run" msg map 5:0:1:1:$flags
done
bad "wrong number" msg leave
bad "a range is" msg leave 0:1 2
bad "a range is" msg leave 0 1
bad "wrong number" msg leave force
bad "busy" msg leave 0:1
bad "wrong number" msg forget
bad "end of the volume" msg forget 60:5
bad "not a number" msg map 5:0::1
bad "a run is" msg map 5:0:5:1 6
bad "chunk is not mapped" msg remap 5:0:1:1
bad "busy" msg remap 0:0:5:1
for flags in w p ko kk 3k x; do
	bad "unknown flags of a run" msg remap 0:0:5:1:$flags
done
bad "no such generation" msg map 5:0:5:1:1
bad "not a number" msg map 5:0:5:1:65536
bad "busy" msg unmap 0:1
bad "a range is" msg unmap 0:1:1
bad "not a number" msg unmap 0:1 force 2
bad "end of the volume" msg unmap 64:1
bad "end of the volume" msg protect 0:65
bad "end of the volume" msg watch 0:1 64:1
bad "wrong number" msg snapshot 1 2
bad "not a number" msg snapshot 65536
bad "only a snapshot" msg mark 1
bad "wrong number" msg mark
bad "wrong number" msg freeze
bad "no time" msg freeze 0
bad "not a number" msg freeze 30001
bad "not frozen" msg thaw
bad "wrong number" msg pending now
bad "wrong number" msg notifier $$
bad "real-time" msg notifier $$ 9
bad "no such process" msg notifier 4194303 34
bad "unknown argument" msg stats all
bad "wrong number" msg drain x
[ "$before" = "$(msg dump; dmsetup status "$NAME"; dmsetup table "$NAME")" ]

say "a place beyond the last that there can be"
dmsetup create ${PREFIX}vast --table "0 $((1 << 43)) error"
volume far 64 /dev/mapper/${PREFIX}vast
bad "out of range" msg map 0:0:34359738367:2
bad "out of range" msg map 0:0:34359738368:1
msg map 0:0:34359738367:1
chart "0:0:34359738367:1"
