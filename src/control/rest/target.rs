//! What a path names: a kind, perhaps a namespace, an object, a subresource. Pure.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`.

use http::Method;

use super::errors::ApiError;
use crate::control::kinds::{self, Kind, NAMESPACE, Subresource};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The kind of object.
    pub kind: &'static Kind,
    /// Only this namespace; none for all, and for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// One object; none for the collection.
    pub name: Option<String>,
    /// A part of the object.
    pub subresource: Option<&'static Subresource>,
}

impl Target {
    /// What a path names, or nothing if it is not below a group of the API.
    ///
    /// # Errors
    /// [`ApiError::NoResource`] for a path below a group that names nothing there.
    pub fn parse(path: &str) -> Result<Option<Self>, ApiError> {
        let mut segments = path.split('/').skip(1).filter(|segment| !segment.is_empty());
        let (group, version) = match segments.next() {
            Some("api") => ("", segments.next()),
            Some("apis") => match segments.next() {
                Some(group) => (group, segments.next()),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        let Some(version) = version else { return Ok(None) };
        let rest: Vec<&str> = segments.collect();
        Self::below(group, version, &rest).map(Some).ok_or(ApiError::NoResource)
    }

    fn below(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        // `/namespaces/{name}/status` is a part of a Namespace, `/namespaces/{name}/pods` a collection in it.
        let (namespace, rest) = match rest {
            ["namespaces", _, part, ..] if group.is_empty() && NAMESPACE.subresource(part).is_some() => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            _ => (None, rest),
        };
        let (plural, name, part) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, part] => (*plural, Some(*name), Some(*part)),
            _ => return None,
        };
        let kind = kinds::by_path(group, version, plural)?;
        if namespace.is_some() && !kind.namespaced || kind.namespaced && name.is_some() && namespace.is_none() {
            return None;
        }
        let subresource = match part {
            Some(part) => Some(kind.subresource(part)?),
            None => None,
        };
        Some(Self { kind, namespace, name: name.map(str::to_owned), subresource })
    }

    /// The verb of the API that a method stands for here; empty if it stands for none. A watch is a list.
    pub fn verb(&self, method: &Method) -> &'static str {
        match (method, self.name.is_some()) {
            (&Method::GET, true) => "get",
            (&Method::GET, false) => "list",
            (&Method::POST, false) => "create",
            (&Method::POST, true) if self.subresource.is_some() => "create",
            (&Method::PUT, true) => "update",
            (&Method::PATCH, true) => "patch",
            (&Method::DELETE, true) => "delete",
            (&Method::DELETE, false) => "deletecollection",
            _ => "",
        }
    }

    /// The namespace for the store: empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kinds::{DAEMON_SET, POD};

    #[test]
    fn paths_name_kinds_objects_and_parts() {
        let target = |kind, namespace: Option<&str>, name: Option<&str>, part: Option<&str>| Target {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: part.map(|part| kind.subresource(part).unwrap()),
        };
        let cases = [
            ("/api/v1/pods", target(&POD, None, None, None)),
            ("/api/v1/namespaces/n/pods", target(&POD, Some("n"), None, None)),
            ("/api/v1/namespaces/n/pods/p/log", target(&POD, Some("n"), Some("p"), Some("log"))),
            ("/api/v1/namespaces", target(&NAMESPACE, None, None, None)),
            ("/api/v1/namespaces/n", target(&NAMESPACE, None, Some("n"), None)),
            ("/api/v1/namespaces/n/status", target(&NAMESPACE, None, Some("n"), Some("status"))),
            ("/apis/apps/v1/namespaces/n/daemonsets/d", target(&DAEMON_SET, Some("n"), Some("d"), None)),
        ];
        for (path, expected) in cases {
            assert_eq!(Target::parse(path).unwrap(), Some(expected), "{path}");
        }
        for path in ["/", "/healthz", "/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1"] {
            assert!(matches!(Target::parse(path), Ok(None) | Err(ApiError::NoResource)), "{path}");
        }
        for path in [
            "/api/v1/widgets",
            "/api/v1/pods/p",
            "/api/v1/namespaces/n/nodes/x",
            "/api/v1/namespaces/n/pods/p/resize",
            "/apis/apps/v1/namespaces/n/daemonsets/d/scale",
            "/apis/batch/v1/jobs",
        ] {
            assert!(matches!(Target::parse(path), Err(ApiError::NoResource)), "{path}");
        }
    }
}
