//! Many watches, writers, and a flood of bad requests, all at once; and what must hold of them.
//!
//! Each watch has a connection of its own, as clients on as many machines would. What was acknowledged is compared with what every
//! watch has seen, change by change, and with what is listed after control was killed and started again.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use garrison::kube::Kubeconfig;
use garrison::link::tls;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Control, PATIENCE};

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How many watches are begun at the same time; more would only wait for control's handshakes.
const BEGINNING: usize = 64;
/// A client takes a control that answers nothing for so long for broken.
const SILENCE: Duration = Duration::from_secs(300);
/// What each ConfigMap holds.
const VALUE_BYTES: usize = 512;

/// How much of everything.
pub struct Plan {
    pub watches: usize,
    pub writers: usize,
    /// Of each writer, in turn to four ConfigMaps of its own.
    pub writes: usize,
    /// Clients that send nothing but requests that cannot be granted, as fast as they are answered.
    pub floods: usize,
}

/// What came of it.
pub struct Figures {
    /// Writes that control acknowledged: all.
    pub acknowledged: usize,
    /// Bad requests that it answered.
    pub refused: usize,
    /// From the first write to the last acknowledgement.
    pub writing: Duration,
    /// From the last acknowledgement until the last watch had seen the last change.
    pub behind: Duration,
    /// How long writes took, in order of length.
    pub latencies: Vec<Duration>,
    /// Proportional set size of control in KiB: without a watch, with all of them idle, and at the end.
    pub memory_kib: [u64; 3],
}

/// Whom to ask, and as whom.
#[derive(Clone)]
pub struct Client {
    config: Arc<Kubeconfig>,
    tls: Arc<rustls::ClientConfig>,
    address: String,
}

pub type Sender = SendRequest<Full<Bytes>>;

/// Carries the plan out.
///
/// # Errors
/// Whatever keeps a client from speaking with control.
///
/// # Panics
/// If a watch misses a change, sees one twice or in the wrong order, if an acknowledged write is not there, or if a bad request
/// is answered as anything but the client's fault.
pub async fn run(control: &mut Control, plan: &Plan) -> anyhow::Result<Figures> {
    let client = Client::of(control)?;
    let list = client.list_at_rest().await?;
    let begun = revision(&list)?.to_owned();
    let unwatched = pss_kib(control.pid())?;

    // Watches, each until it has seen the revision that is told last.
    let (last_tx, last_rx) = watch::channel(None);
    let mut watches = JoinSet::new();
    let beginning = Arc::new(tokio::sync::Semaphore::new(BEGINNING));
    let mut begun_watches = JoinSet::new();
    for _ in 0..plan.watches {
        let (client, beginning, begun) = (client.clone(), beginning.clone(), begun.clone());
        begun_watches.spawn(async move {
            let _turn = beginning.acquire().await?;
            let mut sender = client.connect().await?;
            let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={begun}&timeoutSeconds=3600");
            let response = client.ask(&mut sender, "GET", &path, None).await?;
            assert_eq!(response.status(), 200);
            anyhow::Ok((sender, response.into_body()))
        });
    }
    for begun in begun_watches.join_all().await {
        let (sender, body) = begun?;
        watches.spawn(follow(sender, body, last_rx.clone()));
    }
    let idle = pss_kib(control.pid())?;

    let (stop_tx, stop_rx) = watch::channel(false);
    let mut floods = JoinSet::new();
    for number in 0..plan.floods {
        floods.spawn(flood(client.clone(), number, stop_rx.clone()));
    }
    let started = Instant::now();
    let mut writers = JoinSet::new();
    for number in 0..plan.writers {
        writers.spawn(write(client.clone(), number, plan.writes));
    }
    let written = writers.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let (writing, acknowledged_at) = (started.elapsed(), Instant::now());
    let mut acknowledged: Vec<u64> = written.iter().flat_map(|writer| writer.revisions.clone()).collect();
    acknowledged.sort_unstable();
    last_tx.send_replace(acknowledged.last().copied());
    let mut last_seen = acknowledged_at;
    while let Some(watched) = watches.join_next().await {
        let (revisions, at) = watched??;
        assert!(revisions == acknowledged, "a watch saw {} changes of {}", revisions.len(), acknowledged.len());
        last_seen = last_seen.max(at);
    }
    stop_tx.send_replace(true);
    let refused = floods.join_all().await.into_iter().sum::<anyhow::Result<usize>>()?;
    let loaded = pss_kib(control.pid())?;

    // A power cut, as far as a process can have one.
    control.restart();
    let client = Client::of(control)?;
    let (_, list) = json_of(client.ask(&mut client.connect().await?, "GET", CONFIG_MAPS, None).await?).await?;
    let there: BTreeMap<&str, (&str, &str)> = (list["items"].as_array().into_iter().flatten())
        .map(|item| {
            let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            (text("/metadata/name"), (text("/metadata/resourceVersion"), text("/data/number")))
        })
        .collect();
    for (name, (revision, number)) in written.iter().flat_map(|writer| &writer.last) {
        assert_eq!(there.get(name.as_str()), Some(&(revision.as_str(), number.as_str())), "{name}");
    }
    let mut latencies: Vec<Duration> = written.into_iter().flat_map(|writer| writer.latencies).collect();
    latencies.sort_unstable();
    Ok(Figures {
        acknowledged: acknowledged.len(),
        refused,
        writing,
        behind: last_seen - acknowledged_at,
        latencies,
        memory_kib: [unwatched, idle, loaded],
    })
}

