#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# hold_timeout: a write that nobody serves gets ENOSPC, the younger one later.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A" hold_timeout 12

begin=$SECONDS
start put a 0 4; W1=$JOB
until_info 3 1
ends_badly $W1 a
took=$((SECONDS - begin))
[ $took -ge 12 ] && [ $took -le 40 ] || die "it took $took s"
[ "$(info 7)" = 1 ]
[ "$(info 2) $(info 3)" = "0 0" ]

say "what is served in time goes on, and the timer looks again"
start put b 0 4; W1=$JOB
until_info 3 1
sleep 2
start put c $KIB 4; W2=$JOB
until_info 3 2
msg map 0:0:0:1
ends_well $W1 b
ends_badly $W2 c
[ "$(info 7)" = 2 ]

say "suspends and reloads do not begin it anew"
start put d $((2 * KIB)) 4; W1=$JOB
until_info 3 1
sleep 5
swap "$(line 64 "$A" hold_timeout 12)"
begin=${EPOCHREALTIME/[.,]/}
ends_badly $W1 d
took=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
[ $took -lt 11000 ] || die "after a reload it waited for $took ms more, of 12000 in all"
[ "$(info 7)" = 3 ]

say "0 is never, for a notifier that there is"
refused "needs a notifier" dmsetup create ${PREFIX}w --table "$(line 64 "$A" hold_timeout 0)"
dmsetup create ${PREFIX}w --table "0 $((64 * CHUNK)) notify $CHUNK $$ 0 1 $A 2 hold_timeout 0"
NAME=${PREFIX}w VOL=/dev/mapper/${PREFIX}w
refused "needs a notifier" msg notifier 0 0
start put a 0 4; W1=$JOB
until_info 3 1
sleep 8
[ "$(info 3)" = 1 ]
msg map 0:0:9:1
ends_well $W1 a

say "what came back from a suspend and needed no space leaves no age behind"
volume z 64 "$A" hold_timeout 10
start put '\0' 0 4; W1=$JOB
until_info 3 1
swap "$(line 64 "$A" skip_zero_writes hold_timeout 10)"
ends_well $W1 zeroes
sleep 11
start put a 0 4; W1=$JOB
until_info 3 1
msg map 0:0:20:1
ends_well $W1 a

say "a call that stops all I/O of the volume waits no longer than that"
volume s 64 "$A" hold_timeout 12
msg map 0:0:30:1
start put a $KIB 4; W1=$JOB
until_info 3 1
start exec dmsetup message "$NAME" 0 @stats_create - /1; S=$JOB
until_waits $S dm_wait_for
start put b 0 4; W2=$JOB
ends_badly $W1 a
ends_well $S "the call"
ends_well $W2 b
is b 0 4
