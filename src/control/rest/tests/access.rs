//! Who may do what: every identity, every verb, every kind; and the requests that ask about it.

use std::fmt::Write as _;

use jiff::SignedDuration;

use super::*;
use crate::control::kinds::Kind;
use crate::control::rbac::AUTHENTICATED;
use crate::control::remote::{JOIN_TOKENS, TOKENS, USER_TOKENS};
use crate::control::user_tokens;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";
const ROLE_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";

pub(super) fn known(name: &str) -> User {
    User { name: name.to_owned(), groups: vec![AUTHENTICATED.to_owned()], ..User::default() }
}

impl Harness {
    pub(super) fn as_user(&self, user: User) -> Self {
        let (store, objects, router) = (self.store.clone(), self.objects.clone(), self.router.clone());
        let (bearer, keeper) = (self.bearer.clone(), tokio::spawn(async {}));
        Self { store, objects, bearer, router, policy_rx: self.policy_rx.clone(), questions_rx: None, keeper, user }
    }

    /// Binds a ClusterRole to a user, in the namespace `default` or in all.
    pub(super) async fn bind(&self, role: &str, user: &str, everywhere: bool) {
        let path = if everywhere {
            ROLE_BINDINGS.replace("namespaces/default/role", "clusterrole")
        } else {
            ROLE_BINDINGS.into()
        };
        let binding = json!({
            "metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": user}],
        });
        let bound = known(user);
        let rules = |policy: &Arc<Policy>| policy.rules_for(&bound, "default").len();
        let before = rules(&self.policy_rx.borrow());
        let (code, status) = self.post(&path, binding).await;
        assert_eq!(code, 201, "{status}");
        self.policy_rx.clone().wait_for(|policy| rules(policy) > before).await.unwrap();
    }
}

/// The verbs of the API that a user has on a kind or a part of it, a letter each: create, delete, delete collection
/// (X), get, list, patch, update, watch. Each is tried, on what there is not: all but a refusal means that it is theirs.
async fn verbs_of(api: &Harness, kind: &Kind, part: &str, verbs: &[&str]) -> String {
    let group = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let namespace = if kind.namespaced { "/namespaces/default" } else { "" };
    let all = format!("{group}/{}{namespace}/{}", kind.version, kind.plural);
    let one = if part.is_empty() { format!("{all}/none") } else { format!("{all}/none/{part}") };
    let mut letters = String::new();
    for verb in verbs {
        let (method, path, letter) = match *verb {
            "create" if part.is_empty() => (Method::POST, all.clone(), 'C'),
            "create" => (Method::POST, one.clone(), 'C'),
            "delete" => (Method::DELETE, one.clone(), 'D'),
            "deletecollection" => (Method::DELETE, format!("{all}?labelSelector=none=none"), 'X'),
            "get" => (Method::GET, one.clone(), 'G'),
            "list" => (Method::GET, all.clone(), 'L'),
            "patch" => (Method::PATCH, one.clone(), 'P'),
            "update" => (Method::PUT, one.clone(), 'U'),
            "watch" => (Method::GET, format!("{all}?watch=true"), 'W'),
            other => panic!("{other} is no verb"),
        };
        let content_type = if method == Method::PATCH { MERGE_PATCH } else { "application/json" };
        let headers = [(CONTENT_TYPE.as_str(), content_type)];
        let response = api.send(method, &path, &headers, &json!({})).await;
        let is_refused = match response.status() {
            StatusCode::UNAUTHORIZED => true,
            // So is a pod that nobody could make, in other words.
            StatusCode::FORBIDDEN => {
                let body = response.into_body().collect().await.unwrap().to_bytes();
                String::from_utf8_lossy(&body).contains(" cannot ")
            }
            _ => false,
        };
        if !is_refused {
            letters.push(letter);
        }
    }
    if letters.is_empty() { "-".to_owned() } else { letters }
}

#[tokio::test]
async fn the_access_matrix_is_as_recorded() {
    let api = Harness::new().await;
    for (role, user, everywhere) in
        [("view", "viewer", false), ("edit", "editor", false), ("admin", "owner", false), ("view", "auditor", true)]
    {
        api.bind(role, user, everywhere).await;
    }
    let mut node = known("system:node:edge-1");
    node.groups.push("system:nodes".to_owned());
    let users = [
        ("node", node),
        ("anonymous", User::anonymous()),
        ("nobody", known("nobody")),
        ("account", User::service_account("default", "bot", "")),
        ("viewer", known("viewer")),
        ("editor", known("editor")),
        ("owner", known("owner")),
        ("auditor", known("auditor")),
        ("master", master()),
    ];
    let users = users.map(|(name, user)| (name, api.as_user(user)));
    let mut matrix = format!("{:<54}", "resource");
    users.iter().for_each(|(name, _)| write!(matrix, "{name:<10}").unwrap());
    matrix.push('\n');
    for kind in KINDS {
        let parts = kind.subresources.iter().map(|part| (part.name, part.verbs));
        for (part, verbs) in std::iter::once(("", kind.verbs)).chain(parts) {
            let name = if part.is_empty() { kind.resource() } else { format!("{}/{part}", kind.resource()) };
            write!(matrix, "{name:<54}").unwrap();
            for (_, user) in &users {
                write!(matrix, "{:<10}", verbs_of(user, kind, part, verbs).await).unwrap();
            }
            matrix.push('\n');
        }
    }
    let matrix: String = matrix.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let path = format!("{}/tests/data/rest/access-matrix.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &matrix).unwrap();
    }
    assert_eq!(matrix, std::fs::read_to_string(&path).unwrap(), "differs from {path}");
}

