//! How much is done at once: requests beyond that are sent away with 429 and asked to come again.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/server/filters/maxinflight.go` and its defaults in
//! `pkg/server/options/server_run_options.go`. What goes on for long is bounded apart, which upstream leaves open.

use std::sync::Arc;

use http::Method;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::{InFlight, Metrics};
use super::query::Query;

/// Requests that change something.
const MUTATING: usize = 200;
/// Requests that do not.
const READ_ONLY: usize = 400;
/// Watches, and streams from nodes.
const LONG_RUNNING: usize = 5000;

/// Places for requests. Clones share them.
#[derive(Debug, Clone)]
pub struct Limits {
    mutating: Arc<Semaphore>,
    read_only: Arc<Semaphore>,
    long_running: Arc<Semaphore>,
}

/// A request that has a place, counted until this is dropped.
#[derive(Debug)]
pub struct Place {
    metrics: Metrics,
    class: Class,
    _permit: OwnedSemaphorePermit,
}

/// How a request counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It changes something.
    Mutating,
    /// It does not.
    ReadOnly,
    /// It goes on until the client or the time ends it.
    LongRunning,
}

impl Class {
    /// The class of a request, by its method, path and parameters.
    pub fn of(method: &Method, path: &str, query: &Query) -> Self {
        let part = path.rsplit('/').next().unwrap_or_default();
        let streams = ["attach", "exec", "portforward"].contains(&part) || part == "log" && query.flag("follow");
        match *method {
            _ if streams || *method == Method::GET && query.flag("watch") => Self::LongRunning,
            Method::GET | Method::HEAD | Method::OPTIONS => Self::ReadOnly,
            _ => Self::Mutating,
        }
    }

    fn label(self) -> InFlight {
        if self == Self::Mutating { InFlight::MUTATING } else { InFlight::READ_ONLY }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { mutating: places(MUTATING), read_only: places(READ_ONLY), long_running: places(LONG_RUNNING) }
    }
}

impl Limits {
    /// A place for a request, if there is one.
    pub fn take(&self, class: Class, metrics: &Metrics) -> Option<Place> {
        let places = match class {
            Class::Mutating => &self.mutating,
            Class::ReadOnly => &self.read_only,
            Class::LongRunning => &self.long_running,
        };
        let Ok(permit) = places.clone().try_acquire_owned() else {
            metrics.rejected.get_or_create(&class.label()).inc();
            return None;
        };
        match class {
            Class::LongRunning => metrics.long_running.inc(),
            class => metrics.in_flight.get_or_create(&class.label()).inc(),
        };
        Some(Place { metrics: metrics.clone(), class, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.class {
            Class::LongRunning => self.metrics.long_running.dec(),
            class => self.metrics.in_flight.get_or_create(&class.label()).dec(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_by_what_it_does() {
        let class = |method: Method, address: &str| {
            let uri: http::Uri = address.parse().unwrap();
            Class::of(&method, uri.path(), &Query::parse(&uri).unwrap())
        };
        assert_eq!(class(Method::GET, "/api/v1/pods"), Class::ReadOnly);
        assert_eq!(class(Method::GET, "/api/v1/pods?watch=true"), Class::LongRunning);
        assert_eq!(class(Method::GET, "/api/v1/namespaces/n/pods/p/log"), Class::ReadOnly);
        assert_eq!(class(Method::GET, "/api/v1/namespaces/n/pods/p/log?follow=true"), Class::LongRunning);
        assert_eq!(class(Method::POST, "/api/v1/namespaces/n/pods/p/exec"), Class::LongRunning);
        assert_eq!(class(Method::PATCH, "/api/v1/nodes/a"), Class::Mutating);
    }

    #[test]
    fn a_place_is_free_again_when_it_is_left() {
        let (limits, metrics) = (Limits::default(), Metrics::default());
        let places: Vec<_> = (0..MUTATING).map_while(|_| limits.take(Class::Mutating, &metrics)).collect();
        assert_eq!(places.len(), MUTATING);
        assert!(limits.take(Class::Mutating, &metrics).is_none());
        assert!(limits.take(Class::ReadOnly, &metrics).is_some(), "reading goes on");
        drop(places);
        assert!(limits.take(Class::Mutating, &metrics).is_some());
    }
}
