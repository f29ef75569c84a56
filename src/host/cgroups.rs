//! Cgroups of pods: their parents below `/kubepods`, weighed and limited as the kubelet does.
//!
//! ```text
//! /kubepods                       weight: what pods may use of the node
//! /kubepods/pod<uid>              Guaranteed: weight and limits of the pod
//! /kubepods/burstable/pod<uid>    class weight: sum of requests; pod: weight, limits if every container has them
//! /kubepods/besteffort/pod<uid>   class and pod: the least weight
//! ```
//!
//! With the cgroupfs driver they are made here, on cgroup v1 (in each hierarchy) and v2. With the systemd driver the paths
//! are slices and systemd's to make ([`super::slices`]): done here is what systemd does not do, limiting page sizes, and
//! ending what is still in them. The containers' own cgroups, below, are the runtime's.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use super::mounts::mounts;
use super::{FileError, failed};
use crate::podspec::{CgroupLimits, Pod};

/// Where cgroups are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// The least weight there is.
const SHARES_MIN: i64 = 2;
/// The most.
const SHARES_MAX: i64 = 262_144;
/// What a pod's cgroup is told about; other controllers' cgroups come and go with the containers.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", HUGETLB];
/// The one that systemd does not know.
const HUGETLB: &str = "hugetlb";

/// The host's cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    /// Each hierarchy: where it is mounted and which controllers it has.
    V1(Vec<(PathBuf, Vec<String>)>),
    /// The one hierarchy.
    V2(PathBuf),
}

