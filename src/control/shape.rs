//! Which lists of our kinds a strategic merge patch merges, and by which field their elements are told apart.
//!
//! Constant data. A field that is not named here is patched as its JSON type suggests: an object field by field, a
//! list as a whole (so `tolerations`, `taints`, `args` and `envFrom` are replaced), a scalar by the new value.
//!
//! Source: kubernetes v1.36, the struct tags `patchStrategy` and `patchMergeKey` in `k8s.io/api` (`core/v1/types.go`,
//! `apps/v1/types.go`) and `k8s.io/apimachinery` (`pkg/apis/meta/v1/types.go`).

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
}

/// A list of objects told apart by one field.
#[derive(Debug)]
pub struct Keyed {
    /// The field whose value identifies an element (`patchMergeKey`).
    pub key: &'static str,
    /// The rules within an element.
    pub item: &'static Shape,
    /// Clients diffing such an element say with `$retainKeys` which of its fields stay (`patchStrategy: retainKeys`).
    pub retain_keys: bool,
}

impl Shape {
    /// The rule for a field, if it has one.
    pub fn rule(&self, field: &str) -> Option<&'static Rule> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, rule)| rule)
    }
}

/// The shape of a kind. Kinds without rules of their own still have those of `metadata`.
pub fn shape_of(kind: &str) -> &'static Shape {
    match kind {
        "DaemonSet" => &DAEMON_SET,
        "Namespace" => &NAMESPACE,
        "Node" => &NODE,
        "Pod" => &POD,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        _ => &METADATA_ONLY,
    }
}

/// Nothing below needs a rule.
pub static PLAIN: Shape = Shape { definition: "", fields: &[] };

static METADATA_ONLY: Shape = Shape { definition: "", fields: &[METADATA] };

static DAEMON_SET: Shape = Shape {
    definition: "io.k8s.api.apps.v1.DaemonSet",
    fields: &[METADATA, ("spec", Rule::Object(&DAEMON_SET_SPEC)), ("status", Rule::Object(&DAEMON_SET_STATUS))],
};

static DAEMON_SET_SPEC: Shape =
    Shape { definition: "io.k8s.api.apps.v1.DaemonSetSpec", fields: &[("template", Rule::Object(&POD_TEMPLATE_SPEC))] };

static DAEMON_SET_STATUS: Shape =
    Shape { definition: "io.k8s.api.apps.v1.DaemonSetStatus", fields: &[("conditions", by("type"))] };

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
    Shape { definition: "io.k8s.api.core.v1.ServiceAccount", fields: &[METADATA, ("secrets", by("name"))] };

static POD: Shape = Shape {
    definition: "io.k8s.api.core.v1.Pod",
    fields: &[METADATA, ("spec", Rule::Object(&POD_SPEC)), ("status", Rule::Object(&POD_STATUS))],
};

static POD_TEMPLATE_SPEC: Shape =
    Shape { definition: "io.k8s.api.core.v1.PodTemplateSpec", fields: &[METADATA, ("spec", Rule::Object(&POD_SPEC))] };

static POD_SPEC: Shape = Shape {
    definition: "io.k8s.api.core.v1.PodSpec",
    fields: &[
        ("containers", each("name", &CONTAINER)),
        ("ephemeralContainers", each("name", &EPHEMERAL_CONTAINER)),
        ("hostAliases", by("ip")),
        ("imagePullSecrets", by("name")),
        ("initContainers", each("name", &CONTAINER)),
        ("resourceClaims", by_retaining("name")),
        ("schedulingGates", by("name")),
        ("topologySpreadConstraints", by("topologyKey")),
        ("volumes", by_retaining("name")),
    ],
};

static POD_STATUS: Shape = Shape {
    definition: "io.k8s.api.core.v1.PodStatus",
    fields: &[
        ("conditions", by("type")),
        // The lists of container statuses have no key themselves: they are replaced.
        ("hostIPs", by("ip")),
        ("podIPs", by("ip")),
        ("resourceClaimStatuses", by_retaining("name")),
    ],
};

static CONTAINER: Shape = Shape { definition: "io.k8s.api.core.v1.Container", fields: CONTAINER_FIELDS };

static EPHEMERAL_CONTAINER: Shape =
    Shape { definition: "io.k8s.api.core.v1.EphemeralContainer", fields: CONTAINER_FIELDS };

const CONTAINER_FIELDS: &[(&str, Rule)] = &[
    ("env", by("name")),
    // Upstream's key leaves out the protocol: a UDP port is merged into a TCP port of the same number.
    ("ports", by("containerPort")),
    ("volumeDevices", by("devicePath")),
    ("volumeMounts", by("mountPath")),
];

const METADATA: (&str, Rule) = ("metadata", Rule::Object(&OBJECT_META));

static OBJECT_META: Shape = Shape {
    definition: "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    fields: &[("finalizers", Rule::Set), ("ownerReferences", by("uid"))],
};

const fn by(key: &'static str) -> Rule {
    each(key, &PLAIN)
}

const fn by_retaining(key: &'static str) -> Rule {
    Rule::Keyed(Keyed { key, item: &PLAIN, retain_keys: true })
}

const fn each(key: &'static str, item: &'static Shape) -> Rule {
    Rule::Keyed(Keyed { key, item, retain_keys: false })
}
