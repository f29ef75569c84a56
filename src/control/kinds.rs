//! The kinds the API serves, as one table.
//!
//! Routing, discovery, OpenAPI, Table output, storage and sessions all read this table; a kind that is not in it does not
//! exist. Plain data: what a write means for a kind is decided in [`registry`](super::registry).

use crate::store::Persistence;

/// The subresource that carries an object's observed half.
pub const STATUS: &str = "status";

/// The subresource of a CertificateSigningRequest that says whether it is to be signed.
pub const APPROVAL: &str = "approval";

/// The subresource of a pod that joins a container's process.
pub const ATTACH: &str = "attach";

/// The subresource of a pod that binds it to a node.
pub const BINDING: &str = "binding";

/// The subresource of a pod that adds containers to it while it runs.
pub const EPHEMERAL_CONTAINERS: &str = "ephemeralcontainers";

/// The subresource of a pod that ends it if nothing stands against that.
pub const EVICTION: &str = "eviction";

/// The subresource of a pod that runs a command in a container.
pub const EXEC: &str = "exec";

/// The subresource of a pod that is what its containers wrote.
pub const LOG: &str = "log";

/// The subresource of a pod that connects to its ports.
pub const PORT_FORWARD: &str = "portforward";

/// The subresource of a DaemonSet that says where every node is with its newest revision.
pub const ROLLOUT: &str = "rollout";

/// The subresource of a ServiceAccount that gives tokens of it.
pub const TOKEN: &str = "token";

/// One kind of API object.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// The name in `kind`, such as `DaemonSet`.
    pub kind: &'static str,
    /// The name in paths, such as `daemonsets`.
    pub plural: &'static str,
    /// The name for one, such as `daemonset`.
    pub singular: &'static str,
    /// What `kubectl` also accepts, such as `ds`.
    pub short_names: &'static [&'static str],
    /// Objects live in a namespace.
    pub namespaced: bool,
    /// Groups of kinds such as `all`.
    pub categories: &'static [&'static str],
    /// What may be done with it, in discovery's order.
    pub verbs: &'static [&'static str],
    /// Paths below one object.
    pub subresources: &'static [Subresource],
    /// Users' writes and deletions of it move the fleet's position: nodes act on this kind.
    pub intent: bool,
    /// How much a write to the object itself must survive; its status is never more than check-pointed.
    pub persistence: Persistence,
    /// It is kept for the charts that bring it; nothing here acts on it, and who writes one is told so.
    pub without_effect: bool,
    /// Objects of it are another kind's, under other names; see [`rest::events`](super::rest::events).
    pub kept_as: Option<&'static Kind>,
}

/// A path below one object, such as `pods/log`.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The last path segment.
    pub name: &'static str,
    /// What may be done with it.
    pub verbs: &'static [&'static str],
    /// What it takes and gives, if not the kind it is a part of.
    pub takes: Option<&'static Kind>,
}

const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const ALL_BUT_COLLECTIONS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const PART_VERBS: &[&str] = &["get", "patch", "update"];
/// WebSocket begins with a GET, SPDY with a POST.
const STREAMS: &[&str] = &["create", "get"];
const STATUS_ONLY: &[Subresource] = &[STATUS_SUBRESOURCE];
const STATUS_SUBRESOURCE: Subresource = Subresource { name: STATUS, verbs: PART_VERBS, takes: None };

/// What most kinds have in common: in the core group, namespaced, durable, nothing to nodes.
const BASE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    namespaced: true,
    categories: &[],
    verbs: ALL_VERBS,
    subresources: &[],
    intent: false,
    persistence: Persistence::Durable,
    without_effect: false,
    kept_as: None,
};

/// A group of related objects' names.
pub static NAMESPACE: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    verbs: ALL_BUT_COLLECTIONS,
    subresources: STATUS_ONLY,
    ..BASE
};

/// A host with an agent.
pub static NODE: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    subresources: STATUS_ONLY,
    intent: true,
    ..BASE
};

/// What a node runs for a DaemonSet.
pub static POD: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource { name: ATTACH, verbs: STREAMS, takes: None },
        Subresource { name: BINDING, verbs: &["create"], takes: Some(&BINDING_KIND) },
        Subresource { name: EPHEMERAL_CONTAINERS, verbs: PART_VERBS, takes: None },
        Subresource { name: EVICTION, verbs: &["create"], takes: Some(&EVICTION_KIND) },
        Subresource { name: EXEC, verbs: STREAMS, takes: None },
        Subresource { name: LOG, verbs: &["get"], takes: None },
        Subresource { name: PORT_FORWARD, verbs: STREAMS, takes: None },
        STATUS_SUBRESOURCE,
    ],
    intent: true,
    ..BASE
};

