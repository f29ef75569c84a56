//! Pods that users post, change, debug and evict.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

fn probe() -> Value {
    json!({
        "metadata": {"name": "probe", "labels": {"run": "probe"}},
        "spec": {
            "nodeName": "edge-1", "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "busybox:1.35", "command": ["true"]}],
        },
    })
}

fn messages(status: &Value) -> Vec<String> {
    let causes = status["details"]["causes"].as_array().unwrap_or_else(|| panic!("{status}"));
    let text = |cause: &Value| format!("{}: {}", cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap());
    causes.iter().map(text).collect()
}

#[tokio::test]
async fn a_pod_is_posted_to_a_node() {
    let api = Harness::new().await;
    let (code, mut created) = api.post(PODS, probe()).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(api.get(&format!("{PODS}/probe")).await, (200, created.clone()));
    // Its token has a name that nobody can foresee.
    let volume = created["spec"]["volumes"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(created["spec"]["containers"][0]["volumeMounts"][0]["name"], volume.as_str());
    assert_eq!(volume.strip_prefix("kube-api-access-").map(str::len), Some(5));
    let blanked = created.to_string().replace(&volume, "kube-api-access-xxxxx");
    created = serde_json::from_str(&blanked).unwrap();
    check("pod-created", created);

    let mut homeless = probe();
    homeless["spec"]["nodeName"] = "".into();
    check("pod-refused", api.post(PODS, homeless).await.1);
    for (field, value, expected) in [
        ("containers", json!([]), "spec.containers: Required value"),
        ("restartPolicy", json!("Sometimes"), "spec.restartPolicy: Unsupported value: \"Sometimes\""),
        ("ephemeralContainers", json!([{"name": "a", "image": "a"}]), "spec.ephemeralContainers: Forbidden"),
    ] {
        let mut pod = probe();
        pod["metadata"]["name"] = "other".into();
        pod["spec"][field] = value;
        let (code, status) = api.post(PODS, pod).await;
        assert_eq!(code, 422, "{status}");
        assert!(messages(&status).iter().any(|message| message.starts_with(expected)), "{status}");
    }
    let mut pod = probe();
    let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": true});
    pod["metadata"]["ownerReferences"] = json!([owner]);
    let (code, status) = api.post(PODS, pod).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (403, "pods \"probe\" is forbidden: the pods of a DaemonSet are made by the nodes themselves")
    );
    let mut pod = probe();
    pod["spec"]["serviceAccountName"] = "nobody".into();
    let (code, status) = api.post(PODS, pod).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (
            403,
            "pods \"probe\" is forbidden: error looking up service account default/nobody: serviceaccount \"nobody\" not found"
        )
    );
}

