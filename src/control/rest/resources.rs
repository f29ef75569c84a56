//! Objects over HTTP: one function per verb. What a write means is [`Objects`](crate::control::objects::Objects)'.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WARNING};
use http::request::Parts;
use jiff::Timestamp;
use serde_json::Value;

use super::errors::{self, ApiError};
use super::filter::Filter;
use super::observe::Made;
use super::patch::{Asked, PatchError, PatchType, apply_patch};
use super::query::{ListAt, Query};
use super::represent::Form;
use super::target::Target;
use super::{
    Api, apply, auth, body, certificates, escalation, events, logs, reviews, rollout, streams, subresources, usage,
    watch,
};
use crate::api::field::{FieldError, Path};
use crate::control::kinds::{
    APPROVAL, ATTACH, CERTIFICATE_SIGNING_REQUEST, EPHEMERAL_CONTAINERS, EVENT, EXEC, Kind, LEASE, LOG, NAMESPACE,
    NODE_METRICS, POD, POD_METRICS, PORT_FORWARD, ROLLOUT, STATUS,
};
use crate::control::meta;
use crate::control::objects::{Deleted, List, ListOptions, ObjectError, WriteOptions, Writer};
use crate::control::rbac::{Attributes, User};
use crate::control::registry::Part;
use crate::store::Revision;

/// A request about objects, with all that was read of it but the body.
pub struct Request {
    /// What it is about.
    pub target: Target,
    /// Its parameters.
    pub query: Query,
    /// Its head.
    pub parts: Parts,
}

impl Request {
    /// What is to be done.
    ///
    /// # Errors
    /// [`ApiError::MethodNotAllowed`] if the kind or the subresource does not have it.
    fn verb(&self) -> Result<&'static str, ApiError> {
        let Target { kind, namespace, subresource, .. } = &self.target;
        let verb = match self.target.verb(&self.parts.method) {
            "list" if self.query.flag("watch") => "watch",
            "create" | "deletecollection" if kind.namespaced && namespace.is_none() => "",
            verb => verb,
        };
        let verbs = subresource.map_or(kind.verbs, |subresource| subresource.verbs);
        if verbs.contains(&verb) { Ok(verb) } else { Err(ApiError::MethodNotAllowed) }
    }

    /// Who asks.
    pub fn user(&self) -> &User {
        self.parts.extensions.get().expect("every request has passed the guard")
    }

    /// The form of the answer.
    pub fn form(&self) -> Result<Form, ApiError> {
        Form::negotiate(&self.parts.headers, &self.query)
    }

    /// Which half of the object it is about.
    pub fn part(&self) -> Part {
        match self.target.subresource {
            Some(subresource) if subresource.name == STATUS => Part::Status,
            Some(subresource) if subresource.name == EPHEMERAL_CONTAINERS => Part::EphemeralContainers,
            Some(subresource) if subresource.name == APPROVAL => Part::Approval,
            _ => Part::Main,
        }
    }

    /// Whether it is about one of these parts of an object.
    fn is_about(&self, parts: &[&str]) -> bool {
        self.target.subresource.is_some_and(|part| parts.contains(&part.name))
    }

    /// The name of the object; empty for a collection.
    pub fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }
}

/// Answers a request about objects.
///
/// # Errors
/// Whatever the request or the objects give cause for; see [`ApiError`].
pub async fn serve(api: &Api, request: Request, body: Body) -> Result<Response, ApiError> {
    let measured = [&NODE_METRICS, &POD_METRICS].contains(&request.target.kind);
    match request.verb()? {
        "get" if request.is_about(&[LOG]) => logs::serve(api, &request).await,
        "get" if request.is_about(&[ROLLOUT]) => rollout::serve(api, &request).await,
        "get" | "create" if request.is_about(&[ATTACH, EXEC, PORT_FORWARD]) => streams::serve(api, request).await,
        "get" if measured => usage::get(api, &request).await,
        "get" => get(api, &request).await,
        "list" if measured => usage::list(api, &request).await,
        "list" => list(api, &request).await,
        "watch" => watch::serve(api, &request).await,
        "create" if request.target.subresource.is_some() => subresources::create(api, &request, body).await,
        "create" => create(api, &request, body).await,
        "update" => update(api, &request, body).await,
        "patch" => patch(api, &request, body).await,
        "delete" => delete(api, &request, body).await,
        _ => delete_collection(api, &request, body).await,
    }
}

