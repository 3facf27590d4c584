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
msg map 0 0 0
dmsetup resume "$NAME"
ends_well $W a
is a 0 4

say "a flushing suspend fails it"
start put b $KIB 4; W=$JOB
until_info 3 1
dmsetup suspend --nolockfs "$NAME"
ends_badly $W b
dmsetup resume "$NAME"
start put b $KIB 4; W=$JOB
until_info 3 1
msg map 1 0 1
ends_well $W b

say "remove and rmmod are refused while it is in use"
start put c $((2 * KIB)) 4; W=$JOB
until_info 3 1
refused "busy" dmsetup remove "$NAME"
refused "in use" rmmod dm-notify
[ "$(info 3)" = 1 ]

say "a forced remove ends it"
dmsetup remove --force "$NAME" || true
ends_badly $W c
dmsetup remove --retry "$NAME" 2>/dev/null || true

say "an error table while writes wait"
volume w 64 "$A"
start put d 0 $((8 * KIB)); W=$JOB
until_info 2 8
dmsetup load "$NAME" --table "0 $((64 * CHUNK)) error"
dmsetup suspend --noflush "$NAME"
dmsetup resume "$NAME"
ends_badly $W d "Input/output error"
