//! Tokens of service accounts: asked of control for the pods of this node, renewed in time, and kept for a time without it.
//!
//! The ledger holds the last good token of each pod, so that a reboot without network mounts it again; one that has run out
//! is better than none, since only control could tell. Delays are reckoned on the clock that only moves forward: the wall
//! clock of a host may be wrong when a token comes, and right later. When it is set, that may cut them short: control may
//! be on the same host.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/token/token_manager.go`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::desired::Desired;
use crate::backoff::{Backoff, Limits};
use crate::host::ledger::{Contents, PodRecord, TokenRecord, blob_hash};
use crate::link::{Reason, Token, TokenRequest};
use crate::model::{BlobHash, Moment, Source, Uid};
use crate::podspec::objects::{Objects, TokenSpec, TokenText, service_account, token_specs};

/// A token is renewed after so many hundredths of its life …
const RENEW_PERCENT: u32 = 80;
/// … and after this time at the latest.
const RENEW_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Delays after a request that was refused or not answered.
const RETRY: Limits = Limits { first: Duration::from_secs(5), max: Duration::from_secs(300) };
/// For so long an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What a pod of the folder of manifests is told.
const NO_CONTROL: &str = "tokens are made by a control endpoint; this pod comes from a manifest on this host";

/// One token: whose pod's, and what it is to be good for.
type TokenId = (Uid, TokenSpec);

/// What is asked for and what has come.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// By blob: the texts of the ledger's tokens.
    texts: HashMap<BlobHash, TokenText>,
    /// When tokens that are here are to be renewed.
    renew_at: BTreeMap<TokenId, Moment>,
    /// Requests of this session that are not answered, and until when that is waited for.
    asked: BTreeMap<TokenId, (u64, Moment)>,
    failed: BTreeMap<TokenId, Failure>,
    last_id: u64,
}

#[derive(Debug)]
struct Failure {
    why: String,
    backoff: Backoff,
}

impl Tokens {
    /// Puts in a token that was on disk already.
    pub(super) fn loaded(&mut self, record: &TokenRecord, text: &[u8], now: Moment, wall: Timestamp) {
        self.texts.insert(record.blob.clone(), TokenText(String::from_utf8_lossy(text).into_owned()));
        let left = left(record, wall).min(renewal(Duration::from_secs(record.spec.expiration_secs)));
        self.renew_at.insert(record.id(), now + left);
    }

    /// The wall clock was set, and control's may have been with it: what is over by that is renewed now. Nothing is renewed later.
    pub(super) fn clock_set(&mut self, contents: &Contents, now: Moment, wall: Timestamp) {
        for record in &contents.tokens {
            let by_wall = now + left(record, wall);
            self.renew_at.entry(record.id()).and_modify(|at| *at = by_wall.min(*at));
        }
    }

    /// What was asked for in the session that has ended is not answered any more.
    pub(super) fn session_ended(&mut self) {
        self.asked.clear();
    }

    /// The requests that are due for pods that were reported, each of which counts as made.
    pub(super) fn due(
        &mut self,
        contents: &Contents,
        desired: &Desired,
        is_reported: impl Fn(&Uid) -> bool,
        now: Moment,
    ) -> Vec<TokenRequest> {
        let mut requests = Vec::new();
        for (id, (pod, account)) in wanted(contents, desired) {
            if self.due_at(&id) > now || !is_reported(&id.0) {
                continue;
            }
            if self.asked.remove(&id).is_some() {
                self.fail(id.clone(), "control does not answer".to_owned(), now);
                continue;
            }
            self.last_id += 1;
            self.asked.insert(id.clone(), (self.last_id, now + ANSWER_TIMEOUT));
            let TokenSpec { audience, expiration_secs } = id.1;
            requests.push(TokenRequest {
                id: self.last_id,
                namespace: pod.key.namespace.clone(),
                service_account: account,
                pod: pod.key.clone(),
                daemonset: pod.daemonset.clone(),
                audiences: Some(audience).filter(|audience| !audience.is_empty()).into_iter().collect(),
                expiration_secs,
            });
        }
        requests
    }

    /// When the next of these requests is due; none if nothing is wanted.
    pub(super) fn next_due(&self, contents: &Contents, desired: &Desired) -> Option<Moment> {
        wanted(contents, desired).keys().map(|id| self.due_at(id)).min()
    }

    fn due_at(&self, id: &TokenId) -> Moment {
        let asked = self.asked.get(id).map(|(_, until)| *until);
        let failed = self.failed.get(id).map(|failure| failure.backoff.since + failure.backoff.delay);
        asked.or(failed).or_else(|| self.renew_at.get(id).copied()).unwrap_or_default()
    }

