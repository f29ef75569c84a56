//! From the link's types to messages. Pure.

use bytes::Bytes;
use jiff::Timestamp;

use super::*;
use crate::model::{
    BlobHash, ContainerLoad, Incumbent, Load, Loads, Measure, ObjectKey, Position, Stdio, Taint, TaintEffect,
    TerminalSize, Usage,
};

/// An agent's message.
pub(crate) fn up(up: Up) -> pb::SessionUp {
    use pb::session_up::Body;
    let body = match up {
        Up::Hello(message) => Body::Hello(hello(*message)),
        Up::Node(report) => Body::Node(pb::NodeReport { labels: report.labels, status_json: report.status }),
        Up::Pods(reports) => Body::Pods(pb::PodReports { pods: reports.into_iter().map(pod_report).collect() }),
        Up::Verdicts(verdicts) => {
            Body::Verdicts(pb::Verdicts { verdicts: verdicts.into_iter().map(verdict).collect() })
        }
        Up::Needs(message) => Body::Needs(needs(message)),
        Up::Ack(message) => Body::Ack(ack(message)),
        Up::Events(events) => Body::Events(pb::Events { events: events.into_iter().map(event).collect() }),
        Up::Ask(ask) => Body::Ask(pb::Ask {
            daemonset_uid: ask.daemonset.0,
            revision: ask.revision.0,
            unable: ask.prepared.err().map(reason),
            incumbent: incumbent(ask.incumbent).into(),
        }),
        Up::TokenRequest(request) => Body::TokenRequest(token_request(request)),
        Up::Holdings(message) => Body::Holdings(holdings(*message)),
        Up::Blob(chunk) => Body::Blob(blob(chunk)),
        Up::Usage { id, usage } => Body::Usage(usage_report(id, usage)),
        Up::KeepAlive => Body::KeepAlive(pb::KeepAlive {}),
    };
    pb::SessionUp { body: Some(body) }
}

/// Control's message.
pub(crate) fn down(down: Down) -> pb::SessionDown {
    use pb::session_down::Body;
    let (id, body) = match down {
        Down::Welcome(message) => (None, Body::Welcome(welcome(message))),
        Down::Manifest(manifest) => (
            None,
            Body::Manifest(pb::Manifest {
                position: Some(position(manifest.position)),
                entries: manifest.entries.into_iter().map(entry).collect(),
                gradual: manifest.gradual.into_iter().map(|uid| uid.0).collect(),
            }),
        ),
        Down::Assigned(message) => (None, Body::Assigned(assigned(message))),
        Down::Answers(message) => (None, Body::Answers(answers(message))),
        Down::Blob(chunk) => (None, Body::Blob(blob(chunk))),
        Down::Node(change) => (
            None,
            Body::Node(pb::NodeChange {
                position: Some(position(change.position)),
                labels: change.labels,
                taints: taints(change.taints),
                unschedulable: change.unschedulable,
            }),
        ),
        Down::Permit(message) => (None, Body::Permit(permit(message))),
        Down::Pod { id, command } => (Some(id), Body::Pod(pod_command(command))),
        Down::OpenTunnel { id, tunnel } => (Some(id), Body::OpenTunnel(open_tunnel(tunnel))),
        Down::CloseTunnel(id) => (None, Body::CloseTunnel(pb::CloseTunnel { tunnel: id.0 })),
        Down::Measure { id, what } => {
            (Some(id), Body::Measure(pb::Measure { containers: what == Measure::Containers }))
        }
        Down::Removed { id, position: at } => (Some(id), Body::Removed(pb::Removed { position: Some(position(at)) })),
        Down::Wanted(pods) => {
            (None, Body::Wanted(pb::Wanted { pod_uids: pods.into_iter().map(|uid| uid.0).collect() }))
        }
        Down::Recount => (None, Body::Recount(pb::Recount {})),
        Down::Recall(blob) => (None, Body::Recall(pb::Recall { hash: hash(&blob) })),
        Down::Token { id, outcome } => (None, Body::Token(token_reply(id, outcome))),
        Down::KeepAlive => (None, Body::KeepAlive(pb::KeepAlive {})),
    };
    pb::SessionDown { id: id.map_or(0, |id| id.0), body: Some(body) }
}

