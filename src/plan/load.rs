//! How much is taken of a node, from two samples.
//!
//! Pure. Runtimes and the kernel count processor time up; how much of a processor something takes is what was added between
//! two samples, by the time between them. Memory is that of the second.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::Load;

/// What was counted at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When, by the clock of whoever counts, in nanoseconds since 1970.
    pub at_nanos: i64,
    /// Processor time used since something began, in nanoseconds.
    pub cpu_nanos: u64,
    /// The working set.
    pub memory_bytes: u64,
}

/// What was taken between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken<K> {
    /// The last of the second samples; none if nothing was sampled twice.
    pub at: Option<Timestamp>,
    /// The time from the first of the first samples until then.
    pub window: Duration,
    /// Who took how much, by their keys.
    pub loads: Vec<(K, Load)>,
}

/// What each took that is among both samples.
pub fn taken<K: Ord + Clone>(first: &BTreeMap<K, Sample>, second: &BTreeMap<K, Sample>) -> Taken<K> {
    let both = second.iter().filter_map(|(key, second)| Some((key, first.get(key)?, second)));
    let (mut begun, mut ended, mut loads) = (i64::MAX, i64::MIN, Vec::new());
    for (key, first, second) in both {
        let Some(load) = load(first, second) else { continue };
        (begun, ended) = (begun.min(first.at_nanos), ended.max(second.at_nanos));
        loads.push((key.clone(), load));
    }
    Taken {
        at: Timestamp::from_nanosecond(ended.into()).ok().filter(|_| !loads.is_empty()),
        window: Duration::from_nanos(ended.checked_sub(begun).map_or(0, i64::cast_unsigned)),
        loads,
    }
}

/// None if no time has passed, or what is counted began anew in between.
fn load(first: &Sample, second: &Sample) -> Option<Load> {
    let nanos = u64::try_from(second.at_nanos.checked_sub(first.at_nanos)?).ok().filter(|nanos| *nanos > 0)?;
    let used = second.cpu_nanos.checked_sub(first.cpu_nanos)?;
    let cores = u128::from(used) * 1_000_000_000 / u128::from(nanos);
    Some(Load { cpu_nano_cores: u64::try_from(cores).ok()?, memory_bytes: second.memory_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn sample(at_nanos: i64, cpu_nanos: u64, memory_bytes: u64) -> Sample {
        Sample { at_nanos, cpu_nanos, memory_bytes }
    }

    #[test]
    fn what_was_added_by_the_time_it_took_is_the_load() {
        let first = [
            ("half", sample(10 * SECOND, 7_000, 1)),
            ("idle", sample(10 * SECOND + 5, 9, 1)),
            ("two", sample(11 * SECOND, 0, 1)),
            ("ended", sample(10, 1, 1)),
            ("anew", sample(10, 900, 1)),
            ("stood", sample(12 * SECOND, 1, 1)),
        ];
        let second = [
            ("half", sample(12 * SECOND, 1_000_007_000, 20)),
            ("idle", sample(12 * SECOND, 9, 30)),
            ("two", sample(12 * SECOND + 7, 2_000_000_014, 40)),
            ("began", sample(99 * SECOND, 1, 1)),
            ("anew", sample(99 * SECOND, 800, 1)),
            ("stood", sample(12 * SECOND, 5, 1)),
        ];
        let load = |cpu_nano_cores, memory_bytes| Load { cpu_nano_cores, memory_bytes };
        let expected = Taken {
            at: Some(Timestamp::from_nanosecond(12_000_000_007).unwrap()),
            window: Duration::from_nanos(2_000_000_007),
            loads: vec![("half", load(500_000_000, 20)), ("idle", load(0, 30)), ("two", load(2_000_000_000, 40))],
        };
        assert_eq!(taken(&first.into(), &second.into()), expected);
        let nothing = Taken { at: None, window: Duration::ZERO, loads: vec![] };
        assert_eq!(taken::<()>(&BTreeMap::new(), &BTreeMap::new()), nothing);
    }
}
