//! ConfigMaps and Secrets as they travel to nodes: encoded once, shared by all sessions that need them.
//!
//! A content lives as long as some session holds it. Whether it is still what the store has is seen by the revision at
//! which the object was last changed; sessions look again whenever the fleet's position moves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use serde_json::{Value, json};

use super::desired::{Blob, hash};
use crate::control::kinds::{self, CONFIG_MAP, SECRET};
use crate::control::meta;
use crate::control::objects::{ObjectError, Objects};
use crate::link::{Kind, ObjectRef};
use crate::model::{BlobHash, Uid};
use crate::store::Revision;

/// One object as nodes get it.
#[derive(Debug)]
pub(super) struct Content {
    changed_at: Revision,
    pub(super) uid: Uid,
    pub(super) hash: BlobHash,
    pub(super) blob: Blob,
}

/// The contents that sessions hold.
#[derive(Debug, Default)]
pub(super) struct Shelf(Mutex<HashMap<ObjectRef, Weak<Content>>>);

impl Shelf {
    /// What an object holds now; nothing if there is no such object, or it is of a kind that is not handed out.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub(super) async fn content(
        &self,
        objects: &Objects,
        wanted: &ObjectRef,
    ) -> Result<Option<Arc<Content>>, ObjectError> {
        let Some(kind) = kind(wanted) else { return Ok(None) };
        let (namespace, name) = (wanted.key.namespace.as_str(), wanted.key.name.as_str());
        let Some(changed_at) = objects.changed_at(kind, namespace, name).await? else { return Ok(None) };
        if let Some(content) = self.held(wanted).filter(|content| content.changed_at == changed_at) {
            return Ok(Some(content));
        }
        let object = match objects.get(kind, namespace, name).await {
            Ok(object) => object,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let encoded = encoded(&object);
        let hash = hash(&encoded);
        let blob = Blob::new(&hash, &encoded);
        let content = Arc::new(Content { changed_at, uid: meta::uid(&object).into(), hash, blob });
        let mut shelved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shelved.retain(|_, content| content.strong_count() > 0);
        shelved.insert(wanted.clone(), Arc::downgrade(&content));
        Ok(Some(content))
    }

    fn held(&self, wanted: &ObjectRef) -> Option<Arc<Content>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(wanted)?.upgrade()
    }
}

/// The kind of an object that nodes may get; none for what reaches them in other ways.
fn kind(wanted: &ObjectRef) -> Option<&'static kinds::Kind> {
    match wanted.kind {
        Kind::ConfigMap => Some(&CONFIG_MAP),
        Kind::Secret => Some(&SECRET),
        Kind::DaemonSet | Kind::Pod => None,
    }
}

/// What a node gets of an object: who it is and what it holds. Labels and the like would only cause traffic.
fn encoded(object: &Value) -> Bytes {
    let mut sent = json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "metadata": {
            "name": meta::name(object), "namespace": meta::namespace(object), "uid": meta::uid(object),
        },
    });
    for field in ["binaryData", "data", "type"] {
        if let Some(value) = object.get(field) {
            sent[field] = value.clone();
        }
    }
    sent.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::objects::WriteOptions;
    use crate::control::registry::Part;
    use crate::model::ObjectKey;
    use crate::store::Memory;

    #[tokio::test]
    async fn what_did_not_change_is_shared_and_only_data_counts_as_change() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let shelf = Shelf::default();
        let wanted = ObjectRef { kind: Kind::ConfigMap, key: ObjectKey::new("default", "settings") };
        assert!(shelf.content(&objects, &wanted).await.unwrap().is_none());

        let object = json!({"metadata": {"name": "settings", "labels": {}}, "data": {"a": "1"}});
        objects.create(&CONFIG_MAP, "default", object, WriteOptions::default()).await.unwrap();
        let first = shelf.content(&objects, &wanted).await.unwrap().unwrap();
        let again = shelf.content(&objects, &wanted).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &again));

        let change = async |place: &str, value: &str| {
            let change = |object: &Value| {
                let mut object = object.clone();
                *object.pointer_mut(place).unwrap() = json!({"a": value});
                Ok::<_, ObjectError>(object)
            };
            let options = WriteOptions::default();
            objects.update(&CONFIG_MAP, "default", "settings", Part::Main, options, change).await.unwrap();
            shelf.content(&objects, &wanted).await.unwrap().unwrap()
        };
        assert_eq!(change("/metadata/labels", "1").await.hash, first.hash);
        assert_ne!(change("/data", "2").await.hash, first.hash);
        drop((first, again));
        assert!(shelf.held(&wanted).is_none(), "nobody needs it any more");
    }
}
