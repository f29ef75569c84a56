//! What runs of a pod that its runtime has no record of.
//!
//! A runtime keeps on disk what it knows of containers, apart from their processes. When that is lost (a damaged file, a folder
//! that was emptied), the processes go on with nobody to look after them, and hold what another instance of the pod would need.

use std::collections::BTreeSet;
use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::FileError;
use super::cgroups::Cgroups;
use crate::podspec::Pod;

/// What containerd's shims call themselves, as far as the kernel keeps it.
const SHIM: &str = "containerd-shim";

/// Processes in those cgroups right below the pod's that are of no container, or sandbox, whose id is `known`.
///
/// # Errors
/// [`FileError`] naming the cgroup. One that does not exist has none.
pub fn find(cgroups: &Cgroups, pod: &Pod, known: &BTreeSet<String>) -> Result<BTreeSet<i32>, FileError> {
    let is_known = |container: &str| known.iter().any(|id| container.contains(id.as_str()));
    cgroups.processes_in(pod, |container| container.is_some_and(|container| !is_known(container)))
}

/// Those that nobody among them has started: of each container the first. It is the one to be asked to end, as a runtime would.
pub fn first(strays: &BTreeSet<i32>) -> BTreeSet<i32> {
    strays.iter().copied().filter(|pid| parent(*pid).is_none_or(|parent| !strays.contains(&parent))).collect()
}

/// The shims that care for these processes, and would wait for their runtime for ever.
pub fn shims(strays: &BTreeSet<i32>) -> BTreeSet<i32> {
    let is_shim = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(SHIM));
    strays.iter().filter_map(|pid| parent(*pid)).filter(|pid| !strays.contains(pid)).filter(is_shim).collect()
}

/// Sends a signal to each. Who has gone needs none.
///
/// # Errors
/// What the system said of the first that it was not sent to, after the others.
pub fn signal(pids: &BTreeSet<i32>, signal: Signal) -> Result<(), Errno> {
    let sent = pids.iter().map(|pid| kill(Pid::from_raw(*pid), signal));
    sent.filter(|sent| *sent != Err(Errno::ESRCH)).fold(Ok(()), Result::and)
}

/// Its name, in parentheses, may hold anything; the state and the parent follow.
///
/// Source: proc_pid_stat(5).
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn of_processes_that_started_each_other_the_first_is_asked_and_its_parent_is_no_shim_of_ours() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(first(&BTreeSet::from([own, pid])), BTreeSet::from([own]));
        assert_eq!(first(&BTreeSet::from([pid])), BTreeSet::from([pid]));
        assert_eq!(shims(&BTreeSet::from([pid])), BTreeSet::new());
        signal(&BTreeSet::from([pid]), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert_eq!(signal(&BTreeSet::from([pid]), Signal::SIGKILL), Ok(()));
    }
}
