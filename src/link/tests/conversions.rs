use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use crate::link::pb::session_down::Body;
use crate::link::*;
use crate::model::{
    BlobHash, ContainerLoad, FleetId, Incumbent, Load, Loads, Measure, NodeName, ObjectKey, PermitNumber, PodKey,
    Position, RevisionHash, Stdio, Taint, TaintEffect, TerminalSize, Uid, Usage,
};

const UID: &str = "0b6f1a3c-8e1d-4f4e-9d5a-2f6f1f0f7a11";

/// Over the wire and back.
fn up_again(up: &Up) -> Result<Option<Up>, Malformed> {
    let bytes = to_proto::up(up.clone()).encode_to_vec();
    from_proto::up(pb::SessionUp::decode(bytes.as_slice()).unwrap())
}

fn down_again(down: &Down) -> Result<Option<Down>, from_proto::Refused> {
    let bytes = to_proto::down(down.clone()).encode_to_vec();
    from_proto::down(pb::SessionDown::decode(bytes.as_slice()).unwrap())
}

// === strategies ===

fn uid() -> impl Strategy<Value = Uid> {
    any::<u128>().prop_map(|number| Uid(uuid::Uuid::from_u128(number).to_string()))
}

fn hash() -> impl Strategy<Value = BlobHash> {
    any::<[u8; 32]>().prop_map(|bytes| BlobHash(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000_000_000_i64).prop_map(|micros| Timestamp::from_microsecond(micros).unwrap())
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..80).prop_map(Bytes::from)
}

fn certificates() -> impl Strategy<Value = Vec<Bytes>> {
    vec(vec(any::<u8>(), 1..80).prop_map(Bytes::from), 1..3)
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([-.a-z0-9]{0,20}[a-z0-9])?"
}

fn revision() -> impl Strategy<Value = RevisionHash> {
    "[a-z0-9]{1,10}".prop_map(RevisionHash)
}

fn position() -> impl Strategy<Value = Position> {
    any::<(u64, u64)>().prop_map(|(era, seq)| Position { era, seq })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[a-z./]{1,20}", "[a-z]{0,10}", 0..4)
}

fn taint() -> impl Strategy<Value = Taint> {
    use TaintEffect::{NoExecute, NoSchedule, PreferNoSchedule};
    let effect = prop_oneof![Just(NoSchedule), Just(PreferNoSchedule), Just(NoExecute)];
    ("[a-z./]{1,20}", "[a-z]{0,5}", effect).prop_map(|(key, value, effect)| Taint { key, value, effect })
}

fn reason() -> impl Strategy<Value = Reason> {
    ("[A-Z][a-z]{0,9}", ".{0,30}", "[a-z.]{0,9}").prop_map(|(reason, message, field)| Reason { reason, message, field })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::DaemonSet), Just(Kind::Pod), Just(Kind::ConfigMap), Just(Kind::Secret)]
}

fn object_ref() -> impl Strategy<Value = ObjectRef> {
    (kind(), name(), name()).prop_map(|(kind, namespace, name)| ObjectRef { kind, key: ObjectKey { namespace, name } })
}

fn entry() -> impl Strategy<Value = Entry> {
    (uid(), kind(), any::<u64>(), hash(), option::of(hash())).prop_map(|parts| Entry {
        uid: parts.0,
        kind: parts.1,
        seq: parts.2,
        hash: parts.3,
        written: parts.4,
    })
}

fn permit() -> impl Strategy<Value = Permit> {
    (any::<u64>(), uid(), revision(), any::<[bool; 2]>()).prop_map(
        |(number, daemonset, revision, [void, if_unavailable])| Permit {
            number: PermitNumber(number),
            daemonset,
            revision,
            void,
            if_unavailable,
        },
    )
}

