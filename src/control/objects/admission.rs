//! What admission needs of other objects, and the record of what it made of a revision.
//!
//! A DaemonSet that names a class which does not exist is refused when it is written. What its template comes to is written
//! down once for each revision, by [`sessions`](crate::control::sessions), and stays: no later change of a class, and no
//! newer version of control, makes anything else of it.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::pods::PostedPod;
use super::records::{parse, record};
use super::{ListOptions, ObjectError, Objects, keys};
use crate::api::admission::{self, Known, Refusal};
use crate::api::revision::same_template;
use crate::control::kinds::{DAEMON_SET, Kind, POD, PRIORITY_CLASS, RUNTIME_CLASS, SERVICE_ACCOUNT};
use crate::control::meta;
use crate::control::registry;
use crate::model::{RevisionHash, Uid};
use crate::store::{Condition, StoreError, Write};

/// A revision of a DaemonSet as it was admitted. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmittedRecord {
    /// `metadata.uid` of the DaemonSet.
    pub daemonset: Uid,
    /// The revision, named by what the user wrote.
    pub revision: RevisionHash,
    /// The template with everything written in that was looked up.
    pub template: PodTemplateSpec,
    /// CRI's runtime handler; none is the runtime's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_handler: Option<String>,
}

impl Objects {
    /// What admission has to know for a pod of this namespace and spec.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn known_to_admission(&self, namespace: &str, spec: &PodSpec) -> Result<Known, ObjectError> {
        let service_account = self.named(&SERVICE_ACCOUNT, namespace, admission::account(spec)).await?;
        let classes = self.list(&PRIORITY_CLASS, ListOptions::default()).await?.items;
        let runtime_class = match spec.runtime_class_name.as_deref() {
            Some(name) if !name.is_empty() => self.named(&RUNTIME_CLASS, "", name).await?,
            _ => None,
        };
        let priority_classes = classes.into_iter().filter_map(|class| typed(&PRIORITY_CLASS, class)).collect();
        Ok(Known { service_account, priority_classes, runtime_class })
    }

    async fn named<T: DeserializeOwned>(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, ObjectError> {
        match self.get(kind, namespace, name).await {
            Ok(object) => Ok(typed(kind, object)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Admits a pod that is posted: everything it names is looked up and written in. Nothing for other kinds.
    ///
    /// # Errors
    /// [`ObjectError::Forbidden`] in the words of Kubernetes' admission.
    pub(super) async fn admit_pod(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: &mut Value,
    ) -> Result<Option<PostedPod>, ObjectError> {
        if *kind != POD {
            return Ok(None);
        }
        self.open_namespace(kind, namespace, meta::name(object)).await?;
        // What is no pod is for validation to tell.
        let Ok(mut spec) = PodSpec::deserialize(&object["spec"]) else { return Ok(None) };
        let known = self.known_to_admission(namespace, &spec).await?;
        let suffix = registry::name_suffix(Uuid::new_v4().as_u128());
        admission::tolerate_for_a_while(&mut spec);
        let admitted = admission::admit(&mut spec, namespace, &known, &suffix);
        let name = meta::name(object).to_owned();
        let runtime_handler =
            admitted.map_err(|refusal| ObjectError::Forbidden { kind, name, reason: refusal.to_string() })?;
        object["spec"] = serde_json::to_value(spec).expect("Kubernetes' types have string keys only");
        Ok(Some(PostedPod { runtime_handler, ..PostedPod::default() }))
    }

    /// Refuses a valid object that does not go with others.
    pub(super) async fn check_references(
        &self,
        kind: &'static Kind,
        object: &Value,
        current: Option<&Value>,
    ) -> Result<(), ObjectError> {
        let refusal = match kind.kind {
            "DaemonSet" => self.unknown_class(object, current).await?.map(|refusal| refusal.to_string()),
            "PriorityClass" => self.other_default(object).await?,
            _ => None,
        };
        let name = meta::name(object).to_owned();
        refusal.map_or(Ok(()), |reason| Err(ObjectError::Forbidden { kind, name, reason }))
    }

    /// A template that was taken stays, whatever became of the classes it names.
    async fn unknown_class(&self, object: &Value, current: Option<&Value>) -> Result<Option<Refusal>, ObjectError> {
        let template = |object| typed::<DaemonSet>(&DAEMON_SET, object).and_then(|set| Some(set.spec?.template));
        let Some(new) = template(object.clone()) else { return Ok(None) };
        if current.cloned().and_then(template).is_some_and(|old| same_template(&new, &old)) {
            return Ok(None);
        }
        let mut spec = new.spec.unwrap_or_default();
        let known = self.known_to_admission(meta::namespace(object), &spec).await?;
        Ok(admission::classes(&mut spec, &known).err())
    }

    async fn other_default(&self, class: &Value) -> Result<Option<String>, ObjectError> {
        if class["globalDefault"] != true {
            return Ok(None);
        }
        let is_other = |other: &Value| other["globalDefault"] == true && meta::name(other) != meta::name(class);
        let options = ListOptions { matches: &is_other, ..ListOptions::default() };
        let others = self.list(&PRIORITY_CLASS, options).await?.items;
        Ok(others.first().map(|other| {
            let name = meta::name(other);
            format!("PriorityClass {name} is already marked as default. Only one default can exist")
        }))
    }

    /// Every revision that was admitted.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn admitted(&self) -> Result<Vec<AdmittedRecord>, ObjectError> {
        let range = self.inner.store.range(keys::ADMITTED, None, 0, None).await.map_err(ObjectError::Store)?;
        range.entries.iter().map(|entry| parse(&entry.key, &entry.value)).collect()
    }

    /// One revision, if it was admitted.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn admitted_revision(
        &self,
        daemonset: &Uid,
        revision: &RevisionHash,
    ) -> Result<Option<AdmittedRecord>, ObjectError> {
        let key = keys::admitted(daemonset.as_str(), revision.as_str());
        let entry = self.inner.store.get(&key).await.map_err(ObjectError::Store)?;
        entry.map(|entry| parse(&entry.key, &entry.value)).transpose()
    }

    /// Writes down what a revision was admitted as. The first record of a revision stays; gives the one there is.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn admit(&self, admitted: AdmittedRecord) -> Result<AdmittedRecord, ObjectError> {
        let key = keys::admitted(admitted.daemonset.as_str(), admitted.revision.as_str());
        let condition = Condition::Absent { key: key.clone() };
        match self.write(vec![condition], vec![record(key, &admitted)]).await {
            Ok(_) => Ok(admitted),
            Err(ObjectError::Store(StoreError::Conflict { .. })) => {
                let earlier = self.admitted_revision(&admitted.daemonset, &admitted.revision).await?;
                Ok(earlier.unwrap_or(admitted))
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what a revision was admitted as: nothing is of it any more.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn forget_admitted(&self, daemonset: &Uid, revision: &RevisionHash) -> Result<(), ObjectError> {
        let write = Write::Delete { key: keys::admitted(daemonset.as_str(), revision.as_str()) };
        self.write(Vec::new(), vec![write]).await.map(drop)
    }
}

/// An object that came through the API's own checks.
fn typed<T: DeserializeOwned>(kind: &Kind, object: Value) -> Option<T> {
    let kind = kind.kind;
    serde_json::from_value(object)
        .inspect_err(|error| tracing::error!(kind, %error, "an object in the store is none"))
        .ok()
}
