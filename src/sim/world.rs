//! The fleet: control, machines with their agents, the lines between, and the users. Does what the schedule says.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::chance::Chance;
use super::fuse::{End, Fuse};
use super::schedule::{self, Budget, MachineOutline, Outline, Step, Template};
use super::seeded;
use super::wire::{Line, Wire};
use super::witness::{LABEL, MachineSeen, PodSeen, SetMade, Witness};
use crate::agent::tests::Host;
use crate::control::bearer::Bearer;
use crate::control::kinds::{DAEMON_SET, Kind, NODE, POD};
use crate::control::objects::{ListOptions, ObjectError, Objects, WriteOptions};
use crate::control::registry::Part;
use crate::control::removal::{DeleteOptions, Propagation};
use crate::control::sessions::Sessions;
use crate::control::tokens::Allowance;
use crate::control::{belongings, collector, meta, updates};
use crate::host::ledger::Identity;
use crate::link::server::Control as _;
use crate::link::tls::{self, Authority, NodeIdentity, NodeKey};
use crate::link::{EnrollRequest, PROTOCOL, SILENCE};
use crate::model::Uid;
use crate::seal::{KEY_BYTES, Key};
use crate::store::{Memory, Revision};

/// How many messages wait between sessions and updates, as in the endpoint.
const QUEUE: usize = 1024;
/// How often a user tries again whose request failed.
const TRIES: usize = 10;
/// How long everything may take to be as users want it, once nothing is broken any more.
const SETTLED_WITHIN: Duration = Duration::from_secs(40 * 60);
/// The user's taint.
const TAINT: &str = "maintenance";
const NAMESPACE: &str = "default";
/// The user's finalizer.
const FINALIZER: &str = "example.com/keep";

pub(super) struct World {
    chance: Chance,
    witness: Arc<Mutex<Witness>>,
    store: Arc<Memory>,
    /// Control's state directory.
    dir: TempDir,
    authority: Arc<Authority>,
    control: Option<ControlLife>,
    door_tx: watch::Sender<Option<Sessions>>,
    machines: Vec<Machine>,
    sets: Vec<(String, Template)>,
    /// Those that were deleted without their pods, as long as no other selects these.
    orphaned: Vec<Template>,
    versions: u64,
    begun: Instant,
    /// Takes what happens, a line each.
    tell: fn(&str),
}

/// One life of control.
struct ControlLife {
    objects: Objects,
    fuse: Arc<Fuse>,
    /// How `garrison rollout` asks; nobody does.
    _questions_tx: mpsc::Sender<updates::Question>,
    _tasks: JoinSet<()>,
}

struct Machine {
    host: Host,
    node: NodeIdentity,
    line_tx: watch::Sender<Line>,
    /// The agent's tasks; it dies with them.
    agent: Option<JoinSet<()>>,
    has_runtime: bool,
    hangs: Option<&'static str>,
    copy: Option<TempDir>,
}

impl World {
    /// A fleet of so many machines, all well. What happens goes to `tell`.
    pub(super) async fn new(mut chance: Chance, machines: usize, tell: fn(&str)) -> Self {
        let dir = place();
        let mut world = Self {
            witness: Arc::default(),
            store: Memory::new(),
            authority: Arc::new(Authority::open(dir.path()).unwrap()),
            dir,
            control: None,
            door_tx: watch::channel(None).0,
            machines: Vec::new(),
            sets: Vec::new(),
            orphaned: Vec::new(),
            versions: 0,
            begun: Instant::now(),
            tell,
            chance: chance.split(),
        };
        world.start_control().await;
        for number in 0..machines {
            let machine = world.join(number).await;
            world.machines.push(machine);
            world.start_agent(number);
        }
        world
    }

    /// Draws the next step, waits until it is due, does it, and looks at what the witness saw.
    pub(super) async fn step(&mut self) -> Result<(), String> {
        let outline = self.outline();
        let step = schedule::next(&mut self.chance, &outline);
        sleep(schedule::pause(&mut self.chance)).await;
        self.tell(&format!("{step:?}"));
        self.carry_out(step).await;
        {
            let mut witness = self.witness();
            witness.look_at_singles();
            witness.look_at_ended();
        }
        self.verdict()
    }

