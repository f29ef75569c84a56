//! What this machine is and has, for its Node.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::{FileError, cni, failed, usage};
use crate::plan::pressure::{Signal, Thresholds};

/// How many pods a node takes (the kubelet's `maxPods`).
const PODS_MAX: u64 = 110;
/// Where the kernel keeps a directory for each processor.
const CPUS: &str = "/sys/devices/system/cpu";
/// Where the kernel keeps a directory for each size of huge pages.
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";

/// What does not change while the machine runs, but for its addresses. Texts that a machine does not have are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As the system has it, in lower case.
    pub hostname: String,
    /// `/etc/machine-id`: this installation.
    pub machine_id: String,
    /// This hardware, as its firmware says; the machine id where it says nothing.
    pub system_uuid: String,
    /// This run of the kernel.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// `PRETTY_NAME` of os-release(5).
    pub os_image: String,
    /// As Go and Kubernetes write it: `amd64`, `arm64` …
    pub architecture: &'static str,
    /// What others reach the machine by: one address of each family at most, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Resources by name: `cpu` in millicores, all others in their base unit (bytes, pieces).
    pub capacity: BTreeMap<String, u64>,
    /// Swap in bytes.
    pub swap_bytes: u64,
    /// The sizes of huge pages the kernel knows, in bytes, ascending.
    pub hugepage_sizes: Vec<u64>,
    /// The kernel has AppArmor and it is switched on.
    pub apparmor: bool,
    /// Files of this processor's that are not for containers to see: one a cpu, where it has them.
    pub thermal_throttles: Vec<String>,
}

impl Facts {
    /// Major and minor of [`Facts::kernel_version`]; zeros where it cannot be read.
    pub fn kernel(&self) -> (u32, u32) {
        leading_version(&self.kernel_version).unwrap_or_default()
    }
}

/// The first two numbers of `1.6.20~ds1`, `v2.1.9` or `6.1.0-18-amd64`.
pub fn leading_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Collects them. `root_dir` is where pods' files go: its filesystem is what they share.
///
/// # Errors
/// [`FileError`] if the hostname or the size of that filesystem cannot be had.
pub fn collect(root_dir: &Path) -> Result<Facts, FileError> {
    let hostname = nix::unistd::gethostname().map_err(|errno| failed("read", Path::new("hostname"))(errno.into()))?;
    let machine_id = first_line(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
    let uuid = first_line(&["/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid"]);
    let what = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram().with_swap());
    let system = System::new_with_specifics(what);
    let system = system.map_err(|error| failed("read", Path::new("/proc"))(io::Error::other(error)))?;
    let hugepages = hugepages();
    Ok(Facts {
        hostname: hostname.to_string_lossy().trim().to_lowercase(),
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid.to_lowercase() },
        machine_id,
        boot_id: first_line(&["/proc/sys/kernel/random/boot_id"]),
        kernel_version: first_line(&["/proc/sys/kernel/osrelease"]),
        os_image: os_image(&first_file(&["/etc/os-release", "/usr/lib/os-release"])),
        architecture: architecture(),
        addresses: addresses(),
        capacity: capacity(&system, usage::space(root_dir)?.capacity_bytes, &hugepages),
        swap_bytes: system.total_swap(),
        hugepage_sizes: hugepages.iter().map(|(size, _)| *size).collect(),
        apparmor: first_line(&["/sys/module/apparmor/parameters/enabled"]) == "Y",
        thermal_throttles: thermal_throttles(),
    })
}

/// What of `capacity` pods may ask for: huge pages are no memory, and what has to be left of memory and storage is kept back.
///
/// Source: kubernetes v1.36 `pkg/kubelet/cm/node_container_manager_linux.go`.
pub fn allocatable(capacity: &BTreeMap<String, u64>, eviction_hard: &Thresholds) -> BTreeMap<String, u64> {
    let mut allocatable = capacity.clone();
    let huge: u64 = capacity.iter().filter(|(name, _)| name.starts_with("hugepages-")).map(|(_, bytes)| bytes).sum();
    if let Some(memory) = allocatable.get_mut("memory") {
        *memory = memory.saturating_sub(eviction_hard.of(Signal::Memory, *memory) + huge);
    }
    if let Some(storage) = allocatable.get_mut("ephemeral-storage") {
        *storage = storage.saturating_sub(eviction_hard.of(Signal::NodeFs, *storage));
    }
    allocatable
}