/// The objects of a kind that a list or watch picks, all or one page.
pub async fn read_list(
    api: &Api,
    kind: &'static Kind,
    request: &Request,
    filter: &Filter,
    at: ListAt,
    limit: u64,
) -> Result<List, ObjectError> {
    let (at, not_before) = match at {
        ListAt::Exactly(revision) => (Some(revision), Revision::default()),
        ListAt::NotBefore(revision) => (None, revision),
    };
    let options = ListOptions {
        namespace: request.target.namespace.as_deref(),
        matches: &|object| filter.matches(object),
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        next: request.query.get("continue").filter(|token| !token.is_empty()),
        at,
        not_before,
    };
    api.objects.list(kind, options).await
}

async fn get(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let Target { kind, .. } = request.target;
    let form = request.form()?;
    let object = api.objects.get(kind.kept(), request.target.namespace(), request.name()).await?;
    Ok(answer(StatusCode::OK, &form.object(kind, object, Timestamp::now()), &[]))
}

async fn list(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let kind = request.target.kind;
    let form = request.form()?;
    let filter = Filter::parse(kind.kept(), &request.query)?;
    let limit = request.query.number("limit")?.unwrap_or(0);
    let list = read_list(api, kind.kept(), request, &filter, request.query.list_at()?, limit).await?;
    Ok(answer(StatusCode::OK, &form.list(kind, list, Timestamp::now()), &[]))
}

async fn create(api: &Api, request: &Request, body: Body) -> Result<Response, ApiError> {
    const OPTIONS: &str = "CreateOptions";
    let kind = request.target.kind;
    let form = request.form()?;
    let manager = request.query.field_manager(&request.parts.headers, OPTIONS)?;
    let options = WriteOptions { dry_run: request.query.dry_run(OPTIONS)?, writer: Writer::Manager(&manager) };
    let validation = request.query.field_validation(OPTIONS)?;
    let mut received = body::object(kind, &request.parts.headers, &body::read(body).await?, validation)?;
    same_namespace(request, &received.object)?;
    name_asker(request, &mut received.object);
    if !kind.is_kept() {
        return reviews::serve(api, request, received.object, &received.warnings).await;
    }
    allow_grant(api, request, None, &received.object)?;
    let object = api
        .objects
        .create(kind.kept(), request.target.namespace(), events::kept(kind, received.object), options)
        .await?;
    let made = Made(meta::name(&object).to_owned());
    let object = form.object(kind, object, Timestamp::now());
    let mut response = answer_write(request, StatusCode::CREATED, &object, received.warnings);
    response.extensions_mut().insert(made);
    Ok(response)
}

async fn update(api: &Api, request: &Request, body: Body) -> Result<Response, ApiError> {
    const OPTIONS: &str = "UpdateOptions";
    let kind = request.target.kind;
    let form = request.form()?;
    let manager = request.query.field_manager(&request.parts.headers, OPTIONS)?;
    let options = WriteOptions { dry_run: request.query.dry_run(OPTIONS)?, writer: Writer::Manager(&manager) };
    let validation = request.query.field_validation(OPTIONS)?;
    let received = body::object(kind, &request.parts.headers, &body::read(body).await?, validation)?;
    same_namespace(request, &received.object)?;
    same_name(request, &received.object)?;
    let (namespace, name) = (request.target.namespace(), request.name());
    let change = |current: &Value| {
        allow_grant(api, request, Some(current), &received.object)?;
        check_version(kind, name, &received.object)?;
        Ok::<_, ApiError>(events::kept(kind, received.object.clone()))
    };
    let updated = api.objects.update(kind.kept(), namespace, name, request.part(), options, change).await;
    let (code, object) = match updated {
        Err(ApiError::Object(ObjectError::NotFound { kind: missing, .. }))
            if is_made_by_update(kind.kept(), missing) =>
        {
            allow_creation(api, request)?;
            (
                StatusCode::CREATED,
                api.objects.create(kind.kept(), namespace, events::kept(kind, received.object), options).await?,
            )
        }
        updated => (StatusCode::OK, updated?),
    };
    Ok(answer_write(request, code, &form.object(kind, object, Timestamp::now()), received.warnings))
}

