//! ServiceAccounts and their tokens.

use super::*;

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

#[tokio::test]
async fn a_token_is_given_to_whoever_may_ask_for_one() {
    let api = Harness::new().await;
    let ask = async |spec: Value| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        api.post(&format!("{ACCOUNT}/token"), body).await
    };
    let (code, mut given) = ask(json!({"expirationSeconds": 700, "audiences": ["vault"]})).await;
    assert_eq!(code, 201, "{given}");
    let token = given["status"]["token"].take();
    let review = async |audience: &str| {
        let spec = json!({"token": token, "audiences": [audience]});
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        api.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.1["status"].take()
    };
    let reviewed = review("vault").await;
    assert_eq!(
        (&reviewed["authenticated"], &reviewed["audiences"], &reviewed["user"]["username"]),
        (&json!(true), &json!(["vault"]), &json!("system:serviceaccount:default:default"))
    );
    assert_eq!(review("bank").await["authenticated"], Value::Null);
    given["status"]["expirationTimestamp"] = "<expirationTimestamp>".into();
    check("token-request", given);

    let own = ask(json!({})).await.1;
    assert_eq!(own["spec"]["expirationSeconds"], 3600);
    let bearer = format!("Bearer {}", own["status"]["token"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str())];
    let (code, refused) = api.by_credentials(&headers, ACCOUNT).await;
    assert_eq!(code, 403, "it is known and may do nothing: {refused}");
    assert!(refused["message"].as_str().unwrap().contains("\"system:serviceaccount:default:default\" cannot get"));
    check("token-too-short", ask(json!({"expirationSeconds": 10})).await.1);
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}});
    check("token-no-pod", ask(bound).await.1);
    check("token-no-account", api.post(&format!("{ACCOUNT}-x/token"), json!({})).await.1);
    let review = json!({"kind": "TokenReview"});
    check("token-other-kind", api.post(&format!("{ACCOUNT}/token"), review).await.1);
    assert_eq!(api.get(&format!("{ACCOUNT}/token")).await.0, 405);
}

#[tokio::test]
async fn others_find_out_how_to_verify_a_token() {
    let api = Harness::new().await;
    let found =
        api.ask(Method::GET, "/.well-known/openid-configuration", &[("host", "control:6443")], Value::Null).await;
    assert_eq!(found.1["jwks_uri"], "https://control:6443/openid/v1/jwks");
    let response = api.send(Method::GET, "/openid/v1/jwks", &[], &Value::Null).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/jwk-set+json");
    let (_, keys) = api.get("/openid/v1/jwks").await;
    assert_eq!((&keys["keys"][0]["alg"], &keys["keys"][0]["crv"]), (&json!("ES256"), &json!("P-256")));
}