    /// Mends everything and waits until all is as users want it: first without one machine, which is lost before the last
    /// rollout and must not be in its way, then with it.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        self.mend().await;
        let absent = self.chance.below(self.machines.len());
        self.switch_off(absent).await;
        self.tell(&format!("everything is mended, but {absent} is off"));
        sleep(2 * SILENCE).await;
        for (name, template) in self.sets.clone() {
            let budget = template.budget.at_least(self.machines.len() / 5);
            self.update(name, Template { version: self.versions, missing: false, budget, ..template }).await;
        }
        self.converge(Some(absent)).await?;
        self.tell("it is on again");
        self.start_agent(absent);
        self.converge(None).await
    }

    async fn converge(&mut self, absent: Option<usize>) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            sleep(Duration::from_secs(5)).await;
            self.verdict()?;
            match self.lacking(absent).await {
                None => break,
                Some(lacking) if begun.elapsed() > SETTLED_WITHIN => {
                    return Err(format!("after {SETTLED_WITHIN:?} without a fault: {lacking}"));
                }
                Some(_) => {}
            }
        }
        self.tell(&format!("all is as it should be after {} s", begun.elapsed().as_secs()));
        Ok(())
    }

    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    fn tell(&self, what: &str) {
        (self.tell)(&format!("{:>9.3} {what}", self.begun.elapsed().as_secs_f64()));
    }

    fn verdict(&self) -> Result<(), String> {
        let witness = self.witness();
        if witness.violations().is_empty() { Ok(()) } else { Err(witness.violations().join("\n")) }
    }

    fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().unwrap()
    }

    fn outline(&self) -> Outline {
        let machine = |(number, machine): (usize, &Machine)| MachineOutline {
            runs: machine.agent.is_some(),
            line_open: machine.line_tx.borrow().open,
            runtime: machine.has_runtime,
            hangs: machine.hangs,
            has_copy: machine.copy.is_some(),
            cleared: self.witness().is_cleared(number),
        };
        Outline {
            machines: self.machines.iter().enumerate().map(machine).collect(),
            sets: self.sets.clone(),
            orphaned: self.orphaned.clone(),
            control: self.control.is_some(),
            versions: self.versions,
        }
    }

    async fn carry_out(&mut self, step: Step) {
        match step {
            Step::CreateSet(name, template) => self.create(name, template).await,
            Step::UpdateSet(name, template) => self.update(name, template).await,
            Step::DeleteSet(name) => self.delete_set(&name, Propagation::Background).await,
            Step::OrphanSet(name) => self.delete_set(&name, Propagation::Orphan).await,
            Step::SetZone(machine, zone) => self.set_zone(machine, zone).await,
            Step::Clear(machine, cleared) => self.clear(machine, cleared).await,
            Step::DeletePod(machine, set) => self.delete_pod(machine, Some(&set)).await,
            Step::DeleteSingle(machine) => self.delete_pod(machine, None).await,
            Step::KeepSingle(machine) => self.keep_single(machine).await,
            Step::LetGo => self.let_go().await,
            Step::ReleasePod(machine, set) => self.release_pod(machine, &set).await,
            Step::ReadoptPod(machine, set) => self.readopt_pod(machine, &set).await,
            Step::KillAgent(machine) => self.kill_agent(machine).await,
            Step::KillAgentAt(machine, calls) => self.kill_agent_at(machine, calls).await,
            Step::KillAgentAtPoll(machine, polls) => self.kill_agent_at_poll(machine, polls).await,
            Step::StartAgent(machine) => self.start_agent(machine),
            Step::SwitchOff(machine) => self.switch_off(machine).await,
            Step::SwitchOffAndRollBack(machine) => {
                self.switch_off(machine).await;
                self.roll_back(machine);
            }
            Step::CopyDisk(machine) => {
                let copy = place();
                copy_dir(&self.ledger(machine), copy.path());
                self.machines[machine].copy = Some(copy);
            }
            Step::CutLine(machine) => self.line(machine, |line| line.open = false),
            Step::MendLine(machine) => self.line(machine, |line| line.open = true),
            Step::CutLines(rest) => self.lines(rest, |line| line.open = false),
            Step::MendLines(rest) => self.lines(rest, |line| line.open = true),
            Step::BreakLine(machine) => self.line(machine, |line| line.breaks += 1),
            Step::SlowLine(machine, most) => self.line(machine, |line| line.delay_max = most),
            Step::EndContainer(machine, set) => self.end_container(machine, &set),
            Step::StopRuntime(machine) => {
                self.machines[machine].host.cri.go_away();
                self.machines[machine].has_runtime = false;
            }
            Step::StartRuntime(machine) => self.start_runtime(machine),
            Step::HangRuntime(machine, method) => {
                self.machines[machine].host.cri.hold(method);
                self.machines[machine].hangs = Some(method);
            }
            Step::ReleaseRuntime(machine, method) => {
                self.machines[machine].host.cri.release(method);
                self.machines[machine].hangs = None;
            }
            Step::FailRuntime(machine, method, calls) => {
                let cri = &self.machines[machine].host.cri;
                (0..calls).for_each(|_| cri.fail_next(method, Code::Unknown, "the disk is slow today"));
            }
            Step::FailDisk(machine, after, calls) => seeded::fail_disk(self.ledger(machine), after, calls),
            Step::KillControl => self.kill_control(),
            Step::KillControlAt(end) => self.kill_control_at(end).await,
            Step::StartControl => {
                self.start_control().await;
                self.check_acknowledged().await;
            }
            Step::FailStore(commits) => self.living().fuse.fail_next(commits),
            Step::JumpClock(seconds) => seeded::jump(seconds),
            Step::JumpControl(seconds) => seeded::jump_alone(seconds),
            Step::SetApart(machine, seconds) => seeded::set_apart(machine, seconds),
        }
        // What the machines remember of calls is of no use here.
        self.machines.iter().for_each(|machine| drop(machine.host.cri.take_changes()));
    }
}