fn capacity(system: &System, storage_bytes: u64, hugepages: &[(u64, u64)]) -> BTreeMap<String, u64> {
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), system.cpus().len() as u64 * 1000),
        ("memory".to_owned(), system.total_memory()),
        ("ephemeral-storage".to_owned(), storage_bytes),
        ("pods".to_owned(), PODS_MAX),
    ]);
    let hugepages = hugepages.iter().map(|(size, count)| (format!("hugepages-{}", binary(*size)), size * count));
    capacity.extend(hugepages);
    capacity
}

/// Each size of huge pages and how many were set aside. A kernel without them has no such directory.
fn hugepages() -> Vec<(u64, u64)> {
    let of_size = |entry: fs::DirEntry| {
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        Some((page_bytes(entry.file_name().to_str()?)?, count.trim().parse().ok()?))
    };
    let mut sizes: Vec<_> = fs::read_dir(HUGEPAGES).into_iter().flatten().flatten().filter_map(of_size).collect();
    sizes.sort_unstable();
    sizes
}

/// Source: kubernetes v1.36 `pkg/securitycontext/util_linux.go`, `possibleCPUs` and where it is used.
fn thermal_throttles() -> Vec<String> {
    let is_cpu = |name: &str| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let file = entry.path().join("thermal_throttle");
        (is_cpu(&name) && file.exists()).then(|| file.to_string_lossy().into_owned())
    };
    let mut files: Vec<_> = fs::read_dir(CPUS).into_iter().flatten().flatten().filter_map(file).collect();
    files.sort_by_key(|file| (file.len(), file.clone()));
    files
}

/// `hugepages-2048kB` is 2 MiB.
fn page_bytes(dir_name: &str) -> Option<u64> {
    let kib: u64 = dir_name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// `2Mi`, as Kubernetes names page sizes.
fn binary(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti"];
    let steps = (0..units.len() - 1).take_while(|step| bytes.is_multiple_of(1 << (10 * (step + 1)))).count();
    format!("{}{}", bytes >> (10 * steps), units[steps])
}

/// Rust's name of the processor in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        same => same,
    }
}

fn os_image(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or("Linux").trim().trim_matches(['"', '\'']).to_owned()
}

/// The addresses of the interface that leads out; without a default route those of the first interface that has any.
///
/// The kubelet would ask a name server for the hostname first; a host must come up without one.
pub fn addresses() -> Vec<IpAddr> {
    let all: Vec<(String, IpAddr)> = getifaddrs().into_iter().flatten().filter_map(interface_address).collect();
    let leads_out = |ipv4: bool| {
        let text = first_file(&[if ipv4 { "/proc/net/route" } else { "/proc/net/ipv6_route" }]);
        if ipv4 { default_route_ipv4(&text) } else { default_route_ipv6(&text) }
    };
    let pick = |ipv4: bool| {
        let device = leads_out(ipv4);
        let mut family = all.iter().filter(|(_, ip)| ip.is_ipv4() == ipv4);
        let found = family.clone().find(|(name, _)| Some(name) == device.as_ref()).or_else(|| family.next());
        found.map(|(_, ip)| *ip)
    };
    [true, false].into_iter().filter_map(pick).collect()
}

/// Only what others may reach: not loopback, not link-local, and not the bridge of the pods.
fn interface_address(interface: nix::ifaddrs::InterfaceAddress) -> Option<(String, IpAddr)> {
    let address = interface.address?;
    let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(ipv4), _) => IpAddr::V4(ipv4.ip()),
        (_, Some(ipv6)) => IpAddr::V6(ipv6.ip()),
        _ => return None,
    };
    let local = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    (!local && interface.interface_name != cni::BRIDGE).then_some((interface.interface_name, ip))
}

/// The device of the default route with the lowest metric, from `/proc/net/route`.
///
/// Columns: device, destination, gateway, flags, references, use, metric, mask; numbers in hex but for the metric.
fn default_route_ipv4(text: &str) -> Option<String> {
    let routes = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let default = *fields.get(1)? == "00000000" && *fields.get(7)? == "00000000";
        default.then_some((fields[6].parse::<u32>().ok()?, fields[0]))
    });
    routes.min().map(|(_, device)| device.to_owned())
}

