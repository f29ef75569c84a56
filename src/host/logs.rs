//! Logs of containers, as the runtime writes them: numbering them, reading a line, [`stream`] for `kubectl logs`, and
//! [`rotate`] for those that get too large.
//!
//! One file for each instance of a container, `<container>/<attempt>.log` in the pod's log directory, in CRI's format.
//! Which file is a container's is said by [`Pod`].

use std::fs;

use jiff::Timestamp;

use crate::podspec::Pod;

mod reader;
mod rotation;

#[cfg(any(test, feature = "testing"))]
pub(crate) use reader::Filter;
pub use reader::{LogError, LogOptions, stream};
pub use rotation::{Due, Rotated, due, remove, rotate};

/// One line of a log file.
///
/// `2016-10-06T00:17:09.669794202Z stdout F text`
///
/// Source: kubernetes v1.36 `staging/src/k8s.io/cri-client/pkg/logs/logs.go`, `parseCRILog`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line<'a> {
    /// RFC 3339, as many digits of a second as it takes.
    time: &'a str,
    /// The line was too long for the runtime; the next one goes on with it.
    partial: bool,
    /// What the container wrote, without the newline.
    text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line, its newline left out. `None` for what is no line of CRI's format.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?;
        let stream = fields.next()?;
        let tags = fields.next()?;
        // A line without text may also lack the blank before it.
        let text = fields.next().unwrap_or_default();
        let partial = match tags.split(|byte| *byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        [b"stdout", b"stderr"].contains(&stream.try_into().ok()?).then_some(Self { time, partial, text })
    }

    /// When it was written; `None` if that cannot be read.
    fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }

    /// The time with nine digits of a second, in the zone it was written in.
    fn fixed_time(&self) -> String {
        let clock = self.time.find(['Z', '+']).or_else(|| self.time.rfind('-')).unwrap_or(self.time.len());
        let (clock, zone) = self.time.split_at(clock);
        let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        format!("{seconds}.{fraction:0<9}{zone}")
    }
}

/// For each container of the pod, in order, the lowest attempt no log file has been written for: 0 without logs.
///
/// The runtime forgets its containers over a reboot, their logs stay: restart counts go on from there.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container.go`, `calcRestartCountByLogDir`.
pub fn next_attempts(pod: &Pod) -> Vec<u32> {
    let next = |name: &str| {
        // A directory that is missing or cannot be read tells of no attempts.
        let entries = fs::read_dir(pod.log_dir.join(name)).into_iter().flatten().flatten();
        let attempts = entries.filter_map(|entry| attempt_of(entry.file_name().to_str()?));
        attempts.max().map_or(0, |newest| newest.saturating_add(1))
    };
    pod.containers.iter().map(|container| next(&container.name)).collect()
}

/// `3.log`, `3.log.20260131-120000`, `3.log.20260131-120000.gz` are all of attempt 3.
fn attempt_of(file_name: &str) -> Option<u32> {
    let (attempt, rest) = file_name.split_once('.')?;
    rest.starts_with("log").then(|| attempt.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_or_refused_whole() {
        let line = |time, partial, text| Some(Line { time, partial, text });
        for (text, expected) in [
            ("2016-10-06T00:17:09.66Z stdout F a b", line("2016-10-06T00:17:09.66Z", false, &b"a b"[..])),
            ("2016-10-06T00:17:09Z stderr P:x  a", line("2016-10-06T00:17:09Z", true, b" a")),
            ("2016-10-06T00:17:09Z stdout F ", line("2016-10-06T00:17:09Z", false, b"")),
            ("2016-10-06T00:17:09Z stdout F", line("2016-10-06T00:17:09Z", false, b"")),
            ("2016-10-06T00:17:09Z stdout X a", None),
            ("2016-10-06T00:17:09Z stdin F a", None),
            ("2016-10-06T00:17:09Z", None),
            ("", None),
        ] {
            assert_eq!(Line::parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_time_is_shown_with_nine_digits_in_its_own_zone() {
        for (written, shown) in [
            ("2016-10-06T00:17:09.66Z", "2016-10-06T00:17:09.660000000Z"),
            ("2016-10-06T00:17:09Z", "2016-10-06T00:17:09.000000000Z"),
            ("2016-10-06T00:17:09.123456789+02:00", "2016-10-06T00:17:09.123456789+02:00"),
            ("2016-10-06T00:17:09.5-07:00", "2016-10-06T00:17:09.500000000-07:00"),
        ] {
            let line = Line { time: written, partial: false, text: b"" };
            assert_eq!(line.fixed_time(), shown);
            assert_eq!(line.timestamp(), shown.parse().ok(), "{written}");
        }
    }

    #[test]
    fn rotated_logs_count_as_attempts() {
        for (name, attempt) in [
            ("0.log", Some(0)),
            ("12.log.20260131-120000.gz", Some(12)),
            ("12.log.tmp", Some(12)),
            ("x.log", None),
            ("3.txt", None),
            ("log", None),
        ] {
            assert_eq!(attempt_of(name), attempt, "{name}");
        }
    }
}
