//! Streams over one byte stream: a task that reads and one that writes, and handles for both ends of each stream.
//!
//! ```text
//!         ┌─ read ──▶ Decoder ──▶ each stream's queue ──▶ Stream::reader
//! socket ─┤              │ SYN_REPLY, PING
//!         └─ write ◀─ Encoder ◀── queue of frames ◀───── Stream::writer
//! ```
//!
//! Queues are short. The reading task waits for a stream that is not read, so that its sender has to wait, too.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::frame::{CANCEL, Decoder, Encoder, Frame, FrameError, PIECE_BYTES, REFUSED_STREAM};
use super::headers::Headers;
use crate::error::Chain;

/// Pieces of one stream that wait to be read.
const PIECES: usize = 8;
/// Frames that wait to be written.
const FRAMES: usize = 16;
/// How many streams the other side may have open.
const STREAMS_MAX: usize = 256;
/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;
/// How much is gathered for one write.
const WRITE_BYTES: usize = 64 * 1024;
/// How often a server asks whether the client is still there. While a stream is not read nothing else is, and only a write
/// that fails tells of a client that has gone.
const PING_PERIOD: Duration = Duration::from_secs(30);
/// How long the other side gets to close the connection, having read all.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// The stream was reset, or its connection broke, before its sender was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream was cut off")]
pub struct Reset;

/// One stream, open both ways.
#[derive(Debug)]
pub struct Stream {
    /// Odd for those of the client.
    pub id: u32,
    /// What it was opened with.
    pub headers: Headers,
    /// What comes in, in pieces of [`PIECE_BYTES`] at most; ends when the other side is done. [`Reset`] is the last item.
    pub reader: mpsc::Receiver<Result<Bytes, Reset>>,
    /// What goes out.
    pub writer: Writer,
}

/// The way out of a stream.
#[derive(Debug)]
pub struct Writer {
    id: u32,
    frames_tx: mpsc::Sender<Frame>,
}

/// A connection. Dropping it cuts it off; [`Connection::close`] lets the other side read to the end first.
#[derive(Debug)]
pub struct Connection {
    accepted_rx: mpsc::Receiver<Stream>,
    frames_tx: mpsc::Sender<Frame>,
    tasks: [AbortHandle; 2],
}

impl Stream {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Writer {
    /// Sends bytes.
    ///
    /// # Errors
    /// [`Reset`] if the connection is no more.
    pub async fn send(&self, mut data: Bytes) -> Result<(), Reset> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE_BYTES));
            self.frame(Frame::Data { id: self.id, data: piece, fin: false }).await?;
        }
        Ok(())
    }

    /// Says that nothing more is sent.
    pub async fn finish(self) {
        // A connection that is no more needs no end of its streams.
        let _ = self.frame(Frame::Data { id: self.id, data: Bytes::new(), fin: true }).await;
    }

    /// Ends the stream both ways.
    pub async fn reset(self) {
        let _ = self.frame(Frame::RstStream { id: self.id, status: CANCEL }).await;
    }

    async fn frame(&self, frame: Frame) -> Result<(), Reset> {
        self.frames_tx.send(frame).await.map_err(|_| Reset)
    }
}

