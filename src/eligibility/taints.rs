//! Taints, tolerations, and the tolerations every daemon pod has.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PodSpec, Toleration};

use crate::model::{Taint, TaintEffect};

/// Taints of a node's own conditions that no daemon pod minds.
///
/// Source: kubernetes v1.36 `pkg/controller/daemon/util/daemonset_util.go`, `AddOrUpdateDaemonPodTolerations`. The
/// `NoSchedule` taints of the first two keys are not among them: a node that is not ready keeps its pod and gets no new one.
const TOLERATED: [(&str, TaintEffect); 6] = [
    ("node.kubernetes.io/not-ready", TaintEffect::NoExecute),
    ("node.kubernetes.io/unreachable", TaintEffect::NoExecute),
    ("node.kubernetes.io/disk-pressure", TaintEffect::NoSchedule),
    ("node.kubernetes.io/memory-pressure", TaintEffect::NoSchedule),
    ("node.kubernetes.io/pid-pressure", TaintEffect::NoSchedule),
    ("node.kubernetes.io/unschedulable", TaintEffect::NoSchedule),
];

/// Tolerated as well by pods that use the host's network.
const TOLERATED_WITH_HOST_NETWORK: (&str, TaintEffect) =
    ("node.kubernetes.io/network-unavailable", TaintEffect::NoSchedule);

fn automatic(spec: &PodSpec) -> impl Iterator<Item = (&'static str, TaintEffect)> {
    let host_network = spec.host_network == Some(true);
    TOLERATED.into_iter().chain(host_network.then_some(TOLERATED_WITH_HOST_NETWORK))
}

/// The taints that keep the pod from running, in the node's order.
pub(super) fn untolerated<'a>(taints: &'a [Taint], spec: &PodSpec) -> impl Iterator<Item = &'a Taint> {
    taints.iter().filter(|taint| {
        taint.effect != TaintEffect::PreferNoSchedule
            && !automatic(spec).any(|(key, effect)| taint.key == key && taint.effect == effect)
            && !spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
    })
}

/// How long a running pod with these tolerations stays under a node's `NoExecute` taints, from when it came under them: not
/// at all if it does not tolerate one of them, none if for good. Negative seconds are none at all.
///
/// Source: kubernetes v1.36 `pkg/controller/tainteviction/taint_eviction.go` (`processPodOnNode`, `getMinTolerationTime`) and
/// `pkg/apis/core/v1/helper/helpers.go` (`GetMatchingTolerations`): of a pod's tolerations the first that matches counts.
pub fn stays_for(taints: &[Taint], tolerations: &[Toleration]) -> Option<Duration> {
    let evicting = taints.iter().filter(|taint| taint.effect == TaintEffect::NoExecute);
    let limit = |taint: &Taint| match tolerations.iter().find(|toleration| tolerates(toleration, taint)) {
        Some(toleration) => toleration.toleration_seconds.map(|seconds| u64::try_from(seconds).unwrap_or(0)),
        None => Some(0),
    };
    evicting.filter_map(limit).min().map(Duration::from_secs)
}

/// Whether a posted pod tolerates a node that is short of memory.
pub fn tolerates_memory_pressure(spec: &PodSpec) -> bool {
    let key = "node.kubernetes.io/memory-pressure".to_owned();
    let taint = Taint { key, value: String::new(), effect: TaintEffect::NoSchedule };
    spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, &taint))
}

/// Whether one toleration of a template tolerates a taint. `tolerationSeconds` plays no part.
///
/// Source: kubernetes v1.36 `staging/src/k8s.io/component-helpers/scheduling/corev1/helpers.go` with the feature gate
/// `TaintTolerationComparisonOperators` off, as it is by default: `Lt` and `Gt` tolerate nothing.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == name(taint.effect))
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "Exists" => true,
            "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == taint.value,
            _ => false,
        }
}

/// `spec.tolerations` of a daemon pod: the template's own, then those every daemon pod has.
///
/// A toleration of the template that equals an automatic one in all but `tolerationSeconds` is replaced where it stands, so
/// its seconds are lost.
///
/// Source: kubernetes v1.36 `pkg/controller/daemon/util/daemonset_util.go`, `AddOrUpdateDaemonPodTolerations`.
pub fn daemon_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    for (key, effect) in automatic(spec) {
        let added = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(name(effect).to_owned()),
            ..Toleration::default()
        };
        let mut replaced = false;
        for own in tolerations.iter_mut().filter(|own| is_same_but_for_seconds(own, &added)) {
            own.clone_from(&added);
            replaced = true;
        }
        if !replaced {
            tolerations.push(added);
        }
    }
    tolerations
}

fn is_same_but_for_seconds(a: &Toleration, b: &Toleration) -> bool {
    let same =
        |a: &Option<String>, b: &Option<String>| a.as_deref().unwrap_or_default() == b.as_deref().unwrap_or_default();
    same(&a.key, &b.key) && same(&a.operator, &b.operator) && same(&a.effect, &b.effect) && same(&a.value, &b.value)
}

fn name(effect: TaintEffect) -> &'static str {
    match effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    }
}
