//! Which pods changed in the runtime, as it happens.
//!
//! A task follows the runtime's events for as long as somebody listens, and subscribes again, backing off, when the
//! stream breaks. Its source is CRI's `GetContainerEvents`, or, with containerd before 2.0, containerd's own event service
//! on the same socket: 1.6 has no events in CRI, and 1.7 gives each event to one subscriber, dead ones included, so that
//! every restart of a client costs the next client an event (tried on 1.7.24; 2.1.9 gives all events to all).
//!
//! ```text
//! subscribe ──▶ Missed (compare everything) ──▶ Changed, Gone, … ──▶ stream ends ──▶ Missed ──▶ wait ──▶ subscribe
//! ```
//!
//! Events are hints: they say where to look, not what is there. They may repeat and may concern pods of others. An
//! event is passed on when the runtime's own answers show it. containerd tells us of an exit at the same time as it
//! tells its CRI plugin, so for some milliseconds a status would still say "running", and nobody would look again. That a
//! container has ended is certain all the same: it is noted among the [ends](super::ends) and passed on at once, and once more
//! when CRI shows it.

use std::pin::pin;
use std::time::Duration;

use containerd_client::events::{ContainerDelete, TaskExit, TaskOom};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::types::Envelope;
use futures_util::stream::{FuturesUnordered, StreamExt};
use k8s_cri::v1;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

use super::ends::End;
use super::{CRI_NAMESPACE, CriError, Runtime, RuntimeVersion, labels};
use crate::error::Chain;
use crate::model::Uid;

/// How many hints may wait to be taken before the runtime has to.
const QUEUE: usize = 256;
/// How many changes are waited for at the same time.
const SETTLING_MAX: usize = 256;
/// The pause before subscribing again is this part of how long there has been no subscription for the same kind of reason: a
/// runtime that comes up is noticed within that part of the time it took.
const RETRY_PART: u32 = 20;
/// The bounds of the pause. The upper one is the kubelet's gRPC back-off, and also how long a subscription has to last for
/// the pauses to begin anew.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// The pause before asking again whether a change shows. containerd 1.6 takes 40 to 70 ms to show an exit.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);
/// So many times the pause stays the same, then it doubles: many containers may end at once.
const SETTLE_STEADY_TRIES: u32 = 20;
/// Gives up after 2.6 seconds: the hint is then passed on as it is.
const SETTLE_TRIES: u32 = 28;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Something about this pod changed.
    Changed(Uid),
    /// This sandbox or container is gone, and the runtime no longer says whose it was.
    Gone(String),
    /// Events may have been missed, and the runtime may be gone; comes first after each subscription and when one ends.
    Missed,
}

impl Runtime {
    /// Follows what changes, until the receiver is dropped. Always begins with [`RuntimeEvent::Missed`].
    pub fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (events_tx, events_rx) = mpsc::channel(QUEUE);
        let follower = Follower { runtime: self.clone(), events_tx, lost: false };
        tokio::spawn(async move {
            let listener = follower.events_tx.clone();
            // Both arms may be dropped at any point: what is not passed on by then has no listener.
            tokio::select! {
                () = follower.run() => {}
                () = listener.closed() => {}
            }
        });
        events_rx
    }
}

struct Follower {
    runtime: Runtime,
    events_tx: mpsc::Sender<RuntimeEvent>,
    /// The listener knows that there is no subscription.
    lost: bool,
}

/// What containerd's own events say of a container or sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    OutOfMemory,
    Ended(End),
    Deleted,
}

/// What CRI says about the same.
enum Shown {
    Yes(RuntimeEvent),
    /// It does not yet, but a container's end is noted.
    Noted(RuntimeEvent),
    NotYet(RuntimeEvent),
}

impl Follower {
    async fn run(mut self) {
        let (mut trouble, mut since) = (None, Instant::now());
        loop {
            let begun = Instant::now();
            let end = self.follow().await;
            let cause = end.as_ref().err().map(std::mem::discriminant);
            if trouble != Some(cause) || begun.elapsed() > RETRY_MAX {
                (trouble, since) = (Some(cause), Instant::now());
            }
            // Said once: it is tried again every few seconds for as long as the runtime is away.
            if !std::mem::replace(&mut self.lost, true) {
                let error = end.err().map(|error| Chain(&error).to_string());
                tracing::info!(error, "the runtime's events have ended");
                self.tell(RuntimeEvent::Missed).await;
            }
            tokio::time::sleep(pause(since.elapsed())).await;
        }
    }