    /// Takes an answer. True if the contents changed.
    pub(super) fn answer(
        &mut self,
        (id, outcome): (u64, Result<Token, Reason>),
        contents: &mut Contents,
        new_blobs: &mut Vec<Bytes>,
        now: Moment,
        wall: Timestamp,
    ) -> bool {
        let asked = self.asked.iter().find(|(_, (asked, _))| *asked == id).map(|(id, _)| id.clone());
        // What is not waited for any more will be asked for anew if it is needed.
        let Some(id) = asked else { return false };
        self.asked.remove(&id);
        let token = match outcome {
            Ok(token) => token,
            Err(reason) => {
                tracing::warn!(pod = %id.0, audience = id.1.audience, reason = reason.message, "no token");
                self.fail(id, reason.message, now);
                return true;
            }
        };
        let life = life(&token, &id.1, wall);
        let text = Bytes::from(token.text.clone());
        let (pod, spec) = id.clone();
        let renew_at = wall.checked_add(renewal(life)).unwrap_or(wall);
        let record = TokenRecord { pod, spec, blob: blob_hash(&text), renew_at };
        self.texts.insert(record.blob.clone(), TokenText(token.text));
        self.failed.remove(&id);
        self.renew_at.insert(id.clone(), now + renewal(life));
        contents.tokens.retain(|known| known.id() != id);
        contents.tokens.push(record);
        new_blobs.push(text);
        true
    }

    fn fail(&mut self, id: TokenId, why: String, now: Moment) {
        let before = self.failed.get(&id).map(|failure| failure.backoff);
        self.failed.insert(id, Failure { why, backoff: Backoff::next(before, now, now, RETRY) });
    }

    /// Drops the tokens of pods that are gone. True if the contents changed.
    pub(super) fn tidy(&mut self, contents: &mut Contents) -> bool {
        let before = contents.tokens.len();
        let pods = &contents.pods;
        contents.tokens.retain(|record| pods.contains_key(&record.pod));
        let is_there = |(pod, _): &TokenId| pods.contains_key(pod);
        self.renew_at.retain(|id, _| is_there(id));
        self.asked.retain(|id, _| is_there(id));
        self.failed.retain(|id, _| is_there(id));
        let named: BTreeSet<_> = contents.tokens.iter().map(|record| &record.blob).collect();
        self.texts.retain(|blob, _| named.contains(blob));
        before != contents.tokens.len()
    }

    /// Adds to what pods may see: tokens, or why there are none.
    pub(super) fn publish(&self, contents: &Contents, desired: &Desired, objects: &mut Objects) {
        let failed = self.failed.iter().map(|(id, failure)| (id.clone(), Err(failure.why.clone())));
        objects.tokens.extend(failed);
        for pod in contents.pods.values().filter(|pod| is_local(contents, pod)) {
            let specs = specs(pod, desired).into_iter().map(|spec| (pod.key.uid.clone(), spec));
            objects.tokens.extend(specs.map(|id| (id, Err(NO_CONTROL.to_owned()))));
        }
        let texts = contents.tokens.iter().filter_map(|record| {
            let text = self.texts.get(&record.blob)?.clone();
            Some((record.id(), Ok(text)))
        });
        objects.tokens.extend(texts);
    }
}

/// How long the token is good for. A wall clock that is ahead, or far behind, tells nothing: then it is as long as was asked.
fn life(token: &Token, spec: &TokenSpec, wall: Timestamp) -> Duration {
    let asked = Duration::from_secs(spec.expiration_secs);
    let told = Duration::try_from(token.expires_at.duration_since(wall)).unwrap_or_default();
    if told.is_zero() { asked } else { told.min(asked) }
}

/// How long a token is not to be renewed yet, by the wall clock.
fn left(record: &TokenRecord, wall: Timestamp) -> Duration {
    Duration::try_from(record.renew_at.duration_since(wall)).unwrap_or_default()
}

/// How long after it was made a token is renewed.
fn renewal(life: Duration) -> Duration {
    (life * RENEW_PERCENT / 100).min(RENEW_MAX)
}

/// Every token that pods of control want, with the pod and its account.
fn wanted<'a>(contents: &'a Contents, desired: &Desired) -> BTreeMap<TokenId, (&'a PodRecord, String)> {
    let pods = contents.pods.values().filter(|pod| pod.ending.is_none() && !is_local(contents, pod));
    let of_pod = |pod: &'a PodRecord| {
        let account = account(pod, desired);
        specs(pod, desired).into_iter().map(move |spec| ((pod.key.uid.clone(), spec), (pod, account.clone())))
    };
    pods.flat_map(of_pod).collect()
}

fn is_local(contents: &Contents, pod: &PodRecord) -> bool {
    let set = pod.daemonset.as_ref().and_then(|uid| contents.daemonsets.get(uid));
    set.is_some_and(|set| set.source == Source::Files)
}

fn specs(pod: &PodRecord, desired: &Desired) -> BTreeSet<TokenSpec> {
    let bundle = desired.bundle(&pod.revision.bundle);
    bundle.and_then(|bundle| bundle.template.spec.as_ref()).map(token_specs).unwrap_or_default()
}

fn account(pod: &PodRecord, desired: &Desired) -> String {
    let spec = desired.bundle(&pod.revision.bundle).and_then(|bundle| bundle.template.spec.as_ref());
    spec.map(service_account).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
