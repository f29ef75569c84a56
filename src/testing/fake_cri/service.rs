//! The fake's two gRPC services: from CRI's requests to the model and back.

use std::collections::HashMap;

use futures_util::stream::{BoxStream, StreamExt};
use k8s_cri::v1;
use k8s_cri::v1::ContainerEventType as Event;
use k8s_cri::v1::image_service_server::ImageService;
use k8s_cri::v1::runtime_service_server::RuntimeService;
use serde_json::json;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::FakeCri;

type Reply<T> = Result<Response<T>, Status>;

/// What a process ends with that heeds SIGTERM.
const TERMINATED: i32 = 143;

/// What containerd shows of a sandbox beyond CRI, as far as anybody looks.
fn verbose_info(sandbox: &str) -> HashMap<String, String> {
    let network = json!({ "type": "network", "path": format!("/nowhere/{sandbox}") });
    let info = json!({ "runtimeSpec": { "linux": { "namespaces": [network] } } });
    HashMap::from([("info".to_owned(), info.to_string())])
}

impl FakeCri {
    /// Where the streams of a process in a running container are, with the number of them in its path.
    fn stream_url(&self, method: &str, container: &str, streams: [bool; 4]) -> Result<String, Status> {
        let state = self.state();
        if state.model.container(container)?.state() != v1::ContainerState::ContainerRunning {
            return Err(Status::unknown("container is not in running state"));
        }
        let address = state.streaming.as_ref().map(|streaming| streaming.address.as_str()).unwrap_or_default();
        // One more tells how it ends.
        let count = 1 + streams.iter().filter(|wanted| **wanted).count();
        Ok(format!("http://{address}/{method}/{count}"))
    }
}

/// Adds to an implementation of a service the methods that this crate never calls.
macro_rules! with_unused {
    ($service:ident { $($used:tt)* } $($method:ident: $request:ident => $reply:ident;)*) => {
        #[tonic::async_trait]
        impl $service for FakeCri {
            $($used)*
            $(async fn $method(&self, _: Request<v1::$request>) -> Reply<v1::$reply> {
                Err(Status::unimplemented(stringify!($method)))
            })*
        }
    };
}

