//! Against a systemd that zbus serves, at the far end of what the agent takes for a bus.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};
use zbus::{Guid, Message, ObjectPath, OwnedVariant, Variant};

use super::*;
use crate::testing::pods;

const POD: &str = "kubepods-burstable-poduid_web.slice";

/// What systemd has and was asked.
#[derive(Debug, Default)]
struct Units {
    known: BTreeSet<String>,
    /// Method, unit, and its properties but for accounting.
    calls: Vec<String>,
    connections: usize,
    /// Whatever it is asked is wrong.
    refuses: bool,
    /// It takes calls and answers none.
    hangs: bool,
}

impl Units {
    /// The error to answer with, if any.
    fn take(&mut self, message: &Message) -> Result<(), &'static str> {
        type Properties = Vec<(String, OwnedVariant)>;
        type Start = (String, String, Properties, Vec<(String, Properties)>);
        let (header, body) = (message.header(), message.body());
        assert_eq!(header.interface().unwrap().as_str(), MANAGER);
        let method = header.member().unwrap().as_str();
        let (unit, properties) = match method {
            "StartTransientUnit" => {
                let (unit, mode, properties, _) = body.deserialize::<Start>().unwrap();
                assert_eq!(mode, "replace");
                (unit, properties)
            }
            "SetUnitProperties" => {
                let (unit, at_runtime, properties) = body.deserialize::<(String, bool, Properties)>().unwrap();
                assert!(at_runtime, "nothing outlives the pod");
                (unit, properties)
            }
            _ => (body.deserialize::<(String, String)>().unwrap().0, vec![]),
        };
        let words = properties.iter().filter(|(name, _)| !name.ends_with("Accounting"));
        let words = words.map(|(name, value)| format!(" {name}={}", word(value))).collect::<String>();
        self.calls.push(format!("{method} {unit}{words}"));
        match method {
            _ if self.refuses => Err("org.freedesktop.DBus.Error.InvalidArgs"),
            "StartTransientUnit" if !self.known.insert(unit.clone()) => Err(UNIT_EXISTS),
            "StopUnit" if !self.known.remove(&unit) => Err(NO_SUCH_UNIT),
            _ => Ok(()),
        }
    }
}

fn word(value: &Variant<'_>) -> String {
    match value {
        Variant::Str(text) => text.to_string(),
        Variant::Bool(value) => value.to_string(),
        Variant::U64(number) => number.to_string(),
        other => panic!("no property is a {other:?}"),
    }
}

async fn answer(stream: UnixStream, units: Arc<Mutex<Units>>) {
    let server = Builder::unix_stream(stream).server(Guid::generate()).p2p();
    let mut messages = server.build_message_stream().await.unwrap();
    let connection = Connection::from(&messages);
    while let Some(Ok(message)) = messages.next().await {
        if message.header().member().unwrap().as_str() == "Hello" {
            connection.reply(&message.header(), &":1.1").await.unwrap();
            continue;
        }
        let refusal = units.lock().unwrap().take(&message);
        let header = message.header();
        if units.lock().unwrap().hangs {
            continue;
        }
        let job = ObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap();
        match refusal {
            Err(name) => connection.reply_error(&header, name, &"as asked").await.unwrap(),
            Ok(()) if header.member().unwrap().as_str() == "SetUnitProperties" => {
                connection.reply(&header, &()).await.unwrap();
            }
            Ok(()) => connection.reply(&header, &job).await.unwrap(),
        }
    }
}

struct Harness {
    dir: TempDir,
    units: Arc<Mutex<Units>>,
    serving: JoinHandle<()>,
    slices: Slices,
}

impl Harness {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let slices = Slices::at(&format!("unix:path={}", dir.path().join("bus").display()), true);
        let units = Arc::default();
        Self { serving: serve(dir.path(), &units), dir, units, slices }
    }

    /// Ends every connection, and takes no more.
    async fn go_away(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        std::fs::remove_file(self.dir.path().join("bus")).unwrap();
    }

    fn come_back(&mut self) {
        self.serving = serve(self.dir.path(), &self.units);
    }

    fn units(&self) -> MutexGuard<'_, Units> {
        self.units.lock().unwrap()
    }

    fn is_failing(&self) -> bool {
        self.slices.failing.load(Ordering::Relaxed)
    }
}

