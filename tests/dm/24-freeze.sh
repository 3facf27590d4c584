#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# A frozen volume holds all that would change it, until it is thawed or its time
# is over.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A" skip_zero_writes
zero() { blkdiscard -z -o $(($1 * KIB * 1024)) -l $(($2 * KIB * 1024)) "$VOL"; }
discard() { blkdiscard -o $(($1 * KIB * 1024)) -l $(($2 * KIB * 1024)) "$VOL"; }

msg map 0:0:0:8
put a 0 512

say "writes, zeroing and discards wait, of holes and of mapped chunks; reads do not"
msg freeze 30000
[ "$(info 10)" = frozen ]
start put b 0 4; B=$JOB
start put c $((20 * KIB)) 4; C=$JOB
until_info 3 2
is a 0 512
is 0 $((20 * KIB)) 64
# While a device is discarded, the kernel lets nobody else seek in it.
start discard 2 1; D=$JOB
until_info 3 3
waiting ""
msg thaw
[ "$(info 10)" = live ]
ends_well $B b
ends_well $D discard
until_info 3 1
waiting "w 20 d 2"
msg map 20:0:20:1
ends_well $C c
is b 0 4; is c $((20 * KIB)) 4
msg freeze 30000
start zero 4 1; Z=$JOB
until_info 3 1
msg thaw
ends_well $Z zeroing
is 0 $((4 * KIB)) 64
[ "$(stat_of held_total)" = 1 ] || die "$(stat_of held_total) writes were held, and one waited for space"

say "it ends by itself, and a thaw is refused then"
msg freeze 1000
put d 0 4
until_info 10 live
kernel_news | grep -q "frozen for too long"
refused "timed out" msg thaw

say "a second freeze begins the time anew"
msg freeze 300
msg freeze 30000
start put e 0 4; W=$JOB
until_info 3 1
sleep 1
[ "$(info 10) $(info 3)" = "frozen 1" ]
msg thaw
ends_well $W e

say "a reload does not end it, and it ends by itself afterwards"
# However long a writer takes to start: the time begins when it waits.
msg freeze 30000
start put f 0 4; W=$JOB
until_info 3 1
msg freeze 15000
swap "$(line 64 "$A")"
until_info 3 1
[ "$(info 10)" = frozen ]
ends_well $W f
refused "timed out" msg thaw

say "a flushing suspend waits for its end, no longer"
msg freeze 30000
start put g 0 4; W=$JOB
until_info 3 1
msg freeze 5000
dmsetup suspend "$NAME"
ends_well $W g
dmsetup resume "$NAME"

# outlasts CHUNK COMMAND...: a write is frozen for longer than it may wait, then the command runs
outlasts() {
	msg freeze 30000
	start put h $(($1 * KIB)) 4; W=$JOB
	until_info 3 1
	sleep 7
	[ "$(info 3) $(info 7)" = "1 0" ]
	"${@:2}"
	until_info 3 1
	msg thaw
	until_info 2 1
	msg map "$1:0:$((100 + $1)):1"
	ends_well $W h
}
say "the time that a write was frozen is none that it waited for space"
volume t 64 "$A" hold_timeout 6
outlasts 0 true

say "so it is across a reload"
outlasts 1 swap "$(line 64 "$A" hold_timeout 6)"

say "what was held in a mapped chunk is forgotten when it goes on"
msg freeze 30000
start put h $KIB 4; W=$JOB
until_info 3 1
dmsetup suspend --noflush "$NAME"
dmsetup resume "$NAME"
until_info 3 1
msg thaw
ends_well $W h
sleep 7
msg protect 1:1
start put h $KIB 4; W=$JOB
until_info 3 1
msg unprotect 1:1
ends_well $W h

say "a write that had waited before has the rest of its time afterwards"
volume r 64 "$A" hold_timeout 20
start put h 0 4; W=$JOB
until_info 3 1
msg freeze 30000
sleep 21
msg thaw
until_info 2 1
msg map 0:0:102:1
ends_well $W h
[ "$(info 7)" = 0 ]
NAME=${PREFIX}t VOL=/dev/mapper/${PREFIX}t

say "no space fails what needs a chunk when it is thawed, and nothing else"
msg freeze 30000
msg nospace
start put i 0 4; I=$JOB
start put j $((5 * KIB)) 4; J=$JOB
until_info 3 2
msg thaw
ends_well $I i
ends_badly $J j
