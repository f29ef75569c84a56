//! Which leases of this process are held, and until when. A plain value: time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{LeaseId, StoreError};

/// The leases that have not ended. Their ids start anew with each process, as no lease outlives it.
#[derive(Debug, Default)]
pub struct Leases {
    last: u64,
    held: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    due: Instant,
}

impl Leases {
    /// A new lease that is due `ttl` from now.
    pub fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        self.last += 1;
        let id = LeaseId(self.last);
        self.held.insert(id, Lease { ttl, due: now + ttl });
        id
    }

    /// Begins the lease's `ttl` anew.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`], also for a lease that is due and not yet ended.
    pub fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Result<(), StoreError> {
        self.check(lease, now)?;
        if let Some(held) = self.held.get_mut(&lease) {
            held.due = now + held.ttl;
        }
        Ok(())
    }

    /// Says whether keys can be attached to the lease.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`].
    pub fn check(&self, lease: LeaseId, now: Instant) -> Result<(), StoreError> {
        match self.held.get(&lease) {
            Some(held) if now < held.due => Ok(()),
            _ => Err(StoreError::LeaseEnded { lease }),
        }
    }

    /// Ends the lease if its time has come. Answers with when to ask again; none if it has ended.
    pub fn end_if_due(&mut self, lease: LeaseId, now: Instant) -> Option<Instant> {
        let due = self.held.get(&lease)?.due;
        if now < due {
            return Some(due);
        }
        self.end(lease);
        None
    }

    /// Ends the lease: nothing can be attached to it from here on. Its keys are the caller's to delete.
    pub fn end(&mut self, lease: LeaseId) {
        self.held.remove(&lease);
    }
}
