//! Acting as somebody else (`kubectl --as`). Pure.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/filters/impersonation`.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::super::errors::ApiError;
use crate::control::rbac::{
    ANONYMOUS, AUTHENTICATED, Attributes, Resource, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, User,
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
/// What is known of users beside their name.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom somebody asks to act as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impersonation {
    /// Them.
    pub user: User,
    /// What whoever asks must be allowed to do.
    pub needs: Vec<Attributes>,
}

/// Whom the headers of a request ask to act as, if anybody.
///
/// # Errors
/// [`ApiError::BadRequest`] for groups and the like without a user.
pub fn asked(headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    let all = |name: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    let (names, groups, uids) = (all(USER), all(GROUP), all(UID));
    let extra = extra(headers);
    let Some(name) = names.into_iter().next().filter(|name| !name.is_empty()) else {
        if groups.is_empty() && uids.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::BadRequest("groups, uid and extra cannot be impersonated without a user".to_owned()));
    };
    let uid = uids.into_iter().next().unwrap_or_default();
    let needs = needs(&name, &groups, &uid, &extra);
    let groups = with_implied(&name, groups);
    Ok(Some(Impersonation { user: User { name, uid, groups, extra }, needs }))
}

fn needs(name: &str, groups: &[String], uid: &str, extra: &BTreeMap<String, Vec<String>>) -> Vec<Attributes> {
    let plain = |resource: &str, name: &str| Resource {
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Resource::default()
    };
    let known = |resource: &str, name: &str| Resource { group: AUTHENTICATION.to_owned(), ..plain(resource, name) };
    let mut resources = vec![match service_account(name) {
        Some((namespace, account)) => Resource { namespace: namespace.to_owned(), ..plain("serviceaccounts", account) },
        None => plain("users", name),
    }];
    resources.extend(groups.iter().map(|group| plain("groups", group)));
    if !uid.is_empty() {
        resources.push(known("uids", uid));
    }
    for (key, values) in extra {
        resources
            .extend(values.iter().map(|value| Resource { subresource: key.clone(), ..known("userextras", value) }));
    }
    resources.into_iter().map(|resource| Attributes::on("impersonate", resource)).collect()
}

/// The groups asked for, or those that follow from the name; and that of all who are known, unless nobody is meant.
fn with_implied(name: &str, mut groups: Vec<String>) -> Vec<String> {
    if name == ANONYMOUS {
        if !groups.iter().any(|group| group == UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
        return groups;
    }
    if let (true, Some((namespace, account))) = (groups.is_empty(), service_account(name)) {
        groups = User::service_account(namespace, account, "").groups;
    }
    let says = |group: &str| groups.iter().any(|own| own == group);
    if !says(AUTHENTICATED) && !says(UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    groups
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')
}

fn extra(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(unescaped(key)).or_default().push(value.to_owned());
        }
    }
    extra
}

/// Keys that cannot stand in the name of a header are percent-encoded there.
fn unescaped(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some(position) = rest.find('%') {
        bytes.extend_from_slice(&rest.as_bytes()[..position]);
        let code = rest.get(position + 1..position + 3).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[position + 3..];
            }
            None => {
                bytes.push(b'%');
                rest = &rest[position + 1..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rbac::About;

    fn ask(headers: &[(&'static str, &str)]) -> Result<Option<Impersonation>, String> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        asked(&headers).map_err(|error| error.to_string())
    }

    #[test]
    fn each_thing_to_act_as_has_to_be_allowed() {
        let asked = ask(&[
            ("impersonate-user", "bob"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-acme.com%2fproject", "x"),
        ]);
        let Impersonation { user, needs } = asked.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("bob", "7"));
        assert_eq!(user.groups, ["dev", "ops", AUTHENTICATED]);
        assert_eq!(user.extra, BTreeMap::from([("acme.com/project".to_owned(), vec!["x".to_owned()])]));
        let needed: Vec<String> = needs
            .iter()
            .map(|need| match &need.about {
                About::Resource(resource) => {
                    format!("{} {}/{} {}", need.verb, resource.resource, resource.subresource, resource.name)
                }
                About::Path(path) => path.clone(),
            })
            .collect();
        assert_eq!(
            needed,
            [
                "impersonate users/ bob",
                "impersonate groups/ dev",
                "impersonate groups/ ops",
                "impersonate uids/ 7",
                "impersonate userextras/acme.com/project x",
            ]
        );
    }

    #[test]
    fn groups_follow_from_the_name() {
        let groups = |name: &str| ask(&[("impersonate-user", name)]).unwrap().unwrap().user.groups;
        assert_eq!(groups("bob"), [AUTHENTICATED]);
        assert_eq!(groups(ANONYMOUS), [UNAUTHENTICATED]);
        assert_eq!(
            groups("system:serviceaccount:n:bot"),
            ["system:serviceaccounts", "system:serviceaccounts:n", AUTHENTICATED]
        );
        assert_eq!(ask(&[]), Ok(None));
        assert!(ask(&[("impersonate-group", "dev")]).is_err());
    }
}
