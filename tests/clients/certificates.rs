//! Certificates that people ask for with kubectl, and use with it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use crate::harness::{Control, has_kubectl};

/// Asks for a certificate of this name in the group `dev`, and gives the key it is for, PEM.
fn ask(control: &Control, name: &str, usage: &str) -> String {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "dev");
    let request = params.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    let manifest = format!(
        "apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {{name: {name}}}
spec:
  request: {}
  signerName: kubernetes.io/kube-apiserver-client
  expirationSeconds: 3600
  usages: [{usage}]
",
        STANDARD.encode(request)
    );
    let file = control.file(&format!("{name}.yaml"), &manifest);
    control.kubectl(&["apply", "-f", &file]).ok();
    key.serialize_pem()
}

/// Waits until `kubectl get csr` says this of a request.
fn becomes(control: &Control, name: &str, condition: &str) {
    control.eventually(&format!("{name} is {condition}"), |control| {
        let shown = control.kubectl(&["get", "csr", name, "--no-headers"]).ok();
        if shown.trim_end().ends_with(&format!(" {condition}")) { Ok(()) } else { Err(shown) }
    });
}

#[test]
fn a_certificate_is_asked_for_approved_and_used() {
    if !has_kubectl() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let log = dir.path().join("audit.log");
    let control = Control::start_with(&["--audit-log", log.to_str().expect("test paths are UTF-8")]);
    let key = ask(&control, "ann", "client auth");
    becomes(&control, "ann", "Pending");
    control.kubectl(&["certificate", "approve", "ann"]).ok();
    becomes(&control, "ann", "Approved,Issued");
    control.kubectl(&["certificate", "approve", "ann", "--force"]).ok();
    let described = control.kubectl(&["describe", "csr", "ann"]).ok();
    let lines: Vec<String> =
        described.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in ["Requesting User: garrison-admin", "Status: Approved,Issued", "Common Name: ann", "Organization: dev"]
    {
        assert!(lines.iter().any(|shown| shown == line), "{line} is not in {described}");
    }
    assert!(control.kubectl(&["certificate", "deny", "ann"]).err().contains("Approved"));

    let certificate = control.kubectl(&["get", "csr", "ann", "-o", "jsonpath={.status.certificate}"]).ok();
    let certificate = STANDARD.decode(certificate).expect("base64");
    let certificate = control.file("ann.crt", std::str::from_utf8(&certificate).expect("PEM"));
    let (key, config) = (control.file("ann.key", &key), control.path("ann.kubeconfig"));
    std::fs::copy(control.kubeconfig(), &config).expect("the folder can be written to");
    let ann = |args: &[&str]| control.kubectl_as(&config, args).ok();
    ann(&["config", "set-credentials", "ann", "--client-certificate", &certificate, "--client-key", &key]);
    ann(&["config", "set-context", "--current", "--user", "ann"]);
    let known = ann(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"]);
    assert_eq!(known, r#"ann ["dev","system:authenticated"]"#);

    let written = std::fs::read_to_string(&log).expect("the audit log is there");
    let mut events = written.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let approval = events.find(|event| event["objectRef"]["subresource"] == "approval").expect("approvals are audited");
    assert_eq!((&approval["verb"], &approval["user"]["username"]), (&"update".into(), &"garrison-admin".into()));
}

#[test]
fn what_is_denied_or_cannot_be_signed_says_so() {
    if !has_kubectl() {
        return;
    }
    let control = Control::start();
    ask(&control, "bob", "client auth");
    control.kubectl(&["certificate", "deny", "bob"]).ok();
    becomes(&control, "bob", "Denied");
    assert!(control.kubectl(&["certificate", "approve", "bob"]).err().contains("Denied"));
    ask(&control, "eve", "server auth");
    control.kubectl(&["certificate", "approve", "eve"]).ok();
    becomes(&control, "eve", "Approved,Failed");
    let why = control.kubectl(&["get", "csr", "eve", "-o", "jsonpath={.status.conditions[1].message}"]).ok();
    assert_eq!(why, "invalid usage for client certificate: server auth");
}
