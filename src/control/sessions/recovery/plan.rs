//! What is rebuilt of a lost store, from the accounts of nodes. Pure.
//!
//! Of each DaemonSet the highest generation counts, of equal ones the one that the node furthest in intent holds. Since every
//! DaemonSet goes to every node, one that a node further on does not hold is taken to be deleted. What control has already
//! stays as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::admission::account;
use crate::api::bundle::{Bundle, Posted};
use crate::api::revision;
use crate::control::belongings::ROOT_CA;
use crate::control::kinds::{CONFIG_MAP, DAEMON_SET, Kind, POD, SECRET};
use crate::control::meta;
use crate::control::nodes;
use crate::control::objects::{AdmittedRecord, MemberRecord, PermitRecord, PodIntent, PostedPod};
use crate::control::recovery::{Choice, Found, Outcome, Recovery, Stranger};
use crate::control::registry;
use crate::control::sessions::desired::named;
use crate::control::updates::history_record;
use crate::link::tls::NodeIdentity;
use crate::link::{self, HeldRevision, Hello, Holdings, ObjectRef};
use crate::model::{BlobHash, FleetId, ObjectKey, PermitNumber, Position, RevisionHash, Uid};

/// What one node has told.
#[derive(Debug, Clone)]
pub(in crate::control::sessions) struct Account {
    pub(in crate::control::sessions) node: NodeIdentity,
    pub(in crate::control::sessions) hello: Hello,
    pub(in crate::control::sessions) told: Told,
}

/// How far it has come with it.
#[derive(Debug, Clone)]
pub(in crate::control::sessions) enum Told {
    /// Its agent does not know how.
    Cannot,
    /// It is about to.
    Telling,
    /// All of it is here.
    All(Holdings),
}

/// What control has already.
#[derive(Debug, Clone)]
pub(in crate::control::sessions) struct Here {
    pub(super) fleet: FleetId,
    /// Nodes that are on record follow this store.
    pub(super) has_members: bool,
    pub(super) nodes: HashMap<String, Uid>,
    pub(super) sets: HashMap<ObjectKey, Uid>,
    pub(super) objects: HashSet<ObjectRef>,
    pub(super) pods: HashMap<ObjectKey, Uid>,
    /// What was deleted and is on record as such.
    pub(super) deleted: HashSet<Uid>,
    /// ServiceAccounts, PriorityClasses and RuntimeClasses, as in [`Recovery::missing`].
    pub(super) named: HashSet<String>,
}

