use std::fs::{self, OpenOptions};
use std::future::Ready;
use std::io::Write;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;

const LOG: &str = "\
2026-01-31T12:00:00.5Z stdout F one
2026-01-31T12:00:01Z stdout P two 
2026-01-31T12:00:01.000000001Z stdout P and 
2026-01-31T12:00:02Z stdout F a half
garbage
2026-01-31T12:00:03Z stderr F three
";

fn options() -> LogOptions {
    LogOptions::default()
}

#[test]
fn options_choose_what_is_shown_of_the_same_log() {
    let whole = "one\ntwo and a half\nthree\n";
    let timed = "2026-01-31T12:00:00.500000000Z one\n2026-01-31T12:00:01.000000000Z two and a half\n\
                 2026-01-31T12:00:03.000000000Z three\n";
    let since = |time: &str| Some(time.parse().unwrap());
    for (options, expected) in [
        (options(), whole),
        (LogOptions { timestamps: true, ..options() }, timed),
        (LogOptions { since: since("2026-01-31T12:00:02Z"), ..options() }, "a half\nthree\n"),
        (LogOptions { limit_bytes: Some(9), ..options() }, "one\ntwo a"),
        (LogOptions { limit_bytes: Some(33), timestamps: true, ..options() }, &timed[..33]),
    ] {
        // However the file is cut into pieces, the same is shown.
        for size in [1, 7, LOG.len()] {
            let mut filter = Filter::new(&options);
            let shown: Vec<u8> = LOG.as_bytes().chunks(size).flat_map(|piece| filter.push(piece)).collect();
            assert_eq!(String::from_utf8(shown).unwrap(), expected, "{options:?} by {size}");
            assert_eq!(filter.finish(), b"");
        }
    }
}

#[test]
fn a_last_line_without_newline_is_shown_at_the_end() {
    let mut filter = Filter::new(&options());
    assert_eq!(filter.push(b"2026-01-31T12:00:00Z stdout F cut"), b"");
    assert_eq!(filter.finish(), b"cut\n");
}

async fn text(mut chunks: mpsc::Receiver<Result<Bytes, LogError>>) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_tail_begins_so_many_lines_before_the_end() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("0.log");
    // Longer than what is read at once.
    let line = |number: usize| format!("2026-01-31T12:00:00Z stdout F {number:01000}\n");
    let numbers = |from: usize| (from..100).map(|number| format!("{number:01000}\n")).collect::<String>();
    fs::write(&path, (0..100).map(line).collect::<String>()).unwrap();
    for (tail, expected) in
        [(0, String::new()), (1, numbers(99)), (70, numbers(30)), (100, numbers(0)), (101, numbers(0))]
    {
        let options = LogOptions { tail_lines: Some(tail), ..options() };
        assert_eq!(text(stream(path.clone(), &options, None::<Ready<()>>)).await, expected, "{tail}");
    }
    let none = stream(temp.path().join("missing.log"), &options(), None::<Ready<()>>);
    assert_eq!(text(none).await, "");
}

#[tokio::test]
async fn a_link_in_the_place_of_a_log_is_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("0.log");
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    let mut chunks = stream(path.clone(), &options(), None::<Ready<()>>);
    let error = chunks.recv().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read log {}", path.display()));
    assert!(chunks.recv().await.is_none());
}

#[tokio::test]
async fn following_goes_on_over_rotations_and_ends_with_the_container() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("0.log");
    let write = |number: u32| {
        let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        writeln!(file, "2026-01-31T12:00:00Z stdout F {number}").unwrap();
    };
    let (ended_tx, ended_rx) = oneshot::channel::<()>();
    let mut chunks = stream(path.clone(), &options(), Some(async { drop(ended_rx.await) }));
    let mut next = async || {
        let chunk = tokio::time::timeout(Duration::from_secs(10), chunks.recv()).await.expect("more of the log");
        chunk.map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap())
    };

    write(1);
    assert_eq!(next().await.as_deref(), Some("1\n"));
    write(2);
    assert_eq!(next().await.as_deref(), Some("2\n"));
    fs::rename(&path, temp.path().join("0.log.20260131-120000")).unwrap();
    write(3);
    assert_eq!(next().await.as_deref(), Some("3\n"));
    write(4);
    ended_tx.send(()).unwrap();
    assert_eq!(next().await.as_deref(), Some("4\n"));
    assert_eq!(next().await, None);
}