// === control ===

impl World {
    fn living(&self) -> &ControlLife {
        self.control.as_ref().expect("the schedule asks only a control that runs")
    }

    fn objects(&self) -> Objects {
        self.living().objects.clone()
    }

    /// As the endpoint does, but for what listens.
    async fn start_control(&mut self) {
        let fuse = Fuse::new(self.store.clone());
        let objects = Objects::open(fuse.clone()).await.unwrap();
        let bearer = Arc::new(Bearer::open(self.dir.path(), objects.clone()).unwrap());
        let (to_updates_tx, to_updates_rx) = mpsc::channel(QUEUE);
        let (grants_tx, grants_rx) = mpsc::channel(QUEUE);
        let (questions_tx, questions_rx) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(updates::run(objects.clone(), to_updates_rx, questions_rx, grants_tx));
        tasks.spawn(collector::run(objects.clone()));
        tasks.spawn(belongings::run(objects.clone(), self.authority.bundle_pem()));
        let sessions = Sessions::start(objects.clone(), self.authority.clone(), bearer, to_updates_tx, grants_rx);
        self.door_tx.send_replace(Some(sessions.await.unwrap()));
        self.control = Some(ControlLife { objects, fuse, _questions_tx: questions_tx, _tasks: tasks });
    }

    fn kill_control(&mut self) {
        if let Some(control) = self.control.take() {
            control.fuse.blow();
        }
        self.door_tx.send_replace(None);
    }

    async fn kill_control_at(&mut self, end: End) {
        let fuse = self.living().fuse.clone();
        fuse.blow_at(end);
        until(|| fuse.is_blown()).await;
        self.kill_control();
    }

    /// Every write that was acknowledged is still there.
    async fn check_acknowledged(&self) {
        let found = self.list(&DAEMON_SET).await;
        let mut witness = self.witness();
        let wanted: Vec<_> = witness.present().map(|(uid, set)| (uid.clone(), set.image.clone())).collect();
        let found: Vec<_> = found.iter().map(|set| (Uid::from(text(set, "uid")), image(set).to_owned())).collect();
        for lost in wanted.iter().filter(|set| !found.contains(set)) {
            witness
                .violation(format!("control came back without what it had acknowledged: {lost:?}; it has {found:?}"));
        }
    }

