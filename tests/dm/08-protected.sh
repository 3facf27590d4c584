#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Protected chunks: reads pass, writes wait for the copy.
. "$(dirname "$0")/lib.sh"

data_device 64; A=$DEV
volume v 64 "$A"
volume snap 64 "$A"; SNAP=$NAME
NAME=${PREFIX}v; VOL=/dev/mapper/$NAME

msg map 0:0:0:4
put a 0 256

say "two volumes share four chunks"
msg protect 0:64
dmsetup message $SNAP 0 map 0:0:0:4:p
is a 0 256; is a 0 256 /dev/mapper/$SNAP
chart "0:0:0:4:p"

say "a write waits, is named, and goes to the copy"
start put b $KIB 4; W=$JOB
until_info 3 1
waiting "p 1"
is a $KIB 64
dd if="$A" of="$A" bs=${KIB}k count=1 skip=1 seek=33 iflag=direct oflag=direct conv=notrunc status=none
msg remap 1:0:33:1
ends_well $W b
is b $KIB 4; is a $((KIB + 4)) 60
is a 0 256 /dev/mapper/$SNAP

say "remap again is fine, elsewhere is refused"
msg remap 1:0:33:1
refused "busy" msg remap 1:0:34:1
chart "0:0:0:1:p 1:0:33:1 2:0:2:2:p"

say "mapped as plain or protected must agree"
refused "protected differently" msg map 0:0:0:1
msg map 0:0:0:1:p

say "a discard or zeroing waits, too"
start blkdiscard -o $((2 * KIB * 1024)) -l $((KIB * 1024)) "$VOL"; D=$JOB
until_info 3 1
waiting "p 2"
msg unprotect 2:1
ends_well $D discard
waiting "d 2"
put a $((2 * KIB)) $KIB
msg protect 2:1
is a 0 256 /dev/mapper/$SNAP
start blkdiscard -z -o $((2 * KIB * 1024)) -l $((KIB * 1024)) "$VOL"; W=$JOB
until_info 3 1
waiting "p 2"
msg remap 2:0:40:1
ends_well $W zeroes
is 0 $((2 * KIB)) 64
is a 0 256 /dev/mapper/$SNAP

say "unprotect lets writers go"
start put c 0 4; W=$JOB
until_info 3 1
dmsetup message $SNAP 0 unmap 0:4 force
msg unprotect 0:64
ends_well $W c
is c 0 4
chart "0:0:0:1 1:0:33:1 2:0:40:1 3:0:3:1"

say "no space fails copies, too"
msg protect 0:1
msg nospace
start put d 0 4
ends_badly $JOB d
