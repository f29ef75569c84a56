//! How long ago something was, in two or three figures.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::text;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// The time from the timestamp at a JSON pointer to `now`, or `<unknown>` if there is none.
pub(super) fn since(object: &Value, pointer: &str, now: Timestamp) -> String {
    match text(object, pointer).parse::<Timestamp>() {
        Ok(then) => human_duration(now.duration_since(then)),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A duration in its one or two largest units, truncated; `<invalid>` from two seconds in the future on.
///
/// Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/duration/duration.go`, `HumanDuration`.
pub(super) fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two_units(seconds, (MINUTE, 'm'), (1, 's')),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two_units(seconds, (HOUR, 'h'), (MINUTE, 'm')),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two_units(seconds, (DAY, 'd'), (HOUR, 'h')),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two_units(seconds, (YEAR, 'y'), (DAY, 'd')),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// Whole large units and the whole small units of the rest, which is left out when it is 0.
fn two_units(seconds: i64, (large, large_name): (i64, char), (small, small_name): (i64, char)) -> String {
    match seconds % large / small {
        0 => format!("{}{large_name}", seconds / large),
        rest => format!("{}{large_name}{rest}{small_name}", seconds / large),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_changes_its_form_at_each_boundary() {
        let rows = [
            (-2_000, "<invalid>"),
            (-1_999, "0s"),
            (-1, "0s"),
            (0, "0s"),
            (999, "0s"),
            (1_000, "1s"),
            (119_999, "119s"),
            (120_000, "2m"),
            (121_000, "2m1s"),
            (599_999, "9m59s"),
            (600_000, "10m"),
            (HOUR * 3_000 - 1, "179m"),
            (HOUR * 3_000, "3h"),
            ((HOUR * 3 + MINUTE) * 1_000, "3h1m"),
            (HOUR * 8_000 - 1, "7h59m"),
            (HOUR * 8_000, "8h"),
            (HOUR * 48_000 - 1, "47h"),
            (HOUR * 48_000, "2d"),
            (HOUR * 49_000, "2d1h"),
            (DAY * 8_000 - 1, "7d23h"),
            (DAY * 8_000, "8d"),
            (YEAR * 2_000 - 1, "729d"),
            (YEAR * 2_000, "2y"),
            ((YEAR * 2 + DAY) * 1_000, "2y1d"),
            (YEAR * 8_000 - 1, "7y364d"),
            (YEAR * 8_000, "8y"),
            (YEAR * 100_000, "100y"),
        ];
        for (millis, expected) in rows {
            assert_eq!(human_duration(SignedDuration::from_millis(millis)), expected, "{millis} ms");
        }
    }
}
