//! What people type: kubectl's commands, each with the answer that matters.

use crate::harness::{Control, has_kubectl};

const FLUENTD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fluentd.yaml");

/// A ConfigMap as a manifest.
fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  labels: {{set: a}}\ndata:\n  key: {value}\n")
}

/// A control, if there is a kubectl to ask it.
fn control() -> Option<Control> {
    has_kubectl().then(Control::start)
}

#[test]
fn objects_are_created_by_the_generators() {
    let Some(control) = control() else { return };
    for args in [
        &["configmap", "made", "--from-literal=a=b"][..],
        &["secret", "generic", "made", "--from-literal=a=b"],
        &["namespace", "made"],
        &["serviceaccount", "made"],
        &["priorityclass", "made", "--value=7"],
        &["role", "made", "--verb=get", "--resource=pods"],
        &["rolebinding", "made", "--role=made", "--user=ann"],
        &["clusterrole", "made", "--verb=get,list", "--resource=nodes"],
        &["clusterrolebinding", "made", "--clusterrole=made", "--serviceaccount=default:made"],
        &["poddisruptionbudget", "made", "--selector=a=b", "--min-available=1"],
        &["service", "clusterip", "made", "--clusterip=None"],
    ] {
        control.kubectl(&[&["create"], args].concat()).ok();
    }
    assert_eq!(control.kubectl(&["get", "secret", "made", "-o", "jsonpath={.data.a} {.type}"]).ok(), "Yg== Opaque");
    let said = control.kubectl(&["create", "service", "clusterip", "other", "--clusterip=None"]);
    assert!(said.stderr.contains("Warning: services are kept"), "{said:?}");
}

#[test]
fn server_side_apply_merges_conflicts_and_takes_over() {
    let Some(control) = control() else { return };
    let apply = |args: &[&str]| control.kubectl(&[&["apply", "--server-side"], args].concat());
    apply(&["-f", FLUENTD]).ok();
    assert!(control.kubectl(&["diff", "--server-side", "-f", FLUENTD]).success);
    control.kubectl(&["-n", "kube-system", "set", "image", "daemonset/fluentd", "fluentd=other:2"]).ok();
    let conflict = apply(&["-f", FLUENTD]).err();
    assert!(
        conflict.contains("Apply failed with 1 conflict: conflict with \"kubectl-set\" using apps/v1"),
        "{conflict}"
    );
    assert!(!control.kubectl(&["diff", "--server-side", "--force-conflicts", "-f", FLUENTD]).success);
    apply(&["--force-conflicts", "-f", FLUENTD]).ok();
    let fields = ["-n", "kube-system", "get", "daemonset", "fluentd", "-o", "yaml", "--show-managed-fields"];
    assert!(control.kubectl(&fields).ok().contains("manager: kubectl"));

    let client_side = control.file("a.yaml", &config_map("a", "one"));
    control.kubectl(&["apply", "-f", &client_side]).ok();
    let changed = control.file("a.yaml", &config_map("a", "two"));
    apply(&["-f", &changed]).ok();
    assert_eq!(control.kubectl(&["get", "configmap", "a", "-o", "jsonpath={.data.key}"]).ok(), "two");
}

#[test]
fn client_side_apply_creates_changes_and_prunes() {
    let Some(control) = control() else { return };
    let (a, b) = (control.file("a.yaml", &config_map("a", "one")), control.file("b.yaml", &config_map("b", "one")));
    let apply = |args: &[&str]| control.kubectl(&[&["apply"], args].concat()).ok();
    assert_eq!(apply(&["-f", &a, "-f", &b]), "configmap/a created\nconfigmap/b created\n");
    assert_eq!(apply(&["-f", &a]), "configmap/a unchanged\n");
    let changed = control.file("a.yaml", &config_map("a", "two"));
    assert!(!control.kubectl(&["diff", "-f", &changed]).success, "a difference is an exit code");
    assert_eq!(apply(&["-f", &changed]), "configmap/a configured\n");
    let pruned = apply(&["-f", &changed, "--prune", "-l", "set=a", "--prune-allowlist=core/v1/ConfigMap"]);
    assert!(pruned.contains("configmap/b pruned"), "{pruned}");
    control.file("kustomization.yaml", "resources: [a.yaml]\nnamePrefix: from-\n");
    let folder = control.path("");
    assert!(apply(&["-k", folder.to_str().expect("UTF-8")]).contains("configmap/from-a created"));
    assert!(control.kubectl(&["apply", "view-last-applied", "configmap/a"]).ok().contains("key: two"));
}

