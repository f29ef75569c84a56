//! What control says.

use super::*;
use crate::model::{FleetId, Measure, PermitNumber, Stdio, TerminalSize};

/// All annotations of an object, as the API allows them.
const ANNOTATION_BYTES: usize = 256 * 1024;

/// Control's message; none for a body that only newer control knows and that asks for nothing.
pub(crate) fn down(message: pb::SessionDown) -> Result<Option<Down>, Refused> {
    let command = (message.id != 0).then_some(CommandId(message.id));
    match (down_body(message), command) {
        (Ok(Some(down)), _) => Ok(Some(down)),
        (Ok(None), None) => Ok(None),
        (Ok(None), Some(id)) => Err(Refused::Unsupported { id, why: malformed("body", "is unknown to this agent") }),
        (Err(why), Some(id)) => Err(Refused::Unsupported { id, why }),
        (Err(why), None) => Err(Refused::Malformed(why)),
    }
}

fn down_body(message: pb::SessionDown) -> Checked<Option<Down>> {
    use pb::session_down::Body;
    let id = || {
        if message.id == 0 { Err(malformed("id", "is missing")) } else { Ok(CommandId(message.id)) }
    };
    let Some(body) = message.body else { return Ok(None) };
    Ok(Some(match body {
        Body::Welcome(message) => Down::Welcome(welcome(message)?),
        Body::Manifest(manifest) => Down::Manifest(Manifest {
            position: position(manifest.position, "manifest.position")?,
            entries: entries(manifest.entries)?,
            gradual: manifest.gradual.into_iter().map(|one| uid(one, "manifest.gradual")).collect::<Checked<_>>()?,
        }),
        Body::Assigned(message) => Down::Assigned(assigned(message)?),
        Body::Answers(message) => Down::Answers(answers(message)?),
        Body::Blob(chunk) => Down::Blob(blob(chunk)?),
        Body::Node(change) => Down::Node(NodeChange {
            position: position(change.position, "node.position")?,
            labels: labels(change.labels)?,
            taints: each(change.taints, taint)?,
            unschedulable: change.unschedulable,
        }),
        Body::Permit(message) => Down::Permit(permit(message)?),
        Body::Pod(command) => Down::Pod { id: id()?, command: pod_command(command)? },
        Body::OpenTunnel(tunnel) => Down::OpenTunnel { id: id()?, tunnel: open_tunnel(tunnel)? },
        Body::CloseTunnel(close) => Down::CloseTunnel(CommandId(close.tunnel)),
        Body::Measure(pb::Measure { containers }) => {
            let what = if containers { Measure::Containers } else { Measure::Node };
            Down::Measure { id: id()?, what }
        }
        Body::Removed(removed) => {
            Down::Removed { id: id()?, position: position(removed.position, "removed.position")? }
        }
        Body::Wanted(wanted) => Down::Wanted(each(wanted.pod_uids, |text| uid(text, "wanted.pod_uids"))?),
        Body::Recount(_) => Down::Recount,
        Body::Recall(recall) => Down::Recall(hash(&recall.hash, "recall.hash")?),
        Body::Token(reply) => token_reply(reply)?,
        Body::KeepAlive(_) => Down::KeepAlive,
    }))
}

fn welcome(welcome: pb::Welcome) -> Checked<Welcome> {
    use pb::welcome::Standing;
    let reception = match welcome.standing {
        Some(Standing::Accepted(_)) => Reception::Accepted,
        Some(Standing::AdoptOnly(adopt)) => Reception::AdoptOnly(sentence(adopt.message, "welcome.adopt_only")?),
        Some(Standing::Hold(hold)) => Reception::Hold {
            reason: hold_reason(hold.reason),
            message: sentence(hold.message, "welcome.hold.message")?,
        },
        // What this build cannot make out stops nothing and starts nothing.
        None => Reception::Hold {
            reason: HoldReason::Other,
            message: "control answers in a way this agent does not know; upgrade the agent".to_owned(),
        },
    };
    Ok(Welcome {
        protocol: protocol(welcome.protocol)?,
        fleet: FleetId(word(welcome.fleet_id, "welcome.fleet_id")?),
        era: welcome.era,
        ca_bundle: ca_bundle(welcome.ca_bundle)?,
        node_uid: uid(welcome.node_uid, "welcome.node_uid")?,
        reception,
        keep_alive_secs: seconds(welcome.keep_alive_secs, "welcome.keep_alive_secs")?,
        silence_secs: seconds(welcome.silence_secs, "welcome.silence_secs")?,
    })
}

