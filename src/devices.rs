//! Device plugins, spoken to by Kubernetes' v1beta1 over unix sockets: they register with the agent ([`serve`]), and the agent
//! calls them ([`Plugin`]). [`pod_resources`] tells others who has what.
//!
//! Both protocols' messages are named in here and nowhere else. What a plugin says is checked and bounded, every call to it has a
//! deadline. Nothing here decides, retries or remembers.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/cm/devicemanager/{endpoint.go,plugin/v1beta1}`.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

use crate::api::pod_template::is_extended;
use crate::error::Chain;
use crate::fit::devices::{Choice, Device, Stock};
use crate::podspec::{DeviceNode, Granted, GrantedMount};

pub(crate) mod authority;
pub(crate) mod pb;
pub mod pod_resources;

use pb::device_plugin_client::DevicePluginClient;
use pb::registration_server::{Registration as Service, RegistrationServer};

/// The version that is spoken.
pub const VERSION: &str = "v1beta1";
/// How long a plugin may take to be there and to say what it can do.
const DIAL: Duration = Duration::from_secs(10);
/// The pause after a connection was refused; the first of Go's client.
const RETRY: Duration = Duration::from_secs(1);
/// How long any other call may take (upstream's bound for `PreStartContainer`).
const CALL: Duration = Duration::from_secs(30);
/// How long a registration may take: the plugin is dialled meanwhile.
const REGISTER: Duration = Duration::from_secs(30);
/// The largest message of a plugin; a registration is smaller.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
const REGISTRATION_BYTES_MAX: usize = 4 * 1024;
/// What a plugin may give one container: it is kept on disk.
const GRANT_BYTES_MAX: usize = 256 * 1024;
/// Registrations at once on one connection.
const REGISTRATIONS_MAX: usize = 4;
/// So many devices may there be of one resource.
const DEVICES_MAX: usize = 16 * 1024;
/// The longest id of a device.
const ID_BYTES_MAX: usize = 256;
/// What a device's health is if it can be used.
const HEALTHY: &str = "Healthy";

/// A plugin has devices of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// `vendor.example/thing`.
    pub resource: String,
    /// The name of its socket in the folder.
    pub endpoint: String,
}

/// Who takes registrations.
pub trait Registry: Send + Sync + 'static {
    /// A plugin wants to be known.
    fn register(&self, registration: Registration) -> BoxFuture<'_, Result<(), PluginError>>;
}

/// Why a plugin is not taken, or a call to it came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PluginError {
    /// It speaks another version.
    #[error("requested API version \"{0}\" is not supported by kubelet. Supported version is [\"{VERSION}\"]")]
    Version(String),
    /// Its resource is none.
    #[error("the ResourceName \"{0}\" is invalid")]
    Resource(String),
    /// Its socket is not in the folder.
    #[error("the endpoint \"{0}\" is invalid: it has to be the name of a socket in the folder of device plugins")]
    Endpoint(String),
    /// There are enough.
    #[error("no more than {0} resources can be registered")]
    TooMany(usize),
    /// Nobody answers at its socket.
    #[error("cannot connect to the device plugin at {endpoint} within {DIAL:?}: {why}")]
    Unreached {
        /// The socket.
        endpoint: String,
        /// What the system said last.
        why: String,
    },
    /// A call failed: the plugin's own words, as upstream quotes them.
    #[error("rpc error: code = {code:?} desc = {message}")]
    Call {
        /// gRPC's.
        code: Code,
        /// The plugin's.
        message: String,
    },
    /// It ended its list of devices.
    #[error("the device plugin has ended its list of devices")]
    Ended,
    /// It made no sense.
    #[error("the device plugin answered with {0}")]
    Nonsense(&'static str),
}

impl From<Status> for PluginError {
    fn from(status: Status) -> Self {
        Self::Call { code: status.code(), message: status.message().to_owned() }
    }
}

/// A plugin that was reached.
#[derive(Debug, Clone)]
pub struct Plugin {
    client: DevicePluginClient<Channel>,
    /// It wants to hear of each start of a container that has its devices.
    pub pre_start: bool,
    /// It says which devices it would rather give.
    pub prefers: bool,
}