/// An agent's message in a tunnel.
pub(crate) fn tunnel_up(up: TunnelUp) -> pb::TunnelUp {
    use pb::tunnel_end::How;
    use pb::tunnel_up::Body;
    let body = match up {
        TunnelUp::Hello(id) => Body::Hello(pb::TunnelHello { id: id.0 }),
        TunnelUp::Data(stream, data) => {
            let stream = match stream {
                TunnelStream::Main => 0,
                TunnelStream::Output => 1,
                TunnelStream::Error => 2,
            };
            Body::Data(pb::TunnelData { stream, data })
        }
        TunnelUp::End(result) => {
            let how = match result {
                Ok(code) => How::ExitCode(code),
                Err(failure) => {
                    How::Failure(pb::TunnelFailure { code: u32::from(failure.code), message: failure.message })
                }
            };
            Body::End(pb::TunnelEnd { how: Some(how) })
        }
    };
    pb::TunnelUp { body: Some(body) }
}

/// Control's message in a tunnel.
pub(crate) fn tunnel_down(down: TunnelDown) -> pb::TunnelDown {
    use pb::tunnel_down::Body;
    let body = match down {
        TunnelDown::Data(data) => Body::Data(pb::TunnelData { stream: 0, data }),
        TunnelDown::Close => Body::Close(pb::CloseStream { stream: 0 }),
        TunnelDown::Resize(TerminalSize { width, height }) => {
            Body::Resize(pb::TerminalSize { width: width.into(), height: height.into() })
        }
    };
    pb::TunnelDown { body: Some(body) }
}

/// A host's request for a certificate.
pub(crate) fn enroll_request(request: EnrollRequest) -> pb::EnrollRequest {
    pb::EnrollRequest {
        protocol: request.protocol,
        token: request.token,
        certificate_request: request.certificate_request,
        node_name: request.node_name.0,
        labels: request.labels,
        taints: taints(request.taints),
        machine_id: request.machine_id,
    }
}

/// The answer to it.
pub(crate) fn enrolled(enrolled: Enrolled) -> pb::EnrollResponse {
    pb::EnrollResponse {
        certificate: enrolled.certificate,
        ca_bundle: enrolled.ca_bundle,
        fleet_id: enrolled.fleet.0,
        node_name: enrolled.node_name.0,
        node_uid: enrolled.node_uid.0,
    }
}

/// A node's request for a new certificate.
pub(crate) fn renew_request(request: RenewRequest) -> pb::RenewRequest {
    pb::RenewRequest {
        protocol: request.protocol,
        certificate_request: request.certificate_request,
        machine_id: request.machine_id,
    }
}

/// The answer to it.
pub(crate) fn renewed(renewed: Renewed) -> pb::RenewResponse {
    pb::RenewResponse { certificate: renewed.certificate, ca_bundle: renewed.ca_bundle }
}

/// One pod's report.
pub(super) fn pod_report(report: PodReport) -> pb::PodReport {
    pb::PodReport {
        uid: report.key.uid.0,
        namespace: report.key.namespace,
        name: report.key.name,
        daemonset_uid: report.daemonset.map_or_else(String::new, |uid| uid.0),
        revision: report.revision.0,
        created_at: micros(report.created_at),
        available: report.available,
        ending: report
            .ending
            .map(|ending| pb::Ending { since: micros(ending.since), grace_period_secs: ending.grace_period_secs }),
        gone: report.gone,
        status_json: report.status,
    }
}

fn usage_report(id: CommandId, usage: Usage) -> pb::Usage {
    let (node, containers) = match usage.loads {
        Loads::Node(node) => (Some(load(node)), Vec::new()),
        Loads::Containers(containers) => (None, containers),
    };
    let container =
        |ContainerLoad { pod, name, load: taken }| pb::ContainerLoad { pod_uid: pod.0, name, load: Some(load(taken)) };
    pb::Usage {
        id: id.0,
        at: micros(usage.at),
        window_micros: u64::try_from(usage.window.as_micros()).unwrap_or(u64::MAX),
        node,
        containers: containers.into_iter().map(container).collect(),
    }
}

fn load(Load { cpu_nano_cores, memory_bytes }: Load) -> pb::Load {
    pb::Load { cpu_nano_cores, memory_bytes }
}