/// Opens a watch that is never read, and waits until control has cut it off.
///
/// # Errors
/// Whatever keeps a client from speaking with control; if the watch goes on.
pub async fn stall(control: &Control) -> anyhow::Result<()> {
    let client = Client::of(control)?;
    let (mut sender, mut writer) = (client.connect().await?, client.connect().await?);
    let path = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=3600");
    let unread = client.ask(&mut sender, "GET", &path, None).await?;
    // More than the sockets between them hold.
    for number in 0..40 {
        let body = config_map(&format!("large-{number}"), number, &"x".repeat(500_000));
        let (code, answer) = json_of(client.ask(&mut writer, "POST", CONFIG_MAPS, Some(body)).await?).await?;
        assert_eq!(code, 201, "{answer}");
    }
    until("the watch is cut off", 2 * PATIENCE, async || {
        let metrics = client.ask(&mut writer, "GET", "/metrics", None).await?.into_body().collect().await?;
        let metrics = String::from_utf8(metrics.to_bytes().to_vec())?;
        Ok(metrics.lines().any(|line| line == "apiserver_longrunning_requests 0").then_some(()))
    })
    .await?;
    assert!(unread.into_body().collect().await.is_err(), "the answer breaks off");
    Ok(())
}

impl Client {
    pub fn of(control: &Control) -> anyhow::Result<Self> {
        let config = Kubeconfig::read(&control.kubeconfig())?;
        let tls = tls::user_config(&config.authority, config.identity.as_ref())?;
        let address = config.server.strip_prefix("https://").context("an address")?.to_owned();
        Ok(Self { config: Arc::new(config), tls: Arc::new(tls), address })
    }

    /// A connection to say anything on.
    pub async fn open(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        let (host, _port) = self.address.rsplit_once(':').context("a port")?;
        let connector = TlsConnector::from(self.tls.clone());
        Ok(connector.connect(host.to_owned().try_into()?, stream).await?)
    }

    pub async fn connect(&self) -> anyhow::Result<Sender> {
        let connecting = async {
            let stream = self.open().await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(sender)
        };
        tokio::time::timeout(SILENCE, connecting).await.context("a connection")?
    }

    pub async fn ask(
        &self,
        sender: &mut Sender,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send(sender, method, path, &[("content-type", "application/json")], body).await
    }

    /// The ConfigMaps, once control has made the one that it makes itself.
    pub async fn list_at_rest(&self) -> anyhow::Result<Value> {
        let mut sender = self.connect().await?;
        until("control has come to rest", PATIENCE, async || {
            let (_, list) = json_of(self.ask(&mut sender, "GET", CONFIG_MAPS, None).await?).await?;
            let mut items = list["items"].as_array().into_iter().flatten();
            let is_there = items.any(|item| item["metadata"]["name"] == "kube-root-ca.crt");
            Ok(is_there.then_some(list))
        })
        .await
    }

    async fn send(
        &self,
        sender: &mut Sender,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let answering = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        Ok(tokio::time::timeout(SILENCE, answering).await.context("an answer")??)
    }
}

/// Looks again and again until there is an answer.
async fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = look().await? {
            return Ok(answer);
        }
        anyhow::ensure!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub async fn json_of(response: http::Response<Incoming>) -> anyhow::Result<(u16, Value)> {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((code, serde_json::from_slice(&body)?))
}

pub fn revision(object: &Value) -> anyhow::Result<&str> {
    object["metadata"]["resourceVersion"].as_str().context("a resourceVersion")
}

fn config_map(name: &str, number: usize, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"number": number.to_string(), "value": value}})
}

// === watching ===

