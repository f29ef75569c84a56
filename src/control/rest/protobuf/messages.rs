//! The messages of Kubernetes' kinds: which number stands for which field, and what is in it.
//!
//! Constant data, one line a message. A field is written `number name type`:
//!
//! | type | in the message | in JSON |
//! |---|---|---|
//! | `text`, `int`, `bool` | string, varint | as it is |
//! | `bytes` | bytes | base64 |
//! | `json` | a message of bytes | the JSON in them |
//! | `quantity`, `time`, `micro_time`, `int_or_string` | the message of that name | a string; a number or a string |
//! | `strings` | a message of one repeated string | a list of strings |
//! | `NAME` | that message | an object |
//! | `[type]`, `{type}` | repeated; a map with string keys | a list; an object |
//! | `(type)` | what Go has a pointer to | a zero that is sent is meant |
//!
//! The field name `_` is one whose own fields JSON has in its place. Numbers are never reused, so what is here stays true.
//!
//! Source: kubernetes v1.36, the struct tags in `k8s.io/api/*/v1/types.go` and `k8s.io/apimachinery`.

mod core;
mod groups;
mod meta;
mod pod;

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub number: u32,
    /// As in JSON; `_` if JSON has the fields of this one in its place.
    pub name: &'static str,
    pub content: Content,
    /// A zero value is not as if nothing was said.
    pub pointer: bool,
}

/// What a field holds.
#[derive(Debug)]
pub(super) enum Content {
    Text,
    Int,
    Bool,
    Bytes,
    Json,
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    Strings,
    Message(&'static Message),
    List(&'static Content),
    Map(&'static Content),
}

macro_rules! messages {
    ($($message:ident { $($number:literal $name:tt $content:tt),* $(,)? })*) => {$(
        pub(super) static $message: super::Message = super::Message {
            fields: &[$(super::Field {
                number: $number,
                name: stringify!($name),
                content: messages!(@content $content),
                pointer: messages!(@pointer $content),
            }),*],
        };
    )*};
    (@content text) => { super::Content::Text };
    (@content int) => { super::Content::Int };
    (@content bool) => { super::Content::Bool };
    (@content bytes) => { super::Content::Bytes };
    (@content json) => { super::Content::Json };
    (@content quantity) => { super::Content::Quantity };
    (@content time) => { super::Content::Time };
    (@content micro_time) => { super::Content::MicroTime };
    (@content int_or_string) => { super::Content::IntOrString };
    (@content strings) => { super::Content::Strings };
    (@content $message:ident) => { super::Content::Message(&$message) };
    (@content [$item:tt]) => { super::Content::List(&messages!(@content $item)) };
    (@content {$item:tt}) => { super::Content::Map(&messages!(@content $item)) };
    (@content ($content:tt)) => { messages!(@content $content) };
    (@pointer ($content:tt)) => { true };
    (@pointer $content:tt) => { false };
}
use messages;

/// The message of a kind; none for what is not known here.
pub(super) fn message_of(api_version: &str, kind: &str) -> Option<&'static Message> {
    Some(match (api_version, kind) {
        // Every group has the options of its own deletions.
        (_, "DeleteOptions") => &meta::DELETE_OPTIONS,
        ("v1", "Binding") => &core::BINDING,
        ("v1", "ConfigMap") => &core::CONFIG_MAP,
        ("v1", "Endpoints") => &core::ENDPOINTS,
        ("v1", "Event") => &core::EVENT,
        ("v1", "Namespace") => &core::NAMESPACE,
        ("v1", "Node") => &core::NODE,
        ("v1", "Pod") => &core::POD,
        ("v1", "Secret") => &core::SECRET,
        ("v1", "Service") => &core::SERVICE,
        ("v1", "ServiceAccount") => &core::SERVICE_ACCOUNT,
        ("apps/v1", "ControllerRevision") => &groups::CONTROLLER_REVISION,
        ("apps/v1", "DaemonSet") => &groups::DAEMON_SET,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => &groups::SELF_SUBJECT_REVIEW,
        ("authentication.k8s.io/v1", "TokenRequest") => &groups::TOKEN_REQUEST,
        ("authentication.k8s.io/v1", "TokenReview") => &groups::TOKEN_REVIEW,
        ("authorization.k8s.io/v1", "LocalSubjectAccessReview") => &groups::LOCAL_SUBJECT_ACCESS_REVIEW,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => &groups::SELF_SUBJECT_ACCESS_REVIEW,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => &groups::SELF_SUBJECT_RULES_REVIEW,
        ("authorization.k8s.io/v1", "SubjectAccessReview") => &groups::SUBJECT_ACCESS_REVIEW,
        ("certificates.k8s.io/v1", "CertificateSigningRequest") => &groups::CERTIFICATE_SIGNING_REQUEST,
        ("coordination.k8s.io/v1", "Lease") => &groups::LEASE,
        ("discovery.k8s.io/v1", "EndpointSlice") => &groups::ENDPOINT_SLICE,
        ("events.k8s.io/v1", "Event") => &groups::NEW_EVENT,
        ("networking.k8s.io/v1", "NetworkPolicy") => &groups::NETWORK_POLICY,
        ("node.k8s.io/v1", "RuntimeClass") => &groups::RUNTIME_CLASS,
        ("policy/v1", "Eviction") => &groups::EVICTION,
        ("policy/v1", "PodDisruptionBudget") => &groups::POD_DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => &groups::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => &groups::CLUSTER_ROLE_BINDING,
        ("rbac.authorization.k8s.io/v1", "Role") => &groups::ROLE,
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => &groups::ROLE_BINDING,
        ("scheduling.k8s.io/v1", "PriorityClass") => &groups::PRIORITY_CLASS,
        _ => return None,
    })
}
