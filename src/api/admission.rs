//! What admission makes of a pod: the names in it that stand for other objects are looked up once and written in.
//!
//! Pure: the caller looks the objects up. Control admits each revision of a DaemonSet once, and each pod that is posted;
//! later changes of a class touch neither. The agent admits what it reads from files, for which there are only the classes
//! that every Kubernetes has.
//!
//! Source: kubernetes v1.36, `plugin/pkg/admission/{serviceaccount,priority,runtimeclass}/admission.go`. We differ in that a DaemonSet is
//! admitted with its pods' template, not each of its pods, so its place is judged with what a RuntimeClass adds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, PodSpec,
    ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Toleration, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::classes::PREEMPT;
use super::quantity::Quantity;

/// The account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";
/// Where a pod finds the token of its account.
const ACCESS_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The volume that holds it is called so, with a suffix.
const ACCESS_PREFIX: &str = "kube-api-access-";
/// An hour, and a few seconds by which whoever asks is told apart from people.
const TOKEN_SECS: i64 = 3607;
/// The ConfigMap by which pods know the API's certificate.
const ROOT_CA: &str = "kube-root-ca.crt";
/// `defaultMode` of files in volumes: 0644.
const FILE_MODE: i32 = 0o644;
/// Taints of a node that does not work, which a posted pod tolerates for so many seconds.
const FOR_A_WHILE: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const WHILE_SECS: i64 = 300;

/// Why a pod is not admitted, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `serviceAccountName` names nothing.
    #[error("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found")]
    NoServiceAccount {
        /// Of the pod.
        namespace: String,
        /// The account.
        name: String,
    },
    /// `priorityClassName` names nothing.
    #[error("no PriorityClass with name {0} was found")]
    NoPriorityClass(String),
    /// `priority` is not what the class says.
    #[error(
        "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed \
         {computed} from the given PriorityClass name"
    )]
    Priority {
        /// In the pod.
        given: i32,
        /// By the class.
        computed: i32,
    },
    /// `preemptionPolicy` is not what the class says.
    #[error(
        "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller \
         computed {computed} from the given PriorityClass name"
    )]
    PreemptionPolicy {
        /// In the pod.
        given: String,
        /// By the class.
        computed: String,
    },
    /// `runtimeClassName` names nothing.
    #[error("pod rejected: RuntimeClass {0:?} not found")]
    NoRuntimeClass(String),
    /// `overhead` is not what the class says.
    #[error("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")]
    OtherOverhead,
    /// `overhead` without a class that has one.
    #[error("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")]
    Overhead,
    /// The class runs on other nodes than the pod.
    #[error("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {class}; pod.spec.nodeSelector[{key}] = {pod}")]
    NodeSelector {
        /// The label.
        key: String,
        /// By the class.
        class: String,
        /// By the pod.
        pod: String,
    },
}

/// What a pod's admission depends on.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The ServiceAccount that the pod names: [`account`].
    pub service_account: Option<ServiceAccount>,
    /// All PriorityClasses.
    pub priority_classes: Vec<PriorityClass>,
    /// The RuntimeClass that the pod names.
    pub runtime_class: Option<RuntimeClass>,
}

/// Lets a posted pod stay on a node that does not work, for five minutes, unless it says something of that itself. A DaemonSet's
/// pod stays anyway.
///
/// Source: kubernetes v1.36 `plugin/pkg/admission/defaulttolerationseconds/admission.go`.
pub fn tolerate_for_a_while(spec: &mut PodSpec) {
    let own = spec.tolerations.get_or_insert_default();
    for key in FOR_A_WHILE {
        let is_or_any =
            |field: &Option<String>, wanted: &str| field.as_deref().is_none_or(|one| one.is_empty() || one == wanted);
        if !own.iter().any(|one| is_or_any(&one.key, key) && is_or_any(&one.effect, "NoExecute")) {
            own.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(WHILE_SECS),
                ..Toleration::default()
            });
        }
    }
}

