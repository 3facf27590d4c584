# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the tests of the kernel target. Each test is one behaviour, runs
# as root with the module available, needs dmsetup and python3, and leaves
# nothing behind. Exit status 200: skipped, with the reason.
set -eEuo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PREFIX=vntest$$
WORK=$(mktemp -d /dev/shm/$PREFIX.XXXX)
CHUNK=128			# sectors: 64 KiB
KIB=64				# the same in KiB
LOOPS=()
LAST_REFUSED=0
JOBS=()

where() {
	echo "FAILED: ${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}: $BASH_COMMAND" >&2
}

# The test's own devices, newest first.
own_devices() {
	dmsetup ls | awk -v p="^$PREFIX" '$1 ~ p { print $1 }' | tac
}

end_jobs() {
	local job
	for job in "${JOBS[@]}"; do
		# One that has ended by itself is no news.
		{ kill -9 "$job"; wait "$job"; } 2>/dev/null
	done
	return 0
}

# What waits fails at once, so that a suspend need not wait for it, and no job
# waits for a device that is suspended. A device that another one is stacked on
# goes after that one.
remove_devices() {
	local dev start
	for dev in $(own_devices | tac); do
		dmsetup resume "$dev"
		for start in $(dmsetup status --noflush "$dev" | awk '$3 == "notify" { print $1 }'); do
			dmsetup message "$dev" "$start" nospace
		done
	done 2>"$WORK/removal"
	end_jobs
	for _ in 1 2 3; do
		for dev in $(own_devices); do
			dmsetup resume "$dev"
			dmsetup remove --retry "$dev" || dmsetup remove --force "$dev"
		done
	done 2>>"$WORK/removal"
	[ -z "$(own_devices)" ] && return
	echo "FAILED: devices are left behind: $(own_devices | tr '\n' ' ')" >&2
	cat "$WORK/removal" >&2
	return 1
}

# teardown [STATUS]: what a trap of a test's own ends with, the status that it began with
teardown() {
	local status=${1:-$?} clean=0 loop
	set +eE
	trap - ERR
	if [ "${NO_CLEAN_UP:-}" ]; then
		end_jobs
		exit $status
	fi
	remove_devices || clean=1
	for loop in "${LOOPS[@]}"; do losetup -d "$loop" || clean=1; done
	rm -rf "$WORK" || clean=1
	check_kernel_log || clean=1
	[ $status = 0 ] || exit $status
	exit $clean
}
trap where ERR
trap teardown EXIT

need() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || { echo "SKIP: no $tool"; exit 200; }
	done
}

# need_target MODULE TARGET: loaded, or there to be loaded
need_target() {
	dmsetup targets | grep -q "^$2 " || modprobe -q "$1" ||
		{ echo "SKIP: device-mapper has no target $2"; exit 200; }
}

# The log's news begin behind a line of the test's own: a log that has lost that
# line says nothing of what came after it. Otherwise the kernel would drop most
# of what programs write there.
LOG_MARK="$PREFIX $EPOCHREALTIME begins"
echo on >/proc/sys/kernel/printk_devkmsg
echo "$LOG_MARK" >/dev/kmsg
kernel_news() {
	dmesg | awk -v mark="$LOG_MARK" 'found { print } index($0, mark) { found = 1 } END { exit !found }'
}

# What a sound kernel never says.
entries() { grep -v '^#' "$HERE/../kernel-log/$1"; }
check_kernel_log() {
	local news
	if ! news=$(kernel_news); then
		echo "FAILED: the kernel's log was overrun: it may have said anything" >&2
		return 1
	fi
	if grep -vF -f <(entries harmless) <<<"$news" | grep -F -f <(entries complaints) >&2; then
		echo "FAILED: the kernel's log has the above" >&2
		return 1
	fi
}

need dmsetup python3 losetup blkdiscard awk
[ -e /dev/loop-control ] || modprobe loop
need_target dm-notify notify

say() { echo "  - $*"; }
die() { echo "FAILED: $*" >&2; exit 1; }

