//! The files of a volume that is made of objects, tokens and the pod itself.
//!
//! Source: kubernetes v1.36 `pkg/volume/{configmap,secret,downwardapi,projected}` (`MakePayload`, `CollectData`,
//! `collectData`), `pkg/volume/util/atomic_writer.go` (`validatePath`).

use std::collections::BTreeMap;
use std::fmt;

use super::{ConfigError, below, whole};
use crate::podspec::objects::{FoundToken, Object, Objects, Reference};
use crate::podspec::{FileSource, Item, Pod, Volume, VolumeSource};

/// The longest path of a file, in bytes.
const PATH_BYTES_MAX: usize = 4096;
/// The longest name in such a path, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// One file of a volume. Its `Debug` form does not show the content.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// All of it.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Whose it is; none for root's.
    pub owner: Option<i64>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let File { content, mode, owner } = self;
        write!(f, "{} bytes, mode {mode:o}, owner {owner:?}", content.len())
    }
}

/// All files of a volume by their paths below it: relative, without empty parts, `.` and `..`, the first part not beginning
/// with `..`.
pub type Payload = BTreeMap<String, File>;

/// The files that these sources make now. A later file replaces an earlier one at the same path.
///
/// # Errors
/// [`ConfigError`]: the only one, or all there are.
pub fn payload(pod: &Pod, sources: &[FileSource], objects: &Objects) -> Result<Payload, ConfigError> {
    let mut payload = Payload::new();
    let mut errors = Vec::new();
    for source in sources {
        match files(pod, source, objects) {
            Ok(files) => payload.extend(files),
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => Ok(payload),
        1 => Err(errors.remove(0)),
        _ => Err(ConfigError::Several(errors)),
    }
}

/// Whether the objects of a volume have what it takes of them.
pub(super) fn check(pod: &Pod, volume: &Volume, objects: &Objects) -> Result<(), ConfigError> {
    let VolumeSource::Files { sources, .. } = &volume.source else { return Ok(()) };
    let of_objects = sources.iter().filter(|source| matches!(source, FileSource::Object { .. }));
    of_objects.map(|source| files(pod, source, objects)).try_for_each(|files| files.map(drop))
}

fn files(pod: &Pod, source: &FileSource, objects: &Objects) -> Result<Vec<(String, File)>, ConfigError> {
    match source {
        FileSource::Object { object, items, mode, optional } => {
            let found = whole(pod, object, *optional, objects)?;
            found.map_or_else(|| Ok(Vec::new()), |found| of_object(object, found, items, *mode, *optional))
        }
        FileSource::Field { path, field, mode } => {
            // No file shows an address.
            let content = field.text(pod, &[]).into_bytes();
            Ok(vec![(clean(path)?, File { content, mode: *mode, owner: None })])
        }
        FileSource::Token { path, spec, mode, owner } => match objects.token(pod, spec) {
            FoundToken::Present(token) => {
                let content = token.0.clone().into_bytes();
                Ok(vec![(clean(path)?, File { content, mode: *mode, owner: *owner })])
            }
            FoundToken::Failed(why) => Err(ConfigError::Token(why.to_owned())),
            FoundToken::Unheard => Err(ConfigError::Token("control has not answered yet".to_owned())),
        },
    }
}

fn of_object(
    reference: &Reference,
    object: &Object,
    items: &[Item],
    mode: u32,
    optional: bool,
) -> Result<Vec<(String, File)>, ConfigError> {
    let file = |content: &[u8], mode| File { content: content.to_vec(), mode, owner: None };
    if items.is_empty() {
        let all = object.data.iter().chain(&object.binary_data);
        return all.map(|(key, content)| Ok((clean(key)?, file(content, mode)))).collect();
    }
    let mut files = Vec::new();
    for item in items {
        match object.data.get(&item.key).or_else(|| object.binary_data.get(&item.key)) {
            Some(content) => files.push((clean(&item.path)?, file(content, item.mode.unwrap_or(mode)))),
            None if optional => {}
            None => return Err(ConfigError::NoItem { kind: reference.kind, key: item.key.clone() }),
        }
    }
    Ok(files)
}

/// The path of a file as the payload has it.
fn clean(path: &str) -> Result<String, ConfigError> {
    let wrong = |why: String| Err(ConfigError::Path(why));
    if path.len() > PATH_BYTES_MAX {
        return wrong(format!("must be less than or equal to {PATH_BYTES_MAX} characters"));
    }
    let clean = match below(path) {
        Ok(clean) => clean.to_string_lossy().into_owned(),
        Err(why) => return wrong(format!("{why}: {path}")),
    };
    if clean.is_empty() {
        return wrong(format!("must not be empty: \"{path}\""));
    }
    if clean.starts_with("..") {
        return wrong(format!("must not start with '..': {path}"));
    }
    if clean.split('/').any(|name| name.len() > NAME_BYTES_MAX) {
        return wrong(format!("filenames must be less than or equal to {NAME_BYTES_MAX} characters"));
    }
    Ok(clean)
}
