use serde_json::{Value, json};

use super::*;

/// A node `n` with one label of each sort that the rows ask about.
fn labels() -> BTreeMap<String, String> {
    [("zone", "a"), ("cores", "8"), ("size", "big")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn template(spec: Value) -> PodTemplateSpec {
    let mut spec = spec;
    spec["containers"] = json!([]);
    serde_json::from_value(json!({ "spec": spec })).unwrap()
}

fn judge_spec(spec: Value, taints: &[&str]) -> Result<Verdict, BadSelector> {
    let taints: Vec<_> = taints.iter().map(|taint| taint.parse().unwrap()).collect();
    judge(&NodeFacts { name: &"n".into(), labels: &labels(), taints: &taints }, &template(spec))
}

/// `runs stays` as `++`, `-+` or `--`, and the reasons as the user reads them.
fn answer(spec: Value, taints: &[&str]) -> (&'static str, Vec<String>) {
    let verdict = judge_spec(spec, taints).unwrap();
    let standing = match (verdict.runs, verdict.stays) {
        (true, true) => "++",
        (false, true) => "-+",
        (false, false) => "--",
        (true, false) => panic!("runs without staying"),
    };
    (standing, verdict.reasons.iter().map(ToString::to_string).collect())
}

fn required(terms: &Value) -> Value {
    let required = json!({ "nodeSelectorTerms": terms });
    json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } } })
}

fn one_expression(key: &str, operator: &str, values: &[&str]) -> Value {
    required(&json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]))
}

#[test]
fn a_pod_without_wishes_runs() {
    assert_eq!(answer(json!({}), &[]), ("++", vec![]));
    assert_eq!(answer(json!({ "nodeName": "n", "nodeSelector": { "zone": "a" } }), &[]), ("++", vec![]));
}

#[test]
fn a_name_or_label_that_is_not_the_nodes_keeps_the_pod_off() {
    let rows = [
        (json!({ "nodeName": "m" }), "spec.nodeName names another node, \"m\""),
        (
            json!({ "nodeSelector": { "gpu": "true" } }),
            "spec.nodeSelector wants label gpu=true, the node has no label gpu",
        ),
        (
            json!({ "nodeSelector": { "zone": "b", "size": "big" } }),
            "spec.nodeSelector wants label zone=b, the node has zone=a",
        ),
    ];
    for (spec, reason) in rows {
        assert_eq!(answer(spec, &[]), ("--", vec![reason.to_owned()]));
    }
}

#[test]
fn every_operator_reads_labels_as_upstream_does() {
    let rows: [(&str, &str, &[&str], bool); 19] = [
        ("zone", "In", &["a", "b"], true),
        ("zone", "In", &["b"], false),
        ("none", "In", &["a"], false),
        ("zone", "NotIn", &["b"], true),
        ("zone", "NotIn", &["a"], false),
        ("none", "NotIn", &["a"], true),
        ("zone", "Exists", &[], true),
        ("none", "Exists", &[], false),
        ("none", "DoesNotExist", &[], true),
        ("zone", "DoesNotExist", &[], false),
        ("cores", "Gt", &["7"], true),
        ("cores", "Gt", &["8"], false),
        ("cores", "Gt", &["-1"], true),
        ("cores", "Lt", &["9"], true),
        ("cores", "Lt", &["8"], false),
        ("none", "Gt", &["1"], false),
        ("none", "Lt", &["1"], false),
        ("size", "Gt", &["1"], false),
        ("size", "Lt", &["1"], false),
    ];
    for (key, operator, values, runs) in rows {
        let verdict = judge_spec(one_expression(key, operator, values), &[]).unwrap();
        assert_eq!((verdict.runs, verdict.stays), (runs, runs), "{key} {operator} {values:?}");
    }
}