fn hello(hello: Hello) -> pb::Hello {
    pb::Hello {
        protocol: hello.protocol,
        agent_version: hello.agent_version,
        features: hello.features,
        boot_id: hello.boot_id,
        machine_id: hello.machine_id,
        fleet_id: hello.fleet.0,
        position: Some(position(hello.position)),
        session: hello.session,
        nonce: hello.nonce,
        daemonsets: (hello.daemonsets.into_iter())
            .map(|held| {
                let ObjectKey { namespace, name } = held.key.unwrap_or_else(|| ObjectKey::new("", ""));
                let revision = held.revision.map(|revision| revision.0).unwrap_or_default();
                pb::HeldDaemonSet { uid: held.uid.0, seq: held.seq, namespace, name, revision }
            })
            .collect(),
        pods: (hello.pods.into_iter())
            .map(|held| pb::HeldPod { uid: held.uid.0, digest: Bytes::copy_from_slice(&held.digest.0) })
            .collect(),
        permits: (hello.permits.into_iter())
            .map(|taken| pb::TakenPermit {
                number: taken.number.0,
                daemonset_uid: taken.daemonset.0,
                revision: taken.revision.0,
            })
            .collect(),
    }
}

fn verdict(verdict: Verdict) -> pb::Verdict {
    let standing = match verdict.standing {
        Standing::Runs => pb::Standing::Runs,
        Standing::Stays => pb::Standing::Stays,
        Standing::Leaves => pb::Standing::Leaves,
        Standing::Refused => pb::Standing::Refused,
    };
    pb::Verdict {
        daemonset_uid: verdict.daemonset.0,
        seq: verdict.seq,
        revision: verdict.revision.0,
        standing: standing.into(),
        reasons: verdict.reasons.into_iter().map(reason).collect(),
        rejected: verdict.rejected.into_iter().map(|revision| revision.0).collect(),
    }
}

fn reason(reason: Reason) -> pb::Reason {
    pb::Reason { reason: reason.reason, message: reason.message, field: reason.field }
}

fn needs(needs: Needs) -> pb::Needs {
    let blobs = needs.blobs.into_iter();
    pb::Needs {
        blobs: blobs.map(|blob| pb::NeededBlob { hash: hash(&blob.hash), offset: blob.offset }).collect(),
        objects: needs.objects.into_iter().map(object_ref).collect(),
    }
}

fn object_ref(object: ObjectRef) -> pb::ObjectRef {
    pb::ObjectRef { kind: kind(object.kind).into(), namespace: object.key.namespace, name: object.key.name }
}

fn kind(kind: Kind) -> pb::Kind {
    match kind {
        Kind::DaemonSet => pb::Kind::DaemonSet,
        Kind::Pod => pb::Kind::Pod,
        Kind::ConfigMap => pb::Kind::ConfigMap,
        Kind::Secret => pb::Kind::Secret,
    }
}

fn ack(ack: Ack) -> pb::Ack {
    use pb::ack::What;
    let (what, outcome) = match ack {
        Ack::Command { id, outcome } => (What::Command(id.0), outcome),
        Ack::Position(at) => (What::Position(position(at)), Outcome::Done),
        Ack::Taken(number) => (What::Permit(number.0), Outcome::Done),
        Ack::Declined(number) => (What::Declined(number.0), Outcome::Done),
    };
    let (result, message) = match outcome {
        Outcome::Done => (pb::Result::Done, String::new()),
        Outcome::Unsupported(message) => (pb::Result::Unsupported, message),
        Outcome::Failed(message) => (pb::Result::Failed, message),
    };
    pb::Ack { what: Some(what), result: result.into(), message }
}

fn event(event: EventReport) -> pb::Event {
    pb::Event {
        kind: event.kind,
        namespace: event.namespace,
        name: event.name,
        uid: event.uid.0,
        field_path: event.field_path,
        warning: event.warning,
        reason: event.reason,
        message: event.message,
        first_at: micros(event.first_at),
        last_at: micros(event.last_at),
        count: event.count,
    }
}

fn token_request(request: TokenRequest) -> pb::TokenRequest {
    pb::TokenRequest {
        id: request.id,
        namespace: request.namespace,
        service_account: request.service_account,
        pod_name: request.pod.name,
        pod_uid: request.pod.uid.0,
        daemonset_uid: request.daemonset.map_or_else(String::new, |uid| uid.0),
        audiences: request.audiences,
        expiration_secs: request.expiration_secs,
    }
}

