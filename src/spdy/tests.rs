use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::frame::{Decoder, Encoder, Frame, FrameError, PIECE_BYTES};
use super::{Connection, Headers, Reset, Stream};

/// Longer than anything here takes; reached only by a test that fails.
const SOON: Duration = Duration::from_secs(60);

fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn data(id: u32, data: &'static [u8], fin: bool) -> Frame {
    Frame::Data { id, data: Bytes::from_static(data), fin }
}

// === frames ===

/// What a decoder makes of bytes that come in chunks of these sizes, the rest at once.
fn decode(bytes: &[u8], chunks: &[usize]) -> Result<Vec<Frame>, FrameError> {
    let (mut decoder, mut input, mut rest) = (Decoder::default(), BytesMut::new(), bytes);
    let mut frames = Vec::new();
    for size in chunks.iter().copied().chain([bytes.len()]) {
        let (chunk, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        input.extend_from_slice(chunk);
        while let Some(frame) = decoder.decode(&mut input)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn encode(frames: &[Frame]) -> BytesMut {
    let (mut encoder, mut output) = (Encoder::default(), BytesMut::new());
    frames.iter().for_each(|frame| encoder.encode(frame, &mut output));
    output
}

/// Takes together what belongs together: data comes in pieces, and an empty one says nothing.
fn whole(frames: Vec<Frame>) -> Vec<Frame> {
    let mut whole: Vec<Frame> = Vec::new();
    for frame in frames {
        match (whole.last_mut(), frame) {
            (_, Frame::Data { data, fin: false, .. }) if data.is_empty() => {}
            (Some(Frame::Data { id, data, fin: last }), Frame::Data { id: next, data: more, fin })
                if *id == next && !*last =>
            {
                *data = [data.as_ref(), &more].concat().into();
                *last = fin;
            }
            (_, frame) => whole.push(frame),
        }
    }
    whole
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = || 1..=u32::MAX >> 1;
    let headers = || vec(("[a-z-]{0,20}", "[ -~]{0,40}"), 0..5);
    prop_oneof![
        (id(), headers(), any::<bool>()).prop_map(|(id, headers, fin)| Frame::SynStream { id, headers, fin }),
        (id(), headers(), any::<bool>()).prop_map(|(id, headers, fin)| Frame::SynReply { id, headers, fin }),
        (id(), headers(), any::<bool>()).prop_map(|(id, headers, fin)| Frame::Headers { id, headers, fin }),
        (id(), 1..12_u32).prop_map(|(id, status)| Frame::RstStream { id, status }),
        any::<u32>().prop_map(Frame::Ping),
        (id(), 0..3_u32).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (1..3_u32, vec(any::<u8>(), 0..PIECE_BYTES), any::<bool>()).prop_map(|(id, data, fin)| Frame::Data {
            id,
            data: data.into(),
            fin
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_are_read_as_written_however_they_arrive(
        frames in vec(frame(), 0..12),
        chunks in vec(0..3000_usize, 0..60),
    ) {
        let read = decode(&encode(&frames), &chunks).unwrap();
        for frame in &read {
            let length = if let Frame::Data { data, .. } = frame { data.len() } else { 0 };
            prop_assert!(length <= PIECE_BYTES);
        }
        prop_assert_eq!(whole(read), whole(frames));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..400), kind in 0..12_u8, length in 0..40_u8) {
        let _ = decode(&bytes, &[]);
        // With a head that makes sense more of it is looked at.
        let head = [0x80, 3, 0, kind, bytes.first().copied().unwrap_or(0), 0, 0, length];
        let _ = decode(&[&head, bytes.as_slice()].concat(), &[]);
    }
}

/// What kubectl sent to a server that recorded it: 1.36 for `exec -i`, with a line typed and the end of the input; 1.27 for
/// a request to a forwarded port.
#[test]
fn kubectls_own_frames_are_read() {
    let syn = |id, pairs: &[(&str, &str)]| Frame::SynStream { id, headers: headers(pairs), fin: false };
    let exec = include_bytes!("../../tests/data/spdy/exec.bin");
    let streams = [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")];
    let mut expected: Vec<_> = streams.iter().map(|(id, kind)| syn(*id, &[("streamtype", kind)])).collect();
    expected.extend([data(3, b"typed\n", false), data(3, b"", true)]);
    assert_eq!(decode(exec, &[]), Ok(expected));

    let forward = decode(include_bytes!("../../tests/data/spdy/port-forward.bin"), &[1; 60]).map(whole).unwrap();
    let named = |frame: &Frame| match frame {
        Frame::SynStream { id, headers, .. } => {
            let mut headers = headers.clone();
            headers.sort();
            format!("{id} {headers:?}")
        }
        other => format!("{other:?}"),
    };
    let pair = |kind: &str| headers(&[("port", "80"), ("requestid", "0"), ("streamtype", kind)]);
    assert_eq!(named(&forward[0]), format!("1 {:?}", pair("error")));
    assert_eq!(forward[1], data(1, b"", true));
    assert_eq!(named(&forward[2]), format!("3 {:?}", pair("data")));
    let Frame::Data { id: 3, data: request, fin: true } = &forward[3] else { panic!("{:?}", forward[3]) };
    assert!(request.starts_with(b"GET /x HTTP/1.1\r\n"));
}

#[test]
fn what_is_against_the_protocol_is_refused_whole() {
    let control = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0x80, 3, 0, kind, 0, length[1], length[2], length[3]], payload].concat()
    };
    for (bytes, expected) in [
        (vec![0x80, 2, 0, 1, 0, 0, 0, 0], FrameError::Version(2)),
        (vec![0, 0, 0, 0, 0, 0, 0, 1, 7], FrameError::Malformed(0)),
        (vec![0x80, 3, 0, 1, 0, 0, 0x40, 1], FrameError::TooLong(0x4001)),
        (control(1, &[0, 0, 0, 1, 0, 0]), FrameError::Malformed(1)),
        (control(1, &[0; 10]), FrameError::Malformed(1)),
        (control(3, &[0, 0, 0, 1, 0, 0, 0]), FrameError::Malformed(3)),
        (control(3, &[0; 8]), FrameError::Malformed(3)),
        (control(6, &[0; 5]), FrameError::Malformed(6)),
        (control(7, &[0; 4]), FrameError::Malformed(7)),
    ] {
        assert_eq!(decode(&bytes, &[]), Err(expected), "{bytes:?}");
    }
    // What changes nothing, or is unknown, is read over.
    let ignored = [control(4, &[0; 4]), control(9, &[0; 8]), control(77, b"?"), encode(&[Frame::Ping(1)]).to_vec()];
    assert_eq!(decode(&ignored.concat(), &[]), Ok(vec![Frame::Ping(1)]));
}

// === connections ===

/// Both ends of a connection, with streams that the client opens.
async fn connected(streams: &[Headers]) -> (Connection, Vec<Stream>, Connection, Vec<Stream>) {
    let (near, far) = duplex(64 * 1024);
    let (client, opened) = Connection::open(near, streams.to_vec());
    let mut server = Connection::serve(far);
    let mut accepted = Vec::new();
    for _ in streams {
        accepted.push(timeout(SOON, server.accept()).await.unwrap().unwrap());
    }
    (client, opened, server, accepted)
}

async fn all(stream: &mut Stream) -> Result<Vec<u8>, Reset> {
    let mut bytes = Vec::new();
    while let Some(piece) = timeout(SOON, stream.reader.recv()).await.unwrap() {
        bytes.extend(piece?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_end_one_way_at_a_time() {
    let asked = [headers(&[("streamtype", "stdin")]), headers(&[("streamtype", "stdout")])];
    let (_client, mut opened, _server, mut accepted) = connected(&asked).await;
    assert_eq!(
        accepted.iter().map(|stream| stream.header("streamtype")).collect::<Vec<_>>(),
        [Some("stdin"), Some("stdout")]
    );
    let (mut stdin, mut stdout) = (opened.remove(0), opened.remove(0));
    let (mut far_stdin, far_stdout) = (accepted.remove(0), accepted.remove(0));

    // Much more than all queues hold, so that each side waits for the other.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let bytes = Bytes::from(sent.clone());
    let sending = tokio::spawn(async move {
        stdin.writer.send(bytes).await.unwrap();
        stdin.writer.finish().await;
        stdin.reader.recv().await
    });
    assert!(all(&mut far_stdin).await == Ok(sent));
    // The other way is still open.
    far_stdin.writer.send(Bytes::from_static(b"seen")).await.unwrap();
    assert_eq!(timeout(SOON, sending).await.unwrap().unwrap(), Some(Ok(Bytes::from_static(b"seen"))));
    far_stdout.writer.send(Bytes::from_static(b"out")).await.unwrap();
    far_stdout.writer.finish().await;
    assert_eq!(all(&mut stdout).await, Ok(b"out".to_vec()));
}

#[tokio::test]
async fn a_stream_that_is_cut_off_says_so() {
    let (client, mut opened, _server, mut accepted) = connected(&[headers(&[]), headers(&[])]).await;
    let (first, second) = (opened.remove(0), opened.remove(0));
    first.writer.send(Bytes::from_static(b"so far")).await.unwrap();
    first.writer.reset().await;
    assert_eq!(timeout(SOON, accepted[0].reader.recv()).await.unwrap(), Some(Ok(Bytes::from_static(b"so far"))));
    assert_eq!(all(&mut accepted[0]).await, Err(Reset));
    second.writer.send(Bytes::from_static(b"so far")).await.unwrap();
    assert_eq!(timeout(SOON, accepted[1].reader.recv()).await.unwrap(), Some(Ok(Bytes::from_static(b"so far"))));
    drop(client);
    assert_eq!(all(&mut accepted[1]).await, Err(Reset));
}

#[tokio::test]
async fn closing_waits_until_the_other_side_has_read_to_the_end() {
    let (client, mut opened, server, mut accepted) = connected(&[headers(&[])]).await;
    let large = Bytes::from(vec![1; 500_000]);
    let length = large.len();
    let closing = tokio::spawn(async move {
        let stream = accepted.remove(0);
        stream.writer.send(large).await.unwrap();
        stream.writer.finish().await;
        server.close().await;
    });
    assert_eq!(all(&mut opened[0]).await.unwrap().len(), length);
    assert!(!closing.is_finished());
    drop(client);
    timeout(SOON, closing).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_closes_is_cut_off_after_a_while() {
    let (_client, _opened, server, _accepted) = connected(&[headers(&[])]).await;
    server.close().await;
}

/// A server's end, and the bytes that go to and fro.
fn raw() -> (Connection, DuplexStream) {
    let (near, far) = duplex(1024 * 1024);
    (Connection::serve(far), near)
}

async fn read_frames(io: &mut DuplexStream, count: usize) -> Vec<Frame> {
    let (mut decoder, mut input, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    while frames.len() < count {
        match decoder.decode(&mut input).unwrap() {
            Some(frame) => frames.push(frame),
            None => assert!(timeout(SOON, io.read_buf(&mut input)).await.unwrap().unwrap() > 0, "{frames:?}"),
        }
    }
    frames
}

#[tokio::test]
async fn pings_are_answered_and_a_stream_too_many_is_refused() {
    let (mut server, mut io) = raw();
    let syn = |id| Frame::SynStream { id, headers: headers(&[]), fin: false };
    let mut frames: Vec<Frame> = (0..257).map(|n| syn(2 * n + 1)).collect();
    frames.extend([Frame::Ping(7), data(999, b"to nobody", false)]);
    io.write_all(&encode(&frames)).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..256 {
        streams.push(timeout(SOON, server.accept()).await.unwrap().unwrap());
    }
    let answers = read_frames(&mut io, 258).await;
    assert_eq!(answers[256..], [Frame::RstStream { id: 513, status: 3 }, Frame::Ping(7)]);
}

#[tokio::test(start_paused = true)]
async fn a_client_is_asked_now_and_then_whether_it_is_there() {
    let (_server, mut io) = raw();
    assert_eq!(read_frames(&mut io, 2).await, [Frame::Ping(2), Frame::Ping(4)]);
}

#[tokio::test]
async fn what_is_no_spdy_ends_the_connection() {
    for bytes in [
        vec![0x80, 2, 0, 1, 0, 0, 0, 0],
        encode(&[Frame::SynStream { id: 2, headers: headers(&[]), fin: false }]).to_vec(),
        vec![],
    ] {
        let (mut server, mut io) = raw();
        io.write_all(&bytes).await.unwrap();
        io.shutdown().await.unwrap();
        assert!(timeout(SOON, server.accept()).await.unwrap().is_none());
    }
}