fn hello() -> impl Strategy<Value = Up> {
    let key = (name(), name()).prop_map(|(namespace, name)| ObjectKey { namespace, name });
    let daemonset = (uid(), any::<u64>(), option::of(key), option::of(revision()))
        .prop_map(|(uid, seq, key, revision)| HeldDaemonSet { uid, seq, key, revision });
    let pod = (uid(), any::<[u8; 32]>()).prop_map(|(uid, digest)| HeldPod { uid, digest: Digest(digest) });
    let taken = (any::<u64>(), uid(), revision()).prop_map(|(number, daemonset, revision)| TakenPermit {
        number: PermitNumber(number),
        daemonset,
        revision,
    });
    (
        (1_u32.., "[ -~]{0,20}", vec("[a-z]{1,9}", 0..3), name(), name(), uid()),
        (position(), any::<u64>(), "[a-f0-9]{32}", vec(daemonset, 0..4), vec(pod, 0..4), vec(taken, 0..4)),
    )
        .prop_map(|(who, what)| {
            Up::Hello(Box::new(Hello {
                protocol: who.0,
                agent_version: who.1,
                features: who.2,
                boot_id: who.3,
                machine_id: who.4,
                fleet: FleetId(who.5.0),
                position: what.0,
                session: what.1,
                nonce: what.2,
                daemonsets: what.3,
                pods: what.4,
                permits: what.5,
            }))
        })
}

fn pod_report() -> impl Strategy<Value = PodReport> {
    let ending = (time(), any::<u32>()).prop_map(|(since, grace_period_secs)| PodEnding { since, grace_period_secs });
    (
        (name(), name(), uid(), option::of(uid()), revision()),
        (time(), any::<bool>(), option::of(ending), any::<bool>(), bytes()),
    )
        .prop_map(|(who, what)| PodReport {
            key: PodKey { namespace: who.0, name: who.1, uid: who.2 },
            daemonset: who.3,
            revision: who.4,
            created_at: what.0,
            available: what.1,
            ending: what.2,
            gone: what.3,
            status: what.4,
        })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    use Standing::{Leaves, Refused, Runs, Stays};
    let standing = prop_oneof![Just(Runs), Just(Stays), Just(Leaves), Just(Refused)];
    (uid(), any::<u64>(), revision(), standing, vec(reason(), 0..3), vec(revision(), 0..3)).prop_map(|parts| Verdict {
        daemonset: parts.0,
        seq: parts.1,
        revision: parts.2,
        standing: parts.3,
        reasons: parts.4,
        rejected: parts.5,
    })
}

fn ack() -> impl Strategy<Value = Ack> {
    let outcome = prop_oneof![
        Just(Outcome::Done),
        ".{0,20}".prop_map(Outcome::Unsupported),
        ".{0,20}".prop_map(Outcome::Failed),
    ];
    prop_oneof![
        (any::<u64>(), outcome).prop_map(|(id, outcome)| Ack::Command { id: CommandId(id), outcome }),
        position().prop_map(Ack::Position),
        any::<u64>().prop_map(|number| Ack::Taken(PermitNumber(number))),
        any::<u64>().prop_map(|number| Ack::Declined(PermitNumber(number))),
    ]
}

fn event() -> impl Strategy<Value = EventReport> {
    (
        ("[A-Z][a-z]{0,9}", option::of(name()), name(), uid(), "[a-z.{}]{0,20}", any::<bool>()),
        ("[A-Z][a-z]{0,9}", ".{0,20}", time(), time(), any::<u32>()),
    )
        .prop_map(|(what, how)| EventReport {
            kind: what.0,
            namespace: what.1.unwrap_or_default(),
            name: what.2,
            uid: what.3,
            field_path: what.4,
            warning: what.5,
            reason: how.0,
            message: how.1,
            first_at: how.2,
            last_at: how.3,
            count: how.4,
        })
}

fn token_request() -> impl Strategy<Value = TokenRequest> {
    ((any::<u64>(), name(), name(), name(), uid()), (option::of(uid()), vec("[ -~]{0,30}", 0..3), any::<u64>()))
        .prop_map(|(who, what)| TokenRequest {
            id: who.0,
            namespace: who.1.clone(),
            service_account: who.2,
            pod: PodKey { namespace: who.1, name: who.3, uid: who.4 },
            daemonset: what.0,
            audiences: what.1,
            expiration_secs: what.2,
        })
}

fn holdings() -> impl Strategy<Value = Up> {
    let revision = (uid(), revision(), hash(), option::of(hash()), any::<bool>()).prop_map(|parts| HeldRevision {
        daemonset: parts.0,
        revision: parts.1,
        bundle: parts.2,
        written: parts.3,
        newest: parts.4,
    });
    let object = (object_ref(), uid(), hash()).prop_map(|(object, uid, blob)| HeldObject { object, uid, blob });
    let posted = (uid(), hash()).prop_map(|(uid, bundle)| HeldPosted { uid, bundle });
    let lists = (vec(revision, 0..4), vec(object, 0..4), vec(posted, 0..4), vec(uid(), 0..3));
    (labels(), vec(taint(), 0..3), any::<bool>(), lists).prop_map(|(labels, taints, unschedulable, lists)| {
        let (revisions, objects, pods, refused) = lists;
        Up::Holdings(Box::new(Holdings { labels, taints, unschedulable, revisions, objects, pods, refused }))
    })
}

