//! Three real nodes and kubectl: where pods go, how revisions spread, and what is said when nodes or control are lost.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Node, shell_daemonset};
use crate::nodes::{Fleet, NODES, Rollout, Traffic};

/// How long what a user asks for may take to be true on a node of a busy machine, where no image has to be pulled.
const AT_ONCE: Duration = Duration::from_secs(15);
const PORT: u16 = 8080;

/// A DaemonSet whose pods serve on [`PORT`] and note their stage and name on their node, again and again and at their end. A pod
/// is ready while its node allows its stage; that of the stage `broken` ends at once.
fn web() -> Value {
    let script = format!(
        "[ $STAGE != broken ] || exit 1; note() {{ echo $STAGE $HOSTNAME >>/fleet/log; }}; \
         trap 'note; exit 0' TERM; httpd -p {PORT}; while :; do note; sleep 0.2; done"
    );
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "updateStrategy": one_down(),
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 5,
                "volumes": [{"name": "fleet", "hostPath": {"path": "/run/fleet", "type": "DirectoryOrCreate"}}],
                "containers": [{
                    "name": "web", "image": "busybox:1.35", "command": ["sh", "-c", script],
                    "env": [{"name": "STAGE", "value": "one"}],
                    "ports": [{"containerPort": PORT, "hostPort": PORT}],
                    "readinessProbe": {
                        "exec": {"command": ["sh", "-c", "test -e /fleet/$STAGE"]}, "periodSeconds": 1,
                    },
                    "volumeMounts": [{"name": "fleet", "mountPath": "/fleet"}],
                }],
            }},
        },
    })
}

fn one_down() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
}

fn allow(node: &Node, stage: &str) {
    node.write_inside(&format!("/run/fleet/{stage}"), "");
}

/// Applies [`web`] in its first stage, and waits until it is on every node.
fn apply_web(fleet: &Fleet) {
    fleet.nodes.iter().for_each(|node| allow(node, "one"));
    let file = fleet.control.write("web.json", &web().to_string());
    fleet.control.kubectl(&["apply", "-f", &file]);
    is_rolled_out(fleet);
}

/// Waits until the newest revision is on every node, and nothing is left of the ones before.
fn is_rolled_out(fleet: &Fleet) {
    let said = fleet.control.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    assert!(said.contains("daemon set \"web\" successfully rolled out"), "{said}");
    fleet.control.eventually("older pods are gone", |control| {
        let pods = control.try_kubectl(&["get", "pods", "-l", "app=web", "--no-headers"])?;
        if pods.lines().count() == NODES { Ok(()) } else { Err(pods) }
    });
}

fn stage(fleet: &Fleet, name: &str) {
    fleet.control.kubectl(&["set", "env", "daemonset/web", &format!("STAGE={name}")]);
}

/// What the pods of a node noted: stage and name, in order.
fn notes(node: &Node) -> Vec<(String, String)> {
    let log = node.read("/run/fleet/log").unwrap_or_default();
    let note = |line: &str| line.split_once(' ').map(|(stage, pod)| (stage.to_owned(), pod.to_owned()));
    log.lines().filter_map(note).collect()
}

/// The stages of the pods a node has had, in the order of their beginnings; one for each pod.
fn pods_had(node: &Node) -> Vec<String> {
    let mut pods: Vec<(String, String)> = Vec::new();
    for note in notes(node) {
        if !pods.contains(&note) {
            pods.push(note);
        }
    }
    pods.into_iter().map(|(stage, _)| stage).collect()
}

/// Whether a pod of the later stage noted something before the last note of one of the earlier stage.
fn overlap(node: &Node, earlier: &str, later: &str) -> bool {
    let notes = notes(node);
    let last = notes.iter().rposition(|(stage, _)| stage == earlier);
    let first = notes.iter().position(|(stage, _)| stage == later);
    first.expect("a pod of the later stage ran") < last.expect("a pod of the earlier stage ran")
}

/// How many pods of a node were ready according to a watch, and how many of them at least at any time after the first was.
fn pods_ready_in_turn(node: &Node, watch: &str) -> (usize, usize) {
    let mut ready = HashSet::new();
    let mut ever = HashSet::new();
    let mut fewest = usize::MAX;
    for line in watch.lines() {
        let [name, pod, is_ready] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        if name != node.name() {
            continue;
        }
        if is_ready == "True" {
            ready.insert(pod);
            ever.insert(pod);
        } else {
            ready.remove(pod);
        }
        if !ever.is_empty() {
            fewest = fewest.min(ready.len());
        }
    }
    (ever.len(), fewest)
}

