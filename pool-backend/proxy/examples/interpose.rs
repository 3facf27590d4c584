// SPDX-License-Identifier: LGPL-2.1-or-later
//! The interposer in front of a daemon of libvirt, with one made-up pool in memory: to
//! try clients by hand.
//!
//! `interpose LISTEN-RW LISTEN-RO UPSTREAM-RW UPSTREAM-RO`

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

use virtnotify_proxy::{Access, Auth, Config, bind, run};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [rw, ro, upstream_rw, upstream_ro] = paths.as_slice() else {
        return Err("usage: interpose LISTEN-RW LISTEN-RO UPSTREAM-RW UPSTREAM-RO".into());
    };
    let mut config = Config::new(upstream_rw, upstream_ro);
    if std::env::var_os("AUTH_NONE").is_some() {
        config.rw.auth = Auth::None;
        config.ro.auth = Auth::None;
    }
    let listeners = vec![
        bind(Path::new(rw), Access::ReadWrite, 0o666)?,
        bind(Path::new(ro), Access::ReadOnly, 0o666)?,
    ];
    run(config, listeners, support::Memory::with_pool(), std::future::pending()).await;
    Ok(())
}
