//! The commands that people type, with the kubectl of this machine, on three real nodes that nobody can dial: each with the part of
//! its answer that matters. What a command may do in detail is tested where its subject is.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use crate::harness::{Node, shell_daemonset};
use crate::nodes::{Fleet, NODES};

/// Serves the name of its node, and ends when it is told.
const SCRIPT: &str = "echo begun on $NODE; mkdir /www; echo $NODE >/www/index.html; httpd -p 8080 -h /www;
          until [ -e /end ]; do sleep 0.2; done; exit 3";
const VARIABLES: &str = "          env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]\n";

/// kubectl where control is. Its arguments are the words of a line, and after them what may have spaces in it.
struct Typed<'a>(&'a Node);

impl Typed<'_> {
    fn command(&self, line: &str, rest: &[&str]) -> Command {
        self.0.kubectl_command(&line.split_whitespace().chain(rest.iter().copied()).collect::<Vec<_>>())
    }

    #[track_caller]
    fn says(&self, line: &str, part: &str) -> String {
        self.says_of(line, &[], part)
    }

    #[track_caller]
    fn says_of(&self, line: &str, rest: &[&str], part: &str) -> String {
        let (succeeded, said) = told(&self.command(line, rest).output().expect("kubectl is installed"));
        assert!(succeeded && said.contains(part), "kubectl {line} {rest:?} says not {part:?}: {said}");
        said
    }

    /// Ends with a code that is not 0, and says why.
    #[track_caller]
    fn refuses(&self, line: &str, part: &str) {
        let (succeeded, said) = told(&self.command(line, &[]).output().expect("kubectl is installed"));
        assert!(!succeeded && said.contains(part), "kubectl {line} refuses not with {part:?}: {said}");
    }

    /// Says it some time.
    fn comes_to_say(&self, line: &str, part: &str) -> String {
        self.0.sees(&line.split_whitespace().collect::<Vec<_>>(), &[part])
    }

    /// Begins what goes on until it is ended.
    fn begins(&self, line: &str) -> Child {
        let mut command = self.command(line, &[]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl is installed")
    }
}

fn told(output: &Output) -> (bool, String) {
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    (output.status.success(), text)
}

