//! The task that keeps the [`Policy`] true: it follows roles and bindings, fills aggregated roles, and makes at its
//! start what must exist.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use super::{Policy, defaults};
use crate::control::kinds::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, Kind, ROLE, ROLE_BINDING};
use crate::control::meta;
use crate::control::objects::{Expired, ListOptions, ObjectError, Objects, Watcher, WriteOptions};
use crate::control::registry::Part;
use crate::error::Chain;

/// When to look again after something failed.
const RETRY: Duration = Duration::from_secs(5);
/// How often in a row aggregated roles may fill others.
const ROUNDS: usize = 10;

/// Makes what must exist, and gives the policy and the task that keeps it.
///
/// # Errors
/// [`ObjectError`] from the store.
pub async fn start(objects: Objects) -> Result<(watch::Receiver<Arc<Policy>>, impl Future<Output = ()>), ObjectError> {
    let watchers = Watchers::begin(&objects);
    ensure_defaults(&objects).await?;
    let (policy_tx, policy_rx) = watch::channel(Arc::new(read(&objects).await?));
    Ok((policy_rx, run(objects, watchers, policy_tx)))
}

async fn run(objects: Objects, mut watchers: Watchers, policy_tx: watch::Sender<Arc<Policy>>) {
    loop {
        if watchers.next().await.is_err() {
            watchers = Watchers::begin(&objects);
        }
        match read(&objects).await {
            Ok(policy) => drop(policy_tx.send_replace(Arc::new(policy))),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "roles and bindings cannot be read; those from before hold");
                tokio::time::sleep(RETRY).await;
                watchers = Watchers::begin(&objects);
            }
        }
    }
}

/// The changes of the four kinds.
struct Watchers([Watcher; 4]);

impl Watchers {
    fn begin(objects: &Objects) -> Self {
        let after = objects.revision();
        Self([&ROLE, &CLUSTER_ROLE, &ROLE_BINDING, &CLUSTER_ROLE_BINDING].map(|kind| objects.watch(kind, None, after)))
    }