#[test]
fn one_matching_term_is_enough_and_all_of_a_term_must_match() {
    let zone = |value: &str| json!({ "key": "zone", "operator": "In", "values": [value] });
    let name = |value: &str| json!({ "key": "metadata.name", "operator": "In", "values": [value] });
    let affinity = |terms| answer(required(&terms), &[]);
    let against = |words: &str| ("--", vec![format!("no term of the required node affinity matches{words}")]);

    assert_eq!(affinity(json!([{ "matchExpressions": [zone("b")] }, { "matchFields": [name("n")] }])), ("++", vec![]));
    assert_eq!(affinity(json!([{ "matchExpressions": [zone("a")], "matchFields": [name("n")] }])), ("++", vec![]));
    assert_eq!(
        affinity(json!([{ "matchExpressions": [zone("a"), zone("b")] }, { "matchFields": [name("m")] }, {}])),
        against(
            ": term 0 wants label zone In [b], the node has zone=a; term 1 wants field metadata.name In [m], the node \
             has metadata.name=n; term 2 is empty and matches no node"
        )
    );
    assert_eq!(affinity(json!([])), against(""), "a required block without terms matches nothing");
    assert_eq!(
        answer(json!({ "affinity": { "nodeAffinity": {} } }), &[]),
        ("++", vec![]),
        "no required block demands nothing"
    );
}

#[test]
fn a_selector_that_cannot_be_understood_is_named_whatever_the_labels_are() {
    let good = json!({ "matchExpressions": [{ "key": "zone", "operator": "Exists" }] });
    let rows = [
        ("matchExpressions", json!(["zone", "in", ["a"]]), "operator"),
        ("matchExpressions", json!(["zone", "In", []]), "values"),
        ("matchExpressions", json!(["none", "NotIn", []]), "values"),
        ("matchExpressions", json!(["zone", "Exists", ["a"]]), "values"),
        ("matchExpressions", json!(["none", "Gt", ["many"]]), "values"),
        ("matchExpressions", json!(["cores", "Lt", ["1", "2"]]), "values"),
        ("matchFields", json!(["metadata.uid", "In", ["a"]]), "key"),
        ("matchFields", json!(["metadata.name", "In", ["a", "b"]]), "values"),
        ("matchFields", json!(["metadata.name", "Exists", []]), "operator"),
    ];
    for (list, row, field) in rows {
        let bad = json!({ list: [{ "key": row[0], "operator": row[1], "values": row[2] }] });
        let error = judge_spec(required(&json!([good, bad])), &[]).unwrap_err();
        assert_eq!(
            error.field,
            format!(
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].{list}[0].{field}"
            ),
            "{row}"
        );
    }
    let error = judge_spec(one_expression("cores", "Gt", &["many"]), &[]).unwrap_err();
    assert_eq!(error.problem, "\"many\" must be an integer with operator Gt");
}

#[test]
fn a_taint_nobody_tolerates_keeps_new_pods_off_and_only_no_execute_drives_running_ones_away() {
    let reason = |taint: &str| format!("the node has taint {taint}, which the pod does not tolerate");
    let rows: [(&[&str], &str, Vec<String>); 5] = [
        (&["a:NoSchedule"], "-+", vec![reason("a:NoSchedule")]),
        (&["a=b:NoExecute"], "--", vec![reason("a=b:NoExecute")]),
        (&["a:NoSchedule", "b:NoExecute"], "--", vec![reason("a:NoSchedule"), reason("b:NoExecute")]),
        (&["a:PreferNoSchedule"], "++", vec![]),
        (&["node.kubernetes.io/not-ready:NoSchedule"], "-+", vec![reason("node.kubernetes.io/not-ready:NoSchedule")]),
    ];
    for (taints, standing, reasons) in rows {
        assert_eq!(answer(json!({}), taints), (standing, reasons), "{taints:?}");
    }
}