fn blob_chunk() -> impl Strategy<Value = BlobChunk> {
    (hash(), 0_u64..1 << 40, 0_u64..1 << 20, bytes()).prop_map(|(hash, offset, more, data)| BlobChunk {
        hash,
        offset,
        total: offset + data.len() as u64 + more,
        data,
    })
}

fn usage() -> impl Strategy<Value = Usage> {
    let load = || any::<(u64, u64)>().prop_map(|(cpu_nano_cores, memory_bytes)| Load { cpu_nano_cores, memory_bytes });
    let container = (uid(), name(), load()).prop_map(|(pod, name, load)| ContainerLoad { pod, name, load });
    let loads = prop_oneof![load().prop_map(Loads::Node), vec(container, 0..4).prop_map(Loads::Containers)];
    (time(), any::<u64>(), loads).prop_map(|(at, micros, loads)| Usage {
        at,
        window: Duration::from_micros(micros),
        loads,
    })
}

pub(super) fn any_up() -> impl Strategy<Value = Up> {
    let needed = (hash(), any::<u64>()).prop_map(|(hash, offset)| NeededBlob { hash, offset });
    let incumbent = prop::sample::select(vec![Incumbent::None, Incumbent::Unavailable, Incumbent::Available]);
    let ask = (uid(), revision(), option::of(reason()), incumbent);
    let ask = ask.prop_map(|(daemonset, revision, unable, incumbent)| Ask {
        daemonset,
        revision,
        prepared: unable.map_or(Ok(()), Err),
        incumbent,
    });
    prop_oneof![
        hello(),
        (labels(), bytes()).prop_map(|(labels, status)| Up::Node(NodeReport { labels, status })),
        vec(pod_report(), 0..4).prop_map(Up::Pods),
        vec(verdict(), 0..4).prop_map(Up::Verdicts),
        (vec(needed, 0..4), vec(object_ref(), 0..4)).prop_map(|(blobs, objects)| Up::Needs(Needs { blobs, objects })),
        ack().prop_map(Up::Ack),
        vec(event(), 0..4).prop_map(Up::Events),
        ask.prop_map(Up::Ask),
        token_request().prop_map(Up::TokenRequest),
        holdings(),
        blob_chunk().prop_map(Up::Blob),
        (any::<u64>(), usage()).prop_map(|(id, usage)| Up::Usage { id: CommandId(id), usage }),
        Just(Up::KeepAlive),
    ]
}

fn welcome() -> impl Strategy<Value = Welcome> {
    use HoldReason::{Ahead, Clone, Other, OtherFleet, OtherMachine, Recovery};
    let reasons = [OtherFleet, Ahead, Clone, OtherMachine, Recovery, Other];
    let reason = prop::sample::select(reasons.to_vec());
    let reception = prop_oneof![
        Just(Reception::Accepted),
        ".{0,20}".prop_map(Reception::AdoptOnly),
        (reason, ".{0,20}").prop_map(|(reason, message)| Reception::Hold { reason, message }),
    ];
    (1_u32.., uid(), any::<u64>(), certificates(), uid(), reception, 1_u32.., 1_u32..).prop_map(|parts| Welcome {
        protocol: parts.0,
        fleet: FleetId(parts.1.0),
        era: parts.2,
        ca_bundle: parts.3,
        node_uid: parts.4,
        reception: parts.5,
        keep_alive_secs: parts.6,
        silence_secs: parts.7,
    })
}

