//! The versions of the streaming protocols, and the messages that have channels in them. Pure.
//!
//! A message of a WebSocket begins with the number of its channel: a byte, or a digit before base64.
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/remotecommand/constants.go`,
//! `k8s.io/apimachinery/pkg/util/portforward/constants.go`, `k8s.io/kubelet/pkg/cri/streaming`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

use crate::model::TerminalSize;

/// One version, as it is named in handshakes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(super) name: &'static str,
    /// Messages are text.
    base64: bool,
    /// The last message on the error channel is a `Status`; before, a text if anything failed.
    pub(super) tells_status: bool,
    /// Terminals have a channel for their size.
    pub(super) resizes: bool,
    /// A client can say that its input has ended. SPDY's streams need no message for that.
    closes: bool,
    /// The messages are frames of SPDY/3.1, one after the other.
    pub(super) tunnels: bool,
}

const OLDEST: Protocol = Protocol {
    name: "channel.k8s.io",
    base64: false,
    tells_status: false,
    resizes: false,
    closes: false,
    tunnels: false,
};
const V4: Protocol = Protocol { name: "v4.channel.k8s.io", tells_status: true, resizes: true, ..OLDEST };

/// `exec` and `attach` over WebSocket.
pub(crate) const WEBSOCKET_COMMANDS: &[Protocol] = &[
    Protocol { name: "v5.channel.k8s.io", closes: true, ..V4 },
    V4,
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, ..V4 },
    Protocol { name: "base64.channel.k8s.io", base64: true, ..OLDEST },
    OLDEST,
];

/// `exec` and `attach` over SPDY.
pub(crate) const SPDY_COMMANDS: &[Protocol] = &[
    V4,
    Protocol { name: "v3.channel.k8s.io", resizes: true, ..OLDEST },
    Protocol { name: "v2.channel.k8s.io", ..OLDEST },
    OLDEST,
];

/// `portforward` over WebSocket.
pub(crate) const WEBSOCKET_FORWARDS: &[Protocol] = &[
    Protocol { name: "SPDY/3.1+portforward.k8s.io", tunnels: true, ..OLDEST },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, ..V4 },
    V4,
];

/// `portforward` over SPDY.
pub(crate) const SPDY_FORWARDS: &[Protocol] = &[Protocol { name: "portforward.k8s.io", ..OLDEST }];

/// What a client says to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromClient {
    /// Bytes for its input.
    Input(Bytes),
    /// That was all of its input.
    InputEnd,
    /// The terminal has another size.
    Resize(TerminalSize),
}

/// Channels of a process.
pub(super) mod channel {
    /// Client to process.
    pub const STDIN: u8 = 0;
    /// Process to client.
    pub const STDOUT: u8 = 1;
    /// Process to client.
    pub const STDERR: u8 = 2;
    /// How it ended.
    pub const ERROR: u8 = 3;
    /// The size of its terminal.
    pub const RESIZE: u8 = 4;
    /// Which channel ends.
    pub const CLOSE: u8 = 255;
}

impl Protocol {
    /// The channel and the content of a message; nothing for an empty one, or one that cannot be read.
    pub(crate) fn split(&self, message: &Bytes) -> Option<(u8, Bytes)> {
        let first = *message.first()?;
        let rest = message.slice(1..);
        if self.base64 {
            Some((first.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into()))
        } else {
            Some((first, rest))
        }
    }

    /// A message with this content on a channel.
    pub(crate) fn message(&self, channel: u8, content: &[u8]) -> Message {
        if self.base64 {
            return Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(content)));
        }
        Message::binary([&[channel], content].concat())
    }

    /// What a message says to a process; nothing if it is of no consequence.
    pub(crate) fn read(&self, message: &Bytes, sizes: &mut Sizes) -> Option<FromClient> {
        let (channel, content) = self.split(message)?;
        match channel {
            channel::STDIN => Some(FromClient::Input(content)),
            channel::RESIZE => sizes.push(&content).map(FromClient::Resize),
            channel::CLOSE if self.closes && content.first() == Some(&channel::STDIN) => Some(FromClient::InputEnd),
            _ => None,
        }
    }
}

/// Reads sizes of a terminal, which come as JSON, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    /// What has come of the next one.
    pending: Vec<u8>,
}

/// What a size may take; a client that sends anything else is not understood any more.
const SIZE_BYTES_MAX: usize = 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

impl Sizes {
    /// Takes more bytes; gives the last size that is whole now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<TerminalSize> {
        self.pending.extend_from_slice(bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        let (mut last, mut read) = (None, 0);
        while let Some(Ok(size)) = sizes.next() {
            last = Some(TerminalSize { width: size.width, height: size.height });
            read = sizes.byte_offset();
        }
        self.pending.drain(..read);
        self.pending.truncate(SIZE_BYTES_MAX);
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> &'static Protocol {
        WEBSOCKET_COMMANDS.iter().find(|protocol| protocol.name == name).unwrap()
    }

    #[test]
    fn messages_begin_with_their_channel() {
        let (v5, v4) = (known("v5.channel.k8s.io"), known("v4.channel.k8s.io"));
        let base64 = known("v4.base64.channel.k8s.io");
        let input = |text: &'static str| Some(FromClient::Input(Bytes::from_static(text.as_bytes())));
        let size = Some(FromClient::Resize(TerminalSize { width: 80, height: 24 }));
        for (protocol, message, expected) in [
            (v5, &b"\x00typed"[..], input("typed")),
            (v5, b"\x04{\"Width\":80,\"Height\":24}\n", size.clone()),
            (v5, b"\xff\x00", Some(FromClient::InputEnd)),
            (v5, b"\xff\x01", None),
            (v5, b"\xff", None),
            (v5, b"", None),
            (v5, b"\x01out", None),
            (v4, b"\xff\x00", None),
            (base64, b"0dHlwZWQ=", input("typed")),
            (base64, b"4eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9", size),
            (base64, b"0not base64", None),
            (base64, b"\x00dHlwZWQ=", None),
        ] {
            let read = protocol.read(&Bytes::from_static(message), &mut Sizes::default());
            assert_eq!(read, expected, "{} {message:?}", protocol.name);
        }
        assert_eq!(v5.message(channel::STDOUT, b"out"), Message::binary(&b"\x01out"[..]));
        assert_eq!(base64.message(channel::STDERR, b"typed"), Message::text("2dHlwZWQ="));
    }

    #[test]
    fn sizes_come_whole_in_parts_or_several_at_once() {
        let size = |width, height| Some(TerminalSize { width, height });
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(b"{\"Width\":80,\"Hei"), None);
        assert_eq!(sizes.push(b"ght\":24}\n"), size(80, 24));
        assert_eq!(sizes.push(b"{\"Width\":1,\"Height\":2}{\"Width\":3,\"Height\":4}\n{\"Wi"), size(3, 4));
        assert_eq!(sizes.push(b"dth\":5,\"Height\":6}"), size(5, 6));
        // What is no size is the end of it, and takes no room.
        for _ in 0..100 {
            assert_eq!(sizes.push(&[b'x'; 100]), None);
        }
        assert!(sizes.pending.len() <= SIZE_BYTES_MAX);
    }
}
