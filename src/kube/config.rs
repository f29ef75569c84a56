//! Kubeconfigs, as far as `garrison`'s own commands need them. The files they name are read here; the rest is pure.
//!
//! Source: kubernetes v1.36 `staging/src/k8s.io/client-go/tools/clientcmd/api/v1/types.go`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Where a control endpoint is, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `https://host:port`.
    pub server: String,
    /// What signed the server's certificate, as PEM.
    pub authority: Vec<u8>,
    /// Certificate and key of the user, as PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// A bearer token of the user.
    pub token: Option<String>,
    /// The namespace that is meant if none is named.
    pub namespace: String,
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file.
    #[error("cannot read {path}")]
    Read {
        /// Of the file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its YAML.
    #[error("{path} is not a kubeconfig")]
    Parse {
        /// Of the file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// What a context, a cluster or a user is named that is not there.
    #[error("the kubeconfig has no {what} {name:?}")]
    Missing {
        /// `context`, `cluster`, `user`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A field that is needed, or whose content is none.
    #[error("{field} of the kubeconfig is missing or damaged; kubectl can make use of more than this command can")]
    Field {
        /// Such as `certificate-authority-data`.
        field: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

impl Kubeconfig {
    /// Reads the current context of a file, and the files it names.
    ///
    /// # Errors
    /// [`KubeconfigError`].
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> {
        Self::parse(&read(path)?, path)
    }

    /// `path` is where the text is from.
    pub(crate) fn parse(text: &[u8], path: &Path) -> Result<Self, KubeconfigError> {
        let parse = |error| KubeconfigError::Parse { path: path.to_owned(), source: Box::new(error) };
        let written = serde_saphyr::from_slice(text).map_err(parse)?;
        Self::of(written, path.parent().unwrap_or(Path::new("")))
    }

    /// `dir` is where the files are that are named by a relative path.
    fn of(written: Written, dir: &Path) -> Result<Self, KubeconfigError> {
        let missing = |what, name: &str| KubeconfigError::Missing { what, name: name.to_owned() };
        let name = written.current_context;
        let context = written.contexts.into_iter().find(|one| one.name == name);
        let context = context.ok_or_else(|| missing("context", &name))?.context;
        let cluster = written.clusters.into_iter().find(|one| one.name == context.cluster);
        let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
        let user = written.users.into_iter().find(|one| one.name == context.user);
        let user = user.ok_or_else(|| missing("user", &context.user))?.user;

        let content = |field, data: Option<&String>, file: Option<&PathBuf>| match (data, file) {
            (Some(data), _) => STANDARD.decode(data).map(Some).map_err(|_| KubeconfigError::Field { field }),
            (None, Some(file)) => read(&dir.join(file)).map(Some),
            (None, None) => Ok(None),
        };
        let authority = content(
            "certificate-authority-data",
            cluster.certificate_authority_data.as_ref(),
            cluster.certificate_authority.as_ref(),
        )?;
        let certificate = content(
            "client-certificate-data",
            user.client_certificate_data.as_ref(),
            user.client_certificate.as_ref(),
        )?;
        let key = content("client-key-data", user.client_key_data.as_ref(), user.client_key.as_ref())?;
        let identity = certificate.zip(key);
        if identity.is_none() && user.token.is_none() {
            return Err(KubeconfigError::Field { field: "client-certificate-data or token" });
        }
        Ok(Self {
            server: cluster.server,
            authority: authority.ok_or(KubeconfigError::Field { field: "certificate-authority-data" })?,
            identity,
            token: user.token,
            namespace: if context.namespace.is_empty() { "default".to_owned() } else { context.namespace },
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KubeconfigError> {
    fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, dir: &Path) -> Result<Kubeconfig, String> {
        let written = serde_saphyr::from_str(text).unwrap();
        Kubeconfig::of(written, dir).map_err(|error| error.to_string())
    }

    #[test]
    fn the_current_context_is_taken_with_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key.pem"), "key").unwrap();
        let text = "
            apiVersion: v1
            kind: Config
            current-context: fleet
            contexts:
            - {name: other, context: {cluster: x, user: y}}
            - {name: fleet, context: {cluster: c, user: u, namespace: logging}}
            clusters:
            - {name: c, cluster: {server: 'https://control:6443', certificate-authority-data: Y2E=}}
            users:
            - {name: u, user: {client-certificate-data: Y2VydA==, client-key: key.pem}}
            - {name: t, user: {token: secret}}
            - {name: n, user: {exec: {command: login}}}
        ";
        let expected = Kubeconfig {
            server: "https://control:6443".to_owned(),
            authority: b"ca".to_vec(),
            identity: Some((b"cert".to_vec(), b"key".to_vec())),
            token: None,
            namespace: "logging".to_owned(),
        };
        assert_eq!(parsed(text, dir.path()), Ok(expected.clone()));
        let by_token = text.replace("user: u, namespace: logging", "user: t");
        let (identity, token) = (None, Some("secret".to_owned()));
        assert_eq!(
            parsed(&by_token, dir.path()),
            Ok(Kubeconfig { identity, token, namespace: "default".to_owned(), ..expected })
        );
        for (change, with, expected) in [
            ("current-context: fleet", "current-context: none", "the kubeconfig has no context \"none\""),
            ("cluster: c, user: u", "cluster: d, user: u", "the kubeconfig has no cluster \"d\""),
            ("Y2E=", "'?'", "certificate-authority-data of the kubeconfig is missing or damaged"),
            ("user: u,", "user: n,", "client-certificate-data or token of the kubeconfig is missing or damaged"),
            ("key.pem", "gone.pem", "cannot read"),
        ] {
            let error = parsed(&text.replace(change, with), dir.path()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
