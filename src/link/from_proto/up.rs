//! What agents say.

use std::time::Duration;

use super::*;
use crate::model::{ContainerLoad, FleetId, Incumbent, Load, Loads, PermitNumber, PodKey, Usage};

/// An agent's message; none for a body that only newer agents know.
pub(crate) fn up(message: pb::SessionUp) -> Checked<Option<Up>> {
    use pb::session_up::Body;
    let Some(body) = message.body else { return Ok(None) };
    Ok(Some(match body {
        Body::Hello(message) => Up::Hello(Box::new(hello(message)?)),
        Body::Node(report) => Up::Node(NodeReport { labels: labels(report.labels)?, status: report.status_json }),
        Body::Pods(reports) => Up::Pods(each(reports.pods, pod_report)?),
        Body::Verdicts(verdicts) => Up::Verdicts(each(verdicts.verdicts, verdict)?),
        Body::Needs(message) => Up::Needs(needs(message)?),
        Body::Ack(message) => Up::Ack(ack(message)?),
        Body::Events(events) => Up::Events(each(events.events, event)?),
        Body::Ask(ask) => Up::Ask(Ask {
            daemonset: uid(ask.daemonset_uid, "ask.daemonset_uid")?,
            revision: revision(ask.revision, "ask.revision")?,
            prepared: ask.unable.map_or(Ok(Ok(())), |unable| reason(unable).map(Err))?,
            incumbent: incumbent(ask.incumbent),
        }),
        Body::TokenRequest(request) => Up::TokenRequest(token_request(request)?),
        Body::Holdings(message) => Up::Holdings(Box::new(holdings(message)?)),
        Body::Blob(chunk) => Up::Blob(blob(chunk)?),
        Body::Usage(report) => Up::Usage { id: CommandId(report.id), usage: usage(report)? },
        Body::KeepAlive(_) => Up::KeepAlive,
    }))
}

/// An agent's message in a tunnel; none for a body that only newer agents know.
pub(crate) fn tunnel_up(message: pb::TunnelUp) -> Checked<Option<TunnelUp>> {
    use pb::tunnel_end::How;
    use pb::tunnel_up::Body;
    let Some(body) = message.body else { return Ok(None) };
    Ok(Some(match body {
        Body::Hello(hello) => TunnelUp::Hello(CommandId(hello.id)),
        Body::Data(data) => {
            let stream = match data.stream {
                0 => TunnelStream::Main,
                1 => TunnelStream::Output,
                2 => TunnelStream::Error,
                _ => return Err(malformed("data.stream", "is unknown")),
            };
            TunnelUp::Data(stream, piece(data.data, "data.data")?)
        }
        Body::End(end) => match end.how {
            Some(How::ExitCode(code)) => TunnelUp::End(Ok(code)),
            Some(How::Failure(failure)) => TunnelUp::End(Err(TunnelFailure {
                code: (u16::try_from(failure.code).ok())
                    .filter(|code| (400..600).contains(code))
                    .ok_or(malformed("end.failure.code", "is no HTTP error"))?,
                message: sentence(failure.message, "end.failure.message")?,
            })),
            None => return Err(malformed("end.how", "is missing")),
        },
    }))
}

fn hello(hello: pb::Hello) -> Checked<Hello> {
    Ok(Hello {
        protocol: protocol(hello.protocol)?,
        agent_version: word(hello.agent_version, "hello.agent_version")?,
        features: each(hello.features, |text| word(text, "hello.features"))?,
        boot_id: word(hello.boot_id, "hello.boot_id")?,
        machine_id: word(hello.machine_id, "hello.machine_id")?,
        fleet: FleetId(word(hello.fleet_id, "hello.fleet_id")?),
        position: position(hello.position, "hello.position")?,
        session: hello.session,
        nonce: word(hello.nonce, "hello.nonce")?,
        daemonsets: each(hello.daemonsets, held_daemonset)?,
        pods: each(hello.pods, |held| {
            let digest = <[u8; 32]>::try_from(held.digest.as_ref());
            Ok(HeldPod {
                uid: uid(held.uid, "hello.pods.uid")?,
                digest: Digest(digest.map_err(|_| malformed("hello.pods.digest", "is no SHA-256"))?),
            })
        })?,
        permits: each(hello.permits, |taken| {
            Ok(TakenPermit {
                number: PermitNumber(taken.number),
                daemonset: uid(taken.daemonset_uid, "hello.permits.daemonset_uid")?,
                revision: revision(taken.revision, "hello.permits.revision")?,
            })
        })?,
    })
}

