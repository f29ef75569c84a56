//! Which lists of our kinds are merged element by element, and by which fields the elements are told apart; which
//! objects are one value.
//!
//! Constant data, for strategic merge patches and for server-side apply. A field that is not named here is merged as its
//! JSON type suggests: an object field by field, a list as a whole (so `tolerations`, `taints`, `args` and `envFrom` are
//! replaced), a scalar by the new value. What is only refused has no rules.
//!
//! Source: kubernetes v1.36, the struct tags `patchStrategy` and `patchMergeKey` and the markers `listType`,
//! `listMapKey`, `mapType` and `structType` in `k8s.io/api` (`*/v1/types.go`) and `k8s.io/apimachinery`
//! (`pkg/apis/meta/v1/types.go`).

use super::kinds::{Kind, NEW_EVENT};

/// The fields of one API type that need a rule.
#[derive(Debug)]
pub struct Shape {
    /// The type's name among the OpenAPI definitions, such as `io.k8s.api.core.v1.PodSpec`.
    pub definition: &'static str,
    /// Field name and rule.
    pub fields: &'static [(&'static str, Rule)],
}

/// How one field is patched.
#[derive(Debug)]
pub enum Rule {
    /// An object that has fields with rules somewhere below it.
    Object(&'static Shape),
    /// A list of objects, merged element by element.
    Keyed(Keyed),
    /// A list of strings without order or repetition.
    Set,
    /// An object that has one owner: server-side apply takes it or leaves it. A patch merges it like any other.
    Atomic,
}

/// A list of objects told apart by one field.
#[derive(Debug)]
pub struct Keyed {
    /// The field whose value identifies an element (`patchMergeKey`).
    pub key: &'static str,
    /// What tells elements apart under server-side apply.
    pub apply: Apply,
    /// The rules within an element.
    pub item: &'static Shape,
    /// Clients diffing such an element say with `$retainKeys` which of its fields stay (`patchStrategy: retainKeys`).
    pub retain_keys: bool,
}

/// How server-side apply takes a list that a patch merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// By the same key.
    ByKey,
    /// By the same key and another field.
    ByKeyAnd(&'static str),
    /// As one value.
    Whole,
}

impl Keyed {
    /// An element has one owner under server-side apply.
    pub fn is_whole(&self) -> bool {
        std::ptr::eq(self.item, &raw const WHOLE)
    }

    /// The fields that tell elements apart under server-side apply, sorted; none if the list is one value.
    pub fn apply_keys(&self) -> impl Iterator<Item = &'static str> {
        let (first, second) = match self.apply {
            Apply::ByKey => (Some(self.key), None),
            Apply::ByKeyAnd(other) => (Some(self.key), Some(other)),
            Apply::Whole => (None, None),
        };
        first.into_iter().chain(second)
    }
}

impl Shape {
    /// The rule for a field, if it has one.
    pub fn rule(&self, field: &str) -> Option<&'static Rule> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, rule)| rule)
    }
}

/// The shape of a kind. Kinds without rules of their own still have those of `metadata`.
pub fn shape_of(kind: &Kind) -> &'static Shape {
    match kind.kind {
        "CertificateSigningRequest" => &CERTIFICATE_SIGNING_REQUEST,
        "ClusterRoleBinding" => &CLUSTER_ROLE_BINDING,
        "DaemonSet" => &DAEMON_SET,
        "Event" if *kind == NEW_EVENT => &NEW_EVENT_SHAPE,
        "Event" => &EVENT,
        "Namespace" => &NAMESPACE,
        "NetworkPolicy" => &NETWORK_POLICY,
        "Node" => &NODE,
        "Pod" => &POD,
        "PodDisruptionBudget" => &POD_DISRUPTION_BUDGET,
        "RoleBinding" => &ROLE_BINDING,
        "RuntimeClass" => &RUNTIME_CLASS,
        "Service" => &SERVICE,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        _ => &METADATA_ONLY,
    }
}

/// Nothing below needs a rule.
pub static PLAIN: Shape = Shape { definition: "", fields: &[] };

/// An element of a list that has one owner; a patch merges it field by field.
static WHOLE: Shape = Shape { definition: "", fields: &[] };

static METADATA_ONLY: Shape = Shape { definition: "", fields: &[METADATA] };

static DAEMON_SET: Shape = Shape {
    definition: "io.k8s.api.apps.v1.DaemonSet",
    fields: &[METADATA, ("spec", Rule::Object(&DAEMON_SET_SPEC)), ("status", Rule::Object(&DAEMON_SET_STATUS))],
};

static DAEMON_SET_SPEC: Shape = Shape {
    definition: "io.k8s.api.apps.v1.DaemonSetSpec",
    fields: &[("selector", Rule::Atomic), ("template", Rule::Object(&POD_TEMPLATE_SPEC))],
};