    /// Waits for any change.
    async fn next(&mut self) -> Result<(), Expired> {
        let [roles, cluster_roles, bindings, cluster_bindings] = &mut self.0;
        loop {
            // All arms are cancel safe.
            let events = tokio::select! {
                events = roles.next() => events?,
                events = cluster_roles.next() => events?,
                events = bindings.next() => events?,
                events = cluster_bindings.next() => events?,
            };
            if !events.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Fills the aggregated roles, then reads everything.
async fn read(objects: &Objects) -> Result<Policy, ObjectError> {
    let mut cluster_roles = list::<ClusterRole>(objects, &CLUSTER_ROLE).await?;
    for _ in 0..ROUNDS {
        let mut changed = false;
        for role in &cluster_roles {
            let Some(rules) = defaults::aggregate(role, &cluster_roles) else { continue };
            if role.rules.as_deref().unwrap_or_default() != rules {
                let filled = ClusterRole { rules: Some(rules), ..role.clone() };
                put(objects, &CLUSTER_ROLE, role.metadata.name.as_deref().unwrap_or_default(), &filled).await?;
                changed = true;
            }
        }
        if !changed {
            break;
        }
        cluster_roles = list(objects, &CLUSTER_ROLE).await?;
    }
    Ok(Policy::of(
        list::<Role>(objects, &ROLE).await?,
        cluster_roles,
        list::<RoleBinding>(objects, &ROLE_BINDING).await?,
        list::<ClusterRoleBinding>(objects, &CLUSTER_ROLE_BINDING).await?,
    ))
}

async fn ensure_defaults(objects: &Objects) -> Result<(), ObjectError> {
    for role in defaults::cluster_roles() {
        ensure(objects, &CLUSTER_ROLE, &role, role.metadata.name.as_deref(), defaults::complete_role).await?;
    }
    for binding in defaults::cluster_role_bindings() {
        let name = binding.metadata.name.as_deref();
        ensure(objects, &CLUSTER_ROLE_BINDING, &binding, name, defaults::complete_binding).await?;
    }
    Ok(())
}

async fn ensure<T: Serialize + DeserializeOwned>(
    objects: &Objects,
    kind: &'static Kind,
    wanted: &T,
    name: Option<&str>,
    complete: fn(&T, &T) -> Option<T>,
) -> Result<(), ObjectError> {
    let name = name.unwrap_or_default();
    match objects.get(kind, "", name).await {
        Ok(current) => match typed(&current).and_then(|current| complete(&current, wanted)) {
            Some(complete) => put(objects, kind, name, &complete).await,
            None => Ok(()),
        },
        Err(ObjectError::NotFound { .. }) => {
            objects.create(kind, "", json(wanted), WriteOptions::default()).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

async fn put(objects: &Objects, kind: &'static Kind, name: &str, object: &impl Serialize) -> Result<(), ObjectError> {
    let object = json(object);
    let change = |_: &Value| Ok::<_, ObjectError>(object.clone());
    match objects.update(kind, "", name, Part::Main, WriteOptions::default(), change).await {
        // Somebody changed or removed it meanwhile: the watch brings us back.
        Ok(_) | Err(ObjectError::Conflict { .. } | ObjectError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn list<T: DeserializeOwned>(objects: &Objects, kind: &'static Kind) -> Result<Vec<T>, ObjectError> {
    let list = objects.list(kind, ListOptions::default()).await?;
    Ok(list.items.iter().filter_map(typed).collect())
}

/// An object as its type. One that is none counts for nothing: a rule that cannot be read allows nothing.
fn typed<T: DeserializeOwned>(object: &Value) -> Option<T> {
    T::deserialize(object)
        .inspect_err(|error| tracing::warn!(name = meta::name(object), %error, "a role or binding cannot be read"))
        .ok()
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("Kubernetes' types have string keys only")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::rbac::{Attributes, Resource, User};
    use crate::store::Memory;

    fn may(policy: &Policy, user: &str, verb: &str, resource: &str) -> bool {
        let user = User { name: user.into(), ..User::default() };
        let resource = Resource { resource: resource.into(), namespace: "default".into(), ..Resource::default() };
        policy.allow(&user, &Attributes::on(verb, resource)).is_some()
    }

    #[tokio::test]
    async fn the_policy_follows_what_is_written() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let (mut policy_rx, keeper) = start(objects.clone()).await.unwrap();
        let keeper = tokio::spawn(keeper);
        assert!(!may(&policy_rx.borrow(), "ann", "get", "secrets"));
        let create = async |kind, object| {
            objects.create(kind, "default", object, WriteOptions::default()).await.unwrap();
        };
        let role_ref = json!({"kind": "ClusterRole", "name": "edit"});
        let binding =
            json!({"metadata": {"name": "ann"}, "roleRef": role_ref, "subjects": [{"kind": "User", "name": "ann"}]});
        create(&ROLE_BINDING, binding).await;
        policy_rx.wait_for(|policy| may(policy, "ann", "get", "secrets")).await.unwrap();
        let extra = json!({
            "metadata": {"name": "extra", "labels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}},
            "rules": [{"apiGroups": [""], "resources": ["widgets"], "verbs": ["get"]}],
        });
        create(&CLUSTER_ROLE, extra).await;
        policy_rx.wait_for(|policy| may(policy, "ann", "get", "widgets")).await.unwrap();
        let options = crate::control::removal::DeleteOptions::default();
        objects.delete(&ROLE_BINDING, "default", "ann", &options).await.unwrap();
        policy_rx.wait_for(|policy| !may(policy, "ann", "get", "secrets")).await.unwrap();
        keeper.abort();
    }

    #[tokio::test]
    async fn a_second_start_adds_what_was_taken_away_and_writes_nothing_else() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        drop(start(objects.clone()).await.unwrap());
        let before = objects.revision();
        drop(start(objects.clone()).await.unwrap());
        assert_eq!(objects.revision(), before);
        let options = crate::control::removal::DeleteOptions::default();
        objects.delete(&CLUSTER_ROLE_BINDING, "", "cluster-admin", &options).await.unwrap();
        drop(start(objects.clone()).await.unwrap());
        assert!(objects.get(&CLUSTER_ROLE_BINDING, "", "cluster-admin").await.is_ok());
    }
}
