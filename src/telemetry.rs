//! Where logs go: standard error, one line an event, filtered by `--log` or `GARRISON_LOG`.
//!
//! Under systemd each line begins with its priority as sd-daemon(3) has it, so that `journalctl -p warning` finds what matters.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self as output, FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

/// A filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{filter:?} is not a log filter; write a level such as info, or module=level pairs such as garrison::agent=debug"
)]
pub struct BadFilter {
    filter: String,
    #[source]
    source: tracing_subscriber::filter::ParseError,
}

/// Sets up logging for the whole process. Call once, before the first event.
///
/// `filter` is a level or a list of `target=level`. Times are left out under systemd, whose journal has its own.
///
/// # Errors
/// [`BadFilter`] with the text that was given.
pub fn init(filter: &str) -> Result<(), BadFilter> {
    let parsed: Targets = filter.parse().map_err(|source| BadFilter { filter: filter.to_owned(), source })?;
    let lines = output::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.event_format(WithPriority(output::format().without_time())).boxed()
    } else {
        lines.boxed()
    };
    registry().with(lines).with(parsed).init();
    Ok(())
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