static DAEMON_SET_STATUS: Shape =
    Shape { definition: "io.k8s.api.apps.v1.DaemonSetStatus", fields: &[("conditions", by("type"))] };

static EVENT: Shape = Shape {
    definition: "io.k8s.api.core.v1.Event",
    fields: &[METADATA, ("involvedObject", Rule::Atomic), ("related", Rule::Atomic)],
};

static NEW_EVENT_SHAPE: Shape = Shape {
    definition: "io.k8s.api.events.v1.Event",
    fields: &[METADATA, ("regarding", Rule::Atomic), ("related", Rule::Atomic)],
};

static NAMESPACE: Shape = Shape {
    definition: "io.k8s.api.core.v1.Namespace",
    fields: &[METADATA, ("status", Rule::Object(&NAMESPACE_STATUS))],
};

static NAMESPACE_STATUS: Shape =
    Shape { definition: "io.k8s.api.core.v1.NamespaceStatus", fields: &[("conditions", by("type"))] };

static NODE: Shape = Shape {
    definition: "io.k8s.api.core.v1.Node",
    fields: &[METADATA, ("spec", Rule::Object(&NODE_SPEC)), ("status", Rule::Object(&NODE_STATUS))],
};

static NODE_SPEC: Shape = Shape { definition: "io.k8s.api.core.v1.NodeSpec", fields: &[("podCIDRs", Rule::Set)] };

static NODE_STATUS: Shape = Shape {
    definition: "io.k8s.api.core.v1.NodeStatus",
    fields: &[("addresses", by("type")), ("conditions", by("type"))],
};

static SERVICE_ACCOUNT: Shape =
    Shape { definition: "io.k8s.api.core.v1.ServiceAccount", fields: &[METADATA, ("secrets", each("name", &WHOLE))] };

static SERVICE: Shape = Shape {
    definition: "io.k8s.api.core.v1.Service",
    fields: &[METADATA, ("spec", Rule::Object(&SERVICE_SPEC)), ("status", Rule::Object(&SERVICE_STATUS))],
};

static SERVICE_SPEC: Shape = Shape {
    definition: "io.k8s.api.core.v1.ServiceSpec",
    fields: &[("ports", by_both("port", "protocol", &PLAIN)), ("selector", Rule::Atomic)],
};

static SERVICE_STATUS: Shape =
    Shape { definition: "io.k8s.api.core.v1.ServiceStatus", fields: &[("conditions", by("type"))] };

static CERTIFICATE_SIGNING_REQUEST: Shape = Shape {
    definition: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    fields: &[METADATA, ("spec", Rule::Object(&CERTIFICATE_SPEC)), ("status", Rule::Object(&CERTIFICATE_STATUS))],
};

static CERTIFICATE_SPEC: Shape = Shape {
    definition: "io.k8s.api.certificates.v1.CertificateSigningRequestSpec",
    fields: &[("groups", Rule::Atomic), ("usages", Rule::Atomic)],
};

static CERTIFICATE_STATUS: Shape = Shape {
    definition: "io.k8s.api.certificates.v1.CertificateSigningRequestStatus",
    fields: &[("conditions", by("type"))],
};

static NETWORK_POLICY: Shape = Shape {
    definition: "io.k8s.api.networking.v1.NetworkPolicy",
    fields: &[METADATA, ("spec", Rule::Object(&NETWORK_POLICY_SPEC))],
};

static NETWORK_POLICY_SPEC: Shape =
    Shape { definition: "io.k8s.api.networking.v1.NetworkPolicySpec", fields: &[("podSelector", Rule::Atomic)] };

static POD_DISRUPTION_BUDGET: Shape = Shape {
    definition: "io.k8s.api.policy.v1.PodDisruptionBudget",
    fields: &[METADATA, ("spec", Rule::Object(&BUDGET_SPEC)), ("status", Rule::Object(&BUDGET_STATUS))],
};

static BUDGET_SPEC: Shape =
    Shape { definition: "io.k8s.api.policy.v1.PodDisruptionBudgetSpec", fields: &[("selector", Rule::Atomic)] };

static BUDGET_STATUS: Shape =
    Shape { definition: "io.k8s.api.policy.v1.PodDisruptionBudgetStatus", fields: &[("conditions", by("type"))] };

static RUNTIME_CLASS: Shape = Shape {
    definition: "io.k8s.api.node.v1.RuntimeClass",
    fields: &[METADATA, ("scheduling", Rule::Object(&RUNTIME_SCHEDULING))],
};

static RUNTIME_SCHEDULING: Shape =
    Shape { definition: "io.k8s.api.node.v1.Scheduling", fields: &[("nodeSelector", Rule::Atomic)] };

static ROLE_BINDING: Shape =
    Shape { definition: "io.k8s.api.rbac.v1.RoleBinding", fields: &[METADATA, ("roleRef", Rule::Atomic)] };

