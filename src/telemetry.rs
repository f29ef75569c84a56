//! Where logs go: standard error, one line an event, filtered by `--log` or `GARRISON_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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
    let parsed =
        EnvFilter::builder().parse(filter).map_err(|source| BadFilter { filter: filter.to_owned(), source })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        logs.without_time().init();
    } else {
        logs.init();
    }
    Ok(())
}
