//! What a manifest file says: text in, admitted DaemonSets, ConfigMaps and Secrets out. Pure.
//!
//! The same decoding, defaults and rules as the control endpoint's, so a manifest that one accepts the other does too.

use std::fmt;

use bytes::Bytes;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::admission::{self, Known, Refusal};
use crate::api::bundle::Bundle;
use crate::api::classes::system_priority_classes;
use crate::api::document::{Document, SyntaxError, parse_yaml};
use crate::api::field::{FieldError, Invalid, Path};
use crate::api::strict::{self, DecodeError};
use crate::api::{core, daemonset, revision};
use crate::model::{ObjectKey, RevisionHash};
use crate::podspec::{ObjectKind, unsupported};

const NO_ACCOUNTS: &str = "there are no service accounts without a control endpoint; set automountServiceAccountToken: false \
                           if the pod does not need a token";

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No YAML.
    #[error("not YAML")]
    Syntax(#[source] SyntaxError),
    /// A kind the agent takes from no file.
    #[error(
        "line {line}: {kind} is not a kind that this agent takes from files; DaemonSet of apps/v1, ConfigMap and Secret of v1 \
         are"
    )]
    Kind {
        /// Where the document begins.
        line: u64,
        /// apiVersion and kind.
        kind: String,
    },
    /// An unknown field, or a value of the wrong type.
    #[error("line {line}")]
    Decode {
        /// Where the document begins.
        line: u64,
        /// Which field.
        #[source]
        source: DecodeError,
    },
    /// Against the rules.
    #[error("line {line}: {kind} {name:?} is invalid")]
    Invalid {
        /// Where the document begins.
        line: u64,
        /// Its kind.
        kind: &'static str,
        /// `metadata.name`.
        name: String,
        /// Which fields.
        #[source]
        source: Invalid,
    },
    /// It names something that is in no file.
    #[error("line {line}: DaemonSet {name:?} is forbidden")]
    Refused {
        /// Where the document begins.
        line: u64,
        /// `metadata.name`.
        name: String,
        /// Why.
        #[source]
        source: Refusal,
    },
}

/// What a file holds, defaulted and checked, in its order.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// They have no uid; a file gives none.
    pub(crate) sets: Vec<Bundle>,
    /// What their pods may use.
    pub(crate) objects: Vec<WrittenObject>,
}

/// A ConfigMap or Secret of a file. Its `Debug` form does not show the content.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WrittenObject {
    pub(crate) kind: ObjectKind,
    pub(crate) key: ObjectKey,
    /// As the API would store it.
    pub(crate) json: Bytes,
}

impl fmt::Debug for WrittenObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// Reads one file.
pub(crate) fn read(text: &str) -> Result<Manifests, ManifestError> {
    let mut manifests = Manifests::default();
    for document in parse_yaml(text).map_err(ManifestError::Syntax)? {
        let body = &document.body;
        let (version, kind) = (body.text("apiVersion").unwrap_or_default(), body.text("kind").unwrap_or_default());
        match (version, kind) {
            ("apps/v1", "DaemonSet") => manifests.sets.push(bundle(&document)?),
            ("v1", "ConfigMap") => manifests.objects.push(config_map(&document)?),
            ("v1", "Secret") => manifests.objects.push(secret(&document)?),
            _ => {
                let kind = format!("{version} {kind}").trim().to_owned();
                return Err(ManifestError::Kind { line: document.line, kind });
            }
        }
    }
    Ok(manifests)
}

fn decode<T: DeserializeOwned>(document: &Document) -> Result<T, ManifestError> {
    let decoded = strict::decode::<T>(&document.body).and_then(strict::Decoded::strict);
    decoded.map_err(|source| ManifestError::Decode { line: document.line, source })
}

fn check(
    document: &Document,
    kind: &'static str,
    metadata: &ObjectMeta,
    errors: Vec<FieldError>,
) -> Result<(), ManifestError> {
    let name = metadata.name.clone().unwrap_or_default();
    Invalid::check(errors).map_err(|source| ManifestError::Invalid { line: document.line, kind, name, source })
}

fn default_namespace(metadata: &mut ObjectMeta) {
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
}

fn bundle(document: &Document) -> Result<Bundle, ManifestError> {
    let mut set: DaemonSet = decode(document)?;
    default_namespace(&mut set.metadata);
    daemonset::default(&mut set);
    check(document, "DaemonSet", &set.metadata, errors(&set))?;
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let hash: RevisionHash = revision::hash(&template, None);
    let mut bundle = Bundle::from_daemonset(&set, hash);
    let name = bundle.name.clone();
    admit(&mut bundle).map_err(|source| ManifestError::Refused { line: document.line, name, source })?;
    Ok(bundle)
}

