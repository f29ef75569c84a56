//! PriorityClasses and RuntimeClasses, and the DaemonSets that name them.

use super::*;

const PRIORITY_CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const RUNTIME_CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

fn priority_class(name: &str, value: i32, is_default: bool) -> Value {
    json!({"metadata": {"name": name}, "value": value, "globalDefault": is_default})
}

/// The cells of each row, without how old the object is.
async fn cells(api: &Harness, path: &str) -> Vec<Value> {
    let (_, table) = api.ask(Method::GET, path, &[(ACCEPT.as_str(), TABLE)], Value::Null).await;
    let columns = table["columnDefinitions"].as_array().unwrap();
    let age = columns.iter().position(|column| column["name"] == "Age").unwrap();
    let without_age = |row: &Value| {
        let mut cells = row["cells"].as_array().unwrap().clone();
        cells.remove(age);
        Value::Array(cells)
    };
    table["rows"].as_array().unwrap().iter().map(without_age).collect()
}

#[tokio::test]
async fn the_systems_classes_are_there_from_the_start_and_there_is_one_default() {
    let api = Harness::new().await;
    assert_eq!(
        cells(&api, PRIORITY_CLASSES).await,
        [
            json!(["system-cluster-critical", 2_000_000_000, false, "PreemptLowerPriority"]),
            json!(["system-node-critical", 2_000_001_000, false, "PreemptLowerPriority"]),
        ]
    );
    assert_eq!(api.post(PRIORITY_CLASSES, priority_class("low", 1, true)).await.0, 201);
    check("priorityclass-second-default", api.post(PRIORITY_CLASSES, priority_class("high", 9, true)).await.1);
    assert_eq!(api.post(PRIORITY_CLASSES, priority_class("high", 9, false)).await.0, 201);
    let high = format!("{PRIORITY_CLASSES}/high");
    assert_eq!(api.patch(&high, json!({"globalDefault": true})).await.0, 403);
    assert_eq!(api.patch(&format!("{PRIORITY_CLASSES}/low"), json!({"globalDefault": true})).await.0, 200);
    check("priorityclass-invalid", api.patch(&high, json!({"value": 8})).await.1);
    check("priorityclass-reserved", api.post(PRIORITY_CLASSES, priority_class("system-x", 8, false)).await.1);
}

#[tokio::test]
async fn a_daemon_set_names_only_classes_that_exist() {
    let api = Harness::new().await;
    let with = |field: &str, value: Value| {
        let mut set = fluentd();
        set["spec"]["template"]["spec"][field] = value;
        set
    };
    check("daemonset-no-priorityclass", api.post(DAEMON_SETS, with("priorityClassName", json!("gold"))).await.1);
    check("daemonset-no-runtimeclass", api.post(DAEMON_SETS, with("runtimeClassName", json!("gvisor"))).await.1);
    let class = json!({"metadata": {"name": "gvisor"}, "handler": "runsc"});
    assert_eq!(api.post(RUNTIME_CLASSES, class).await.0, 201);
    assert_eq!(cells(&api, RUNTIME_CLASSES).await, [json!(["gvisor", "runsc"])]);
    let (code, created) = api.post(DAEMON_SETS, with("runtimeClassName", json!("gvisor"))).await;
    assert_eq!(code, 201, "{created}");
    let spec = &created["spec"]["template"]["spec"];
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&Value::Null, &Value::Null), "it stays as written");

    // What was taken stays, whatever becomes of the class; a new template is looked at again.
    api.delete(&format!("{RUNTIME_CLASSES}/gvisor"), Value::Null).await;
    assert_eq!(api.patch(FLUENTD, json!({"spec": {"minReadySeconds": 5}})).await.0, 200);
    let image = json!([{"name": "fluentd", "image": "fluentd:v1.17"}]);
    let (code, refused) = api.patch(FLUENTD, json!({"spec": {"template": {"spec": {"containers": image}}}})).await;
    assert_eq!(code, 403, "{refused}");
}
