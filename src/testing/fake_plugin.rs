//! A device plugin without devices: a real gRPC server on a socket in a node's folder of plugins.
//!
//! It lists what a test says, gives what a test says, records the calls it gets, and on request fails or holds them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::devices::{VERSION, pb};
use crate::host::devices::SOCKET;
use crate::podspec::{DeviceNode, Granted, GrantedMount};
use pb::device_plugin_server::{DevicePlugin, DevicePluginServer};
use pb::registration_client::RegistrationClient;

/// One plugin; it ends when it is dropped.
pub struct FakePlugin {
    folder: PathBuf,
    endpoint: String,
    service: Service,
    _stop: oneshot::Sender<()>,
}

/// What the plugin says it can do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Skills {
    /// It wants to hear of each start.
    pub pre_start: bool,
    /// It would rather give the last devices than the first.
    pub prefers: bool,
}

#[derive(Clone)]
struct Service {
    skills: Skills,
    /// None ends the stream.
    lists: watch::Sender<Option<Vec<pb::Device>>>,
    held: watch::Sender<Vec<&'static str>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    failures: HashMap<&'static str, String>,
    answer: Granted,
}

impl FakePlugin {
    /// Listens at `endpoint` in the folder, in place of a plugin that is gone, and does not register yet. `devices` are as for [`FakePlugin::list`].
    ///
    /// # Panics
    /// If it cannot.
    pub fn serve(folder: &Path, endpoint: &str, skills: Skills, devices: &[(&str, bool)]) -> Self {
        let socket = folder.join(endpoint);
        drop(fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = Service {
            skills,
            lists: watch::Sender::new(Some(listed(devices))),
            held: watch::Sender::default(),
            state: Arc::default(),
        };
        let server = Server::builder().add_service(DevicePluginServer::new(service.clone()));
        let lists = service.lists.clone();
        tokio::spawn(server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            drop(stopped.await);
            lists.send_replace(None);
        }));
        Self { folder: folder.to_owned(), endpoint: endpoint.to_owned(), service, _stop: stop }
    }

    /// Registers a resource with the agent of the folder.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn register(&self, resource: &str) -> Result<(), String> {
        self.register_as(VERSION, resource, &self.endpoint).await
    }

    /// The same with a version and an endpoint of the test's own.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn register_as(&self, version: &str, resource: &str, endpoint: &str) -> Result<(), String> {
        let socket = format!("unix://{}", self.folder.join(SOCKET).display());
        let channel = Endpoint::from_shared(socket).unwrap().connect().await.map_err(|error| error.to_string())?;
        let request = pb::RegisterRequest {
            version: version.to_owned(),
            endpoint: endpoint.to_owned(),
            resource_name: resource.to_owned(),
            options: None,
        };
        let registered = RegistrationClient::new(channel).register(request).await;
        registered.map(drop).map_err(|status| status.message().to_owned())
    }

    /// Lists these devices now: their ids, and whether each is healthy.
    pub fn list(&self, devices: &[(&str, bool)]) {
        self.service.lists.send_replace(Some(listed(devices)));
    }

    /// Gives this with whatever devices.
    pub fn answer(&self, granted: Granted) {
        self.state().answer = granted;
    }

    /// The next call of this method fails with these words.
    pub fn fail_next(&self, method: &'static str, message: &str) {
        self.state().failures.insert(method, message.to_owned());
    }

    /// Calls of this method do not return until [`FakePlugin::release`].
    pub fn hold(&self, method: &'static str) {
        self.service.held.send_modify(|held| held.push(method));
    }

    /// Lets held calls go on.
    pub fn release(&self) {
        self.service.held.send_replace(Vec::new());
    }

    /// The calls so far, each with the devices it was about: `Allocate a,b`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.service.state.lock().unwrap()
    }
}

fn listed(devices: &[(&str, bool)]) -> Vec<pb::Device> {
    let device = |(id, healthy): &(&str, bool)| pb::Device {
        id: (*id).to_owned(),
        health: if *healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
        topology: None,
    };
    devices.iter().map(device).collect()
}

impl Service {
    /// Records a call, waits while its method is held, and fails it if that was asked for.
    async fn begin(&self, method: &'static str, devices: &[String]) -> Result<(), Status> {
        self.state.lock().unwrap().calls.push(format!("{method} {}", devices.join(",")).trim_end().to_owned());
        let mut held = self.held.subscribe();
        drop(held.wait_for(|held| !held.contains(&method)).await);
        match self.state.lock().unwrap().failures.remove(method) {
            Some(message) => Err(Status::unknown(message)),
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = BoxStream<'static, Result<pb::ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<pb::Empty>,
    ) -> Result<Response<pb::DevicePluginOptions>, Status> {
        self.begin("GetDevicePluginOptions", &[]).await?;
        let Skills { pre_start, prefers } = self.skills;
        let (pre_start_required, get_preferred_allocation_available) = (pre_start, prefers);
        Ok(Response::new(pb::DevicePluginOptions { pre_start_required, get_preferred_allocation_available }))
    }

    async fn list_and_watch(&self, _: Request<pb::Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        self.begin("ListAndWatch", &[]).await?;
        let lists = WatchStream::new(self.lists.subscribe()).take_while(|list| std::future::ready(list.is_some()));
        let lists = lists.map(|list| Ok(pb::ListAndWatchResponse { devices: list.unwrap_or_default() }));
        Ok(Response::new(lists.boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<pb::PreferredAllocationRequest>,
    ) -> Result<Response<pb::PreferredAllocationResponse>, Status> {
        let mut requests = request.into_inner().container_requests;
        let mut request = requests.pop().unwrap_or_default();
        self.begin("GetPreferredAllocation", &request.available_device_i_ds).await?;
        request.available_device_i_ds.reverse();
        let answer = pb::ContainerPreferredAllocationResponse { device_i_ds: request.available_device_i_ds };
        Ok(Response::new(pb::PreferredAllocationResponse { container_responses: vec![answer] }))
    }

    async fn allocate(&self, request: Request<pb::AllocateRequest>) -> Result<Response<pb::AllocateResponse>, Status> {
        let mut requests = request.into_inner().container_requests;
        self.begin("Allocate", &requests.pop().unwrap_or_default().devices_ids).await?;
        let Granted { env: envs, mounts, nodes, annotations, cdi_devices } = self.state.lock().unwrap().answer.clone();
        let mount =
            |GrantedMount { container_path, host_path, read_only }| pb::Mount { container_path, host_path, read_only };
        let node = |DeviceNode { container_path, host_path, permissions }| pb::DeviceSpec {
            container_path,
            host_path,
            permissions,
        };
        let answer = pb::ContainerAllocateResponse {
            envs,
            mounts: mounts.into_iter().map(mount).collect(),
            devices: nodes.into_iter().map(node).collect(),
            annotations,
            cdi_devices: cdi_devices.into_iter().map(|name| pb::CdiDevice { name }).collect(),
        };
        Ok(Response::new(pb::AllocateResponse { container_responses: vec![answer] }))
    }

    async fn pre_start_container(
        &self,
        request: Request<pb::PreStartContainerRequest>,
    ) -> Result<Response<pb::PreStartContainerResponse>, Status> {
        self.begin("PreStartContainer", &request.into_inner().devices_ids).await?;
        Ok(Response::new(pb::PreStartContainerResponse {}))
    }
}
