//! How short this host is of memory and of numbers for processes: what is left, and the kernel's own alarm.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{FileError, failed};

const MEMINFO: &str = "/proc/meminfo";
const MEMORY_PRESSURE: &str = "/proc/pressure/memory";
/// Its fourth word is `running/all`, of processes and threads.
const LOADAVG: &str = "/proc/loadavg";
/// The lesser of them bounds processes and threads together.
const TASK_LIMITS: [&str; 2] = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
/// Some task waited for memory for 0.2 s of 2 s. A window of whole multiples of 2 s is what every kernel allows.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// The host's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// What is free, and what only holds files that were not used for long. The kubelet reckons the same from the root
    /// cgroup: `capacity - workingSet`.
    pub available_bytes: u64,
}

/// The host's processes, threads included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tasks {
    /// How many there can be.
    pub max: u64,
    /// How many there are.
    pub count: u64,
}

/// Wakes when tasks begin to wait for memory. Not every kernel has it (PSI, since 4.20, may be built or booted without).
#[derive(Debug)]
pub struct MemoryAlarm(AsyncFd<File>);

/// What memory there is.
///
/// # Errors
/// [`FileError`] where the kernel does not tell.
pub fn memory() -> Result<Memory, FileError> {
    let path = Path::new(MEMINFO);
    let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
    parse(&text).ok_or_else(|| failed("read", path)(io::ErrorKind::InvalidData.into()))
}

/// Lines of `name: number kB`.
fn parse(meminfo: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Memory { total_bytes: bytes("MemTotal")?, available_bytes: bytes("MemFree")? + bytes("Inactive(file)")? })
}

/// What processes and threads there are.
///
/// # Errors
/// [`FileError`] where the kernel does not tell.
///
/// Source: kubernetes v1.36 `pkg/kubelet/stats/pidlimit/pidlimit_linux.go`.
pub fn tasks() -> Result<Tasks, FileError> {
    let number = |path: &Path, word: fn(&str) -> Option<&str>| {
        let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
        let number = word(&text).and_then(|word| word.trim().parse::<u64>().ok());
        number.ok_or_else(|| failed("read", path)(io::ErrorKind::InvalidData.into()))
    };
    let [pid_max, threads_max] = TASK_LIMITS.map(|path| number(Path::new(path), |text| Some(text)));
    Ok(Tasks { max: pid_max?.min(threads_max?), count: number(Path::new(LOADAVG), all_tasks)? })
}

/// Of `0.00 0.01 0.05 1/234 5678` the `234`.
fn all_tasks(loadavg: &str) -> Option<&str> {
    Some(loadavg.split_whitespace().nth(3)?.split_once('/')?.1)
}

impl MemoryAlarm {
    /// Sets the alarm. It stays set as long as this value lives.
    ///
    /// # Errors
    /// [`FileError`] where the kernel has none, or gives it to nobody.
    pub fn set() -> Result<Self, FileError> {
        let path = Path::new(MEMORY_PRESSURE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut file = options.open(path).map_err(failed("open", path))?;
        file.write_all(TRIGGER).map_err(failed("set an alarm in", path))?;
        // SAFETY: the file's descriptor is its own and open; it is closed with the file, which the `AsyncFd` owns and of which
        // nothing here takes anything away.
        let watched = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY | Interest::ERROR) };
        watched.map(Self).map_err(|error| failed("wait for", path)(error.into()))
    }

    /// Waits until it goes off; at most once in two seconds. Cancel-safe.
    ///
    /// # Errors
    /// When it never will again.
    pub async fn goes_off(&self) -> io::Result<()> {
        let mut ready = self.0.ready(Interest::PRIORITY | Interest::ERROR).await?;
        if ready.ready().is_error() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_free_memory_and_files_long_unused() {
        let text =
            "MemTotal:        8000 kB\nMemFree:          300 kB\nInactive(file):     20 kB\nInactive:   999 kB\n";
        assert_eq!(parse(text), Some(Memory { total_bytes: 8000 << 10, available_bytes: 320 << 10 }));
        assert_eq!(parse("MemTotal: 1 kB"), None);
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = memory().unwrap();
        assert!(memory.available_bytes > 0 && memory.total_bytes > memory.available_bytes, "{memory:?}");
    }

    #[test]
    fn this_machine_has_processes_and_room_for_more() {
        assert_eq!(all_tasks("0.25 0.50 0.75 3/128 4029\n"), Some("128"));
        let tasks = tasks().unwrap();
        assert!(tasks.count > 0 && tasks.max > tasks.count, "{tasks:?}");
    }

    #[tokio::test]
    async fn where_the_kernel_has_an_alarm_it_can_be_waited_for() {
        if !Path::new(MEMORY_PRESSURE).exists() {
            // Not `eprintln`: what a test that passes prints in that way is not shown.
            writeln!(io::stderr(), "SKIPPED: this kernel has no pressure stall information").unwrap();
            return;
        }
        let alarm = MemoryAlarm::set().unwrap();
        let waited = tokio::time::timeout(std::time::Duration::from_millis(10), alarm.goes_off()).await;
        // A busy machine may set it off.
        assert!(!matches!(waited, Ok(Err(_))), "{waited:?}");
    }
}
