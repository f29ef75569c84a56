//! Who asks, and what they may.
//!
//! People and tools are known by their client certificate: the common name is the user, the organizations are the
//! groups. Members of `system:masters` may do everything; there are no finer rules yet. Nodes speak gRPC, not REST: a
//! node's certificate may do nothing here. Without a certificate only the health and version paths answer.

use http::{HeaderMap, Method};

use super::errors::ApiError;
use super::target::Target;
use crate::link::listen::Connection;
use crate::link::tls::Identity;

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// Paths open to everybody.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Who sent a request: the subject of a certificate that the fleet's authority signed and that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The common name.
    pub name: String,
    /// The organizations.
    pub groups: Vec<String>,
}

impl User {
    /// Whoever is at the other end of a connection; nobody without a certificate that holds.
    pub fn of(connection: &Connection) -> Option<Self> {
        let Identity { name, groups, .. } = connection.identity()?;
        Some(Self { name: name.clone(), groups: groups.clone() })
    }

    fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// Lets a request pass, or says why not. `target` is what it names, if it names objects.
///
/// # Errors
/// [`ApiError::Unauthorized`] and [`ApiError::Forbidden`].
pub fn authorize(
    user: Option<&User>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    target: Option<&Target>,
) -> Result<(), ApiError> {
    let open = OPEN_PATHS.iter().any(|open| path == *open || path.starts_with(&format!("{open}/")));
    if open {
        return Ok(());
    }
    let user = user.ok_or(ApiError::Unauthorized)?;
    if let Some(header) = headers.keys().find(|header| header.as_str().starts_with("impersonate-")) {
        return Err(ApiError::Forbidden(format!("acting as somebody else ({header}) is not supported")));
    }
    if user.is_master() {
        return Ok(());
    }
    Err(ApiError::Forbidden(match target {
        Some(target) => refusal(&user.name, target, method),
        None => {
            let verb = method.as_str().to_ascii_lowercase();
            format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name)
        }
    }))
}

/// Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go`, `forbiddenMessage`.
fn refusal(user: &str, target: &Target, method: &Method) -> String {
    let verb = target.verb(method);
    let kind = target.kind;
    let resource = kind.resource();
    let subject = match &target.name {
        Some(name) => format!("{resource} {name:?}"),
        None => resource,
    };
    let part = target.subresource.map(|part| format!("/{}", part.name)).unwrap_or_default();
    let place = match &target.namespace {
        Some(namespace) => format!(" in the namespace {namespace:?}"),
        None => " at the cluster scope".to_owned(),
    };
    let (group, plural) = (kind.group, kind.plural);
    format!(
        "{subject} is forbidden: User {user:?} cannot {verb} resource \"{plural}{part}\" in API group {group:?}{place}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, group: &str) -> User {
        User { name: name.to_owned(), groups: vec![group.to_owned()] }
    }

    fn ask(user: Option<&User>, path: &str, headers: &[(&'static str, &str)]) -> Result<(), String> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let target = Target::parse(path).unwrap();
        authorize(user, &Method::GET, path, &headers, target.as_ref()).map_err(|error| error.to_string())
    }

    #[test]
    fn only_masters_pass_and_anybody_may_ask_for_health() {
        let (master, node) = (user("admin", MASTERS), user("system:node:a", "system:nodes"));
        let secrets = "/api/v1/namespaces/default/secrets";
        assert_eq!(ask(None, "/livez/ping", &[]), Ok(()));
        assert_eq!(ask(None, "/version", &[]), Ok(()));
        assert_eq!(ask(None, "/versions", &[]), Err("Unauthorized".to_owned()));
        assert_eq!(ask(Some(&master), secrets, &[]), Ok(()));
        assert_eq!(
            ask(Some(&node), secrets, &[]),
            Err("secrets is forbidden: User \"system:node:a\" cannot list resource \"secrets\" in API group \"\" in the \
                 namespace \"default\""
                .to_owned())
        );
        assert_eq!(
            ask(Some(&node), "/apis", &[]),
            Err("forbidden: User \"system:node:a\" cannot get path \"/apis\"".to_owned())
        );
        assert!(ask(Some(&master), secrets, &[("impersonate-user", "bob")]).is_err());
    }
}
