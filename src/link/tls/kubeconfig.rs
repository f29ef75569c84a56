//! The kubeconfig with which an administrator reaches control: everything in one file.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::{Authority, TlsError, files};

/// Writes `<state-dir>/admin.kubeconfig`, mode 0600, with a new client certificate for user `garrison-admin` of group
/// `system:masters`, and gives its path. `server` is `https://host:port`.
///
/// # Errors
/// [`TlsError::File`] if it cannot be written.
pub fn write_kubeconfig(authority: &Authority, state_dir: &Path, server: &str) -> Result<PathBuf, TlsError> {
    let (certificate, key) = authority.issue_admin("garrison-admin", Timestamp::now())?;
    let path = state_dir.join("admin.kubeconfig");
    let authority = authority.certificate_pem();
    files::write_private(&path, &kubeconfig(server, &authority, &certificate, &key))?;
    Ok(path)
}

/// Source: `client-go/tools/clientcmd/api/v1`, `Config`.
fn kubeconfig(server: &str, authority: &str, certificate: &str, key: &str) -> String {
    let [authority, certificate, key] = [authority, certificate, key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: garrison\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {authority}\n\
         users:\n\
         - name: garrison-admin\n\
         \x20 user:\n\
         \x20   client-certificate-data: {certificate}\n\
         \x20   client-key-data: {key}\n\
         contexts:\n\
         - name: garrison\n\
         \x20 context:\n\
         \x20   cluster: garrison\n\
         \x20   user: garrison-admin\n\
         current-context: garrison\n"
    )
}
