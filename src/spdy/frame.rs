//! Frames, from bytes and to bytes. Pure: who reads and writes them is another matter.
//!
//! ```text
//! control  1|version 15|type 16|flags 8|length 24|…        data  0|stream 31|flags 8|length 24|…
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};

use super::headers::{Deflater, Headers, HeadersError, Inflater};

/// What a frame begins with.
const HEAD_BYTES: usize = 8;
/// What a control frame may come to. The largest have headers in them.
const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Data is given on in pieces of this size at most, however long the frame is.
pub const PIECE_BYTES: usize = 32 * 1024;
/// The version of SPDY/3.1's frames.
const VERSION: u16 = 3;

/// RST_STREAM: the stream is against the protocol or not wanted.
pub const REFUSED_STREAM: u32 = 3;
/// RST_STREAM: nobody needs the stream any more.
pub const CANCEL: u32 = 5;

const CONTROL: u16 = 1 << 15;
const FIN: u8 = 1;
const LOW_31: u32 = (1 << 31) - 1;

mod kind {
    pub const SYN_STREAM: u16 = 1;
    pub const SYN_REPLY: u16 = 2;
    pub const RST_STREAM: u16 = 3;
    pub const PING: u16 = 6;
    pub const GOAWAY: u16 = 7;
    pub const HEADERS: u16 = 8;
}

/// One frame. `id` is that of a stream, never 0; `fin` says that its sender sends nothing more on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named as in the protocol")]
pub enum Frame {
    /// Opens a stream.
    SynStream { id: u32, headers: Headers, fin: bool },
    /// Accepts a stream.
    SynReply { id: u32, headers: Headers, fin: bool },
    /// More headers of a stream.
    Headers { id: u32, headers: Headers, fin: bool },
    /// Ends a stream both ways, without regard to what is under way.
    RstStream { id: u32, status: u32 },
    /// To be sent back. Clients' numbers are odd, servers' even.
    Ping(u32),
    /// The sender takes no new streams; `last` is the last it took.
    GoAway { last: u32, status: u32 },
    /// Bytes of a stream. A long frame is read as several.
    Data { id: u32, data: Bytes, fin: bool },
}

/// What arrived is not SPDY/3.1. Where the next frame begins cannot be known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Of another version.
    #[error("a frame is of version {0}, not of SPDY/3")]
    Version(u16),
    /// Longer than any that is expected.
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    /// Shorter than it has to be, or with fields that mean nothing.
    #[error("a frame of type {0} is malformed")]
    Malformed(u16),
    /// A frame's headers.
    #[error("a frame's headers cannot be read")]
    Headers(#[from] HeadersError),
}

/// Reads the frames of one direction.
#[derive(Debug)]
pub struct Decoder {
    headers: Inflater,
    /// What has not arrived yet of a frame of data.
    data: Option<Arriving>,
}

#[derive(Debug)]
struct Arriving {
    id: u32,
    left: usize,
    fin: bool,
}

/// Writes the frames of one direction.
#[derive(Debug)]
pub struct Encoder {
    headers: Deflater,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { headers: Inflater::new(), data: None }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self { headers: Deflater::new() }
    }
}

