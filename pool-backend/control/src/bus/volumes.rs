// SPDX-License-Identifier: LGPL-2.1-or-later
//! Volumes are made, cloned, resized and deleted.

use tracing::info;
use virtnotify_model::{Bytes, NewVolume, PoolName, VolumeInfo};
use zbus::message::Header;
use zbus::{Connection, ObjectPath};

use super::error::Error;
use super::options::{Given, Options};
use super::{Sources, paths};

impl Sources {
    /// Makes a volume for a caller who may manage; answers with its object.
    pub async fn create_volume(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        pool: PoolName,
        (name, capacity): (String, u64),
        options: Given,
    ) -> Result<ObjectPath<'static>, Error> {
        self.may_manage(connection, header).await?;
        let options = Options::of(options, &["allocation"])?;
        let allocation = options.size("allocation")?.unwrap_or(Bytes::ZERO);
        let name = name.parse().map_err(wrong)?;
        let new = NewVolume { name, capacity: Some(Bytes(capacity)), allocation, backing: None };
        self.make(pool, new).await
    }

    /// Makes a volume of another one, or of a snapshot.
    pub async fn clone_volume(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        of: VolumeInfo,
        name: String,
        options: Given,
    ) -> Result<ObjectPath<'static>, Error> {
        self.may_manage(connection, header).await?;
        let capacity = Options::of(options, &["capacity"])?.size("capacity")?;
        let name = name.parse().map_err(wrong)?;
        let backing = Some((of.name, of.uuid));
        self.make(of.pool, NewVolume { name, capacity, allocation: Bytes::ZERO, backing }).await
    }

    async fn make(&self, pool: PoolName, new: NewVolume) -> Result<ObjectPath<'static>, Error> {
        let made = self.ask(move |sources| Ok(sources.storage.create_volume(&pool, &new)?));
        let made = made.await?;
        Ok(paths::volume(&made.pool, &made.name))
    }

    /// Gives a volume another capacity.
    pub async fn resize_volume(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        of: VolumeInfo,
        capacity: u64,
        options: Given,
    ) -> Result<(), Error> {
        self.may_manage(connection, header).await?;
        let shrink = Options::of(options, &["shrink"])?.flag("shrink")?;
        let resized = self.ask(move |sources| {
            let VolumeInfo { pool, name, uuid, .. } = &of;
            Ok(sources.storage.resize_volume(pool, name, uuid, Bytes(capacity), shrink)?)
        });
        resized.await
    }

    /// Deletes the volume or the snapshot that an object shows.
    pub async fn delete_volume(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        of: VolumeInfo,
        options: Given,
    ) -> Result<(), Error> {
        self.may_manage(connection, header).await?;
        let snapshots = Options::of(options, &["snapshots"])?.flag("snapshots")?;
        let path = format!("{}/{}", of.pool, of.name);
        let deleted = self.ask(move |sources| {
            Ok(sources.storage.remove_volume(&of.pool, &of.name, &of.uuid, snapshots)?)
        });
        deleted.await?;
        info!("{} has deleted '{path}'", self.who(connection, header).await);
        Ok(())
    }
}

fn wrong(error: virtnotify_model::NameError) -> Error {
    Error::InvalidArgument(error.to_string())
}
