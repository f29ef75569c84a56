//! kube-rs, as controllers written in Rust use it: its watchers and their stores through an hour of churn, and its `Api`.
//!
//! The watchers come through a door that the test can slam and bar, so that they lose connections without a word at any time, and
//! find control at one address however often it was killed.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector::{self, reflector};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, wait};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::churn::{CHANGES, Change, Churn, Store};
use crate::harness::{Control, PATIENCE};
use crate::load::Client;

/// The watchers have to have come as far as the churn after so many changes.
const STRIDE: usize = 10;
/// A watch ends by itself after so long, and is taken up again.
const WATCH_SECS: u32 = 2;
/// Lists come in pages of so many.
const PAGE: u32 = 7;

fn run<T>(test: impl Future<Output = anyhow::Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let test = async { tokio::time::timeout(Duration::from_secs(600), test).await? };
    runtime.expect("a runtime").block_on(test).expect("kube-rs gets on with control")
}

/// A client of kube-rs that reads the administrator's kubeconfig, and goes through `door` if there is one.
async fn client(control: &Control, door: Option<&Door>) -> anyhow::Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(control.kubeconfig())?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    if let Some(door) = door {
        config.cluster_url = format!("https://{}", door.address).parse()?;
    }
    Ok(kube::Client::try_from(config)?)
}

// === the door ===

/// Leads every connection to control, wherever it is; whenever that is said anew, all connections break.
struct Door {
    address: SocketAddr,
    leads_tx: watch::Sender<Option<SocketAddr>>,
}

impl Door {
    async fn to(control: &Control) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (leads_tx, leads_rx) = watch::channel(Some(address_of(control)?));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, leads_rx.clone()));
            }
        });
        Ok(Self { address, leads_tx })
    }

    fn slam(&self) {
        self.leads_tx.send_modify(|_| ());
    }

    fn bar(&self) {
        self.leads_tx.send_replace(None);
    }

    fn open(&self, control: &Control) -> anyhow::Result<()> {
        self.leads_tx.send_replace(Some(address_of(control)?));
        Ok(())
    }
}

fn address_of(control: &Control) -> anyhow::Result<SocketAddr> {
    let server = garrison::kube::Kubeconfig::read(&control.kubeconfig())?.server;
    Ok(server.strip_prefix("https://").context("an address")?.parse()?)
}

/// Both sides of a connection hear of its end as of a cut cable: at any byte.
async fn pass(mut client: TcpStream, mut leads_rx: watch::Receiver<Option<SocketAddr>>) {
    let Some(control) = *leads_rx.borrow_and_update() else { return };
    let passing = async {
        let mut control = TcpStream::connect(control).await?;
        tokio::io::copy_bidirectional(&mut client, &mut control).await
    };
    tokio::select! {
        _ = passing => {}
        _ = leads_rx.changed() => {}
    }
}

// === the watchers ===

/// What is known of a watcher, which is a task.
#[derive(Debug, Default)]
struct Account {
    /// What kube-rs' reflector has; none while it lists.
    store: Option<Store>,
    /// After each list.
    told: Vec<Vec<Change>>,
    /// The last revision that it heard of.
    seen: u64,
}

/// Comes again soon and at the same pace, as control is expected back.
struct Soon;

impl Iterator for Soon {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {}
}

/// Begins a watcher with a reflector behind it. If it hears an event twice, or one out of order, it panics, and the channel closes.
fn spawn(client: kube::Client, config: watcher::Config) -> watch::Receiver<Account> {
    let (account_tx, account_rx) = watch::channel(Account::default());
    let api = Api::<ConfigMap>::namespaced(client, "default");
    let (store, writer) = reflector::store();
    let events = reflector(writer, watcher(api, config).backoff(Soon));
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            // Errors are what it has to live through: the store is right in the end.
            let Ok(event) = event else { continue };
            account_tx.send_modify(|account| account.take(&event, || revisions(&store)));
        }
    });
    account_rx
}

fn revision(object: &ConfigMap) -> u64 {
    object.resource_version().and_then(|revision| revision.parse().ok()).expect("objects have a revision")
}

fn revisions(store: &reflector::Store<ConfigMap>) -> Store {
    store.state().iter().map(|object| (object.name_any(), revision(object))).collect()
}

impl Account {
    fn take(&mut self, event: &Event<ConfigMap>, store: impl Fn() -> Store) {
        let (object, is_there) = match event {
            Event::Init => return self.store = None,
            Event::InitApply(object) => return self.seen = self.seen.max(revision(object)),
            Event::InitDone => {
                self.store = Some(store());
                return self.told.push(Vec::new());
            }
            Event::Apply(object) => (object, true),
            Event::Delete(object) => (object, false),
        };
        let (name, revision) = (object.name_any(), revision(object));
        assert!(revision > self.seen, "{name} at {revision} after {}", self.seen);
        self.seen = revision;
        self.store = Some(store());
        let told = self.told.last_mut().expect("a watch begins with a list");
        told.push(Change { name, written: is_there.then_some(revision) });
    }
}