impl Connection {
    /// Takes the server's end of a connection.
    pub fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (frames_tx, frames_rx) = mpsc::channel(FRAMES);
        Self::start(io, HashMap::new(), (frames_tx, frames_rx), true)
    }

    /// Takes the client's end of a connection and opens streams with these headers, at most ten.
    pub fn open(io: impl AsyncRead + AsyncWrite + Send + 'static, streams: Vec<Headers>) -> (Self, Vec<Stream>) {
        let (frames_tx, frames_rx) = mpsc::channel(FRAMES);
        let mut queues = HashMap::new();
        let mut opened = Vec::new();
        for (id, headers) in (1..).step_by(2).zip(streams) {
            let syn = Frame::SynStream { id, headers: headers.clone(), fin: false };
            frames_tx.try_send(syn).expect("the queue is empty and has room for the few streams of a client");
            let (stream, queue) = new_stream(id, headers, frames_tx.clone());
            queues.insert(id, queue);
            opened.push(stream);
        }
        (Self::start(io, queues, (frames_tx, frames_rx), false), opened)
    }

    fn start(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        streams: HashMap<u32, Queue>,
        (frames_tx, frames_rx): (mpsc::Sender<Frame>, mpsc::Receiver<Frame>),
        serves: bool,
    ) -> Self {
        let (read, write) = tokio::io::split(io);
        let (accepted_tx, accepted_rx) = mpsc::channel(1);
        let reading = Reading { streams, frames_tx: frames_tx.clone(), accepted_tx, last_id: 0, serves };
        let reading = tokio::spawn(reading.run(read)).abort_handle();
        let writing = tokio::spawn(write_all(write, frames_rx, serves)).abort_handle();
        Self { accepted_rx, frames_tx, tasks: [reading, writing] }
    }

    /// The next stream that the other side opens; none when the connection has ended, however it did.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.accepted_rx.recv().await
    }

    /// Waits for the connection's end. Streams that are opened until then are refused.
    pub async fn ended(&mut self) {
        while let Some(stream) = self.accept().await {
            stream.writer.reset().await;
        }
    }

    /// Says that nothing more is to come, and waits a while for the other side to close the connection.
    ///
    /// To close it at once would lose what is still on its way: clients drop what they have not looked at yet.
    pub async fn close(mut self) {
        let closing = async {
            let _ = self.frames_tx.send(Frame::GoAway { last: 0, status: 0 }).await;
            self.ended().await;
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, closing).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

type Queue = mpsc::Sender<Result<Bytes, Reset>>;

fn new_stream(id: u32, headers: Headers, frames_tx: mpsc::Sender<Frame>) -> (Stream, Queue) {
    let (queue, reader) = mpsc::channel(PIECES);
    (Stream { id, headers, reader, writer: Writer { id, frames_tx } }, queue)
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the other side does not speak SPDY/3.1")]
    Frame(#[from] FrameError),
    #[error("stream {0} cannot be opened")]
    StreamId(u32),
}

/// What the reading task knows.
struct Reading {
    /// The streams on which something may still come.
    streams: HashMap<u32, Queue>,
    frames_tx: mpsc::Sender<Frame>,
    accepted_tx: mpsc::Sender<Stream>,
    /// The last stream that the other side opened.
    last_id: u32,
    serves: bool,
}

impl Reading {
    async fn run(mut self, io: impl AsyncRead + Unpin) {
        let frames_tx = self.frames_tx.clone();
        // Nothing is lost if either is dropped: this is the end of the connection.
        let end = tokio::select! {
            end = self.read(io) => end,
            () = frames_tx.closed() => Ok(()),
        };
        if let Err(error) = end {
            tracing::debug!(error = %Chain(&error), "a SPDY connection ended");
        }
        drop(self.accepted_tx);
        join_all(self.streams.values().map(|queue| queue.send(Err(Reset)))).await;
    }

    async fn read(&mut self, mut io: impl AsyncRead + Unpin) -> Result<(), Broken> {
        let mut decoder = Decoder::default();
        let mut input = BytesMut::new();
        loop {
            while let Some(frame) = decoder.decode(&mut input)? {
                self.take(frame).await?;
            }
            input.reserve(READ_BYTES);
            if io.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::SynStream { id, headers, fin } => self.opened(id, headers, fin).await?,
            Frame::Data { id, data, fin } => {
                // A stream that is known no more was reset, or is not read any more.
                if let Some(queue) = self.streams.get(&id).filter(|_| !data.is_empty()) {
                    let _ = queue.send(Ok(data)).await;
                }
                self.finished(id, fin);
            }
            Frame::SynReply { id, fin, .. } | Frame::Headers { id, fin, .. } => self.finished(id, fin),
            Frame::RstStream { id, .. } => {
                if let Some(queue) = self.streams.remove(&id) {
                    let _ = queue.send(Err(Reset)).await;
                }
            }
            // One of ours that comes back tells nothing that the write had not told.
            Frame::Ping(number) if (number % 2 == 1) != self.serves => {}
            Frame::Ping(number) => self.answer(Frame::Ping(number)).await,
            // The other side closes the connection when it is done.
            Frame::GoAway { .. } => {}
        }
        Ok(())
    }

    async fn opened(&mut self, id: u32, headers: Headers, fin: bool) -> Result<(), Broken> {
        if !self.serves || id.is_multiple_of(2) || id <= self.last_id {
            return Err(Broken::StreamId(id));
        }
        self.last_id = id;
        if self.streams.len() >= STREAMS_MAX {
            self.answer(Frame::RstStream { id, status: REFUSED_STREAM }).await;
            return Ok(());
        }
        let (stream, queue) = new_stream(id, headers, self.frames_tx.clone());
        self.streams.insert(id, queue);
        self.finished(id, fin);
        // The client takes no data before the reply.
        self.answer(Frame::SynReply { id, headers: Headers::new(), fin: false }).await;
        let _ = self.accepted_tx.send(stream).await;
        Ok(())
    }

    fn finished(&mut self, id: u32, fin: bool) {
        if fin {
            self.streams.remove(&id);
        }
    }

    /// Without a writing task the connection ends anyway.
    async fn answer(&self, frame: Frame) {
        let _ = self.frames_tx.send(frame).await;
    }
}

/// Writes frames until none can come or be written any more.
async fn write_all(mut io: impl AsyncWrite + Unpin, mut frames_rx: mpsc::Receiver<Frame>, pings: bool) {
    let mut encoder = Encoder::default();
    let mut output = BytesMut::new();
    let mut ping_at = Instant::now() + PING_PERIOD;
    let mut pinged = 0;
    loop {
        // Both only wait.
        let frame = tokio::select! {
            frame = frames_rx.recv() => match frame {
                Some(frame) => frame,
                None => return,
            },
            () = tokio::time::sleep_until(ping_at), if pings => {
                ping_at = Instant::now() + PING_PERIOD;
                pinged += 2;
                Frame::Ping(pinged)
            }
        };
        encoder.encode(&frame, &mut output);
        while output.len() < WRITE_BYTES
            && let Ok(frame) = frames_rx.try_recv()
        {
            encoder.encode(&frame, &mut output);
        }
        let written = async {
            io.write_all(&output).await?;
            io.flush().await
        };
        if written.await.is_err() {
            return;
        }
        output.clear();
    }
}
