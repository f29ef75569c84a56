//! How much the node and its pods take, measured when somebody asks and at no other time.
//!
//! What is counted is looked at twice, a second apart. Whoever asks while that goes on gets what comes of it: however many
//! ask, a node measures itself once a second at most.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::Shared;
use super::blocking::blocking;
use crate::cri::Instance;
use crate::cri::labels::Owner;
use crate::error::Chain;
use crate::host::load;
use crate::link::CommandId;
use crate::model::{ContainerLoad, Loads, Measure, Usage};
use crate::plan::load::{Sample, Taken, taken};

/// The pause between two looks. The kernel counts for the host in steps of 10 ms, so it may be out by a hundredth.
const PAUSE: Duration = Duration::from_secs(1);
/// So many containers fit into one message of the link, with the longest names.
const CONTAINERS_MAX: usize = 3000;

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Measures(HashMap<Measure, Vec<CommandId>>);

impl Measures {
    /// Notes who asks. True if nobody measures that now.
    pub(super) fn ask(&mut self, what: Measure, id: CommandId) -> bool {
        let waiting = self.0.entry(what).or_default();
        waiting.push(id);
        waiting.len() == 1
    }

    /// It was measured; gives who asked.
    pub(super) fn done(&mut self, what: Measure) -> Vec<CommandId> {
        self.0.remove(&what).unwrap_or_default()
    }
}

/// Measures; takes about a second.
///
/// # Errors
/// What the kernel or the runtime does not tell, in words for whoever asks.
pub(super) async fn measure(shared: &Shared, owner: &Owner, what: Measure) -> Result<Usage, String> {
    match what {
        Measure::Node => {
            let first = node().await?;
            tokio::time::sleep(PAUSE).await;
            let taken = taken(&first, &node().await?);
            let [((), load)] = taken.loads[..] else { return Err("the clock of the node was set".to_owned()) };
            Ok(usage(shared, &taken, Loads::Node(load)))
        }
        Measure::Containers => {
            let first = containers(shared, owner).await?;
            tokio::time::sleep(PAUSE).await;
            let taken = taken(&first, &containers(shared, owner).await?);
            let loads = taken.loads.iter().take(CONTAINERS_MAX).map(|(instance, load)| ContainerLoad {
                pod: instance.pod.clone(),
                name: instance.name.clone(),
                load: *load,
            });
            Ok(usage(shared, &taken, Loads::Containers(loads.collect())))
        }
    }
}

async fn node() -> Result<BTreeMap<(), Sample>, String> {
    let sample = blocking(load::sample).await;
    sample.map(|sample| BTreeMap::from([((), sample)])).map_err(|error| Chain(&error).to_string())
}

async fn containers(shared: &Shared, owner: &Owner) -> Result<BTreeMap<Instance, Sample>, String> {
    shared.runtime.container_samples(owner).await.map_err(|error| Chain(&error).to_string())
}

fn usage<K>(shared: &Shared, taken: &Taken<K>, loads: Loads) -> Usage {
    Usage { at: taken.at.unwrap_or_else(|| shared.clock.wall()), window: taken.window, loads }
}