/// What is asked for at [`BINDING`]. Not kept.
pub static BINDING_KIND: Kind = Kind { kind: "Binding", plural: "bindings", singular: "binding", ..BASE };

/// What is asked for at [`EVICTION`]. Not kept.
pub static EVICTION_KIND: Kind =
    Kind { group: "policy", kind: "Eviction", plural: "evictions", singular: "eviction", ..BASE };

/// Settings for pods.
pub static CONFIG_MAP: Kind =
    Kind { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short_names: &["cm"], intent: true, ..BASE };

/// Settings for pods that must not be seen.
pub static SECRET: Kind = Kind { kind: "Secret", plural: "secrets", singular: "secret", intent: true, ..BASE };

/// Who a pod is to the API.
pub static SERVICE_ACCOUNT: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[Subresource { name: TOKEN, verbs: &["create"], takes: Some(&TOKEN_REQUEST) }],
    intent: true,
    ..BASE
};

/// What is asked for at [`TOKEN`]. Not kept.
pub static TOKEN_REQUEST: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "TokenRequest",
    plural: "tokenrequests",
    singular: "tokenrequest",
    ..BASE
};

/// Something that happened to an object.
pub static EVENT: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    persistence: Persistence::Volatile,
    ..BASE
};

/// The same events under newer names.
pub static NEW_EVENT: Kind = Kind {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    persistence: Persistence::Volatile,
    kept_as: Some(&EVENT),
    ..BASE
};

/// One pod on every host it fits.
pub static DAEMON_SET: Kind = Kind {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    subresources: &[Subresource { name: ROLLOUT, verbs: &["get"], takes: Some(&ROLLOUT_OF) }, STATUS_SUBRESOURCE],
    intent: true,
    ..BASE
};

/// What is given at [`ROLLOUT`]. Not kept, and not of Kubernetes.
pub static ROLLOUT_OF: Kind =
    Kind { group: "garrison.dev", kind: "Rollout", plural: "rollouts", singular: "rollout", ..BASE };

/// A DaemonSet's template as it was at one time.
pub static CONTROLLER_REVISION: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    ..BASE
};

/// How important a pod is.
pub static PRIORITY_CLASS: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    intent: true,
    ..BASE
};

/// What runs a pod.
pub static RUNTIME_CLASS: Kind = Kind {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    intent: true,
    ..BASE
};

/// What may be done in one namespace.
pub static ROLE: Kind = Kind { kind: "Role", plural: "roles", singular: "role", ..RBAC };

/// Who gets a role in one namespace.
pub static ROLE_BINDING: Kind = Kind { kind: "RoleBinding", plural: "rolebindings", singular: "rolebinding", ..RBAC };

/// What may be done, in one namespace or all.
pub static CLUSTER_ROLE: Kind =
    Kind { kind: "ClusterRole", plural: "clusterroles", singular: "clusterrole", namespaced: false, ..RBAC };

/// Who gets a role in all namespaces.
pub static CLUSTER_ROLE_BINDING: Kind = Kind {
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    namespaced: false,
    ..RBAC
};

const RBAC: Kind = Kind { group: "rbac.authorization.k8s.io", ..BASE };

/// A name for the pods that serve something.
pub static SERVICE: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: STATUS_ONLY,
    ..EFFECTLESS
};

/// The addresses behind a Service, as they were told before there were slices.
pub static ENDPOINTS: Kind =
    Kind { kind: "Endpoints", plural: "endpoints", singular: "endpoints", short_names: &["ep"], ..EFFECTLESS };

/// Addresses behind a Service.
pub static ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    ..EFFECTLESS
};

/// Who may reach pods.
pub static NETWORK_POLICY: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    ..EFFECTLESS
};

/// How many pods of a set may be down.
pub static POD_DISRUPTION_BUDGET: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: STATUS_ONLY,
    ..EFFECTLESS
};

/// A wish for a certificate; see [`signer`](super::signer).
pub static CERTIFICATE_SIGNING_REQUEST: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    namespaced: false,
    subresources: &[Subresource { name: APPROVAL, verbs: PART_VERBS, takes: None }, STATUS_SUBRESOURCE],
    ..BASE
};

const EFFECTLESS: Kind = Kind { without_effect: true, ..BASE };