impl Plugin {
    /// Dials the plugin at a socket and asks what it can do.
    ///
    /// # Errors
    /// [`PluginError`] if it does not answer within ten seconds.
    pub async fn connect(socket: &Path) -> Result<Self, PluginError> {
        let unreached = |why: String| PluginError::Unreached { endpoint: socket.display().to_string(), why };
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let endpoint = endpoint.map_err(|error| unreached(Chain(&error).to_string()))?;
        let mut why = "it does not answer".to_owned();
        let dial = async {
            let channel = loop {
                match endpoint.connect().await {
                    Ok(channel) => break channel,
                    Err(error) => why = Chain(&error).to_string(),
                }
                sleep(RETRY).await;
            };
            let mut client = DevicePluginClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let options = client.get_device_plugin_options(pb::Empty {}).await?.into_inner();
            let pb::DevicePluginOptions { pre_start_required, get_preferred_allocation_available } = options;
            Ok(Self { client, pre_start: pre_start_required, prefers: get_preferred_allocation_available })
        };
        timeout(DIAL, dial).await.unwrap_or_else(|_| Err(unreached(why)))
    }

    /// All devices there are, anew with each change. Ends with an error, also when the plugin ends it.
    ///
    /// # Errors
    /// As every call: [`PluginError`].
    pub async fn list(&self) -> Result<impl Stream<Item = Result<Stock, PluginError>> + use<>, PluginError> {
        let mut client = self.client.clone();
        let lists = within(client.list_and_watch(pb::Empty {})).await?;
        let end = futures_util::stream::iter([Err(PluginError::Ended)]);
        Ok(lists.map(|list| stock(list?)).chain(end))
    }

    /// What the plugin would rather give, in its order.
    ///
    /// # Errors
    /// As every call: [`PluginError`].
    pub async fn prefer(&self, choice: &Choice) -> Result<Vec<String>, PluginError> {
        let Choice { must, free, size } = choice;
        let request = pb::ContainerPreferredAllocationRequest {
            available_device_i_ds: must.union(free).cloned().collect(),
            must_include_device_i_ds: must.iter().cloned().collect(),
            allocation_size: i32::try_from(*size).unwrap_or(i32::MAX),
        };
        let request = pb::PreferredAllocationRequest { container_requests: vec![request] };
        let mut client = self.client.clone();
        let reply = within(client.get_preferred_allocation(request)).await?;
        Ok(reply.container_responses.into_iter().next().map(|answer| answer.device_i_ds).unwrap_or_default())
    }

    /// Readies devices for one container; what it gets with them.
    ///
    /// # Errors
    /// As every call: [`PluginError`].
    pub async fn allocate(&self, devices: &BTreeSet<String>) -> Result<Granted, PluginError> {
        let devices_ids = devices.iter().cloned().collect();
        let request = pb::AllocateRequest { container_requests: vec![pb::ContainerAllocateRequest { devices_ids }] };
        let mut client = self.client.clone().max_decoding_message_size(GRANT_BYTES_MAX);
        let reply = within(client.allocate(request)).await?;
        let answer = reply.container_responses.into_iter().next();
        answer.map(granted).ok_or(PluginError::Nonsense("no containers in its response to an allocation"))
    }

    /// Readies devices that a container has for its next start.
    ///
    /// # Errors
    /// As every call: [`PluginError`].
    pub async fn pre_start(&self, devices: &BTreeSet<String>) -> Result<(), PluginError> {
        let request = pb::PreStartContainerRequest { devices_ids: devices.iter().cloned().collect() };
        let mut client = self.client.clone();
        within(client.pre_start_container(request)).await.map(drop)
    }
}