fn pod_on(fleet: &Fleet, place: usize) -> String {
    let on = format!("spec.nodeName={}", fleet.name(place));
    let pods = fleet.control.kubectl(&["get", "pods", "-l", "app=web", "--field-selector", &on, "-o", "name"]);
    assert_eq!(pods.lines().count(), 1, "{pods}");
    pods.trim().to_owned()
}

/// Runs kubectl, whereupon the pods of an app have to run on these nodes and no others, at once.
fn puts(fleet: &Fleet, args: &[&str], app: &str, places: &[usize]) {
    let begun = Instant::now();
    fleet.control.kubectl(args);
    let mut names: Vec<_> = places.iter().map(|place| format!("{} Running", fleet.name(*place))).collect();
    names.sort();
    let form = "jsonpath={range .items[*]}{.spec.nodeName} {.status.phase}{\"\\n\"}{end}";
    fleet.control.eventually(&format!("{app} runs on {names:?} after kubectl {args:?}"), |control| {
        let shown = control.try_kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", form])?;
        let mut lines: Vec<_> = shown.lines().collect();
        lines.sort_unstable();
        if lines == names { Ok(()) } else { Err(shown.clone()) }
    });
    assert!(begun.elapsed() < AT_ONCE, "kubectl {args:?} took {:?} to be true", begun.elapsed());
}

#[test]
fn labels_taints_and_drains_are_obeyed_at_once() {
    let fleet = Fleet::up("place");
    let kubectl = |args: &[&str]| fleet.control.kubectl(args);
    apply_web(&fleet);
    let [one, two, three] = [0, 1, 2].map(|place| fleet.name(place).to_owned());

    let mut picky = web();
    picky["metadata"]["name"] = "picky".into();
    picky["spec"]["selector"]["matchLabels"]["app"] = "picky".into();
    let template = &mut picky["spec"]["template"];
    template["metadata"]["labels"]["app"] = "picky".into();
    template["spec"]["nodeSelector"] = json!({"tier": "edge"});
    template["spec"]["containers"][0]["ports"] = json!([]);
    let file = fleet.control.write("picky.json", &picky.to_string());
    puts(&fleet, &["apply", "-f", &file], "picky", &[]);
    puts(&fleet, &["label", "node", &one, &three, "tier=edge"], "picky", &[0, 2]);
    puts(&fleet, &["label", "node", &one, "tier=core", "--overwrite"], "picky", &[2]);
    puts(&fleet, &["label", "node", &one, &three, "tier-"], "picky", &[]);

    // One that only keeps others away leaves what runs, and counts it as out of place.
    let counts =
        ["get", "daemonset", "web", "-o", "jsonpath={.status.desiredNumberScheduled}/{.status.numberMisscheduled}"];
    kubectl(&["taint", "node", &one, "dedicated=db:NoSchedule"]);
    fleet.control.sees(&counts, &["2/1"]);
    puts(&fleet, &["delete", &pod_on(&fleet, 0)], "web", &[1, 2]);
    puts(&fleet, &["taint", "node", &one, "dedicated-"], "web", &[0, 1, 2]);
    puts(&fleet, &["taint", "node", &two, "broken=disk:NoExecute"], "web", &[0, 2]);
    assert_eq!(fleet.nodes[1].tasks(), [], "the node ended what it sent away");
    puts(&fleet, &["taint", "node", &two, "broken-"], "web", &[0, 1, 2]);

    // A cordoned node keeps its daemons, and makes them anew; what else is there a drain takes away.
    kubectl(&["cordon", &three]);
    fleet.control.sees(&["get", "node", &three, "--no-headers"], &["Ready,SchedulingDisabled"]);
    puts(&fleet, &["delete", &pod_on(&fleet, 2)], "web", &[0, 1, 2]);
    let single = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "single", "labels": {"app": "single"}},
        "spec": {"nodeName": three, "terminationGracePeriodSeconds": 1, "containers": [
            {"name": "main", "image": "busybox:1.35", "command": ["sleep", "1000"]},
        ]},
    });
    let file = fleet.control.write("single.json", &single.to_string());
    puts(&fleet, &["apply", "-f", &file], "single", &[2]);
    let daemon = pod_on(&fleet, 2);
    let drain = ["drain", &three, "--ignore-daemonsets", "--force", "--timeout=60s"];
    assert!(kubectl(&drain).contains("ignoring DaemonSet-managed Pods: default/web-"));
    puts(&fleet, &["uncordon", &three], "single", &[]);
    assert_eq!(pod_on(&fleet, 2), daemon);
    fleet.control.sees(&["get", "node", &three, "--no-headers"], &[" Ready "]);
}

