//! Kubeconfigs, with which people and tools reach control: everything in one file.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};

use super::{Authority, TlsError, files};

/// The kubeconfig that control makes at each start, in its state folder.
pub const ADMINISTRATOR_KUBECONFIG: &str = "admin.kubeconfig";
/// Its user.
const ADMINISTRATOR: &str = "garrison-admin";
const ADMINISTRATOR_FOR: SignedDuration = SignedDuration::from_hours(24 * 365);

/// Who a kubeconfig makes its owner.
pub enum Credential<'a> {
    /// Whoever a new client certificate of this authority names.
    Certificate {
        /// Signs it.
        authority: &'a Authority,
        /// The user's groups.
        groups: &'a [String],
        /// How long it holds.
        valid_for: SignedDuration,
    },
    /// Whoever the token was made for.
    Token(&'a str),
}

/// Writes `<state-dir>/admin.kubeconfig`, mode 0600, with a new client certificate for user `garrison-admin` of group
/// `system:masters`, and gives its path. `server` is `https://host:port`.
///
/// # Errors
/// [`TlsError::File`] if it cannot be written.
pub fn write_kubeconfig(authority: &Authority, state_dir: &Path, server: &str) -> Result<PathBuf, TlsError> {
    let groups = &["system:masters".to_owned()];
    let credential = Credential::Certificate { authority, groups, valid_for: ADMINISTRATOR_FOR };
    let ca = authority.certificate_pem();
    let path = state_dir.join(ADMINISTRATOR_KUBECONFIG);
    files::write_private(&path, &kubeconfig(server, ca.as_bytes(), ADMINISTRATOR, &credential, Timestamp::now())?)?;
    Ok(path)
}

/// The text of a kubeconfig. `server` is `https://host:port`, `ca` the authority that signs for it, PEM.
///
/// # Errors
/// [`TlsError::Make`] if no certificate can be made.
///
/// Source: `client-go/tools/clientcmd/api/v1`, `Config`.
pub fn kubeconfig(
    server: &str,
    ca: &[u8],
    user: &str,
    credential: &Credential<'_>,
    now: Timestamp,
) -> Result<String, TlsError> {
    let credentials = match credential {
        Credential::Certificate { authority, groups, valid_for } => {
            let (certificate, key) = authority.issue_user(user, groups, *valid_for, now)?;
            let [certificate, key] = [certificate, key].map(|pem| STANDARD.encode(pem));
            format!("client-certificate-data: {certificate}\n    client-key-data: {key}")
        }
        Credential::Token(token) => format!("token: {token}"),
    };
    // Any text is a name there: JSON's strings are YAML's.
    let (authority, user) = (STANDARD.encode(ca), serde_json::Value::from(user));
    Ok(format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: garrison\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {authority}\n\
         users:\n\
         - name: {user}\n\
         \x20 user:\n\
         \x20   {credentials}\n\
         contexts:\n\
         - name: garrison\n\
         \x20 context:\n\
         \x20   cluster: garrison\n\
         \x20   user: {user}\n\
         current-context: garrison\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Kubeconfig;

    #[test]
    fn a_kubeconfig_reads_back_and_names_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let path = write_kubeconfig(&authority, dir.path(), "https://127.0.0.1:6443").unwrap();
        let administrator = Kubeconfig::read(&path).unwrap();
        assert_eq!(administrator.server, "https://127.0.0.1:6443");
        assert_eq!(administrator.authority, authority.certificate_pem().into_bytes());
        assert!(administrator.identity.is_some());
        let (path, token) = (dir.path().join("other"), Credential::Token("usr.abc.def"));
        let text = kubeconfig("https://x:1", &administrator.authority, "a: b\"", &token, Timestamp::now()).unwrap();
        files::write_private(&path, &text).unwrap();
        let expected = Kubeconfig {
            server: "https://x:1".to_owned(),
            identity: None,
            token: Some("usr.abc.def".to_owned()),
            ..administrator
        };
        assert_eq!(Kubeconfig::read(&path).unwrap(), expected);
    }
}