with_unused! { RuntimeService {
    type GetContainerEventsStream = BoxStream<'static, Result<v1::ContainerEventResponse, Status>>;

    async fn version(&self, request: Request<v1::VersionRequest>) -> Reply<v1::VersionResponse> {
        self.begin("Version", request.get_ref()).await?;
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "1.0.0".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        self.begin("Status", request.get_ref()).await?;
        let network_ready = self.state().model.network_ready;
        let condition = |kind: &str, status: bool| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: if status { "" } else { "NetworkPluginNotReady" }.to_owned(),
            message: if status { "" } else { "cni plugin not initialized" }.to_owned(),
        };
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", network_ready)];
        let status = Some(v1::RuntimeStatus { conditions });
        Ok(Response::new(v1::StatusResponse { status, ..v1::StatusResponse::default() }))
    }

    async fn runtime_config(&self, request: Request<v1::RuntimeConfigRequest>) -> Reply<v1::RuntimeConfigResponse> {
        self.begin("RuntimeConfig", request.get_ref()).await?;
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Systemd.into() };
        Ok(Response::new(v1::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Reply<v1::RunPodSandboxResponse> {
        self.begin("RunPodSandbox", request.get_ref()).await?;
        let mut state = self.state();
        let id = state.model.run_sandbox(request.into_inner().config.unwrap_or_default())?;
        self.emit(&state.model, &id, Event::ContainerCreatedEvent);
        self.emit(&state.model, &id, Event::ContainerStartedEvent);
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(&self, request: Request<v1::StopPodSandboxRequest>) -> Reply<v1::StopPodSandboxResponse> {
        self.begin("StopPodSandbox", request.get_ref()).await?;
        let id = request.into_inner().pod_sandbox_id;
        let mut state = self.state();
        if state.model.stop_sandbox(&id) {
            self.emit(&state.model, &id, Event::ContainerStoppedEvent);
        }
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Reply<v1::RemovePodSandboxResponse> {
        self.begin("RemovePodSandbox", request.get_ref()).await?;
        let id = request.into_inner().pod_sandbox_id;
        let mut state = self.state();
        state.model.remove_sandbox(&id);
        self.emit(&state.model, &id, Event::ContainerDeletedEvent);
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Reply<v1::PodSandboxStatusResponse> {
        self.begin("PodSandboxStatus", request.get_ref()).await?;
        let v1::PodSandboxStatusRequest { pod_sandbox_id: id, verbose } = request.into_inner();
        let status = Some(self.state().model.sandbox(&id)?);
        let info = if verbose { verbose_info(&id) } else { HashMap::new() };
        Ok(Response::new(v1::PodSandboxStatusResponse { status, info, ..v1::PodSandboxStatusResponse::default() }))
    }

    async fn list_pod_sandbox(&self, request: Request<v1::ListPodSandboxRequest>) -> Reply<v1::ListPodSandboxResponse> {
        self.begin("ListPodSandbox", request.get_ref()).await?;
        let labels = request.into_inner().filter.unwrap_or_default().label_selector;
        Ok(Response::new(v1::ListPodSandboxResponse { items: self.state().model.sandboxes(&labels) }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Reply<v1::CreateContainerResponse> {
        self.begin("CreateContainer", request.get_ref()).await?;
        let mut state = self.state();
        let id = state.model.create_container(request.into_inner())?;
        self.emit(&state.model, &id, Event::ContainerCreatedEvent);
        Ok(Response::new(v1::CreateContainerResponse { container_id: id }))
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Reply<v1::StartContainerResponse> {
        self.begin("StartContainer", request.get_ref()).await?;
        let id = request.into_inner().container_id;
        let mut state = self.state();
        state.model.start_container(&id)?;
        self.emit(&state.model, &id, Event::ContainerStartedEvent);
        if state.model.end_at_start(&id) {
            self.emit(&state.model, &id, Event::ContainerStoppedEvent);
        }
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Reply<v1::StopContainerResponse> {
        self.begin("StopContainer", request.get_ref()).await?;
        let id = request.into_inner().container_id;
        let mut state = self.state();
        state.model.container(&id)?;
        state.model.end_container(&id, TERMINATED);
        self.emit(&state.model, &id, Event::ContainerStoppedEvent);
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Reply<v1::RemoveContainerResponse> {
        self.begin("RemoveContainer", request.get_ref()).await?;
        let id = request.into_inner().container_id;
        let mut state = self.state();
        let event = state.model.event(&id, Event::ContainerDeletedEvent);
        state.model.remove_container(&id);
        self.look(&state.model);
        let _ = self.shared.events.send(event);
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Reply<v1::ListContainersResponse> {
        self.begin("ListContainers", request.get_ref()).await?;
        let labels = request.into_inner().filter.unwrap_or_default().label_selector;
        Ok(Response::new(v1::ListContainersResponse { containers: self.state().model.containers(&labels) }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Reply<v1::ContainerStatusResponse> {
        self.begin("ContainerStatus", request.get_ref()).await?;
        let status = Some(self.state().model.container(&request.into_inner().container_id)?);
        Ok(Response::new(v1::ContainerStatusResponse { status, ..v1::ContainerStatusResponse::default() }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Reply<v1::ReopenContainerLogResponse> {
        self.begin("ReopenContainerLog", request.get_ref()).await?;
        self.state().model.container(&request.into_inner().container_id)?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Reply<v1::ExecSyncResponse> {
        self.begin("ExecSync", request.get_ref()).await?;
        let state = self.state();
        state.model.container(&request.into_inner().container_id)?;
        let (exit_code, stdout) = state.exec.clone();
        Ok(Response::new(v1::ExecSyncResponse { exit_code, stdout: stdout.into(), ..Default::default() }))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Reply<v1::ExecResponse> {
        self.begin("Exec", request.get_ref()).await?;
        let v1::ExecRequest { container_id, stdin, stdout, stderr, tty, .. } = request.into_inner();
        let url = self.stream_url("Exec", &container_id, [stdin, stdout, stderr, tty])?;
        Ok(Response::new(v1::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<v1::AttachResponse> {
        self.begin("Attach", request.get_ref()).await?;
        let v1::AttachRequest { container_id, stdin, stdout, stderr, tty } = request.into_inner();
        let url = self.stream_url("Attach", &container_id, [stdin, stdout, stderr, tty])?;
        Ok(Response::new(v1::AttachResponse { url }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Reply<v1::ListContainerStatsResponse> {
        self.begin("ListContainerStats", request.get_ref()).await?;
        let labels = request.into_inner().filter.unwrap_or_default().label_selector;
        Ok(Response::new(v1::ListContainerStatsResponse { stats: self.state().model.stats(&labels) }))
    }

    async fn get_container_events(
        &self,
        request: Request<v1::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        let events = self.shared.events.subscribe();
        self.begin("GetContainerEvents", request.get_ref()).await?;
        let lagged = |_| Status::data_loss("the subscriber fell behind");
        Ok(Response::new(BroadcastStream::new(events).map(move |event| event.map_err(lagged)).boxed()))
    }
}
    update_container_resources: UpdateContainerResourcesRequest => UpdateContainerResourcesResponse;
    port_forward: PortForwardRequest => PortForwardResponse;
    container_stats: ContainerStatsRequest => ContainerStatsResponse;
    pod_sandbox_stats: PodSandboxStatsRequest => PodSandboxStatsResponse;
    list_pod_sandbox_stats: ListPodSandboxStatsRequest => ListPodSandboxStatsResponse;
    update_runtime_config: UpdateRuntimeConfigRequest => UpdateRuntimeConfigResponse;
    checkpoint_container: CheckpointContainerRequest => CheckpointContainerResponse;
    list_metric_descriptors: ListMetricDescriptorsRequest => ListMetricDescriptorsResponse;
    list_pod_sandbox_metrics: ListPodSandboxMetricsRequest => ListPodSandboxMetricsResponse;
}

with_unused! { ImageService {
    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Reply<v1::ImageStatusResponse> {
        self.begin("ImageStatus", request.get_ref()).await?;
        let image = self.state().model.image(&request.into_inner().image.unwrap_or_default().image);
        Ok(Response::new(v1::ImageStatusResponse { image, ..v1::ImageStatusResponse::default() }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Reply<v1::PullImageResponse> {
        self.begin("PullImage", request.get_ref()).await?;
        let image_ref = self.state().model.pull(&request.into_inner().image.unwrap_or_default().image)?;
        Ok(Response::new(v1::PullImageResponse { image_ref }))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Reply<v1::RemoveImageResponse> {
        self.begin("RemoveImage", request.get_ref()).await?;
        self.state().model.remove_image(&request.into_inner().image.unwrap_or_default().image);
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Reply<v1::ListImagesResponse> {
        self.begin("ListImages", request.get_ref()).await?;
        let images = self.state().model.images();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn image_fs_info(&self, request: Request<v1::ImageFsInfoRequest>) -> Reply<v1::ImageFsInfoResponse> {
        self.begin("ImageFsInfo", request.get_ref()).await?;
        Ok(Response::new(v1::ImageFsInfoResponse::default()))
    }
}
}
