//! What a container that has ended left to say: `state.terminated.message`.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container.go`, `getTerminationMessage` and
//! `convertToKubeContainerStatus`.

use crate::podspec::TerminationMessagePolicy;

/// How much of the end of a log stands in for a missing message.
pub const LOG_LINES_MAX: usize = 80;
/// The same in bytes; the smaller bound holds.
pub const LOG_BYTES_MAX: usize = 2048;

/// Whether the end of the container's log stands in for its termination message.
///
/// `file` is the content of its termination log, `reason` the runtime's (`Error`, `ContainerCannotRun` …).
pub fn needs_log(policy: TerminationMessagePolicy, exit_code: i32, reason: &str, file: &str) -> bool {
    policy == TerminationMessagePolicy::FallbackToLogsOnError
        && exit_code != 0
        && reason != "ContainerCannotRun"
        && file.is_empty()
}

/// The end of a log's text (without the runtime's time stamps): at most [`LOG_LINES_MAX`] lines and [`LOG_BYTES_MAX`] bytes.
pub fn log_tail(text: &str) -> &str {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let by_lines = body.rmatch_indices('\n').nth(LOG_LINES_MAX - 1).map_or(0, |(newline, _)| newline + 1);
    let by_bytes = text.ceil_char_boundary(text.len().saturating_sub(LOG_BYTES_MAX));
    &text[by_lines.max(by_bytes)..]
}

/// The runtime's own words and the container's, as one message.
pub fn join(runtime: &str, container: &str) -> String {
    match (runtime, container) {
        ("", words) | (words, "") => words.to_owned(),
        (runtime, container) => format!("{runtime}: {container}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stands_in_only_for_a_failure_without_words() {
        use TerminationMessagePolicy::{FallbackToLogsOnError, File};
        assert!(needs_log(FallbackToLogsOnError, 1, "Error", ""));
        assert!(!needs_log(File, 1, "Error", ""));
        assert!(!needs_log(FallbackToLogsOnError, 0, "Completed", ""));
        assert!(!needs_log(FallbackToLogsOnError, 1, "ContainerCannotRun", ""));
        assert!(!needs_log(FallbackToLogsOnError, 1, "Error", "said"));
    }

    #[test]
    fn the_tail_is_bounded_in_lines_and_bytes() {
        let lines = |count: usize| (0..count).map(|number| format!("{number}\n")).collect::<String>();
        assert_eq!(log_tail(&lines(80)), lines(80));
        assert!(log_tail(&lines(82)).starts_with("2\n3\n"));
        assert_eq!(log_tail(&lines(82)).lines().count(), 80);
        assert_eq!(log_tail("no newline"), "no newline");
        let long = "é".repeat(2000);
        assert_eq!(log_tail(&format!("a{long}b")).len(), 2047, "cut at a letter");
        assert_eq!(log_tail(""), "");
    }

    #[test]
    fn words_are_joined_only_where_there_are_two() {
        assert_eq!([join("", ""), join("a", ""), join("", "b"), join("a", "b")], ["", "a", "b", "a: b"]);
    }
}
