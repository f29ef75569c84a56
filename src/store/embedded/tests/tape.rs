//! A disk for tests: counts, fails on request, and can be cut from its power.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

/// A handle; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Tape(Arc<Mutex<Reel>>);

#[derive(Debug, Default)]
struct Reel {
    /// What a reader sees.
    now: Vec<u8>,
    /// What a power cut leaves for certain.
    synced: Vec<u8>,
    /// What it may leave or not, in order.
    unsynced: Vec<Op>,
    /// How many more writes, resizes and syncs succeed; none for all.
    left: Option<usize>,
    syncs: usize,
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Resize(usize),
}

const SECTOR: usize = 512;

impl Tape {
    /// Lets `operations` more writes, resizes and syncs succeed and all further ones fail.
    pub fn fail_after(&self, operations: usize) {
        self.reel().left = Some(operations);
    }

    /// Lets everything succeed again.
    pub fn heal(&self) {
        self.reel().left = None;
    }

    /// How often data was synced.
    pub fn syncs(&self) -> usize {
        self.reel().syncs
    }

    /// Whether the bytes are anywhere on the disk.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        self.reel().now.windows(bytes.len()).any(|window| window == bytes)
    }

    /// What a power cut at this moment leaves: all that was synced and, by the seed, some of the rest, torn or whole.
    pub fn cut(&self, seed: u64) -> Self {
        let reel = self.reel();
        let mut image = reel.synced.clone();
        let mut random = seed;
        for op in &reel.unsynced {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (random >> 33) % 3 {
                0 => {}
                1 => op.apply(&mut image),
                _ => op.torn().apply(&mut image),
            }
        }
        let reel = Reel { now: image.clone(), synced: image, ..Reel::default() };
        Self(Arc::new(Mutex::new(reel)))
    }

    fn reel(&self) -> std::sync::MutexGuard<'_, Reel> {
        self.0.lock().unwrap()
    }

    fn change(&self, op: Op) -> io::Result<()> {
        let mut reel = self.reel();
        reel.spend()?;
        op.apply(&mut reel.now);
        reel.unsynced.push(op);
        Ok(())
    }
}

impl Reel {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.left {
            None => Ok(()),
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Op {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Resize(len) => image.resize(*len, 0),
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(data);
            }
        }
    }

    /// The first half of it, by sectors.
    fn torn(&self) -> Self {
        match self {
            Self::Resize(len) => Self::Resize(*len),
            Self::Write(offset, data) => Self::Write(*offset, data[..data.len() / 2 / SECTOR * SECTOR].to_vec()),
        }
    }
}

impl StorageBackend for Tape {
    fn len(&self) -> io::Result<u64> {
        Ok(self.reel().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let reel = self.reel();
        let data = reel.now.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Op::Resize(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut reel = self.reel();
        reel.spend()?;
        reel.syncs += 1;
        reel.unsynced.clear();
        reel.synced = reel.now.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Op::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}
