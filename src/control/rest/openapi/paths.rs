//! The paths of a kind, and what may be done there.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::control::kinds::{ATTACH, EXEC, Kind, LOG, PORT_FORWARD};
use crate::control::rest::patch::MEDIA_TYPES;

/// What can be done at a path.
struct Operation {
    /// The verb that grants it.
    verb: &'static str,
    method: &'static str,
    /// The operation's name in `x-kubernetes-action`.
    action: &'static str,
    query: &'static [Parameter],
    takes: Body,
    answers: Body,
}

/// A query parameter: name, type, meaning.
type Parameter = (&'static str, &'static str, &'static str);

/// What a request or an answer carries.
enum Body {
    Nothing,
    Object,
    List,
    Patch,
    Status,
    Text,
}

const AT_COLLECTION: &[Operation] = &[
    LIST,
    CREATE,
    Operation {
        verb: "deletecollection",
        method: "delete",
        action: "deletecollection",
        query: &[LABEL_SELECTOR, FIELD_SELECTOR, DRY_RUN, GRACE_PERIOD, PROPAGATION],
        takes: Body::Nothing,
        answers: Body::List,
    },
];

const AT_OBJECT: &[Operation] = &[
    GET,
    UPDATE,
    PATCH,
    Operation {
        verb: "delete",
        method: "delete",
        action: "delete",
        query: &[DRY_RUN, GRACE_PERIOD, PROPAGATION],
        takes: Body::Nothing,
        answers: Body::Status,
    },
];

const AT_SUBRESOURCE: &[Operation] = &[GET, UPDATE, PATCH, CREATE];

const AT_LOG: &[Operation] = &[Operation { action: "connect", query: LOG_QUERY, answers: Body::Text, ..GET }];

const AT_EXEC: &[Operation] = &connects(EXEC_QUERY);

const AT_ATTACH: &[Operation] = &connects(ATTACH_QUERY);

const AT_PORT_FORWARD: &[Operation] = &connects(PORT_FORWARD_QUERY);

/// WebSocket begins with a GET, SPDY with a POST.
const fn connects(query: &'static [Parameter]) -> [Operation; 2] {
    const CONNECT: Operation = Operation { action: "connect", answers: Body::Text, ..GET };
    [Operation { query, ..CONNECT }, Operation { verb: "create", method: "post", query, ..CONNECT }]
}

const LIST: Operation = Operation {
    verb: "list",
    method: "get",
    action: "list",
    query: LIST_QUERY,
    takes: Body::Nothing,
    answers: Body::List,
};

const CREATE: Operation = Operation {
    verb: "create",
    method: "post",
    action: "post",
    query: WRITE_QUERY,
    takes: Body::Object,
    answers: Body::Object,
};

const GET: Operation =
    Operation { verb: "get", method: "get", action: "get", query: &[], takes: Body::Nothing, answers: Body::Object };

const UPDATE: Operation = Operation {
    verb: "update",
    method: "put",
    action: "put",
    query: WRITE_QUERY,
    takes: Body::Object,
    answers: Body::Object,
};

const PATCH: Operation = Operation {
    verb: "patch",
    method: "patch",
    action: "patch",
    query: WRITE_QUERY,
    takes: Body::Patch,
    answers: Body::Object,
};

const LABEL_SELECTOR: Parameter = ("labelSelector", "string", "Only objects whose labels it selects.");
const FIELD_SELECTOR: Parameter = ("fieldSelector", "string", "Only objects whose fields it selects.");
const DRY_RUN: Parameter = ("dryRun", "string", "All: do everything but store the result.");
const GRACE_PERIOD: Parameter = ("gracePeriodSeconds", "integer", "Seconds a pod is given to end.");
const PROPAGATION: Parameter =
    ("propagationPolicy", "string", "What becomes of dependents: Background, Foreground or Orphan.");

const WRITE_QUERY: &[Parameter] = &[
    DRY_RUN,
    ("fieldManager", "string", "Who writes."),
    // By this parameter kubectl knows that the server validates, and does not do so itself.
    ("fieldValidation", "string", "What unknown and repeated fields lead to: Ignore, Warn or Strict."),
];

const LIST_QUERY: &[Parameter] = &[
    LABEL_SELECTOR,
    FIELD_SELECTOR,
    ("limit", "integer", "Objects to answer with at most."),
    ("continue", "string", "Where the page before ended."),
    ("resourceVersion", "string", "The point in the history to answer from."),
    ("resourceVersionMatch", "string", "NotOlderThan or Exact."),
    ("watch", "boolean", "Answer with changes, as they happen."),
    ("allowWatchBookmarks", "boolean", "Among the changes, tell from time to time how far they reach."),
    ("sendInitialEvents", "boolean", "Before the changes, tell what there is."),
    ("timeoutSeconds", "integer", "Seconds after which a watch ends."),
];

const LOG_QUERY: &[Parameter] = &[
    CONTAINER,
    ("follow", "boolean", "Go on as lines are written."),
    ("previous", "boolean", "The container as it was before its last restart."),
    ("tailLines", "integer", "Lines from the end."),
    ("sinceSeconds", "integer", "Lines of the last seconds."),
    ("sinceTime", "string", "Lines from this time on, RFC 3339."),
    ("timestamps", "boolean", "Each line with its time."),
    ("limitBytes", "integer", "Bytes to answer with at most."),
];

const CONTAINER: Parameter = ("container", "string", "The container, where the pod has several.");
const STDIN: Parameter = ("stdin", "boolean", "Hold its standard input.");
const STDOUT: Parameter = ("stdout", "boolean", "Hold its standard output.");
const STDERR: Parameter = ("stderr", "boolean", "Hold its standard error.");
const TTY: Parameter = ("tty", "boolean", "All of them are a terminal.");

const EXEC_QUERY: &[Parameter] =
    &[("command", "string", "The program, and once more for each argument."), CONTAINER, STDIN, STDOUT, STDERR, TTY];

const ATTACH_QUERY: &[Parameter] = &[CONTAINER, STDIN, STDOUT, STDERR, TTY];

const PORT_FORWARD_QUERY: &[Parameter] = &[("ports", "integer", "The ports, for WebSocket without SPDY.")];

/// Where the group and version of a kind begin: `/api/v1`, `/apis/apps/v1`.
pub(super) fn root(kind: &Kind) -> String {
    if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}", kind.api_version()) }
}

