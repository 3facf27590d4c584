#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs each fuzz target for so many seconds (600 without an argument), or one: run.sh 600 pool
# Needs a nightly toolchain and cargo-fuzz. `cargo test` runs the same bodies in short.
set -eu
cd "$(dirname "$0")"
seconds=${1:-600}
cargo +nightly run --quiet --bin seed
for target in ${2:-frame xdr pool volume policy}; do
    cargo +nightly fuzz run --fuzz-dir . "$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1
done
