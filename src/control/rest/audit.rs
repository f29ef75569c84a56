//! The audit log: a line of JSON for each request that counts, in Kubernetes' form.
//!
//! What a request said is not in it, only what it was about, who sent it, and how it was answered (level `Metadata`). By
//! default that is every request that changes something, opens a stream, or was refused. Lines are appended one write each,
//! so that the file may be moved away and a new one begun by restarting control.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/apis/audit/v1/types.go`, `Event`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::control::rbac::{About, Attributes, Resource, User};

/// How many lines wait for the disk before requests do.
const QUEUE: usize = 1024;

/// One request and its answer.
#[derive(Debug)]
pub struct Record<'a> {
    /// `Audit-Id`.
    pub id: &'a str,
    /// Path and query.
    pub uri: &'a str,
    /// Who asked, by their credentials.
    pub user: Option<&'a User>,
    /// Whom they acted as, if not themselves.
    pub acted_as: Option<&'a User>,
    /// What about; none for a request that nobody looked at.
    pub attributes: Option<&'a Attributes>,
    /// Where from.
    pub source: Option<IpAddr>,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// HTTP status of the answer.
    pub code: u16,
    /// When it came.
    pub received: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
}

/// The open log. Clones share it.
#[derive(Debug, Clone)]
pub struct AuditLog {
    verbs: Vec<String>,
    lines_tx: mpsc::Sender<String>,
}

impl AuditLog {
    /// Opens the file and begins to write what comes of these verbs, `*` for all. A new file is its owner's alone.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: PathBuf, verbs: Vec<String>) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let (lines_tx, mut lines_rx) = mpsc::channel::<String>(QUEUE);
        std::thread::spawn(move || {
            while let Some(line) = lines_rx.blocking_recv() {
                if let Err(error) = file.write_all(line.as_bytes()) {
                    tracing::error!(path = %path.display(), %error, "the audit log cannot be written");
                }
            }
        });
        Ok(Self { verbs, lines_tx })
    }

    /// Whether a request is to be written down.
    pub fn wants(&self, attributes: Option<&Attributes>, code: u16) -> bool {
        let refused = matches!(code, 401 | 403);
        let verb = attributes.map_or("", |attributes| attributes.verb.as_str());
        refused || self.verbs.iter().any(|wanted| wanted == "*" || wanted == verb)
    }

    /// Writes a request down; waits if the disk is behind.
    pub async fn write(&self, record: &Record<'_>) {
        let line = format!("{}\n", event(record));
        // The other end lives as long as the process.
        let _ = self.lines_tx.send(line).await;
    }
}

fn event(record: &Record<'_>) -> Value {
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "stage": "ResponseComplete",
        "auditID": record.id,
        "requestURI": record.uri,
        "verb": record.attributes.map_or("", |attributes| attributes.verb.as_str()),
        "user": record.user.map(user),
        "userAgent": record.user_agent,
        "responseStatus": {"metadata": {}, "code": record.code},
        "requestReceivedTimestamp": micros(record.received),
        "stageTimestamp": micros(record.answered),
    });
    if let Some(acted_as) = record.acted_as {
        event["impersonatedUser"] = user(acted_as);
    }
    if let Some(source) = record.source {
        event["sourceIPs"] = json!([source.to_string()]);
    }
    if let Some(Attributes { about: About::Resource(resource), .. }) = record.attributes {
        event["objectRef"] = reference(resource);
    }
    let decision = if matches!(record.code, 401 | 403) { "forbid" } else { "allow" };
    event["annotations"] = json!({"authorization.k8s.io/decision": decision});
    event
}

fn user(User { name, uid, groups, .. }: &User) -> Value {
    let mut user = json!({"username": name, "groups": groups});
    if !uid.is_empty() {
        user["uid"] = uid.as_str().into();
    }
    user
}

fn reference(Resource { group, resource, subresource, namespace, name }: &Resource) -> Value {
    let mut reference = json!({"resource": resource, "apiVersion": "v1"});
    for (field, text) in [("apiGroup", group), ("subresource", subresource), ("namespace", namespace), ("name", name)] {
        if !text.is_empty() {
            reference[field] = text.as_str().into();
        }
    }
    reference
}

fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::wait::eventually;

    fn attributes(verb: &str) -> Attributes {
        let resource =
            Resource { resource: "secrets".into(), namespace: "n".into(), name: "s".into(), ..Resource::default() };
        Attributes::on(verb, resource)
    }

    #[test]
    fn an_event_says_who_did_what_and_how_it_ended() {
        let (ann, bob) = (
            User { name: "ann".into(), groups: vec!["dev".into()], ..User::default() },
            User { name: "bob".into(), ..User::default() },
        );
        let delete = attributes("delete");
        let record = Record {
            id: "1",
            uri: "/api/v1/namespaces/n/secrets/s",
            user: Some(&ann),
            acted_as: Some(&bob),
            attributes: Some(&delete),
            source: Some([192, 0, 2, 1].into()),
            user_agent: "kubectl/v1",
            code: 403,
            received: Timestamp::UNIX_EPOCH,
            answered: Timestamp::UNIX_EPOCH,
        };
        let expected = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "stage": "ResponseComplete",
            "auditID": "1", "requestURI": "/api/v1/namespaces/n/secrets/s", "verb": "delete",
            "user": {"username": "ann", "groups": ["dev"]}, "impersonatedUser": {"username": "bob", "groups": []},
            "sourceIPs": ["192.0.2.1"], "userAgent": "kubectl/v1",
            "objectRef": {"resource": "secrets", "apiVersion": "v1", "namespace": "n", "name": "s"},
            "responseStatus": {"metadata": {}, "code": 403},
            "requestReceivedTimestamp": "1970-01-01T00:00:00.000000Z", "stageTimestamp": "1970-01-01T00:00:00.000000Z",
            "annotations": {"authorization.k8s.io/decision": "forbid"},
        });
        assert_eq!(event(&record), expected);
    }

    #[tokio::test]
    async fn what_counts_is_written_a_line_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = AuditLog::open(path.clone(), vec!["create".into()]).unwrap();
        let cases = [("create", 201, true), ("get", 200, false), ("get", 403, true), ("list", 401, true)];
        for (verb, code, wanted) in cases {
            assert_eq!(log.wants(Some(&attributes(verb)), code), wanted, "{verb} {code}");
        }
        let all = AuditLog { verbs: vec!["*".into()], ..log.clone() };
        assert!(all.wants(Some(&attributes("get")), 200));
        let create = attributes("create");
        for id in ["1", "2"] {
            let record = Record {
                id,
                uri: "/x",
                user: None,
                acted_as: None,
                attributes: Some(&create),
                source: None,
                user_agent: "",
                code: 201,
                received: Timestamp::UNIX_EPOCH,
                answered: Timestamp::UNIX_EPOCH,
            };
            log.write(&record).await;
        }
        let written = eventually("both lines are there", async || {
            let text = std::fs::read_to_string(&path).unwrap();
            (text.lines().count() == 2).then_some(text)
        });
        let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["auditID"].clone();
        let ids: Vec<Value> = written.await.lines().map(id).collect();
        assert_eq!(ids, ["1", "2"]);
    }
}