/// What is to be written, in this order, and what of it is shown.
#[derive(Debug)]
pub(in crate::control::sessions) struct Plan {
    pub(super) fleet: FleetId,
    pub(super) ahead: Vec<Position>,
    pub(super) last_permit: PermitNumber,
    pub(super) namespaces: BTreeSet<String>,
    pub(super) objects: Vec<(&'static Kind, Value)>,
    pub(super) sets: Vec<RebuiltSet>,
    pub(super) pods: Vec<(PodIntent, Value)>,
    pub(super) permits: Vec<PermitRecord>,
    pub(super) members: Vec<(MemberRecord, Value)>,
    pub(in crate::control::sessions) shown: Recovery,
}

/// A DaemonSet with the revisions that nodes run or may move to.
#[derive(Debug)]
pub(super) struct RebuiltSet {
    /// It is not here yet.
    pub(super) is_new: bool,
    pub(super) object: Value,
    /// Its history, newest first: ControllerRevisions, and what they were admitted as.
    pub(super) revisions: Vec<(Value, AdmittedRecord)>,
}

/// Works out what is to be rebuilt. `blobs` are whole and come to their hashes.
pub(super) fn plan(
    number: u64,
    accounts: &[Account],
    blobs: &HashMap<BlobHash, Bytes>,
    here: &Here,
    choice: &Choice,
    now: Timestamp,
) -> Plan {
    let fleet = if here.has_members { here.fleet.clone() } else { commonest(accounts, &here.fleet) };
    let left_out = |account: &Account| left_out(account, &fleet, here, choice);
    let mut nodes: Vec<_> = accounts.iter().map(|account| stranger(account, left_out(account))).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let told = accounts.iter().filter(|account| left_out(account).is_none());
    let told = told
        .filter_map(|account| if let Told::All(holdings) = &account.told { Some((account, holdings)) } else { None });
    let scene = Scene::of(told.collect(), blobs, here, choice);

    let (sets, mut found) = scene.sets();
    let (pods, found_pods) = scene.pods();
    let mut wanted: BTreeSet<ObjectRef> = BTreeSet::new();
    for bundle in sets.iter().flat_map(|set| &set.bundles).map(|(bundle, _)| bundle).chain(&pods) {
        let added = bundle.posted.as_ref().map(|posted| &posted.ephemeral_containers[..]).unwrap_or_default();
        wanted.extend(named(&bundle.namespace, bundle.template.spec.as_ref(), added));
    }
    let (objects, found_objects) = scene.objects(&wanted, now);
    found.extend(found_objects);
    found.extend(found_pods);

    let keys = sets.iter().map(|set| meta::namespace(&set.object).to_owned());
    let namespaces = keys.chain(pods.iter().map(|pod| pod.namespace.clone())).collect();
    let uids: HashSet<_> = sets.iter().map(|set| meta::uid(&set.object)).collect();
    let permits: Vec<_> = scene.told.iter().flat_map(|(account, _)| permits(account, &uids)).collect();
    let last = |account: &Account| account.hello.permits.iter().map(|permit| permit.number.0).max();
    let last_permit = accounts.iter().filter_map(last).max().unwrap_or(0);
    let bundles = || sets.iter().flat_map(|set| &set.bundles).map(|(bundle, _)| bundle).chain(pods.iter());
    let missing: BTreeSet<_> = bundles().flat_map(names).filter(|name| !here.named.contains(name)).collect();
    let mut labels: BTreeMap<String, usize> = BTreeMap::new();
    for (_, holdings) in &scene.told {
        for (key, value) in own_labels(holdings) {
            *labels.entry(format!("{key}={value}")).or_default() += 1;
        }
    }
    Plan {
        fleet: fleet.clone(),
        ahead: scene.told.iter().map(|(account, _)| account.hello.position).collect(),
        last_permit: PermitNumber(last_permit),
        namespaces,
        objects,
        pods: pods.iter().map(posted).collect(),
        permits,
        members: scene.told.iter().map(|(account, holdings)| member(account, holdings, choice, now)).collect(),
        shown: Recovery {
            number,
            nodes,
            objects: found,
            labels: labels.into_iter().collect(),
            vouch_for_labels: choice.vouch_for_labels,
            missing: missing.into_iter().collect(),
        },
        sets: sets.into_iter().map(Set::rebuilt).collect(),
    }
}

/// The fleet that most belong to.
fn commonest(accounts: &[Account], here: &FleetId) -> FleetId {
    let mut counts: BTreeMap<&FleetId, usize> = BTreeMap::new();
    accounts.iter().for_each(|account| *counts.entry(&account.hello.fleet).or_default() += 1);
    counts.into_iter().max_by_key(|(_, count)| *count).map_or_else(|| here.clone(), |(fleet, _)| fleet.clone())
}

fn left_out(account: &Account, fleet: &FleetId, here: &Here, choice: &Choice) -> Option<String> {
    let name = &account.node.name;
    if choice.without.contains(name) {
        return Some("--without says so".to_owned());
    }
    if account.hello.fleet != *fleet {
        return Some(format!("its ledger belongs to fleet {}, the others' to {fleet}", account.hello.fleet));
    }
    if here.nodes.get(name.as_str()).is_some_and(|uid| *uid != account.node.uid) {
        return Some("another node of this name is here; delete that one first".to_owned());
    }
    match account.told {
        Told::Cannot => Some("its agent is too old to tell what it holds; upgrade it".to_owned()),
        Told::Telling => Some("it has yet to tell all it holds; look again".to_owned()),
        Told::All(_) => None,
    }
}

fn stranger(account: &Account, left_out: Option<String>) -> Stranger {
    let Position { era, seq } = account.hello.position;
    Stranger { name: account.node.name.clone(), era, seq, left_out }
}

/// Labels that do not follow from the machine.
fn own_labels(holdings: &Holdings) -> impl Iterator<Item = (&String, &String)> {
    holdings.labels.iter().filter(|(key, _)| !nodes::HOST_LABELS.contains(&key.as_str()))
}

fn member(account: &Account, holdings: &Holdings, choice: &Choice, now: Timestamp) -> (MemberRecord, Value) {
    let Account { node, hello, .. } = account;
    let record = MemberRecord {
        uid: node.uid.clone(),
        name: node.name.clone(),
        key: node.key.to_string(),
        machine_id: hello.machine_id.clone(),
        session: hello.session,
        session_nonce: hello.nonce.clone(),
    };
    let claimed: Vec<_> = own_labels(holdings).map(|(key, _)| key).filter(|_| !choice.vouch_for_labels).collect();
    let mut object = nodes::registered(&node.name, &node.uid, &holdings.labels, &claimed, &holdings.taints, now);
    if holdings.unschedulable {
        object["spec"]["unschedulable"] = true.into();
    }
    (record, object)
}

fn permits(account: &Account, sets: &HashSet<&str>) -> Vec<PermitRecord> {
    let of_sets = account.hello.permits.iter().filter(|permit| sets.contains(permit.daemonset.as_str()));
    let record = |permit: &link::TakenPermit| PermitRecord {
        number: permit.number,
        daemonset: permit.daemonset.clone(),
        node: account.node.uid.clone(),
        revision: permit.revision.clone(),
    };
    of_sets.map(record).collect()
}

/// What a pod's spec names beside configuration.
fn names(bundle: &Bundle) -> Vec<String> {
    let Some(spec) = &bundle.template.spec else { return Vec::new() };
    let account =
        (account(spec) != "default").then(|| format!("ServiceAccount {}/{}", bundle.namespace, account(spec)));
    let class = spec.priority_class_name.as_ref().map(|name| format!("PriorityClass {name}"));
    let runtime = spec.runtime_class_name.as_ref().map(|name| format!("RuntimeClass {name}"));
    [account, class, runtime].into_iter().flatten().collect()
}

/// The Pod that a bundle was made of, as far as the bundle tells. One that was adopted is adopted again by whoever selects it.
fn posted(bundle: &Bundle) -> (PodIntent, Value) {
    let template = serde_json::to_value(&bundle.template).expect("a template is JSON: its map keys are strings");
    let Posted { created_at, ephemeral_containers, .. } = bundle.posted.clone().expect("only posted pods get here");
    let mut pod = json!({
        "apiVersion": POD.api_version(),
        "kind": POD.kind,
        "metadata": {
            "name": bundle.name, "namespace": bundle.namespace, "uid": bundle.uid.as_str(),
            "generation": bundle.generation, "creationTimestamp": meta::time(created_at),
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    });
    for field in ["labels", "annotations"] {
        if !template["metadata"][field].is_null() {
            pod["metadata"][field] = template["metadata"][field].clone();
        }
    }
    if !ephemeral_containers.is_empty() {
        pod["spec"]["ephemeralContainers"] = json!(ephemeral_containers);
    }
    let node = template["spec"]["nodeName"].as_str().unwrap_or_default().into();
    let posted = PostedPod { runtime_handler: bundle.runtime_handler.clone(), ..PostedPod::default() };
    let posted = Some(posted);
    (PodIntent { uid: bundle.uid.clone(), key: bundle.key(), node, seq: 0, posted }, pod)
}

/// A DaemonSet that is to be here.
struct Set {
    is_new: bool,
    object: Value,
    /// With what users wrote, where that is held. The newest first.
    bundles: Vec<(Bundle, Option<Value>)>,
}

impl Set {
    fn rebuilt(self) -> RebuiltSet {
        let Self { is_new, object, bundles } = self;
        let set = DaemonSet::deserialize(&object).unwrap_or_default();
        let record = |(bundle, written): (Bundle, Option<Value>)| {
            let mut of_revision = set.clone();
            let written = written.and_then(|written| DaemonSet::deserialize(written).ok()?.spec);
            let template = written.map_or_else(|| bundle.template.clone(), |spec| spec.template);
            of_revision.spec.get_or_insert_default().template = template;
            let record = history_record(&of_revision, &bundle.revision, bundle.template_generation);
            let admitted = AdmittedRecord {
                daemonset: bundle.uid,
                revision: bundle.revision,
                template: bundle.template,
                runtime_handler: bundle.runtime_handler,
            };
            (record, admitted)
        };
        RebuiltSet { is_new, revisions: bundles.into_iter().map(record).collect(), object }
    }
}

/// A DaemonSet that nodes hold.
struct HeldSet {
    row: Found,
    /// The intent that brought it.
    seq: u64,
    /// What is to be here, if anything is.
    set: Option<Set>,
}

/// Those who have told all, and what counts beside.
struct Scene<'a> {
    told: Vec<(&'a Account, &'a Holdings)>,
    /// The era that most are in: how far nodes of another one have come cannot be compared.
    era: u64,
    blobs: &'a HashMap<BlobHash, Bytes>,
    /// Those among them that are bundles.
    bundles: HashMap<&'a BlobHash, Bundle>,
    here: &'a Here,
    choice: &'a Choice,
}

/// A revision, with who holds it.
type Holder<'a> = (&'a Account, &'a HeldRevision);

impl<'a> Scene<'a> {
    fn of(
        told: Vec<(&'a Account, &'a Holdings)>,
        blobs: &'a HashMap<BlobHash, Bytes>,
        here: &'a Here,
        choice: &'a Choice,
    ) -> Self {
        let mut eras: BTreeMap<u64, usize> = BTreeMap::new();
        told.iter().for_each(|(account, _)| *eras.entry(account.hello.position.era).or_default() += 1);
        let era = eras.into_iter().max_by_key(|(_, nodes)| *nodes).map_or(0, |(era, _)| era);
        let mut bundles = HashMap::new();
        for (_, holdings) in &told {
            let of_sets = holdings.revisions.iter().map(|held| &held.bundle);
            for hash in of_sets.chain(holdings.pods.iter().map(|held| &held.bundle)) {
                let Some(content) = blobs.get(hash).filter(|_| !bundles.contains_key(hash)) else { continue };
                bundles.extend(Bundle::decode(content).ok().map(|bundle| (hash, bundle)));
            }
        }
        Self { told, era, blobs, bundles, here, choice }
    }