/// Every node has had pods of these stages, one of each.
fn nodes_have_had(fleet: &Fleet, stages: &[&str]) {
    for node in &fleet.nodes {
        assert_eq!(pods_had(node), stages, "on {}", node.name());
    }
}

#[test]
fn revisions_spread_within_their_budget_and_back() {
    let fleet = Fleet::up("roll");
    let kubectl = |args: &[&str]| fleet.control.kubectl(args);
    let stages = ["two", "three", "four"];
    fleet.nodes.iter().for_each(|node| stages.iter().for_each(|stage| allow(node, stage)));
    apply_web(&fleet);

    // Every node is down at some time, and no two of them together.
    let traffic = Traffic::begin(&fleet, PORT);
    stage(&fleet, "two");
    is_rolled_out(&fleet);
    let outages = traffic.end();
    for place in 0..NODES {
        assert!(outages.iter().any(|outage| outage.node == place), "{outages:?}");
        assert!(!overlap(&fleet.nodes[place], "one", "two"));
    }
    let others = |a: usize| outages.iter().filter(move |b| b.node != a);
    let together: Vec<_> = outages.iter().filter(|a| others(a.node).any(|b| a.overlaps(b))).collect();
    assert!(together.is_empty(), "two nodes were down together: {together:?}");
    nodes_have_had(&fleet, &["one", "two"]);

    // A surge takes nothing away before there is another. It needs the port for itself, so that goes first.
    let columns = "NODE:.spec.nodeName,POD:.metadata.name,READY:.status.conditions[?(@.type=='Ready')].status";
    let columns = format!("--output=custom-columns={columns}");
    let mut watch = fleet.control.kubectl_command(&["get", "pods", "--watch", "--no-headers", &columns]);
    let watch = watch.stdout(Stdio::piped()).spawn().expect("kubectl is installed");
    let surge = json!({"spec": {
        "updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"spec": {"containers": [{"name": "web", "ports": null, "env": [{"name": "STAGE", "value": "three"}]}]}},
    }});
    kubectl(&["patch", "daemonset", "web", "-p", &surge.to_string()]);
    is_rolled_out(&fleet);
    let seen = fleet.control.end_child(watch, "kubectl");
    for node in &fleet.nodes {
        assert_eq!(pods_ready_in_turn(node, &seen), (2, 1), "on {}: {seen}", node.name());
        assert!(overlap(node, "two", "three"), "on {}: {:?}", node.name(), notes(node));
    }
    nodes_have_had(&fleet, &["one", "two", "three"]);

    // Only the user replaces a pod, and what was not replaced is left as it is when the user thinks better of it.
    let by_hand = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    kubectl(&["patch", "daemonset", "web", "-p", &by_hand.to_string()]);
    stage(&fleet, "four");
    let rollout = fleet.rollout("web", "all nodes waiting", |rollout| rollout.with("Pending").len() == NODES);
    assert!(rollout.message(fleet.name(0)).contains("OnDelete"), "{rollout:?}");
    let refused = fleet.control.kubectl_refused(&["rollout", "status", "daemonset/web"]);
    assert!(refused.contains("rollout status is only available for RollingUpdate strategy type"), "{refused}");
    let untouched = [0, 2].map(|place| fleet.nodes[place].tasks());
    puts(&fleet, &["delete", &pod_on(&fleet, 1)], "web", &[0, 1, 2]);
    fleet.control.sees(&["get", "daemonset", "web", "-o", "jsonpath={.status.updatedNumberScheduled}"], &["1"]);
    let history = kubectl(&["rollout", "history", "daemonset/web"]);
    assert_eq!(history.matches("<none>").count(), 4, "{history}");
    kubectl(&["rollout", "undo", "daemonset/web"]);
    kubectl(&["patch", "daemonset", "web", "-p", &json!({"spec": {"updateStrategy": one_down()}}).to_string()]);
    is_rolled_out(&fleet);
    assert_eq!(pods_had(&fleet.nodes[1]), ["one", "two", "three", "four", "three"]);
    assert_eq!([0, 2].map(|place| fleet.nodes[place].tasks()), untouched);

    // What works nowhere stops at its first node, says so, and costs the others nothing; nor does the way back.
    let before: Vec<_> = fleet.nodes.iter().map(Node::tasks).collect();
    stage(&fleet, "broken");
    let rollout = fleet.rollout("web", "stopped by a pod that ends again and again", |rollout| {
        rollout.0["phase"] == "Stalled" && rollout.0["message"].to_string().contains("CrashLoopBackOff")
    });
    let broken = rollout.with("Unhealthy");
    assert_eq!((broken.len(), rollout.with("Asked").len()), (1, NODES - 1), "{rollout:?}");
    let said = [&*broken[0], "1 of 1 nodes of the budget are used"];
    fleet.control.sees(&["describe", "daemonset", "web"], &[&["RolloutStalled"][..], &said[..]].concat());
    let condition = "jsonpath={.status.conditions[?(@.type=='Progressing')]['status','reason','message']}";
    fleet.control.sees(&["get", "daemonset", "web", "-o", condition], &[&["False Stalled"][..], &said[..]].concat());
    kubectl(&["rollout", "undo", "daemonset/web"]);
    is_rolled_out(&fleet);
    for (node, before) in fleet.nodes.iter().zip(before) {
        assert_eq!(node.tasks() == before, node.name() != broken[0], "on {}", node.name());
    }
}

