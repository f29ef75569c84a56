//! Query parameters and body options of requests, by their Kubernetes names.
//!
//! Pure. Parameters nobody asks for are ignored, as clients send ever new ones.

use axum::extract::Query as Parameters;
use http::header::USER_AGENT;
use http::{HeaderMap, Uri};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as DeleteBody;

use super::errors::ApiError;
use crate::api::field::{FieldError, Path};
use crate::control::removal::{DeleteOptions, Propagation};
use crate::store::Revision;

/// A field manager has at most so many bytes.
const MAX_MANAGER_BYTES: usize = 128;

/// The parameters of one request.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// `fieldValidation`: what becomes of fields that are unknown or given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are left out.
    Ignore,
    /// They are left out, and the answer has a warning for each.
    Warn,
    /// They refuse the object.
    Strict,
}

/// `resourceVersion` with `resourceVersionMatch` of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListAt {
    /// As of this revision or a later one; 0 for any.
    NotBefore(Revision),
    /// As of this revision.
    Exactly(Revision),
}

impl Query {
    /// The parameters of a request's address.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for a query string that is none.
    pub fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let parameters = Parameters::try_from_uri(uri).map_err(|error| ApiError::BadRequest(error.to_string()))?;
        Ok(Self(parameters.0))
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A truth value as Go's API machinery reads it: absent, `false` and `0` are false, anything else is true.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// A whole number, not negative.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for anything else.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| ApiError::BadRequest(format!("{name}: {text:?} is not a whole number from 0")))
        };
        self.get(name).filter(|text| !text.is_empty()).map(parse).transpose()
    }

    /// A whole number, as Go's API machinery reads it.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for anything else.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| ApiError::BadRequest(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
        };
        self.get(name).filter(|text| !text.is_empty()).map(parse).transpose()
    }

    /// `dryRun`. `options` names the request's options in an error.
    ///
    /// # Errors
    /// [`ApiError::InvalidOptions`] for anything but `All`.
    pub fn dry_run(&self, options: &'static str) -> Result<bool, ApiError> {
        let values: Vec<&str> = self.all("dryRun").filter(|value| !value.is_empty()).collect();
        check_dry_run(&values, options)
    }

    /// `fieldValidation`; warns if absent.
    ///
    /// # Errors
    /// [`ApiError::InvalidOptions`] for an unknown value.
    pub fn field_validation(&self, options: &'static str) -> Result<FieldValidation, ApiError> {
        Ok(match self.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let field = Path::new("fieldValidation");
                let error = FieldError::not_supported(&field, other, &["Ignore", "Strict", "Warn"]);
                return Err(ApiError::InvalidOptions { options, errors: vec![error] });
            }
        })
    }

    /// `fieldManager`; without it the program in `User-Agent`, up to the first `/`. May be empty.
    ///
    /// # Errors
    /// [`ApiError::InvalidOptions`] for one that is too long or cannot be printed.
    ///
    /// Source: kubernetes v1.36, `apimachinery/pkg/apis/meta/v1/validation/validation.go`, `ValidateFieldManager`;
    /// `k8s.io/apiserver/pkg/endpoints/handlers/create.go`, `prefixFromUserAgent`.
    pub fn field_manager(&self, headers: &HeaderMap, options: &'static str) -> Result<String, ApiError> {
        let Some(manager) = self.get("fieldManager").filter(|manager| !manager.is_empty()) else {
            let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            let program = agent.split('/').next().unwrap_or_default();
            return Ok(program.chars().filter(|c| !c.is_control()).take(MAX_MANAGER_BYTES).collect());
        };
        let field = Path::new("fieldManager");
        if manager.len() > MAX_MANAGER_BYTES {
            return Err(ApiError::InvalidOptions {
                options,
                errors: vec![FieldError::too_long(&field, MAX_MANAGER_BYTES)],
            });
        }
        if manager.chars().any(char::is_control) {
            let error = FieldError::invalid(&field, manager, "should only contain printable characters");
            return Err(ApiError::InvalidOptions { options, errors: vec![error] });
        }
        Ok(manager.to_owned())
    }

    /// `fieldManager` and `force` of server-side apply.
    ///
    /// # Errors
    /// [`ApiError::InvalidOptions`], also for no manager: what is applied must be somebody's.
    pub fn apply_options(&self, headers: &HeaderMap) -> Result<(String, bool), ApiError> {
        const OPTIONS: &str = "PatchOptions";
        if self.get("fieldManager").unwrap_or_default().is_empty() {
            let error = FieldError::required(&Path::new("fieldManager"), "is required for apply patch");
            return Err(ApiError::InvalidOptions { options: OPTIONS, errors: vec![error] });
        }
        Ok((self.field_manager(headers, OPTIONS)?, self.flag("force")))
    }

    /// `force` is for server-side apply only.
    ///
    /// # Errors
    /// [`ApiError::InvalidOptions`] if it is given.
    pub fn refuse_force(&self) -> Result<(), ApiError> {
        if self.get("force").is_none() {
            return Ok(());
        }
        let error = FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        Err(ApiError::InvalidOptions { options: "PatchOptions", errors: vec![error] })
    }

    /// `resourceVersion` as a revision; none if absent or empty.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for one that is no number.
    pub fn resource_version(&self) -> Result<Option<Revision>, ApiError> {
        let parse = |text: &str| {
            let invalid = |_| ApiError::BadRequest(format!("invalid resource version {text:?}: must be a number"));
            text.parse().map(Revision).map_err(invalid)
        };
        self.get("resourceVersion").filter(|text| !text.is_empty()).map(parse).transpose()
    }

    /// What a list is to be true at.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] and [`ApiError::InvalidOptions`] for combinations that say nothing.
    pub fn list_at(&self) -> Result<ListAt, ApiError> {
        let version = self.resource_version()?;
        let field = Path::new("resourceVersionMatch");
        let invalid = |error| Err(ApiError::InvalidOptions { options: "ListOptions", errors: vec![error] });
        match (self.get("resourceVersionMatch").unwrap_or_default(), version) {
            ("", version) => Ok(ListAt::NotBefore(version.unwrap_or_default())),
            (_, None) => invalid(FieldError::forbidden(
                &field,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            ("NotOlderThan", Some(version)) => Ok(ListAt::NotBefore(version)),
            ("Exact", Some(Revision(0))) => invalid(FieldError::forbidden(
                &field,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            ("Exact", Some(version)) => Ok(ListAt::Exactly(version)),
            (other, _) => invalid(FieldError::not_supported(&field, other, &["Exact", "NotOlderThan"])),
        }
    }

    /// What a DELETE asks for: the options of its body over those of its address.
    ///
    /// # Errors
    /// [`ApiError::InvalidOptions`] and [`ApiError::BadRequest`] for values that are none.
    pub fn delete_options(&self, body: DeleteBody) -> Result<DeleteOptions, ApiError> {
        const OPTIONS: &str = "DeleteOptions";
        let dry_run = body.dry_run.unwrap_or_default();
        let values: Vec<&str> = dry_run.iter().map(String::as_str).collect();
        let grace = match body.grace_period_seconds {
            Some(seconds) => Some(seconds),
            None => self.number("gracePeriodSeconds")?.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        };
        let policy = body.propagation_policy.as_deref().or_else(|| self.get("propagationPolicy"));
        let propagation = match policy.unwrap_or_default() {
            "Orphan" => Propagation::Orphan,
            "Foreground" => Propagation::Foreground,
            "" if body.orphan_dependents == Some(true) || self.flag("orphanDependents") => Propagation::Orphan,
            "" | "Background" => Propagation::Background,
            other => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                let error = FieldError::not_supported(&Path::new("propagationPolicy"), other, &supported);
                return Err(ApiError::InvalidOptions { options: OPTIONS, errors: vec![error] });
            }
        };
        let preconditions = body.preconditions.unwrap_or_default();
        Ok(DeleteOptions {
            propagation,
            grace_period_seconds: grace,
            uid: preconditions.uid,
            resource_version: preconditions.resource_version,
            dry_run: check_dry_run(&values, OPTIONS)? || self.dry_run(OPTIONS)?,
        })
    }
}

fn check_dry_run(values: &[&str], options: &'static str) -> Result<bool, ApiError> {
    if values.iter().all(|value| *value == "All") {
        return Ok(!values.is_empty());
    }
    let error = FieldError::not_supported(&Path::new("dryRun"), values.to_vec(), &["All"]);
    Err(ApiError::InvalidOptions { options, errors: vec![error] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn options_are_read_or_refused() {
        let list_at = |text: &str| query(text).list_at().map_err(|error| error.to_string());
        assert_eq!(list_at(""), Ok(ListAt::NotBefore(Revision(0))));
        assert_eq!(list_at("resourceVersion=7"), Ok(ListAt::NotBefore(Revision(7))));
        assert_eq!(list_at("resourceVersion=7&resourceVersionMatch=Exact"), Ok(ListAt::Exactly(Revision(7))));
        assert!(list_at("resourceVersionMatch=Exact").is_err());
        assert!(list_at("resourceVersion=x").is_err());
        assert!(query("watch=1").flag("watch") && !query("watch=false").flag("watch") && !query("").flag("watch"));
        assert!(query("dryRun=All").dry_run("CreateOptions").unwrap());
        assert_eq!(
            query("dryRun=true").dry_run("CreateOptions").unwrap_err().to_string(),
            r#"CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["true"]: supported values: "All""#
        );
    }

    #[test]
    fn delete_options_of_the_body_win_over_the_address() {
        let body = DeleteBody { grace_period_seconds: Some(1), ..DeleteBody::default() };
        let address = query("gracePeriodSeconds=9&propagationPolicy=Foreground&dryRun=All");
        let expected = DeleteOptions {
            propagation: Propagation::Foreground,
            grace_period_seconds: Some(1),
            dry_run: true,
            ..DeleteOptions::default()
        };
        assert_eq!(address.delete_options(body).unwrap(), expected);
        assert!(query("propagationPolicy=Later").delete_options(DeleteBody::default()).is_err());
    }
}
