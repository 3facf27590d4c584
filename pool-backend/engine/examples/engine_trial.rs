// SPDX-License-Identifier: LGPL-2.1-or-later
//! Drives an engine by hand, without libvirt and D-Bus: one command per line on standard input,
//! events and answers on standard output.
//!
//! ```text
//! start POOL VG [CHUNK_BYTES]     stop POOL           info POOL
//! create POOL VOLUME BYTES [ALLOCATION]               list POOL
//! delete POOL VOLUME              resize POOL VOLUME BYTES
//! refresh POOL                    wipe POOL VOLUME    drop POOL VG
//! ```

use std::io::{self, BufRead};
use std::sync::Arc;
use std::thread;

use uuid::Uuid;
use virtnotify_engine::{Engine, EngineConfig, block_signals, lock_memory};
use virtnotify_model::{
    Backend, Bytes, ChunkSize, EventBus, Policy, PoolSpec, VolumeSpec, WipeMode,
};

type Failure = Box<dyn std::error::Error>;

fn spec(pool: &str, vg: &str, chunk: Option<&&str>) -> Result<PoolSpec, Failure> {
    let chunk = match chunk {
        Some(bytes) => ChunkSize::new(Bytes(bytes.parse()?))?,
        None => ChunkSize::default(),
    };
    let (name, vg) = (pool.parse()?, vg.parse()?);
    let policy = Policy::default();
    Ok(PoolSpec { name, uuid: Uuid::nil(), vg, devices: Vec::new(), chunk, policy })
}

fn obey(engine: &Engine, words: &[&str]) -> Result<String, Failure> {
    Ok(match words {
        ["start", pool, vg, rest @ ..] => {
            format!("{:?}", engine.start_pool(&spec(pool, vg, rest.first())?)?)
        }
        ["drop", pool, vg] => format!("{:?}", engine.delete_pool(&spec(pool, vg, None)?)?),
        ["stop", pool] => format!("{:?}", engine.stop_pool(&pool.parse()?)?),
        ["refresh", pool] => format!("{:?}", engine.refresh_pool(&pool.parse()?)?),
        ["info", pool] => format!("{:?}", engine.pool_info(&pool.parse()?)?),
        ["list", pool] => format!("{:#?}", engine.volumes(&pool.parse()?)?),
        ["create", pool, name, capacity, rest @ ..] => {
            let allocation = Bytes(rest.first().map_or(Ok(0), |bytes| bytes.parse())?);
            let (name, capacity) = (name.parse()?, Bytes(capacity.parse()?));
            let spec =
                VolumeSpec { name, capacity, allocation, uuid: Uuid::new_v4(), backing: None };
            format!("{:?}", engine.create_volume(&pool.parse()?, &spec)?)
        }
        ["delete", pool, name] => {
            format!("{:?}", engine.delete_volume(&pool.parse()?, &name.parse()?)?)
        }
        ["resize", pool, name, capacity] => {
            let capacity = Bytes(capacity.parse()?);
            format!("{:?}", engine.resize_volume(&pool.parse()?, &name.parse()?, capacity)?)
        }
        ["wipe", pool, name] => {
            engine.wipe_volume(&pool.parse()?, &name.parse()?, WipeMode::Zero)?;
            "wiped".to_owned()
        }
        other => return Err(format!("unknown: {other:?}").into()),
    })
}

fn main() -> Result<(), Failure> {
    block_signals()?;
    lock_memory()?;
    let bus = EventBus::new();
    let mut events = bus.subscribe();
    thread::spawn(move || {
        while let Ok(event) = events.blocking_recv() {
            println!("event {event:?}");
        }
    });
    let engine: Arc<Engine> = Engine::new(EngineConfig::default(), bus)?;
    println!("live pools: {:?}", engine.live_pools());
    for line in io::stdin().lock().lines() {
        let line = line?;
        match obey(&engine, &line.split_whitespace().collect::<Vec<_>>()) {
            Ok(answer) => println!("{line}: {answer}"),
            Err(error) => println!("{line}: ERROR {error}"),
        }
    }
    engine.halt();
    Ok(())
}
