#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Suspend, remove and unload while a write is held: clean or refused, never a hang.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A"

say "noflush gives the write back, and it is held again"
start put a 0 4; W=$JOB
until_info 3 1
dmsetup suspend --noflush "$NAME"
[ "$(info 3)" = 0 ]
dmsetup resume "$NAME"
until_info 3 1
dmsetup suspend --noflush "$NAME"
msg map 0:0:0:1
dmsetup resume "$NAME"
ends_well $W a
is a 0 4

say "a flushing suspend waits until it is served"
start put b $KIB 4; W=$JOB
until_info 3 1
start exec dmsetup suspend --nolockfs "$NAME"; S=$JOB
until_waits $S dm_suspend
[ "$(info 3)" = 1 ]
waiting "w 1"
msg map 1:0:1:1
ends_well $W b
ends_well $S suspend
dmsetup resume "$NAME"
is b $KIB 4

say "so does a load and a resume without a suspend"
start put e $((3 * KIB)) 4; W=$JOB
until_info 3 1
dmsetup load "$NAME" --table "$(line 64 "$A")"
start exec dmsetup resume "$NAME"; S=$JOB
until_waits $S dm_suspend
msg map 3:0:3:1
ends_well $W e
ends_well $S resume
is e $((3 * KIB)) 4

say "one that is interrupted fails no write"
start put f $((4 * KIB)) 4; W=$JOB
until_info 3 1
start exec dmsetup suspend --nolockfs "$NAME"; S=$JOB
until_waits $S dm_suspend
kill -9 $S
until_true test ! -e /proc/$S
[ "$(info 3)" = 1 ]
msg map 4:0:4:1
ends_well $W f
is f $((4 * KIB)) 4

say "with nobody to serve it, the hold timeout ends it"
volume short 64 "$A" hold_timeout 2
start put g 0 4; W=$JOB
until_info 3 1
dmsetup suspend --nolockfs "$NAME"
ends_badly $W g
dmsetup resume "$NAME"
[ "$(info 7)" = 1 ]
NAME=${PREFIX}v VOL=/dev/mapper/${PREFIX}v

say "remove and rmmod are refused while it is in use"
start put c $((2 * KIB)) 4; W=$JOB
until_info 3 1
refused "busy" dmsetup remove "$NAME"
refused "in use" rmmod dm-notify
[ "$(info 3)" = 1 ]

say "a forced remove ends it, once it was told that there is no space"
msg nospace
ends_badly $W c
dmsetup remove --retry --force "$NAME"

say "an error table while writes wait"
volume w 64 "$A"
start put d 0 $((8 * KIB)); W=$JOB
until_info 2 8
swap "0 $((64 * CHUNK)) error"
ends_badly $W d "Input/output error"