fn hold_reason(reason: i32) -> HoldReason {
    match pb::HoldReason::try_from(reason) {
        Ok(pb::HoldReason::OtherFleet) => HoldReason::OtherFleet,
        Ok(pb::HoldReason::Ahead) => HoldReason::Ahead,
        Ok(pb::HoldReason::Clone) => HoldReason::Clone,
        Ok(pb::HoldReason::OtherMachine) => HoldReason::OtherMachine,
        Ok(pb::HoldReason::Recovery) => HoldReason::Recovery,
        Ok(pb::HoldReason::Unspecified) | Err(_) => HoldReason::Other,
    }
}

/// The entries of known kinds. An unknown kind is one that control sends to newer agents too.
fn entries(entries: Vec<pb::Entry>) -> Checked<Vec<Entry>> {
    entries.into_iter().filter_map(known_entry).collect()
}

fn known_entry(entry: pb::Entry) -> Option<Checked<Entry>> {
    let kind = kind(entry.kind)?;
    let rest = || {
        Ok(Entry {
            uid: uid(entry.uid, "entry.uid")?,
            kind,
            seq: entry.seq,
            hash: hash(&entry.hash, "entry.hash")?,
            written: optional_hash(&entry.written, "entry.written")?,
        })
    };
    Some(rest())
}

fn assigned(assigned: pb::Assigned) -> Checked<Assigned> {
    use pb::object_answer::Answer;
    let objects = each(assigned.objects, |object| {
        let named = object.r#ref.ok_or(malformed("assigned.objects.ref", "is missing"))?;
        let named = known_ref(named).ok_or(malformed("assigned.objects.ref.kind", "is unknown"))??;
        let answer = match object.answer {
            Some(Answer::Present(present)) => ObjectAnswer::Present(
                known_entry(present).ok_or(malformed("assigned.objects.present.kind", "is unknown"))??,
            ),
            Some(Answer::Absent(_)) => ObjectAnswer::Absent,
            Some(Answer::Refused(why)) => ObjectAnswer::Refused(reason(why)?),
            None => return Err(malformed("assigned.objects.answer", "is missing")),
        };
        Ok((named, answer))
    })?;
    Ok(Assigned { position: position(assigned.position, "assigned.position")?, pods: entries(assigned.pods)?, objects })
}

fn answers(answers: pb::Answers) -> Checked<Answers> {
    Ok(Answers {
        position: position(answers.position, "answers.position")?,
        answers: each(answers.answers, |answer| {
            let known = match answer.answer {
                Some(pb::answer::Answer::Present(_)) => Answer::Present,
                Some(pb::answer::Answer::Deleted(deleted)) => Answer::Deleted {
                    seq: deleted.seq,
                    kept: each(deleted.kept_pod_uids, |text| uid(text, "answers.deleted.kept_pod_uids"))?,
                },
                // An answer of a newer kind is no record that this build could act upon.
                Some(pb::answer::Answer::Unknown(_)) | None => Answer::Unknown,
            };
            Ok((uid(answer.uid, "answers.uid")?, known))
        })?,
    })
}

fn permit(permit: pb::Permit) -> Checked<Permit> {
    Ok(Permit {
        number: PermitNumber(permit.number),
        daemonset: uid(permit.daemonset_uid, "permit.daemonset_uid")?,
        revision: revision(permit.revision, "permit.revision")?,
        void: permit.void,
        if_unavailable: permit.if_unavailable,
    })
}

fn annotations(annotations: BTreeMap<String, String>) -> Checked<BTreeMap<String, String>> {
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATION_BYTES { Err(malformed("pod.amend.annotations", "are too long")) } else { Ok(annotations) }
}