#[test]
fn a_toleration_matches_by_effect_key_and_operator() {
    let rows = [
        (json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }), true),
        (json!({ "key": "k", "operator": "Exists" }), true),
        (json!({ "operator": "Exists" }), true),
        (json!({ "operator": "Exists", "effect": "NoSchedule" }), true),
        (json!({ "key": "k", "operator": "Equal", "value": "v", "tolerationSeconds": 1 }), true),
        (json!({ "key": "k", "value": "v" }), true),
        (json!({ "key": "k", "value": "w" }), false),
        (json!({ "key": "k" }), false),
        (json!({ "key": "l", "operator": "Exists" }), false),
        (json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" }), false),
        (json!({ "key": "k", "operator": "Gt", "value": "v" }), false),
    ];
    for (toleration, runs) in rows {
        let verdict = judge_spec(json!({ "tolerations": [toleration] }), &["k=v:NoSchedule"]).unwrap();
        assert_eq!(verdict.runs, runs, "{toleration}");
    }
}

#[test]
fn daemon_pods_do_not_mind_the_taints_of_conditions() {
    let conditions = [
        "node.kubernetes.io/not-ready:NoExecute",
        "node.kubernetes.io/unreachable:NoExecute",
        "node.kubernetes.io/disk-pressure:NoSchedule",
        "node.kubernetes.io/memory-pressure:NoSchedule",
        "node.kubernetes.io/pid-pressure:NoSchedule",
        "node.kubernetes.io/unschedulable:NoSchedule",
    ];
    assert_eq!(answer(json!({}), &conditions).0, "++");
    let network = ["node.kubernetes.io/network-unavailable:NoSchedule"];
    assert_eq!(answer(json!({}), &network).0, "-+");
    assert_eq!(answer(json!({ "hostNetwork": true }), &network).0, "++");
}

#[test]
fn the_pod_object_gets_the_daemon_tolerations_after_its_own() {
    let own = json!([
        { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 },
        { "key": "k", "value": "v" },
    ]);
    let spec = template(json!({ "tolerations": own, "hostNetwork": true })).spec.unwrap();
    let exists = |key: &str, effect: &str| json!({ "key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect });
    assert_eq!(
        serde_json::to_value(daemon_tolerations(&spec)).unwrap(),
        json!([
            exists("not-ready", "NoExecute"),
            { "key": "k", "value": "v" },
            exists("unreachable", "NoExecute"),
            exists("disk-pressure", "NoSchedule"),
            exists("memory-pressure", "NoSchedule"),
            exists("pid-pressure", "NoSchedule"),
            exists("unschedulable", "NoSchedule"),
            exists("network-unavailable", "NoSchedule"),
        ])
    );
}

#[test]
fn a_pod_stays_under_a_taint_for_as_long_as_it_tolerates_it() {
    let stays = |taints: &[&str], tolerations: Value| {
        let taints: Vec<_> = taints.iter().map(|taint| taint.parse().unwrap()).collect();
        let tolerations: Vec<_> = serde_json::from_value(tolerations).unwrap();
        stays_for(&taints, &tolerations).map(|limit| limit.as_secs())
    };
    let a =
        |seconds: Value| json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let b = json!({"key": "b", "operator": "Exists"});
    assert_eq!(stays(&[], json!([])), None);
    assert_eq!(stays(&["a:NoSchedule"], json!([])), None);
    assert_eq!(stays(&["a:NoExecute"], json!([])), Some(0));
    assert_eq!(stays(&["a:NoExecute"], json!([a(json!(null))])), None);
    assert_eq!(stays(&["a:NoExecute"], json!([a(json!(60))])), Some(60));
    assert_eq!(stays(&["a:NoExecute"], json!([a(json!(-1))])), Some(0));
    assert_eq!(stays(&["a:NoExecute"], json!([a(json!(60)), a(json!(30))])), Some(60), "the first that matches");
    assert_eq!(stays(&["a:NoExecute", "b:NoExecute"], json!([a(json!(60)), b])), Some(60));
    assert_eq!(stays(&["a:NoExecute", "c:NoExecute"], json!([a(json!(60))])), Some(0));
}