fn holdings(holdings: Holdings) -> pb::Holdings {
    let revision = |held: HeldRevision| pb::HeldRevision {
        daemonset_uid: held.daemonset.0,
        revision: held.revision.0,
        bundle: hash(&held.bundle),
        written: held.written.as_ref().map(hash).unwrap_or_default(),
        newest: held.newest,
    };
    let object = |held: HeldObject| pb::HeldObject {
        r#ref: Some(object_ref(held.object)),
        uid: held.uid.0,
        hash: hash(&held.blob),
    };
    let posted = |held: HeldPosted| pb::HeldPosted { uid: held.uid.0, bundle: hash(&held.bundle) };
    pb::Holdings {
        labels: holdings.labels,
        taints: taints(holdings.taints),
        unschedulable: holdings.unschedulable,
        revisions: holdings.revisions.into_iter().map(revision).collect(),
        objects: holdings.objects.into_iter().map(object).collect(),
        pods: holdings.pods.into_iter().map(posted).collect(),
        refused: holdings.refused.into_iter().map(|uid| uid.0).collect(),
    }
}

fn blob(chunk: BlobChunk) -> pb::BlobChunk {
    pb::BlobChunk { hash: hash(&chunk.hash), offset: chunk.offset, total: chunk.total, data: chunk.data }
}

fn welcome(welcome: Welcome) -> pb::Welcome {
    use pb::welcome::Standing;
    let standing = match welcome.reception {
        Reception::Accepted => Standing::Accepted(pb::Accepted {}),
        Reception::AdoptOnly(message) => Standing::AdoptOnly(pb::AdoptOnly { message }),
        Reception::Hold { reason, message } => {
            let reason = match reason {
                HoldReason::OtherFleet => pb::HoldReason::OtherFleet,
                HoldReason::Ahead => pb::HoldReason::Ahead,
                HoldReason::Clone => pb::HoldReason::Clone,
                HoldReason::OtherMachine => pb::HoldReason::OtherMachine,
                HoldReason::Recovery => pb::HoldReason::Recovery,
                HoldReason::Other => pb::HoldReason::Unspecified,
            };
            Standing::Hold(pb::Hold { reason: reason.into(), message })
        }
    };
    pb::Welcome {
        protocol: welcome.protocol,
        fleet_id: welcome.fleet.0,
        era: welcome.era,
        ca_bundle: welcome.ca_bundle,
        node_uid: welcome.node_uid.0,
        standing: Some(standing),
        keep_alive_secs: welcome.keep_alive_secs,
        silence_secs: welcome.silence_secs,
    }
}

fn entry(entry: Entry) -> pb::Entry {
    pb::Entry {
        uid: entry.uid.0,
        kind: kind(entry.kind).into(),
        seq: entry.seq,
        hash: hash(&entry.hash),
        written: entry.written.as_ref().map(hash).unwrap_or_default(),
    }
}

fn assigned(assigned: Assigned) -> pb::Assigned {
    use pb::object_answer::Answer;
    let objects = assigned.objects.into_iter().map(|(object, answer)| pb::ObjectAnswer {
        r#ref: Some(object_ref(object)),
        answer: Some(match answer {
            ObjectAnswer::Present(present) => Answer::Present(entry(present)),
            ObjectAnswer::Absent => Answer::Absent(pb::Absent {}),
            ObjectAnswer::Refused(why) => Answer::Refused(reason(why)),
        }),
    });
    pb::Assigned {
        position: Some(position(assigned.position)),
        pods: assigned.pods.into_iter().map(entry).collect(),
        objects: objects.collect(),
    }
}

fn answers(answers: Answers) -> pb::Answers {
    let each = answers.answers.into_iter().map(|(uid, answer)| pb::Answer {
        uid: uid.0,
        answer: Some(match answer {
            Answer::Present => pb::answer::Answer::Present(pb::Present {}),
            Answer::Deleted { seq, kept } => {
                let kept_pod_uids = kept.into_iter().map(|uid| uid.0).collect();
                pb::answer::Answer::Deleted(pb::Deleted { seq, kept_pod_uids })
            }
            Answer::Unknown => pb::answer::Answer::Unknown(pb::Unknown {}),
        }),
    });
    pb::Answers { position: Some(position(answers.position)), answers: each.collect() }
}

