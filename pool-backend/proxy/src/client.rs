// SPDX-License-Identifier: LGPL-2.1-or-later
//! What is sent to a client, by everything that has something to tell it.

use std::io;

use tokio::sync::Mutex;
use virtnotify_wire::{Frame, Header, RemoteError};

use crate::socket::{FrameWriter, Message};

/// Writes whole frames. A writer waits until the client takes the frame: that bounds the memory that a slow client
/// costs, and other clients do not wait.
#[derive(Debug)]
pub struct ClientWriter(Mutex<FrameWriter>);

impl ClientWriter {
    /// Takes the client's side of a connection.
    #[must_use]
    pub fn new(writer: FrameWriter) -> Self {
        ClientWriter(Mutex::new(writer))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn send(&self, message: &Message) -> io::Result<()> {
        self.0.lock().await.write(message).await
    }

    /// Answers a call.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn answer(
        &self,
        call: &Header,
        answer: Result<Vec<u8>, RemoteError>,
    ) -> io::Result<()> {
        let frame = match answer {
            Ok(result) => Frame::reply(call, &result).map_err(io::Error::other)?,
            Err(error) => {
                tracing::debug!(procedure = call.procedure, %error, "a call failed");
                Frame::error_reply(call, &error)
            }
        };
        self.send(&frame.into()).await
    }
}