#[test]
fn every_command_works_on_three_nodes() {
    let fleet = Fleet::up("typed");
    (0..NODES).for_each(|place| fleet.close_ports(place));
    let kubectl = Typed(&fleet.control);
    let [first, second, third] = [0, 1, 2].map(|place| fleet.name(place));
    let all_pods = "get pods -l app=web --no-headers";

    // What there is to ask.
    kubectl.says("version", "Server Version: v1.");
    kubectl.says("cluster-info", "control plane");
    kubectl.says("api-versions", "apps/v1");
    kubectl.says("api-resources --namespaced=true --verbs=watch", "daemonsets");
    kubectl.says("explain daemonset.spec.updateStrategy --recursive", "maxUnavailable");
    kubectl.says("auth whoami", "garrison-admin");
    kubectl.says("auth can-i create daemonsets", "yes");
    kubectl.says("auth can-i --list", "*.*");
    kubectl.says("get --raw /readyz", "ok");

    // To make.
    let web = fleet.control.write("web.yaml", &shell_daemonset("web", SCRIPT, VARIABLES, ""));
    kubectl.says(&format!("apply --dry-run=server -f {web}"), "daemonset.apps/web created (server dry run)");
    kubectl.refuses(&format!("diff -f {web}"), "+kind: DaemonSet");
    kubectl.says(&format!("create --save-config -f {web}"), "daemonset.apps/web created");
    kubectl.refuses(&format!("create -f {web}"), "AlreadyExists");
    kubectl.says("rollout status daemonset/web --timeout=90s", "successfully rolled out");
    kubectl.says(&format!("apply -f {web}"), "daemonset.apps/web unchanged");
    kubectl.says(&format!("apply --server-side --force-conflicts -f {web}"), "daemonset.apps/web serverside-applied");
    kubectl.says(&format!("diff --server-side -f {web}"), "");
    kubectl.says("create namespace other", "namespace/other created");
    kubectl.says("create configmap settings --from-literal=a=b", "configmap/settings created");
    kubectl.says("create secret generic hidden --from-literal=a=b", "secret/hidden created");
    kubectl.says("create serviceaccount robot", "serviceaccount/robot created");
    kubectl.says("create token robot", ".");
    fleet.control.write("kustomize/kustomization.yaml", "configMapGenerator: [{name: built, literals: [a=b]}]\n");
    let folder = fleet.control.path("kustomize");
    kubectl.says(&format!("apply -k {}", folder.display()), "configmap/built-");

    // To look at, in every form.
    for (form, part) in [
        ("", "NODE SELECTOR"),
        ("-o wide", "busybox:1.35"),
        ("-o yaml", "kind: DaemonSet"),
        ("-o json", "\"kind\": \"DaemonSet\""),
        ("-o name", "daemonset.apps/web"),
        ("-o jsonpath={.status.numberReady}", "3"),
        ("-o custom-columns=READY:.status.numberReady", "READY"),
        ("-o go-template={{.metadata.name}}", "web"),
        ("--show-labels", "LABELS"),
        ("-L app", "APP"),
        ("--show-managed-fields -o yaml", "manager: kubectl"),
    ] {
        kubectl.says(&format!("get daemonset web {form}"), part);
    }
    kubectl.says("get all -A", "daemonset.apps/web");
    kubectl.says("get nodes --sort-by=.metadata.name -o name", &format!("node/{first}\nnode/{second}\nnode/{third}"));
    kubectl.says(&format!("get pods -A --field-selector spec.nodeName={second} -o name"), "pod/web-");
    let pods = kubectl.says("get pods -l app=web -o name", "pod/web-");
    let pods: Vec<&str> = pods.lines().map(|line| line.trim_start_matches("pod/")).collect();
    assert_eq!(pods.len(), NODES);
    kubectl.says("describe daemonset web", "Desired Number of Nodes Scheduled: 3");
    kubectl.says(&format!("describe pod {}", pods[0]), "Controlled By:  DaemonSet/web");
    kubectl.says(&format!("describe node {first}"), "Allocatable:");
    kubectl.says("describe configmap settings", "a:\n----\nb");
    kubectl.says("describe secret hidden", "a:  1 bytes");
    kubectl.says("describe namespace other", "Active");
    kubectl.says("describe serviceaccount robot", "robot");
    kubectl.comes_to_say("events --for daemonset/web", "RolloutComplete");
    kubectl.comes_to_say("get events", "daemonset/web");
    assert_eq!(kubectl.says("top nodes --no-headers", "%").lines().count(), NODES);
    assert_eq!(kubectl.says("top pods -l app=web --no-headers", "web-").lines().count(), NODES);

    // To look into.
    let mut nodes = HashSet::new();
    for pod in &pods {
        let node = kubectl.says(&format!("get pod {pod} -o jsonpath={{.spec.nodeName}}"), "typed");
        kubectl.says(&format!("logs {pod}"), &format!("begun on {node}"));
        kubectl.says_of(&format!("exec {pod} --"), &["sh", "-c", "echo ran on $NODE"], &format!("ran on {node}"));
        let copy = fleet.control.path(pod);
        kubectl.says(&format!("cp {pod}:/www/index.html {}", copy.display()), "");
        assert_eq!(fs::read_to_string(copy).expect("it was copied").trim(), node);
        nodes.insert(node);
    }
    assert_eq!(nodes.len(), NODES);
    let by_selector = kubectl.says("logs -l app=web --prefix --timestamps --tail=1", "begun on");
    assert_eq!(by_selector.matches("begun on").count(), NODES, "{by_selector}");
    kubectl.says("logs daemonset/web --limit-bytes=5 --since=1h", "begun");
    let forwarding = kubectl.begins(&format!("port-forward {} 18080:8080", pods[0]));
    fleet.control.eventually("the port leads to the pod", |control| {
        let page = control.fetch("http://127.0.0.1:18080/")?;
        if page.contains("typed") { Ok(()) } else { Err(page) }
    });
    fleet.control.end_child(forwarding, "kubectl");
    let look = ["--image=busybox:1.35", "--container=look", "--profile=general", "--", "echo", "looked in"];
    kubectl.says_of(&format!("debug {}", pods[1]), &look, "");
    kubectl.comes_to_say(&format!("logs {} -c look", pods[1]), "looked in");
    let host = ["--image=busybox:1.35", "--profile=general", "--", "ls", "-d", "/host/etc"];
    kubectl.says_of(&format!("debug node/{third}"), &host, "node-debugger-");
    let overrides = format!("--overrides={{\"spec\":{{\"nodeName\":\"{second}\"}}}}");
    let mut run =
        kubectl.command("run once -i --rm --quiet --restart=Never --image=busybox:1.35", &[&overrides, "--", "cat"]);
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut run = run.expect("kubectl is installed");
    run.stdin.take().expect("it is piped").write_all(b"from afar\n").expect("kubectl reads");
    let (succeeded, said) = told(&run.wait_with_output().expect("it is our child"));
    assert!(succeeded && said.contains("from afar"), "{said}");

    // To change.
    kubectl.says("label daemonset web tier=edge", "labeled");
    kubectl.says("annotate daemonset web note=x", "annotated");
    let settings = ["-p", "{\"data\":{\"a\":\"c\"}}"];
    kubectl.says_of("patch configmap settings", &settings, "patched");
    let mut edit = kubectl.command("edit configmap settings", &[]);
    let (succeeded, said) =
        told(&edit.env("KUBE_EDITOR", "sed -i 's/a: c/a: d/'").output().expect("kubectl is installed"));
    assert!(succeeded && said.contains("configmap/settings edited"), "{said}");
    let live = fleet.control.write("live.yaml", &kubectl.says("get configmap settings -o yaml", "a: d"));
    kubectl.says(&format!("replace -f {live}"), "configmap/settings replaced");
    kubectl.says(&format!("taint node {first} odd=yes:PreferNoSchedule"), "tainted");
    kubectl.says(&format!("taint node {first} odd-"), "untainted");
    kubectl.says(&format!("cordon {first}"), "cordoned");
    kubectl.says(&format!("drain {first} --ignore-daemonsets --force --timeout=60s"), "drained");
    kubectl.says(&format!("uncordon {first}"), "uncordoned");
    kubectl.says("set image daemonset/web main=busybox:1.35", "");
    kubectl.says("set env daemonset/web STAGE=two", "env updated");
    kubectl.says("rollout status daemonset/web --timeout=90s", "successfully rolled out");
    kubectl.says("rollout history daemonset/web --revision=2", "STAGE:");
    kubectl.refuses("rollout pause daemonset/web", "pausing is not supported");
    kubectl.says("rollout undo daemonset/web", "rolled back");
    kubectl.says("rollout status daemonset/web --timeout=90s", "successfully rolled out");
    kubectl.says("rollout restart daemonset/web", "restarted");
    kubectl.says("rollout status daemonset/web --timeout=90s", "successfully rolled out");
    kubectl.refuses("rollout undo daemonset/web --to-revision=99", "unable to find specified revision 99 in history");
    kubectl.says("rollout undo daemonset/web --to-revision=2", "rolled back");
    kubectl.says("set env daemonset/web --list", "STAGE=two");
    kubectl.says("rollout status daemonset/web --timeout=90s", "successfully rolled out");
    kubectl.says("wait pod -l app=web --for=condition=Ready --timeout=60s", "condition met");

    // What happened before the end.
    let pod = kubectl.says(all_pods, "Running");
    let pod = pod.split_whitespace().next().expect("a line has words");
    let watch = "get pods -w --output-watch-events --request-timeout=90s --field-selector";
    let mut watching = kubectl.begins(&format!("{watch} metadata.name={pod}"));
    kubectl.says(&format!("exec {pod} -- touch /end"), "");
    kubectl.comes_to_say(&format!("get pod {pod} --no-headers"), " 1 (");
    kubectl.says(&format!("logs {pod} --previous"), "begun on");
    kubectl.says(&format!("delete pod {pod}"), "deleted");
    let watched = BufReader::new(watching.stdout.take().expect("it is piped")).lines();
    let mut watched = watched.map(|line| line.expect("kubectl writes text"));
    assert!(watched.any(|line| line.starts_with("ADDED")), "what is there comes first");
    assert!(watched.any(|line| line.starts_with("DELETED")), "the watch went on to the end");
    fleet.control.end_child(watching, "kubectl");

    // To delete, and to make again at once: that is another one.
    let names = |shown: &str| shown.lines().map(str::to_owned).collect::<HashSet<_>>();
    let before = names(&kubectl.says("get pods -l app=web -o name", "pod/web-"));
    kubectl.says("delete daemonset web --wait=false", "deleted");
    kubectl.says(&format!("create -f {web}"), "daemonset.apps/web created");
    kubectl.says("rollout status daemonset/web --timeout=90s", "successfully rolled out");
    fleet.control.eventually("all pods are the new one's", |control| {
        let shown = control.try_kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])?;
        let now = names(&shown);
        if now.len() == NODES && now.is_disjoint(&before) { Ok(()) } else { Err(shown) }
    });
    kubectl.says("delete daemonset web --cascade=foreground", "deleted");
    kubectl.says(all_pods, "No resources found");
    kubectl.says("delete namespace other --timeout=60s", "deleted");
    for node in &fleet.nodes {
        node.eventually("nothing of it is left", |node| match node.tasks() {
            tasks if tasks.is_empty() => Ok(()),
            tasks => Err(format!("{tasks:?}")),
        });
    }
}