impl Decoder {
    /// Takes the next frame off `input`, as soon as it, or a piece of its data, is there.
    ///
    /// # Errors
    /// [`FrameError`]; nothing can be read after it.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            if self.data.is_some() {
                return Ok(self.piece(input));
            }
            let Some(mut head) = input.get(..HEAD_BYTES) else { return Ok(None) };
            let (first, second) = (head.get_u32(), head.get_u32());
            let [flags, length @ ..] = second.to_be_bytes();
            let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
            if first & !LOW_31 == 0 {
                input.advance(HEAD_BYTES);
                // Type 0 stands for data in errors.
                let id = stream_id(first).ok_or(FrameError::Malformed(0))?;
                self.data = Some(Arriving { id, left: length, fin: flags & FIN != 0 });
                continue;
            }
            let [version, kind] = [first >> 16, first].map(|half| (half & 0xffff) as u16);
            if version & !CONTROL != VERSION {
                return Err(FrameError::Version(version & !CONTROL));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(FrameError::TooLong(length));
            }
            if input.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            input.advance(HEAD_BYTES);
            if let Some(frame) = self.control(kind, flags, &input.split_to(length))? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self, input: &mut BytesMut) -> Option<Frame> {
        let Arriving { id, left, fin } = self.data.take()?;
        let count = left.min(input.len()).min(PIECE_BYTES);
        let rest = left - count;
        if rest > 0 {
            self.data = Some(Arriving { id, left: rest, fin });
        }
        let data = input.split_to(count).freeze();
        (rest == 0 || count > 0).then_some(Frame::Data { id, data, fin: fin && rest == 0 })
    }

    /// A control frame; none for types that change nothing here, or that nobody knows.
    fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> Result<Option<Frame>, FrameError> {
        let fin = flags & FIN != 0;
        let short = |_: TryGetError| FrameError::Malformed(kind);
        let malformed = || FrameError::Malformed(kind);
        let mut number = || payload.try_get_u32().map_err(short);
        let frame = match kind {
            kind::SYN_STREAM => {
                let id = stream_id(number()?).ok_or_else(malformed)?;
                let _associated_to = number()?;
                let _priority_and_slot = payload.try_get_u16().map_err(short)?;
                Frame::SynStream { id, headers: self.headers.read(payload)?, fin }
            }
            kind::SYN_REPLY => {
                let id = stream_id(number()?).ok_or_else(malformed)?;
                Frame::SynReply { id, headers: self.headers.read(payload)?, fin }
            }
            kind::HEADERS => {
                let id = stream_id(number()?).ok_or_else(malformed)?;
                Frame::Headers { id, headers: self.headers.read(payload)?, fin }
            }
            kind::RST_STREAM => Frame::RstStream { id: stream_id(number()?).ok_or_else(malformed)?, status: number()? },
            kind::PING => Frame::Ping(number()?),
            kind::GOAWAY => Frame::GoAway { last: number()? & LOW_31, status: number()? },
            _ => return Ok(None),
        };
        let has_headers = matches!(kind, kind::SYN_STREAM | kind::SYN_REPLY | kind::HEADERS);
        if has_headers || payload.is_empty() { Ok(Some(frame)) } else { Err(malformed()) }
    }
}

fn stream_id(number: u32) -> Option<u32> {
    Some(number & LOW_31).filter(|id| *id > 0)
}

impl Encoder {
    /// Appends a frame. One of data must not have more than [`PIECE_BYTES`].
    pub fn encode(&mut self, frame: &Frame, output: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let block = self.headers.write(headers);
                control(output, kind::SYN_STREAM, *fin, 10 + block.len());
                output.put_u32(*id);
                // Associated to none, of the highest priority, no credentials.
                output.put_bytes(0, 6);
                output.put_slice(&block);
            }
            Frame::SynReply { id, headers, fin } => self.with_headers(output, kind::SYN_REPLY, (*id, headers, *fin)),
            Frame::Headers { id, headers, fin } => self.with_headers(output, kind::HEADERS, (*id, headers, *fin)),
            Frame::RstStream { id, status } => two_numbers(output, kind::RST_STREAM, *id, *status),
            Frame::GoAway { last, status } => two_numbers(output, kind::GOAWAY, *last, *status),
            Frame::Ping(number) => {
                control(output, kind::PING, false, 4);
                output.put_u32(*number);
            }
            Frame::Data { id, data, fin } => {
                output.put_u32(*id);
                flags_and_length(output, *fin, data.len());
                output.put_slice(data);
            }
        }
    }

    fn with_headers(&mut self, output: &mut BytesMut, kind: u16, (id, headers, fin): (u32, &Headers, bool)) {
        let block = self.headers.write(headers);
        control(output, kind, fin, 4 + block.len());
        output.put_u32(id);
        output.put_slice(&block);
    }
}

fn two_numbers(output: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(output, kind, false, 8);
    output.put_u32(first);
    output.put_u32(second);
}

fn control(output: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    output.put_u16(CONTROL | VERSION);
    output.put_u16(kind);
    flags_and_length(output, fin, length);
}

fn flags_and_length(output: &mut BytesMut, fin: bool, length: usize) {
    debug_assert!(length < 1 << 24, "a frame's length has 24 bits");
    let flags = if fin { u32::from(FIN) << 24 } else { 0 };
    output.put_u32(flags | u32::try_from(length).expect("frames are short"));
}
