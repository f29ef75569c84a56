//! CertificateSigningRequests: who may ask for what, and who decides.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::access::known;
use super::*;
use crate::api::certificates::CLIENT_SIGNER;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const REQUEST: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests/r";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

fn request(signer: &str, name: &str, group: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"},
        "spec": {"request": STANDARD.encode(pem), "signerName": signer, "usages": ["client auth"], "username": "root",
                 "groups": ["system:masters"]},
        "status": {"conditions": [condition("Approved")]},
    })
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test"})
}

async fn put(api: &Harness, path: &str, object: &Value) -> (u16, Value) {
    api.ask(Method::PUT, path, &[], object.clone()).await
}

/// A user who may do these things with requests everywhere.
async fn user(api: &Harness, name: &str, rules: Value) -> Harness {
    assert_eq!(api.post(CLUSTER_ROLES, json!({"metadata": {"name": name}, "rules": rules})).await.0, 201);
    api.bind(name, name, true).await;
    api.as_user(known(name))
}

fn rule(resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": ["certificates.k8s.io"], "resources": resources, "verbs": verbs})
}

#[tokio::test]
async fn a_request_is_the_askers_and_decided_by_whom_its_signer_trusts() {
    let api = Harness::new().await;
    let writes = rule(&["certificatesigningrequests", "certificatesigningrequests/approval"], &["create", "update"]);
    let ann = user(&api, "ann", json!([writes])).await;
    let mut signers = rule(&["signers"], &["approve"]);
    signers["resourceNames"] = json!(["kubernetes.io/*"]);
    let bob = user(&api, "bob", json!([writes, signers])).await;

    let (code, created) = ann.post(REQUESTS, request(CLIENT_SIGNER, "ann", "dev")).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!((&created["spec"]["username"], &created["status"]), (&"ann".into(), &json!({})));
    assert_eq!(created["spec"]["groups"], json!(["system:authenticated"]));

    let mut approved = created.clone();
    approved["spec"]["username"] = "eve".into();
    approved["metadata"]["labels"] = json!({"a": "b"});
    approved["status"] = json!({"conditions": [condition("Approved")], "certificate": "QQ=="});
    assert_eq!(put(&bob, REQUEST, &approved).await.0, 200);
    let labelled = api.get(REQUEST).await.1;
    assert_eq!((&labelled["spec"], &labelled["status"]), (&created["spec"], &json!({})), "that is for its parts");
    approved["metadata"] = labelled["metadata"].clone();
    approved["metadata"]["labels"] = json!({"a": "c"});
    let (code, refused) = put(&ann, &format!("{REQUEST}/approval"), &approved).await;
    assert_eq!(code, 403);
    let forbidden = "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to approve \
                     requests with signerName \"kubernetes.io/kube-apiserver-client\"";
    assert_eq!(refused["message"], forbidden);
    let (code, approved) = put(&bob, &format!("{REQUEST}/approval"), &approved).await;
    assert_eq!(code, 200, "{approved}");
    assert_eq!(
        (&approved["spec"], approved["status"].get("certificate"), &approved["metadata"]["labels"]),
        (&created["spec"], None, &json!({"a": "b"}))
    );
    let times =
        ["lastUpdateTime", "lastTransitionTime"].map(|field| approved["status"]["conditions"][0][field].clone());
    assert!(times[0].is_string() && times[0] == times[1], "{approved}");
    let mut denied = approved.clone();
    denied["status"]["conditions"].as_array_mut().unwrap().push(condition("Denied"));
    assert_eq!(put(&bob, &format!("{REQUEST}/approval"), &denied).await.0, 422);

    let status = format!("{REQUEST}/status");
    let mut issued = approved;
    issued["status"]["certificate"] = "QQ==".into();
    let signs = rule(&["certificatesigningrequests/status"], &["update"]);
    let eve = user(&api, "eve", json!([signs])).await;
    let (code, refused) = put(&eve, &status, &issued).await;
    assert!(code == 403 && refused["message"].as_str().unwrap().contains("not permitted to sign"), "{refused}");
    let (code, refused) = put(&api, &status, &issued).await;
    assert!(code == 422 && refused["message"].as_str().unwrap().contains("status.certificate"), "{refused}");
}

#[tokio::test]
async fn nobody_asks_for_what_no_certificate_may_say() {
    let api = Harness::new().await;
    let mut unsigned = request(CLIENT_SIGNER, "ann", "dev");
    unsigned["spec"]["request"] = STANDARD.encode("a").into();
    let (code, refused) = api.post(REQUESTS, unsigned).await;
    assert!(code == 422 && refused["message"].as_str().unwrap().contains("it has to be PEM"), "{refused}");
    for (name, group) in [("ann", "system:masters"), ("ann", "system:nodes"), ("system:node:edge-1", "dev")] {
        let (code, refused) = api.post(REQUESTS, request(CLIENT_SIGNER, name, group)).await;
        assert!(code == 403 && refused["message"].as_str().unwrap().ends_with("is not allowed"), "{refused}");
    }
    let applied = request(CLIENT_SIGNER, "ann", "system:masters");
    let apply = [(CONTENT_TYPE.as_str(), "application/apply-patch+yaml")];
    let path = format!("{REQUEST}?fieldManager=m");
    assert_eq!(api.ask(Method::PATCH, &path, &apply, applied).await.0, 403);
    let mut applied = request(CLIENT_SIGNER, "ann", "dev");
    applied.as_object_mut().unwrap().remove("status");
    let (code, applied) = api.ask(Method::PATCH, &path, &apply, applied).await;
    assert_eq!((code, &applied["spec"]["username"]), (201, &"admin".into()), "{applied}");
    let mut other = request("example.com/masters", "ann", "system:masters");
    other["metadata"]["name"] = "other".into();
    assert_eq!(api.post(REQUESTS, other).await.0, 201, "whatever that signer makes of it");
}
