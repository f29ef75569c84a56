//! Admitting revisions: what a user wrote becomes, once, what nodes get.
//!
//! The record of it is written before a node hears of the revision. A revision that is not admitted is told to nobody: nodes
//! keep the one they have, and an event on the DaemonSet says why. It is tried again whenever the fleet's intent moves.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;

use super::desired::Desired;
use crate::api::admission::{self, Refusal};
use crate::api::bundle::Bundle;
use crate::api::revision;
use crate::control::events;
use crate::control::objects::{AdmittedRecord, ObjectError, Objects};
use crate::control::registry::SUFFIX_LENGTH;
use crate::model::Uid;

/// What became of all DaemonSets.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// What nodes get: the newest revision that was admitted, where there is one.
    pub(super) bundles: Vec<Bundle>,
    /// Why the newest revision was not, by DaemonSet.
    pub(super) refused: HashMap<Uid, String>,
}

/// Admits what is new, and forgets what DaemonSets that are gone were admitted as. `before` is what was told last.
///
/// # Errors
/// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
pub(super) async fn admit(
    objects: &Objects,
    sets: &[DaemonSet],
    before: Option<&Desired>,
) -> Result<Admitted, ObjectError> {
    let mut records: HashMap<_, _> = (objects.admitted().await?.into_iter())
        .map(|record| ((record.daemonset.clone(), record.revision.clone()), record))
        .collect();
    let mut admitted = Admitted::default();
    for set in sets {
        let written = written(set);
        let record = match records.remove(&(written.uid.clone(), written.revision.clone())) {
            Some(record) => Ok(record),
            None => admit_new(objects, &written).await?,
        };
        match record {
            Ok(record) => admitted.bundles.push(as_admitted(written, record)),
            Err(refusal) => {
                let refusal = refusal.to_string();
                admitted
                    .bundles
                    .extend(before.and_then(|before| before.newest(&written.uid)).map(|old| (**old).clone()));
                if before.and_then(|before| before.refused.get(&written.uid)) != Some(&refusal) {
                    let event = events::failed_create(&written.key(), &written.uid, &refusal, Timestamp::now());
                    events::write(objects, &event).await?;
                }
                admitted.refused.insert(written.uid, refusal);
            }
        }
    }
    let there: HashSet<_> = sets.iter().filter_map(|set| set.metadata.uid.as_deref()).collect();
    for (daemonset, revision) in records.keys().filter(|(daemonset, _)| !there.contains(daemonset.as_str())) {
        objects.forget_admitted(daemonset, revision).await?;
    }
    Ok(admitted)
}

async fn admit_new(objects: &Objects, written: &Bundle) -> Result<Result<AdmittedRecord, Refusal>, ObjectError> {
    let mut template = written.template.clone();
    let spec = template.spec.get_or_insert_default();
    let known = objects.known_to_admission(&written.namespace, spec).await?;
    // Stable, so that the volume has the same name in all pods of a revision.
    let suffix: String = written.revision.as_str().chars().take(SUFFIX_LENGTH).collect();
    let runtime_handler = match admission::admit(spec, &written.namespace, &known, &suffix) {
        Ok(handler) => handler,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (daemonset, revision) = (written.uid.clone(), written.revision.clone());
    objects.admit(AdmittedRecord { daemonset, revision, template, runtime_handler }).await.map(Ok)
}

/// The bundle of a revision as it was admitted.
pub(super) fn as_admitted(written: Bundle, record: AdmittedRecord) -> Bundle {
    let AdmittedRecord { template, runtime_handler, .. } = record;
    let priority = template.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    Bundle { template, priority, runtime_handler, ..written }
}

/// The newest revision as the user wrote it.
fn written(set: &DaemonSet) -> Bundle {
    Bundle::from_daemonset(set, revision::of(set))
}