#[test]
fn objects_are_changed_in_every_way() {
    let Some(control) = control() else { return };
    control.kubectl(&["apply", "-f", FLUENTD]).ok();
    let in_system = |args: &[&str]| control.kubectl(&[&["-n", "kube-system"], args].concat());
    in_system(&["set", "env", "daemonset/fluentd", "LEVEL=debug"]).ok();
    in_system(&["set", "resources", "daemonset/fluentd", "--limits=memory=300Mi"]).ok();
    in_system(&["label", "daemonset", "fluentd", "tier=system"]).ok();
    in_system(&["annotate", "daemonset", "fluentd", "note=x"]).ok();
    in_system(&[
        "patch",
        "daemonset",
        "fluentd",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/metadata/annotations/note"}]"#,
    ])
    .ok();
    in_system(&["patch", "daemonset", "fluentd", "--type=merge", "-p", r#"{"spec":{"minReadySeconds":5}}"#]).ok();
    let read =
        "jsonpath={.spec.minReadySeconds} {.metadata.labels.tier} {.spec.template.spec.containers[0].env[0].value}";
    assert_eq!(in_system(&["get", "daemonset", "fluentd", "-o", read]).ok(), "5 system debug");
    let live = control.file("live.yaml", &in_system(&["get", "daemonset", "fluentd", "-o", "yaml"]).ok());
    assert_eq!(control.kubectl(&["replace", "-f", &live]).ok(), "daemonset.apps/fluentd replaced\n");
    let waited = in_system(&["wait", "daemonset/fluentd", "--for=jsonpath={.spec.minReadySeconds}=5", "--timeout=20s"]);
    waited.ok();
    in_system(&["delete", "daemonset", "fluentd", "--cascade=foreground"]).ok();
    in_system(&["wait", "daemonset/fluentd", "--for=delete", "--timeout=20s"]).ok();
}

#[test]
fn the_api_tells_what_it_is() {
    let Some(control) = control() else { return };
    let resources = control.kubectl(&["api-resources", "-o", "name"]).ok();
    for resource in ["daemonsets.apps", "leases.coordination.k8s.io", "services", "roles.rbac.authorization.k8s.io"] {
        assert!(resources.lines().any(|line| line == resource), "{resource} in {resources}");
    }
    assert!(control.kubectl(&["explain", "daemonset", "--recursive"]).ok().contains("updateStrategy"));
    assert!(control.kubectl(&["cluster-info"]).ok().contains("control plane"));
    assert!(control.kubectl(&["get", "--raw", "/livez"]).ok().contains("ok"));
    assert!(control.kubectl(&["get", "all", "-A"]).success);
    assert!(control.kubectl(&["events", "-A"]).success);
    let top = control.kubectl(&["top", "nodes"]).err();
    assert!(top.contains("metrics not available yet"), "there is no node to ask: {top}");
}

#[test]
fn a_namespace_goes_with_all_that_is_in_it() {
    let Some(control) = control() else { return };
    control.kubectl(&["create", "namespace", "short"]).ok();
    control.kubectl(&["-n", "short", "create", "configmap", "a"]).ok();
    control.kubectl(&["-n", "short", "create", "role", "r", "--verb=get", "--resource=pods"]).ok();
    control.kubectl(&["delete", "namespace", "short", "--timeout=30s"]).ok();
    assert!(control.kubectl(&["get", "namespace", "short"]).err().contains("not found"));
}

#[test]
fn what_is_owned_goes_or_stays_as_asked() {
    let Some(control) = control() else { return };
    let owned = |name: &str| {
        let uid = control.kubectl(&["get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}"]).ok();
        let owner = format!(
            r#"{{"metadata":{{"ownerReferences":[{{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"{uid}"}}]}}}}"#
        );
        control.kubectl(&["create", "configmap", name]).ok();
        control.kubectl(&["patch", "configmap", name, "-p", &owner]).ok();
    };
    let is_gone = |name: &str| {
        let args = ["wait", "configmap", name, "--for=delete", "--timeout=20s"];
        control.kubectl(&args).ok();
    };
    control.kubectl(&["create", "configmap", "owner"]).ok();
    owned("first");
    control.kubectl(&["delete", "configmap", "owner"]).ok();
    is_gone("first");
    control.kubectl(&["create", "configmap", "owner"]).ok();
    owned("second");
    control.kubectl(&["delete", "configmap", "owner", "--cascade=orphan"]).ok();
    is_gone("owner");
    let owners = ["get", "configmap", "second", "-o", "jsonpath={.metadata.ownerReferences}"];
    assert!(matches!(control.kubectl(&owners).ok().as_str(), "" | "[]"));
}
