//! Where logs go: standard error, one line an event, filtered by `--log` or `GARRISON_LOG`.
//!
//! Under systemd each line begins with its priority as sd-daemon(3) has it, so that `journalctl -p warning` finds what matters.
//!
//! With the feature `otel` requests to the API are also told to a collector of traces.

#[cfg(feature = "otel")]
mod traces;

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self as output, FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

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
/// `filter` is a level or a list of `target=level`. Times are left out under systemd, whose journal has its own.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(filter: &str, serves: bool) -> Result<Telemetry, TelemetryError> {
    let wrong = |source| TelemetryError::Filter { filter: filter.to_owned(), source };
    let wanted: Targets = filter.parse().map_err(wrong)?;
    let lines = output::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.event_format(WithPriority(output::format().without_time())).boxed()
    } else {
        lines.boxed()
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

/// Puts the priority before what another format writes.
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// A level as syslog(3) numbers it.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
