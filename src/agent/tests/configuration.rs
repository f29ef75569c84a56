//! ConfigMaps and Secrets: what pods get of them, and what becomes of a pod when they come, change and go.

use super::*;
use crate::link::{ObjectAnswer, ObjectRef, Reason, Token, TokenRequest};
use crate::model::ObjectKey;

/// A DaemonSet whose container takes ConfigMap `app` as variables and as a volume.
fn configured(name: &str, image: &str) -> Bundle {
    let volume = json!({ "name": "config", "configMap": { "name": "app", "defaultMode": 0o644 } });
    let mut set = set_with(name, image, &json!({ "volumes": [volume] }));
    let container = &mut set.template.spec.as_mut().unwrap().containers[0];
    container.env_from = serde_json::from_value(json!([{ "configMapRef": { "name": "app" } }])).unwrap();
    container.volume_mounts = serde_json::from_value(json!([{ "name": "config", "mountPath": "/config" }])).unwrap();
    set
}

/// A DaemonSet whose pod has a token for `vault` in a volume.
fn with_token(name: &str) -> Bundle {
    let token = json!({ "path": "token", "audience": "vault", "expirationSeconds": 600 });
    let volume =
        json!({ "name": "v", "projected": { "sources": [{ "serviceAccountToken": token }], "defaultMode": 420 } });
    let account = json!({ "volumes": [volume], "serviceAccountName": "reader", "automountServiceAccountToken": false });
    set_with(name, "one", &account)
}

fn app(level: &str) -> Bytes {
    json!({ "metadata": { "name": "app" }, "data": { "level": level } }).to_string().into()
}

fn entry(content: &Bytes) -> Entry {
    Entry { uid: "app-uid".into(), kind: Kind::ConfigMap, seq: 1, hash: blob_hash(content), written: None }
}

impl Agent {
    /// Waits until control is asked for objects, and gives their names.
    async fn needs(&mut self) -> Vec<String> {
        let needs = self.hears("a need", |up| match up {
            Up::Needs(needs) if !needs.objects.is_empty() => Some(needs.clone()),
            _ => None,
        });
        needs.await.objects.iter().map(|object| format!("{:?} {}", object.kind, object.key)).collect()
    }

    /// Says what there is under the name of ConfigMap `default/app`.
    async fn says(&self, answer: ObjectAnswer) {
        let app = ObjectRef { kind: Kind::ConfigMap, key: ObjectKey::new("default", "app") };
        let objects = vec![(app, answer)];
        self.down(Down::Assigned(crate::link::Assigned { position: position(1), pods: vec![], objects })).await;
    }

    /// Says that it is there, and sends the content when it is asked for.
    async fn gives(&mut self, content: &Bytes) {
        self.says(ObjectAnswer::Present(entry(content))).await;
        let hash = blob_hash(content);
        self.hears("the content to be asked for", |up| match up {
            Up::Needs(needs) => needs.blobs.iter().any(|blob| blob.hash == hash).then_some(()),
            _ => None,
        })
        .await;
        self.down(chunk(content, 0..)).await;
    }

    async fn asks_for_token(&mut self) -> TokenRequest {
        self.hears("a request for a token", |up| match up {
            Up::TokenRequest(request) => Some(request.clone()),
            _ => None,
        })
        .await
    }

    /// The reasons of the events told so far and not asked for yet.
    fn events(&self) -> Vec<String> {
        let told = self.heard.iter().filter_map(|up| if let Up::Events(events) = up { Some(events) } else { None });
        told.flatten().map(|event| event.reason.clone()).collect()
    }

    /// Waits for an event whose message has these words.
    async fn is_told(&mut self, words: &str) {
        self.hears(&format!("an event that says {words:?}"), |up| match up {
            Up::Events(events) => events.iter().any(|event| event.message.contains(words)).then_some(()),
            _ => None,
        })
        .await;
    }
}