fn held_daemonset(held: pb::HeldDaemonSet) -> Checked<HeldDaemonSet> {
    let key = if held.name.is_empty() {
        None
    } else {
        let namespace = name(held.namespace, "hello.daemonsets.namespace")?;
        Some(ObjectKey { namespace, name: name(held.name, "hello.daemonsets.name")? })
    };
    let newest =
        if held.revision.is_empty() { None } else { Some(revision(held.revision, "hello.daemonsets.revision")?) };
    Ok(HeldDaemonSet { uid: uid(held.uid, "hello.daemonsets.uid")?, seq: held.seq, key, revision: newest })
}

fn pod_report(report: pb::PodReport) -> Checked<PodReport> {
    Ok(PodReport {
        key: PodKey {
            namespace: name(report.namespace, "pods.namespace")?,
            name: name(report.name, "pods.name")?,
            uid: uid(report.uid, "pods.uid")?,
        },
        daemonset: (!report.daemonset_uid.is_empty())
            .then(|| uid(report.daemonset_uid, "pods.daemonset_uid"))
            .transpose()?,
        revision: revision(report.revision, "pods.revision")?,
        created_at: time(report.created_at, "pods.created_at")?,
        available: report.available,
        ending: (report.ending)
            .map(|ending| {
                let since = time(ending.since, "pods.ending.since")?;
                Ok(PodEnding { since, grace_period_secs: ending.grace_period_secs })
            })
            .transpose()?,
        gone: report.gone,
        status: report.status_json,
    })
}

fn verdict(verdict: pb::Verdict) -> Checked<Verdict> {
    Ok(Verdict {
        daemonset: uid(verdict.daemonset_uid, "verdicts.daemonset_uid")?,
        seq: verdict.seq,
        revision: revision(verdict.revision, "verdicts.revision")?,
        standing: match pb::Standing::try_from(verdict.standing) {
            Ok(pb::Standing::Runs) => Standing::Runs,
            Ok(pb::Standing::Stays) => Standing::Stays,
            Ok(pb::Standing::Leaves) => Standing::Leaves,
            Ok(pb::Standing::Refused) => Standing::Refused,
            Ok(pb::Standing::Unspecified) | Err(_) => return Err(malformed("verdicts.standing", "is unknown")),
        },
        reasons: each(verdict.reasons, reason)?,
        rejected: each(verdict.rejected, |text| revision(text, "verdicts.rejected"))?,
    })
}

fn needs(needs: pb::Needs) -> Checked<Needs> {
    Ok(Needs {
        blobs: each(needs.blobs, |blob| {
            Ok(NeededBlob { hash: hash(&blob.hash, "needs.blobs.hash")?, offset: blob.offset })
        })?,
        objects: each(needs.objects, |object| {
            known_ref(object).ok_or(malformed("needs.objects.kind", "is unknown")).and_then(|object| object)
        })?,
    })
}

/// What only newer agents know is nothing that may be ended without need.
fn incumbent(incumbent: i32) -> Incumbent {
    match pb::Incumbent::try_from(incumbent) {
        Ok(pb::Incumbent::None) => Incumbent::None,
        Ok(pb::Incumbent::Unavailable) => Incumbent::Unavailable,
        Ok(pb::Incumbent::Available) | Err(_) => Incumbent::Available,
    }
}

fn ack(ack: pb::Ack) -> Checked<Ack> {
    use pb::ack::What;
    let message = sentence(ack.message, "ack.message")?;
    let outcome = match pb::Result::try_from(ack.result) {
        Ok(pb::Result::Done) => Outcome::Done,
        Ok(pb::Result::Unsupported) => Outcome::Unsupported(message),
        Ok(pb::Result::Failed) => Outcome::Failed(message),
        Ok(pb::Result::Unspecified) | Err(_) => return Err(malformed("ack.result", "is unknown")),
    };
    match ack.what {
        Some(What::Command(id)) => Ok(Ack::Command { id: CommandId(id), outcome }),
        Some(What::Position(at)) => Ok(Ack::Position(position(Some(at), "ack.position")?)),
        Some(What::Permit(number)) => Ok(Ack::Taken(PermitNumber(number))),
        Some(What::Declined(number)) => Ok(Ack::Declined(PermitNumber(number))),
        None => Err(malformed("ack.what", "is missing")),
    }
}

