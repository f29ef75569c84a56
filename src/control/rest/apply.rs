//! Server-side apply: a PATCH that says what its sender wants an object to have.
//!
//! What becomes of the object is [`ownership`]'s to say; here is the request around it. An object that is not there is
//! created.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`, `applyPatcher`.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::errors::ApiError;
use super::query::FieldValidation;
use super::resources::{Request, allow_creation, allow_grant, answer_write, name_asker, same_name, same_namespace};
use super::{Api, body};
use crate::control::meta;
use crate::control::objects::{ObjectError, WriteOptions, Writer};
use crate::control::ownership;
use crate::control::registry::Part;

/// How often an object may come and go while it is applied.
const ATTEMPTS: usize = 5;

/// Answers with the applied object: 201 if it is new.
pub async fn serve(api: &Api, request: &Request, body: Body) -> Result<Response, ApiError> {
    const OPTIONS: &str = "PatchOptions";
    let kind = request.target.kind;
    let form = request.form()?;
    let (manager, force) = request.query.apply_options(&request.parts.headers)?;
    let options = WriteOptions { dry_run: request.query.dry_run(OPTIONS)?, writer: Writer::Applied };
    let validation = request.query.field_validation(OPTIONS)?;
    let body::Received { object: mut config, warnings } = body::applied(kind, &body::read(body).await?, validation)?;
    same_namespace(request, &config)?;
    same_name(request, &config)?;
    meta::metadata_mut(&mut config).insert("name".to_owned(), request.name().into());
    let applied = |live: Option<&Value>| {
        let write = ownership::Write { kind, part: request.part(), manager: &manager, now: Timestamp::now() };
        let mut object = ownership::apply(&write, live, &config, force)?;
        if live.is_none() {
            name_asker(request, &mut object);
        }
        allow_grant(api, request, live, &object)?;
        // What was there and what was sent were both understood; together they have one form again.
        Ok::<_, ApiError>(body::patched(kind, &object, FieldValidation::Ignore)?.object)
    };
    let (namespace, name) = (request.target.namespace(), request.name());
    for _ in 0..ATTEMPTS {
        let change = |live: &Value| applied(Some(live));
        let (code, done) = match api.objects.update(kind, namespace, name, request.part(), options, change).await {
            Err(ApiError::Object(ObjectError::NotFound { kind: missing, .. }))
                if *missing == *kind && request.part() == Part::Main =>
            {
                allow_creation(api, request)?;
                let created = api.objects.create(kind, namespace, applied(None)?, options).await;
                (StatusCode::CREATED, created.map_err(ApiError::from))
            }
            updated => (StatusCode::OK, updated),
        };
        match done {
            Err(ApiError::Object(ObjectError::AlreadyExists { .. })) => {}
            done => return Ok(answer_write(request, code, &form.object(kind, done?, Timestamp::now()), warnings)),
        }
    }
    Err(ObjectError::AlreadyExists { kind, name: name.to_owned() }.into())
}
