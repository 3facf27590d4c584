#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An I/O error of the data device fails that I/O alone; a data device that grows is seen.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
# 64 KiB at 256 KiB are bad
dmsetup create ${PREFIX}bad --table "0 512 linear $A 0
512 128 error
640 3456 linear $A 640"
BAD=/dev/mapper/${PREFIX}bad
volume v 64 "$BAD"

msg map 0:0:0:8
put a 0 256
start put a 256 64
ends_badly $JOB a "Input/output error"
put a 320 128
is a 0 256; is a 320 128

say "a held write that goes on to a bad place fails alone"
start put b $((20 * KIB)) 4; W1=$JOB
start put c $((21 * KIB)) 4; W2=$JOB
until_info 3 2
msg map 20:0:4:1
ends_badly $W1 b "Input/output error"
msg map 21:0:20:1
ends_well $W2 c

say "space that the device did not have before"
refused "end of the data device" msg map 40:0:32:2
dmsetup suspend ${PREFIX}bad
dmsetup load ${PREFIX}bad --table "0 8192 linear $A 0"
dmsetup resume ${PREFIX}bad
msg map 40:0:32:2
put d $((40 * KIB)) 128
is d $((40 * KIB)) 128
