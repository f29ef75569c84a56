//! What of this machine decides whether an agent can work here, looked at without changing anything.
//!
//! Signs only: what they mean, and what to do, is said by `agent::check`.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::statvfs::statvfs;

use super::cgroups::Cgroups;
use super::mounts::mounts;
use super::{FileError, facts};

/// Programs that manage pods below `/var/lib/kubelet` and `kubepods`, as the kernel names their processes.
const KUBELETS: [&str; 7] = ["kubelet", "k3s", "k3s-server", "k3s-agent", "rke2", "k0s", "kubelite"];
/// Where systemd tells that it is the init.
const SYSTEMD: &str = "/run/systemd/system";

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signs {
    /// The effective user.
    pub user: u32,
    /// The effective capabilities, by number.
    pub capabilities: u64,
    /// `uname -r`.
    pub kernel: String,
    /// cgroup v2 with its controllers, or v1.
    pub cgroup_v2: bool,
    /// The controllers there are, `cpu`, `memory` …
    pub controllers: BTreeSet<String>,
    /// The init is systemd.
    pub systemd: bool,
    /// Mounts made below `/` are seen in other mount namespaces.
    pub root_is_shared: bool,
    /// The kernel's clock is disciplined by somebody; none where the kernel does not tell.
    pub clock_synchronized: Option<bool>,
    /// `/etc/machine-id`; empty if there is none.
    pub machine_id: String,
    /// In lower case.
    pub hostname: String,
    /// Kubelets that run here, or programs that contain one, with their pids.
    pub kubelets: Vec<(String, u32)>,
    /// The state directory, if it is there.
    pub state_dir: Option<Access>,
    /// What is free where pods' files, the state and logs go; directories of one filesystem once.
    pub space: Vec<Space>,
}

/// Who may look into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Its owner.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
}

/// Room on a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// What goes there.
    pub dir: PathBuf,
    /// What is left for root, in percent of the whole.
    pub free_percent: u64,
    /// What is left, in MiB.
    pub free_mib: u64,
}

/// Looks. `state_dir` is the agent's, `dirs` are all it writes to.
///
/// # Errors
/// [`FileError`] on a machine that does not tell even its name and mounts.
pub fn look(state_dir: &Path, dirs: &[&Path]) -> Result<Signs, FileError> {
    let cgroups = Cgroups::detect()?;
    let facts = facts::collect(Path::new("/"))?;
    let access = |meta: fs::Metadata| Access { owner: meta.uid(), mode: meta.mode() & 0o7777 };
    Ok(Signs {
        user: nix::unistd::geteuid().as_raw(),
        capabilities: capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        kernel: facts.kernel_version,
        cgroup_v2: cgroups.is_v2(),
        controllers: cgroups.controllers(),
        systemd: has_systemd(),
        root_is_shared: mounts()?.iter().rfind(|mount| mount.point == Path::new("/")).is_some_and(|root| root.shared),
        clock_synchronized: clock_synchronized(),
        machine_id: facts.machine_id,
        hostname: facts.hostname,
        kubelets: kubelets(),
        state_dir: fs::metadata(state_dir).ok().map(access),
        space: space(dirs),
    })
}

/// Whether the init is systemd. Source: sd_booted(3).
pub fn has_systemd() -> bool {
    Path::new(SYSTEMD).is_dir()
}

/// Kubelets that run on this machine, as far as this process sees.
pub fn kubelets() -> Vec<(String, u32)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let kubelet = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        KUBELETS.contains(&name.trim()).then(|| (name.trim().to_owned(), pid))
    };
    let mut found: Vec<_> = processes.filter_map(kubelet).collect();
    found.sort();
    found
}

/// Why an address cannot be listened on; none if it can.
pub fn cannot_listen(address: &str) -> Option<std::io::Error> {
    TcpListener::bind(address).err()
}

/// The line `CapEff` of proc_pid_status(5).
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What adjtimex(2) tells; it changes nothing when asked to change nothing.
fn clock_synchronized() -> Option<bool> {
    // SAFETY: `timex` is plain old data for which all zeroes is a value, and `modes` of 0 asks to set nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that lives until the call returns, and nobody else has it.
    let answer = unsafe { libc::adjtimex(&raw mut timex) };
    (answer >= 0).then_some(timex.status & libc::STA_UNSYNC == 0)
}

fn space(dirs: &[&Path]) -> Vec<Space> {
    let mut known = BTreeSet::new();
    let mut found = Vec::new();
    for dir in dirs {
        let Some(present) = dir.ancestors().find(|ancestor| ancestor.exists()) else { continue };
        let device = fs::metadata(present).map(|meta| meta.dev()).unwrap_or_default();
        let Ok(stat) = statvfs(present) else { continue };
        if known.insert(device) && stat.blocks() > 0 {
            found.push(Space {
                dir: (*dir).to_owned(),
                free_percent: stat.blocks_free() * 100 / stat.blocks(),
                free_mib: (stat.blocks_free() * stat.fragment_size()) >> 20,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn this_machine_is_seen_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let signs = look(dir.path(), &[dir.path(), &dir.path().join("not/there/yet")]).unwrap();
        assert_eq!(signs.user, nix::unistd::geteuid().as_raw());
        assert_eq!(signs.state_dir, Some(Access { owner: signs.user, mode: 0o700 }));
        assert_eq!(signs.space.len(), 1, "one filesystem: {:?}", signs.space);
        assert!(signs.controllers.contains("memory"), "{:?}", signs.controllers);
    }

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        assert_eq!(capabilities("Name:\tx\nCapPrm:\tff\nCapEff:\t000001fffeffffff\n"), 0x1ff_feff_ffff);
        assert_eq!(capabilities(""), 0);
    }

    #[test]
    fn an_address_that_is_taken_cannot_be_listened_on() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        assert!(cannot_listen(&address).is_some());
        drop(taken);
        assert!(cannot_listen(&address).is_none());
    }
}
