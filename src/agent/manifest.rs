//! What a manifest file says: text in, admitted DaemonSets out. Pure.
//!
//! The same decoding, defaults and rules as the control endpoint's, so a manifest that one accepts the other does too.

use k8s_openapi::api::apps::v1::DaemonSet;

use crate::api::admission::{self, Known, Refusal};
use crate::api::bundle::Bundle;
use crate::api::classes::system_priority_classes;
use crate::api::document::{Document, SyntaxError, parse_yaml};
use crate::api::field::{FieldError, Invalid, Path};
use crate::api::strict::{self, DecodeError};
use crate::api::{daemonset, revision};
use crate::model::RevisionHash;
use crate::podspec::unsupported;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No YAML.
    #[error("not YAML")]
    Syntax(#[source] SyntaxError),
    /// A kind the agent takes from no file.
    #[error("line {line}: {kind} is not a kind that this agent runs from files; only DaemonSet of apps/v1 is")]
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
    #[error("line {line}: DaemonSet {name:?} is invalid")]
    Invalid {
        /// Where the document begins.
        line: u64,
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

/// The DaemonSets of one file, defaulted and checked, in its order. They have no uid; a file gives none.
pub(super) fn bundles(text: &str) -> Result<Vec<Bundle>, ManifestError> {
    parse_yaml(text).map_err(ManifestError::Syntax)?.iter().map(bundle).collect()
}

fn bundle(document: &Document) -> Result<Bundle, ManifestError> {
    let (line, body) = (document.line, &document.body);
    let (version, kind) = (body.text("apiVersion").unwrap_or_default(), body.text("kind").unwrap_or_default());
    if (version, kind) != ("apps/v1", "DaemonSet") {
        return Err(ManifestError::Kind { line, kind: format!("{version} {kind}").trim().to_owned() });
    }
    let decoded = strict::decode::<DaemonSet>(body).and_then(strict::Decoded::strict);
    let mut set = decoded.map_err(|source| ManifestError::Decode { line, source })?;
    set.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    daemonset::default(&mut set);
    let name = set.metadata.name.clone().unwrap_or_default();
    Invalid::check(errors(&set)).map_err(|source| ManifestError::Invalid { line, name: name.clone(), source })?;
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let hash: RevisionHash = revision::hash(&template, None);
    let mut bundle = Bundle::from_daemonset(&set, hash);
    admit(&mut bundle).map_err(|source| ManifestError::Refused { line, name, source })?;
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

fn errors(set: &DaemonSet) -> Vec<FieldError> {
    let mut errors = daemonset::validate(set);
    if let Some(spec) = &set.spec {
        errors.extend(unsupported(&spec.template, &Path::new("spec").child("template")));
    }
    errors
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
        let bundles =
            bundles(&format!("{GOOD}---\n{}", GOOD.replace("{name: web}", "{name: b, namespace: c}"))).unwrap();
        let keys: Vec<_> = bundles.iter().map(|bundle| bundle.key().to_string()).collect();
        assert_eq!(keys, ["default/web", "c/b"]);
        assert_eq!(bundles[0].revision, bundles[1].revision);
        let spec = bundles[0].template.spec.as_ref().unwrap();
        assert_eq!(spec.termination_grace_period_seconds, Some(30), "defaults are filled in");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_field() {
        let cases = [
            ("kind: [", "not YAML: "),
            (&GOOD.replace("apps/v1\nkind: DaemonSet", "v1\nkind: Secret"), "line 1: v1 Secret is not a kind"),
            (
                &GOOD.replace("image:", "imaeg:"),
                "line 1: strict decoding error: unknown field \"spec.template.spec.containers[0].imaeg\"",
            ),
            (
                &GOOD.replace("matchLabels: {app: web}", "matchLabels: {app: x}"),
                "line 1: DaemonSet \"web\" is invalid: spec.template.metadata.labels: Invalid value",
            ),
            (
                &GOOD.replace("containers:", "initContainers: [{name: i, image: 'x:1'}]\n      containers:"),
                "spec.template.spec.initContainers",
            ),
        ];
        for (text, expected) in cases {
            let error = bundles(text).unwrap_err();
            let said = Chain(&error).to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
