//! A real Prometheus scrapes control, as whoever its token says.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use garrison::kube::Kubeconfig;

use crate::harness::{Control, has_prometheus};

/// A Prometheus that exists as long as this value, and where it answers.
struct Prometheus {
    process: Child,
    address: String,
}

impl Prometheus {
    fn start(control: &Control, config: &str) -> Self {
        let config = control.file("prometheus.yml", config);
        let log = control.path("prometheus.log");
        let process = Command::new("prometheus")
            .args(["--config.file", &config, "--web.listen-address", "127.0.0.1:0", "--storage.tsdb.path"])
            .arg(control.path("prometheus"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the folder can be written to"))
            .spawn()
            .expect("prometheus starts");
        // Its end is this value's from here on.
        let mut prometheus = Self { process, address: String::new() };
        prometheus.address = control.eventually("prometheus listens", |_| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let address = said.lines().find_map(|line| line.split_once("\"Listening on\" address="));
            address.map(|(_, address)| address.to_owned()).ok_or(said)
        });
        prometheus
    }

    /// Waits until a query has this result.
    fn answers(&self, control: &Control, query: &str, value: u32) {
        control.eventually(&format!("{query} is {value}"), |_| {
            let server = format!("http://{}", self.address);
            let said = Command::new("promtool").args(["query", "instant", &server, query]).output();
            let said = String::from_utf8_lossy(&said.expect("promtool comes with prometheus").stdout).into_owned();
            if said.contains(&format!("=> {value} @")) { Ok(()) } else { Err(said) }
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn prometheus_scrapes_control_with_the_token_of_a_service_account() {
    if !has_prometheus() {
        return;
    }
    let control = Control::start();
    control.kubectl(&["create", "serviceaccount", "prometheus"]).ok();
    let binding = ["--clusterrole=system:monitoring", "--serviceaccount=default:prometheus"];
    control.kubectl(&[&["create", "clusterrolebinding", "prometheus"], &binding[..]].concat()).ok();
    let token = control.file("token", control.kubectl(&["create", "token", "prometheus"]).ok().trim());
    let Kubeconfig { server, authority, .. } = Kubeconfig::read(&control.kubeconfig()).expect("control writes it");
    let ca = control.file("ca.crt", std::str::from_utf8(&authority).expect("PEM"));
    let target = server.strip_prefix("https://").expect("control speaks TLS");
    let job = |name: &str, authorization: &str| {
        format!(
            "- job_name: {name}
  scheme: https
  tls_config: {{ca_file: {ca}}}
  static_configs: [{{targets: ['{target}']}}]
{authorization}"
        )
    };
    let known = job("known", &format!("  authorization: {{credentials_file: {token}}}\n"));
    let config =
        format!("global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{known}{}", job("unknown", ""));
    let prometheus = Prometheus::start(&control, &config);
    prometheus.answers(&control, r#"up{job="known"}"#, 1);
    prometheus.answers(&control, r#"sum(apiserver_request_total{verb="CREATE",resource="clusterrolebindings"})"#, 1);
    prometheus.answers(&control, r#"up{job="unknown"}"#, 0);
}
