//! A client that lists and watches as client-go's informers do, through as many changes as an hour of a busy fleet brings: its
//! store is the real one after each of them, and no event is missed or told twice.
//!
//! What an informer has to live through comes at random, from a seed: its connection ends, it is away for so long that what it
//! missed is forgotten, control is killed. The list/watch is our own, so that each event is looked at as it comes over the wire.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::churn::{CHANGES, Churn, Store, list};
use crate::harness::{Control, PATIENCE};
use crate::load::{CONFIG_MAPS, Client, Sender, revision};

struct Informer {
    client: Client,
    store: Store,
    /// Where the next watch goes on.
    seen: u64,
    /// The revisions of all events.
    told: BTreeSet<u64>,
    /// From after the first of each pair to the second the store was listed anew.
    listed: Vec<(u64, u64)>,
    watch: Option<(Sender, Incoming, Vec<u8>)>,
}

impl Informer {
    async fn new(client: Client) -> anyhow::Result<Self> {
        client.list_at_rest().await?;
        let (store, seen) = list(&client).await?;
        Ok(Self { client, store, seen, told: BTreeSet::new(), listed: vec![(0, seen)], watch: None })
    }

    /// Watches until its store is as it should be.
    async fn comes_to(&mut self, truth: &Store) -> anyhow::Result<()> {
        let coming = async {
            while self.store != *truth {
                let event = self.event().await?;
                self.take(&event).await?;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, coming).await {
            Ok(done) => done,
            Err(_) => bail!("the store is {:?}, and should be {truth:?}", self.store),
        }
    }

    /// The next event of the watch, which is begun where the last one ended if there is none.
    async fn event(&mut self) -> anyhow::Result<Value> {
        let (_, body, unread) = match &mut self.watch {
            Some(watch) => watch,
            None => {
                let path = format!("{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={}", self.seen);
                let mut sender = self.client.connect().await?;
                let response = self.client.ask(&mut sender, "GET", &path, None).await?;
                anyhow::ensure!(response.status() == 200, "a watch is answered with {}", response.status());
                self.watch.insert((sender, response.into_body(), Vec::new()))
            }
        };
        loop {
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let frame = body.frame().await.context("the watch has ended")??;
            unread.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }

    async fn take(&mut self, event: &Value) -> anyhow::Result<()> {
        let object = &event["object"];
        if event["type"] == "ERROR" {
            assert_eq!(object["code"], 410, "{event}");
            self.watch = None;
            let (store, seen) = list(&self.client).await?;
            self.listed.push((self.seen, seen));
            (self.store, self.seen) = (store, seen);
            return Ok(());
        }
        let revision: u64 = revision(object)?.parse()?;
        if event["type"] == "BOOKMARK" {
            assert!(revision >= self.seen, "{event} after {}", self.seen);
        } else {
            assert!(revision > self.seen && self.told.insert(revision), "{event} after {}", self.seen);
            let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
            let known = match event["type"].as_str() {
                Some("DELETED") => self.store.remove(&name),
                _ => self.store.insert(name, revision),
            };
            assert_eq!(known.is_none(), event["type"] == "ADDED", "{event} about {known:?}");
        }
        self.seen = revision;
        Ok(())
    }
}

/// An hour of churn.
async fn churn(control: &mut Control) -> anyhow::Result<()> {
    let mut churn = Churn::new(Client::of(control)?).await?;
    let mut informer = Informer::new(Client::of(control)?).await?;
    for number in 0..CHANGES {
        churn.change().await?;
        match number {
            // Twice it is away for too long, and twice control is killed while it is away.
            300 | 1200 => {
                informer.watch = None;
                churn.fill().await?;
            }
            600 | 1500 => {
                informer.watch = None;
                informer.client = churn.kill(control).await?;
            }
            // Every now and then its connection ends, and it may miss some changes before it comes again.
            _ => match churn.below(20) {
                0 => informer.watch = None,
                1..4 => continue,
                _ => {}
            },
        }
        informer.comes_to(&churn.truth).await?;
    }
    informer.comes_to(&churn.truth).await?;
    assert_eq!(list(&informer.client).await?.0, churn.truth);
    assert_eq!(
        informer.listed.len(),
        5,
        "listed once at first, and when what was missed was forgotten: {:?}",
        informer.listed
    );
    let is_listed = |revision: u64| informer.listed.iter().any(|(from, to)| (*from < revision) && (revision <= *to));
    for revision in churn.history.iter().filter_map(|change| change.written) {
        assert_ne!(informer.told.contains(&revision), is_listed(revision), "{revision} is told once, or in a list");
    }
    Ok(())
}

#[test]
fn an_informer_misses_nothing_and_hears_nothing_twice_in_an_hour_of_churn() {
    let mut control = Control::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let churning = async { tokio::time::timeout(Duration::from_secs(600), churn(&mut control)).await? };
    runtime.block_on(churning).expect("an hour of churn");
}
