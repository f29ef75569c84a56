//! Messages from control as the bytes they travel as: encoded once, sent to any number of sessions.

use std::fmt;

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use super::{Down, pb, to_proto};

/// One encoded message. Clones share the bytes, which `Debug` leaves out: they may be a Secret's.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.0.len())
    }
}

impl Frame {
    /// Encodes a message.
    pub fn new(down: Down) -> Self {
        Self::from_message(&to_proto::down(down))
    }

    /// What it says.
    #[cfg(test)]
    pub(crate) fn down(self) -> Down {
        let message = pb::SessionDown::decode(self.0).expect("control encodes what it says");
        super::from_proto::down(message).expect("control speaks this protocol").expect("it says something")
    }

    pub(super) fn from_message(message: &pb::SessionDown) -> Self {
        Self(message.encode_to_vec().into())
    }
}

/// Control's end of a session: takes frames as they are, decodes what agents say.
#[derive(Debug, Default)]
pub(super) struct SessionCodec;

/// Sessions are many and mostly idle; buffers grow when there is something to carry.
const IDLE_BUFFER_BYTES: usize = 512;
/// What is gathered before it goes to the connection.
const FLUSH_BYTES: usize = 32 * 1024;

impl Codec for SessionCodec {
    type Encode = Frame;
    type Decode = pb::SessionUp;
    type Encoder = FrameEncoder;
    type Decoder = ProstDecoder<pb::SessionUp>;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<pb::SessionUp> {
        ProstDecoder::new(BufferSettings::new(IDLE_BUFFER_BYTES, FLUSH_BYTES))
    }
}

#[derive(Debug)]
pub(super) struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(frame.0);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(IDLE_BUFFER_BYTES, FLUSH_BYTES)
    }
}
