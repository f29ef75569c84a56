use serde_json::json;

use super::*;
use crate::api::bundle::Bundle;
use crate::host::ledger::{DaemonSetRecord, RevisionRecord};
use crate::model::PodKey;
use crate::podspec::objects::FoundToken;
use crate::testing::pods;

/// What asks, what it asks for, and its clocks: seconds since the start, and the wall's since 1970.
struct Node {
    tokens: Tokens,
    desired: Desired,
    contents: Contents,
    new_blobs: Vec<Bytes>,
    now: Moment,
    wall: i64,
}

fn spec() -> TokenSpec {
    TokenSpec { audience: "vault".to_owned(), expiration_secs: 1000 }
}

impl Node {
    /// One with a pod of DaemonSet `web` that wants a token.
    fn new(source: Source) -> Self {
        let token = json!({ "path": "token", "audience": "vault", "expirationSeconds": 1000 });
        let volume = json!({ "name": "v", "projected": { "sources": [{ "serviceAccountToken": token }] } });
        let spec = json!({ "containers": [{ "name": "main" }], "volumes": [volume], "serviceAccountName": "reader",
            "automountServiceAccountToken": false });
        let bundle: Bundle = serde_json::from_value(json!({
            "format": 1, "uid": "web", "namespace": "default", "name": "web", "generation": 1, "revision": "one",
            "templateGeneration": 1, "template": { "spec": spec }, "minReadySeconds": 0,
            "updateStrategy": "rollingUpdate", "priority": 0,
        }))
        .unwrap();
        let (mut desired, mut contents) = (Desired::default(), Contents::default());
        let content = bundle.encode();
        let newest = RevisionRecord { hash: "one".into(), bundle: blob_hash(&content) };
        desired.loaded(newest.bundle.clone(), &content).unwrap();
        let pod = PodRecord {
            key: PodKey { namespace: "default".into(), name: "web".into(), uid: "uid-web".into() },
            daemonset: Some("web".into()),
            revision: newest.clone(),
            created_at: Timestamp::UNIX_EPOCH,
            ending: None,
            finished: None,
            amended: None,
            ephemeral_containers: vec![],
        };
        let set = DaemonSetRecord {
            key: bundle.key(),
            source,
            seq: 1,
            newest,
            permitted: None,
            taken: None,
            before: None,
            rejected: [].into(),
            written: [].into(),
            deleted: false,
        };
        contents.daemonsets.insert("web".into(), set);
        contents.pods.insert(pod.key.uid.clone(), pod);
        let tokens = Tokens::default();
        Self { tokens, desired, contents, new_blobs: Vec::new(), now: Moment::default(), wall: 1_000_000 }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_second(self.wall).unwrap()
    }

    fn passes(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
        self.wall += i64::try_from(secs).unwrap();
    }

    fn due(&mut self) -> Vec<TokenRequest> {
        self.tokens.due(&self.contents, &self.desired, |_| true, self.now)
    }

    /// The id of the only request that is due.
    fn asks(&mut self) -> u64 {
        let [request] = <[TokenRequest; 1]>::try_from(self.due()).unwrap();
        request.id
    }

    /// Is given a token that the wall clock of control calls good until `expires_at`.
    fn gets(&mut self, id: u64, text: &str, expires_at: i64) -> bool {
        let token = Token { text: text.to_owned(), expires_at: Timestamp::from_second(expires_at).unwrap() };
        self.answer(id, Ok(token))
    }

    fn is_refused(&mut self, id: u64, message: &str) -> bool {
        let reason = Reason { reason: "NotFound".into(), message: message.into(), field: String::new() };
        self.answer(id, Err(reason))
    }

    fn answer(&mut self, id: u64, outcome: Result<Token, Reason>) -> bool {
        let (wall, contents) = (self.wall(), &mut self.contents);
        self.tokens.answer((id, outcome), contents, &mut self.new_blobs, self.now, wall)
    }

    /// What the pod sees.
    fn sees(&self) -> String {
        let mut objects = Objects::default();
        self.tokens.publish(&self.contents, &self.desired, &mut objects);
        match objects.token(&pods::pod("web", std::path::Path::new("/")), &spec()) {
            FoundToken::Present(token) => token.0.clone(),
            FoundToken::Failed(why) => format!("failed: {why}"),
            FoundToken::Unheard => "unheard".to_owned(),
        }
    }

    /// Seconds until something is due.
    fn rests(&self) -> u64 {
        let due = self.tokens.next_due(&self.contents, &self.desired).unwrap();
        due.since(self.now).as_secs()
    }
}

