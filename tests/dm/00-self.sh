#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fast: --limit 600
# The tests themselves: what must turn one red does.
. "$(dirname "$0")/lib.sh"

# child: its script comes from standard input, behind lib.sh. $STATUS, $OUTPUT.
child() {
	{ printf '. %q\n' "$HERE/lib.sh"; cat; } >"$WORK/child.sh"
	STATUS=0
	OUTPUT=$(bash "$WORK/child.sh" 2>&1) || STATUS=$?
}
passes() {
	child
	[ $STATUS = 0 ] || die "a sound test ended with status $STATUS: $OUTPUT"
}
# fails WORDS: the child does, and says so
fails() {
	child
	[ $STATUS != 0 ] && [ $STATUS != 200 ] || die "it ended with status $STATUS, though: $1: $OUTPUT"
	grep -qF -- "$1" <<<"$OUTPUT" || die "no word of '$1': $OUTPUT"
}
# What the children write must not turn this test red.
forgive() {
	LOG_MARK="$PREFIX $EPOCHREALTIME goes on"
	echo "$LOG_MARK" >/dev/kmsg
}

say "a sound test passes"
passes <<'END'
data_device 8
volume v 8 "$DEV"
refused "end of the volume" msg map 8:0:0:1
start put a 0 4; W=$JOB
until_info 3 1
msg nospace
ends_badly $W a
END

# What stands in the kernel's log is looked at by others, too: the words are
# put into what is read of it.
say "a word of trouble in the kernel's log"
fails "BUG: a test of the tests" <<'END'
dmesg() { command dmesg; echo "BUG: a test of the tests"; }
END
# says LINE: what becomes of a log with that line
says() {
	local line=$1
	(kernel_news() { echo "[ 1.000] $line"; }; check_kernel_log) 2>"$WORK/said"
}
while read -r words; do
	if says "of $words in it"; then die "no complaint: $words"; fi
	grep -qF -- "$words" "$WORK/said" || die "no word of '$words': $(cat "$WORK/said")"
done < <(entries complaints)
says "device-mapper: notify: 254:0: message refused"
says "$(entries harmless)"

say "a log that has lost its beginning"
fails "overrun" <<'END'
dmesg --clear
END
forgive
passes <<'END'
echo "nothing to see here" >/dev/kmsg
END

say "what an earlier test has said is no fault of this one"
passes <<'END'
dmesg() { echo "BUG: before the test"; command dmesg; }
END

say "a command that fails: alone, in a function, in a pipe, in a substitution"
fails 'false' <<'END'
false
true
END
fails 'false' <<'END'
f() { false; true; }
f
END
fails 'child.sh' <<'END'
false | true
true
END
fails 'child.sh' <<'END'
x=$(false)
true
END

say "a message that is not answered is no empty answer"
fails 'dmsetup message' <<'END'
NAME=$PREFIX-nowhere
waiting ""
END
fails 'dmsetup message' <<'END'
NAME=$PREFIX-nowhere
chart ""
END

say "a refusal for another reason, or of the shell"
fails "no word of" <<'END'
volume v 8
refused "end of the device" msg map 8:0:0:1
END
fails "no refusal" <<'END'
refused "not found" no-such-program
END
fails "refused needs words" <<'END'
refused "" false
END
fails "was not refused" <<'END'
refused "anything" true
END

say "a write that fails, or fails for another reason, or does not fail"
fails "a write failed" <<'END'
volume v 8
msg nospace
start put a 0 4
ends_well $JOB a
END
fails "not 'No space left on device'" <<'END'
start put a 0 4 /dev/nowhere/disk
ends_badly $JOB a
END
fails "a write succeeded" <<'END'
start true
ends_badly $JOB a
END

say "something is left behind"
fails "left behind" <<'END'
volume v 8
sleep 300 <"$VOL" >/dev/null 2>&1 &
disown
echo $! >/dev/shm/vntest-opener
END
opener=$(cat /dev/shm/vntest-opener)
rm /dev/shm/vntest-opener
kill "$opener"
until_true test ! -e "/proc/$opener"
stays() { dmsetup ls | awk '$1 ~ /^vntest/ { print $1 }' | grep -v "^$PREFIX" || true; }
for dev in $(stays); do dmsetup remove --retry "$dev"; done

say "a wait that is never over"
fails "not in time" <<'END'
DEADLINE=1 until_true false
END
fails "status 1 is 0/8, not 1/8" <<'END'
volume v 8
DEADLINE=1 until_info 1 1/8
END
