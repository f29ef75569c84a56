//! A cgroup's limits as the properties of a systemd slice: pure.
//!
//! Source: opencontainers/cgroups v0.1.0 `systemd/common.go`, `v1.go`, `v2.go`; systemd.resource-control(5).

use zbus::Variant;

use crate::host::cgroups::{is_slice, weight};
use crate::podspec::CgroupLimits;

/// A property's name and value.
pub(super) type Property = (&'static str, Variant<'static>);

/// No limit, as systemd has it.
const INFINITY: u64 = u64::MAX;
/// The period of a quota that is not told another, in microseconds.
const PERIOD_MICROS: i64 = 100_000;
/// systemd counts quotas in whole percent of a processor, here in microseconds for each second.
const PERCENT_MICROS: u64 = 10_000;

/// The slice that is this cgroup; none for a cgroup that is not systemd's.
pub(super) fn slice(cgroup: &str) -> Option<&str> {
    cgroup.rsplit('/').next().filter(|name| is_slice(name))
}

/// What only a slice that is started is told.
///
/// Without the default dependencies it is not stopped at shutdown before whatever is in it. The slice above is part of
/// its name; libcontainer names it once more.
pub(super) fn beginning(description: &str) -> Vec<Property> {
    vec![("Description", Variant::from(description.to_owned())), ("DefaultDependencies", Variant::from(false))]
}

/// What a slice is told of its limits, each time they are set. Page sizes are not systemd's affair.
///
/// A quota is rounded up to whole percents, or containers could not have all of their own. `CPUQuotaPeriodUSec` is
/// unknown to systemd before 242 and left out where it would say nothing new.
pub(super) fn limits(limits: &CgroupLimits, cgroup_v2: bool) -> Vec<Property> {
    let io = if cgroup_v2 { "IOAccounting" } else { "BlockIOAccounting" };
    let mut all: Vec<Property> =
        ["CPUAccounting", "MemoryAccounting", "TasksAccounting", io].map(|name| (name, Variant::from(true))).into();
    let (cpu, memory, amount) = if cgroup_v2 {
        ("CPUWeight", "MemoryMax", weight(limits.cpu_shares))
    } else {
        ("CPUShares", "MemoryLimit", limits.cpu_shares)
    };
    all.push((cpu, Variant::from(amount.unsigned_abs())));
    if let Some((quota, period)) = limits.cpu_quota {
        all.push(("CPUQuotaPerSecUSec", Variant::from(per_second(quota, period))));
        all.extend((period != PERIOD_MICROS).then(|| ("CPUQuotaPeriodUSec", Variant::from(period.unsigned_abs()))));
    }
    all.extend(limits.memory_bytes.map(|bytes| (memory, Variant::from(bound(bytes)))));
    all
}

/// Microseconds of processor time for each second.
fn per_second(quota: i64, period: i64) -> u64 {
    match bound(quota) {
        INFINITY => INFINITY,
        quota => (quota.saturating_mul(1_000_000) / period.unsigned_abs().max(1)).next_multiple_of(PERCENT_MICROS),
    }
}

/// A limit of 0 is none.
fn bound(limit: i64) -> u64 {
    u64::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a slice is told beyond accounting, as `name=value`.
    fn told(change: impl Fn(&mut CgroupLimits), cgroup_v2: bool) -> String {
        let mut wanted = CgroupLimits { cpu_shares: 512, ..CgroupLimits::default() };
        change(&mut wanted);
        let properties = limits(&wanted, cgroup_v2);
        let (accounting, rest) = properties.split_at(4);
        assert!(accounting.iter().all(|(name, on)| name.ends_with("Accounting") && *on == Variant::from(true)));
        let words = rest.iter().map(|(name, value)| {
            let Variant::U64(value) = value else { panic!("{name} takes 64 bits, not {value:?}") };
            if *value == u64::MAX { format!("{name}=infinity") } else { format!("{name}={value}") }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn limits_are_said_in_the_words_of_each_version() {
        type Change = fn(&mut CgroupLimits);
        let rows: [(Change, &str, &str); 8] = [
            (|_| {}, "CPUShares=512", "CPUWeight=20"),
            (|all| all.cpu_shares = 2, "CPUShares=2", "CPUWeight=1"),
            (|all| all.cpu_shares = 262_144, "CPUShares=262144", "CPUWeight=10000"),
            (
                |all| all.cpu_quota = Some((50_000, 100_000)),
                "CPUShares=512 CPUQuotaPerSecUSec=500000",
                "CPUWeight=20 CPUQuotaPerSecUSec=500000",
            ),
            // 12.5 %, and a period of its own.
            (
                |all| all.cpu_quota = Some((6_250, 50_000)),
                "CPUShares=512 CPUQuotaPerSecUSec=130000 CPUQuotaPeriodUSec=50000",
                "CPUWeight=20 CPUQuotaPerSecUSec=130000 CPUQuotaPeriodUSec=50000",
            ),
            (
                |all| all.cpu_quota = Some((0, 100_000)),
                "CPUShares=512 CPUQuotaPerSecUSec=infinity",
                "CPUWeight=20 CPUQuotaPerSecUSec=infinity",
            ),
            (
                |all| all.memory_bytes = Some(64 << 20),
                "CPUShares=512 MemoryLimit=67108864",
                "CPUWeight=20 MemoryMax=67108864",
            ),
            (
                |all| (all.memory_bytes, all.hugepage_bytes) = (Some(0), vec![("2MB".to_owned(), 4 << 20)]),
                "CPUShares=512 MemoryLimit=infinity",
                "CPUWeight=20 MemoryMax=infinity",
            ),
        ];
        for (change, v1, v2) in rows {
            assert_eq!((told(change, false).as_str(), told(change, true).as_str()), (v1, v2));
        }
        assert_eq!(limits(&CgroupLimits::default(), false)[3].0, "BlockIOAccounting");
        assert_eq!(limits(&CgroupLimits::default(), true)[3].0, "IOAccounting");
    }

    #[test]
    fn a_slice_is_the_last_part_of_a_path_and_what_is_no_slice_is_none() {
        for (cgroup, wanted) in [
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0_1.slice",
                "kubepods-burstable-pod0_1.slice",
            ),
            ("/kubepods.slice", "kubepods.slice"),
            ("/kubepods/besteffort/pod0-1", ""),
            ("", ""),
        ] {
            assert_eq!(slice(cgroup).unwrap_or_default(), wanted);
        }
    }
}
