//! Connections of Go's clients to a unix socket, made fit for our server.
//!
//! In `:authority` such a client may send the path of the socket, escaped or not, or nothing. HTTP/2 has no place for that there: our
//! server ends the request with `PROTOCOL_ERROR`. Kubernetes' own server does not look, so plugins as they are do send it. Here each
//! block of headers gets `localhost` in its place on the way in; what it is sent in (HPACK, RFC 7541) is only walked over. The new
//! value stands where the old one stood, so that later requests that refer to it find the new one.

use std::io;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, copy, duplex, split};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;

/// How many bytes may be under way in a connection.
const PIPE_BYTES: usize = 16 * 1024;
/// What a connection begins with.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
/// The largest frame that a client may send unless it is told otherwise.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// The type of a frame that begins a request, and its flags.
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// `:authority` in HPACK's table.
const AUTHORITY: usize = 1;
/// The same as text, and what is put in its place; both with their lengths.
const AUTHORITY_TEXT: &[u8] = b"\x0a:authority";
const LOCALHOST: &[u8] = b"\x09localhost";

/// The connections of a listener.
pub(super) fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<DuplexStream>> {
    UnixListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        let (ours, theirs) = duplex(PIPE_BYTES);
        tokio::spawn(carry(stream, theirs));
        Ok(ours)
    })
}

/// Carries bytes both ways until the server ends the connection; it hears of the client's end.
async fn carry(client: UnixStream, server: DuplexStream) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = split(server);
    let requests = async {
        // An error is an end.
        drop(relabel(&mut from_client, &mut to_server).await);
        drop(to_server.shutdown().await);
        std::future::pending::<()>().await;
    };
    // Both arms only carry.
    tokio::select! {
        () = requests => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}

/// Carries what the client sends, frame by frame.
async fn relabel(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut preface = [0; PREFACE_BYTES];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut head = [0; FRAME_HEAD_BYTES];
        from.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if length > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        let (kind, flags) = (head[3], head[4]);
        if kind == HEADERS && flags & PADDED == 0 {
            let before = if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES.min(length) };
            // What is not understood is the server's to refuse.
            if let Some(block) = relabelled(&payload[before..]) {
                payload.splice(before.., block);
                head[..3].copy_from_slice(&u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes()[1..]);
            }
        }
        to.write_all(&head).await?;
        to.write_all(&payload).await?;
    }
}

/// A block of headers with `localhost` for its authority; none if it is not whole.
pub(crate) fn relabelled(mut block: &[u8]) -> Option<Vec<u8>> {
    let mut made = Vec::with_capacity(block.len());
    while let Some(first) = block.first().copied() {
        // A field of the table, a literal one to be kept in it, a change of its size, a literal one that is not kept.
        let (prefix_bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let whole = block;
        let index = integer(&mut block, prefix_bits)?;
        let is_authority = match (is_literal, index) {
            (true, 0) => string(&mut block)? == AUTHORITY_TEXT,
            (_, index) => index == AUTHORITY && prefix_bits != 5,
        };
        if is_authority && !is_literal {
            // The table has it without a value.
            made.push(0x01);
            made.extend(LOCALHOST);
            continue;
        }
        made.extend(&whole[..whole.len() - block.len()]);
        if is_literal {
            let value = string(&mut block)?;
            made.extend(if is_authority { LOCALHOST } else { value });
        }
    }
    Some(made)
}

/// Takes a number off, whose first byte has so many bits for it.
fn integer(block: &mut &[u8], prefix_bits: u32) -> Option<usize> {
    let (first, mut rest) = block.split_first()?;
    let max = (1 << prefix_bits) - 1;
    let mut value = usize::from(*first) & max;
    if value == max {
        let mut shift = 0;
        loop {
            let (byte, left) = rest.split_first()?;
            rest = left;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return None;
            }
        }
    }
    *block = rest;
    Some(value)
}

/// Takes a text off; with its length, and coded as it is.
fn string<'a>(block: &mut &'a [u8]) -> Option<&'a [u8]> {
    let whole = *block;
    let length = integer(block, 7)?;
    let (_, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some(&whole[..whole.len() - rest.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A literal field that is kept: its name by its place in the table.
    fn field(name: u8, value: &str) -> Vec<u8> {
        let mut field = vec![0x40 | name];
        field.extend(text(value));
        field
    }

    fn text(text: &str) -> Vec<u8> {
        let mut coded = vec![u8::try_from(text.len()).unwrap()];
        coded.extend(text.as_bytes());
        coded
    }

    #[test]
    fn whatever_the_authority_is_it_becomes_localhost_and_all_else_stays() {
        // POST, http, then path and content-type as grpc-go sends them; a long value, and a field of the table of the connection.
        let around = |authority: Vec<u8>| {
            let long = [vec![0x0f, 0x2b, 0x7f, 0x49], vec![b'x'; 0x7f + 0x49]].concat();
            let after = [field(31, "application/grpc"), long, vec![0x3f, 0xe1, 0x1f, 0xbe]].concat();
            [vec![0x83, 0x86], field(4, "/v1beta1.Registration/Register"), authority, after].concat()
        };
        let path = "/var/lib/kubelet/device-plugins/kubelet.sock";
        let literal = |text_of: &str| [vec![0x40], text(":authority"), text(text_of)].concat();
        let kept = around(field(1, "localhost"));
        assert_eq!(relabelled(&around(field(1, path))), Some(kept.clone()));
        assert_eq!(relabelled(&around(field(1, ""))), Some(kept.clone()));
        assert_eq!(relabelled(&around(vec![0x41, 0x82, 0x60, 0xff])), Some(kept), "coded by Huffman");
        assert_eq!(relabelled(&around(literal(path))), Some(around(literal("localhost"))));
        let passing = around([vec![0x01], text("localhost")].concat());
        let unkept = |text_of: &str| around([vec![0x11], text(text_of)].concat());
        assert_eq!(relabelled(&unkept(path)), Some(unkept("localhost")));
        assert_eq!(relabelled(&around(vec![0x81])), Some(passing), "the table's own, which is empty");
        assert_eq!(relabelled(&around(vec![])), Some(around(vec![])), "none is for the server to judge");
        let whole = around(field(1, path));
        assert_eq!(relabelled(&whole[..whole.len() - 3]), None, "a field that is cut short");
    }
}