    /// Chooses the source anew each time: the runtime may have been upgraded meanwhile.
    async fn follow(&mut self) -> Result<(), CriError> {
        let RuntimeVersion { name, version } = self.runtime.version().await?;
        if name == "containerd" && version.trim_start_matches('v').starts_with("1.") {
            self.follow_containerd().await
        } else {
            self.follow_cri().await
        }
    }

    async fn follow_cri(&mut self) -> Result<(), CriError> {
        const CALL: &str = "GetContainerEvents";
        let mut client = self.runtime.pods();
        let reply = client.get_container_events(v1::GetEventsRequest {});
        let mut stream = self.subscribed(CALL, reply).await?;
        while let Some(event) = stream.message().await.map_err(|status| self.failed(CALL, &status))? {
            let pod = event.pod_sandbox_status.and_then(|status| status.metadata);
            let gone = RuntimeEvent::Gone(event.container_id);
            self.tell(pod.map_or(gone, |pod| RuntimeEvent::Changed(pod.uid.into()))).await;
        }
        Ok(())
    }

    async fn follow_containerd(&mut self) -> Result<(), CriError> {
        const CALL: &str = "Subscribe";
        let mut client = EventsClient::new(self.runtime.channel.clone());
        let reply = client.subscribe(SubscribeRequest { filters: filters() });
        let mut stream = self.subscribed(CALL, reply).await?;
        let this = &*self;
        let mut settling = FuturesUnordered::new();
        loop {
            // Both arms only take the next item of a stream, and lose nothing when dropped.
            tokio::select! {
                envelope = stream.message(), if settling.len() < SETTLING_MAX => {
                    let Some(envelope) = envelope.map_err(|status| this.failed(CALL, &status))? else { return Ok(()) };
                    settling.extend(change(&envelope).map(|(id, change)| this.settle(id, change)));
                }
                Some(()) = settling.next() => {}
            }
        }
    }

