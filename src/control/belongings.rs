//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`. Made anew when somebody
//! takes it away; the ConfigMap also when somebody changes it.
//!
//! One task. It sleeps until a namespace comes or one of these goes, then looks at all namespaces: they are few. What it
//! makes moves the fleet's position like a user's write, since nodes and pending revisions wait for it.
//!
//! Source: kubernetes v1.36, `pkg/controller/serviceaccount/serviceaccounts_controller.go`,
//! `pkg/controller/certificates/rootcacertpublisher/publisher.go`.

use std::time::Duration;

use serde_json::{Value, json};

use super::kinds::{CONFIG_MAP, Kind, NAMESPACE, SERVICE_ACCOUNT};
use super::meta;
use super::objects::{Event, Expired, ListOptions, ObjectError, Objects, Watcher, WriteOptions};
use super::registry::Part;
use crate::error::Chain;

/// The account of pods that name none.
pub const DEFAULT_ACCOUNT: &str = "default";
/// The ConfigMap by which pods know the API's certificate.
pub const ROOT_CA: &str = "kube-root-ca.crt";

/// When to look again after something failed.
const RETRY: Duration = Duration::from_secs(10);

/// Runs until dropped. `certificate` is the fleet's authorities, PEM.
pub async fn run(objects: Objects, certificate: String) {
    loop {
        let mut causes = Causes::begin(&objects);
        if let Err(error) = pass(&objects, &certificate).await {
            tracing::warn!(error = %Chain(&error), "not every namespace has what belongs there, it is tried again");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        // An expired watch is a cause, too: changes may have been missed.
        let _ = causes.next().await;
    }
}

/// The changes after the moment it was begun.
struct Causes {
    namespaces: Watcher,
    accounts: Watcher,
    config_maps: Watcher,
}

impl Causes {
    fn begin(objects: &Objects) -> Self {
        let after = objects.revision();
        let watch = |kind| objects.watch(kind, None, after);
        Self { namespaces: watch(&NAMESPACE), accounts: watch(&SERVICE_ACCOUNT), config_maps: watch(&CONFIG_MAP) }
    }

    /// Waits for a cause to look again.
    async fn next(&mut self) -> Result<(), Expired> {
        loop {
            // All arms are cancel safe.
            let found = tokio::select! {
                events = self.namespaces.next() => events?.iter().any(|event| event.previous.is_none()),
                events = self.accounts.next() => events?.iter().any(|event| event.deleted && is_of(event, DEFAULT_ACCOUNT)),
                events = self.config_maps.next() => events?.iter().any(|event| is_of(event, ROOT_CA)),
            };
            if found {
                return Ok(());
            }
        }
    }
}

fn is_of(event: &Event, name: &str) -> bool {
    event.key.rsplit('/').next() == Some(name)
}

async fn pass(objects: &Objects, certificate: &str) -> Result<(), ObjectError> {
    let account = json!({"metadata": {"name": DEFAULT_ACCOUNT}});
    let root_ca = root_ca(certificate);
    for namespace in objects.list(&NAMESPACE, ListOptions::default()).await?.items {
        if meta::is_deleting(&namespace) {
            continue;
        }
        let namespace = meta::name(&namespace);
        make(objects, &SERVICE_ACCOUNT, namespace, &account).await?;
        make(objects, &CONFIG_MAP, namespace, &root_ca).await?;
    }
    Ok(())
}

/// Makes an object if it is not there, and makes its data what it has to be if it has any.
async fn make(objects: &Objects, kind: &'static Kind, namespace: &str, object: &Value) -> Result<(), ObjectError> {
    let name = meta::name(object);
    let current = match objects.get(kind, namespace, name).await {
        Ok(current) => current,
        Err(ObjectError::NotFound { .. }) => {
            let made = objects.create(kind, namespace, object.clone(), WriteOptions::default()).await;
            return made.map(drop).or_else(given_up);
        }
        Err(error) => return Err(error),
    };
    if object["data"].is_null() || current["data"] == object["data"] {
        return Ok(());
    }
    let change = |current: &Value| {
        let mut changed = current.clone();
        changed["data"] = object["data"].clone();
        Ok::<_, ObjectError>(changed)
    };
    objects.update(kind, namespace, name, Part::Main, WriteOptions::default(), change).await.map(drop).or_else(given_up)
}

/// The namespace is on its way out, or somebody else was quicker: the next cause tells.
fn given_up(error: ObjectError) -> Result<(), ObjectError> {
    match error {
        ObjectError::NotFound { .. } | ObjectError::AlreadyExists { .. } | ObjectError::NamespaceTerminating { .. } => {
            Ok(())
        }
        // Somebody made it immutable; it stays as it is.
        ObjectError::Invalid { .. } => Ok(()),
        error => Err(error),
    }
}

fn root_ca(certificate: &str) -> Value {
    json!({"metadata": {"name": ROOT_CA}, "data": {"ca.crt": certificate}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::removal::DeleteOptions;
    use crate::store::Memory;

    async fn until(objects: &Objects, kind: &'static Kind, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut watcher = objects.watch(kind, None, objects.revision());
        let waiting = async {
            loop {
                match objects.get(kind, "n", name).await {
                    Ok(object) if is_so(&object) => return object,
                    _ => drop(watcher.next().await.unwrap()),
                }
            }
        };
        tokio::time::timeout(crate::testing::wait::LIMIT, waiting).await.unwrap_or_else(|_| panic!("no such {name}"))
    }

    #[tokio::test]
    async fn what_belongs_to_a_namespace_is_there_and_comes_back() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let task = tokio::spawn(run(objects.clone(), "PEM".to_owned()));
        let namespace = json!({"metadata": {"name": "n"}});
        objects.create(&NAMESPACE, "", namespace, WriteOptions::default()).await.unwrap();
        let is_whole = |object: &Value| object["data"] == json!({"ca.crt": "PEM"});
        let first = until(&objects, &CONFIG_MAP, ROOT_CA, is_whole).await;

        let change = |current: &Value| {
            let mut changed = current.clone();
            changed["data"] = json!({"ca.crt": "forged"});
            Ok::<_, ObjectError>(changed)
        };
        objects.update(&CONFIG_MAP, "n", ROOT_CA, Part::Main, WriteOptions::default(), change).await.unwrap();
        let mended = until(&objects, &CONFIG_MAP, ROOT_CA, is_whole).await;
        assert_eq!(meta::uid(&mended), meta::uid(&first));

        for (kind, name) in [(&CONFIG_MAP, ROOT_CA), (&SERVICE_ACCOUNT, DEFAULT_ACCOUNT)] {
            let before = until(&objects, kind, name, |_| true).await;
            objects.delete(kind, "n", name, &DeleteOptions::default()).await.unwrap();
            until(&objects, kind, name, |object| meta::uid(object) != meta::uid(&before)).await;
        }
        task.abort();
    }
}