    fn json(&self, hash: &BlobHash) -> Option<Value> {
        serde_json::from_slice(self.blobs.get(hash)?).ok()
    }

    /// How far a node has come; those of another era than most come before all others.
    fn rank(&self, account: &Account) -> (bool, u64) {
        let Position { era, seq } = account.hello.position;
        (era == self.era, seq)
    }

    fn sets(&self) -> (Vec<Set>, Vec<Found>) {
        let mut holders: BTreeMap<&Uid, Vec<Holder<'_>>> = BTreeMap::new();
        for (account, holdings) in &self.told {
            for held in &holdings.revisions {
                holders.entry(&held.daemonset).or_default().push((account, held));
            }
        }
        let mut all: Vec<_> = holders.iter().filter_map(|(uid, holders)| self.set(uid, holders)).collect();
        // Two of one name: the one that was written later has it.
        all.sort_by(|a, b| (&a.row.key, b.seq).cmp(&(&b.row.key, a.seq)));
        for index in 1..all.len() {
            if all[index].row.key == all[index - 1].row.key {
                all[index].row.outcome = Outcome::LeftOut("a later one has its name".to_owned());
                all[index].set = None;
            }
        }
        let (sets, rows): (Vec<_>, Vec<_>) = all.into_iter().map(|held| (held.set, held.row)).unzip();
        (sets.into_iter().flatten().collect(), rows)
    }