#[derive(Deserialize)]
struct Event {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

/// The revisions a watch tells until it has told the last, and when that was. Panics if they do not rise.
async fn follow(
    _sender: Sender,
    mut body: Incoming,
    mut last_rx: watch::Receiver<Option<u64>>,
) -> anyhow::Result<(Vec<u64>, Instant)> {
    let (mut revisions, mut unread) = (Vec::new(), Vec::new());
    loop {
        let last = *last_rx.borrow_and_update();
        if last.is_some() && revisions.last() >= last.as_ref() {
            return Ok((revisions, Instant::now()));
        }
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE, body.frame()) => frame.context("an event")?,
            _ = last_rx.changed(), if last.is_none() => continue,
        };
        let frame = frame.context("the watch has ended")??;
        unread.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let event: Event = serde_json::from_slice(&unread[..end])?;
            let revision = event.object.metadata.resource_version.parse()?;
            assert!(revisions.last().is_none_or(|last| *last < revision), "{revision} after {revisions:?}");
            revisions.push(revision);
            unread.drain(..=end);
        }
    }
}

// === writing ===

/// What a writer has been told.
struct Written {
    /// Of every write, in order.
    revisions: Vec<u64>,
    /// By name: the revision and the number of the last write.
    last: BTreeMap<String, (String, String)>,
    latencies: Vec<Duration>,
}

async fn write(client: Client, writer: usize, writes: usize) -> anyhow::Result<Written> {
    let mut sender = client.connect().await?;
    let mut written = Written { revisions: Vec::new(), last: BTreeMap::new(), latencies: Vec::new() };
    for number in 0..writes {
        let name = format!("w{writer}-{}", number % 4);
        let body = config_map(&name, number, &"x".repeat(VALUE_BYTES));
        let begun = Instant::now();
        let (method, path) = match number {
            0..4 => ("POST", CONFIG_MAPS.to_owned()),
            _ => ("PUT", format!("{CONFIG_MAPS}/{name}")),
        };
        let (code, answer) = json_of(client.ask(&mut sender, method, &path, Some(body)).await?).await?;
        assert!(code == 200 || code == 201, "{answer}");
        written.latencies.push(begun.elapsed());
        let revision = revision(&answer)?.to_owned();
        written.revisions.push(revision.parse()?);
        written.last.insert(name, (revision, number.to_string()));
    }
    Ok(written)
}

/// A request that cannot be granted: method, path, headers, body.
type Bad<'a> = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'a str);

/// Sends what cannot be granted until told to stop; gives how often. Panics if one is taken for good, or for control's own fault.
async fn flood(client: Client, number: usize, stop_rx: watch::Receiver<bool>) -> anyhow::Result<usize> {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    let deep = "[".repeat(100_000);
    let bad: [Bad; 10] = [
        ("POST", CONFIG_MAPS, &[JSON], "{\"metadata\":"),
        ("POST", CONFIG_MAPS, &[JSON], &deep),
        ("POST", CONFIG_MAPS, &[JSON], &large),
        ("POST", CONFIG_MAPS, &[("content-type", "text/html")], "<p>"),
        ("POST", "/apis/apps/v1/namespaces/default/daemonsets", &[JSON], "{\"metadata\":{\"name\":\"../x\"}}"),
        ("PATCH", "/api/v1/namespaces/default", &[("content-type", "application/json-patch+json")], "[{\"op\":7}]"),
        ("GET", "/apis/batch/v1/jobs", &[], ""),
        ("GET", "/api/v1/pods?labelSelector=((", &[], ""),
        ("GET", "/api/v1/secrets", &[("authorization", "Bearer nobody's")], ""),
        ("DELETE", "/api/v1/namespaces/kube-system", &[], ""),
    ];
    // As whoever shows no certificate, where a token is to say who it is.
    let anonymous = tls::user_config(&client.config.authority, None)?;
    let stranger = Client { tls: Arc::new(anonymous), ..client.clone() };
    let (mut sender, mut strange, mut sent) = (client.connect().await?, stranger.connect().await?, 0);
    while !*stop_rx.borrow() {
        let (method, path, headers, body) = bad[(number + sent) % bad.len()];
        let is_strange = headers.iter().any(|(name, _)| *name == "authorization");
        let (client, sender) = if is_strange { (&stranger, &mut strange) } else { (&client, &mut sender) };
        sent += 1;
        // Control need not read all of what it refuses; the connection is of no use then.
        let Ok(response) = client.send(sender, method, path, headers, body.to_owned()).await else {
            *sender = client.connect().await?;
            continue;
        };
        let code = response.status();
        assert!(code.is_client_error(), "{method} {path}: {code}");
        drop(response.into_body().collect().await);
    }
    Ok(sent)
}

/// Proportional set size of a process.
fn pss_kib(pid: u32) -> anyhow::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("a line with Pss")?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}