fn tunnel() -> impl Strategy<Value = OpenTunnel> {
    let logs = (
        name(),
        any::<[bool; 3]>(),
        (option::of(any::<u64>()), option::of(time()), option::of(any::<u64>()), option::of(any::<u64>())),
    )
        .prop_map(|(container, [follow, previous, timestamps], numbers)| LogOptions {
            container,
            follow,
            previous,
            timestamps,
            since_secs: numbers.0,
            since_time: numbers.1,
            tail_lines: numbers.2,
            limit_bytes: numbers.3,
        });
    let exec = (name(), vec("[^\0]{0,20}", 1..4), stdio());
    let exec = exec.prop_map(|(container, command, stdio)| ExecOptions { container, command, stdio });
    let kind = prop_oneof![
        logs.prop_map(TunnelKind::Logs),
        exec.prop_map(TunnelKind::Exec),
        (name(), stdio()).prop_map(|(container, stdio)| TunnelKind::Attach(AttachOptions { container, stdio })),
        (1..=u16::MAX).prop_map(TunnelKind::PortForward),
    ];
    (uid(), kind).prop_map(|(pod, kind)| OpenTunnel { pod, kind })
}

fn stdio() -> impl Strategy<Value = Stdio> {
    any::<[bool; 4]>().prop_map(|[stdin, stdout, stderr, tty]| Stdio { stdin, stdout, stderr, tty })
}

pub(super) fn tunnel_up() -> impl Strategy<Value = TunnelUp> {
    let stream = prop_oneof![Just(TunnelStream::Main), Just(TunnelStream::Output), Just(TunnelStream::Error)];
    let failure = (400..600_u16, ".{0,30}").prop_map(|(code, message)| TunnelFailure { code, message });
    prop_oneof![
        any::<u64>().prop_map(|id| TunnelUp::Hello(CommandId(id))),
        (stream, bytes()).prop_map(|(stream, data)| TunnelUp::Data(stream, data)),
        any::<i32>().prop_map(|code| TunnelUp::End(Ok(code))),
        failure.prop_map(|failure| TunnelUp::End(Err(failure))),
    ]
}

pub(super) fn tunnel_down() -> impl Strategy<Value = TunnelDown> {
    let size = any::<[u16; 2]>().prop_map(|[width, height]| TerminalSize { width, height });
    prop_oneof![bytes().prop_map(TunnelDown::Data), size.prop_map(TunnelDown::Resize), Just(TunnelDown::Close)]
}

fn pod_command() -> impl Strategy<Value = PodCommand> {
    let action = prop_oneof![
        (any::<u32>(), option::of(permit()))
            .prop_map(|(grace_period_secs, permit)| PodAction::Delete { grace_period_secs, permit }),
        ("[A-Z][a-z]{0,9}", ".{0,20}").prop_map(|(reason, message)| PodAction::Fail { reason, message }),
        (labels(), labels(), vec(bytes(), 0..3)).prop_map(|(labels, annotations, ephemeral_containers)| {
            PodAction::Amend(Amendment { labels, annotations, ephemeral_containers })
        }),
    ];
    (uid(), any::<u64>(), action).prop_map(|(uid, needs_seq, action)| PodCommand { uid, needs_seq, action })
}

pub(super) fn any_down() -> impl Strategy<Value = Down> {
    let id = || (1_u64..).prop_map(CommandId);
    let object_answer = prop_oneof![
        entry().prop_map(ObjectAnswer::Present),
        Just(ObjectAnswer::Absent),
        reason().prop_map(ObjectAnswer::Refused),
    ];
    let answer = prop_oneof![
        Just(Answer::Present),
        (any::<u64>(), vec(uid(), 0..3)).prop_map(|(seq, kept)| Answer::Deleted { seq, kept }),
        Just(Answer::Unknown),
    ];
    let outcome = prop_oneof![
        ("[!-~]{0,80}", time()).prop_map(|(text, expires_at)| Ok(Token { text, expires_at })),
        reason().prop_map(Err),
    ];
    prop_oneof![
        welcome().prop_map(Down::Welcome),
        (position(), vec(entry(), 0..4), btree_set(uid(), 0..3))
            .prop_map(|(position, entries, gradual)| { Down::Manifest(Manifest { position, entries, gradual }) }),
        (position(), vec(entry(), 0..4), vec((object_ref(), object_answer), 0..4))
            .prop_map(|(position, pods, objects)| Down::Assigned(Assigned { position, pods, objects })),
        (position(), vec((uid(), answer), 0..4))
            .prop_map(|(position, answers)| Down::Answers(Answers { position, answers })),
        blob_chunk().prop_map(Down::Blob),
        (position(), labels(), vec(taint(), 0..3), any::<bool>()).prop_map(
            |(position, labels, taints, unschedulable)| {
                Down::Node(NodeChange { position, labels, taints, unschedulable })
            }
        ),
        permit().prop_map(Down::Permit),
        (id(), pod_command()).prop_map(|(id, command)| Down::Pod { id, command }),
        (id(), tunnel()).prop_map(|(id, tunnel)| Down::OpenTunnel { id, tunnel }),
        id().prop_map(Down::CloseTunnel),
        (id(), prop_oneof![Just(Measure::Node), Just(Measure::Containers)])
            .prop_map(|(id, what)| Down::Measure { id, what }),
        (id(), position()).prop_map(|(id, position)| Down::Removed { id, position }),
        vec(uid(), 0..4).prop_map(Down::Wanted),
        Just(Down::Recount),
        hash().prop_map(Down::Recall),
        (any::<u64>(), outcome).prop_map(|(id, outcome)| Down::Token { id, outcome }),
        Just(Down::KeepAlive),
    ]
}