    /// One DaemonSet; nothing if no host holds a bundle of it that can be read.
    fn set(&self, uid: &Uid, holders: &[Holder<'_>]) -> Option<HeldSet> {
        let newest: Vec<_> = holders.iter().filter(|(_, held)| held.newest).collect();
        let of_set = |held: &HeldRevision| {
            let bundle = self.bundles.get(&held.bundle)?;
            let fits = bundle.uid == *uid && bundle.revision == held.revision && bundle.posted.is_none();
            fits.then_some(bundle)
        };
        let usable = newest.iter().filter_map(|(account, held)| Some((*account, *held, of_set(held)?)));
        let (_, held, bundle) = usable.max_by_key(|(account, held, bundle)| {
            let count = newest.iter().filter(|(_, other)| other.bundle == held.bundle).count();
            (bundle.generation, self.rank(account), count, &held.bundle)
        })?;
        let same = || newest.iter().filter(|(_, other)| other.bundle == held.bundle);
        let written = same().filter_map(|(account, held)| Some((self.rank(account), held.written.as_ref()?)));
        let written = written.max().and_then(|(_, hash)| self.json(hash));
        let seq = newest.iter().map(|(account, _)| held_seq(account, uid)).max().unwrap_or(0);
        let key = bundle.key();
        let outcome = match self.against(uid, bundle, written.as_ref(), &newest) {
            _ if self.here.sets.get(&key) == Some(uid) => Outcome::Here,
            Some(why) => Outcome::LeftOut(why),
            None => Outcome::Rebuilt,
        };
        let object = written.map(|mut object| {
            let collisions = std::mem::replace(&mut object["status"], registry::status_of_new_daemon_set());
            if let Some(collisions) = collisions.get("collisionCount") {
                object["status"]["collisionCount"] = collisions.clone();
            }
            object
        });
        let set = object.filter(|_| !matches!(outcome, Outcome::LeftOut(_))).map(|object| {
            let mut bundles = vec![(bundle.clone(), Some(object.clone()))];
            let mut older: BTreeMap<RevisionHash, (Bundle, Option<Value>)> = BTreeMap::new();
            for (_, held) in holders.iter().filter(|(_, held)| held.revision != bundle.revision) {
                let Some(bundle) = of_set(held) else { continue };
                let written = held.written.as_ref().and_then(|hash| self.json(hash));
                let written = written.filter(|written| is_of(written, bundle));
                let known = older.get(&held.revision);
                if known.is_none_or(|(_, known)| known.is_none() && written.is_some()) {
                    older.insert(held.revision.clone(), (bundle.clone(), written));
                }
            }
            bundles.extend(older.into_values());
            Set { is_new: outcome == Outcome::Rebuilt, object, bundles }
        });
        let (nodes, others) = (same().count(), newest.len() - same().count());
        let row = Found {
            kind: DAEMON_SET.kind.to_owned(),
            key,
            generation: Some(bundle.generation),
            nodes,
            others,
            outcome,
        };
        Some(HeldSet { row, seq, set })
    }

    /// What is against rebuilding a DaemonSet.
    fn against(&self, uid: &Uid, bundle: &Bundle, written: Option<&Value>, holders: &[&Holder<'_>]) -> Option<String> {
        let Self { here, choice, .. } = self;
        let key = bundle.key();
        let Some(written) = written else {
            return Some("no host has what users wrote of it; its pods stay as they are".to_owned());
        };
        if !is_of(written, bundle) || !registry::validate_create(&DAEMON_SET, written).is_empty() {
            return Some("what the hosts hold of it does not fit together".to_owned());
        }
        if here.sets.contains_key(&key) {
            return Some("another one of this name is here; delete that one first, then look again".to_owned());
        }
        if choice.include.contains(&key) {
            return None;
        }
        if here.deleted.contains(uid) {
            return Some("it was deleted here".to_owned());
        }
        if here.has_members {
            return Some(format!("the fleet goes on without it; --include {key} brings it back"));
        }
        let further = self.told.iter().find(|(other, holdings)| {
            let lacks = holdings.revisions.iter().all(|held| held.daemonset != *uid) && !holdings.refused.contains(uid);
            let at = other.hello.position;
            let is_further = |(holder, _): &&Holder<'_>| {
                let seq = holder.hello.position.seq.max(held_seq(holder, uid));
                holder.hello.position.era == at.era && seq < at.seq
            };
            lacks && holders.iter().all(is_further)
        });
        further.map(|(other, _)| {
            let name = &other.node.name;
            format!(
                "{name}, which is further, does not hold it, so it seems to be deleted; --include {key} brings it back"
            )
        })
    }

    fn objects(&self, wanted: &BTreeSet<ObjectRef>, now: Timestamp) -> (Vec<(&'static Kind, Value)>, Vec<Found>) {
        let mut held: BTreeMap<&ObjectRef, Vec<(&Account, &BlobHash, &Uid)>> = BTreeMap::new();
        for (account, holdings) in &self.told {
            for one in holdings.objects.iter().filter(|one| wanted.contains(&one.object)) {
                held.entry(&one.object).or_default().push((account, &one.blob, &one.uid));
            }
        }
        let (mut objects, mut found) = (Vec::new(), Vec::new());
        for (object, holders) in held {
            // Control writes this one itself, in every namespace.
            let kind = match object.kind {
                link::Kind::ConfigMap if object.key.name != ROOT_CA => &CONFIG_MAP,
                link::Kind::Secret => &SECRET,
                link::Kind::ConfigMap | link::Kind::DaemonSet | link::Kind::Pod => continue,
            };
            let count = |hash: &BlobHash| holders.iter().filter(|(_, other, _)| *other == hash).count();
            let newest = holders.iter().max_by_key(|(account, hash, _)| (self.rank(account), count(hash), *hash));
            let Some((_, hash, uid)) = newest else { continue };
            let value = self.json(hash).filter(|value| {
                let names = (meta::uid(value), meta::namespace(value), meta::name(value));
                names == (uid.as_str(), object.key.namespace.as_str(), object.key.name.as_str())
            });
            let outcome = match value {
                _ if self.here.objects.contains(object) => Outcome::Here,
                Some(mut value) => {
                    value["metadata"]["creationTimestamp"] = meta::time(now).into();
                    objects.push((kind, value));
                    Outcome::Rebuilt
                }
                None => Outcome::LeftOut("what the hosts hold of it does not fit together".to_owned()),
            };
            let (nodes, kind) = (count(hash), kind.kind.to_owned());
            let others = holders.len() - nodes;
            found.push(Found { kind, key: object.key.clone(), generation: None, nodes, others, outcome });
        }
        (objects, found)
    }

    fn pods(&self) -> (Vec<Bundle>, Vec<Found>) {
        let (mut pods, mut found) = (Vec::new(), Vec::new());
        for (account, holdings) in &self.told {
            for held in &holdings.pods {
                let of_node = |bundle: &Bundle| {
                    let node = bundle.template.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                    bundle.posted.is_some() && bundle.uid == held.uid && node == Some(account.node.name.as_str())
                };
                // Pods that a DaemonSet left behind are no one's to post.
                let Some(bundle) = self.bundles.get(&held.bundle).filter(|bundle| of_node(bundle)) else { continue };
                let key = bundle.key();
                let taken = pods.iter().any(|other: &Bundle| other.key() == key);
                let outcome = match self.here.pods.get(&key) {
                    Some(uid) if *uid == held.uid => Outcome::Here,
                    None if !taken => Outcome::Rebuilt,
                    _ => Outcome::LeftOut("another pod has its name".to_owned()),
                };
                if outcome == Outcome::Rebuilt {
                    pods.push(bundle.clone());
                }
                let kind = POD.kind.to_owned();
                found.push(Found { kind, key, generation: None, nodes: 1, others: 0, outcome });
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        (pods, found)
    }
}

/// The intent that brought what a node holds of a DaemonSet.
fn held_seq(account: &Account, uid: &Uid) -> u64 {
    account.hello.daemonsets.iter().find(|held| held.uid == *uid).map_or(0, |held| held.seq)
}

/// Whether what users wrote is what a bundle was made of. Otherwise its pods would be replaced.
fn is_of(written: &Value, bundle: &Bundle) -> bool {
    let Ok(set) = DaemonSet::deserialize(written) else { return false };
    let names = (meta::uid(written), meta::namespace(written), meta::name(written));
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let template = set.spec.map(|spec| spec.template).unwrap_or_default();
    names == (bundle.uid.as_str(), bundle.namespace.as_str(), bundle.name.as_str())
        && revision::hash(&template, collisions) == bundle.revision
}
