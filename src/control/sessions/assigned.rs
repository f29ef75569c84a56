//! What one node alone is told: its single pods, and the objects it needs, as far as it may have them.
//!
//! Worked out anew whenever the fleet's intent moves, the Node changes or the node needs something else; said only where it
//! differs from what was said before in the session.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::desired::{Blob, Desired};
use super::entitled::entitled;
use super::session::Session;
use super::shelf::Content;
use crate::control::objects::ObjectError;
use crate::link::{Assigned, Down, Entry, Frame, Needs, ObjectAnswer, ObjectRef, Reason};
use crate::model::{BlobHash, Uid};

/// What a node was told in this session, and the contents that this names.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    pods: Vec<Entry>,
    objects: Vec<(ObjectRef, ObjectAnswer)>,
    contents: HashMap<BlobHash, Arc<Content>>,
}

impl Assignment {
    /// A blob that the node was told of.
    pub(super) fn blob(&self, hash: &BlobHash) -> Option<&Blob> {
        self.contents.get(hash).map(|content| &content.blob)
    }

    /// The entry of a content. One that was told already keeps its number: it is no change.
    fn entry(&self, wanted: &ObjectRef, content: &Content, seq: u64) -> Entry {
        let before = self.objects.iter().find_map(|(object, answer)| match answer {
            ObjectAnswer::Present(entry) if object == wanted && entry.hash == content.hash => Some(entry.seq),
            _ => None,
        });
        Entry {
            uid: content.uid.clone(),
            kind: wanted.kind,
            seq: before.unwrap_or(seq),
            hash: content.hash.clone(),
            written: None,
        }
    }
}

impl Session {
    /// The message that is due; nothing if the node was told all of it.
    pub(super) async fn assigned(
        &self,
        needs: &Needs,
        desired: &Desired,
        told: &mut Assignment,
    ) -> Result<Option<Frame>, ObjectError> {
        let mut now = Assignment::default();
        let is_there = |pod: &Uid| self.shared.roster.pod(&self.node, pod).is_some();
        let leaving = self.leaving(desired);
        let posted = desired.pods.posted(&self.name).filter(|posted| !leaving.contains(&posted.entry.uid));
        let posted = posted.filter(|posted| !posted.is_replaceable() || is_there(&posted.entry.uid));
        now.pods.extend(posted.map(|posted| posted.entry.clone()));
        for wanted in &needs.objects {
            let answer = match self.may_have(wanted, desired) {
                Err(why) => ObjectAnswer::Refused(why),
                Ok(()) => match self.shared.shelf.content(&self.shared.objects, wanted).await? {
                    None => ObjectAnswer::Absent,
                    Some(content) => {
                        let entry = told.entry(wanted, &content, desired.position.seq);
                        now.contents.insert(content.hash.clone(), content);
                        ObjectAnswer::Present(entry)
                    }
                },
            };
            now.objects.push((wanted.clone(), answer));
        }
        let changed = (&now.pods, &now.objects) != (&told.pods, &told.objects);
        *told = now;
        Ok(changed.then(|| {
            let (pods, objects) = (told.pods.clone(), told.objects.clone());
            Frame::new(Down::Assigned(Assigned { position: desired.position, pods, objects }))
        }))
    }

    /// The single pods that the node ends, or has ended, and that were told before.
    pub(super) fn leaving(&self, desired: &Desired) -> HashSet<Uid> {
        self.shared.roster.leaving(&self.node, |uid| desired.pods.is_single(&self.name, uid))
    }

    /// Whether this node may have an object.
    fn may_have(&self, wanted: &ObjectRef, desired: &Desired) -> Result<(), Reason> {
        let roster = &self.shared.roster;
        let by_pods = roster.naming(&self.node, wanted);
        let posted = desired.pods.name(&self.name, wanted);
        entitled(&self.name, &roster.vouched(&self.node), posted, desired.naming(wanted, &by_pods))
    }
}