#[test]
fn a_rollout_outlives_control_and_nodes_that_are_cut_off() {
    let mut fleet = Fleet::up("lost");
    apply_web(&fleet);

    // Control dies while a node holds the whole budget, and again while the next one goes on.
    stage(&fleet, "two");
    let one_goes_first = |rollout: &Rollout| rollout.with("Taken").len() == 1 && rollout.with("Asked").len() == 2;
    fleet.rollout("web", "begun", one_goes_first);
    fleet.control.kill_garrison();
    fleet.control.garrison_control();
    let rollout = fleet.rollout("web", "resumed", one_goes_first);
    assert_eq!(rollout.0["used"], 1, "{rollout:?}");
    fleet.nodes.iter().for_each(|node| allow(node, "two"));
    fleet.rollout("web", "gone on", |rollout| !rollout.with("Available").is_empty());
    fleet.control.kill_garrison();
    fleet.control.garrison_control();
    is_rolled_out(&fleet);
    nodes_have_had(&fleet, &["one", "two"]);

    // A node is cut off before it hears of a revision, another once it has taken it.
    fleet.cut(2);
    stage(&fleet, "three");
    let rollout = fleet.rollout("web", "begun", |rollout| rollout.with("Taken").len() == 1);
    let after = (0..2).find(|place| rollout.with("Taken")[0] == fleet.name(*place)).expect("the third hears nothing");
    let waiting = 1 - after;
    fleet.cut(after);
    let name = |place: usize| fleet.name(place).to_owned();
    let rollout = fleet.rollout("web", "stopped", |rollout| {
        rollout.with("LostBefore") == [name(2)] && rollout.with("LostAfter") == [name(after)]
    });
    assert_eq!((rollout.with("Asked"), &rollout.0["phase"]), (vec![name(waiting)], &json!("Stalled")), "{rollout:?}");
    let why = [name(after) + " LostAfter: the node is not connected since it took the revision"];
    fleet.control.sees(&["describe", "daemonset", "web"], &["RolloutStalled", &why[0]]);
    let text = fleet.rollout_text("web");
    for part in ["budget  1 of 1 used", "3: 1 Asked, 1 LostAfter, 1 LostBefore", "it catches up when it is back"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!([waiting, 2].map(|place| pods_had(&fleet.nodes[place])), [["one", "two"], ["one", "two"]]);
    fleet.nodes.iter().for_each(|node| allow(node, "three"));

    // The one that was lost before comes back and has to wait like others; with the other one the rollout goes on.
    fleet.mend(2);
    fleet.rollout("web", "the node back that was lost before", |rollout| rollout.with("Asked").len() == 2);
    fleet.mend(after);
    is_rolled_out(&fleet);
    nodes_have_had(&fleet, &["one", "two", "three"]);

    // A Node is deleted that cannot hear of it. Its pods are gone for users; it ends its daemons when it is back.
    fleet.cut(2);
    fleet.control.kubectl(&["delete", "node", &name(2)]);
    fleet.control.eventually("the Node's pods are collected", |control| {
        let pods = control.try_kubectl(&["get", "pods", "--no-headers"])?;
        if pods.lines().count() == NODES - 1 { Ok(()) } else { Err(pods) }
    });
    assert!(!fleet.nodes[2].tasks().is_empty());
    fleet.mend(2);
    fleet.nodes[2].eventually("the host has ended its daemons and forgotten who it was", |node| {
        let credentials = node.path("state/node.pem").exists();
        if node.tasks().is_empty() && !credentials { Ok(()) } else { Err(format!("{:?} {credentials}", node.tasks())) }
    });
    assert_eq!(fleet.control.kubectl(&["get", "nodes", "--no-headers"]).lines().count(), NODES - 1);
}

#[test]
fn a_rollout_goes_through_a_network_that_loses_every_fifth_packet_and_nothing_else_is_touched() {
    let fleet = Fleet::up("loss");
    fleet.nodes.iter().for_each(|node| ["two", "three"].iter().for_each(|stage| allow(node, stage)));
    apply_web(&fleet);
    fleet.control.apply(&shell_daemonset("steady", "true", "", ""));
    fleet.control.kubectl(&["rollout", "status", "daemonset/steady", "--timeout=90s"]);
    let steady = |fleet: &Fleet| {
        let ids = "jsonpath={.items[*].status.containerStatuses[*].containerID}";
        let ids = fleet.control.kubectl(&["get", "pods", "-l", "app=steady", "-o", ids]);
        let of =
            |node: &Node| node.tasks().into_iter().filter(|task| ids.contains(&task.container)).collect::<Vec<_>>();
        fleet.nodes.iter().flat_map(of).collect::<Vec<_>>()
    };
    let before = steady(&fleet);
    assert_eq!(before.len(), NODES);

    fleet.lose_packets();
    for name in ["two", "three"] {
        stage(&fleet, name);
        is_rolled_out(&fleet);
    }
    nodes_have_had(&fleet, &["one", "two", "three"]);
    assert_eq!(steady(&fleet), before);
    let status = fleet.control.kubectl(&["get", "nodes", "--no-headers"]);
    assert_eq!(status.matches(" Ready ").count(), NODES, "{status}");
    let lost = fleet.lost_packets();
    assert!(lost > 20, "only {lost} packets were lost");
}

#[test]
fn a_new_authority_reaches_every_node_and_one_that_was_away_and_no_container_ends() {
    let mut fleet = Fleet::up("authority");
    fleet.control.apply(&shell_daemonset("steady", "true", "", ""));
    fleet.control.kubectl(&["rollout", "status", "daemonset/steady", "--timeout=90s"]);
    let before: Vec<_> = fleet.nodes.iter().map(Node::tasks).collect();
    let state_dir = fleet.control.path("state").to_str().expect("test paths are UTF-8").to_owned();
    let rotate = |fleet: &mut Fleet, args: &[&str]| {
        let args = [&["control", "rotate-ca", "--state-dir", &state_dir], args].concat();
        fleet.control.run(&args).expect("the authority's files can be written");
        fleet.control.kill_garrison();
        fleet.control.garrison_control();
    };
    // The first part of the file is the key, the second the node's certificate.
    let certificate = |node: &Node| {
        let content = std::fs::read_to_string(node.path("state/node.pem")).expect("it has joined");
        content.split("-----BEGIN ").nth(2).expect("a certificate").to_owned()
    };
    let former: Vec<_> = fleet.nodes.iter().map(certificate).collect();
    let renews = |fleet: &Fleet, place: usize| {
        fleet.nodes[place].eventually("it has another certificate", |node| {
            if certificate(node) == former[place] { Err("the former".to_owned()) } else { Ok(()) }
        });
    };

    fleet.cut(2);
    rotate(&mut fleet, &[]);
    [0, 1].iter().for_each(|place| renews(&fleet, *place));
    assert_eq!(certificate(&fleet.nodes[2]), former[2]);
    fleet.mend(2);
    renews(&fleet, 2);
    rotate(&mut fleet, &["--finish"]);

    fleet.control.apply(&shell_daemonset("after", "true", "", ""));
    fleet.control.kubectl(&["rollout", "status", "daemonset/after", "--timeout=90s"]);
    for (node, before) in fleet.nodes.iter().zip(before) {
        let tasks = node.tasks();
        assert!(tasks.len() == 4 && before.iter().all(|task| tasks.contains(task)), "{before:?} {tasks:?}");
    }
}