# data_device MIB: a new device of that size, full of zeroes, in $DEV
data_device() {
	local file
	file=$WORK/data${#LOOPS[@]}
	truncate -s "${1}M" "$file"
	DEV=$(losetup -f --show "$file")
	LOOPS+=("$DEV")
}

# volume NAME CHUNKS [DEVICES [FEATURES...]]: a volume of so many chunks, where a
# write waits for ten minutes, unless the features say for how long: a busy
# machine may be slow to serve it.
line() {
	local chunks=$1 devs=${2:-} features="${*:3}"
	[[ $features = *hold_timeout* ]] || features+=" hold_timeout 600"
	set -- $devs
	echo "0 $((chunks * CHUNK)) notify $CHUNK 0 0 $# $devs $(echo $features | wc -w) $features"
}
volume() {
	local name=$1
	shift
	dmsetup create "$PREFIX$name" --table "$(line "$@")"
	VOL=/dev/mapper/$PREFIX$name
	NAME=$PREFIX$name
}

# swap TABLE: the volume gets another table, what waits comes along
swap() {
	dmsetup load "$NAME" --table "$1"
	dmsetup suspend --noflush "$NAME"
	dmsetup resume "$NAME"
}

msg() { dmsetup message "$NAME" 0 "$@"; }

# INFO fields: 1 mapped/total 2 wanted 3 held 4 signals 5 mode 6 notifier 7 timedout
info() { dmsetup status --noflush "$NAME" | cut -d' ' -f$((3 + $1)); }
stat_of() { msg stats | awk -v k="$1" '$1 == k { print $2 }'; }

# until_info FIELD VALUE: wait for it, ten seconds at most (a minute under emulation)
until_info() {
	local end=$((SECONDS + ${DEADLINE:-60}))
	while [ "$(info "$1")" != "$2" ]; do
		[ $SECONDS -lt $end ] || die "status $1 is $(info "$1"), not $2"
		sleep 0.05
	done
}
until_true() {
	local end=$((SECONDS + ${DEADLINE:-60}))
	until "$@"; do
		[ $SECONDS -lt $end ] || die "not in time: $*"
		sleep 0.05
	done
}

# until_waits JOB WORD: until the job waits in the kernel, in a function with
# that in its name. It must not end meanwhile. Start it with "start exec".
until_waits() {
	local end=$((SECONDS + ${DEADLINE:-60})) stack
	until stack=$(cat "/proc/$1/stack" 2>/dev/null) && grep -q -- "$2" <<<"$stack"; do
		[ -e "/proc/$1" ] || die "it ended without waiting in $2: $(cat "$WORK/err.$1")"
		[ $SECONDS -lt $end ] || die "it does not wait in $2: $stack"
		sleep 0.05
	done
}

# put CHAR FIRST_KIB KIB [DEVICE]: direct write of a letter
put() {
	head -c $(($3 * 1024)) /dev/zero | tr '\0' "$1" |
		dd of="${4:-$VOL}" bs=$(($3 * 1024)) seek=$(($2 * 1024)) oflag=direct,seek_bytes \
			iflag=fullblock conv=notrunc status=none
}
# content DEVICE FIRST_KIB KIB: past the page cache, which udev's look at each
# new device fills
content() {
	dd if="$1" bs=64k iflag=direct,fullblock,skip_bytes,count_bytes \
		skip=$(($2 * 1024)) count=$(($3 * 1024)) status=none
}
# is CHAR FIRST_KIB KIB [DEVICE]: does it read back? CHAR 0: zeroes
is() {
	local char=$1
	[ "$char" = 0 ] && char='\0'
	cmp -s <(content "${4:-$VOL}" "$2" "$3") \
		<(head -c $(($3 * 1024)) /dev/zero | tr '\0' "$char")
}
# start COMMAND...: in the background, $JOB; what it complains of is in err.$JOB
start() {
	(trap - ERR; exec 2>"$WORK/err.$BASHPID"; "$@") &
	JOB=$!
	JOBS+=("$JOB")
}
ends_well() {
	local status=0
	wait "$1" || status=$?
	[ $status = 0 ] || die "a write failed ($status): $2: $(cat "$WORK/err.$1")"
}
# ends_badly JOB WHAT [WORDS]: it fails, and for that reason
ends_badly() {
	local words=${3:-No space left on device}
	if wait "$1"; then die "a write succeeded: $2"; fi
	grep -qF "$words" "$WORK/err.$1" || die "not '$words': $2: $(cat "$WORK/err.$1")"
}

# refused TEXT COMMAND...: it says no, and that or the kernel log's news has TEXT.
# The kernel names ten refusals in five seconds and then keeps quiet.
refused() {
	local text=$1 before status=0
	shift
	[ "$text" ] || die "refused needs words that name the reason"
	while [ $((${EPOCHREALTIME/[.,]/} - LAST_REFUSED)) -lt 550000 ]; do sleep 0.1; done
	LAST_REFUSED=${EPOCHREALTIME/[.,]/}
	before=$(kernel_news | wc -l)
	"$@" 2>"$WORK/err" || status=$?
	[ $status != 0 ] || die "was not refused: $*"
	# The shell's own: not found, not a program, ended by a signal.
	[ $status -lt 126 ] || die "status $status is no refusal: $*: $(cat "$WORK/err")"
	kernel_news | tail -n +$((before + 1)) >>"$WORK/err"
	if ! grep -qF -- "$text" "$WORK/err"; then
		cat "$WORK/err"
		die "no word of '$text' after: $*"
	fi
}

# waiting WORDS: what "pending" says, in one line, without which part of a chunk
# is written. Fails if there is no answer.
waiting() {
	local said
	said=$(msg pending)
	said=$(awk '{ print $1, $2 }' <<<"$said")
	[ "$(echo $said)" = "$1" ] || die "pending says '$(echo $said)', not '$1'"
}
# chart RUNS: the map, in one line
chart() {
	local said
	said=$(msg dump)
	[ "$(echo $said)" = "$1" ] || die "the map is '$(echo $said)', not '$1'"
}

# helper SCRIPT ARGS...: start it, $HELPER, and wait until it is ready. What it
# says is in the file $SAID; what is written to descriptor 9 it reads.
helper() {
	SAID=$WORK/said$((${#JOBS[@]}))
	rm -f "$WORK/tell"
	mkfifo "$WORK/tell"
	python3 "$HERE/$1" "${@:2}" <"$WORK/tell" >"$SAID" 2>&1 &
	HELPER=$!
	disown "$HELPER"
	JOBS+=("$HELPER")
	exec 9>"$WORK/tell"
	until_true grep -q ready "$SAID"
}
kill_helper() {
	kill -9 "$HELPER"
	until_true test ! -e "/proc/$HELPER"
}
handler() { helper notifyd.py "$@"; }
