// SPDX-License-Identifier: LGPL-2.1-or-later
//! The log of a daemon: lines on stderr, for the journal to take, which stamps them.

use tracing_subscriber::EnvFilter;

/// Logs what a filter lets through, such as `info` or `virtnotify_engine=debug`, until the guard is dropped.
///
/// Lines go through a thread of their own: a journal that does not take them costs lines, never the time of
/// a guest or a client.
pub fn start_log(filter: &str) -> tracing_appender::non_blocking::WorkerGuard {
    let (writer, flusher) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let plain = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
    plain.with_env_filter(filter).with_writer(writer).init();
    flusher
}
