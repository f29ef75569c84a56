//! What a node may have beyond the manifest: which ConfigMaps and Secrets.
//!
//! Pure. A node asks for what its own verdicts call for. Control judges each reference anew, by labels that the API set
//! or the node's join token bounded: those a host gives itself never buy anything. Only new needs are refused; what a
//! running pod uses stays in its node's ledger.
//!
//! Source: kubernetes v1.36 `plugin/pkg/auth/authorizer/node/node_authorizer.go`, which follows the pods bound to a node.
//! We differ in that a DaemonSet counts before its pod is reported, since nodes make these pods themselves.

use crate::api::bundle::Bundle;
use crate::control::nodes::{Vouched, has_pods};
use crate::eligibility::Verdict;
use crate::link::Reason;
use crate::model::NodeName;

/// Says whether a node may have something that `sets` name, or users did for it: in a pod `posted` to it, or in a container that
/// they added to one there.
///
/// `sets` are the newest revisions of those DaemonSets. A pod that was reported counts with its DaemonSet: a node could
/// report any.
///
/// # Errors
/// Why not, for the user who wonders why a pod does not start.
pub(super) fn entitled<'a>(
    node: &NodeName,
    vouched: &Vouched,
    posted: bool,
    sets: impl Iterator<Item = &'a Bundle>,
) -> Result<(), Reason> {
    if posted {
        return Ok(());
    }
    let mut against = Vec::new();
    for set in sets {
        match vouched.judge(node, &set.template) {
            Ok(verdict) if has_pods(&verdict) => return Ok(()),
            Ok(verdict) => against.push(format!("daemonset {}: {}", set.key(), words(&verdict))),
            Err(error) => against.push(format!("daemonset {}: {error}", set.key())),
        }
    }
    Err(refusal(node, &against))
}

fn words(verdict: &Verdict) -> String {
    verdict.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn refusal(node: &NodeName, against: &[String]) -> Reason {
    let unrelated = format!("no relationship found between node '{node}' and this object");
    let message = if against.is_empty() {
        unrelated
    } else {
        format!(
            "{unrelated}: {}; labels that the host gave itself do not count, set them with kubectl label node",
            against.join("; ")
        )
    };
    Reason { reason: "Forbidden".to_owned(), message, field: String::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn bundle(name: &str, spec: &Value) -> Bundle {
        let bundle = json!({
            "format": 1, "uid": name, "namespace": "default", "name": name, "generation": 1, "revision": "hash",
            "templateGeneration": 1, "template": {"spec": spec}, "minReadySeconds": 0, "updateStrategy": "onDelete",
            "priority": 0,
        });
        serde_json::from_value(bundle).unwrap()
    }

    #[test]
    fn a_node_may_have_what_pods_that_belong_there_name() {
        let plain = bundle("plain", &json!({"containers": []}));
        let north = bundle("north", &json!({"containers": [], "nodeSelector": {"site": "north"}}));
        let elsewhere = bundle("elsewhere", &json!({"containers": [], "nodeName": "edge-2"}));
        let vouched = |labels: &[(&str, &str)], taints: &[&str]| Vouched {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            taints: taints.iter().map(|taint| taint.parse().unwrap()).collect(),
        };
        let (bare, labelled) = (vouched(&[], &[]), vouched(&[("site", "north")], &[]));
        let (closed, emptied) = (vouched(&[], &["a=b:NoSchedule"]), vouched(&[], &["a=b:NoExecute"]));
        let cases: [(&str, &Vouched, bool, &[&Bundle], bool); 9] = [
            ("nothing names it", &labelled, false, &[], false),
            ("a pod posted there names it", &bare, true, &[], true),
            ("a daemonset for every node", &bare, false, &[&plain], true),
            ("one for nodes with a label", &labelled, false, &[&north], true),
            ("without that label", &bare, false, &[&north], false),
            ("one of several is enough", &bare, false, &[&north, &plain], true),
            ("one for another node", &bare, false, &[&elsewhere, &north], false),
            ("a pod would stay", &closed, false, &[&plain], true),
            ("a pod would leave", &emptied, false, &[&plain], false),
        ];
        for (case, vouched, posted, sets, expected) in cases {
            let answer = entitled(&"edge-1".into(), vouched, posted, sets.iter().copied());
            assert_eq!(answer.is_ok(), expected, "{case}: {answer:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let north = bundle("north", &json!({"containers": [], "nodeSelector": {"site": "north"}}));
        let why = |sets: &[&Bundle]| {
            entitled(&"edge-1".into(), &Vouched::default(), false, sets.iter().copied()).unwrap_err().message
        };
        assert_eq!(why(&[]), "no relationship found between node 'edge-1' and this object");
        assert_eq!(
            why(&[&north]),
            "no relationship found between node 'edge-1' and this object: daemonset default/north: spec.nodeSelector wants \
             label site=north, the node has no label site; labels that the host gave itself do not count, set them with \
             kubectl label node"
        );
    }
}