/// The path items of a kind, by path. `names` are the names of the schemas of kinds, by kind.
pub(super) fn of_kind(kind: &Kind, names: &BTreeMap<String, String>) -> Vec<(String, Value)> {
    let everywhere = format!("{}/{}", root(kind), kind.plural);
    let collection = if kind.namespaced {
        format!("{}/namespaces/{{namespace}}/{}", root(kind), kind.plural)
    } else {
        everywhere.clone()
    };
    let object = format!("{collection}/{{name}}");
    let mut places = vec![(collection, kind, kind.verbs, AT_COLLECTION), (object.clone(), kind, kind.verbs, AT_OBJECT)];
    if kind.namespaced {
        places.push((everywhere, kind, kind.verbs, &[LIST]));
    }
    for subresource in kind.subresources {
        let operations = match subresource.name {
            LOG => AT_LOG,
            EXEC => AT_EXEC,
            ATTACH => AT_ATTACH,
            PORT_FORWARD => AT_PORT_FORWARD,
            _ => AT_SUBRESOURCE,
        };
        let takes = subresource.takes.unwrap_or(kind);
        places.push((format!("{object}/{}", subresource.name), takes, subresource.verbs, operations));
    }
    places
        .into_iter()
        .map(|(path, kind, verbs, operations)| {
            let granted = operations.iter().filter(|operation| verbs.contains(&operation.verb));
            let mut item: Map<String, Value> =
                granted.map(|operation| (operation.method.to_owned(), describe(operation, kind, names))).collect();
            item.insert("parameters".to_owned(), path_parameters(&path));
            (path, Value::Object(item))
        })
        .collect()
}

fn describe(operation: &Operation, kind: &Kind, names: &BTreeMap<String, String>) -> Value {
    let query: Value = operation.query.iter().map(|parameter| describe_parameter("query", parameter)).collect();
    let code = if operation.verb == "create" { "201" } else { "200" };
    let mut described = json!({
        "parameters": query,
        "responses": {code: {"description": "OK", "content": content(&operation.answers, kind, names)}},
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
    });
    if !matches!(operation.takes, Body::Nothing) {
        described["requestBody"] = json!({"required": true, "content": content(&operation.takes, kind, names)});
    }
    described
}

/// The media types of a body, each with its schema.
fn content(body: &Body, kind: &Kind, names: &BTreeMap<String, String>) -> Value {
    let of_kind = |kind: &str| {
        let schema = names.get(kind).map_or(json!({}), |name| json!({"$ref": format!("#/components/schemas/{name}")}));
        json!({"application/json": {"schema": schema}})
    };
    match body {
        Body::Nothing => json!({}),
        Body::Object => of_kind(kind.kind),
        Body::List => of_kind(&kind.list_kind()),
        Body::Status => of_kind("Status"),
        Body::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        Body::Patch => MEDIA_TYPES.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": {}}))).collect(),
    }
}

/// The parameters a path has in braces.
fn path_parameters(path: &str) -> Value {
    [("namespace", "string", "The namespace."), ("name", "string", "The name of the object.")]
        .iter()
        .filter(|(name, ..)| path.contains(&format!("{{{name}}}")))
        .map(|parameter| describe_parameter("path", parameter))
        .collect()
}

fn describe_parameter(place: &str, (name, parameter_type, description): &Parameter) -> Value {
    json!({
        "name": name,
        "in": place,
        "description": description,
        "required": place == "path",
        "schema": {"type": parameter_type},
    })
}
