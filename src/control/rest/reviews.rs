//! Kinds that are questions: whether somebody may do something, who one is. They are answered and not kept.
//!
//! Source: kubernetes v1.36, `pkg/registry/authorization` and `pkg/registry/authentication`.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Api;
use super::auth::of_token;
use super::errors::ApiError;
use super::resources::{Request, answer};
use crate::api::field::{FieldError, Path};
use crate::control::kinds::Kind;
use crate::control::meta;
use crate::control::objects::ObjectError;
use crate::control::rbac::{About, Attributes, Policy, Resource, User};

/// Answers a review: the object that was sent, with its status.
pub async fn serve(api: &Api, request: &Request, mut object: Value, warnings: &[String]) -> Result<Response, ApiError> {
    let kind = request.target.kind;
    let (user, policy) = (request.user(), api.policy());
    let status = match kind.kind {
        "SelfSubjectReview" => {
            meta::metadata_mut(&mut object).insert("creationTimestamp".into(), meta::time(Timestamp::now()).into());
            json!({"userInfo": user_info(user)})
        }
        "TokenReview" => json!(review_token(api, &object).await?),
        "SelfSubjectRulesReview" => {
            json!(rules(&policy, user, object["spec"]["namespace"].as_str().unwrap_or_default()))
        }
        "SelfSubjectAccessReview" => json!(decide(&policy, user, &attributes(kind, &object)?)),
        _ => {
            let attributes = attributes(kind, &object)?;
            if let Some(namespace) = &request.target.namespace {
                check_namespace(kind, namespace, &attributes)?;
            }
            json!(decide(&policy, &subject(kind, &object)?, &attributes))
        }
    };
    object["status"] = status;
    Ok(answer(StatusCode::CREATED, &object, warnings))
}

fn decide(policy: &Policy, user: &User, attributes: &Attributes) -> SubjectAccessReviewStatus {
    let reason = policy.allow(user, attributes);
    SubjectAccessReviewStatus {
        allowed: reason.is_some(),
        denied: None,
        evaluation_error: None,
        reason: reason.filter(|reason| !reason.is_empty()),
    }
}

/// What a review asks about.
fn attributes(kind: &'static Kind, object: &Value) -> Result<Attributes, ApiError> {
    let spec = &object["spec"];
    let (resource, path): (Option<ResourceAttributes>, Option<NonResourceAttributes>) =
        (part(&spec["resourceAttributes"]), part(&spec["nonResourceAttributes"]));
    match (resource, path) {
        (Some(asked), None) => {
            let text = |text: Option<String>| text.unwrap_or_default();
            let resource = Resource {
                group: text(asked.group),
                resource: text(asked.resource),
                subresource: text(asked.subresource),
                namespace: text(asked.namespace),
                name: text(asked.name),
            };
            Ok(Attributes::on(&text(asked.verb), resource))
        }
        (None, Some(NonResourceAttributes { path, verb })) => {
            Ok(Attributes { verb: verb.unwrap_or_default(), about: About::Path(path.unwrap_or_default()) })
        }
        _ => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            Err(invalid(kind, FieldError::invalid(&Path::new("spec.resourceAttributes"), Value::Null, detail)))
        }
    }
}

/// Whom a review asks about.
fn subject(kind: &'static Kind, object: &Value) -> Result<User, ApiError> {
    let spec: SubjectAccessReviewSpec = part(&object["spec"]).unwrap_or_default();
    let user = User {
        name: spec.user.unwrap_or_default(),
        uid: spec.uid.unwrap_or_default(),
        groups: spec.groups.unwrap_or_default(),
        extra: spec.extra.unwrap_or_default(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        let detail = "at least one of user or group must be specified";
        return Err(invalid(kind, FieldError::invalid(&Path::new("spec.user"), "", detail)));
    }
    Ok(user)
}

fn check_namespace(kind: &'static Kind, namespace: &str, attributes: &Attributes) -> Result<(), ApiError> {
    let asked = attributes.namespace();
    if asked == namespace {
        return Ok(());
    }
    let field = Path::new("spec.resourceAttributes.namespace");
    let detail = format!("must match metadata.namespace: {namespace}");
    Err(invalid(kind, FieldError::invalid(&field, asked, detail)))
}

fn rules(policy: &Policy, user: &User, namespace: &str) -> SubjectRulesReviewStatus {
    let all = || vec!["*".to_owned()];
    let mut status = SubjectRulesReviewStatus::default();
    if user.is_master() {
        status.resource_rules.push(ResourceRule {
            api_groups: Some(all()),
            resources: Some(all()),
            verbs: all(),
            ..ResourceRule::default()
        });
        status.non_resource_rules.push(NonResourceRule { non_resource_urls: Some(all()), verbs: all() });
    }
    for PolicyRule { api_groups, non_resource_urls, resource_names, resources, verbs } in
        policy.rules_for(user, namespace)
    {
        if non_resource_urls.is_some() {
            status.non_resource_rules.push(NonResourceRule { non_resource_urls, verbs });
        } else {
            status.resource_rules.push(ResourceRule { api_groups, resource_names, resources, verbs });
        }
    }
    status
}

async fn review_token(api: &Api, object: &Value) -> Result<TokenReviewStatus, ApiError> {
    let token = object["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::BadRequest("token is required for TokenReview in authentication".to_owned()));
    }
    let audiences = object["spec"]["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<_> = audiences.filter_map(|audience| audience.as_str().map(str::to_owned)).collect();
    Ok(match of_token(api, token, &audiences).await? {
        Some((user, audiences)) => TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences).filter(|audiences| !audiences.is_empty()),
            user: Some(user_info(&user)),
            ..TokenReviewStatus::default()
        },
        None => TokenReviewStatus {
            error: Some("the token is not known, or not good any more".to_owned()),
            ..TokenReviewStatus::default()
        },
    })
}

fn user_info(User { name, uid, groups, extra }: &User) -> UserInfo {
    UserInfo {
        username: Some(name.clone()),
        uid: Some(uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(groups.clone()),
        extra: Some(extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

/// A part of an object that was decoded as its kind; none if it was not sent.
fn part<T: DeserializeOwned>(value: &Value) -> Option<T> {
    if value.is_null() { None } else { T::deserialize(value).ok() }
}

fn invalid(kind: &'static Kind, error: FieldError) -> ApiError {
    ObjectError::Invalid { kind, name: String::new(), errors: vec![error] }.into()
}
