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

teardown() {
	local status=$?
	set +eE
	trap - ERR
	# The shell reports each job that is killed here.
	[ $status != 0 ] || exec 2>/dev/null
	for job in "${JOBS[@]}"; do kill -9 "$job" 2>/dev/null; done
	if [ "${NO_CLEAN_UP:-}" ]; then
		exit $status
	fi
	for dev in $(dmsetup ls 2>/dev/null | awk -v p="^$PREFIX" '$1 ~ p { print $1 }'); do
		dmsetup message "$dev" 0 nospace 2>/dev/null
	done
	wait
	# Stacked devices go from the top down.
	for _ in 1 2 3; do
		for dev in $(dmsetup ls 2>/dev/null | awk -v p="^$PREFIX" '$1 ~ p { print $1 }'); do
			dmsetup resume "$dev" 2>/dev/null
			dmsetup remove --retry "$dev" 2>/dev/null ||
				dmsetup remove --force "$dev" 2>/dev/null
		done
	done
	for loop in "${LOOPS[@]}"; do losetup -d "$loop"; done
	rm -rf "$WORK"
	[ $status = 0 ] && check_kernel_log
	[ $status = 0 ] && status=$?
	exit $status
}
trap where ERR
trap teardown EXIT

need() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || { echo "SKIP: no $tool"; exit 200; }
	done
}

need dmsetup python3 losetup blkdiscard
modprobe loop 2>/dev/null || true
modprobe dm-notify 2>/dev/null || true
dmsetup targets | grep -q '^notify' || { echo "SKIP: the kernel target notify is not loaded"; exit 200; }
LOG_START=$(dmesg | wc -l)

# What a sound kernel never says.
check_kernel_log() {
	! dmesg | tail -n +$((LOG_START + 1)) |
		grep -E 'WARNING:|BUG:|INFO: task|lockdep|Oops|KASAN|UBSAN|general protection|stack-out-of|use-after-free'
}

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

# volume NAME CHUNKS [DEVICES [FEATURES...]]: a volume of so many chunks
line() {
	local chunks=$1 devs=${2:-} features="${*:3}"
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
# start COMMAND...: in the background, $JOB
start() {
	(trap - ERR; "$@") &
	JOB=$!
	JOBS+=("$JOB")
}
ends_well() { wait "$1" || die "a write failed: $2"; }
ends_badly() { if wait "$1" 2>/dev/null; then die "a write succeeded: $2"; fi; }

# refused TEXT COMMAND...: it fails, and the kernel log's news has TEXT.
# The kernel names ten refusals in five seconds and then keeps quiet.
refused() {
	local text=$1 before
	shift
	while [ $((${EPOCHREALTIME/[.,]/} - LAST_REFUSED)) -lt 550000 ]; do sleep 0.1; done
	LAST_REFUSED=${EPOCHREALTIME/[.,]/}
	before=$(dmesg | wc -l)
	if "$@" 2>"$WORK/err"; then die "was not refused: $*"; fi
	dmesg | tail -n +$((before + 1)) >>"$WORK/err"
	if [ "$text" ] && ! grep -qF -- "$text" "$WORK/err"; then
		cat "$WORK/err"
		die "no word of '$text' after: $*"
	fi
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