#[tokio::test]
async fn what_may_not_be_is_forbidden_and_what_may_be_is_done() {
    let api = Harness::new().await;
    api.bind("view", "viewer", false).await;
    let viewer = api.as_user(known("viewer"));
    assert_eq!(viewer.get(CONFIG_MAPS).await.0, 200);
    assert_eq!(viewer.get("/api/v1/namespaces/default").await.0, 200);
    assert_eq!(viewer.get("/api/v1/namespaces/kube-system").await.0, 403);
    check("forbidden-secret", viewer.get("/api/v1/namespaces/default/secrets/s").await.1);
    check("forbidden-create", viewer.post(CONFIG_MAPS, config_map("a")).await.1);
    check("forbidden-path", viewer.get("/metrics").await.1);
    assert_eq!(viewer.get("/apis").await.0, 200);
    let anonymous = api.as_user(User::anonymous());
    assert_eq!((anonymous.get("/readyz").await.0, anonymous.get("/version").await.0), (200, 200));
    check("unauthorized", anonymous.get("/apis").await.1);
}

#[tokio::test]
async fn reviews_tell_what_somebody_may() {
    let api = Harness::new().await;
    api.bind("view", "viewer", false).await;
    let viewer = api.as_user(known("viewer"));
    let resource = |verb: &str, resource: &str| json!({"namespace": "default", "verb": verb, "resource": resource});
    let can_i = async |attributes: Value| {
        let body = json!({"spec": {"resourceAttributes": attributes}});
        viewer.post(&format!("{REVIEWS}/selfsubjectaccessreviews"), body).await
    };
    let (code, allowed) = can_i(resource("list", "pods")).await;
    assert_eq!(code, 201);
    check("review-allowed", allowed);
    assert_eq!(can_i(resource("list", "secrets")).await.1["status"], json!({"allowed": false}));
    check(
        "review-without-attributes",
        viewer.post(&format!("{REVIEWS}/selfsubjectaccessreviews"), json!({"spec": {}})).await.1,
    );
    let (_, rules) =
        viewer.post(&format!("{REVIEWS}/selfsubjectrulesreviews"), json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(rules["status"]["incomplete"], false);
    assert!(rules["status"]["resourceRules"].to_string().contains("configmaps"));
    assert!(rules["status"]["nonResourceRules"].to_string().contains("/openapi/*"));
    check("review-self", viewer.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await.1);
    assert_eq!(viewer.post(&format!("{REVIEWS}/subjectaccessreviews"), json!({})).await.0, 403);

    let about = json!({"spec": {"user": "viewer", "resourceAttributes": resource("get", "pods")}});
    let (code, answer) = api.post(&format!("{REVIEWS}/subjectaccessreviews"), about.clone()).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let (code, _) = api.post(&format!("{REVIEWS}/namespaces/kube-system/localsubjectaccessreviews"), about).await;
    assert_eq!(code, 422, "it asks about another namespace");
    assert_eq!(api.get(&format!("{REVIEWS}/subjectaccessreviews")).await.0, 405);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let api = Harness::new().await;
    api.bind("admin", "owner", false).await;
    let owner = api.as_user(known("owner"));
    let role = |resource: &str| {
        json!({
            "metadata": {"name": resource}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}],
        })
    };
    assert_eq!(owner.post(ROLES, role("secrets")).await.0, 201);
    check("role-escalation", owner.post(ROLES, role("nodes")).await.1);
    let patch = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    assert_eq!(owner.patch(&format!("{ROLES}/secrets"), patch).await.0, 403);
    assert_eq!(owner.patch(&format!("{ROLES}/secrets"), json!({"metadata": {"labels": {"a": "b"}}})).await.0, 200);
    let binding = |role: &str| {
        json!({
            "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "eve"}],
        })
    };
    assert_eq!(owner.post(ROLE_BINDINGS, binding("cluster-admin")).await.0, 403);
    assert_eq!(owner.post(ROLE_BINDINGS, binding("edit")).await.0, 201);
}

