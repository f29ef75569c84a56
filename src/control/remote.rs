//! What garrison's own commands ask of the control endpoint that runs on this host: its tokens.
//!
//! The store belongs to the running process, so commands go through its API, by [`kube`](crate::kube) and as the administrator
//! whose kubeconfig lies in the state folder. What is asked and answered is JSON of the types here;
//! [`rest::tokens`](super::rest::tokens) is the other end. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::NodeName;

/// All tokens, or a DELETE below it.
pub const TOKENS: &str = "/garrison/v1/tokens";
/// New join tokens.
pub const JOIN_TOKENS: &str = "/garrison/v1/join-tokens";
/// New tokens of users.
pub const USER_TOKENS: &str = "/garrison/v1/user-tokens";

/// A join token to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// How long it is good.
    pub ttl_seconds: i64,
    /// How many hosts may join with it; none is any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The only name a host may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<NodeName>,
    /// The only labels a host may give itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// A user's token to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserTokenRequest {
    /// Who its bearer is.
    pub user: String,
    /// And of which groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// How long it is good.
    pub ttl_seconds: i64,
}

/// A token that was made. It is told this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minted {
    /// The whole of it.
    pub token: String,
}

/// All tokens, without their secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// Join tokens, then those of users, each by id.
    pub tokens: Vec<TokenInfo>,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// Names it.
    pub id: String,
    /// Not good after this.
    pub expires_at: Timestamp,
    /// What it is for.
    #[serde(flatten)]
    pub purpose: Purpose,
}

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "purpose")]
pub enum Purpose {
    /// Hosts join with it.
    #[serde(rename_all = "camelCase")]
    Join {
        /// How many still may; none is any number.
        uses_left: Option<u32>,
        /// The only name a host may have.
        node_name: Option<NodeName>,
        /// The only labels a host may give itself.
        labels: Option<BTreeMap<String, String>>,
    },
    /// Somebody is known by it.
    User {
        /// Who.
        user: String,
        /// Of which groups.
        groups: Vec<String>,
    },
}

/// What makes a host a node with this token, to be typed there as root; `control` is where it reaches this endpoint. The token
/// goes in by standard input, where no list of processes shows it.
pub fn join_command(token: &str, control: &str, request: &JoinTokenRequest) -> String {
    let mut command = format!("echo {token} | garrison agent join --control {control} --token -");
    if let Some(name) = &request.node_name {
        command += &format!(" --node-name {name}");
    }
    let labels: Vec<_> = request.labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        command += &format!(" --node-labels {}", labels.join(","));
    }
    command
}

/// `name` with the port of a kubeconfig's `server`, as agents dial it.
pub fn address(name: &str, server: &str) -> String {
    let port = server.rsplit_once(':').map_or("443", |(_, port)| port);
    if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
}

/// A list as people read it: a line each, with what bounds it.
pub fn render(list: &TokenList, now: Timestamp) -> String {
    let mut text = format!("{:<8}{:<6}{:<22}{}\n", "ID", "FOR", "EXPIRES", "BOUNDS");
    for TokenInfo { id, expires_at, purpose } in &list.tokens {
        let (what, bounds) = match purpose {
            Purpose::Join { uses_left, node_name, labels } => ("hosts", join_bounds(*uses_left, node_name, labels)),
            Purpose::User { user, groups } if groups.is_empty() => ("user", format!("user={user}")),
            Purpose::User { user, groups } => ("user", format!("user={user} groups={}", groups.join(","))),
        };
        let expired = if *expires_at < now { " (expired)" } else { "" };
        let at = expires_at.strftime("%Y-%m-%dT%H:%M:%SZ");
        text += &format!("{id:<8}{what:<6}{at:<22}{bounds}{expired}\n");
    }
    text
}

fn join_bounds(
    uses_left: Option<u32>,
    node_name: &Option<NodeName>,
    labels: &Option<BTreeMap<String, String>>,
) -> String {
    let uses = uses_left.map_or("uses=any".to_owned(), |uses| format!("uses={uses}"));
    let name = node_name.as_ref().map(|name| format!("node={name}"));
    let labels = labels.as_ref().map(|labels| {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("labels={}", labels.join(","))
    });
    [Some(uses), name, labels].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_joins_by_a_command_that_says_all_its_token_allows() {
        let any = JoinTokenRequest { ttl_seconds: 60, ..JoinTokenRequest::default() };
        let control = address("control.example", "https://127.0.0.1:6443");
        let command = "echo abc | garrison agent join --control control.example:6443 --token -";
        assert_eq!(join_command("abc", &control, &any), command);
        let labels = [("site", "north"), ("tier", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let bound = JoinTokenRequest { node_name: Some("edge-1".into()), labels: Some(labels.into()), ..any };
        let command = "echo abc | garrison agent join --control [fd00::1]:8443 --token - --node-name edge-1 --node-labels \
                       site=north,tier=";
        assert_eq!(join_command("abc", &address("fd00::1", "https://[::1]:8443"), &bound), command);
    }
}
