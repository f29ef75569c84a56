//! Entries of systemd's journal, in its native protocol: each field by itself, as `journalctl FIELD=VALUE` wants it.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Where the journal takes entries.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// A way to the journal; each write is an entry.
#[derive(Clone)]
pub(super) struct Journal(Arc<UnixDatagram>);

impl Journal {
    /// None unless standard error is the journal's, as `JOURNAL_STREAM` of systemd.exec(5) tells.
    pub(super) fn of_this_service() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
        if stream != format!("{}:{}", stderr.dev(), stderr.ino()) {
            return None;
        }
        UnixDatagram::unbound().ok().map(|socket| Self(Arc::new(socket)))
    }
}

impl io::Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        // What is too long for an entry, or finds no journal, is not lost: it becomes lines.
        if self.0.send_to(entry, JOURNAL).is_err() {
            io::stderr().write_all(entry)?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes an entry of an event: the line another format writes, the priority, the fields. A line break in a value, which would take
/// the protocol's binary form, becomes a space.
pub(super) struct AsEntry<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for AsEntry<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let mut entry = Entry(String::new());
        entry.put("SYSLOG_IDENTIFIER", "garrison");
        entry.put("PRIORITY", &priority(*event.metadata().level()).to_string());
        entry.put("MESSAGE", line.trim_end());
        event.record(&mut entry);
        writer.write_str(&entry.0)
    }
}

/// Lines of `NAME=value`.
struct Entry(String);

impl Entry {
    fn put(&mut self, name: &str, value: &str) {
        writeln!(self.0, "{name}={}", value.replace('\n', " ")).expect("a string takes what is written to it");
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            self.put(&format!("GARRISON_{}", field.name().to_uppercase().replace('.', "_")), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{fmt as output, registry};

    use super::*;

    #[test]
    fn an_entry_has_the_line_its_priority_and_each_field() {
        let entries: &'static Mutex<Vec<u8>> = Box::leak(Box::default());
        let format = AsEntry(output::format().without_time());
        let layer = output::layer().with_ansi(false).event_format(format).with_writer(|| entries.make_writer());
        tracing::subscriber::with_default(registry().with(layer), || {
            tracing::warn!(pod = %"default/a", error = "line\nbreak", tries = 3, "it failed");
        });
        let target = module_path!();
        assert_eq!(
            String::from_utf8(entries.lock().unwrap().clone()).unwrap(),
            format!(
                "SYSLOG_IDENTIFIER=garrison\nPRIORITY=4\n\
                 MESSAGE= WARN {target}: it failed pod=default/a error=\"line\\nbreak\" tries=3\n\
                 GARRISON_POD=default/a\nGARRISON_ERROR=line break\nGARRISON_TRIES=3\n"
            )
        );
    }
}