/// The name of the account a pod runs as.
pub fn account(spec: &PodSpec) -> &str {
    spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_ACCOUNT)
}

/// Admits a pod of a namespace; gives CRI's runtime handler, if it names one. `suffix` makes the name of the volume with
/// its account's token.
///
/// # Errors
/// The first [`Refusal`], in upstream's order. `spec` may have been changed in part.
pub fn admit(spec: &mut PodSpec, namespace: &str, known: &Known, suffix: &str) -> Result<Option<String>, Refusal> {
    let Some(account) = &known.service_account else {
        let (namespace, name) = (namespace.to_owned(), account(spec).to_owned());
        return Err(Refusal::NoServiceAccount { namespace, name });
    };
    service_account(spec, account, suffix);
    classes(spec, known)
}

/// Gives the pod its account's name, token and pull secrets.
fn service_account(spec: &mut PodSpec, known: &ServiceAccount, suffix: &str) {
    let name = account(spec).to_owned();
    spec.service_account_name = Some(name.clone());
    spec.service_account = Some(name);
    let automount = spec.automount_service_account_token.or(known.automount_service_account_token);
    if automount.unwrap_or(true) {
        mount_access(spec, suffix);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = known.image_pull_secrets.clone().filter(|secrets| !secrets.is_empty());
    }
}

/// Mounts the token into every container that has nothing in its place.
fn mount_access(spec: &mut PodSpec, suffix: &str) {
    let existing = spec.volumes.iter().flatten().find(|volume| volume.name.starts_with(ACCESS_PREFIX));
    let is_there = existing.is_some();
    let name = existing.map_or_else(|| format!("{ACCESS_PREFIX}{suffix}"), |volume| volume.name.clone());
    let mut is_needed = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().any(|mount| mount.mount_path == ACCESS_PATH) {
            continue;
        }
        is_needed = true;
        mounts.push(VolumeMount {
            mount_path: ACCESS_PATH.to_owned(),
            name: name.clone(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    if is_needed && !is_there {
        spec.volumes.get_or_insert_default().push(access(name));
    }
}

/// What a pod needs to speak to the API: a token, the API's certificate, its own namespace.
fn access(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: None,
        expiration_seconds: Some(TOKEN_SECS),
        path: "token".to_owned(),
    };
    let certificate = KeyToPath { key: "ca.crt".to_owned(), mode: None, path: "ca.crt".to_owned() };
    let config_map = ConfigMapProjection { items: Some(vec![certificate]), name: ROOT_CA.to_owned(), optional: None };
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: "metadata.namespace".to_owned() };
    let file = DownwardAPIVolumeFile {
        field_ref: Some(field),
        path: "namespace".to_owned(),
        ..DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(config_map), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![file]) }),
            ..VolumeProjection::default()
        },
    ];
    let projected = ProjectedVolumeSource { default_mode: Some(FILE_MODE), sources: Some(sources) };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

/// Resolves both classes; gives CRI's runtime handler, if the pod names one.
///
/// # Errors
/// The first [`Refusal`], in upstream's order.
pub fn classes(spec: &mut PodSpec, known: &Known) -> Result<Option<String>, Refusal> {
    priority(spec, &known.priority_classes)?;
    runtime_class(spec, known.runtime_class.as_ref())
}