impl Cgroups {
    /// Finds out how this host mounts them. A hybrid host, where v2 has no controllers of its own, counts as v1.
    ///
    /// # Errors
    /// [`FileError`] if the list of mounts cannot be read.
    pub fn detect() -> Result<Self, FileError> {
        let root = Path::new(CGROUP_ROOT);
        if statfs(root).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(Self { version: Version::V2(root.to_owned()) });
        }
        // The runtime makes pods' cgroups in a hybrid host's hierarchy of v2, too, and leaves them there.
        let hierarchies = mounts()?.into_iter().filter(|mount| ["cgroup", "cgroup2"].contains(&mount.fs_type.as_str()));
        let with_controllers =
            hierarchies.map(|mount| (mount.point, mount.super_options.split(',').map(str::to_owned).collect()));
        // One mount may hide another at the same place; the later one is seen.
        let by_place: BTreeMap<_, _> = with_controllers.collect();
        Ok(Self { version: Version::V1(by_place.into_iter().collect()) })
    }

    /// Whether the host has one hierarchy for all: some CRI fields depend on it.
    pub fn is_v2(&self) -> bool {
        matches!(self.version, Version::V2(_))
    }

    /// The controllers this host has; none for one whose hierarchy cannot be read.
    pub fn controllers(&self) -> BTreeSet<String> {
        match &self.version {
            Version::V1(hierarchies) => hierarchies.iter().flat_map(|(_, names)| names.clone()).collect(),
            Version::V2(mount) => {
                let names = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                names.split_whitespace().map(str::to_owned).collect()
            }
        }
    }

    /// Whether swap can be limited by cgroup: kernels may be built or started without.
    pub fn limits_swap(&self) -> bool {
        match &self.version {
            Version::V1(hierarchies) => {
                hierarchies.iter().any(|(mount, _)| mount.join("memory.memsw.limit_in_bytes").exists())
            }
            // The root has no limits; any cgroup below it does, if the kernel can.
            Version::V2(mount) => {
                let cgroups = fs::read_dir(mount).into_iter().flatten().flatten();
                cgroups.into_iter().any(|entry| entry.path().join("memory.swap.max").exists())
            }
        }
    }

    /// Makes `kubepods` (below `root`, `/` for none) and its classes, and weighs them. To be repeated when requests change.
    /// `pods_millis` is what pods may use of the node's processors, `burstable_millis` what all Burstable pods ask for.
    ///
    /// # Errors
    /// [`FileError`] naming the cgroup or its file.
    ///
    /// Source: kubernetes v1.36 `pkg/kubelet/cm/qos_container_manager_linux.go`.
    pub fn weigh_classes(&self, root: &str, pods_millis: u64, burstable_millis: u64) -> Result<(), FileError> {
        self.set(&format!("{root}/kubepods"), &class_limits(pods_millis), None)?;
        self.set(&format!("{root}/kubepods/burstable"), &class_limits(burstable_millis), None)?;
        self.set(&format!("{root}/kubepods/besteffort"), &class_limits(0), None)
    }

    /// Makes the cgroup of a pod and sets what the pod as a whole may use: of a slice only the page sizes, once systemd was
    /// asked to make it. Repeatable.
    ///
    /// # Errors
    /// [`FileError`] naming the cgroup or its file.
    pub fn make_pod(&self, pod: &Pod) -> Result<(), FileError> {
        let only = is_slice(&pod.cgroup_parent).then_some(HUGETLB);
        if only.is_some() && pod.cgroup.hugepage_bytes.is_empty() {
            return Ok(());
        }
        self.set(&pod.cgroup_parent, &pod.cgroup, only)
    }

    /// The processes in a pod's cgroup and below.
    ///
    /// # Errors
    /// [`FileError`] naming the cgroup. One that does not exist has none.
    pub fn processes(&self, pod: &Pod) -> Result<BTreeSet<i32>, FileError> {
        self.processes_in(pod, |_| true)
    }

    /// The same of some cgroups: `counts` is asked by the name of that right below the pod's, none for the pod's own.
    pub(super) fn processes_in(
        &self,
        pod: &Pod,
        counts: impl Fn(Option<&str>) -> bool,
    ) -> Result<BTreeSet<i32>, FileError> {
        let mut pids = BTreeSet::new();
        for dir in self.dirs(&pod.cgroup_parent) {
            for cgroup in tree(&dir)? {
                let container = cgroup.strip_prefix(&dir).ok().and_then(|below| below.iter().next());
                if !counts(container.map(OsStr::to_string_lossy).as_deref()) {
                    continue;
                }
                let file = cgroup.join("cgroup.procs");
                let text = unless_missing(fs::read_to_string(&file), "read", &file)?.unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
        }
        Ok(pids)
    }

    /// Kills what is left in a pod's cgroup, and removes it with all below. Repeatable; to be repeated while it fails with
    /// `EBUSY`, since killed processes take a moment to go.
    ///
    /// # Errors
    /// [`FileError`] naming the cgroup.
    pub fn remove_pod(&self, pod: &Pod) -> Result<(), FileError> {
        for pid in self.processes(pod)? {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(failed("kill a process of", Path::new(&pod.cgroup_parent))(errno.into())),
            }
        }
        for dir in self.dirs(&pod.cgroup_parent) {
            for cgroup in tree(&dir)?.iter().rev() {
                unless_missing(fs::remove_dir(cgroup), "remove cgroup", cgroup)?;
            }
        }
        Ok(())
    }

    /// Where a cgroup is, in each hierarchy.
    fn dirs(&self, cgroup: &str) -> Vec<PathBuf> {
        let below = |mount: &PathBuf| mount.join(cgroup.trim_start_matches('/'));
        match &self.version {
            Version::V1(hierarchies) => hierarchies.iter().map(|(mount, _)| below(mount)).collect(),
            Version::V2(mount) => vec![below(mount)],
        }
    }

    /// `only` is the controller to leave it at, where the others are not ours.
    fn set(&self, cgroup: &str, limits: &CgroupLimits, only: Option<&str>) -> Result<(), FileError> {
        match &self.version {
            Version::V2(mount) => set_v2(mount, cgroup, limits, only),
            Version::V1(hierarchies) => {
                // Controllers may share a hierarchy.
                let of = |controller: &str| hierarchies.iter().find(|(_, all)| all.iter().any(|one| one == controller));
                let ours = CONTROLLERS.into_iter().filter(|name| is_ours(name, only));
                for (controller, (mount, _)) in ours.filter_map(|name| Some((name, of(name)?))) {
                    let dir = mount.join(cgroup.trim_start_matches('/'));
                    fs::create_dir_all(&dir).map_err(failed("make cgroup", &dir))?;
                    write_all(&dir, &files_v1(controller, limits))?;
                }
                Ok(())
            }
        }
    }
}

