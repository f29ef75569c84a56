//! Who asks, and whether they may.
//!
//! | credentials | user |
//! |---|---|
//! | client certificate of the fleet's authority | the common name; the organizations are the groups |
//! | bearer token of a user (see [`user_tokens`]) | as the token was made for |
//! | bearer token of a ServiceAccount (see [`bearer`](crate::control::bearer)) | the account, for as long as that holds |
//! | none | `system:anonymous`, who may ask for health and version and nothing else |
//!
//! Whoever is known belongs to `system:authenticated`. What a user may do is [`rbac`](crate::control::rbac)'s to say.
//! Nodes speak gRPC, not REST: a node's certificate may do nothing here, whatever is bound to it. [`impersonation`] lets
//! a user act as another who may `impersonate` them.

pub mod attributes;
pub mod impersonation;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;

use super::Api;
use super::errors::ApiError;
use crate::control::bearer::{Verified, VerifyError};
use crate::control::rbac::{ANONYMOUS, AUTHENTICATED, About, Attributes, Policy, User};
use crate::control::user_tokens;
use crate::link::listen::Connection;
use crate::link::tls::{Identity, NODES};

/// Who sent a request.
///
/// # Errors
/// [`ApiError::Unauthorized`] for a token that is none, or is not good any more.
pub async fn authenticate(api: &Api, connection: Option<&Connection>, headers: &HeaderMap) -> Result<User, ApiError> {
    if let Some(identity) = connection.and_then(Connection::identity) {
        return Ok(of_certificate(identity));
    }
    match bearer(headers) {
        Some(token) => Ok(of_token(api, token, &[]).await?.ok_or(ApiError::Unauthorized)?.0),
        None => Ok(User::anonymous()),
    }
}

/// Whose token this is, and which of `audiences` it is good for (none asks for the API itself); nobody's if it is not good.
/// Users' tokens are for no audience in particular.
///
/// # Errors
/// [`ApiError::Object`] if the store cannot be asked.
pub async fn of_token(api: &Api, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>, ApiError> {
    let Some((id, secret)) = user_tokens::parse(token) else { return of_account(api, token, audiences).await };
    let record = api.objects.user_token(id).await?;
    Ok(record.and_then(|record| record.admit(secret, Timestamp::now())).map(|user| (known(user), Vec::new())))
}

async fn of_account(api: &Api, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>, ApiError> {
    match api.bearer.verify(token, audiences, Timestamp::now()).await {
        Ok(Verified { user, uid, groups, extra, audiences }) => {
            Ok(Some((known(User { name: user, uid, groups, extra }), audiences)))
        }
        Err(VerifyError::Token(why)) => {
            tracing::debug!(error = %why, "a token is not accepted");
            Ok(None)
        }
        Err(VerifyError::Object(error)) => Err(error.into()),
    }
}

fn of_certificate(identity: &Identity) -> User {
    let Identity { name, groups, .. } = identity;
    known(User { name: name.clone(), groups: groups.clone(), ..User::default() })
}

/// Adds the group of all who are known.
fn known(mut user: User) -> User {
    if !user.is_in(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// Lets a request pass, or says why not.
///
/// # Errors
/// [`ApiError::Forbidden`]; [`ApiError::Unauthorized`] for whoever is not known.
pub fn authorize(policy: &Policy, user: &User, attributes: &Attributes) -> Result<(), ApiError> {
    if !user.is_in(NODES) && policy.allow(user, attributes).is_some() {
        return Ok(());
    }
    if user.name == ANONYMOUS {
        return Err(ApiError::Unauthorized);
    }
    Err(refusal(user, attributes))
}

/// Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go`, `forbiddenMessage`;
/// `k8s.io/apimachinery/pkg/api/errors/errors.go`, `NewForbidden`.
fn refusal(user: &User, Attributes { verb, about }: &Attributes) -> ApiError {
    let user = &user.name;
    let resource = match about {
        About::Path(path) => {
            return ApiError::Forbidden {
                message: format!("forbidden: User {user:?} cannot {verb} path {path:?}"),
                about: None,
            };
        }
        About::Resource(resource) => resource,
    };
    let qualified = match resource.group.as_str() {
        "" => resource.resource.clone(),
        group => format!("{}.{group}", resource.resource),
    };
    let subject = if resource.name.is_empty() { qualified } else { format!("{qualified} {:?}", resource.name) };
    let part = if resource.subresource.is_empty() { String::new() } else { format!("/{}", resource.subresource) };
    let place = match resource.namespace.as_str() {
        "" => " at the cluster scope".to_owned(),
        namespace => format!(" in the namespace {namespace:?}"),
    };
    let message = format!(
        "{subject} is forbidden: User {user:?} cannot {verb} resource \"{}{part}\" in API group {:?}{place}",
        resource.resource, resource.group
    );
    ApiError::Forbidden { message, about: Some(Box::new(resource.clone())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rbac::{MASTERS, Resource};

    fn user(name: &str, group: &str) -> User {
        User { name: name.to_owned(), groups: vec![group.to_owned()], ..User::default() }
    }

    #[test]
    fn what_nobody_allowed_is_refused_in_kubernetes_words() {
        let policy = Policy::default();
        let secrets = Resource { resource: "secrets".into(), namespace: "default".into(), ..Resource::default() };
        let log = Resource {
            group: "x.io".into(),
            resource: "pods".into(),
            subresource: "log".into(),
            name: "a".into(),
            ..Resource::default()
        };
        let path = Attributes { verb: "get".into(), about: About::Path("/apis".into()) };
        let ask = |user: &User, attributes: &Attributes| {
            authorize(&policy, user, attributes).map_err(|error| error.to_string())
        };
        let list = Attributes::on("list", secrets);
        assert_eq!(ask(&user("admin", MASTERS), &list), Ok(()));
        assert_eq!(ask(&User::anonymous(), &list), Err("Unauthorized".to_owned()));
        assert_eq!(
            ask(&user("bob", ""), &list),
            Err("secrets is forbidden: User \"bob\" cannot list resource \"secrets\" in API group \"\" in the namespace \
                 \"default\""
                .to_owned())
        );
        assert_eq!(
            ask(&user("bob", ""), &Attributes::on("get", log)),
            Err("pods.x.io \"a\" is forbidden: User \"bob\" cannot get resource \"pods/log\" in API group \"x.io\" at the \
                 cluster scope"
                .to_owned())
        );
        assert_eq!(ask(&user("bob", ""), &path), Err("forbidden: User \"bob\" cannot get path \"/apis\"".to_owned()));
        let mut node = user("system:node:a", NODES);
        node.groups.push(MASTERS.to_owned());
        assert!(ask(&node, &list).is_err(), "whatever is bound to it");
    }

    #[test]
    fn a_bearer_token_is_read_in_any_case_of_the_scheme() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!((of("Bearer abc"), of("bearer  abc ")), (Some("abc".into()), Some("abc".into())));
        assert_eq!((of("Basic abc"), of("Bearer"), of("Bearer ")), (None, None, None));
    }
}