/// Who of several leads. Renewed every few seconds, so it never waits for the disk; after a restart it is taken anew.
pub static LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    persistence: Persistence::Volatile,
    ..BASE
};

/// How much is taken of a node.
pub static NODE_METRICS: Kind =
    Kind { kind: "NodeMetrics", plural: "nodes", singular: "node", namespaced: false, ..MEASURED };

/// How much a pod takes.
pub static POD_METRICS: Kind = Kind { kind: "PodMetrics", plural: "pods", singular: "pod", ..MEASURED };

/// What is measured when somebody asks, and not kept.
const MEASURED: Kind = Kind {
    group: "metrics.k8s.io",
    version: "v1beta1",
    verbs: &["get", "list"],
    persistence: Persistence::Volatile,
    ..BASE
};

/// May I do this?
pub static SELF_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    ..ACCESS_REVIEW
};

/// What may I do?
pub static SELF_SUBJECT_RULES_REVIEW: Kind = Kind {
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    ..ACCESS_REVIEW
};

/// May they do this?
pub static SUBJECT_ACCESS_REVIEW: Kind = Kind {
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    ..ACCESS_REVIEW
};

/// May they do this in one namespace?
pub static LOCAL_SUBJECT_ACCESS_REVIEW: Kind = Kind {
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    namespaced: true,
    ..ACCESS_REVIEW
};

const ACCESS_REVIEW: Kind = Kind { group: "authorization.k8s.io", ..QUESTION };

/// Who am I?
pub static SELF_SUBJECT_REVIEW: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    ..QUESTION
};

/// Whose token is this?
pub static TOKEN_REVIEW: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    ..QUESTION
};

/// What is answered and not kept.
const QUESTION: Kind = Kind { namespaced: false, verbs: &["create"], persistence: Persistence::Volatile, ..BASE };

/// All kinds, group by group, in the order of discovery.
pub static KINDS: &[&Kind] = &[
    &CONFIG_MAP,
    &ENDPOINTS,
    &EVENT,
    &NAMESPACE,
    &NODE,
    &POD,
    &SECRET,
    &SERVICE,
    &SERVICE_ACCOUNT,
    &CONTROLLER_REVISION,
    &DAEMON_SET,
    &RUNTIME_CLASS,
    &PRIORITY_CLASS,
    &LEASE,
    &ENDPOINT_SLICE,
    &NEW_EVENT,
    &NODE_METRICS,
    &POD_METRICS,
    &NETWORK_POLICY,
    &POD_DISRUPTION_BUDGET,
    &SELF_SUBJECT_REVIEW,
    &TOKEN_REVIEW,
    &LOCAL_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_RULES_REVIEW,
    &SUBJECT_ACCESS_REVIEW,
    &CERTIFICATE_SIGNING_REQUEST,
    &CLUSTER_ROLE,
    &CLUSTER_ROLE_BINDING,
    &ROLE,
    &ROLE_BINDING,
];

impl Kind {
    /// `apiVersion` of its objects: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `kind` of a list of its objects.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The resource as error messages name it: `pods`, `daemonsets.apps`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The kind as error messages name it: `Pod`, `DaemonSet.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// Objects of it are kept, so that changes of them can be told. Otherwise they are made when somebody asks for them.
    pub fn is_kept(&self) -> bool {
        self.verbs.contains(&"watch")
    }

    /// The kind under which its objects are kept.
    pub fn kept(&'static self) -> &'static Self {
        self.kept_as.unwrap_or(self)
    }

    /// Objects are kept under it, and under no other.
    pub fn is_kept_as_itself(&self) -> bool {
        self.is_kept() && self.kept_as.is_none()
    }

    /// The subresource of this name, if the kind has it.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }
}

/// The kind behind a path such as `/apis/{group}/{version}/{plural}`.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind an object says it is.
pub fn by_name(api_version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|candidate| candidate.kind == kind && candidate.api_version() == api_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_path_and_by_its_name() {
        for kind in KINDS {
            assert_eq!(by_path(kind.group, kind.version, kind.plural), Some(*kind));
            assert_eq!(by_name(&kind.api_version(), kind.kind), Some(*kind));
        }
        assert_eq!(by_path("", "v1", "daemonsets"), None);
        assert_eq!(by_name("apps/v1", "Pod"), None);
        assert_eq!((DAEMON_SET.resource(), POD.resource()), ("daemonsets.apps".to_owned(), "pods".to_owned()));
    }
}
