//! Environment variables, and `$(NAME)` in them, in commands and in arguments.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go` (`makeEnvironmentVariables`),
//! `third_party/forked/golang/expansion/expand.go`, `pkg/api/v1/resource/helpers.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;

use super::resources::{Amounts, CPU};
use super::text::{Part, Text};
use super::{EnvVar, HostFacts};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;
use crate::model::PodKey;

/// Every pod runs under this account: others have no tokens here.
const SERVICE_ACCOUNT: &str = "default";

/// What variables can refer to.
pub(super) struct Sources<'a> {
    pub(super) key: &'a PodKey,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) host_network: bool,
    /// Name and amounts of every container of the pod.
    pub(super) containers: Vec<(&'a str, &'a Amounts)>,
    pub(super) host: &'a HostFacts,
}

/// The variables of one container. A name that is given twice has the later value.
pub(super) fn variables(
    container: &k8s::Container,
    sources: &Sources<'_>,
    at: &Path,
) -> Result<Vec<EnvVar>, FieldError> {
    let mut variables: Vec<EnvVar> = Vec::new();
    for (index, written) in container.env.iter().flatten().enumerate() {
        let at = at.child("env").index(index);
        let value = match (written.value.as_deref(), &written.value_from) {
            (None | Some(""), Some(source)) => sourced(source, &container.name, sources, &at.child("valueFrom"))?,
            (value, _) => expand(value.unwrap_or_default(), &variables),
        };
        match variables.iter_mut().find(|variable| variable.name == written.name) {
            Some(variable) => variable.value = value,
            None => variables.push(EnvVar { name: written.name.clone(), value }),
        }
    }
    Ok(variables)
}

/// Puts the values of variables in place of `$(NAME)`. An unknown name stays as it is; `$$` is one `$`.
pub(super) fn expand(text: &str, variables: &[EnvVar]) -> Text {
    let mut expanded = Text::default();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, from) = rest.split_at(dollar);
        expanded.push(Part::Literal(before.to_owned()));
        let after = &from[1..];
        let reference = after.strip_prefix('(').and_then(|name| name.split_once(')'));
        rest = if let Some((name, behind)) = reference {
            match variables.iter().find(|variable| variable.name == name) {
                Some(variable) => expanded.push_text(&variable.value),
                None => expanded.push(Part::Literal(format!("$({name})"))),
            }
            behind
        } else {
            expanded.push(Part::Literal("$".to_owned()));
            after.strip_prefix('$').unwrap_or(after)
        };
    }
    expanded.push(Part::Literal(rest.to_owned()));
    expanded
}

fn sourced(source: &k8s::EnvVarSource, container: &str, sources: &Sources<'_>, at: &Path) -> Result<Text, FieldError> {
    if let Some(field) = &source.field_ref {
        let text = field_ref(&field.field_path, sources);
        return text.ok_or_else(|| not_a_field(&at.child("fieldRef").child("fieldPath"), &field.field_path));
    }
    match &source.resource_field_ref {
        Some(resource) => resource_field_ref(resource, container, sources, &at.child("resourceFieldRef")),
        None => Err(FieldError::required(at, "must specify one of: `fieldRef` or `resourceFieldRef`")),
    }
}

fn not_a_field(at: &Path, field: &str) -> FieldError {
    FieldError::invalid(at, field, "error converting fieldPath: field label not supported")
}

/// The value of a field of the pod; none if there is no such field.
fn field_ref(path: &str, sources: &Sources<'_>) -> Option<Text> {
    let Sources { key, host, .. } = sources;
    let ips = || host.ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let first_ip = || host.ips.first().map(ToString::to_string).unwrap_or_default();
    let literal = |text: &str| Some(Text::from(text));
    match path {
        "metadata.name" => literal(&key.name),
        "metadata.namespace" => literal(&key.namespace),
        "metadata.uid" => literal(key.uid.as_str()),
        "spec.nodeName" => literal(host.node_name.as_str()),
        "spec.serviceAccountName" => literal(SERVICE_ACCOUNT),
        "status.hostIP" => literal(&first_ip()),
        "status.hostIPs" => literal(&ips().join(",")),
        "status.podIP" if sources.host_network => literal(&first_ip()),
        "status.podIPs" if sources.host_network => literal(&ips().join(",")),
        "status.podIP" => Some(Part::PodIp.into()),
        "status.podIPs" => Some(Part::PodIps.into()),
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = match map {
                "metadata.labels" => sources.labels,
                "metadata.annotations" => sources.annotations,
                _ => return None,
            };
            literal(map.get(key).map_or("", String::as_str))
        }
    }
}

/// A request or limit, divided and rounded up. A limit that is not set is what the node has for pods.
fn resource_field_ref(
    written: &k8s::ResourceFieldSelector,
    container: &str,
    sources: &Sources<'_>,
    at: &Path,
) -> Result<Text, FieldError> {
    let container = written.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(container);
    let found = sources.containers.iter().find(|(name, _)| *name == container);
    let (_, amounts) = found.ok_or_else(|| FieldError::not_found(&at.child("containerName"), container))?;
    let (kind, resource) = written.resource.split_once('.').unwrap_or_default();
    let amount = match kind {
        "requests" => amounts.request(resource),
        "limits" => match amounts.limit(resource) {
            0 => sources.host.allocatable.get(resource).copied().unwrap_or(0),
            limit => limit,
        },
        _ => {
            return Err(FieldError::invalid(
                &at.child("resource"),
                written.resource.as_str(),
                "unsupported container resource",
            ));
        }
    };
    let divisor = divisor(written, resource == CPU, &at.child("divisor"))?;
    Ok(amount.div_ceil(divisor).to_string().as_str().into())
}

/// The divisor in the unit of the amount it divides; one whole unit if none is given.
fn divisor(written: &k8s::ResourceFieldSelector, is_cpu: bool, at: &Path) -> Result<u64, FieldError> {
    let text = written.divisor.as_ref().map_or("", |divisor| divisor.0.as_str());
    let quantity: Quantity = match text {
        "" | "0" => Quantity::from_units(1),
        text => text.parse().map_err(|error| FieldError::invalid(at, text, format!("{error}")))?,
    };
    let value = if is_cpu { quantity.milli_value() } else { quantity.value() };
    u64::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(|| FieldError::invalid(at, text, "must be greater than 0"))
}