async fn patch(api: &Api, request: &Request, body: Body) -> Result<Response, ApiError> {
    let content_type = request.parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match Asked::from_content_type(content_type.unwrap_or_default())? {
        Asked::Patch(patch_type) => apply_patch_of(api, request, body, patch_type).await,
        // Nobody applies events, and under two names nobody could say who owns which field.
        Asked::Apply if request.target.kind.kept_as.is_some() => Err(PatchError::MediaType.into()),
        Asked::Apply => apply::serve(api, request, body).await,
    }
}

async fn apply_patch_of(api: &Api, request: &Request, body: Body, patch_type: PatchType) -> Result<Response, ApiError> {
    const OPTIONS: &str = "PatchOptions";
    let kind = request.target.kind;
    let form = request.form()?;
    request.query.refuse_force()?;
    let manager = request.query.field_manager(&request.parts.headers, OPTIONS)?;
    let options = WriteOptions { dry_run: request.query.dry_run(OPTIONS)?, writer: Writer::Manager(&manager) };
    let validation = request.query.field_validation(OPTIONS)?;
    let patch = body::read(body).await?;
    let mut warnings = Vec::new();
    let change = |current: &Value| {
        let patched = apply_patch(kind, &events::shown(kind, current.clone()), &patch, patch_type)?;
        let received = body::patched(kind, &patched, validation)?;
        same_name(request, &received.object)?;
        allow_grant(api, request, Some(current), &received.object)?;
        warnings = received.warnings;
        Ok::<_, ApiError>(events::kept(kind, received.object))
    };
    let (namespace, name) = (request.target.namespace(), request.name());
    let object = api.objects.update(kind.kept(), namespace, name, request.part(), options, change).await?;
    Ok(answer_write(request, StatusCode::OK, &form.object(kind, object, Timestamp::now()), warnings))
}

async fn delete(api: &Api, request: &Request, body: Body) -> Result<Response, ApiError> {
    let kind = request.target.kind;
    let form = request.form()?;
    let options = body::delete_options(&request.parts.headers, &body::read(body).await?)?;
    let options = request.query.delete_options(options)?;
    let deleted = api.objects.delete(kind.kept(), request.target.namespace(), request.name(), &options).await?;
    Ok(match deleted {
        Deleted::Removed(object) if !answers_with_object(kind) => {
            errors::status_response(&errors::deleted(kind, meta::name(&object), meta::uid(&object)))
        }
        Deleted::Removed(object) | Deleted::Marked(object) => {
            answer(StatusCode::OK, &form.object(kind, object, Timestamp::now()), &[])
        }
    })
}

