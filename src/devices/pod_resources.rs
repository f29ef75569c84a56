//! Kubernetes' pod-resources API: who has which devices, for the exporters that tell of them.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/apis/podresources/server_v1.go`.

use std::io;

use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::authority;
use super::pb::pod_resources as pb;
use crate::fit::devices::Group;
use pb::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};

/// Requests at once on one connection.
const REQUESTS_MAX: usize = 4;

/// Who knows.
pub trait Inventory: Send + Sync + 'static {
    /// Every pod that has its place on the node.
    fn pods(&self) -> Vec<PodDevices>;

    /// All devices that can be given out.
    fn allocatable(&self) -> Vec<Group>;
}

/// What a pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDevices {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Its sidecars and regular containers by name, those without devices included.
    pub containers: Vec<(String, Vec<Group>)>,
}

/// Answers at a socket for as long as it can.
///
/// # Errors
/// When the socket takes no more connections.
pub async fn serve(listener: UnixListener, inventory: impl Inventory) -> io::Result<()> {
    let service = PodResourcesListerServer::new(Desk(inventory));
    let server = Server::builder().concurrency_limit_per_connection(REQUESTS_MAX).add_service(service);
    server.serve_with_incoming(authority::incoming(listener)).await.map_err(io::Error::other)
}

/// The service as it is generated.
struct Desk<I>(I);

#[tonic::async_trait]
impl<I: Inventory> PodResourcesLister for Desk<I> {
    async fn list(
        &self,
        _: Request<pb::ListPodResourcesRequest>,
    ) -> Result<Response<pb::ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.pods().into_iter().map(pod).collect();
        Ok(Response::new(pb::ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<pb::AllocatableResourcesRequest>,
    ) -> Result<Response<pb::AllocatableResourcesResponse>, Status> {
        let devices = self.0.allocatable().into_iter().map(group).collect();
        Ok(Response::new(pb::AllocatableResourcesResponse { devices }))
    }

    async fn get(
        &self,
        request: Request<pb::GetPodResourcesRequest>,
    ) -> Result<Response<pb::GetPodResourcesResponse>, Status> {
        let pb::GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let is_asked = |pod: &PodDevices| (&pod.name, &pod.namespace) == (&pod_name, &pod_namespace);
        let found = self.0.pods().into_iter().find(is_asked);
        let found =
            found.ok_or_else(|| Status::not_found(format!("pod {pod_name} in namespace {pod_namespace} not found")))?;
        Ok(Response::new(pb::GetPodResourcesResponse { pod_resources: Some(pod(found)) }))
    }
}

fn pod(pod: PodDevices) -> pb::PodResources {
    let PodDevices { namespace, name, containers } = pod;
    let container = |(name, groups): (String, Vec<Group>)| pb::ContainerResources {
        name,
        devices: groups.into_iter().map(group).collect(),
    };
    pb::PodResources { name, namespace, containers: containers.into_iter().map(container).collect() }
}

fn group(group: Group) -> pb::ContainerDevices {
    let Group { resource, numa_nodes, devices } = group;
    let nodes: Vec<_> = numa_nodes.into_iter().map(|id| pb::NumaNode { id }).collect();
    let topology = (!nodes.is_empty()).then_some(pb::TopologyInfo { nodes });
    pb::ContainerDevices { resource_name: resource, device_ids: devices, topology }
}
