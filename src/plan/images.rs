//! Which images a node removes when the disk they lie on fills.
//!
//! Pure. What is removed is what nothing here needs, the longest unneeded first, until the disk is at the lower limit; under disk
//! pressure, all of it.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/images/image_gc_manager.go` and Kubernetes' "Garbage collection of unused container
//! images". We differ on purpose: images of every revision that the node runs, may move to or may fall back to stay, since a host
//! that cannot reach its registry would not get them again; and images are listed only when the disk is full, not every
//! five minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::Moment;
use crate::plan::pressure::Reading;

/// An image that came only now may be about to be used (`imageMinimumGCAge`).
const AGE_MIN: Duration = Duration::from_secs(120);
/// `imageGCHighThresholdPercent` and `imageGCLowThresholdPercent`.
const DEFAULT: ImageLimits = ImageLimits { high_percent: 85, low_percent: 80 };

/// How full the disk of images may be, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    high_percent: u8,
    low_percent: u8,
}

/// Limits that mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadImageLimits {
    /// More than a disk holds.
    #[error("{0} is no percentage; write a number from 0 to 100")]
    Percent(u8),
    /// Removing images would begin where it ends.
    #[error(
        "--image-gc-low-threshold is {low}, and has to be below --image-gc-high-threshold, which is {high}; 100 for the latter keeps \
         all images"
    )]
    Order {
        /// Where removing ends.
        low: u8,
        /// Where it begins.
        high: u8,
    },
}

impl Default for ImageLimits {
    fn default() -> Self {
        DEFAULT
    }
}

impl ImageLimits {
    /// Limits as the kubelet's configuration has them; what is not given is the default.
    ///
    /// # Errors
    /// [`BadImageLimits`].
    pub fn new(high: Option<u8>, low: Option<u8>) -> Result<Self, BadImageLimits> {
        let limits = Self {
            high_percent: high.unwrap_or(DEFAULT.high_percent),
            low_percent: low.unwrap_or(DEFAULT.low_percent),
        };
        let Self { high_percent: high, low_percent: low } = limits;
        match [high, low].into_iter().find(|percent| *percent > 100) {
            Some(percent) => Err(BadImageLimits::Percent(percent)),
            None if low >= high => Err(BadImageLimits::Order { low, high }),
            None => Ok(limits),
        }
    }

    /// Whether images are removed before the disk is so full that pods have to go.
    pub fn bound(self) -> bool {
        self.high_percent < 100
    }

    /// Whether the disk is so full that images have to go.
    pub fn is_exceeded(self, disk: Reading) -> bool {
        self.bound() && disk.capacity > 0 && used_percent(disk) >= u64::from(self.high_percent)
    }

    /// How many bytes have to be freed until no more have to go.
    pub fn surplus(self, disk: Reading) -> u64 {
        let wanted = u128::from(disk.capacity) * u128::from(100 - self.low_percent) / 100;
        u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(disk.available)
    }
}

/// How much of a disk is used, rounded up as upstream does.
pub fn used_percent(disk: Reading) -> u64 {
    let free = u128::from(disk.available) * 100 / u128::from(disk.capacity.max(1));
    100_u64.saturating_sub(u64::try_from(free).unwrap_or(100))
}

/// When which image was needed last, or came, as far as anybody looked.
#[derive(Debug, Default)]
pub struct Seen(Option<BTreeMap<String, Moment>>);

impl Seen {
    /// Notes which images there are and which of them are needed. Answers with those that may go, by their ids, the longest
    /// unneeded first. What was there at the first look may have been there for ever.
    pub fn removable(&mut self, present: &BTreeSet<String>, needed: &BTreeSet<String>, now: Moment) -> Vec<String> {
        let came = if self.0.is_some() { now } else { Moment::default() };
        let seen = self.0.get_or_insert_default();
        seen.retain(|id, _| present.contains(id));
        for id in present {
            let last = seen.entry(id.clone()).or_insert(came);
            if needed.contains(id) {
                *last = now;
            }
        }
        let idle = seen.iter().filter(|(id, last)| {
            let is_new = **last > Moment::default() && now.since(**last) < AGE_MIN;
            !needed.contains(*id) && !is_new
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_by_key(|(_, last)| **last);
        idle.into_iter().map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn disk(available: u64) -> Reading {
        Reading { available: available * GIB, capacity: 100 * GIB }
    }

    #[test]
    fn images_go_from_the_higher_limit_down_to_the_lower() {
        let limits = ImageLimits::default();
        let rows = [(16, false, 4), (15, true, 5), (0, true, 20), (20, false, 0), (50, false, 0)];
        for (available, exceeded, surplus) in rows {
            let disk = disk(available);
            assert_eq!((limits.is_exceeded(disk), limits.surplus(disk)), (exceeded, surplus * GIB), "{available}");
        }
        assert!(!limits.is_exceeded(Reading { available: 0, capacity: 0 }), "a disk of which nothing is known");
        assert!(!ImageLimits::new(Some(100), None).unwrap().is_exceeded(disk(0)), "all images are kept");
        assert_eq!(used_percent(Reading { available: 1, capacity: 1000 }), 100);
    }

    #[test]
    fn limits_that_mean_nothing_are_refused() {
        assert_eq!(ImageLimits::new(Some(101), None), Err(BadImageLimits::Percent(101)));
        assert_eq!(ImageLimits::new(Some(80), None), Err(BadImageLimits::Order { low: 80, high: 80 }));
        assert_eq!(ImageLimits::new(None, Some(90)), Err(BadImageLimits::Order { low: 90, high: 85 }));
        assert!(ImageLimits::new(Some(1), Some(0)).is_ok());
    }

    #[test]
    fn the_longest_unneeded_go_first_and_the_new_and_the_needed_stay() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let at = |seconds| Moment::default() + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        let first = seen.removable(&ids(&["a", "b", "c"]), &ids(&["b"]), at(10));
        assert_eq!(first, ["a", "c"], "what was there before the first look is not new");
        // `d` comes, and `b` and `a` are needed no more, `b` for longer.
        assert_eq!(seen.removable(&ids(&["a", "b", "d"]), &ids(&["a"]), at(100)), [""; 0]);
        assert_eq!(seen.removable(&ids(&["a", "b", "d"]), &ids(&[]), at(131)), ["b"]);
        assert_eq!(seen.removable(&ids(&["a", "b", "d"]), &ids(&[]), at(221)), ["b", "a", "d"]);
        // One that is gone and comes again is new.
        assert_eq!(seen.removable(&ids(&["a"]), &ids(&[]), at(230)), ["a"]);
        assert_eq!(seen.removable(&ids(&["a", "b"]), &ids(&[]), at(500)), ["a"]);
    }
}