fn serve(dir: &Path, units: &Arc<Mutex<Units>>) -> JoinHandle<()> {
    let (listener, units) = (UnixListener::bind(dir.join("bus")).unwrap(), units.clone());
    tokio::spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            units.lock().unwrap().connections += 1;
            clients.spawn(answer(stream.into_std().unwrap(), units.clone()));
        }
    })
}

/// A pod in a slice, with a memory limit.
fn pod() -> Pod {
    Pod {
        cgroup_parent: format!("/kubepods.slice/kubepods-burstable.slice/{POD}"),
        cgroup: CgroupLimits { cpu_shares: 512, memory_bytes: Some(64 << 20), ..CgroupLimits::default() },
        ..pods::pod("web", Path::new("/"))
    }
}

#[tokio::test]
async fn a_slice_is_started_with_its_limits_and_one_that_exists_gets_them() {
    let harness = Harness::new();
    harness.slices.make_pod(&pod()).await;
    harness.slices.make_pod(&pod()).await;
    harness.slices.weigh_classes(2000, 500).await;
    let started = |unit: &str, words: &str| format!("StartTransientUnit {unit} Description={words}");
    let first = started(POD, "Pod default/web DefaultDependencies=false CPUWeight=20 MemoryMax=67108864");
    let class = |unit: &str, weight: u32| {
        started(unit, &format!("Pods run by Garrison DefaultDependencies=false CPUWeight={weight}"))
    };
    let wanted = [
        first.clone(),
        first,
        format!("SetUnitProperties {POD} CPUWeight=20 MemoryMax=67108864"),
        class("kubepods.slice", 79),
        class("kubepods-burstable.slice", 20),
        class("kubepods-besteffort.slice", 1),
    ];
    assert_eq!(harness.units().calls, wanted);
    assert_eq!((harness.units().connections, harness.is_failing()), (1, false));
}

#[tokio::test]
async fn a_slice_is_stopped_and_one_that_is_gone_is_no_failure() {
    let harness = Harness::new();
    harness.slices.make_pod(&pod()).await;
    for _ in 0..2 {
        harness.slices.remove_pod(&pod()).await;
        assert_eq!((harness.units().known.len(), harness.is_failing()), (0, false));
    }
    assert_eq!(harness.units().calls[1..], [format!("StopUnit {POD}"), format!("StopUnit {POD}")]);
}

#[tokio::test]
async fn a_pod_whose_cgroup_is_no_slice_needs_no_connection() {
    let harness = Harness::new();
    let pod = pods::pod("web", Path::new("/"));
    harness.slices.make_pod(&pod).await;
    harness.slices.remove_pod(&pod).await;
    assert!(harness.slices.connection().is_none());
}

#[tokio::test]
async fn a_refusal_is_told_from_a_slice_that_exists_and_costs_no_connection() {
    let harness = Harness::new();
    harness.units().refuses = true;
    harness.slices.make_pod(&pod()).await;
    assert!(harness.is_failing());
    assert_eq!(harness.units().calls.len(), 1);
    harness.units().refuses = false;
    harness.slices.remove_pod(&pod()).await;
    assert_eq!((harness.units().connections, harness.is_failing()), (1, false));
}

#[tokio::test]
async fn a_bus_that_went_away_is_dialled_anew() {
    let mut harness = Harness::new();
    harness.slices.make_pod(&pod()).await;
    harness.go_away().await;
    harness.slices.make_pod(&pod()).await;
    assert!(harness.is_failing());
    harness.come_back();
    harness.slices.make_pod(&pod()).await;
    assert_eq!((harness.units().connections, harness.is_failing()), (2, false));
    // One that was restarted between two calls is not even noticed.
    harness.go_away().await;
    harness.come_back();
    harness.slices.remove_pod(&pod()).await;
    assert_eq!((harness.units().connections, harness.is_failing()), (3, false));
    assert_eq!(harness.units().known.len(), 0);
}

#[tokio::test]
async fn a_systemd_that_does_not_answer_is_waited_for_once() {
    let harness = Harness::new();
    harness.slices.remove_pod(&pod()).await;
    harness.units().hangs = true;
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    harness.slices.make_pod(&pod()).await;
    assert!(harness.is_failing());
    assert!(before.elapsed() < PATIENCE * 2, "asked more than once: {:?}", before.elapsed());
    assert_eq!(harness.units().calls.len(), 2);
}
