//! Helm installs, upgrades, rolls back and takes away the chart of `examples/`.

use crate::harness::{Control, has_helm};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/chart");

fn image(control: &Control) -> String {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    control.kubectl(&["-n", "monitoring", "get", "daemonset", "metrics", "-o", path]).ok()
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    if !has_helm() {
        return;
    }
    let control = Control::start();
    let release = |args: &[&str]| control.helm(&[args, &["--namespace", "monitoring"]].concat());
    release(&["install", "metrics", CHART, "--create-namespace"]).ok();
    assert_eq!(image(&control), "prom/node-exporter:latest");
    control.kubectl(&["-n", "monitoring", "get", "service,role,rolebinding,serviceaccount", "metrics"]).ok();

    release(&["upgrade", "metrics", CHART, "--set", "image.tag=v2"]).ok();
    assert_eq!(image(&control), "prom/node-exporter:v2");
    release(&["upgrade", "metrics", CHART, "--set", "image.tag=v2"]).ok();
    let history = release(&["history", "metrics"]).ok();
    assert!(history.contains("superseded") && history.contains("deployed"), "{history}");

    release(&["rollback", "metrics", "1"]).ok();
    assert_eq!(image(&control), "prom/node-exporter:latest");
    assert!(release(&["list"]).ok().contains("metrics"));
    release(&["uninstall", "metrics", "--wait"]).ok();
    let left = control.kubectl(&["-n", "monitoring", "get", "daemonset,service,role,secret"]).stderr;
    assert!(left.contains("No resources found"), "{left}");
}
