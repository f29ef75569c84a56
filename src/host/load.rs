//! How much of this host is taken: processors and memory, as the kernel counts them for the host as a whole.
//!
//! The same as the root cgroup has, which is there in two versions, or behind a cgroup namespace.

use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::pressure::{Memory, memory};
use super::{FileError, failed};
use crate::plan::load::Sample;

/// Its first line counts what processors did, all of them together.
const STAT: &str = "/proc/stat";
/// The unit of its numbers: `USER_HZ` is 100 on every architecture that containerd runs on.
const TICK_NANOS: u64 = 10_000_000;

/// What the host takes now.
///
/// # Errors
/// [`FileError`] where the kernel does not tell.
pub fn sample() -> Result<Sample, FileError> {
    let path = Path::new(STAT);
    let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
    let at = Timestamp::now();
    let cpu_nanos = busy_nanos(&text).ok_or_else(|| failed("read", path)(io::ErrorKind::InvalidData.into()))?;
    let Memory { total_bytes, available_bytes } = memory()?;
    Ok(Sample {
        at_nanos: i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX),
        cpu_nanos,
        memory_bytes: total_bytes.saturating_sub(available_bytes),
    })
}

/// `cpu  user nice system idle iowait irq softirq steal …`: guests are among `user`, and what others stole is not taken here.
fn busy_nanos(stat: &str) -> Option<u64> {
    let numbers: Option<Vec<u64>> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(|number| number.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = numbers?[..] else { return None };
    Some((user + nice + system + irq + softirq) * TICK_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_idles_or_waits_is_not_taken() {
        let stat = "cpu  3 5 7 1000 2000 11 13 4000 3 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_nanos(stat), Some(39 * TICK_NANOS));
        assert_eq!(busy_nanos("cpu  3 5\n"), None);
        assert_eq!(busy_nanos("intr 1\n"), None);
    }

    #[test]
    fn this_machine_takes_something_of_itself() {
        let sample = sample().unwrap();
        assert!(sample.cpu_nanos > 0 && sample.memory_bytes > 0, "{sample:?}");
    }
}