impl Host {
    /// The file `level` of the only pod's volume.
    fn level(&self) -> Option<String> {
        let pods = std::fs::read_dir(self.dir.path().join("root/pods")).ok()?;
        let file = |pod: PathBuf| pod.join("volumes/kubernetes.io~configmap/config/level");
        pods.flatten().find_map(|pod| std::fs::read_to_string(file(pod.path())).ok())
    }

    async fn has_level(&self, expected: &str) {
        eventually(&format!("the volume to hold {expected}"), async || {
            (self.level().as_deref() == Some(expected)).then_some(())
        })
        .await;
    }

    /// The variables of the newest container.
    fn variables(&self) -> Vec<String> {
        let calls = self.cri.calls();
        let made = calls.iter().rfind(|call| call.method == "CreateContainer").expect("a container was made");
        let variable = |one: &Value| format!("{}={}", one["key"].as_str().unwrap(), one["value"].as_str().unwrap());
        made.request["config"]["envs"].as_array().unwrap().iter().map(variable).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_configuration_and_starts_when_it_comes() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[configured("web", "one")]).await;
    assert_eq!(agent.needs().await, ["ConfigMap default/app"]);
    let patient = Duration::from_secs(29);
    tokio::time::sleep(patient).await;
    agent.settle().await;
    assert_eq!(agent.events(), Vec::<String>::new(), "an answer that is on its way is no failure");
    agent.is_told("ConfigMap default/app has not arrived on this node yet").await;
    agent.says(ObjectAnswer::Absent).await;
    agent.is_told("MountVolume.SetUp failed for volume \"config\" : configmap \"app\" not found").await;
    agent.settle().await;
    let made = host.cri.take_changes();
    assert!(!made.contains(&"CreateContainer"), "no container is made before the volumes are there: {made:?}");

