//! The host's users of pods that have their own (`hostUsers: false`): each pod has a block of 65536 ids to itself.
//!
//! Which block is a pod's is kept in `<pod>/userns`, in the kubelet's format: it goes with the pod's directory, and the next
//! agent finds it. The first block is the host's own. Where the kubelet would ask `getsubids` for the range of a user named
//! kubelet, we do not: all ids behind the first block are pods'.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/userns/userns_manager.go`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{FileError, failed};
use crate::podspec::{IdRange, Pod};

/// The ids of one pod.
const BLOCK: u32 = 65_536;
/// How many blocks 32 bits hold.
const BLOCKS: u32 = u32::MAX / BLOCK + 1;
/// The file's name in a pod's directory.
const FILE: &str = "userns";

/// Why a pod has no users.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The system would not.
    #[error(transparent)]
    File(#[from] FileError),
    /// A pod's file is not what was written.
    #[error("the users of a pod in {path} cannot be read")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Every block is some pod's.
    #[error("could not find a free block of user ids")]
    NoneLeft,
}

/// Gives out blocks of ids; one at a time, since what is free is read from the disk.
#[derive(Debug)]
pub struct Users {
    /// `<root>/pods`.
    pods: PathBuf,
    giving: Mutex<()>,
}

/// The kubelet's format.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Users {
    /// For pods whose directories are below `root_dir`.
    pub fn new(root_dir: &Path) -> Self {
        Self { pods: root_dir.join("pods"), giving: Mutex::new(()) }
    }

    /// The pod's users; the lowest free block if it has none yet. Its directory has to be there.
    ///
    /// # Errors
    /// [`UsersError`]; a file that is damaged keeps every pod from new users, since nobody can tell whose they are.
    pub fn of(&self, pod: &Pod) -> Result<IdRange, UsersError> {
        let _giving = self.giving.lock().unwrap_or_else(PoisonError::into_inner);
        let file = pod.dir.join(FILE);
        if let Some(known) = read(&file)? {
            return Ok(known);
        }
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(&self.pods).map_err(failed("read", &self.pods))? {
            let other = entry.map_err(failed("read", &self.pods))?.path();
            taken.extend(read(&other.join(FILE))?.map(|range| range.first_host_id / BLOCK));
        }
        let free = (1..BLOCKS).find(|block| !taken.contains(block)).ok_or(UsersError::NoneLeft)?;
        let range = IdRange { first_host_id: free * BLOCK, length: BLOCK };
        write(&file, range)?;
        Ok(range)
    }
}

fn read(file: &Path) -> Result<Option<IdRange>, UsersError> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", file)(error).into()),
    };
    let damaged = |source| UsersError::Damaged { path: file.to_owned(), source };
    let written: Written = serde_json::from_slice(&text).map_err(damaged)?;
    let range = |mapping: &Mapping| IdRange { first_host_id: mapping.host_id, length: mapping.length };
    Ok(written.uid_mappings.first().map(range))
}

/// Whole or not at all: the agent may die in between.
fn write(file: &Path, range: IdRange) -> Result<(), FileError> {
    let mapping = vec![Mapping { host_id: range.first_host_id, container_id: 0, length: range.length }];
    let written = Written { uid_mappings: mapping.clone(), gid_mappings: mapping };
    let text = serde_json::to_vec(&written).expect("numbers are JSON");
    let new = file.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).map_err(failed("write", file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pods::pod;

    #[test]
    fn each_pod_has_a_block_of_its_own_and_keeps_it() {
        let temp = tempfile::tempdir().unwrap();
        let pods: Vec<_> = ["a", "b", "c"].map(|name| pod(name, temp.path())).into();
        pods.iter().for_each(|pod| fs::create_dir_all(&pod.dir).unwrap());
        let first = |pod| Users::new(temp.path()).of(pod).unwrap().first_host_id;
        assert_eq!((first(&pods[0]), first(&pods[1]), first(&pods[0])), (BLOCK, 2 * BLOCK, BLOCK));
        fs::remove_dir_all(&pods[0].dir).unwrap();
        assert_eq!(first(&pods[2]), BLOCK, "it is free with its pod's directory");
        let written = fs::read_to_string(pods[1].dir.join(FILE)).unwrap();
        let mapping = r#"[{"hostId":131072,"containerId":0,"length":65536}]"#;
        assert_eq!(written, format!(r#"{{"uidMappings":{mapping},"gidMappings":{mapping}}}"#));
    }

    #[test]
    fn a_file_that_cannot_be_read_gives_nobody_its_users() {
        let temp = tempfile::tempdir().unwrap();
        let (old, new) = (pod("old", temp.path()), pod("new", temp.path()));
        for pod in [&old, &new] {
            fs::create_dir_all(&pod.dir).unwrap();
        }
        fs::write(old.dir.join(FILE), "{").unwrap();
        assert!(matches!(Users::new(temp.path()).of(&new), Err(UsersError::Damaged { .. })));
        assert!(!new.dir.join(FILE).exists());
    }
}
