//! A container runtime in memory: a real gRPC server over in-memory connections, with CRI's rules and no containers.
//!
//! It keeps sandboxes, containers and images as containerd would (`model`), records every call, and on request fails a
//! call, holds it, ends a container, or goes away and comes back. `testing::contract` holds it to what the real one does.
//!
//! The idea is that of kubernetes `staging/src/k8s.io/cri-api/pkg/apis/testing/fake_runtime_service.go`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::{fmt, io};

use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use k8s_cri::v1::image_service_server::ImageServiceServer;
use k8s_cri::v1::runtime_service_server::RuntimeServiceServer;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::AbortHandle;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Status};

use crate::cri::Runtime;
use crate::model::{ContainerId, Uid};
use model::Model;

mod model;
mod service;
mod streaming;

pub use streaming::HeldProcess;

/// What stands for a socket in errors.
const ENDPOINT: &str = "unix:///fake/cri.sock";
/// How many bytes may be under way in a connection.
const PIPE_BYTES: usize = 64 * 1024;
/// How many events may wait for a subscriber.
const EVENTS: usize = 1024;

/// A handle on one fake runtime; clones are the same one. Starts ready, with a network and no images.
#[derive(Debug, Clone)]
pub struct FakeCri {
    shared: Arc<Shared>,
}

/// A call as the runtime got it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// CRI's method: `RunPodSandbox`.
    pub method: &'static str,
    /// The request, fields by their names in Rust.
    pub request: Value,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
    /// Methods that do not return.
    held: watch::Sender<Vec<&'static str>>,
    watcher: OnceLock<Watcher>,
}

/// Is told of everything that is there after each change.
struct Watcher(Box<dyn Fn(Vec<Sandbox>) + Send + Sync>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// A sandbox as somebody sees it who looks at the machine, not at the runtime's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Whose it is, by its labels.
    pub labels: HashMap<String, String>,
    /// It is ready.
    pub ready: bool,
    /// The containers that run in it: id and image.
    pub running: Vec<(ContainerId, String)>,
}

#[derive(Debug, Default)]
struct State {
    model: Model,
    calls: Vec<Call>,
    /// What the next call of a method comes to, oldest first.
    failures: HashMap<&'static str, Vec<(Code, String)>>,
    /// What commands in containers come to: exit code and output.
    exec: (i32, String),
    /// Where `Exec` and `Attach` lead, once somebody plays processes.
    streaming: Option<streaming::Streaming>,
    /// How many more calls may change something before everything stands still.
    changes_left: Option<usize>,
    is_frozen: bool,
    /// Open connections; `None` while nobody listens.
    connections: Option<Vec<AbortHandle>>,
}