/// Resolves the priority. `classes` are all there are.
///
/// # Errors
/// [`Refusal`], and `spec` is as it was.
fn priority(spec: &mut PodSpec, classes: &[PriorityClass]) -> Result<(), Refusal> {
    let name = spec.priority_class_name.as_deref().filter(|name| !name.is_empty());
    let class = match name {
        Some(wanted) => {
            let found = classes.iter().find(|class| class.metadata.name.as_deref() == Some(wanted));
            Some(found.ok_or_else(|| Refusal::NoPriorityClass(wanted.to_owned()))?)
        }
        // If several claim to be the default, the lowest is.
        None => classes.iter().filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value),
    };
    let computed = class.and_then(|class| class.value).unwrap_or(0);
    if let Some(given) = spec.priority.filter(|given| *given != computed) {
        return Err(Refusal::Priority { given, computed });
    }
    let policy = class.and_then(|class| class.preemption_policy.as_deref()).unwrap_or(PREEMPT);
    if let Some(given) = spec.preemption_policy.as_deref().filter(|given| *given != policy) {
        return Err(Refusal::PreemptionPolicy { given: given.to_owned(), computed: policy.to_owned() });
    }
    spec.priority = Some(computed);
    spec.preemption_policy = Some(policy.to_owned());
    if let Some(class) = class {
        spec.priority_class_name.clone_from(&class.metadata.name);
    }
    Ok(())
}

/// Resolves the runtime class; gives CRI's handler, if the pod names a class. `class` is the one of that name.
///
/// # Errors
/// [`Refusal`], and `spec` is as it was.
fn runtime_class(spec: &mut PodSpec, class: Option<&RuntimeClass>) -> Result<Option<String>, Refusal> {
    let wanted = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty());
    let class = match (wanted, class) {
        (Some(wanted), None) => return Err(Refusal::NoRuntimeClass(wanted.to_owned())),
        (Some(_), class) => class,
        (None, _) => None,
    };
    let given = spec.overhead.as_ref().filter(|overhead| !overhead.is_empty());
    let overhead = class.and_then(|class| class.overhead.as_ref()?.pod_fixed.as_ref());
    match (given, overhead) {
        (Some(_), None) => return Err(Refusal::Overhead),
        (Some(given), Some(overhead)) if !same_amounts(given, overhead) => return Err(Refusal::OtherOverhead),
        _ => {}
    }
    let scheduling = class.and_then(|class| class.scheduling.as_ref());
    let node_selector = scheduling.and_then(|scheduling| scheduling.node_selector.as_ref());
    for (key, value) in node_selector.into_iter().flatten() {
        if let Some(pod) = spec.node_selector.as_ref().and_then(|own| own.get(key)).filter(|pod| *pod != value) {
            return Err(Refusal::NodeSelector { key: key.clone(), class: value.clone(), pod: pod.clone() });
        }
    }
    if let Some(overhead) = overhead {
        spec.overhead = Some(overhead.clone());
    }
    if let Some(node_selector) = node_selector {
        spec.node_selector.get_or_insert_default().extend(node_selector.clone());
    }
    if let Some(tolerations) = scheduling.and_then(|scheduling| scheduling.tolerations.as_ref()) {
        add_tolerations(spec.tolerations.get_or_insert_default(), tolerations);
    }
    Ok(class.map(|class| class.handler.clone()))
}

/// Those that are there already are not added. Ones that cover less than others are kept, unlike upstream: they do no harm.
fn add_tolerations(own: &mut Vec<Toleration>, others: &[Toleration]) {
    for other in others {
        if !own.contains(other) {
            own.push(other.clone());
        }
    }
}