proptest! {
    #[test]
    fn what_an_agent_says_arrives_as_it_was_said(up in any_up()) {
        prop_assert_eq!(up_again(&up), Ok(Some(up)));
    }

    #[test]
    fn what_control_says_arrives_as_it_was_said(down in any_down()) {
        prop_assert_eq!(down_again(&down), Ok(Some(down)));
    }

    #[test]
    fn enrolment_arrives_as_it_was_said(
        labels in labels(), taints in vec(taint(), 0..3), node_name in name(), uid in uid(), bundle in certificates(),
    ) {
        let request = EnrollRequest {
            protocol: PROTOCOL,
            token: "abcdef.0123456789abcdef".to_owned(),
            certificate_request: bundle[0].clone(),
            node_name: NodeName(node_name.clone()),
            labels,
            taints,
            machine_id: "m".to_owned(),
        };
        prop_assert_eq!(from_proto::enroll_request(to_proto::enroll_request(request.clone())), Ok(request));
        let enrolled = Enrolled {
            certificate: bundle[0].clone(),
            ca_bundle: bundle,
            fleet: FleetId(uid.0.clone()),
            node_name: NodeName(node_name),
            node_uid: uid,
        };
        prop_assert_eq!(from_proto::enrolled(to_proto::enrolled(enrolled.clone())), Ok(enrolled));
    }

    #[test]
    fn what_goes_through_a_tunnel_arrives_as_it_was_sent(up in tunnel_up(), down in tunnel_down()) {
        prop_assert_eq!(from_proto::tunnel_up(to_proto::tunnel_up(up.clone())), Ok(Some(up)));
        prop_assert_eq!(from_proto::tunnel_down(to_proto::tunnel_down(down.clone())), Ok(Some(down)));
    }

    #[test]
    fn no_message_makes_the_decoder_panic(
        garbage in vec(any::<u8>(), 0..200),
        up in any_up(),
        down in any_down(),
        damage in vec(any::<(prop::sample::Index, u8)>(), 1..8),
    ) {
        let damaged = |mut bytes: Vec<u8>| {
            for (index, value) in damage.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = index.index(bytes.len());
                bytes[at] = *value;
            }
            bytes
        };
        let up = damaged(to_proto::up(up).encode_to_vec());
        let down = damaged(to_proto::down(down).encode_to_vec());
        for bytes in [garbage, up, down] {
            let _ = pb::SessionUp::decode(bytes.as_slice()).map(from_proto::up);
            let _ = pb::SessionDown::decode(bytes.as_slice()).map(from_proto::down);
            let _ = pb::TunnelUp::decode(bytes.as_slice()).map(from_proto::tunnel_up);
            let _ = pb::TunnelDown::decode(bytes.as_slice()).map(from_proto::tunnel_down);
            let _ = pb::EnrollRequest::decode(bytes.as_slice()).map(from_proto::enroll_request);
        }
    }
}

