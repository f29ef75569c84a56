//! Who may do what: Kubernetes' role-based access control.
//!
//! Pure but for [`keeper`], the task that keeps a [`Policy`] true to the store. In come [`Attributes`] of a request; out
//! comes whether a rule allows it and by which binding. There are no rules that deny: what no rule allows is refused.
//!
//! - [`rules`]: what one rule allows, and whether rules cover others.
//! - [`policy`]: roles and bindings as of one moment, asked for a user.
//! - [`defaults`]: the roles and bindings that exist from the start.
//! - [`keeper`]: follows the objects, makes what must exist, fills aggregated roles.
//!
//! Source: kubernetes v1.36, `plugin/pkg/auth/authorizer/rbac` and `pkg/registry/rbac`.

pub mod defaults;
pub mod keeper;
pub mod policy;
pub mod rules;

use std::collections::BTreeMap;

pub use policy::Policy;

/// Members may do everything.
pub const MASTERS: &str = "system:masters";
/// Whoever is known by name.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Whoever is not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of whoever is not known.
pub const ANONYMOUS: &str = "system:anonymous";
/// All service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// What the name of a service account begins with: `system:serviceaccount:{namespace}:{name}`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The name; [`ANONYMOUS`] for whoever has none.
    pub name: String,
    /// May be empty.
    pub uid: String,
    /// With those that follow from how the user is known.
    pub groups: Vec<String>,
    /// What else is known, such as the pod of a service account's token.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request is about, as far as rules can tell requests apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create` … of a resource; the method in lower case of a path.
    pub verb: String,
    /// Of what.
    pub about: About,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Objects.
    Resource(Resource),
    /// A path that is none of objects, such as `/healthz`.
    Path(String),
}

/// Some objects of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// The plural, such as `pods`.
    pub resource: String,
    /// Such as `log`; empty for the object itself.
    pub subresource: String,
    /// Empty for all namespaces, and for what has none.
    pub namespace: String,
    /// Empty for any.
    pub name: String,
}

impl Default for About {
    fn default() -> Self {
        Self::Resource(Resource::default())
    }
}

impl User {
    /// Whoever shows no credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = [SERVICE_ACCOUNTS, &format!("{SERVICE_ACCOUNTS}:{namespace}"), AUTHENTICATED];
        Self {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: groups.map(str::to_owned).to_vec(),
            extra: BTreeMap::new(),
        }
    }

    /// Belongs to a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// May do everything.
    pub fn is_master(&self) -> bool {
        self.is_in(MASTERS)
    }
}

impl Attributes {
    /// A verb on some objects.
    pub fn on(verb: &str, resource: Resource) -> Self {
        Self { verb: verb.to_owned(), about: About::Resource(resource) }
    }

    /// The namespace whose bindings count, beside those of all; empty for none.
    pub fn namespace(&self) -> &str {
        match &self.about {
            About::Resource(resource) => &resource.namespace,
            About::Path(_) => "",
        }
    }
}