    async fn list(&self, kind: &'static Kind) -> Vec<Value> {
        let options = ListOptions {
            namespace: None,
            matches: &|_| true,
            limit: 0,
            next: None,
            at: None,
            not_before: Revision(0),
        };
        self.objects().list(kind, options).await.unwrap().items
    }
}

// === users ===

impl World {
    async fn create(&mut self, name: String, template: Template) {
        self.versions += 1;
        let objects = self.objects();
        let object = self.written(&name, &template);
        let selector = &object["spec"]["selector"];
        let is_settled = self.list(&DAEMON_SET).await.iter().all(|other| other["spec"]["selector"] != *selector);
        let made =
            trying(async || objects.create(&DAEMON_SET, NAMESPACE, object.clone(), WriteOptions::default()).await);
        // Nodes may act before the answer is here, but not before this task has gone on.
        let made = made.await;
        let set = SetMade {
            name: &name,
            label: &template.label,
            image: image(&made),
            zone: template.zone.map(str::to_owned),
            budget: self.nodes_of(template.budget),
            surges: matches!(template.budget, Budget::Surge(_)),
            is_settled,
        };
        self.witness().set_made(&text(&made, "uid").into(), set);
        self.acknowledged(&name, &made);
        self.orphaned.retain(|orphaned| orphaned.label != template.label);
        self.sets.push((name, template));
    }

    async fn update(&mut self, name: String, template: Template) {
        self.versions += 1;
        let objects = self.objects();
        let object = self.written(&name, &template);
        let before = objects.get(&DAEMON_SET, NAMESPACE, &name).await.unwrap();
        let budget = self.nodes_of(template.budget);
        let zone = template.zone.map(str::to_owned);
        self.witness().set_changed(&text(&before, "uid").into(), image(&object), zone, budget);
        let made = trying(async || {
            let change = |current: &Value| {
                let mut changed = current.clone();
                for field in ["template", "updateStrategy", "minReadySeconds"] {
                    changed["spec"][field] = object["spec"][field].clone();
                }
                Ok::<_, ObjectError>(changed)
            };
            objects.update(&DAEMON_SET, NAMESPACE, &name, Part::Main, WriteOptions::default(), change).await
        });
        let made = made.await;
        if made["metadata"]["generation"] != before["metadata"]["generation"] {
            self.acknowledged(&name, &made);
        }
        let known = self.sets.iter_mut().find(|(known, _)| *known == name).unwrap();
        known.1 = template;
    }

    async fn delete_set(&mut self, name: &str, propagation: Propagation) {
        let objects = self.objects();
        let set = Uid::from(text(&objects.get(&DAEMON_SET, NAMESPACE, name).await.unwrap(), "uid"));
        let had = self.pods_of(Some(&set)).await;
        let had = had.iter().filter_map(|pod| Some((text(pod, "uid").into(), self.machine_of(pod)?)));
        self.witness().set_deleted(&set, &had.collect(), propagation == Propagation::Orphan);
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        trying(async || objects.delete(&DAEMON_SET, NAMESPACE, name, &options).await).await;
        let gone = self.sets.extract_if(.., |(known, _)| known == name).map(|(_, template)| template);
        self.orphaned.extend(gone.filter(|_| propagation == Propagation::Orphan));
    }

    async fn set_zone(&self, machine: usize, zone: Option<&str>) {
        self.witness().zone_changed(machine, zone.map(str::to_owned));
        self.change_node(machine, |node| node["metadata"]["labels"]["zone"] = zone.map_or(Value::Null, Value::from))
            .await;
    }

    async fn clear(&self, machine: usize, cleared: bool) {
        self.witness().cleared(machine, cleared);
        self.change_node(machine, |node| {
            let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            let mut taints: Vec<_> = taints.into_iter().filter(|taint| taint["key"] != TAINT).collect();
            taints.extend(cleared.then(|| json!({ "key": TAINT, "effect": "NoExecute" })));
            node["spec"]["taints"] = taints.into();
        })
        .await;
    }