#[test]
fn a_report_that_could_become_a_path_is_refused() {
    let good = pb::PodReport {
        uid: UID.to_owned(),
        namespace: "default".to_owned(),
        name: "exporter-abc".to_owned(),
        revision: "abc".to_owned(),
        ..pb::PodReport::default()
    };
    let refused = |report: pb::PodReport| {
        let body = pb::session_up::Body::Pods(pb::PodReports { pods: vec![report] });
        from_proto::up(pb::SessionUp { body: Some(body) }).err().map(|malformed| malformed.field)
    };
    assert_eq!(refused(good.clone()), None);
    assert_eq!(refused(pb::PodReport { name: "../../etc".to_owned(), ..good.clone() }), Some("pods.name"));
    assert_eq!(refused(pb::PodReport { namespace: String::new(), ..good.clone() }), Some("pods.namespace"));
    assert_eq!(refused(pb::PodReport { uid: "0b6f1a3c".to_owned(), ..good.clone() }), Some("pods.uid"));
    assert_eq!(refused(pb::PodReport { revision: "a/b".to_owned(), ..good.clone() }), Some("pods.revision"));
    assert_eq!(refused(pb::PodReport { created_at: i64::MAX, ..good }), Some("pods.created_at"));
}

#[test]
fn a_token_request_names_a_service_account_and_a_pod() {
    let good = pb::TokenRequest {
        namespace: "default".to_owned(),
        service_account: "default".to_owned(),
        pod_name: "exporter-abc".to_owned(),
        pod_uid: UID.to_owned(),
        ..pb::TokenRequest::default()
    };
    let refused = |request: pb::TokenRequest| {
        let body = pb::session_up::Body::TokenRequest(request);
        from_proto::up(pb::SessionUp { body: Some(body) }).err().map(|malformed| malformed.field)
    };
    assert_eq!(refused(good.clone()), None);
    let account = pb::TokenRequest { service_account: "a/../b".to_owned(), ..good.clone() };
    assert_eq!(refused(account), Some("token_request.service_account"));
    assert_eq!(refused(pb::TokenRequest { pod_uid: String::new(), ..good.clone() }), Some("token_request.pod_uid"));
    let set = pb::TokenRequest { daemonset_uid: "set".to_owned(), ..good };
    assert_eq!(refused(set), Some("token_request.daemonset_uid"));
}

#[test]
fn no_token_and_no_content_of_a_blob_is_shown() {
    let hash = BlobHash("ab".repeat(32));
    let expires_at = Timestamp::UNIX_EPOCH;
    let said = [
        Down::Token { id: 1, outcome: Ok(Token { text: "eyJhbGciOi".to_owned(), expires_at }) },
        Down::Blob(BlobChunk { hash, offset: 0, total: 10, data: Bytes::from_static(b"eyJhbGciOi") }),
    ];
    for down in said {
        let (message, frame) = (to_proto::down(down.clone()), Frame::new(down.clone()));
        let bytes = "101, 121, 74, 104";
        for shown in [format!("{down:?}"), format!("{message:?}"), format!("{frame:?}")] {
            assert!(!shown.contains("eyJhbGciOi") && !shown.contains(bytes), "{shown}");
        }
    }
}

#[test]
fn a_command_this_agent_does_not_know_is_refused_by_its_id() {
    let unknown = pb::OpenTunnel { pod_uid: UID.to_owned(), ..pb::OpenTunnel::default() };
    let bodies = [None, Some(Body::OpenTunnel(unknown))];
    for body in bodies {
        let refused = from_proto::down(pb::SessionDown { id: 7, body });
        assert!(matches!(refused, Err(from_proto::Refused::Unsupported { id: CommandId(7), .. })), "{refused:?}");
    }
    // What asks for nothing is passed over.
    assert_eq!(from_proto::down(pb::SessionDown { id: 0, body: None }), Ok(None));
}

#[test]
fn a_reception_newer_than_this_agent_holds() {
    let Body::Welcome(mut welcome) = to_proto::down(Down::Welcome(Welcome {
        protocol: PROTOCOL,
        fleet: FleetId::from("fleet"),
        era: 1,
        ca_bundle: vec![Bytes::from_static(b"der")],
        node_uid: Uid::from(UID),
        reception: Reception::Accepted,
        keep_alive_secs: 30,
        silence_secs: 50,
    }))
    .body
    .unwrap() else {
        panic!("not a welcome")
    };
    welcome.standing = None;
    let down = from_proto::down(pb::SessionDown { id: 0, body: Some(Body::Welcome(welcome)) });
    let Ok(Some(Down::Welcome(welcome))) = down else { panic!("{down:?}") };
    assert!(matches!(welcome.reception, Reception::Hold { reason: HoldReason::Other, .. }), "{welcome:?}");
}