fn pod_command(command: pb::PodCommand) -> Checked<PodCommand> {
    use pb::pod_command::Action;
    let action = match command.action {
        Some(Action::Delete(delete)) => PodAction::Delete {
            grace_period_secs: delete.grace_period_secs,
            permit: delete.permit.map(permit).transpose()?,
        },
        Some(Action::Fail(fail)) => PodAction::Fail {
            reason: word(fail.reason, "pod.fail.reason")?,
            message: sentence(fail.message, "pod.fail.message")?,
        },
        Some(Action::Amend(amend)) => PodAction::Amend(Amendment {
            labels: labels(amend.labels)?,
            annotations: annotations(amend.annotations)?,
            ephemeral_containers: amend.ephemeral_containers_json,
        }),
        None => return Err(malformed("pod.action", "is unknown to this agent")),
    };
    Ok(PodCommand { uid: uid(command.uid, "pod.uid")?, needs_seq: command.needs_seq, action })
}

fn token_reply(reply: pb::TokenReply) -> Checked<Down> {
    use pb::token_reply::Outcome;
    let outcome = match reply.outcome {
        Some(Outcome::Token(token)) => Ok(Token {
            text: sentence(token.text, "token.text")?,
            expires_at: time(token.expires_at, "token.expires_at")?,
        }),
        Some(Outcome::Refused(why)) => Err(reason(why)?),
        None => return Err(malformed("token.outcome", "is missing")),
    };
    Ok(Down::Token { id: reply.id, outcome })
}

fn open_tunnel(tunnel: pb::OpenTunnel) -> Checked<OpenTunnel> {
    use pb::open_tunnel::Kind;
    if !tunnel.endpoint.is_empty() {
        return Err(malformed("open_tunnel.endpoint", "is not supported by this agent"));
    }
    let kind = match tunnel.kind {
        Some(Kind::Logs(logs)) => TunnelKind::Logs(log_options(logs)?),
        Some(Kind::Exec(pb::Exec { container, command, stdin, stdout, stderr, tty })) => {
            let container = name(container, "open_tunnel.exec.container")?;
            if command.is_empty() || command.iter().any(|argument| argument.contains('\0')) {
                return Err(malformed("open_tunnel.exec.command", "is no command"));
            }
            TunnelKind::Exec(ExecOptions { container, command, stdio: Stdio { stdin, stdout, stderr, tty } })
        }
        Some(Kind::Attach(pb::Attach { container, stdin, stdout, stderr, tty })) => {
            let container = name(container, "open_tunnel.attach.container")?;
            TunnelKind::Attach(AttachOptions { container, stdio: Stdio { stdin, stdout, stderr, tty } })
        }
        Some(Kind::PortForward(forward)) => {
            let port = u16::try_from(forward.port).ok().filter(|port| *port > 0);
            TunnelKind::PortForward(port.ok_or(malformed("open_tunnel.port_forward.port", "is no port"))?)
        }
        None => return Err(malformed("open_tunnel.kind", "is not supported by this agent")),
    };
    Ok(OpenTunnel { pod: uid(tunnel.pod_uid, "open_tunnel.pod_uid")?, kind })
}

fn log_options(logs: pb::Logs) -> Checked<LogOptions> {
    Ok(LogOptions {
        container: name(logs.container, "open_tunnel.logs.container")?,
        follow: logs.follow,
        previous: logs.previous,
        timestamps: logs.timestamps,
        since_secs: logs.since_secs,
        since_time: logs.since_time.map(|at| time(at, "open_tunnel.logs.since_time")).transpose()?,
        tail_lines: logs.tail_lines,
        limit_bytes: logs.limit_bytes,
    })
}

/// Control's message in a tunnel; none for a body that only newer control knows.
pub(crate) fn tunnel_down(message: pb::TunnelDown) -> Checked<Option<TunnelDown>> {
    use pb::tunnel_down::Body;
    let Some(body) = message.body else { return Ok(None) };
    Ok(Some(match body {
        Body::Data(pb::TunnelData { stream: 0, data }) => TunnelDown::Data(piece(data, "data.data")?),
        Body::Close(pb::CloseStream { stream: 0 }) => TunnelDown::Close,
        Body::Data(_) | Body::Close(_) => return Err(malformed("stream", "is none that users send on")),
        Body::Resize(size) => {
            let side = |side| u16::try_from(side).map_err(|_| malformed("resize", "is no size of a terminal"));
            TunnelDown::Resize(TerminalSize { width: side(size.width)?, height: side(size.height)? })
        }
    }))
}