    async fn change_node(&self, machine: usize, change: impl Fn(&mut Value)) {
        let (objects, name) = (self.objects(), self.machines[machine].node.name.clone());
        let change = |current: &Value| {
            let mut changed = current.clone();
            change(&mut changed);
            let labels = changed["metadata"]["labels"].as_object_mut().unwrap();
            labels.retain(|_, value| !value.is_null());
            Ok::<_, ObjectError>(changed)
        };
        let options = WriteOptions::default();
        trying(async || objects.update(&NODE, "", name.as_str(), Part::Main, options, change).await).await;
    }

    /// The pods that a DaemonSet has, or those that none has, and that are not being deleted.
    async fn pods_of(&self, set: Option<&Uid>) -> Vec<Value> {
        let is_one = |pod: &Value| meta::controller(pod).as_ref() == set && !meta::is_deleting(pod);
        self.list(&POD).await.into_iter().filter(is_one).collect()
    }

    fn machine_of(&self, pod: &Value) -> Option<usize> {
        let node = pod["spec"]["nodeName"].as_str()?;
        self.machines.iter().position(|machine| machine.node.name.as_str() == node)
    }

    async fn delete_pod(&self, machine: usize, set: Option<&str>) {
        let objects = self.objects();
        let Some(pod) = self.pod_on(machine, set, None).await else { return };
        let uid = Uid::from(text(&pod, "uid"));
        self.witness().pod_deleted(uid.clone());
        // It may go by itself meanwhile.
        let deleted = objects.delete(&POD, NAMESPACE, text(&pod, "name"), &DeleteOptions::default()).await;
        self.witness().pod_deletion_answered(uid, machine, deleted.is_ok());
    }

    async fn keep_single(&self, machine: usize) {
        let Some(pod) = self.pod_on(machine, None, None).await else { return };
        self.change_pod(text(&pod, "name"), |pod| pod["metadata"]["finalizers"] = json!([FINALIZER])).await;
    }

    async fn let_go(&self) {
        for pod in self.list(&POD).await.iter().filter(|pod| meta::finalizers(pod).next().is_some()) {
            self.change_pod(text(pod, "name"), |pod| pod["metadata"]["finalizers"] = json!([])).await;
        }
    }