/// Waits for a reply under the deadline of a call.
async fn within<T>(reply: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, PluginError> {
    let reply = timeout(CALL, reply).await;
    let reply = reply.unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded")))?;
    Ok(reply.into_inner())
}

/// Takes registrations at a socket for as long as it can.
///
/// # Errors
/// When the socket takes no more connections.
pub async fn serve(listener: UnixListener, registry: impl Registry) -> io::Result<()> {
    let service = RegistrationServer::new(Door(registry)).max_decoding_message_size(REGISTRATION_BYTES_MAX);
    let server =
        Server::builder().timeout(REGISTER).concurrency_limit_per_connection(REGISTRATIONS_MAX).add_service(service);
    server.serve_with_incoming(authority::incoming(listener)).await.map_err(io::Error::other)
}

/// The service as it is generated.
struct Door<R>(R);

#[tonic::async_trait]
impl<R: Registry> Service for Door<R> {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Result<Response<pb::Empty>, Status> {
        let request = request.into_inner();
        let what = (request.resource_name.clone(), request.endpoint.clone());
        let registered = match registration(request) {
            Ok(registration) => self.0.register(registration).await,
            Err(error) => Err(error),
        };
        registered.map(|()| Response::new(pb::Empty {})).map_err(|error| {
            let error = Chain(&error).to_string();
            tracing::warn!(resource = ?what.0, endpoint = ?what.1, error, "a device plugin is not taken");
            Status::unknown(error)
        })
    }
}

// === what they say ===

pub(crate) fn registration(request: pb::RegisterRequest) -> Result<Registration, PluginError> {
    let pb::RegisterRequest { version, endpoint, resource_name: resource, options: _ } = request;
    if version != VERSION {
        return Err(PluginError::Version(version));
    }
    if !is_extended(&resource) {
        return Err(PluginError::Resource(resource));
    }
    if endpoint.contains(['/', '\0']) || matches!(&*endpoint, "" | "." | "..") {
        return Err(PluginError::Endpoint(endpoint));
    }
    Ok(Registration { resource, endpoint })
}

pub(crate) fn stock(list: pb::ListAndWatchResponse) -> Result<Stock, PluginError> {
    if list.devices.len() > DEVICES_MAX {
        return Err(PluginError::Nonsense("too many devices"));
    }
    if list.devices.iter().any(|device| device.id.is_empty() || device.id.len() > ID_BYTES_MAX) {
        return Err(PluginError::Nonsense("a device whose id is empty or too long"));
    }
    let told = |pb::Device { id, health, topology }| {
        let numa_nodes = topology.unwrap_or_default().nodes.into_iter().map(|node| node.id).collect();
        (id, Device { healthy: health == HEALTHY, numa_nodes })
    };
    Ok(list.devices.into_iter().map(told).collect())
}

pub(crate) fn granted(answer: pb::ContainerAllocateResponse) -> Granted {
    let pb::ContainerAllocateResponse { envs: env, mounts, devices, annotations, cdi_devices } = answer;
    let mount =
        |pb::Mount { container_path, host_path, read_only }| GrantedMount { container_path, host_path, read_only };
    let node = |pb::DeviceSpec { container_path, host_path, permissions }| DeviceNode {
        container_path,
        host_path,
        permissions,
    };
    Granted {
        env,
        mounts: mounts.into_iter().map(mount).collect(),
        nodes: devices.into_iter().map(node).collect(),
        annotations,
        cdi_devices: cdi_devices.into_iter().map(|device| device.name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_names_a_version_a_resource_and_a_socket_in_the_folder() {
        let ask = |version: &str, resource: &str, endpoint: &str| {
            let (version, resource_name, endpoint) = (version.to_owned(), resource.to_owned(), endpoint.to_owned());
            let request = pb::RegisterRequest { version, resource_name, endpoint, options: None };
            registration(request).map_err(|error| error.to_string())
        };
        let good = Registration { resource: "example.com/thing".to_owned(), endpoint: "thing.sock".to_owned() };
        assert_eq!(ask("v1beta1", "example.com/thing", "thing.sock"), Ok(good));
        let version =
            "requested API version \"v1alpha\" is not supported by kubelet. Supported version is [\"v1beta1\"]";
        assert_eq!(ask("v1alpha", "example.com/thing", "thing.sock"), Err(version.to_owned()));
        for resource in ["", "thing", "kubernetes.io/thing", "requests.example.com/thing", "example.com/th ing"] {
            let words = format!("the ResourceName \"{resource}\" is invalid");
            assert_eq!(ask("v1beta1", resource, "thing.sock"), Err(words));
        }
        for endpoint in ["", ".", "..", "../thing.sock", "/run/thing.sock", "sub/thing.sock", "a\0b"] {
            let refused = ask("v1beta1", "example.com/thing", endpoint).unwrap_err();
            assert!(refused.starts_with(&format!("the endpoint \"{endpoint}\" is invalid")), "{refused}");
        }
    }

    #[test]
    fn a_list_has_bounds() {
        let device = |id: &str| pb::Device { id: id.to_owned(), health: HEALTHY.to_owned(), topology: None };
        let list = |devices| stock(pb::ListAndWatchResponse { devices }).map_err(|error| error.to_string());
        let topology = Some(pb::TopologyInfo { nodes: vec![pb::NumaNode { id: 1 }] });
        let ill = pb::Device { health: "Unhealthy".to_owned(), topology, ..device("b") };
        let (well, told) =
            (Device { healthy: true, ..Device::default() }, Device { healthy: false, numa_nodes: vec![1] });
        assert_eq!(list(vec![device("a"), ill]), Ok([("a".to_owned(), well), ("b".to_owned(), told)].into()));
        let words = "the device plugin answered with a device whose id is empty or too long";
        for id in [String::new(), "x".repeat(257)] {
            assert_eq!(list(vec![device(&id)]), Err(words.to_owned()));
        }
        let many = (0..=DEVICES_MAX).map(|id| device(&id.to_string())).collect();
        assert_eq!(list(many), Err("the device plugin answered with too many devices".to_owned()));
    }
}