fn event(event: pb::Event) -> Checked<EventReport> {
    let namespace = if event.namespace.is_empty() { String::new() } else { name(event.namespace, "events.namespace")? };
    Ok(EventReport {
        kind: word(event.kind, "events.kind")?,
        namespace,
        name: name(event.name, "events.name")?,
        uid: uid(event.uid, "events.uid")?,
        field_path: sentence(event.field_path, "events.field_path")?,
        warning: event.warning,
        reason: word(event.reason, "events.reason")?,
        message: sentence(event.message, "events.message")?,
        first_at: time(event.first_at, "events.first_at")?,
        last_at: time(event.last_at, "events.last_at")?,
        count: event.count,
    })
}

fn token_request(request: pb::TokenRequest) -> Checked<TokenRequest> {
    let namespace = name(request.namespace, "token_request.namespace")?;
    Ok(TokenRequest {
        id: request.id,
        service_account: name(request.service_account, "token_request.service_account")?,
        pod: PodKey {
            namespace: namespace.clone(),
            name: name(request.pod_name, "token_request.pod_name")?,
            uid: uid(request.pod_uid, "token_request.pod_uid")?,
        },
        namespace,
        daemonset: (!request.daemonset_uid.is_empty())
            .then(|| uid(request.daemonset_uid, "token_request.daemonset_uid"))
            .transpose()?,
        audiences: each(request.audiences, |text| sentence(text, "token_request.audiences"))?,
        expiration_secs: request.expiration_secs,
    })
}

fn holdings(holdings: pb::Holdings) -> Checked<Holdings> {
    Ok(Holdings {
        labels: labels(holdings.labels)?,
        taints: each(holdings.taints, taint)?,
        unschedulable: holdings.unschedulable,
        revisions: each(holdings.revisions, |held| {
            Ok(HeldRevision {
                daemonset: uid(held.daemonset_uid, "holdings.revisions.daemonset_uid")?,
                revision: revision(held.revision, "holdings.revisions.revision")?,
                bundle: hash(&held.bundle, "holdings.revisions.bundle")?,
                written: optional_hash(&held.written, "holdings.revisions.written")?,
                newest: held.newest,
            })
        })?,
        objects: each(holdings.objects, |held| {
            let named = held.r#ref.ok_or(malformed("holdings.objects.ref", "is missing"))?;
            Ok(HeldObject {
                object: known_ref(named).ok_or(malformed("holdings.objects.ref.kind", "is unknown"))??,
                uid: uid(held.uid, "holdings.objects.uid")?,
                blob: hash(&held.hash, "holdings.objects.hash")?,
            })
        })?,
        pods: each(holdings.pods, |held| {
            let bundle = hash(&held.bundle, "holdings.pods.bundle")?;
            Ok(HeldPosted { uid: uid(held.uid, "holdings.pods.uid")?, bundle })
        })?,
        refused: each(holdings.refused, |text| uid(text, "holdings.refused"))?,
    })
}

fn usage(report: pb::Usage) -> Checked<Usage> {
    let container = |container: pb::ContainerLoad| {
        Ok(ContainerLoad {
            pod: uid(container.pod_uid, "usage.containers.pod_uid")?,
            name: name(container.name, "usage.containers.name")?,
            load: container.load.map(load).ok_or(malformed("usage.containers.load", "is missing"))?,
        })
    };
    Ok(Usage {
        at: time(report.at, "usage.at")?,
        window: Duration::from_micros(report.window_micros),
        loads: match report.node {
            Some(node) => Loads::Node(load(node)),
            None => Loads::Containers(each(report.containers, container)?),
        },
    })
}

fn load(pb::Load { cpu_nano_cores, memory_bytes }: pb::Load) -> Load {
    Load { cpu_nano_cores, memory_bytes }
}