    /// It may go by itself meanwhile.
    async fn change_pod(&self, name: &str, change: impl Fn(&mut Value)) {
        let objects = self.objects();
        let change = |current: &Value| {
            let mut changed = current.clone();
            change(&mut changed);
            Ok::<_, ObjectError>(changed)
        };
        let options = WriteOptions::default();
        let update = async || match objects.update(&POD, NAMESPACE, name, Part::Main, options, change).await {
            Ok(_) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        trying(update).await;
    }

    async fn release_pod(&self, machine: usize, set: &str) {
        let Some(pod) = self.pod_on(machine, Some(set), None).await else { return };
        let label = apart(&self.template(set).label);
        self.label_pod((machine, &pod), set, &label).await;
    }

    async fn readopt_pod(&self, machine: usize, set: &str) {
        let label = &self.template(set).label;
        let Some(pod) = self.pod_on(machine, None, Some(&apart(label))).await else { return };
        self.label_pod((machine, &pod), set, label).await;
    }

    /// A pod on a machine that a DaemonSet has, or one that none has, and of this label.
    async fn pod_on(&self, machine: usize, set: Option<&str>, label: Option<&str>) -> Option<Value> {
        let set = match set {
            Some(set) => Some(self.set_uid(set).await),
            None => None,
        };
        let is_one = |pod: &Value| {
            let is_labelled = label.is_none_or(|label| pod["metadata"]["labels"][LABEL] == label);
            self.machine_of(pod) == Some(machine) && is_labelled
        };
        self.pods_of(set.as_ref()).await.into_iter().find(is_one)
    }

    async fn label_pod(&self, (machine, pod): (usize, &Value), set: &str, label: &str) {
        let set = self.set_uid(set).await;
        self.witness().labelled(&text(pod, "uid").into(), machine, &set, label);
        self.change_pod(text(pod, "name"), |pod| pod["metadata"]["labels"][LABEL] = label.into()).await;
    }

    async fn set_uid(&self, name: &str) -> Uid {
        text(&self.objects().get(&DAEMON_SET, NAMESPACE, name).await.unwrap(), "uid").into()
    }

    fn template(&self, set: &str) -> &Template {
        &self.sets.iter().find(|(name, _)| name == set).expect("the schedule names one that is there").1
    }

    fn acknowledged(&self, name: &str, object: &Value) {
        let version = text(object, "resourceVersion").parse().unwrap();
        self.witness().answered(name, version);
    }

    /// The object as its user writes it. Its image is where nodes find it, unless it is missing.
    fn written(&self, name: &str, template: &Template) -> Value {
        let image = format!("registry.example/{}:{}", template.label, template.version);
        if !template.missing {
            self.machines.iter().for_each(|machine| machine.host.cri.serve_image(&image));
        }
        let rolling = match template.budget {
            Budget::Nodes(nodes) => json!({ "maxUnavailable": nodes, "maxSurge": 0 }),
            Budget::Percent(percent) => json!({ "maxUnavailable": format!("{percent}%"), "maxSurge": 0 }),
            Budget::Surge(nodes) => json!({ "maxUnavailable": 0, "maxSurge": nodes }),
        };
        let mut spec = json!({
            "containers": [{ "name": "main", "image": image, "imagePullPolicy": "IfNotPresent" }],
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
        });
        if let Some(zone) = template.zone {
            spec["nodeSelector"] = json!({ "zone": zone });
        }
        let labels = json!({ LABEL: template.label });
        json!({
            "metadata": { "name": name },
            "spec": {
                "selector": { "matchLabels": labels },
                "minReadySeconds": template.min_ready,
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": rolling },
                "template": { "metadata": { "labels": labels }, "spec": spec },
            },
        })
    }

    /// How many nodes a budget means at most, all of the fleet's being meant.
    fn nodes_of(&self, budget: Budget) -> usize {
        match budget {
            Budget::Nodes(nodes) | Budget::Surge(nodes) => nodes,
            Budget::Percent(percent) => (self.machines.len() * percent).div_ceil(100).max(1),
        }
    }
}

// === machines ===

impl World {
    /// Makes a machine a node, as its agent would.
    async fn join(&mut self, number: usize) -> Machine {
        let sessions = self.door_tx.borrow().clone().expect("control runs");
        let allowance =
            Allowance { valid_for: SignedDuration::from_hours(1), uses: Some(1), node_name: None, labels: None };
        let token = sessions.make_token(allowance).await.unwrap();
        let name = format!("node-{number}");
        let zone = schedule::ZONES[number % schedule::ZONES.len()];
        let request = EnrollRequest {
            protocol: PROTOCOL,
            token: token.credential(),
            certificate_request: NodeKey::generate().unwrap().request().unwrap(),
            node_name: name.as_str().into(),
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            taints: vec![],
            machine_id: name.clone(),
        };
        let enrolled = sessions.enroll(request).await.unwrap();
        let node = tls::Identity::of(&enrolled.certificate).unwrap().node().unwrap();
        let identity = Identity { fleet: enrolled.fleet, name: enrolled.node_name, uid: enrolled.node_uid };
        let mut host = Host::of(identity, place());
        host.machine_id.clone_from(&name);
        host.wall = seeded::clock_of(number);
        seeded::set_apart(number, schedule::apart(&mut self.chance));
        // Some have a key, others do not.
        host.key = (number % 2 == 1).then(|| Key::new(&[1; KEY_BYTES]));
        let (dir, key) = (host.dir.path().to_owned(), host.key.clone());
        self.witness().machine_joined(&name, dir, key, Some(zone.to_owned()), host.wall);
        let witness = self.witness.clone();
        host.cri.watch(move |sandboxes| witness.lock().unwrap().changed(number, &sandboxes));
        let line = Line { open: true, breaks: 0, delay_max: 10 };
        let line_tx = watch::channel(line).0;
        Machine { host, node, line_tx, agent: None, has_runtime: true, hangs: None, copy: None }
    }

