//! Why a call to the runtime failed, in the runtime's own words where it had any.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};

use super::streaming::StreamingError;

/// What gRPC puts in front of an error that crossed a process, possibly several times.
const WRAPPER: &str = "rpc error: code = ";
/// Where in a wrapped message the words of the inner error begin.
const WRAPPED_WORDS: &str = " desc = ";
/// What containerd 1.6 answers, with no code of its own, while its CRI plugin still loads.
const STILL_LOADING: &str = "server is not initialized yet";

/// What containerd says where it lacks a part of an image that it is sure to have: a layer's folder, a blob, a configuration that
/// can be read. Pulling again does not help while it believes so.
const DAMAGED: [&str; 3] = ["failed to stat parent", "unmarshal image config", "content digest sha256:"];
/// The same of a layer that cannot be unpacked; there may be other reasons for that, as a full disk.
const NOT_UNPACKED: &str = "failed to extract layer";
const UNREADABLE: [&str; 4] = ["unexpected EOF", "wrong diff id", "invalid tar header", "gzip: invalid"];

/// What lies at the bottom of gRPC's layers of errors: most often the system's own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(String);

/// Why a call to the runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The endpoint is not one that can be connected to.
    #[error("container runtime endpoint {endpoint:?} is not of the form unix:///absolute/path/to.sock")]
    BadEndpoint {
        /// The endpoint as configured.
        endpoint: String,
    },
    /// Nothing accepts connections at the endpoint.
    #[error(
        "no container runtime listens at {endpoint}; start containerd, or name its socket with --container-runtime-endpoint"
    )]
    Unreachable {
        /// The endpoint as configured.
        endpoint: String,
        /// What the system said.
        #[source]
        source: TransportError,
    },
    /// The connection broke while the call was under way; it may have had its effect.
    #[error("the connection to the container runtime at {endpoint} broke during {call}")]
    Interrupted {
        /// The CRI method.
        call: &'static str,
        /// The endpoint as configured.
        endpoint: String,
        /// What the system said.
        #[source]
        source: TransportError,
    },
    /// No answer in time; the call may still have its effect.
    #[error("the container runtime did not answer {call} within {deadline:?}")]
    TimedOut {
        /// The CRI method.
        call: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// The runtime answered with an error. Displays as the runtime's words alone, as the kubelet shows them.
    #[error("{message}")]
    Refused {
        /// The CRI method.
        call: &'static str,
        /// gRPC's code; `Unknown` for most of what containerd has to say.
        code: Code,
        /// The runtime's words, without gRPC's wrapping.
        message: String,
    },
    /// The runtime does not speak CRI v1.
    #[error("the container runtime at {endpoint} does not serve CRI v1; containerd 1.6 or later does")]
    NoCriV1 {
        /// The endpoint as configured.
        endpoint: String,
        /// What the runtime said.
        #[source]
        source: Box<CriError>,
    },
    /// The server behind a call that streams.
    #[error("the container runtime's streaming server did not take {call}")]
    Streaming {
        /// The CRI method.
        call: &'static str,
        /// Why.
        #[source]
        source: StreamingError,
    },
    /// The runtime's answer lacks what CRI says it has.
    #[error("the container runtime answered {call} without {field}")]
    BadReply {
        /// The CRI method.
        call: &'static str,
        /// The field of the reply.
        field: &'static str,
    },
}

impl CriError {
    /// Whether the runtime, not the request, was the trouble: the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::TimedOut { .. } => true,
            Self::Refused { code, .. } => {
                matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted)
            }
            Self::BadEndpoint { .. } | Self::NoCriV1 { .. } | Self::BadReply { .. } | Self::Streaming { .. } => false,
        }
    }

    /// Whether the sandbox, container or image asked about does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: Code::NotFound, .. })
    }

    /// Whether what the runtime has of an image on disk is damaged, so that no other attempt will fare better. There is no code for
    /// this: the words are containerd's.
    pub fn is_damaged_image(&self) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        let has_any = |words: &[&str]| words.iter().any(|word| message.contains(word));
        has_any(&DAMAGED) || message.contains(NOT_UNPACKED) && has_any(&UNREADABLE)
    }

    /// Whether time ran out, here or in the runtime.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Refused { code: Code::DeadlineExceeded, .. })
    }

    /// Whether the runtime does not know the method at all.
    pub(super) fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Unimplemented, .. })
    }

    /// Tells apart what the transport and what the runtime said: only the former carries a source.
    pub(super) fn from_status(call: &'static str, endpoint: &str, status: &Status) -> Self {
        let causes = std::iter::successors(status.source(), |&error| error.source());
        let Some(root) = causes.clone().last() else {
            let message = unwrap_message(status.message()).to_owned();
            let code = if message == STILL_LOADING { Code::Unavailable } else { status.code() };
            return Self::Refused { call, code, message };
        };
        let (endpoint, source) = (endpoint.to_owned(), TransportError(root.to_string()));
        if causes.clone().any(<dyn std::error::Error>::is::<tonic::ConnectError>) {
            Self::Unreachable { endpoint, source }
        } else {
            Self::Interrupted { call, endpoint, source }
        }
    }
}

/// Takes off `rpc error: code = X desc = `, as often as it stands in front.
fn unwrap_message(mut message: &str) -> &str {
    while let Some((_, words)) = message.strip_prefix(WRAPPER).and_then(|rest| rest.split_once(WRAPPED_WORDS)) {
        message = words;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: &Status) -> CriError {
        CriError::from_status("PullImage", "unix:///x", status)
    }

    #[test]
    fn an_error_reads_as_the_runtimes_own_words() {
        let wrapped = "rpc error: code = NotFound desc = rpc error: code = Unknown desc = no such image: rpc error: x";
        for (said, shown) in [
            (wrapped, "no such image: rpc error: x"),
            ("rpc error: something else", "rpc error: something else"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(refused(&Status::unknown(said)).to_string(), shown);
        }
    }

    #[test]
    fn a_damaged_image_is_told_from_one_that_cannot_be_had() {
        for (said, damaged) in [
            (
                "failed to create containerd container: failed to stat parent: stat /var/lib/x/snapshots/1/fs: no such file",
                true,
            ),
            (
                "failed to pull and unpack image \"docker.io/library/a:1\": unmarshal image config: unexpected end of JSON input",
                true,
            ),
            ("failed to pull and unpack image \"a:1\": content digest sha256:5fe5: not found", true),
            ("failed to extract layer sha256:5f70: mount callback failed on /tmp/x: unexpected EOF: unknown", true),
            ("failed to extract layer sha256:5f70: write /bin/sh: no space left on device: unknown", false),
            ("failed to copy: httpReadSeeker: failed open: unexpected EOF", false),
            ("failed to resolve reference \"a:1\": a:1: not found", false),
        ] {
            assert_eq!(refused(&Status::unknown(said)).is_damaged_image(), damaged, "{said}");
        }
    }

    #[test]
    fn a_runtime_that_is_still_loading_is_worth_another_try() {
        assert!(refused(&Status::unknown(STILL_LOADING)).is_retryable());
        assert!(!refused(&Status::unknown("exec format error")).is_retryable());
        assert!(refused(&Status::not_found("x")).is_not_found());
    }
}
