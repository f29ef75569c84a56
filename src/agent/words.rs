//! The last words of containers that have ended, read from their termination logs or their logs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::agent::blocking::blocking;
use crate::error::Chain;
use crate::host::{dirs, logs};
use crate::model::{ContainerId, ContainerPhase, ObservedContainer, ObservedPod};
use crate::plan::last_words::{LOG_LINES_MAX, join, log_tail, needs_log};
use crate::podspec::{Container, Pod};

/// What each ended instance had to say, so that its files are read once the runtime has written all of them.
pub(super) type Words = HashMap<ContainerId, String>;

/// Adds their words to the messages of all containers that have ended.
pub(super) async fn add(pod: &Arc<Pod>, observed: &mut ObservedPod, words: &mut Words) {
    words.retain(|id, _| observed.containers.iter().any(|instance| instance.id == *id));
    for instance in &mut observed.containers {
        let Some(index) = pod.containers.iter().position(|container| container.name == instance.name) else { continue };
        let ContainerPhase::Exited { reason, .. } = &instance.phase else { continue };
        let said = match words.get(&instance.id) {
            Some(said) => said.clone(),
            None => {
                let (said, is_all) = (read(pod, &pod.containers[index], instance).await, !reason.is_empty());
                words.extend(is_all.then(|| (instance.id.clone(), said.clone())));
                said
            }
        };
        if let ContainerPhase::Exited { message, .. } = &mut instance.phase {
            *message = join(message, &said);
        }
    }
}

async fn read(pod: &Arc<Pod>, container: &Container, instance: &ObservedContainer) -> String {
    let file = pod.termination_log(container, instance.attempt);
    let said = blocking(move || dirs::termination_message(&file)).await.unwrap_or_else(|error| {
        tracing::warn!(pod = %pod.key, error = %Chain(&error), "the termination message cannot be read");
        String::new()
    });
    let ContainerPhase::Exited { exit_code, reason, .. } = &instance.phase else { return said };
    if !needs_log(container.termination_message_policy, *exit_code, reason, &said) {
        return said;
    }
    let options = logs::LogOptions { tail_lines: Some(LOG_LINES_MAX as u64), ..logs::LogOptions::default() };
    let path = pod.log_dir.join(container.log_path(instance.attempt));
    let mut chunks = logs::stream(path, &options, None::<std::future::Ready<()>>);
    let mut text = Vec::new();
    while let Some(Ok(chunk)) = chunks.recv().await {
        text.extend_from_slice(&chunk);
    }
    log_tail(&String::from_utf8_lossy(&text)).to_owned()
}
