//! Two revisions of a DaemonSet never have the same name, although their names are hashes of 32 bits.

use k8s_openapi::api::apps::v1::DaemonSet;
use serde::Deserialize;
use serde_json::Value;

use super::{ATTEMPTS, ObjectError, Objects, contended, keys};
use crate::api::revision;
use crate::control::kinds::{CONTROLLER_REVISION, DAEMON_SET};
use crate::control::meta;

impl Objects {
    /// Raises `status.collisionCount` of a DaemonSet that is about to be written until the name of its newest revision is free, or that
    /// of a record of the same template.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    ///
    /// Source: kubernetes v1.36 `pkg/controller/daemon/update.go`, `snapshot`. Upstream counts when it writes the record; here nodes
    /// would have heard of the revision under the other's name by then.
    pub(super) async fn avoid_collision(&self, set: &mut Value) -> Result<(), ObjectError> {
        for _ in 0..ATTEMPTS {
            let Ok(written) = DaemonSet::deserialize(&*set) else { return Ok(()) };
            let name = format!("{}-{}", meta::name(set), revision::of(&written));
            let record = self.find(&keys::object(&CONTROLLER_REVISION, meta::namespace(set), &name)).await?;
            let data = revision::history_data(&written.spec.unwrap_or_default().template);
            if record.is_none_or(|(_, record)| record["data"] == data) {
                return Ok(());
            }
            let count = set["status"]["collisionCount"].as_i64().unwrap_or(0);
            set["status"]["collisionCount"] = (count + 1).into();
        }
        Err(contended(&DAEMON_SET, meta::name(set)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::objects::WriteOptions;
    use crate::control::registry::Part;
    use crate::store::Memory;

    #[tokio::test]
    async fn a_name_that_another_template_has_is_not_taken() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let labels = json!({"app": "web"});
        let template = |image: &str| json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}});
        let set = json!({
            "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": labels}, "template": template("i:1")},
        });
        objects.create(&DAEMON_SET, "default", set, WriteOptions::default()).await.unwrap();
        let update = async |image: &str| {
            let change = |set: &Value| {
                let mut set = set.clone();
                set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
                Ok::<_, ObjectError>(set)
            };
            let set = objects.update(&DAEMON_SET, "default", "web", Part::Main, WriteOptions::default(), change).await;
            DaemonSet::deserialize(set.unwrap()).unwrap()
        };
        let collisions = |set: &DaemonSet| set.status.as_ref().and_then(|status| status.collision_count);
        let record = async |set: &DaemonSet, data: Value| {
            let name = format!("web-{}", revision::of(set));
            let metadata = json!({"name": name, "namespace": "default", "uid": name});
            let record = json!({"metadata": metadata, "data": data, "revision": 1});
            objects.report(&CONTROLLER_REVISION, "default", &name, |_| Some(record.clone())).await.unwrap();
        };
        let two = update("i:2").await;
        record(&two, revision::history_data(&two.spec.as_ref().unwrap().template)).await;
        assert_eq!(collisions(&update("i:1").await), None);
        assert_eq!(collisions(&update("i:2").await), None, "the record is its own");

        update("i:1").await;
        record(&two, json!({"spec": {"template": "another"}})).await;
        let again = update("i:2").await;
        assert_eq!(collisions(&again), Some(1));
        assert_ne!(revision::of(&again), revision::of(&two));
    }
}