fn incumbent(incumbent: Incumbent) -> pb::Incumbent {
    match incumbent {
        Incumbent::None => pb::Incumbent::None,
        Incumbent::Unavailable => pb::Incumbent::Unavailable,
        Incumbent::Available => pb::Incumbent::Available,
    }
}

fn permit(permit: Permit) -> pb::Permit {
    pb::Permit {
        number: permit.number.0,
        daemonset_uid: permit.daemonset.0,
        revision: permit.revision.0,
        void: permit.void,
        if_unavailable: permit.if_unavailable,
    }
}

fn pod_command(command: PodCommand) -> pb::PodCommand {
    use pb::pod_command::Action;
    let action = match command.action {
        PodAction::Delete { grace_period_secs, permit: allowed } => {
            Action::Delete(pb::DeletePod { grace_period_secs, permit: allowed.map(permit) })
        }
        PodAction::Fail { reason, message } => Action::Fail(pb::FailPod { reason, message }),
        PodAction::Amend(amendment) => Action::Amend(pb::AmendPod {
            labels: amendment.labels,
            annotations: amendment.annotations,
            ephemeral_containers_json: amendment.ephemeral_containers,
        }),
    };
    pb::PodCommand { uid: command.uid.0, needs_seq: command.needs_seq, action: Some(action) }
}

fn token_reply(id: u64, outcome: Result<Token, Reason>) -> pb::TokenReply {
    use pb::token_reply::Outcome;
    let outcome = match outcome {
        Ok(token) => Outcome::Token(pb::Token { text: token.text, expires_at: micros(token.expires_at) }),
        Err(refused) => Outcome::Refused(reason(refused)),
    };
    pb::TokenReply { id, outcome: Some(outcome) }
}

fn open_tunnel(tunnel: OpenTunnel) -> pb::OpenTunnel {
    use pb::open_tunnel::Kind;
    let kind = match tunnel.kind {
        TunnelKind::Logs(logs) => Kind::Logs(pb::Logs {
            container: logs.container,
            follow: logs.follow,
            previous: logs.previous,
            timestamps: logs.timestamps,
            since_secs: logs.since_secs,
            since_time: logs.since_time.map(micros),
            tail_lines: logs.tail_lines,
            limit_bytes: logs.limit_bytes,
        }),
        TunnelKind::Exec(ExecOptions { container, command, stdio }) => {
            let Stdio { stdin, stdout, stderr, tty } = stdio;
            Kind::Exec(pb::Exec { container, command, stdin, stdout, stderr, tty })
        }
        TunnelKind::Attach(AttachOptions { container, stdio }) => {
            let Stdio { stdin, stdout, stderr, tty } = stdio;
            Kind::Attach(pb::Attach { container, stdin, stdout, stderr, tty })
        }
        TunnelKind::PortForward(port) => Kind::PortForward(pb::PortForward { port: port.into() }),
    };
    pb::OpenTunnel { endpoint: String::new(), pod_uid: tunnel.pod.0, kind: Some(kind) }
}

fn taints(taints: Vec<Taint>) -> Vec<pb::Taint> {
    let effect = |effect| match effect {
        TaintEffect::NoSchedule => pb::TaintEffect::NoSchedule,
        TaintEffect::PreferNoSchedule => pb::TaintEffect::PreferNoSchedule,
        TaintEffect::NoExecute => pb::TaintEffect::NoExecute,
    };
    let taints = taints.into_iter();
    taints.map(|taint| pb::Taint { key: taint.key, value: taint.value, effect: effect(taint.effect).into() }).collect()
}

fn position(position: Position) -> pb::Position {
    pb::Position { era: position.era, seq: position.seq }
}

/// The 32 bytes of a hash. A name that is no SHA-256 becomes empty, which the other side refuses.
fn hash(hash: &BlobHash) -> Bytes {
    let digits = hash.0.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = digits.chunks(2).map(|pair| match *pair {
        [high, low] => Some(value(high)? << 4 | value(low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>().unwrap_or_default().into()
}

fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}