#[tokio::test]
async fn of_a_posted_pod_little_can_be_changed() {
    let api = Harness::new().await;
    api.post(PODS, probe()).await;
    let path = format!("{PODS}/probe");
    let patch = async |spec: Value| {
        let headers = [(CONTENT_TYPE.as_str(), STRATEGIC)];
        api.ask(Method::PATCH, &path, &headers, json!({"spec": spec})).await
    };
    let (code, changed) = patch(json!({"containers": [{"name": "main", "image": "busybox:1.36"}]})).await;
    assert_eq!(
        (code, &changed["spec"]["containers"][0]["image"], &changed["metadata"]["generation"]),
        (200, &json!("busybox:1.36"), &json!(2)),
        "{changed}"
    );
    for spec in [json!({"nodeName": "edge-2"}), json!({"containers": [{"name": "main", "command": ["false"]}]})] {
        let (code, status) = patch(spec).await;
        assert_eq!(code, 422);
        assert!(messages(&status)[0].starts_with("spec: Forbidden: pod updates may not change fields other than"));
    }
    let (_, labelled) = api.patch(&path, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!((&labelled["metadata"]["labels"]["a"], &labelled["metadata"]["generation"]), (&json!("b"), &json!(2)));
    let told = api.objects.pod_intents().await.unwrap();
    assert_eq!((told.len(), told[0].0.node.as_str(), told[0].0.posted.is_some()), (1, "edge-1", true));
}

#[tokio::test]
async fn containers_are_added_to_a_pod_and_stay_as_they_are() {
    let api = Harness::new().await;
    api.report_pod("web-1", "one").await;
    let path = format!("{PODS}/web-1/ephemeralcontainers");
    let add = async |container: Value| {
        let patch = json!({"spec": {"ephemeralContainers": [container], "nodeName": "two"}});
        api.ask(Method::PATCH, &path, &[(CONTENT_TYPE.as_str(), STRATEGIC)], patch).await
    };
    let (code, pod) = add(json!({"name": "look", "image": "busybox:1.35", "targetContainerName": "main"})).await;
    assert_eq!((code, &pod["spec"]["nodeName"]), (200, &json!("one")), "{pod}");
    assert_eq!(
        pod["spec"]["ephemeralContainers"],
        json!([{
            "name": "look", "image": "busybox:1.35", "targetContainerName": "main", "imagePullPolicy": "IfNotPresent",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }])
    );
    assert_eq!(api.get(&path).await, (200, pod.clone()));
    let told = api.objects.pod_intents().await.unwrap();
    assert_eq!((told.len(), told[0].0.posted.is_some()), (1, false));

    for (container, expected) in [
        (
            json!({"name": "look", "image": "busybox:1.36"}),
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"look\" may not be changed",
        ),
        (json!({"name": "main", "image": "a"}), "spec.ephemeralContainers[1].name: Duplicate value: \"main\""),
        (
            json!({"name": "b", "image": "a", "targetContainerName": "none"}),
            "spec.ephemeralContainers[1].targetContainerName: Not found: \"none\"",
        ),
        (
            json!({"name": "b", "image": "a", "ports": [{"containerPort": 1}]}),
            "spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ] {
        let (code, status) = add(container).await;
        assert_eq!(code, 422, "{status}");
        assert!(messages(&status).iter().any(|message| message == expected), "{expected} is not in {status}");
    }
    let mut without = pod.clone();
    without["spec"]["ephemeralContainers"] = json!([]);
    let (_, status) = api.ask(Method::PUT, &path, &[], without).await;
    assert_eq!(
        messages(&status),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"look\" may not be removed"]
    );
    let pod = format!("{PODS}/web-1");
    let (code, status) = api.patch(&pod, json!({"spec": {"ephemeralContainers": null}})).await;
    assert_eq!(code, 422, "{status}");
    let container = json!({"name": "main", "image": "busybox:1.36"});
    let patch = json!({"spec": {"containers": [container]}});
    for query in ["", "?dryRun=All"] {
        let headers = [(CONTENT_TYPE.as_str(), STRATEGIC)];
        let (_, status) = api.ask(Method::PATCH, &format!("{pod}{query}"), &headers, patch.clone()).await;
        assert_eq!(
            messages(&status),
            ["spec: Forbidden: a pod's spec comes from its DaemonSet; change the DaemonSet"],
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_pod_is_evicted_and_is_bound_already() {
    let api = Harness::new().await;
    api.post(PODS, probe()).await;
    let eviction = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let (code, refused) = api.post(&format!("{PODS}/probe/eviction"), eviction("other")).await;
    assert_eq!((code, &refused["reason"]), (400, &json!("BadRequest")));
    let binding = json!({"metadata": {"name": "probe"}, "target": {"kind": "Node", "name": "edge-2"}});
    check("pod-bound", api.post(&format!("{PODS}/probe/binding"), binding).await.1);
    let mut asked = eviction("probe");
    asked["deleteOptions"] = json!({"gracePeriodSeconds": 7});
    let (code, done) = api.post(&format!("{PODS}/probe/eviction"), asked).await;
    assert_eq!((code, &done["status"]), (201, &json!("Success")), "{done}");
    let pod = api.get(&format!("{PODS}/probe")).await.1;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
    assert_eq!(api.post(&format!("{PODS}/none/eviction"), eviction("none")).await.0, 404);
}
