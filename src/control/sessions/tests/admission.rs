//! Revisions on their way from what a user wrote to what nodes get.

use super::*;
use crate::control::kinds::{EVENT, PRIORITY_CLASS, RUNTIME_CLASS, SERVICE_ACCOUNT};
use crate::control::objects::ListOptions;

#[tokio::test]
async fn no_pods_are_made_before_their_account_exists() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "main", "image": "registry.example/web:1"}]},
    });
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
    let set = json!({"metadata": {"name": "web"}, "spec": spec});
    harness.objects.create(&DAEMON_SET, "default", set, WriteOptions::default()).await.unwrap();
    let mut desired_rx = harness.sessions.shared.desired_rx.clone();
    desired_rx.wait_for(|desired| !desired.refused.is_empty()).await.unwrap();
    let events = harness.objects.list(&EVENT, ListOptions::default()).await.unwrap().items;
    assert_eq!(
        (&events[0]["reason"], &events[0]["message"], &events[0]["involvedObject"]["kind"]),
        (
            &json!("FailedCreate"),
            &json!(
                "Error creating: pods \"web-\" is forbidden: error looking up service account default/web: \
                 serviceaccount \"web\" not found"
            ),
            &json!("DaemonSet")
        )
    );

    let account = json!({"metadata": {"name": "web"}, "imagePullSecrets": [{"name": "registry"}]});
    harness.objects.create(&SERVICE_ACCOUNT, "default", account, WriteOptions::default()).await.unwrap();
    let manifest = node.manifest().await;
    let bundle = fetched(&mut node, &manifest).await;
    let spec = json!(bundle.template.spec);
    let suffix = &bundle.revision.as_str()[..5];
    assert_eq!(spec["volumes"][0]["name"], format!("kube-api-access-{suffix}"));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], spec["volumes"][0]["name"]);
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
}

#[tokio::test]
async fn a_revision_is_admitted_once() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let make = async |kind, object| harness.objects.create(kind, "", object, WriteOptions::default()).await.unwrap();
    make(&PRIORITY_CLASS, json!({"metadata": {"name": "gold"}, "value": 7})).await;
    let scheduling = json!({"nodeSelector": {"site": "north"}});
    let class = json!({"metadata": {"name": "gvisor"}, "handler": "runsc", "scheduling": scheduling});
    make(&RUNTIME_CLASS, class).await;
    let spec = json!({
        "containers": [{"name": "main", "image": "registry.example/web:1"}],
        "priorityClassName": "gold", "runtimeClassName": "gvisor",
    });
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": spec});
    let set = json!({
        "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
    });
    harness.objects.create(&DAEMON_SET, "default", set, WriteOptions::default()).await.unwrap();
    let (mut node, manifest) = harness.in_step(&host, hello()).await;
    let manifest = if manifest.entries.is_empty() { node.manifest().await } else { manifest };
    let bundle = fetched(&mut node, &manifest).await;
    assert_eq!((bundle.priority, bundle.runtime_handler.as_deref()), (7, Some("runsc")));
    let spec = bundle.template.spec.as_ref().unwrap();
    assert_eq!((spec.priority, &spec.node_selector.as_ref().unwrap()["site"]), (Some(7), &"north".to_owned()));

    // Other classes of the same names are for later revisions only.
    harness.delete(&PRIORITY_CLASS, "", "gold").await;
    make(&PRIORITY_CLASS, json!({"metadata": {"name": "gold"}, "value": 8})).await;
    let change = |current: &Value| {
        let mut object = current.clone();
        object["spec"]["minReadySeconds"] = json!(5);
        Ok::<_, ObjectError>(object)
    };
    harness.objects.update(&DAEMON_SET, "default", "web", Part::Main, WriteOptions::default(), change).await.unwrap();
    let manifest = node.manifest().await;
    let same = fetched(&mut node, &manifest).await;
    assert_eq!((&same.revision, same.priority, same.min_ready_seconds), (&bundle.revision, 7, 5));

    let report = pod_report(&bundle.uid, &bundle);
    node.say(Up::Pods(vec![report.clone()])).await;
    let pod = harness.until(&POD, &report.key.name, |pod| pod.is_some()).await.unwrap();
    assert_eq!(
        (&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"], &pod["spec"]["runtimeClassName"]),
        (&json!(7), &json!("PreemptLowerPriority"), &json!("gvisor"))
    );

    // With the DaemonSet goes what it was admitted as.
    harness.delete(&DAEMON_SET, "default", "web").await;
    harness.sessions.shared.desired_rx.clone().wait_for(|desired| desired.last_deletion > 0).await.unwrap();
    assert_eq!(harness.objects.admitted().await.unwrap(), []);
}