/// The classes' and pods' limits as files of cgroup v1.
fn files_v1(controller: &str, limits: &CgroupLimits) -> Vec<(String, String)> {
    let unlimited = |limit: i64| if limit == 0 { -1 } else { limit };
    let file = |name: &str, value: String| (name.to_owned(), value);
    match controller {
        "cpu" => {
            let mut files = vec![file("cpu.shares", limits.cpu_shares.to_string())];
            if let Some((quota, period)) = limits.cpu_quota {
                files.push(file("cpu.cfs_period_us", period.to_string()));
                files.push(file("cpu.cfs_quota_us", unlimited(quota).to_string()));
            }
            files
        }
        "memory" => {
            let bytes = limits.memory_bytes.map(|bytes| file("memory.limit_in_bytes", unlimited(bytes).to_string()));
            bytes.into_iter().collect()
        }
        _ => hugepages(limits, "limit_in_bytes").collect(),
    }
}

/// The same as files of cgroup v2, those of `hugetlb` only where the cgroup has it.
fn files_v2(limits: &CgroupLimits, hugetlb: bool) -> Vec<(String, String)> {
    let max = |limit: i64| if limit == 0 { "max".to_owned() } else { limit.to_string() };
    let file = |name: &str, value: String| (name.to_owned(), value);
    let mut files = vec![file("cpu.weight", weight(limits.cpu_shares).to_string())];
    files.extend(limits.cpu_quota.map(|(quota, period)| file("cpu.max", format!("{} {period}", max(quota)))));
    files.extend(limits.memory_bytes.map(|bytes| file("memory.max", max(bytes))));
    files.extend(hugepages(limits, "max").filter(|_| hugetlb));
    files
}

fn hugepages(limits: &CgroupLimits, file: &str) -> impl Iterator<Item = (String, String)> {
    limits.hugepage_bytes.iter().map(move |(size, bytes)| (format!("hugetlb.{size}.{file}"), bytes.to_string()))
}

/// A cgroup of v2 has the controllers its parent hands down.
fn set_v2(mount: &Path, cgroup: &str, limits: &CgroupLimits, only: Option<&str>) -> Result<(), FileError> {
    let mut dir = mount.to_owned();
    let mut hugetlb = false;
    for name in cgroup.split('/').filter(|name| !name.is_empty()) {
        let present = dir.join("cgroup.controllers");
        let present = fs::read_to_string(&present).map_err(failed("read", &present))?;
        hugetlb = present.split_whitespace().any(|name| name == HUGETLB);
        let ours: Vec<_> = present.split_whitespace().filter(|name| is_ours(name, only)).collect();
        if only.is_some() && ours.is_empty() {
            return Ok(());
        }
        let handed_down = ours.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
        write_all(&dir, &[("cgroup.subtree_control".to_owned(), handed_down)])?;
        dir.push(name);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make cgroup", &dir)(error));
            }
            _ => {}
        }
    }
    let mut files = files_v2(limits, hugetlb);
    files.retain(|(name, _)| name.split('.').next().is_some_and(|controller| is_ours(controller, only)));
    write_all(&dir, &files)
}

fn is_ours(controller: &str, only: Option<&str>) -> bool {
    only.is_none_or(|only| only == controller)
}

fn write_all(dir: &Path, files: &[(String, String)]) -> Result<(), FileError> {
    for (name, value) in files {
        let file = dir.join(name);
        fs::write(&file, value).map_err(failed("write", &file))?;
    }
    Ok(())
}

/// What the cgroup of a class is told, whose pods ask for this much of the processors.
pub(super) fn class_limits(millis: u64) -> CgroupLimits {
    CgroupLimits { cpu_shares: shares(millis), ..CgroupLimits::default() }
}

