//! How much is taken, told when control asks.

use tonic::Code;

use super::*;
use crate::link::{CommandId, Outcome};
use crate::model::{ContainerLoad, Load, Loads, Measure, Usage};

impl Agent {
    async fn measure(&self, id: u64, what: Measure) {
        self.down(Down::Measure { id: CommandId(id), what }).await;
    }

    async fn tells(&mut self, asked: u64) -> Usage {
        self.hears("how much is taken", |up| match up {
            Up::Usage { id, usage } if *id == CommandId(asked) => Some(usage.clone()),
            _ => None,
        })
        .await
    }
}

fn looks(host: &Host) -> usize {
    host.cri.calls().iter().filter(|call| call.method == "ListContainerStats").count()
}

#[tokio::test(start_paused = true)]
async fn how_much_is_taken_is_measured_when_control_asks_and_at_no_other_time() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one"), set("log", "one")]).await;
    let mut expected = Vec::new();
    for (name, nano_cores, memory_bytes) in [("web", 250_000_000, 9), ("log", 0, 4)] {
        let pod = host.runs(name, "one").await;
        let id = pod.running().unwrap();
        host.cri.take(&id, memory_bytes, 0);
        host.cri.burn(&id, nano_cores);
        let load = Load { cpu_nano_cores: nano_cores, memory_bytes };
        expected.push(ContainerLoad { pod: pod.uid, name: "main".to_owned(), load });
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(looks(&host), 0);

    // Two who ask at the same time, and one who asks later.
    agent.measure(1, Measure::Containers).await;
    agent.measure(2, Measure::Containers).await;
    let usage = agent.tells(1).await;
    let Loads::Containers(mut loads) = usage.loads.clone() else { panic!("{usage:?}") };
    loads.sort_by_key(|load| std::cmp::Reverse(load.load.memory_bytes));
    assert_eq!((loads, usage.window), (expected, Duration::from_secs(1)));
    assert_eq!((agent.tells(2).await, looks(&host)), (usage, 2));
    agent.measure(3, Measure::Containers).await;
    agent.tells(3).await;
    assert_eq!(looks(&host), 4);

    // The machine that the test runs on; its clock is not the paused one.
    agent.measure(4, Measure::Node).await;
    let usage = agent.tells(4).await;
    let Loads::Node(load) = usage.loads else { panic!("{usage:?}") };
    assert!(load.memory_bytes > 0 && usage.window > Duration::ZERO, "{usage:?}");

    host.cri.fail_next("ListContainerStats", Code::Internal, "shim is gone");
    agent.measure(5, Measure::Containers).await;
    let why = agent
        .hears("why it is not told", |up| match up {
            Up::Ack(Ack::Command { id: CommandId(5), outcome: Outcome::Failed(why) }) => Some(why.clone()),
            _ => None,
        })
        .await;
    assert!(why.contains("shim is gone"), "{why}");
}