#[test]
fn a_token_is_asked_for_once_and_renewed_before_it_runs_out() {
    let mut node = Node::new(Source::Link);
    let early = node.tokens.due(&node.contents, &node.desired, |_| false, node.now);
    assert_eq!(early, [], "control has yet to hear of the pod");
    let [request] = <[TokenRequest; 1]>::try_from(node.due()).unwrap();
    assert_eq!(
        (request.service_account.as_str(), &request.audiences[..], request.expiration_secs),
        ("reader", &["vault".to_owned()][..], 1000)
    );
    assert_eq!((request.pod.uid, request.daemonset), ("uid-web".into(), Some("web".into())));
    assert_eq!((node.due(), node.sees()), (vec![], "unheard".to_owned()));
    assert!(node.gets(request.id, "one", node.wall + 1000));
    assert_eq!(
        (node.sees(), node.new_blobs.as_slice(), node.rests()),
        ("one".to_owned(), &[Bytes::from("one")][..], 800)
    );

    node.passes(800);
    let id = node.asks();
    assert_eq!(node.sees(), "one", "the old one is good until there is another");
    assert!(node.gets(id, "two", node.wall + 500));
    assert_eq!(
        (node.sees(), node.rests(), node.contents.tokens.len()),
        ("two".to_owned(), 400, 1),
        "it may be shorter"
    );
    assert!(!node.gets(id, "three", node.wall + 500), "nobody asked");
    assert!(!format!("{:?} {:?}", node.tokens, node.contents).contains("two"));
}

#[test]
fn a_refusal_is_told_and_tried_again_later_each_time() {
    let mut node = Node::new(Source::Link);
    for pause in [5, 10, 20] {
        let id = node.asks();
        assert!(node.is_refused(id, "serviceaccounts \"reader\" not found"));
        assert_eq!((node.sees(), node.rests()), ("failed: serviceaccounts \"reader\" not found".to_owned(), pause));
        assert_eq!(node.due(), []);
        node.passes(pause);
    }
    let id = node.asks();
    node.gets(id, "one", node.wall + 1000);
    node.passes(800);
    let id = node.asks();
    node.is_refused(id, "no");
    assert_eq!((node.sees(), node.rests()), ("one".to_owned(), 5), "the one it has stays");
}

#[test]
fn without_an_answer_it_is_asked_for_again() {
    let mut node = Node::new(Source::Link);
    node.asks();
    node.tokens.session_ended();
    node.asks();
    assert_eq!(node.rests(), 60);
    node.passes(60);
    assert_eq!(node.due(), []);
    assert_eq!((node.sees(), node.rests()), ("failed: control does not answer".to_owned(), 5));
    node.passes(5);
    node.asks();
}

#[test]
fn a_wrong_wall_clock_neither_hurries_nor_forgets() {
    for (expires_at, life) in [(1_001_000, 1000), (1_000_010, 10), (5, 1000), (2_000_000_000, 1000)] {
        let mut node = Node::new(Source::Link);
        let id = node.asks();
        node.gets(id, "one", expires_at);
        assert_eq!(node.rests(), life * 8 / 10, "expires at {expires_at}");
    }
    // A day at most, however long it holds.
    assert_eq!(renewal(Duration::from_secs(1_000_000)), RENEW_MAX);
}

#[test]
fn a_clock_that_is_set_beyond_a_tokens_end_renews_it_at_once() {
    let mut node = Node::new(Source::Link);
    let id = node.asks();
    node.gets(id, "one", node.wall + 1000);
    for (by, rests) in [(-1_000_000, 800), (999_900, 800), (600, 300), (40_000_000, 0)] {
        node.wall += by;
        node.tokens.clock_set(&node.contents, node.now, node.wall());
        assert_eq!(node.rests(), rests, "set by {by} s");
    }
    node.asks();
}

#[test]
fn the_next_agent_has_the_token_and_renews_it_when_it_is_time() {
    let mut node = Node::new(Source::Link);
    let id = node.asks();
    node.gets(id, "one", node.wall + 1000);
    for (passed, rests) in [(300, 500), (5000, 0), (-5000, 800)] {
        let mut next = Node::new(Source::Link);
        next.wall += passed;
        let record = node.contents.tokens[0].clone();
        next.tokens.loaded(&record, b"one", next.now, next.wall());
        next.contents.tokens.push(record);
        assert_eq!((next.sees(), next.rests()), ("one".to_owned(), rests), "after {passed} s");
    }
    node.contents.pods.clear();
    assert!(node.tokens.tidy(&mut node.contents) && node.contents.tokens.is_empty());
    assert_eq!(node.tokens.next_due(&node.contents, &node.desired), None);
}

#[test]
fn without_control_there_are_no_tokens_and_a_pod_that_ends_gets_none() {
    let mut node = Node::new(Source::Files);
    assert_eq!((node.due(), node.sees()), (vec![], format!("failed: {NO_CONTROL}")));
    let mut node = Node::new(Source::Link);
    let ending = crate::host::ledger::Ending { since: node.wall(), grace_period_secs: 1 };
    node.contents.pods.values_mut().for_each(|pod| pod.ending = Some(ending.clone()));
    assert_eq!(node.due(), []);
}