/// Amounts are the same however they are written.
fn same_amounts(a: &BTreeMap<String, QuantityText>, b: &BTreeMap<String, QuantityText>) -> bool {
    let read = |amounts: &BTreeMap<String, QuantityText>| -> BTreeMap<String, Option<Quantity>> {
        amounts.iter().map(|(name, QuantityText(text))| (name.clone(), text.parse().ok())).collect()
    };
    read(a) == read(b)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::classes::system_priority_classes;

    fn spec(fields: &Value) -> PodSpec {
        let mut object = json!({"containers": []});
        object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn class(name: &str, value: i32, fields: &Value) -> PriorityClass {
        let mut object = json!({"metadata": {"name": name}, "value": value});
        object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_posted_pod_tolerates_a_node_that_does_not_work_for_a_while() {
        let admitted = |tolerations: Value| {
            let mut spec = spec(&json!({"tolerations": tolerations}));
            tolerate_for_a_while(&mut spec);
            json!(spec.tolerations)
        };
        let added =
            |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let [not_ready, unreachable] = FOR_A_WHILE.map(added);
        assert_eq!(admitted(json!([])), json!([not_ready, unreachable]));
        let own = json!({"key": FOR_A_WHILE[1], "operator": "Exists", "tolerationSeconds": 5});
        assert_eq!(admitted(json!([own])), json!([own, not_ready]));
        let other = json!({"key": FOR_A_WHILE[0], "operator": "Exists", "effect": "NoSchedule"});
        assert_eq!(admitted(json!([other])), json!([other, not_ready, unreachable]));
        let any = json!({"operator": "Exists"});
        assert_eq!(admitted(json!([any])), json!([any]));
    }

    #[test]
    fn a_priority_comes_from_a_class() {
        let mut classes: Vec<_> = system_priority_classes().collect();
        classes.push(class("gold", 7, &json!({"preemptionPolicy": "Never"})));
        let admit = |fields: Value, classes: &[PriorityClass]| {
            let mut spec = spec(&fields);
            priority(&mut spec, classes).map_err(|refusal| refusal.to_string())?;
            Ok((spec.priority.unwrap(), spec.preemption_policy.unwrap(), spec.priority_class_name))
        };
        let admitted = |value: i32, policy: &str, name: Option<&str>| {
            Ok::<_, String>((value, policy.to_owned(), name.map(str::to_owned)))
        };
        assert_eq!(admit(json!({}), &classes), admitted(0, PREEMPT, None));
        assert_eq!(admit(json!({"priorityClassName": "gold"}), &classes), admitted(7, "Never", Some("gold")));
        let critical = json!({"priorityClassName": "system-node-critical", "priority": 2_000_001_000});
        assert_eq!(admit(critical, &classes), admitted(2_000_001_000, PREEMPT, Some("system-node-critical")));
        assert_eq!(
            admit(json!({"priorityClassName": "none"}), &classes),
            Err("no PriorityClass with name none was found".to_owned())
        );
        assert_eq!(
            admit(json!({"priorityClassName": "gold", "priority": 8}), &classes),
            Err("the integer value of priority (8) must not be provided in pod spec; priority admission controller computed 7 \
                 from the given PriorityClass name"
                .to_owned())
        );
        assert_eq!(
            admit(json!({"priorityClassName": "gold", "preemptionPolicy": PREEMPT}), &classes),
            Err("the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority \
                 admission controller computed Never from the given PriorityClass name"
                .to_owned())
        );
        classes.extend([
            class("high", 9, &json!({"globalDefault": true})),
            class("low", 3, &json!({"globalDefault": true})),
        ]);
        assert_eq!(admit(json!({}), &classes), admitted(3, PREEMPT, Some("low")));
    }

    #[test]
    fn an_account_brings_its_token_and_its_pull_secrets() {
        let admit = |spec_fields: Value, account: Value| {
            let mut spec = spec(&spec_fields);
            let service_account = serde_json::from_value(account).unwrap();
            admit(&mut spec, "default", &Known { service_account, ..Known::default() }, "abcde")
                .map_err(|refusal| refusal.to_string())?;
            Ok::<_, String>(serde_json::to_value(spec).unwrap())
        };
        let mounts = |spec: &Value, containers: &str| -> Vec<String> {
            let containers = spec[containers].as_array().into_iter().flatten();
            containers.map(|one| one["volumeMounts"].to_string()).collect()
        };
        let two = json!({
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": ACCESS_PATH}]}],
            "initContainers": [{"name": "i"}],
        });
        let account = json!({"imagePullSecrets": [{"name": "registry"}]});
        let admitted = admit(two.clone(), account.clone()).unwrap();
        let mount = r#"[{"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","name":"kube-api-access-abcde","readOnly":true}]"#;
        let own = r#"[{"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","name":"own"}]"#;
        assert_eq!(mounts(&admitted, "containers"), [mount, own]);
        assert_eq!(mounts(&admitted, "initContainers"), [mount]);
        assert_eq!(
            admitted["volumes"],
            json!([{"name": "kube-api-access-abcde", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ]}}])
        );
        assert_eq!(admitted["imagePullSecrets"], json!([{"name": "registry"}]));
        assert_eq!(
            (&admitted["serviceAccountName"], &admitted["serviceAccount"]),
            (&json!("default"), &json!("default"))
        );
        assert_eq!(admit(admitted.clone(), account), Ok(admitted), "admitting twice changes nothing");

        // Who mounts it: the pod says, else its account.
        let has_volume = |spec: Value, account: Value| admit(spec, account).unwrap()["volumes"].is_array();
        let with = |automount: bool| json!({"automountServiceAccountToken": automount, "containers": [{"name": "a"}]});
        assert!(!has_volume(with(false), json!({})) && has_volume(with(true), with(false)));
        assert!(!has_volume(json!({"containers": [{"name": "a"}]}), with(false)));
        let named = json!({"serviceAccountName": "web", "imagePullSecrets": [{"name": "mine"}]});
        assert_eq!(
            admit(named.clone(), Value::Null),
            Err("error looking up service account default/web: serviceaccount \"web\" not found".to_owned())
        );
        let own_secrets = admit(named, json!({"imagePullSecrets": [{"name": "registry"}]})).unwrap();
        assert_eq!(own_secrets["imagePullSecrets"], json!([{"name": "mine"}]));
    }

    #[test]
    fn a_runtime_class_brings_its_handler_its_overhead_and_its_nodes() {
        let gvisor: RuntimeClass = serde_json::from_value(json!({
            "metadata": {"name": "gvisor"}, "handler": "runsc", "overhead": {"podFixed": {"memory": "1Gi"}},
            "scheduling": {
                "nodeSelector": {"runsc": "true"}, "tolerations": [{"key": "runsc", "operator": "Exists"}],
            },
        }))
        .unwrap();
        let admit = |fields: Value, class: Option<&RuntimeClass>| {
            let mut spec = spec(&fields);
            let handler = runtime_class(&mut spec, class).map_err(|refusal| refusal.to_string())?;
            Ok::<_, String>((handler, spec))
        };
        assert_eq!(admit(json!({}), None), Ok((None, spec(&json!({})))));
        let named = json!({"runtimeClassName": "gvisor", "nodeSelector": {"a": "b"}, "overhead": {"memory": "1024Mi"}});
        let expected = spec(&json!({
            "runtimeClassName": "gvisor", "overhead": {"memory": "1Gi"}, "nodeSelector": {"a": "b", "runsc": "true"},
            "tolerations": [{"key": "runsc", "operator": "Exists"}],
        }));
        let (handler, admitted) = admit(named, Some(&gvisor)).unwrap();
        assert_eq!((handler.as_deref(), &admitted), (Some("runsc"), &expected));
        let mut again = admitted.clone();
        runtime_class(&mut again, Some(&gvisor)).unwrap();
        assert_eq!(again, admitted, "admitting twice changes nothing");
        for (fields, class, expected) in [
            (json!({"runtimeClassName": "kata"}), None, "pod rejected: RuntimeClass \"kata\" not found"),
            (
                json!({"runtimeClassName": "gvisor", "overhead": {"memory": "1"}}),
                Some(&gvisor),
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ),
            (
                json!({"overhead": {"memory": "1"}}),
                None,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            (
                json!({"runtimeClassName": "gvisor", "nodeSelector": {"runsc": "false"}}),
                Some(&gvisor),
                "conflict: runtimeClass.scheduling.nodeSelector[runsc] = true; pod.spec.nodeSelector[runsc] = false",
            ),
        ] {
            assert_eq!(admit(fields, class), Err(expected.to_owned()));
        }
    }
}
