//! Where logs go: standard error, one line an event, filtered by `--log` or `GARRISON_LOG`.
//!
//! A service whose standard error is systemd's journal writes entries there instead, with the line as message, its priority, and
//! each field by itself: `journalctl GARRISON_POD=default/exporter-x` finds what was said about a pod.
//!
//! With the feature `otel` requests to the API are also told to a collector of traces.

mod journal;
#[cfg(feature = "otel")]
mod traces;

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt as output;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use journal::{AsEntry, Journal};

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter.
    #[error(
        "{filter:?} is not a log filter; write a level such as info, or module=level pairs such as garrison::agent=debug"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// Where it is wrong.
        #[source]
        source: ParseError,
    },
    /// The variables for traces.
    #[cfg(feature = "otel")]
    #[error("cannot send traces as the environment wants it")]
    Traces(#[from] traces::TracesError),
}

/// What tells of this process until it is dropped: then it delivers what is left.
#[derive(Debug)]
pub struct Telemetry {
    #[cfg(feature = "otel")]
    _traces: Option<traces::Traces>,
}

/// Sets up logging for the whole process, and traces if it serves requests and the environment names a collector. Call once, before
/// the first event.
///
/// `filter` is a level or a list of `target=level`. Times are left out of what goes to the journal, which has its own.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(filter: &str, serves: bool) -> Result<Telemetry, TelemetryError> {
    let wrong = |source| TelemetryError::Filter { filter: filter.to_owned(), source };
    let wanted: Targets = filter.parse().map_err(wrong)?;
    let lines = output::layer().with_ansi(io::stderr().is_terminal());
    let lines = match Journal::of_this_service() {
        Some(journal) => {
            let format = AsEntry(output::format().without_time());
            lines.event_format(format).with_writer(move || journal.clone()).boxed()
        }
        None => lines.with_writer(io::stderr).boxed(),
    };
    let registry = registry().with(lines.with_filter(wanted));
    #[cfg(feature = "otel")]
    {
        let traces = if serves { traces::Traces::begin()? } else { None };
        registry.with(traces.as_ref().map(traces::Traces::layer)).init();
        Ok(Telemetry { _traces: traces })
    }
    #[cfg(not(feature = "otel"))]
    {
        registry.init();
        let wants_traces = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].map(std::env::var_os);
        if serves && wants_traces.iter().any(Option::is_some) {
            tracing::warn!("traces are not sent, as this garrison was built without the feature otel");
        }
        Ok(Telemetry {})
    }
}