/// The same from `/proc/net/ipv6_route`.
///
/// Columns: destination, its prefix, source, its prefix, next hop, metric, references, use, flags, device; all in hex.
fn default_route_ipv6(text: &str) -> Option<String> {
    let routes = text.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let default = fields.first()?.bytes().all(|digit| digit == b'0') && *fields.get(1)? == "00";
        // The kernel's own "unreachable" stands on the loopback device.
        let device = *fields.get(9).filter(|device| **device != "lo")?;
        default.then_some((u32::from_str_radix(fields[5], 16).ok()?, device))
    });
    routes.min().map(|(_, device)| device.to_owned())
}

/// The first line of the first of these files that can be read and has one.
fn first_line(paths: &[&str]) -> String {
    let line = |path: &&str| Some(fs::read_to_string(path).ok()?.lines().next()?.trim_matches(['\0', ' ']).to_owned());
    paths.iter().filter_map(line).find(|line| !line.is_empty()).unwrap_or_default()
}

/// The whole of the first of these files that can be read.
fn first_file(paths: &[&str]) -> String {
    paths.iter().map(fs::read_to_string).find_map(io::Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_a_node_reports() {
        let facts = collect(Path::new("/var/lib/garrison/not/yet/made")).unwrap();
        assert!(!facts.hostname.is_empty() && !facts.boot_id.is_empty() && !facts.kernel_version.is_empty());
        for name in ["cpu", "memory", "ephemeral-storage", "pods"] {
            assert!(facts.capacity[name] > 0, "{name}");
        }
        assert!(facts.kernel() > (3, 0), "{}", facts.kernel_version);
    }

    #[test]
    fn some_of_memory_and_storage_is_kept_back() {
        let resources = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect::<BTreeMap<_, _>>()
        };
        let capacity = resources(&[
            ("cpu", 2000),
            ("memory", 1 << 30),
            ("hugepages-2Mi", 512 << 20),
            ("ephemeral-storage", 1000),
            ("pods", 110),
        ]);
        let expected = resources(&[
            ("cpu", 2000),
            ("memory", (1 << 30) - (612 << 20)),
            ("hugepages-2Mi", 512 << 20),
            ("ephemeral-storage", 900),
            ("pods", 110),
        ]);
        let allocatable = |capacity| allocatable(capacity, &Thresholds::default());
        assert_eq!(allocatable(&capacity), expected);
        assert_eq!(allocatable(&resources(&[("memory", 1)])), resources(&[("memory", 0)]));
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_leads_out() {
        let ipv4 = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                    wlan0 00000000 010200C0 0003 0 0 600 00000000 0 0 0\n\
                    eth0 00000000 010200C0 0003 0 0 100 00000000 0 0 0\n\
                    eth1 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert_eq!(default_route_ipv4(ipv4).as_deref(), Some("eth0"));
        let zeros = "0".repeat(32);
        let ipv6 = format!(
            "fd{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001 eth1\n\
             {zeros} 00 {zeros} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003 eth0\n\
             {zeros} 00 {zeros} 00 {zeros} 00000001 00000001 00000000 00200200 lo\n",
            "0".repeat(30)
        );
        assert_eq!(default_route_ipv6(&ipv6).as_deref(), Some("eth0"));
        assert_eq!((default_route_ipv4(""), default_route_ipv6("")), (None, None));
    }

    #[test]
    fn page_sizes_are_named_as_kubernetes_does() {
        for (dir, name) in [
            ("hugepages-2048kB", "2Mi"),
            ("hugepages-1048576kB", "1Gi"),
            ("hugepages-64kB", "64Ki"),
            ("hugepages-16777216kB", "16Gi"),
        ] {
            assert_eq!(page_bytes(dir).map(binary).as_deref(), Some(name));
        }
        assert_eq!(page_bytes("other"), None);
    }

    #[test]
    fn the_systems_name_is_read_with_and_without_quotes() {
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_image("PRETTY_NAME=Alpine\n"), "Alpine");
        assert_eq!(os_image(""), "Linux");
    }
}
