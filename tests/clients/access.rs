//! Who may do what, as people see it.

use crate::harness::{Control, has_kubectl};

#[test]
fn users_do_what_their_roles_allow() {
    if !has_kubectl() {
        return;
    }
    let control = Control::start();
    control.kubectl(&["create", "rolebinding", "view", "--clusterrole=view", "--user=ann"]).ok();
    let config =
        control.file("ann.kubeconfig", &control.garrison(&["kubeconfig", "--user", "ann", "--ttl", "1h"]).ok());
    let ann = |args: &[&str]| control.kubectl_as(config.as_ref(), args);
    control.eventually("the binding counts", |_| {
        let said = ann(&["get", "configmaps"]);
        if said.success { Ok(()) } else { Err(said.stderr) }
    });
    let refused = ann(&["get", "secrets"]).err();
    assert!(
        refused.contains("secrets is forbidden: User \"ann\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""),
        "{refused}"
    );
    assert_eq!(ann(&["auth", "can-i", "list", "pods"]).ok(), "yes\n");
    assert_eq!(ann(&["auth", "can-i", "delete", "pods"]).stdout, "no\n");
    assert!(ann(&["auth", "can-i", "--list"]).ok().contains("configmaps"));
    assert!(ann(&["get", "configmaps", "--as=bob"]).err().contains("cannot impersonate resource \"users\""));
    assert_eq!(control.kubectl(&["auth", "can-i", "list", "pods", "--as=ann"]).ok(), "yes\n");
}

#[test]
fn a_certificate_in_a_kubeconfig_names_every_group() {
    if !has_kubectl() {
        return;
    }
    let control = Control::start();
    let text = control.garrison(&["kubeconfig", "--user", "ann", "--group", "dev", "--group", "ops"]).ok();
    let config = control.file("ann.kubeconfig", &text);
    let groups = control.kubectl_as(config.as_ref(), &["auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"]);
    assert_eq!(groups.ok(), r#"["dev","ops","system:authenticated"]"#);
}

#[test]
fn a_token_in_a_kubeconfig_is_good_until_it_is_revoked() {
    if !has_kubectl() {
        return;
    }
    let control = Control::start();
    let text =
        control.garrison(&["kubeconfig", "--user", "ops", "--group", "system:masters", "--ttl", "1h", "--token"]).ok();
    let config = control.file("ops.kubeconfig", &text);
    let ops = |args: &[&str]| control.kubectl_as(config.as_ref(), args);
    ops(&["get", "nodes"]).ok();
    let list = control.garrison(&["token", "list"]).ok();
    let line = list.lines().find(|line| line.contains("ops")).unwrap_or_else(|| panic!("no token of ops in {list}"));
    let id = line.split_whitespace().next().expect("a line has words");
    control.garrison(&["token", "revoke", id]).ok();
    assert!(ops(&["get", "nodes"]).err().contains("You must be logged in"), "a revoked token is none");
}

#[test]
fn join_tokens_are_made_listed_and_revoked() {
    if !has_kubectl() {
        return;
    }
    let control = Control::start();
    let args = ["token", "create", "--ttl", "2h", "--uses", "3", "--node-name", "edge-1", "--labels", "site=north"];
    let token = control.garrison(&args).ok();
    let id = token.split('.').next().expect("a token has parts").to_owned();
    let list = control.garrison(&["token", "list"]).ok();
    let line = list.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("{id} is not in {list}"));
    assert!(line.contains("edge-1") && line.contains("site=north") && line.contains('3'), "{line}");
    control.garrison(&["token", "revoke", &id]).ok();
    assert!(!control.garrison(&["token", "list"]).ok().contains(&id));
    assert!(control.garrison(&["token", "revoke", &id]).err().contains("no token"));
}

#[test]
fn requests_are_written_down_and_counted() {
    if !has_kubectl() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let log = dir.path().join("audit.log");
    let control = Control::start_with(&["--audit-log", log.to_str().expect("test paths are UTF-8")]);
    control.kubectl(&["create", "configmap", "a"]).ok();
    control.kubectl(&["get", "configmaps", "--as=nobody"]).err();
    let events = control.eventually("both are written down", |_| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let events: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if events.len() >= 2 { Ok(events) } else { Err(text) }
    });
    let created = &events[0];
    assert_eq!((&created["verb"], &created["responseStatus"]["code"]), (&"create".into(), &201.into()));
    assert_eq!((&created["objectRef"]["name"], &created["user"]["username"]), (&"a".into(), &"garrison-admin".into()));
    let refused = &events[1];
    assert_eq!(
        (&refused["impersonatedUser"]["username"], &refused["responseStatus"]["code"]),
        (&"nobody".into(), &403.into())
    );
    let metrics = control.kubectl(&["get", "--raw", "/metrics"]).ok();
    assert!(metrics.contains(r#"apiserver_request_total{verb="CREATE",group="",resource="configmaps""#), "{metrics}");
    let verbose = control.kubectl(&["get", "--raw", "/readyz?verbose"]).ok();
    assert!(verbose.contains("[+]store ok") && verbose.contains("readyz check passed"), "{verbose}");
}
