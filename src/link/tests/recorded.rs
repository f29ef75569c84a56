//! What each version says, as that version wrote it: `tests/data/link/<version>/<stream>`, messages of every kind, each behind
//! its length. A version records itself once and is read by all that follow, which is how an agent and a control endpoint of
//! different versions meet. Beside them stands its `schema`, by which it reads: what a later one says has to fit that, too.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use prost::Message;

use super::conversions::{any_down, any_up, tunnel_down, tunnel_up};
use crate::link::{from_proto, to_proto};

/// How many messages are recorded of a stream: enough for each kind to come several times.
const MESSAGES: usize = 150;
/// A field that no version has.
const UNKNOWN_FIELD: &[u8] = &[0xfa, 0xff, 0x0f, 3, b'n', b'e', b'w'];

/// One direction of a stream: what to record of it, and what a message is when it was read and is written again.
struct Stream {
    name: &'static str,
    record: fn() -> Vec<u8>,
    again: fn(&[u8]) -> Result<(), String>,
}

const STREAMS: [Stream; 4] = [
    Stream {
        name: "session-up",
        record: || record(any_up(), to_proto::up),
        again: |bytes| again(bytes, |message| from_proto::up(message).ok().flatten().map(to_proto::up)),
    },
    Stream {
        name: "session-down",
        record: || record(any_down(), to_proto::down),
        again: |bytes| again(bytes, |message| from_proto::down(message).ok().flatten().map(to_proto::down)),
    },
    Stream {
        name: "tunnel-up",
        record: || record(tunnel_up(), to_proto::tunnel_up),
        again: |bytes| again(bytes, |message| from_proto::tunnel_up(message).ok().flatten().map(to_proto::tunnel_up)),
    },
    Stream {
        name: "tunnel-down",
        record: || record(tunnel_down(), to_proto::tunnel_down),
        again: |bytes| {
            again(bytes, |message| from_proto::tunnel_down(message).ok().flatten().map(to_proto::tunnel_down))
        },
    },
];

/// Always the same messages.
fn record<T, M: Message>(any: impl Strategy<Value = T>, write: impl Fn(T) -> M) -> Vec<u8> {
    let mut runner = TestRunner::deterministic();
    let mut message = || write(any.new_tree(&mut runner).unwrap().current());
    (0..MESSAGES).flat_map(|_| message().encode_length_delimited_to_vec()).collect()
}

/// That a message of another version is understood whole: nothing of it is lost when it is read and written again, and a field
/// that came later does not matter.
fn again<M: Message + Default + PartialEq + fmt::Debug>(
    bytes: &[u8],
    read_and_write: impl Fn(M) -> Option<M>,
) -> Result<(), String> {
    let decode = |bytes: &[u8]| M::decode(bytes).map_err(|error| error.to_string());
    let message = decode(bytes)?;
    if message.encoded_len() != bytes.len() {
        return Err(format!("a field is not known any more: {message:?}"));
    }
    let newer = read_and_write(decode(&[bytes, UNKNOWN_FIELD].concat())?);
    match read_and_write(decode(bytes)?) {
        Some(written) if written == message && newer.as_ref() == Some(&message) => Ok(()),
        other => Err(format!("{message:?} is read as {other:?}")),
    }
}

/// Each call, field and value of the protocol, a line each, behind what it belongs to.
fn schema() -> String {
    let mut inside = Vec::new();
    let mut lines = String::new();
    for line in include_str!("../../../proto/garrison/fleet/v1/fleet.proto").lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(opened) = line.strip_suffix(" {") {
            inside.push(opened);
        } else if line == "}" {
            inside.pop();
        } else if let Some(item) = line.strip_suffix(';').filter(|_| !inside.is_empty()) {
            lines += &format!("{}: {item}\n", inside.join(" "));
        }
    }
    lines
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/link")
}

#[test]
fn what_every_version_said_is_understood_whole() {
    let own = dir().join(env!("CARGO_PKG_VERSION"));
    if std::env::var_os("UPDATE_EXPECTED").is_some() && !own.exists() {
        fs::create_dir_all(&own).unwrap();
        STREAMS.iter().for_each(|stream| fs::write(own.join(stream.name), (stream.record)()).unwrap());
        fs::write(own.join("schema"), schema()).unwrap();
    }
    assert!(
        own.exists(),
        "this version has not recorded itself: run with UPDATE_EXPECTED=1 and keep {}",
        own.display()
    );
    for version in fs::read_dir(dir()).unwrap() {
        let version = version.unwrap().path();
        for Stream { name, again, .. } in STREAMS {
            let mut recorded = Bytes::from(fs::read(version.join(name)).unwrap());
            let mut count = 0;
            while !recorded.is_empty() {
                let length = prost::decode_length_delimiter(&mut recorded).unwrap();
                again(&recorded.copy_to_bytes(length))
                    .unwrap_or_else(|why| panic!("{}: {name}: {why}", version.display()));
                count += 1;
            }
            assert_eq!(count, MESSAGES, "{name}");
        }
    }
}

#[test]
fn every_version_reads_of_this_one_all_that_it_knows() {
    let now = schema();
    assert!(now.contains("message SessionUp oneof body: Hello hello = 1\n"), "{now}");
    for version in fs::read_dir(dir()).unwrap() {
        let path = version.unwrap().path().join("schema");
        let known = fs::read_to_string(&path).unwrap();
        let lost: Vec<_> = known.lines().filter(|line| !now.lines().any(|now| now == *line)).collect();
        assert!(lost.is_empty(), "{} has what is gone, or another, by now: {lost:#?}", path.display());
    }
}
