//! Makes a thread repeatable: what it draws of the system's randomness follows from a seed, and its wall clock goes with tokio's,
//! as do those of its machines, which may be apart from it.
//!
//! Uids, back-off, the order of hash maps and tokio's own choices all begin with `getrandom`, and every `Timestamp::now` with
//! `clock_gettime`. Both are C symbols; the ones defined here take the place of libc's in this test program. On threads that
//! are not seeded they ask the kernel, as libc's do. `pwrite64` and `fdatasync`, which the ledger's manifest goes through, are
//! taken over for faults of disks.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_uint, c_void};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use nix::libc;
use tokio::time::Instant;

use super::chance::Chance;

/// Where every simulation begins: 2026-01-01T00:00:00Z.
pub(crate) const BEGINNING: Duration = Duration::from_secs(1_767_225_600);

/// How many clocks machines go by, in turn.
const CLOCKS: usize = 8;
const WALLS: [fn() -> Timestamp; CLOCKS] =
    [wall::<0>, wall::<1>, wall::<2>, wall::<3>, wall::<4>, wall::<5>, wall::<6>, wall::<7>];

thread_local! {
    static CHANCE: RefCell<Option<Chance>> = const { RefCell::new(None) };
    static WALL: Cell<Option<Wall>> = const { Cell::new(None) };
    static APART: Cell<[i64; CLOCKS]> = const { Cell::new([0; CLOCKS]) };
    static BROKEN: RefCell<Vec<Broken>> = const { RefCell::new(Vec::new()) };
}

/// A disk that does not do what it is told.
#[derive(Debug)]
struct Broken {
    /// Everything below.
    dir: PathBuf,
    /// How many calls it still does.
    after: usize,
    /// How many it does not, then.
    calls: usize,
}

/// The wall clock of a seeded thread.
#[derive(Debug, Clone, Copy)]
struct Wall {
    /// When it showed `at`.
    set: Instant,
    /// Since 1970.
    at: Duration,
}

/// Seeds this thread, before anything on it has drawn.
pub(super) fn seed(seed: u64) {
    CHANCE.set(Some(Chance::new(seed)));
}

/// Lets this thread's wall clock go with tokio's, from within a runtime.
pub(crate) fn start_clock() {
    WALL.set(Some(Wall { set: Instant::now(), at: BEGINNING }));
}

impl Wall {
    /// What it shows now.
    fn now(self) -> Duration {
        self.at + self.set.elapsed()
    }
}

/// Sets the wall clock of all machines forward, or back.
pub(crate) fn jump(by_secs: i64) {
    let wall = WALL.get().expect("the clock was started");
    WALL.set(Some(Wall { at: shifted(wall.at, by_secs), ..wall }));
}

/// Sets this thread's own wall clock forward, or back, and none of the machines'.
pub(super) fn jump_alone(by_secs: i64) {
    jump(by_secs);
    APART.set(APART.get().map(|apart| apart - by_secs));
}

/// Sets a machine's wall clock so far apart from this thread's own.
pub(super) fn set_apart(machine: usize, secs: i64) {
    let mut apart = APART.get();
    apart[machine % CLOCKS] = secs;
    APART.set(apart);
}

/// The wall clock that a machine goes by.
pub(super) fn clock_of(machine: usize) -> fn() -> Timestamp {
    WALLS[machine % CLOCKS]
}

fn wall<const CLOCK: usize>() -> Timestamp {
    let now = shifted(WALL.get().expect("the clock was started").now(), APART.get()[CLOCK]);
    Timestamp::UNIX_EPOCH + now
}

/// No clock goes back beyond 1970.
fn shifted(at: Duration, by_secs: i64) -> Duration {
    let by = Duration::from_secs(by_secs.unsigned_abs());
    if by_secs < 0 { at.saturating_sub(by) } else { at + by }
}

/// Lets calls fail that write to files below `dir`, or flush them: `calls` of them after so many that do not fail.
pub(super) fn fail_disk(dir: PathBuf, after: usize, calls: usize) {
    BROKEN.with_borrow_mut(|broken| broken.push(Broken { dir, after, calls }));
}

/// All disks do what they are told again.
pub(super) fn mend_disks() {
    BROKEN.with_borrow_mut(Vec::clear);
}

/// Whether a call on this file fails.
fn fails(file: c_int) -> bool {
    let fails = BROKEN.try_with(|broken| {
        let mut broken = broken.borrow_mut();
        let path = if broken.is_empty() { None } else { std::fs::read_link(format!("/proc/self/fd/{file}")).ok() };
        let Some(index) = path.and_then(|path| broken.iter().position(|disk| path.starts_with(&disk.dir))) else {
            return false;
        };
        let disk = &mut broken[index];
        if disk.after > 0 {
            disk.after -= 1;
            return false;
        }
        disk.calls -= 1;
        if disk.calls == 0 {
            broken.remove(index);
        }
        true
    });
    fails.unwrap_or(false)
}

fn set_errno(errno: c_int) {
    // SAFETY: it is this thread's own.
    unsafe { *libc::__errno_location() = errno };
}

/// pwrite(2).
///
/// # Safety
/// `buffer` holds `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(
    file: c_int,
    buffer: *const c_void,
    length: libc::size_t,
    offset: libc::off64_t,
) -> libc::ssize_t {
    if fails(file) {
        set_errno(libc::ENOSPC);
        return -1;
    }
    // SAFETY: the arguments are those of the system call, as they came.
    unsafe { libc::ssize_t::try_from(libc::syscall(libc::SYS_pwrite64, file, buffer, length, offset)).unwrap_or(-1) }
}

/// fdatasync(2).
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    if fails(file) {
        set_errno(libc::EIO);
        return -1;
    }
    // SAFETY: the argument is that of the system call, as it came.
    unsafe { c_int::try_from(libc::syscall(libc::SYS_fdatasync, file)).unwrap_or(-1) }
}

/// getrandom(2).
///
/// # Safety
/// `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: libc::size_t, flags: c_uint) -> libc::ssize_t {
    // A thread that is ending has no chance any more.
    let drawn = CHANCE.try_with(|chance| {
        let mut chance = chance.borrow_mut();
        let chance = chance.as_mut()?;
        for place in 0..length {
            // SAFETY: it is less than `length`, and the caller vouches for so many.
            unsafe { buffer.cast::<u8>().add(place).write(chance.number().to_le_bytes()[0]) };
        }
        libc::ssize_t::try_from(length).ok()
    });
    match drawn {
        Ok(Some(drawn)) => drawn,
        // SAFETY: the arguments are those of the system call, as they came.
        _ => unsafe {
            libc::ssize_t::try_from(libc::syscall(libc::SYS_getrandom, buffer, length, flags)).unwrap_or(-1)
        },
    }
}

/// clock_gettime(2).
///
/// # Safety
/// `time` may be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let wall = WALL.try_with(Cell::get).ok().flatten().filter(|_| clock == libc::CLOCK_REALTIME);
    let Some(wall) = wall else {
        // SAFETY: the arguments are those of the system call, as they came.
        return unsafe { c_int::try_from(libc::syscall(libc::SYS_clock_gettime, clock, time)).unwrap_or(-1) };
    };
    let now = wall.now();
    let seconds = libc::time_t::try_from(now.as_secs()).unwrap_or_default();
    // SAFETY: the caller vouches for it.
    unsafe { time.write(libc::timespec { tv_sec: seconds, tv_nsec: now.subsec_nanos().into() }) };
    0
}