    /// Waits until a subscription stands, tells the listener to compare everything, and gives the stream.
    ///
    /// A Go server says nothing before the first event. So that the comparison does not wait for one, a round trip on
    /// the same connection, begun after the subscription was sent, stands for its answer.
    async fn subscribed<T>(
        &mut self,
        call: &'static str,
        reply: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<Streaming<T>, CriError> {
        let mut reply = pin!(reply);
        let early = tokio::select! {
            biased;
            reply = &mut reply => Some(reply),
            version = self.runtime.version() => version.map(|_| None)?,
        };
        let early = early.transpose().map_err(|status| self.failed(call, &status))?;
        tracing::info!(call, "following the runtime's events");
        self.lost = false;
        self.tell(RuntimeEvent::Missed).await;
        let reply = match early {
            Some(reply) => reply,
            None => reply.await.map_err(|status| self.failed(call, &status))?,
        };
        Ok(reply.into_inner())
    }

    /// Waits until CRI shows a change that containerd told of, then passes it on. Whose pod something was is asked for as
    /// long as it is there.
    async fn settle(&self, id: String, change: Change) {
        let mut last = RuntimeEvent::Gone(id.clone());
        for tries in 0..SETTLE_TRIES {
            match self.look(&id, change).await {
                Ok(Shown::Yes(RuntimeEvent::Gone(_))) => break,
                Ok(Shown::Yes(event)) => return self.tell(event).await,
                Ok(Shown::Noted(event)) if last != event => {
                    self.tell(event.clone()).await;
                    last = event;
                }
                Ok(Shown::Noted(_)) => {}
                Ok(Shown::NotYet(event)) => last = event,
                // The stream breaks as well, and then everything is compared.
                Err(_) => return,
            }
            tokio::time::sleep(SETTLE_PAUSE * 2_u32.pow(tries.saturating_sub(SETTLE_STEADY_TRIES))).await;
        }
        self.tell(last).await;
    }

    /// Containers and sandboxes share containerd's ids: what is not one is the other, or gone.
    async fn look(&self, id: &str, change: Change) -> Result<Shown, CriError> {
        let ends = &self.runtime.ends;
        let (shown, mut labels) = if let Some(container) = self.runtime.shown_container(id.to_owned()).await? {
            let shown = match change {
                Change::OutOfMemory => container.reason == "OOMKilled",
                Change::Ended(_) => container.state() == v1::ContainerState::ContainerExited,
                Change::Deleted => false,
            };
            match (change, container.labels.get(labels::POD_UID)) {
                (Change::Ended(_), _) if shown => ends.forget(id),
                (Change::Ended(end), Some(pod)) => {
                    ends.note(id, end);
                    return Ok(Shown::Noted(RuntimeEvent::Changed(pod.as_str().into())));
                }
                _ => {}
            }
            (shown, container.labels)
        } else if let Some(sandbox) = self.runtime.sandbox_status(id.to_owned()).await? {
            let ready = sandbox.state() == v1::PodSandboxState::SandboxReady;
            let shown = match change {
                Change::OutOfMemory => true,
                Change::Ended(_) => !ready,
                Change::Deleted => false,
            };
            (shown, sandbox.labels)
        } else {
            ends.forget(id);
            return Ok(Shown::Yes(RuntimeEvent::Gone(id.to_owned())));
        };
        let pod = labels.remove(labels::POD_UID);
        let event = pod.map_or(RuntimeEvent::Gone(id.to_owned()), |uid| RuntimeEvent::Changed(uid.into()));
        Ok(if shown { Shown::Yes(event) } else { Shown::NotYet(event) })
    }

    /// Waits for room. Without a listener the task ends anyway.
    async fn tell(&self, event: RuntimeEvent) {
        let _ = self.events_tx.send(event).await;
    }

    fn failed(&self, call: &'static str, status: &Status) -> CriError {
        CriError::from_status(call, &self.runtime.endpoint, status)
    }
}

/// How long to wait before the next attempt to subscribe, after so long of the same trouble.
fn pause(trouble: Duration) -> Duration {
    (trouble / RETRY_PART).clamp(RETRY_MIN, RETRY_MAX)
}

/// Only what CRI made, and of that only what happens by itself: who creates or starts something knows it already.
/// Each filter alone lets an event pass; a comma within one means "and".
fn filters() -> Vec<String> {
    ["/tasks/oom", "/tasks/exit", "/containers/delete"]
        .map(|topic| format!("namespace=={CRI_NAMESPACE},topic==\"{topic}\""))
        .into()
}

/// Which sandbox or container an event is about, and what it says. Ends of `exec`ed processes say nothing.
pub(crate) fn change(envelope: &Envelope) -> Option<(String, Change)> {
    let body = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/oom" => Some((TaskOom::decode(body).ok()?.container_id, Change::OutOfMemory)),
        "/containers/delete" => Some((ContainerDelete::decode(body).ok()?.id, Change::Deleted)),
        "/tasks/exit" => {
            let exit = TaskExit::decode(body).ok()?;
            let at = exit.exited_at.unwrap_or_default();
            let finished_at = at.seconds.saturating_mul(1_000_000_000).saturating_add(at.nanos.into());
            let end = End { exit_code: exit.exit_status.cast_signed(), finished_at };
            (exit.id == exit.container_id).then_some((exit.container_id, Change::Ended(end)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_comes_up_is_noticed_the_sooner_the_faster_it_does() {
        let after = |millis| pause(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 400, 1000, 10_000, 60_000, 3_600_000].map(after), [20, 20, 50, 500, 3000, 3000]);
    }

    fn envelope<T: prost::Message + prost::Name>(topic: &str, event: &T) -> Envelope {
        Envelope { topic: topic.to_owned(), event: Some(containerd_client::to_any(event)), ..Default::default() }
    }

    #[test]
    fn only_the_end_of_a_containers_first_process_is_a_change() {
        let exit = |id: &str| {
            let (container_id, id) = ("c".to_owned(), id.to_owned());
            let mut exit = TaskExit { container_id, id, exit_status: 137, ..Default::default() };
            let at = exit.exited_at.get_or_insert_default();
            (at.seconds, at.nanos) = (2, 3);
            exit
        };
        let end = End { exit_code: 137, finished_at: 2_000_000_003 };
        let oom = TaskOom { container_id: "c".to_owned() };
        let deleted = ContainerDelete { id: "c".to_owned() };
        for (envelope, expected) in [
            (envelope("/tasks/exit", &exit("c")), Some(Change::Ended(end))),
            (envelope("/tasks/exit", &exit("exec-1")), None),
            (envelope("/tasks/oom", &oom), Some(Change::OutOfMemory)),
            (envelope("/containers/delete", &deleted), Some(Change::Deleted)),
            (envelope("/images/create", &oom), None),
            (Envelope { event: None, ..envelope("/tasks/oom", &oom) }, None),
        ] {
            assert_eq!(change(&envelope), expected.map(|change| ("c".to_owned(), change)), "{envelope:?}");
        }
    }
}