/// Deletes what the selectors pick, one by one; answers with what it was.
async fn delete_collection(api: &Api, request: &Request, body: Body) -> Result<Response, ApiError> {
    let kind = request.target.kind;
    let form = request.form()?;
    let options = body::delete_options(&request.parts.headers, &body::read(body).await?)?;
    let options = request.query.delete_options(options)?;
    let filter = Filter::parse(kind.kept(), &request.query)?;
    let limit = request.query.number("limit")?.unwrap_or(0);
    let list = read_list(api, kind.kept(), request, &filter, request.query.list_at()?, limit).await?;
    for object in &list.items {
        match api.objects.delete(kind.kept(), meta::namespace(object), meta::name(object), &options).await {
            Ok(_) | Err(ObjectError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer(StatusCode::OK, &form.list(kind, list, Timestamp::now()), &[]))
}

/// Source: kubernetes v1.36, `ReturnDeletedObject` of the registries.
fn answers_with_object(kind: &Kind) -> bool {
    *kind == POD || *kind == NAMESPACE
}

/// Source: kubernetes v1.36, `AllowCreateOnUpdate` of the registries.
fn is_made_by_update(kind: &Kind, missing: &Kind) -> bool {
    kind == missing && (*kind == LEASE || *kind == EVENT)
}

/// Who takes a Lease must have seen who has it.
///
/// Source: kubernetes v1.36, `AllowUnconditionalUpdate` of the registries.
fn check_version(kind: &'static Kind, name: &str, object: &Value) -> Result<(), ObjectError> {
    if *kind != LEASE || !meta::text(object, "resourceVersion").is_empty() {
        return Ok(());
    }
    let field = Path::new("metadata.resourceVersion");
    let errors = vec![FieldError::invalid(&field, 0, "must be specified for an update")];
    Err(ObjectError::Invalid { kind, name: name.to_owned(), errors })
}

/// Who may change an object may not therefore make it.
pub fn allow_creation(api: &Api, request: &Request) -> Result<(), ApiError> {
    let Parts { method, uri, .. } = &request.parts;
    let asked = auth::attributes::of(method, uri.path(), &request.query, Some(&request.target));
    auth::authorize(&api.policy(), request.user(), &Attributes { verb: "create".to_owned(), ..asked })
}

/// Roles and bindings grant nothing that their writer does not have, and certificates are up to whom their signer trusts.
pub fn allow_grant(api: &Api, request: &Request, before: Option<&Value>, object: &Value) -> Result<(), ObjectError> {
    let (Target { kind, .. }, policy, user) = (&request.target, api.policy(), request.user());
    if **kind == CERTIFICATE_SIGNING_REQUEST {
        return certificates::check(&policy, user, request.part(), before, object);
    }
    escalation::check(&policy, user, kind, request.target.namespace(), before, object)
}

/// A new object says who asked for it, if its kind's do.
pub fn name_asker(request: &Request, object: &mut Value) {
    if *request.target.kind == CERTIFICATE_SIGNING_REQUEST {
        certificates::name_asker(request.user(), object);
    }
}

/// The body must not be about an object elsewhere.
pub fn same_namespace(request: &Request, object: &Value) -> Result<(), ApiError> {
    let said = meta::namespace(object);
    if said.is_empty() || said == request.target.namespace() {
        return Ok(());
    }
    Err(ApiError::BadRequest(
        "the namespace of the provided object does not match the namespace sent on the request".to_owned(),
    ))
}

/// The body must not be about another object.
pub fn same_name(request: &Request, object: &Value) -> Result<(), ApiError> {
    let (said, asked) = (meta::name(object), request.name());
    if said.is_empty() || said == asked {
        return Ok(());
    }
    Err(ApiError::BadRequest(format!("the name of the object ({said}) does not match the name on the URL ({asked})")))
}

/// The answer to a write. Who writes what nobody acts on is told so.
pub fn answer_write(request: &Request, code: StatusCode, value: &Value, mut warnings: Vec<String>) -> Response {
    let kind = request.target.kind;
    if kind.without_effect {
        warnings.push(format!("{} are kept for the charts that bring them; they have no effect here", kind.resource()));
    }
    answer(code, value, &warnings)
}

/// A JSON answer, with a `Warning` header for each text.
pub fn answer(code: StatusCode, value: &Value, warnings: &[String]) -> Response {
    let mut response = (code, value.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    for warning in warnings {
        // As upstream: agent `-`, the text quoted (RFC 7234, 5.5).
        let quoted = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&quoted) {
            headers.append(WARNING, value);
        }
    }
    response
}
