//! What a request is about, as rules tell requests apart. Pure.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go` and
//! `pkg/endpoints/filters/authorization.go`.

use http::Method;

use crate::api::selector::FieldSelector;
use crate::control::kinds::NAMESPACE;
use crate::control::rbac::{About, Attributes, Resource};
use crate::control::rest::query::Query;
use crate::control::rest::target::Target;

/// The subresources that open a stream: that is an act, by whatever method it begins.
const STREAMS: [&str; 3] = ["attach", "exec", "portforward"];

/// The attributes of a request. `target` is what its path names, if that is objects.
pub fn of(method: &Method, path: &str, query: &Query, target: Option<&Target>) -> Attributes {
    match target {
        Some(target) => Attributes::on(verb(method, query, target), resource(query, target)),
        None => Attributes { verb: method.as_str().to_ascii_lowercase(), about: About::Path(path.to_owned()) },
    }
}

fn verb(method: &Method, query: &Query, target: &Target) -> &'static str {
    match target.verb(method) {
        "list" if query.flag("watch") => "watch",
        _ if target.subresource.is_some_and(|part| STREAMS.contains(&part.name)) => "create",
        // A method that objects do not take; whoever may not even that is told so first.
        "" => "create",
        verb => verb,
    }
}

fn resource(query: &Query, target: &Target) -> Resource {
    let name = target.name.clone().or_else(|| selected(query)).unwrap_or_default();
    // A namespace is in itself, so that who may see what is in it may see it.
    let itself = (*target.kind == NAMESPACE).then(|| name.clone());
    Resource {
        group: target.kind.group.to_owned(),
        resource: target.kind.plural.to_owned(),
        subresource: target.subresource.map_or("", |part| part.name).to_owned(),
        namespace: target.namespace.clone().or(itself).unwrap_or_default(),
        name,
    }
}

/// The only object that a list or watch is about, by its field selector.
fn selected(query: &Query) -> Option<String> {
    let selector = FieldSelector::parse(query.get("fieldSelector")?).ok()?;
    let by_name = selector.0.into_iter().find(|term| term.key == "metadata.name" && term.equal)?;
    Some(by_name.value).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_about_a_verb_on_objects_or_a_path() {
        let ask = |method: &str, address: &str| {
            let uri: http::Uri = address.parse().unwrap();
            let target = Target::parse(uri.path()).unwrap();
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let Attributes { verb, about } = of(&method, uri.path(), &Query::parse(&uri).unwrap(), target.as_ref());
            match about {
                About::Path(path) => format!("{verb} {path}"),
                About::Resource(Resource { group, resource, subresource, namespace, name }) => {
                    format!("{verb} {group}:{resource}/{subresource} {namespace}/{name}")
                }
            }
        };
        let cases = [
            ("GET", "/api/v1/namespaces/n/pods/p/log", "get :pods/log n/p"),
            ("GET", "/apis/apps/v1/daemonsets", "list apps:daemonsets/ /"),
            ("GET", "/api/v1/pods?watch=1", "watch :pods/ /"),
            ("GET", "/api/v1/pods?watch=1&fieldSelector=metadata.name%3Dp", "watch :pods/ /p"),
            ("GET", "/api/v1/namespaces/n", "get :namespaces/ n/n"),
            ("PUT", "/api/v1/nodes/a/status", "update :nodes/status /a"),
            ("DELETE", "/api/v1/namespaces/n/secrets", "deletecollection :secrets/ n/"),
            ("POST", "/api/v1/namespaces", "create :namespaces/ /"),
            ("GET", "/openapi/v3", "get /openapi/v3"),
        ];
        for (method, address, expected) in cases {
            assert_eq!(ask(method, address), expected, "{method} {address}");
        }
    }
}