impl Default for FakeCri {
    fn default() -> Self {
        let state = State { connections: Some(vec![]), ..State::default() };
        let shared = Shared {
            state: Mutex::new(state),
            events: broadcast::channel(EVENTS).0,
            held: watch::channel(vec![]).0,
            watcher: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl FakeCri {
    /// A new one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client with a connection of its own.
    pub fn runtime(&self) -> Runtime {
        let fake = self.clone();
        let connector = tower::service_fn(move |_| {
            let connection = fake.accept();
            async move { connection.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://fake").connect_with_connector_lazy(connector);
        Runtime::over(ENDPOINT, channel)
    }

    /// Puts an image on the host, under the id `sha256:<reference>`.
    pub fn add_image(&self, reference: &str) {
        self.state().model.add_image(reference);
    }

    /// Lets `PullImage` find an image in its registry.
    pub fn serve_image(&self, reference: &str) {
        self.state().model.registry.insert(reference.to_owned());
    }

    /// Takes an image out of the registry.
    pub fn withdraw_image(&self, reference: &str) {
        self.state().model.registry.remove(reference);
    }

    /// Tells `watcher` of all sandboxes, at once after each change. It must not call the fake.
    ///
    /// # Panics
    /// If there is one already.
    pub fn watch(&self, watcher: impl Fn(Vec<Sandbox>) + Send + Sync + 'static) {
        self.shared.watcher.set(Watcher(Box::new(watcher))).expect("one watcher");
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        self.state().model.seen()
    }

    /// Ends every sandbox and container and tells nobody: the machine was switched off. What was held is not, any more.
    pub fn switch_off(&self) {
        self.go_away();
        self.shared.held.send_replace(vec![]);
        let mut state = self.state();
        state.model.stop_all();
        self.look(&state.model);
    }

    /// Says whether the network is ready.
    pub fn set_network_ready(&self, ready: bool) {
        self.state().model.network_ready = ready;
    }

    /// Says what commands in containers come to: at first 0 and no output.
    pub fn answer_exec(&self, exit_code: i32, stdout: &str) {
        self.state().exec = (exit_code, stdout.to_owned());
    }

    /// Says what a container takes of memory and, beside its image, of its disk.
    pub fn take(&self, container: &ContainerId, memory_bytes: u64, disk_bytes: u64) {
        self.state().model.take(container.as_str(), memory_bytes, disk_bytes);
    }

    /// Says what a container takes of processors, in thousand millionths.
    pub fn burn(&self, container: &ContainerId, nano_cores: u64) {
        self.state().model.burn(container.as_str(), nano_cores);
    }

    /// The next call of this method, or the one after those already told, fails with these words and has no effect.
    pub fn fail_next(&self, method: &'static str, code: Code, message: &str) {
        self.state().failures.entry(method).or_default().push((code, message.to_owned()));
    }

    /// Calls of this method neither return nor have an effect until [`FakeCri::release`].
    pub fn hold(&self, method: &'static str) {
        self.shared.held.send_modify(|held| held.push(method));
    }

    /// Lets held calls of this method go on.
    pub fn release(&self, method: &'static str) {
        self.shared.held.send_modify(|held| held.retain(|other| *other != method));
    }

    /// After so many more calls that change something, none returns and none has an effect, until [`FakeCri::thaw`]. Calls
    /// made until then never come to anything, as those of a client that was killed.
    pub fn freeze_after(&self, changes: usize) {
        self.state().changes_left = Some(changes);
    }

    /// Whether a call was made that found everything standing still.
    pub fn is_frozen(&self) -> bool {
        self.state().is_frozen
    }

    /// Serves calls again; answers whether it was frozen.
    pub fn thaw(&self) -> bool {
        let mut state = self.state();
        state.changes_left = None;
        std::mem::take(&mut state.is_frozen)
    }

    /// Lets `Exec` and `Attach` lead to processes that the caller plays.
    pub async fn play_processes(&self) -> mpsc::Receiver<HeldProcess> {
        let (streaming, held_rx) = streaming::serve().await;
        self.state().streaming = Some(streaming);
        held_rx
    }

    /// Ends the running container of this name in the pod, as its own process would.
    ///
    /// # Panics
    /// If there is no such container.
    pub fn end_container(&self, pod: &Uid, name: &str, exit_code: i32) -> ContainerId {
        let mut state = self.state();
        let id = state.model.running_container(pod.as_str(), name).expect("a running container of this name");
        state.model.end_container(&id, exit_code);
        self.emit(&state.model, &id, v1::ContainerEventType::ContainerStoppedEvent);
        id.into()
    }

    /// Has containers of this name end as soon as they start.
    pub fn end_at_start(&self, name: &str, exit_code: i32) {
        self.state().model.short_lived.insert(name.to_owned(), exit_code);
    }

    /// Ends the pod's ready sandbox and all its containers, as after a reboot.
    ///
    /// # Panics
    /// If it has none.
    pub fn end_sandbox(&self, pod: &Uid) {
        let mut state = self.state();
        let id = state.model.ready_sandbox(pod.as_str()).expect("a ready sandbox");
        state.model.stop_sandbox(&id);
        self.emit(&state.model, &id, v1::ContainerEventType::ContainerStoppedEvent);
    }

    /// Breaks all connections and refuses new ones. What runs goes on.
    pub fn go_away(&self) {
        for connection in self.state().connections.take().unwrap_or_default() {
            connection.abort();
        }
    }

    /// Takes connections again.
    pub fn come_back(&self) {
        self.state().connections.get_or_insert_default();
    }

    /// Every call so far, those that failed or are held included.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The calls that change something, by method alone, and forgets all calls so far.
    pub fn take_changes(&self) -> Vec<&'static str> {
        let calls = std::mem::take(&mut self.state().calls);
        calls.into_iter().map(|call| call.method).filter(|method| is_change(method)).collect()
    }

    /// One end of a new connection, served at the other.
    fn accept(&self) -> io::Result<DuplexStream> {
        let mut state = self.state();
        let Some(connections) = &mut state.connections else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (client, mut outer) = duplex(PIPE_BYTES);
        let (mut inner, server) = duplex(PIPE_BYTES);
        // A connection ends with the task that copies between its ends; tonic itself offers no way to cut one.
        let copying = tokio::spawn(async move { copy_bidirectional(&mut outer, &mut inner).await });
        connections.push(copying.abort_handle());
        let incoming = futures_util::stream::iter([Ok::<_, io::Error>(server)]).chain(futures_util::stream::pending());
        let router = Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()));
        tokio::spawn(async move {
            let closed = async { drop(copying.await) };
            router.serve_with_incoming_shutdown(incoming, closed).await
        });
        Ok(client)
    }

    /// Records a call, waits while its method is held, and fails it if that was asked for.
    async fn begin<T: Serialize>(&self, method: &'static str, request: &T) -> Result<(), Status> {
        let request = serde_json::to_value(request).expect("a request is plain data");
        if self.state().begin(Call { method, request }) {
            return std::future::pending().await;
        }
        let mut held = self.shared.held.subscribe();
        let released = held.wait_for(|held| !held.contains(&method)).await;
        drop(released.expect("this handle holds the sender"));
        let failures = &mut self.state().failures;
        let failure = failures.get_mut(method).filter(|failures| !failures.is_empty());
        failure.map_or(Ok(()), |failures| {
            let (code, message) = failures.remove(0);
            Err(Status::new(code, message))
        })
    }

    /// Without a subscriber an event is lost, as with the real one.
    fn emit(&self, model: &Model, id: &str, kind: v1::ContainerEventType) {
        self.look(model);
        let _ = self.shared.events.send(model.event(id, kind));
    }

    fn look(&self, model: &Model) {
        if let Some(Watcher(watcher)) = self.shared.watcher.get() {
            watcher(model.seen());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panics while it holds the fake")
    }
}

impl State {
    /// Records a call; true if it finds everything standing still.
    fn begin(&mut self, call: Call) -> bool {
        if is_change(call.method) {
            self.is_frozen |= self.changes_left == Some(0);
            self.changes_left = self.changes_left.map(|left| left.saturating_sub(1));
        }
        self.calls.push(call);
        self.is_frozen
    }
}

/// Whether a call of this method changes what the runtime holds.
fn is_change(method: &str) -> bool {
    let reads = ["Version", "RuntimeConfig", "ImageFsInfo", "GetContainerEvents", "ReopenContainerLog"];
    !method.starts_with("List") && !method.ends_with("Status") && !reads.contains(&method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::contract::{self, Subject};

    #[tokio::test(start_paused = true)]
    async fn the_fake_keeps_the_contract() {
        let temp = tempfile::tempdir().unwrap();
        let fake = FakeCri::new();
        fake.serve_image("busybox:1.35");
        let (runtime, dir) = (fake.runtime(), temp.path().to_owned());
        contract::run_all(&Subject { runtime, dir, image: "busybox:1.35".to_owned() }).await;
    }
}