    fn start_agent(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        if machine.agent.is_some() {
            return;
        }
        let wire = Wire {
            machine: number,
            node: machine.node.clone(),
            door_rx: self.door_tx.subscribe(),
            line_rx: machine.line_tx.subscribe(),
            chance: self.chance.split(),
            witness: self.witness.clone(),
        };
        if machine.has_runtime {
            machine.host.cri.come_back();
        }
        let (up_rx, incoming_tx, mut tasks) = machine.host.start().link();
        tasks.spawn(wire.run(up_rx, incoming_tx));
        machine.agent = Some(tasks);
    }

    async fn kill_agent(&mut self, number: usize) {
        if let Some(mut tasks) = self.machines[number].agent.take() {
            tasks.shutdown().await;
        }
    }

    async fn kill_agent_at(&mut self, number: usize, calls: usize) {
        let cri = self.machines[number].host.cri.clone();
        cri.freeze_after(calls);
        until(|| cri.is_frozen()).await;
        self.kill_agent(number).await;
        cri.thaw();
    }

    async fn kill_agent_at_poll(&mut self, number: usize, polls: usize) {
        let host = &self.machines[number].host;
        let (cri, life) = (host.cri.clone(), host.life.clone());
        life.end_after(polls);
        until(|| life.is_over()).await;
        self.kill_agent(number).await;
        cri.thaw();
    }

    /// Control learns of it by silence.
    async fn switch_off(&mut self, number: usize) {
        let was_open = self.machines[number].line_tx.borrow().open;
        self.line(number, |line| line.open = false);
        self.kill_agent(number).await;
        self.struck(number, |machine| machine.host.cri.switch_off());
        let machine = &mut self.machines[number];
        machine.hangs = None;
        machine.has_runtime = true;
        machine.host.boot_id.push('+');
        self.line(number, |line| line.open = was_open);
    }

    fn roll_back(&mut self, number: usize) {
        let ledger = self.ledger(number);
        let Some(copy) = self.machines[number].copy.take() else { return };
        std::fs::remove_dir_all(&ledger).unwrap();
        copy_dir(copy.path(), &ledger);
        self.witness().machines[number].rolled_back = true;
    }

    fn ledger(&self, number: usize) -> std::path::PathBuf {
        self.machines[number].host.dir.path().join("ledger")
    }

    fn end_container(&self, number: usize, set: &str) {
        let found = {
            let witness = self.witness();
            let of_set = |(uid, pod): &(&Uid, &PodSeen)| {
                pod.image.is_some() && witness.owner(uid, pod).is_some_and(|owner| witness.sets[owner].name == set)
            };
            witness.pods(number).iter().find(of_set).map(|(uid, _)| uid.clone())
        };
        if let Some(pod) = found {
            self.struck(number, |machine| drop(machine.host.cri.end_container(&pod, "main", 1)));
        }
    }

    /// What stops meanwhile stops because of a fault.
    fn struck(&self, number: usize, fault: impl FnOnce(&Machine)) {
        self.witness().machines[number].is_struck = true;
        fault(&self.machines[number]);
        self.witness().machines[number].is_struck = false;
    }

    fn start_runtime(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.host.cri.come_back();
        machine.has_runtime = true;
    }

    fn line(&self, number: usize, change: impl FnOnce(&mut Line)) {
        self.machines[number].line_tx.send_modify(change);
    }

    fn lines(&self, rest: usize, change: impl Fn(&mut Line)) {
        (0..self.machines.len()).filter(|number| number % 2 == rest).for_each(|number| self.line(number, &change));
    }
}

// === the end ===

impl World {
    async fn mend(&mut self) {
        if self.control.is_none() {
            self.start_control().await;
        }
        self.living().fuse.fail_next(0);
        seeded::mend_disks();
        for number in 0..self.machines.len() {
            self.line(number, |line| *line = Line { open: true, delay_max: 10, ..*line });
            if let Some(method) = self.machines[number].hangs.take() {
                self.machines[number].host.cri.release(method);
            }
            self.start_runtime(number);
            self.start_agent(number);
        }
        self.let_go().await;
        // No user gives a single pod another image than one that was missing.
        for pod in self.list(&POD).await {
            let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
            self.machines.iter().for_each(|machine| machine.host.cri.serve_image(image));
        }
    }