/// The weight of cgroup v2 for one of v1. Runtimes may convert their containers' by another curve.
///
/// Source: kubernetes v1.36 `pkg/kubelet/cm/cgroup_manager_linux.go`, `getCPUWeight`.
pub(super) fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(SHARES_MIN, SHARES_MAX) - SHARES_MIN) * 9999 / (SHARES_MAX - SHARES_MIN)
}

fn shares(millis: u64) -> i64 {
    i64::try_from(millis.saturating_mul(1024) / 1000).unwrap_or(SHARES_MAX).clamp(SHARES_MIN, SHARES_MAX)
}

/// Whether a cgroup is systemd's to make.
pub(super) fn is_slice(cgroup: &str) -> bool {
    cgroup.ends_with(".slice")
}

/// A cgroup and all below it, each before those it holds; empty if there is none.
fn tree(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut found = Vec::new();
    let mut next = vec![dir.to_owned()];
    while let Some(dir) = next.pop() {
        let Some(entries) = unless_missing(fs::read_dir(&dir), "read cgroup", &dir)? else { continue };
        let entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(failed("read cgroup", &dir))?;
        next.extend(
            entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(fs::DirEntry::path),
        );
        found.push(dir);
    }
    Ok(found)
}

/// Containers' cgroups may vanish while they are looked at. Reading a file of one that just did gives `ENODEV`.
fn unless_missing<T>(result: io::Result<T>, action: &'static str, path: &Path) -> Result<Option<T>, FileError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32) => {
            Ok(None)
        }
        Err(error) => Err(failed(action, path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pods::pod;

    fn limited() -> CgroupLimits {
        CgroupLimits {
            cpu_shares: 512,
            cpu_quota: Some((50_000, 100_000)),
            memory_bytes: Some(64 << 20),
            hugepage_bytes: vec![("2MB".to_owned(), 4 << 20)],
        }
    }

    fn own(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_same_limits_are_written_in_each_versions_words() {
        let unlimited = CgroupLimits { cpu_quota: Some((0, 100_000)), memory_bytes: Some(0), ..limited() };
        let weighed = CgroupLimits { cpu_shares: 2, ..CgroupLimits::default() };
        let huge = ("hugetlb.2MB.max", "4194304");
        for (limits, cpu, memory, v2) in [
            (
                limited(),
                own(&[("cpu.shares", "512"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")]),
                own(&[("memory.limit_in_bytes", "67108864")]),
                own(&[("cpu.weight", "20"), ("cpu.max", "50000 100000"), ("memory.max", "67108864"), huge]),
            ),
            (
                unlimited,
                own(&[("cpu.shares", "512"), ("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "-1")]),
                own(&[("memory.limit_in_bytes", "-1")]),
                own(&[("cpu.weight", "20"), ("cpu.max", "max 100000"), ("memory.max", "max"), huge]),
            ),
            (weighed, own(&[("cpu.shares", "2")]), own(&[]), own(&[("cpu.weight", "1")])),
        ] {
            let (v1_cpu, v1_memory) = (files_v1("cpu", &limits), files_v1("memory", &limits));
            assert_eq!((v1_cpu, v1_memory, files_v2(&limits, true)), (cpu, memory, v2));
        }
        assert_eq!(files_v1("hugetlb", &limited()), own(&[("hugetlb.2MB.limit_in_bytes", "4194304")]));
        assert_eq!(files_v2(&limited(), false).len(), 3);
        assert_eq!((shares(0), shares(1500), shares(u64::MAX)), (2, 1536, 262_144));
    }

    #[test]
    fn each_hierarchy_of_v1_gets_the_files_of_its_controllers() {
        let temp = tempfile::tempdir().unwrap();
        let (cpu, memory) = (temp.path().join("cpu,cpuacct"), temp.path().join("memory"));
        let hierarchy =
            |dir: &PathBuf, names: &[&str]| (dir.clone(), names.iter().map(|name| (*name).to_owned()).collect());
        let hierarchies = vec![hierarchy(&cpu, &["cpu", "cpuacct"]), hierarchy(&memory, &["memory"])];
        let cgroups = Cgroups { version: Version::V1(hierarchies) };

        cgroups.set("/kubepods/pod1", &limited(), None).unwrap();
        cgroups.weigh_classes("", 2000, 500).unwrap();

        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(cpu.join("kubepods/pod1/cpu.cfs_quota_us")), "50000");
        assert_eq!(read(memory.join("kubepods/pod1/memory.limit_in_bytes")), "67108864");
        assert_eq!(read(cpu.join("kubepods/cpu.shares")), "2048");
        assert_eq!(read(cpu.join("kubepods/burstable/cpu.shares")), "512");
        assert_eq!(read(cpu.join("kubepods/besteffort/cpu.shares")), "2");
    }

    #[test]
    fn controllers_of_v2_are_handed_down_to_the_pod() {
        let temp = tempfile::tempdir().unwrap();
        for cgroup in ["", "kubepods", "kubepods/burstable"] {
            fs::create_dir_all(temp.path().join(cgroup)).unwrap();
            fs::write(temp.path().join(cgroup).join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        }
        let cgroups = Cgroups { version: Version::V2(temp.path().to_owned()) };
        cgroups.set("/kubepods/burstable/pod1", &limited(), None).unwrap();
        let read = |path: &str| fs::read_to_string(temp.path().join(path)).unwrap();
        assert_eq!(read("kubepods/burstable/cgroup.subtree_control"), "+cpu +memory +pids");
        assert_eq!(read("kubepods/burstable/pod1/cpu.max"), "50000 100000");
    }

    #[test]
    fn of_a_slice_nothing_is_written_but_page_sizes_and_only_where_there_are_any() {
        let slice = "kubepods.slice/kubepods-pod1.slice";
        let mut pod = Pod { cgroup_parent: format!("/{slice}"), cgroup: limited(), ..pod("web", Path::new("/")) };
        for (controllers, has_sizes, limit) in
            [("cpu hugetlb\n", true, Some("4194304")), ("cpu hugetlb\n", false, None), ("cpu\n", true, None)]
        {
            let temp = tempfile::tempdir().unwrap();
            let place = |path: &str| temp.path().join(path);
            for cgroup in ["", "kubepods.slice"] {
                fs::create_dir_all(place(cgroup)).unwrap();
                fs::write(place(cgroup).join("cgroup.controllers"), controllers).unwrap();
            }
            pod.cgroup.hugepage_bytes = if has_sizes { limited().hugepage_bytes } else { vec![] };
            Cgroups { version: Version::V2(temp.path().to_owned()) }.make_pod(&pod).unwrap();
            let read = |path: &str| fs::read_to_string(place(path)).ok();
            assert_eq!(read(&format!("{slice}/hugetlb.2MB.max")).as_deref(), limit);
            assert_eq!(read("kubepods.slice/cgroup.subtree_control").as_deref(), limit.map(|_| "+hugetlb"));
            assert!(!place(slice).join("cpu.weight").exists());
        }
    }

    #[test]
    fn processes_are_found_below_a_pod_and_an_absent_pod_has_none() {
        let temp = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { version: Version::V2(temp.path().to_owned()) };
        let pod = pod("web", Path::new("/"));
        assert_eq!(cgroups.processes(&pod).unwrap(), BTreeSet::new());
        cgroups.remove_pod(&pod).unwrap();
        let dir = temp.path().join(pod.cgroup_parent.trim_start_matches('/'));
        fs::create_dir_all(dir.join("container")).unwrap();
        fs::write(dir.join("cgroup.procs"), "").unwrap();
        fs::write(dir.join("container/cgroup.procs"), "4000001\n4000002\n").unwrap();
        assert_eq!(cgroups.processes(&pod).unwrap(), BTreeSet::from([4_000_001, 4_000_002]));
        for (counted, found) in [("other", 0), ("container", 2)] {
            assert_eq!(cgroups.processes_in(&pod, |name| name == Some(counted)).unwrap().len(), found);
        }
    }
}
