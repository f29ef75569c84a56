//! How much is done at once: requests beyond that are sent away with 429 and asked to come again.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/server/filters/maxinflight.go` and its defaults in
//! `pkg/server/options/server_run_options.go`. What goes on for long is bounded apart, which upstream leaves open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::{InFlight, Metrics};
use super::query::Query;

/// Requests that change something.
const MUTATING: usize = 200;
/// Requests that do not.
const READ_ONLY: usize = 400;
/// Watches, and logs that are followed.
const LONG_RUNNING: usize = 5000;
/// Commands and forwarded ports that users hold. Their requests are over once the connection speaks another protocol.
const STREAMS: usize = 1000;
/// Of these, one user's.
const STREAMS_OF_ONE: usize = 250;

/// Places for requests. Clones share them.
#[derive(Debug, Clone)]
pub struct Limits {
    mutating: Arc<Semaphore>,
    read_only: Arc<Semaphore>,
    long_running: Arc<Semaphore>,
    streams: Arc<Mutex<Streams>>,
}

/// Who holds how many streams.
#[derive(Debug, Default)]
struct Streams {
    all: usize,
    by_user: HashMap<String, usize>,
}

/// A request that has a place, counted until this is dropped.
#[derive(Debug)]
pub struct Place {
    metrics: Metrics,
    class: Class,
    _permit: OwnedSemaphorePermit,
}

/// A stream that has a place, counted until this is dropped.
#[derive(Debug)]
pub struct StreamPlace {
    metrics: Metrics,
    streams: Arc<Mutex<Streams>>,
    user: String,
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
        Self {
            mutating: places(MUTATING),
            read_only: places(READ_ONLY),
            long_running: places(LONG_RUNNING),
            streams: Arc::default(),
        }
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

    /// A place for a stream of this user, if there is one.
    pub fn take_stream(&self, user: &str, metrics: &Metrics) -> Option<StreamPlace> {
        let mut streams = lock(&self.streams);
        let own = streams.by_user.get(user).copied().unwrap_or_default();
        if streams.all >= STREAMS || own >= STREAMS_OF_ONE {
            metrics.rejected.get_or_create(&Class::LongRunning.label()).inc();
            return None;
        }
        streams.all += 1;
        streams.by_user.insert(user.to_owned(), own + 1);
        metrics.long_running.inc();
        Some(StreamPlace { metrics: metrics.clone(), streams: self.streams.clone(), user: user.to_owned() })
    }
}

fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.class {
            Class::LongRunning => self.metrics.long_running.dec(),
            class => self.metrics.in_flight.get_or_create(&class.label()).dec(),
        };
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut streams = lock(&self.streams);
        streams.all -= 1;
        if let Some(own) = streams.by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                streams.by_user.remove(&self.user);
            }
        }
        self.metrics.long_running.dec();
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

    #[test]
    fn one_user_has_only_so_many_streams_and_all_together_have_no_more_than_so_many() {
        let (limits, metrics) = (Limits::default(), Metrics::default());
        let take = |user: &str| limits.take_stream(user, &metrics);
        let anns: Vec<_> = std::iter::from_fn(|| take("ann")).collect();
        assert_eq!(anns.len(), STREAMS_OF_ONE);
        let others: Vec<_> = (0..).map_while(|number: usize| take(&format!("user {}", number / 100))).collect();
        assert_eq!(others.len(), STREAMS - STREAMS_OF_ONE);
        assert!(take("bob").is_none());
        drop(anns);
        assert!(take("bob").is_some() && take("ann").is_some());
        drop(others);
        assert_eq!((metrics.long_running.get(), lock(&limits.streams).by_user.len()), (0, 0));
    }
}