static CLUSTER_ROLE_BINDING: Shape =
    Shape { definition: "io.k8s.api.rbac.v1.ClusterRoleBinding", fields: &[METADATA, ("roleRef", Rule::Atomic)] };

static POD: Shape = Shape {
    definition: "io.k8s.api.core.v1.Pod",
    fields: &[METADATA, ("spec", Rule::Object(&POD_SPEC)), ("status", Rule::Object(&POD_STATUS))],
};

static POD_TEMPLATE_SPEC: Shape =
    Shape { definition: "io.k8s.api.core.v1.PodTemplateSpec", fields: &[METADATA, ("spec", Rule::Object(&POD_SPEC))] };

static POD_SPEC: Shape = Shape {
    definition: "io.k8s.api.core.v1.PodSpec",
    fields: &[
        ("affinity", Rule::Object(&AFFINITY)),
        ("containers", each("name", &CONTAINER)),
        ("ephemeralContainers", each("name", &EPHEMERAL_CONTAINER)),
        ("hostAliases", by("ip")),
        ("imagePullSecrets", each("name", &WHOLE)),
        ("initContainers", each("name", &CONTAINER)),
        ("nodeSelector", Rule::Atomic),
        ("resourceClaims", by_retaining("name")),
        ("schedulingGates", by("name")),
        ("topologySpreadConstraints", by_both("topologyKey", "whenUnsatisfiable", &TOPOLOGY_SPREAD_CONSTRAINT)),
        ("volumes", by_retaining("name")),
    ],
};

static AFFINITY: Shape =
    Shape { definition: "io.k8s.api.core.v1.Affinity", fields: &[("nodeAffinity", Rule::Object(&NODE_AFFINITY))] };

static NODE_AFFINITY: Shape = Shape {
    definition: "io.k8s.api.core.v1.NodeAffinity",
    fields: &[("requiredDuringSchedulingIgnoredDuringExecution", Rule::Atomic)],
};

static TOPOLOGY_SPREAD_CONSTRAINT: Shape =
    Shape { definition: "io.k8s.api.core.v1.TopologySpreadConstraint", fields: &[("labelSelector", Rule::Atomic)] };

static POD_STATUS: Shape = Shape {
    definition: "io.k8s.api.core.v1.PodStatus",
    fields: &[
        ("conditions", by("type")),
        // The lists of container statuses have no key themselves: they are replaced.
        ("hostIPs", Rule::Keyed(Keyed { key: "ip", apply: Apply::Whole, item: &PLAIN, retain_keys: false })),
        ("podIPs", by("ip")),
        ("resourceClaimStatuses", by_retaining("name")),
    ],
};

static CONTAINER: Shape = Shape { definition: "io.k8s.api.core.v1.Container", fields: CONTAINER_FIELDS };

static EPHEMERAL_CONTAINER: Shape =
    Shape { definition: "io.k8s.api.core.v1.EphemeralContainer", fields: CONTAINER_FIELDS };

const CONTAINER_FIELDS: &[(&str, Rule)] = &[
    ("env", each("name", &ENV_VAR)),
    // Upstream's key leaves out the protocol: a patch merges a UDP port into a TCP port of the same number.
    ("ports", by_both("containerPort", "protocol", &PLAIN)),
    ("volumeDevices", by("devicePath")),
    ("volumeMounts", by("mountPath")),
];

static ENV_VAR: Shape =
    Shape { definition: "io.k8s.api.core.v1.EnvVar", fields: &[("valueFrom", Rule::Object(&ENV_VAR_SOURCE))] };

static ENV_VAR_SOURCE: Shape = Shape {
    definition: "io.k8s.api.core.v1.EnvVarSource",
    fields: &[
        ("configMapKeyRef", Rule::Atomic),
        ("fieldRef", Rule::Atomic),
        ("fileKeyRef", Rule::Atomic),
        ("resourceFieldRef", Rule::Atomic),
        ("secretKeyRef", Rule::Atomic),
    ],
};

const METADATA: (&str, Rule) = ("metadata", Rule::Object(&OBJECT_META));

static OBJECT_META: Shape = Shape {
    definition: "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    fields: &[("finalizers", Rule::Set), ("ownerReferences", each("uid", &WHOLE))],
};

const fn by(key: &'static str) -> Rule {
    each(key, &PLAIN)
}

const fn by_retaining(key: &'static str) -> Rule {
    Rule::Keyed(Keyed { key, apply: Apply::ByKey, item: &PLAIN, retain_keys: true })
}

const fn each(key: &'static str, item: &'static Shape) -> Rule {
    Rule::Keyed(Keyed { key, apply: Apply::ByKey, item, retain_keys: false })
}

const fn by_both(key: &'static str, other: &'static str, item: &'static Shape) -> Rule {
    Rule::Keyed(Keyed { key, apply: Apply::ByKeyAnd(other), item, retain_keys: false })
}