    let before = tokio::time::Instant::now();
    agent.gives(&app("debug")).await;
    host.runs("web", "one").await;
    assert!(before.elapsed() < Duration::from_secs(1), "it does not wait for its turn");
    assert_eq!((host.level().as_deref(), host.variables()), (Some("debug"), vec!["level=debug".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pulled_before_it_is_known_what_to_show_the_registry() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let secrets = json!({ "imagePullSecrets": [{ "name": "pull" }] });
    agent.apply(1, &[set_with("web", "new", &secrets)]).await;
    assert_eq!(agent.needs().await, ["Secret default/pull"]);
    agent.settle().await;
    let pulls = || host.cri.calls().iter().filter(|call| call.method == "PullImage").count();
    assert_eq!((pulls(), agent.events()), (0, vec![]));

    host.cri.serve_image(&reference("new"));
    let pull = ObjectRef { kind: Kind::Secret, key: ObjectKey::new("default", "pull") };
    let objects = vec![(pull, ObjectAnswer::Absent)];
    let before = tokio::time::Instant::now();
    agent.down(Down::Assigned(crate::link::Assigned { position: position(1), pods: vec![], objects })).await;
    host.runs("web", "new").await;
    assert!(before.elapsed() < Duration::from_secs(1), "it does not wait for its turn");
    agent.settle().await;
    let told = agent.events();
    assert_eq!((pulls(), told.iter().filter(|reason| *reason == "FailedToRetrieveImagePullSecret").count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_change_reaches_the_volume_at_once_and_the_environment_with_the_next_container() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[configured("web", "one")]).await;
    agent.gives(&app("debug")).await;
    let pod = host.runs("web", "one").await;
    host.cri.take_changes();

    agent.gives(&app("info")).await;
    host.has_level("info").await;
    agent.settle().await;
    assert_eq!(host.cri.take_changes(), Vec::<&str>::new(), "nothing is restarted");
    host.cri.end_container(&pod.uid, "main", 1);
    host.runs("web", "one").await;
    assert_eq!(host.variables(), ["level=info"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_uses_is_not_taken_from_it_but_the_next_pod_is_told() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[configured("web", "one")]).await;
    agent.gives(&app("debug")).await;
    let pod = host.runs("web", "one").await;

    agent.says(ObjectAnswer::Absent).await;
    agent.settle().await;
    host.cri.end_container(&pod.uid, "main", 1);
    let again = host.runs("web", "one").await;
    assert_eq!((again.uid, host.level().as_deref()), (pod.uid.clone(), Some("debug")));

    // Also after a reboot without network: nobody is asked.
    agent.stop().await;
    host.cri.end_sandbox(&pod.uid);
    let mut agent = host.start();
    let again = host.runs("web", "one").await;
    assert_eq!((again.uid, host.variables()), (pod.uid.clone(), vec!["level=debug".to_owned()]));

    agent.connect().await;
    let why = Reason { reason: "NotEntitled".into(), message: "not eligible here".into(), field: String::new() };
    agent.says(ObjectAnswer::Refused(why)).await;
    let action = crate::link::PodAction::Delete { grace_period_secs: 1, permit: None };
    let command = crate::link::PodCommand { uid: pod.uid, needs_seq: 0, action };
    agent.down(Down::Pod { id: crate::link::CommandId(1), command }).await;
    agent.is_told("ConfigMap default/app is withheld from this node: not eligible here").await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_missing_is_a_reason_of_the_container() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let mut web = set("web", "one");
    let key = json!({ "configMapKeyRef": { "name": "app", "key": "port" } });
    web.template.spec.as_mut().unwrap().containers[0].env =
        serde_json::from_value(json!([{ "name": "PORT", "valueFrom": key }])).unwrap();
    agent.apply(1, &[web]).await;
    agent.gives(&app("debug")).await;
    agent.waits("web", "CreateContainerConfigError").await;
    agent.is_told("Error: couldn't find key port in ConfigMap default/app").await;
    let content = Bytes::from(json!({ "data": { "port": "80" } }).to_string());
    agent.gives(&content).await;
    host.runs("web", "one").await;
    assert_eq!(host.variables(), ["PORT=80"]);
}

#[tokio::test(start_paused = true)]
async fn an_image_is_pulled_for_a_volume_before_its_pod_starts_or_takes_a_permit() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let mounting = |name: &str, image: &str, content: &str| {
        let source = json!({ "reference": reference(content), "pullPolicy": "IfNotPresent" });
        let mut set = set_with(name, image, &json!({ "volumes": [{ "name": "models", "image": source }] }));
        let container = &mut set.template.spec.as_mut().unwrap().containers[0];
        container.volume_mounts =
            serde_json::from_value(json!([{ "name": "models", "mountPath": "/models" }])).unwrap();
        set
    };
    agent.apply(1, &[mounting("web", "one", "missing")]).await;
    let status = agent.waits("web", "ErrImagePull").await;
    assert!(status.to_string().contains(&reference("missing")), "{status}");
    host.cri.serve_image(&reference("missing"));
    host.runs("web", "one").await;
    let calls = host.cri.calls();
    let made = calls.iter().rfind(|call| call.method == "CreateContainer").unwrap();
    let mount = &made.request["config"]["mounts"][0];
    assert_eq!(mount["image"]["user_specified_image"], reference("missing").as_str());
    assert_eq!((&mount["host_path"], &mount["readonly"]), (&json!(""), &json!(true)));

    agent.apply(2, &[mounting("web", "two", "gone")]).await;
    assert_eq!(agent.asks("two").await.unwrap_err().reason, "ErrImagePull");
}

#[tokio::test(start_paused = true)]
async fn a_revision_whose_configuration_is_missing_takes_no_permit() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let old = host.runs("web", "one").await;
    agent.apply(2, &[configured("web", "two")]).await;
    agent.says(ObjectAnswer::Absent).await;
    let refused = agent.asks("two").await.unwrap_err();
    assert_eq!(
        (refused.reason.as_str(), refused.message.as_str()),
        ("CreateContainerConfigError", "configmap \"app\" not found")
    );
    assert_eq!(host.runs("web", "one").await.uid, old.uid);

    agent.gives(&app("debug")).await;
    agent.asks("two").await.expect("it is asked for as soon as it would work");
}

#[tokio::test(start_paused = true)]
async fn tokens_are_asked_for_renewed_and_on_disk_for_the_next_agent() {
    let host = Host::new();
    // Before the runtime was looked at no pod is begun: the volume would be a tmpfs, and tests need not be root.
    host.cri.hold("ListPodSandbox");
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[with_token("web")]).await;
    let request = agent.asks_for_token().await;
    assert_eq!((request.service_account.as_str(), request.audiences.as_slice()), ("reader", &["vault".to_owned()][..]));
    let why = Reason { reason: "NotFound".into(), message: "no such account".into(), field: String::new() };
    agent.down(Down::Token { id: request.id, outcome: Err(why) }).await;
    let gives = async |agent: &mut Agent, text: &str| {
        let request = agent.asks_for_token().await;
        let token = Token { text: text.to_owned(), expires_at: Timestamp::now() + Duration::from_secs(600) };
        agent.down(Down::Token { id: request.id, outcome: Ok(token) }).await;
        let blob = blob_hash(text.as_bytes());
        let is_kept = async || host.ledger().tokens.iter().any(|token| token.blob == blob).then_some(());
        eventually("the token to be on disk", is_kept).await;
    };
    gives(&mut agent, "one").await;
    tokio::time::sleep(Duration::from_secs(470)).await;
    agent.settle().await;
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::TokenRequest(_))), "it is good for a while");
    gives(&mut agent, "two").await;
    assert_eq!(host.ledger().tokens.len(), 1);
    agent.stop().await;

    let mut agent = host.start();
    agent.connect().await;
    agent.settle().await;
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::TokenRequest(_))), "{:?}", agent.heard);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_when_control_has_the_report_of_the_pod() {
    let host = Host::new();
    host.cri.hold("ListPodSandbox");
    let mut agent = host.start();
    agent.connect().await;
    let web = with_token("web");
    agent.apply(1, std::slice::from_ref(&web)).await;
    let pod = agent.asks_for_token().await.pod.uid;
    let is_about = |up: &Up| match up {
        Up::Pods(reports) => reports.iter().any(|report| report.key.uid == pod).then_some("report"),
        Up::TokenRequest(_) => Some("request"),
        _ => None,
    };

    // Control lost the report with the connection, or was put back to before it.
    agent.disconnect().await;
    agent.connect().await;
    agent.settle().await;
    assert_eq!(agent.heard.iter().find_map(is_about), None, "nobody knows yet what control has");
    agent.down(Down::Wanted(vec![pod.clone()])).await;
    agent.down(manifest(1, std::slice::from_ref(&web))).await;
    for expected in ["report", "request"] {
        assert_eq!(agent.hears("a report and a request", is_about).await, expected);
    }

    // What the pod is like, the next agent does not know before it has seen it.
    agent.stop().await;
    let mut agent = host.start();
    agent.connect().await;
    agent.down(Down::Wanted(vec![pod.clone()])).await;
    agent.down(manifest(1, std::slice::from_ref(&web))).await;
    agent.settle().await;
    assert_eq!(agent.heard.iter().find_map(is_about), None);
}

#[test]
fn pods_are_told_of_an_api_that_they_can_reach() {
    for (control, expected) in [
        ("10.0.0.9:6443", Some(("10.0.0.9", 6443))),
        ("control.example:443", Some(("control.example", 443))),
        ("[fd00::9]:6443", Some(("fd00::9", 6443))),
        ("localhost:6443", None),
        ("127.0.0.1:6443", None),
        ("[::1]:6443", None),
        ("control.example", None),
    ] {
        let expected = expected.map(|(host, port)| ApiAddress { host: host.to_owned(), port });
        assert_eq!(api_address(control), expected, "{control}");
    }
}
