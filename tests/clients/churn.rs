//! An hour of a busy fleet's changes to ConfigMaps, at random from a seed, beside what should be there after each of them.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};

use crate::harness::Control;
use crate::load::{CONFIG_MAPS, Client, Sender, json_of, revision};

/// One change every two seconds, for an hour.
pub const CHANGES: usize = 1800;
/// So many objects come and go.
const NAMES: u64 = 40;
/// Overwritten so often, a Secret of this size fills the history that control keeps (32 MiB).
const FILLER: (usize, usize) = (700_000, 50);

/// The names and revisions of all objects.
pub type Store = BTreeMap<String, u64>;

/// One object made, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    /// What it was written at; none if it was deleted, whose answer names no revision.
    pub written: Option<u64>,
}

pub struct Churn {
    client: Client,
    sender: Sender,
    chance: u64,
    /// What should be there.
    pub truth: Store,
    /// What was acknowledged, in order.
    pub history: Vec<Change>,
}

impl Churn {
    /// Begins with what control has made itself.
    pub async fn new(client: Client) -> anyhow::Result<Self> {
        client.list_at_rest().await?;
        let (truth, _) = list(&client).await?;
        Ok(Self { sender: client.connect().await?, client, chance: 1, truth, history: Vec::new() })
    }

    /// Numbers below `bound` that look random and are the same in every run.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % bound
    }

    /// Makes, changes or deletes one object.
    pub async fn change(&mut self) -> anyhow::Result<()> {
        let name = format!("churn-{}", self.below(NAMES));
        let path = format!("{CONFIG_MAPS}/{name}");
        let is_there = self.truth.contains_key(&name);
        if is_there && self.below(3) == 0 {
            self.ask("DELETE", &path, None).await?;
            self.truth.remove(&name);
            self.history.push(Change { name, written: None });
            return Ok(());
        }
        let body = json!({"metadata": {"name": name}, "data": {"number": self.history.len().to_string()}});
        let (method, path) = if is_there { ("PUT", path.as_str()) } else { ("POST", CONFIG_MAPS) };
        let revision = revision(&self.ask(method, path, Some(body)).await?)?.parse()?;
        self.truth.insert(name.clone(), revision);
        self.history.push(Change { name, written: Some(revision) });
        Ok(())
    }

    /// Writes so much that control forgets what came before.
    pub async fn fill(&mut self) -> anyhow::Result<()> {
        const SECRETS: &str = "/api/v1/namespaces/default/secrets";
        let (bytes, times) = FILLER;
        let path = format!("{SECRETS}/filler");
        for number in 0..times {
            // `stringData` is kept in base64, a third longer.
            let value = format!("{number}{}", "x".repeat(bytes));
            let body = json!({"metadata": {"name": "filler"}, "stringData": {"a": value}});
            let (method, path) = if number == 0 { ("POST", SECRETS) } else { ("PUT", path.as_str()) };
            self.ask(method, path, Some(body)).await?;
        }
        self.ask("DELETE", &path, None).await?;
        Ok(())
    }

    /// Kills control and goes on with the one that follows it.
    pub async fn kill(&mut self, control: &mut Control) -> anyhow::Result<Client> {
        control.restart();
        self.client = Client::of(control)?;
        self.sender = self.client.connect().await?;
        Ok(self.client.clone())
    }

    async fn ask(&mut self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (code, answer) = json_of(self.client.ask(&mut self.sender, method, path, body).await?).await?;
        anyhow::ensure!(code == 200 || code == 201, "{method} {path}: {}", answer["message"]);
        Ok(answer)
    }
}

/// What is there, and the revision of that.
pub async fn list(client: &Client) -> anyhow::Result<(Store, u64)> {
    let (code, list) = json_of(client.ask(&mut client.connect().await?, "GET", CONFIG_MAPS, None).await?).await?;
    anyhow::ensure!(code == 200, "{list}");
    let items = list["items"].as_array().into_iter().flatten();
    let store = items.map(|item| {
        let name = item["metadata"]["name"].as_str().context("a name")?;
        anyhow::Ok((name.to_owned(), revision(item)?.parse()?))
    });
    Ok((store.collect::<Result<_, _>>()?, revision(&list)?.parse()?))
}
