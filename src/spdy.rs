//! SPDY/3.1 as far as Kubernetes streams over it: kubectl to the API, and the API to the container runtime.
//!
//! Browsers and servers gave it up long ago, and no crate has it. `kubectl` before 1.30 knows nothing else for `exec`,
//! newer ones fall back to it and send its frames through a WebSocket for `port-forward`, and it is the one protocol of
//! containerd's streaming server in which standard input can end before the command does.
//!
//! [`frame`] turns bytes into frames and back, `headers` does their compressed header blocks, both without a socket;
//! [`Connection`] carries streams over one. What is read here comes from whoever connects: every length is bounded, and
//! what is against the protocol ends the connection.
//!
//! - The other side is always moby/spdystream, which neither minds nor sends flow control: WINDOW_UPDATE and SETTINGS are
//!   read over. A stream that nobody reads holds up its connection, and the sender with it.
//! - Left out, since nobody uses them: priorities, unidirectional and associated streams, server push, HEADERS' content.
//!
//! Source: the SPDY protocol, drafts 3 and 3.1; moby/spdystream v0.5, which differs from it in both directions.

mod connection;
pub mod frame;
mod headers;

pub use connection::{Connection, Reset, Stream, Writer};
pub use headers::Headers;

#[cfg(test)]
mod tests;