async fn comes_to(watcher: &mut watch::Receiver<Account>, truth: &Store) -> anyhow::Result<()> {
    let coming = watcher.wait_for(|account| account.store.as_ref() == Some(truth));
    if let Ok(came) = tokio::time::timeout(PATIENCE, coming).await {
        came.context("the watcher has ended")?;
        return Ok(());
    }
    anyhow::bail!("the store is {:?}, and should be {truth:?}", watcher.borrow().store)
}

/// An hour of churn before watchers.
async fn churn(control: &mut Control, configs: &[watcher::Config]) -> anyhow::Result<()> {
    let mut churn = Churn::new(Client::of(control)?).await?;
    let door = Door::to(control).await?;
    let mut watchers = Vec::new();
    for config in configs {
        watchers.push(spawn(client(control, Some(&door)).await?, config.clone().timeout(WATCH_SECS)));
    }
    for number in 0..CHANGES {
        churn.change().await?;
        match number {
            // Twice they are shut out for too long, and twice control is killed before their eyes.
            300 | 1200 => {
                door.bar();
                churn.fill().await?;
                door.open(control)?;
            }
            600 | 1500 => {
                churn.kill(control).await?;
                door.open(control)?;
            }
            _ if churn.below(20) == 0 => door.slam(),
            _ => {}
        }
        if number % STRIDE == STRIDE - 1 {
            for watcher in &mut watchers {
                comes_to(watcher, &churn.truth).await?;
            }
        }
    }
    for (watcher, config) in watchers.iter().zip(configs) {
        let told = &watcher.borrow().told;
        assert_eq!(told.len(), 5, "listed at first, and when what was missed was forgotten: {config:?}");
        // What it was told since a list is what happened, without a gap, to the next list.
        let mut from = 0;
        for told in told.iter().filter(|told| !told.is_empty()) {
            let begins = churn.history[from..].windows(told.len()).position(|changes| changes == told);
            let begins = begins.with_context(|| format!("{told:?} is not what happened: {config:?}"))?;
            from += begins + told.len();
        }
        assert_eq!(from, churn.history.len(), "told to the end: {config:?}");
        let all: usize = told.iter().map(Vec::len).sum();
        // No more than what happened until they caught up is in a list only.
        assert!(all >= CHANGES - told.len() * STRIDE, "told {all} of {CHANGES} changes: {config:?}");
    }
    Ok(())
}

#[test]
fn watchers_of_kube_rs_miss_nothing_and_hear_nothing_twice_in_an_hour_of_churn() {
    let mut control = Control::start();
    let strategies = [watcher::Config::default().page_size(PAGE), watcher::Config::default().streaming_lists()];
    run(churn(&mut control, &strategies));
}

#[test]
fn objects_are_made_applied_fought_over_and_deleted_with_kube_rs() {
    let control = Control::start();
    run(async {
        let client = client(&control, None).await?;
        let config_maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
        let made: ConfigMap = serde_json::from_value(json!({
            "metadata": {"generateName": "made-", "labels": {"app": "made"}}, "data": {"key": "one"},
        }))?;
        let made = config_maps.create(&PostParams::default(), &made).await?;
        let name = made.name_any();
        let merge = json!({"data": {"key": "two"}});
        config_maps.patch(&name, &PatchParams::default(), &Patch::Merge(merge)).await?;
        let conflict = config_maps.replace(&name, &PostParams::default(), &made).await;
        assert!(matches!(&conflict, Err(kube::Error::Api(status)) if status.code == 409), "{conflict:?}");
        let listed = config_maps.list(&ListParams::default().labels("app=made")).await?;
        assert_eq!(listed.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), std::slice::from_ref(&name));
        assert_eq!(config_maps.get_metadata(&name).await?.uid(), made.uid());

        let daemonsets = Api::<DaemonSet>::namespaced(client, "default");
        let daemonset = |image: &str| {
            Patch::Apply(json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "applied"},
                "spec": {
                    "selector": {"matchLabels": {"app": "applied"}},
                    "template": {
                        "metadata": {"labels": {"app": "applied"}},
                        "spec": {"containers": [{"name": "main", "image": image}]},
                    },
                },
            }))
        };
        daemonsets.patch("applied", &PatchParams::apply("one"), &daemonset("busybox:1")).await?;
        let fought = daemonsets.patch("applied", &PatchParams::apply("other"), &daemonset("busybox:2")).await;
        let Err(kube::Error::Api(status)) = fought else { anyhow::bail!("nobody objects: {fought:?}") };
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"), "{status:?}");
        let taken = daemonsets.patch("applied", &PatchParams::apply("other").force(), &daemonset("busybox:2")).await?;
        let managers: Vec<_> = taken.managed_fields().iter().filter_map(|field| field.manager.clone()).collect();
        assert!(managers.contains(&"one".to_owned()) && managers.contains(&"other".to_owned()), "{managers:?}");

        config_maps.delete(&name, &DeleteParams::default()).await?;
        let uid = made.uid().context("a uid")?;
        wait::await_condition(config_maps.clone(), &name, wait::conditions::is_deleted(&uid)).await?;
        assert!(config_maps.get_opt(&name).await?.is_none());
        Ok(())
    });
}