    /// What is not as users want it; none if all is. The machine that is `absent` may be as it likes.
    async fn lacking(&self, absent: Option<usize>) -> Option<String> {
        let (sets, pods, nodes) = (self.list(&DAEMON_SET).await, self.list(&POD).await, self.list(&NODE).await);
        let mut witness = self.witness();
        witness.look_at_singles();
        let unlike = (0..self.machines.len()).filter(|number| Some(*number) != absent).find_map(|number| {
            let node = nodes.iter().find(|node| text(node, "name") == self.machines[number].node.name.as_str())?;
            unready(node).or_else(|| witness.unlike(number))
        });
        if unlike.is_some() || absent.is_some() {
            return unlike;
        }
        let in_runtimes: usize = witness.machines.iter().map(|machine| machine.pods.len()).sum();
        if pods.len() != in_runtimes {
            let in_api: Vec<_> = pods.iter().map(|pod| (text(pod, "name"), text(pod, "uid"))).collect();
            let there =
                |machine: &MachineSeen| (machine.name.clone(), machine.pods.keys().cloned().collect::<Vec<_>>());
            let there: Vec<_> = witness.machines.iter().map(there).collect();
            return Some(format!("{in_runtimes} pods are there, {there:?}, the API has {in_api:?}"));
        }
        if let Some(pod) = pods.iter().find(|pod| !self.is_owned_rightly(&witness, pod)) {
            return Some(format!("{} has the wrong owner, {}", text(pod, "name"), pod["metadata"]));
        }
        witness.present().find_map(|(uid, set)| {
            let wanted = (0..self.machines.len()).filter(|number| witness.belongs(set, *number)).count();
            let object = sets.iter().find(|set| text(set, "uid") == uid.as_str());
            object.map_or_else(|| Some(format!("{} is not in the API", set.name)), |object| miscounted(object, wanted))
        })
    }

    /// Whether a pod has the one owner that selects it, or none.
    fn is_owned_rightly(&self, witness: &Witness, pod: &Value) -> bool {
        let uid = Uid::from(text(pod, "uid"));
        let found = self.machine_of(pod).and_then(|machine| witness.pods(machine).get(&uid));
        let owners: Vec<_> = meta::owner_uids(pod).collect();
        found.is_some_and(|found| owners == witness.owner(&uid, found).into_iter().map(Uid::as_str).collect::<Vec<_>>())
    }
}

/// The label of a pod that was released from what selects this one.
fn apart(label: &str) -> String {
    format!("{label}-apart")
}

/// What is wrong with a Node that should be ready.
fn unready(node: &Value) -> Option<String> {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
    (!ready).then(|| format!("{} is not ready: {conditions:?}", text(node, "name")))
}

/// What is wrong with a DaemonSet's status when all is well on the nodes it is for.
fn miscounted(set: &Value, nodes: usize) -> Option<String> {
    let status = &set["status"];
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "updatedNumberScheduled",
        "numberReady",
        "numberAvailable",
    ];
    let right = counts.into_iter().map(|count| status[count].as_u64().unwrap_or(0)).all(|count| count == nodes as u64);
    let seen = status["observedGeneration"] == set["metadata"]["generation"];
    (!right || !seen).then(|| format!("the status of {} is not that of {nodes} nodes: {status}", text(set, "name")))
}

/// Waits for a moment at which somebody dies. There may be nothing to do that would lead to it.
async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    drop(tokio::time::timeout(Duration::from_secs(2), waiting).await);
}

/// What a user gets who tries again when a request fails.
async fn trying<T>(mut request: impl AsyncFnMut() -> Result<T, ObjectError>) -> T {
    for _ in 0..TRIES {
        match request().await {
            Ok(made) => return made,
            Err(ObjectError::Store(_)) => sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("a user's request was refused: {error}"),
        }
    }
    panic!("a user's request failed {TRIES} times")
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn image(set: &Value) -> &str {
    set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

/// A directory in memory, if the system has such a place: nothing here is about disks that lose power.
fn place() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
