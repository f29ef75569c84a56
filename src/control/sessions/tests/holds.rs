//! A control that was restored from an older copy, and a person who has looked at the differences.

use super::*;
use crate::control::holds::{ConfirmError, DifferenceKind, EndError, Fleet};
use crate::control::kinds::EVENT;
use crate::control::objects::ListOptions;
use crate::model::ObjectKey;

#[tokio::test]
async fn a_person_confirms_the_era_once_for_all_who_hold_at_once() {
    let harness = Harness::new().await;
    let (first, second) = (harness.join("edge-1").await, harness.join("edge-2").await);
    let (same, changed, deleted) =
        (harness.apply("same").await, harness.apply("changed").await, harness.apply("deleted").await);
    let only_here = harness.apply("only-here").await;
    harness.delete(&DAEMON_SET, "default", "deleted").await;
    let mut desired_rx = harness.sessions.shared.desired_rx.clone();
    let desired = desired_rx.wait_for(|desired| desired.last_deletion > 0).await.unwrap().clone();
    let newest = |uid| desired.newest(uid).unwrap().revision.clone();
    let held = |uid: &Uid, name: &str, revision| HeldDaemonSet {
        uid: uid.clone(),
        seq: 1,
        key: Some(ObjectKey::new("default", name)),
        revision: Some(revision),
    };
    let unknown = Uid::from("99999999-0000-4000-8000-000000000000");
    let lost = Position { era: 1, seq: 1000 };
    let all = vec![
        held(&same, "same", newest(&same)),
        held(&changed, "changed", "later".into()),
        held(&deleted, "deleted", "any".into()),
        held(&unknown, "added", "any".into()),
    ];
    let one = vec![held(&same, "same", newest(&same)), held(&only_here, "only-here", newest(&only_here))];
    let one = [one, vec![held(&changed, "changed", newest(&changed))]].concat();
    let hello = |daemonsets| Hello { position: lost, daemonsets, ..hello() };
    let (mut a, reception) = harness.connect(&first, hello(all)).await;
    assert!(matches!(reception, Reception::Hold { reason: HoldReason::Ahead, .. }), "{reception:?}");
    let (mut b, _) = harness.connect(&second, hello(one)).await;

    let holds = harness.sessions.holds();
    let nodes: Vec<_> = holds.nodes.iter().map(|node| (node.name.as_str(), node.seq)).collect();
    assert_eq!(nodes, [("edge-1", 1000), ("edge-2", 1000)]);
    let found = |difference: &crate::control::holds::Difference| {
        let nodes: Vec<_> = difference.nodes.iter().map(|name| name.as_str().to_owned()).collect();
        (difference.daemonset.name.clone(), difference.kind.clone(), nodes.join(" "))
    };
    let revision = DifferenceKind::Revision { held: "later".into(), here: newest(&changed) };
    let expected = [
        ("added", DifferenceKind::Unknown, "edge-1"),
        ("changed", revision, "edge-1"),
        ("deleted", DifferenceKind::Deleted, "edge-1"),
        ("only-here", DifferenceKind::OnlyHere, "edge-1"),
    ];
    let expected = expected.map(|(name, kind, nodes)| (name.to_owned(), kind, nodes.to_owned()));
    assert_eq!(holds.differences.iter().map(found).collect::<Vec<_>>(), expected);

    let refused = harness.sessions.confirm(1).await;
    assert!(matches!(refused, Err(ConfirmError::OtherEra { asked: 1, .. })), "{refused:?}");
    harness.sessions.confirm(holds.era).await.unwrap();
    for node in [&mut a, &mut b] {
        node.lost().await;
        node.hello.session += 1;
        assert_eq!(node.welcomed().await, Reception::Accepted);
    }
    assert_eq!(harness.sessions.holds().nodes, []);
    for name in ["edge-1", "edge-2"] {
        harness.until(&NODE, name, |node| condition(node, "Held").is_none()).await;
    }
}

#[tokio::test]
async fn what_control_has_no_record_of_is_said_on_the_node_until_a_person_ends_it() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let uid = Uid::from("99999999-0000-4000-8000-000000000000");
    let key = Some(ObjectKey::new("default", "old"));
    let held = HeldDaemonSet { uid: uid.clone(), seq: 1, key, revision: None };
    let (mut node, _) = harness.in_step(&host, Hello { daemonsets: vec![held], ..hello() }).await;
    fn is_said(node: Option<&Value>) -> bool {
        condition(node, "RunsUnknown").is_some()
    }
    let shown = harness.until(&NODE, "edge-1", is_said).await;
    let words = condition(shown.as_ref(), "RunsUnknown").unwrap()["message"].as_str().unwrap();
    assert!(words.starts_with("control has no record of default/old (99999999-"), "{words}");
    let events = harness.objects.list(&EVENT, ListOptions::default()).await.unwrap().items;
    assert!(events.iter().any(|event| event["reason"] == "RunsUnknown"), "{events:?}");
    let unknown = harness.sessions.holds().unknown;
    assert_eq!((&unknown[0].uid, &unknown[0].nodes[..]), (&uid, &["edge-1".into()][..]));

    let refused = harness.sessions.end("other".into()).await;
    assert!(matches!(refused, Err(EndError::NotUnknown(_))), "{refused:?}");
    harness.sessions.end(uid.clone()).await.unwrap();
    let answers = node.pick(|down| if let Down::Answers(answers) = down { Some(answers) } else { None }).await;
    assert!(matches!(&answers.answers[..], [(ended, Answer::Deleted { .. })] if *ended == uid), "{answers:?}");
    harness.until(&NODE, "edge-1", |node| !is_said(node)).await;
    assert_eq!(harness.sessions.holds().unknown, []);
}