/// Looks up what the template names. Of classes there are only those that every Kubernetes has.
fn admit(bundle: &mut Bundle) -> Result<(), Refusal> {
    let spec = bundle.template.spec.get_or_insert_default();
    let known = Known { priority_classes: system_priority_classes().collect(), ..Known::default() };
    admission::classes(spec, &known)?;
    bundle.priority = spec.priority.unwrap_or(0);
    Ok(())
}

fn config_map(document: &Document) -> Result<WrittenObject, ManifestError> {
    let mut object: ConfigMap = decode(document)?;
    default_namespace(&mut object.metadata);
    check(document, "ConfigMap", &object.metadata, core::validate_config_map(&object))?;
    Ok(written(ObjectKind::ConfigMap, &object.metadata, &object))
}

fn secret(document: &Document) -> Result<WrittenObject, ManifestError> {
    let mut object: Secret = decode(document)?;
    default_namespace(&mut object.metadata);
    core::default_secret(&mut object);
    check(document, "Secret", &object.metadata, core::validate_secret(&object))?;
    Ok(written(ObjectKind::Secret, &object.metadata, &object))
}

fn written(kind: ObjectKind, metadata: &ObjectMeta, object: &impl Serialize) -> WrittenObject {
    let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
    let json = serde_json::to_vec(object).expect("an object is JSON: its map keys are strings");
    WrittenObject {
        kind,
        key: ObjectKey::new(namespace.unwrap_or_default(), name.unwrap_or_default()),
        json: json.into(),
    }
}

fn errors(set: &DaemonSet) -> Vec<FieldError> {
    let mut errors = daemonset::validate(set);
    if let Some(spec) = &set.spec {
        let at = Path::new("spec.template");
        errors.extend(unsupported(&spec.template, &at));
        errors.extend(spec.template.spec.as_ref().into_iter().flat_map(|spec| accounts(spec, &at.child("spec"))));
    }
    errors
}

/// A pod that names no account gets no token, silently; one that asks for an account or a token is refused.
fn accounts(spec: &PodSpec, at: &Path) -> Option<FieldError> {
    let automount = spec.automount_service_account_token;
    if automount == Some(true) {
        return Some(FieldError::forbidden(&at.child("automountServiceAccountToken"), NO_ACCOUNTS));
    }
    let is_named = automount.is_none() && admission::account(spec) != "default";
    is_named.then(|| FieldError::forbidden(&at.child("serviceAccountName"), NO_ACCOUNTS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Chain;

    const GOOD: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: 'nginx:1'}]
";

    #[test]
    fn a_manifest_becomes_what_control_would_send() {
        let text = format!("{GOOD}---\n{}", GOOD.replace("{name: web}", "{name: b, namespace: c}"));
        let bundles = read(&text).unwrap().sets;
        let keys: Vec<_> = bundles.iter().map(|bundle| bundle.key().to_string()).collect();
        assert_eq!(keys, ["default/web", "c/b"]);
        assert_eq!(bundles[0].revision, bundles[1].revision);
        let spec = bundles[0].template.spec.as_ref().unwrap();
        assert_eq!(spec.termination_grace_period_seconds, Some(30), "defaults are filled in");
    }

    #[test]
    fn configuration_is_taken_as_the_api_would_store_it() {
        let text = "apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {level: debug}
---
apiVersion: v1
kind: Secret
metadata: {name: app, namespace: other}
stringData: {password: hunter2}
";
        let objects = read(text).unwrap().objects;
        assert_eq!(format!("{objects:?}"), "[ConfigMap default/app, Secret other/app]", "no content in logs");
        let secret: serde_json::Value = serde_json::from_slice(&objects[1].json).unwrap();
        assert_eq!((&secret["data"]["password"], &secret["type"]), (&"aHVudGVyMg==".into(), &"Opaque".into()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_field() {
        let cases = [
            ("kind: [", "not YAML: "),
            (&GOOD.replace("apps/v1\nkind: DaemonSet", "v1\nkind: Pod"), "line 1: v1 Pod is not a kind"),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {'..': ''}",
                "line 1: Secret \"a\" is invalid: data[..]: Invalid value: \"..\": must not be '..'",
            ),
            (
                &GOOD.replace("image:", "imaeg:"),
                "line 1: strict decoding error: unknown field \"spec.template.spec.containers[0].imaeg\"",
            ),
            (
                &GOOD.replace("matchLabels: {app: web}", "matchLabels: {app: x}"),
                "line 1: DaemonSet \"web\" is invalid: spec.template.metadata.labels: Invalid value",
            ),
            (
                &GOOD.replace("containers:", "resourceClaims: [{name: c, resourceClaimName: c}]\n      containers:"),
                "spec.template.spec.resourceClaims",
            ),
        ];
        for (text, expected) in cases {
            let error = read(text).unwrap_err();
            let said = Chain(&error).to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
