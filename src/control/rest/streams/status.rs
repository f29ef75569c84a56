//! The last message of a process: how it ended. Pure.
//!
//! Source: kubernetes v1.36, `k8s.io/kubelet/pkg/cri/streaming/remotecommand/exec.go`, `httpstream.go`.

use serde_json::{Value, json};

use super::Protocol;
use crate::control::streams::StreamError;

/// How a process ended: its exit code, or what went wrong.
pub(super) type End = Result<i32, StreamError>;

/// What the error channel carries last; nothing where an old protocol has nothing to say.
pub(super) fn last_message(protocol: &Protocol, end: &End) -> Option<String> {
    if protocol.tells_status { Some(status(end).to_string()) } else { complaint(end) }
}

fn status(end: &End) -> Value {
    let message = complaint(end).unwrap_or_default();
    match end {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(_) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message,
            "details": { "causes": [{ "message": message }] }, "code": 500,
        }),
    }
}

/// What was not as it should be, for people.
fn complaint(end: &End) -> Option<String> {
    match end {
        Ok(0) => None,
        Ok(code) => Some(format!("command terminated with non-zero exit code: exit status {code}")),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::SPDY_COMMANDS;
    use super::*;

    #[test]
    fn an_end_is_told_as_the_protocol_tells_it() {
        let [new, old] = ["v4.channel.k8s.io", "v2.channel.k8s.io"]
            .map(|name| SPDY_COMMANDS.iter().find(|protocol| protocol.name == name).unwrap());
        let status = |end: &End| serde_json::from_str::<Value>(&last_message(new, end).unwrap()).unwrap();
        assert_eq!(status(&Ok(0)), json!({ "metadata": {}, "status": "Success" }));
        let recorded = json!({
            "metadata": {}, "status": "Failure",
            "message": "command terminated with non-zero exit code: exit status 3", "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": "3" }] },
        });
        assert_eq!(status(&Ok(3)), recorded);
        let failed = Err(StreamError::Refused { code: 500, message: "no such file".to_owned() });
        assert_eq!(status(&failed)["message"], "no such file");
        assert_eq!(status(&failed)["code"], 500);

        assert_eq!(last_message(old, &Ok(0)), None);
        assert_eq!(last_message(old, &failed), Some("no such file".to_owned()));
    }
}