#[tokio::test]
async fn a_patch_by_apply_makes_nothing_that_may_not_be_made() {
    let api = Harness::new().await;
    let role = json!({
        "metadata": {"name": "patcher"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}],
    });
    api.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    api.bind("patcher", "patcher", false).await;
    let patcher = api.as_user(known("patcher"));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "2"}});
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(apply(&patcher, &path, "fieldManager=m", &config).await.0, 403);
    api.post(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(apply(&patcher, &path, "fieldManager=m&force=true", &config).await.0, 200);
}

#[tokio::test]
async fn a_bearer_token_is_good_until_it_is_revoked() {
    let api = Harness::new().await;
    let expires_at = jiff::Timestamp::now() + SignedDuration::from_hours(1);
    let token = api.objects.make_user_token("ops", &[MASTERS.to_owned()], expires_at).await.unwrap();
    let (id, _) = user_tokens::parse(&token).unwrap();
    let ask = async |headers: &[(&str, &str)], path: &str| api.by_credentials(headers, path).await.0;
    let bearer = format!("Bearer {token}");
    assert_eq!(ask(&[("authorization", &bearer)], CONFIG_MAPS).await, 200);
    let review = json!({"spec": {"token": token}});
    let (_, reviewed) = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review.clone()).await;
    assert_eq!(reviewed["status"]["user"]["username"], "ops");
    let wrong = [("authorization", format!("Bearer usr.{id}.wrong"))];
    let wrong = wrong.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(ask(&wrong, CONFIG_MAPS).await, 401);
    assert_eq!(ask(&wrong, "/readyz").await, 401, "who tells a wrong name");
    assert_eq!(ask(&[], CONFIG_MAPS).await, 401);
    assert_eq!(ask(&[], "/livez").await, 200);
    let as_bob = [("authorization", bearer.as_str()), ("impersonate-user", "bob")];
    assert_eq!(ask(&as_bob, CONFIG_MAPS).await, 403);
    let as_master = [("authorization", bearer.as_str()), ("impersonate-user", "x"), ("impersonate-group", MASTERS)];
    assert_eq!(ask(&as_master, CONFIG_MAPS).await, 200);
    assert!(api.objects.forget_user_token(id).await.unwrap());
    assert_eq!(ask(&[("authorization", &bearer)], CONFIG_MAPS).await, 401);
    let (_, reviewed) = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed["status"]["authenticated"], Value::Null);
}

#[tokio::test]
async fn tokens_are_for_who_may_do_everything() {
    let api = Harness::new().await;
    let role = json!({"metadata": {"name": "paths"}, "rules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}]});
    api.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    api.bind("paths", "ann", true).await;
    let ann = api.as_user(known("ann"));
    let ops = json!({"user": "ops", "groups": [MASTERS], "ttlSeconds": 60});
    assert_eq!(ann.get("/no/such/path").await.0, 404, "she may go anywhere");
    assert_eq!(ann.get(TOKENS).await.0, 403);
    assert_eq!(ann.post(USER_TOKENS, ops.clone()).await.0, 403, "would be more than she is");
    assert_eq!(ann.delete(&format!("{TOKENS}/aaaaaa"), Value::Null).await.0, 403);

    let (code, made) = api.post(JOIN_TOKENS, json!({"ttlSeconds": 60, "uses": 2, "labels": {"site": "north"}})).await;
    assert_eq!(code, 201);
    let token: crate::link::JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    assert_eq!(api.post(USER_TOKENS, ops).await.0, 201);
    let (_, list) = api.get(TOKENS).await;
    let join = json!({
        "id": token.id, "purpose": "join", "usesLeft": 2, "nodeName": null, "labels": {"site": "north"},
        "expiresAt": list["tokens"][0]["expiresAt"],
    });
    assert_eq!((&list["tokens"][0], &list["tokens"][1]["user"]), (&join, &"ops".into()));
    assert_eq!(api.delete(&format!("{TOKENS}/{}", token.id), Value::Null).await.0, 200);
    assert_eq!(api.delete(&format!("{TOKENS}/{}", token.id), Value::Null).await.0, 404);
    for wrong in [
        json!({"user": "", "ttlSeconds": 60}),
        json!({"user": "system:node:a", "ttlSeconds": 60}),
        json!({"user": "a", "groups": ["system:nodes"], "ttlSeconds": 60}),
        json!({"user": "a", "ttlSeconds": 0}),
        json!({"user": "a", "ttlSeconds": 60, "more": true}),
    ] {
        assert_eq!(api.post(USER_TOKENS, wrong.clone()).await.0, 400, "{wrong}");
    }
    for wrong in [json!({"ttlSeconds": 60, "labels": {"-": ""}}), json!({"ttlSeconds": 60, "nodeName": "A b"})] {
        assert_eq!(api.post(JOIN_TOKENS, wrong.clone()).await.0, 400, "{wrong}");
    }
}
