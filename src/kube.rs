//! Asking a control endpoint as `kubectl` does: a kubeconfig says where it is and who asks.
//!
//! Only what `garrison`'s own commands need: one request, answered with JSON. Everything else is `kubectl`'s.

mod config;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use self::config::{Kubeconfig, KubeconfigError};
use crate::link::tls::{self, TlsError};

/// How long a question may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The kubeconfig's `server`.
    #[error("{0:?} is no https address of a server")]
    Address(String),
    /// The certificates and the key of the kubeconfig.
    #[error("cannot use the kubeconfig's certificates")]
    Tls(#[from] TlsError),
    /// The connection.
    #[error("cannot reach {server}")]
    Reach {
        /// As the kubeconfig has it.
        server: String,
        /// What the system, or TLS, said.
        #[source]
        source: io::Error,
    },
    /// The protocol.
    #[error("the connection to the server broke")]
    Broken(#[from] hyper::Error),
    /// It took too long.
    #[error("no answer within {} seconds", TIMEOUT.as_secs())]
    Silent,
    /// The server's own words.
    #[error("the server answers {code}: {message}")]
    Refused {
        /// The HTTP status.
        code: StatusCode,
        /// `message` of its `Status` object.
        message: String,
    },
    /// Something other than Kubernetes' API may be there.
    #[error("the answer is not JSON")]
    Answer(#[source] serde_json::Error),
}

/// The JSON behind a path such as `/api/v1/nodes`.
///
/// # Errors
/// [`KubeError`].
pub async fn get(config: &Kubeconfig, path: &str) -> Result<Value, KubeError> {
    send(config, Method::GET, path, None).await
}

/// What a path answers to a method and a body.
///
/// # Errors
/// [`KubeError`].
pub async fn send(config: &Kubeconfig, method: Method, path: &str, body: Option<&Value>) -> Result<Value, KubeError> {
    tokio::time::timeout(TIMEOUT, ask(config, method, path, body)).await.unwrap_or(Err(KubeError::Silent))
}

async fn ask(config: &Kubeconfig, method: Method, path: &str, body: Option<&Value>) -> Result<Value, KubeError> {
    let bad_address = || KubeError::Address(config.server.clone());
    let uri: Uri = config.server.parse().map_err(|_| bad_address())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad_address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| bad_address())?;
    let tls = tls::user_config(&config.authority, config.identity.as_ref())?;

    let reach = |source| KubeError::Reach { server: config.server.clone(), source };
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await.map_err(reach)?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(reach)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json");
    if let Some(token) = &config.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = match body {
        Some(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    let request = request.body(body).map_err(|_| bad_address())?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&body).map_err(KubeError::Answer)?;
    if code.is_success() {
        return Ok(answer);
    }
    Err(KubeError::Refused { code, message: answer["message"].as_str().unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::config::ControlSettings;
    use crate::control::endpoint::Endpoint;

    #[tokio::test]
    async fn an_endpoint_is_asked_as_its_kubeconfig_says() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().to_owned();
        let listen = ([127, 0, 0, 1], 0).into();
        let settings =
            ControlSettings { state_dir, listen, names: Vec::new(), audit_log: None, audit_verbs: Vec::new() };
        let endpoint = Endpoint::open(&settings).await.unwrap();
        let config = Kubeconfig::read(&endpoint.kubeconfig).unwrap();
        let (stop_tx, stop_rx) = watch::channel(false);
        let serving = tokio::spawn(endpoint.serve(stop_rx));

        let nodes = get(&config, "/api/v1/nodes").await.unwrap();
        assert_eq!(nodes["kind"], "NodeList");
        let rollout = "/apis/apps/v1/namespaces/default/daemonsets/web/rollout";
        let refused = get(&config, rollout).await.unwrap_err();
        assert_eq!(refused.to_string(), "the server answers 404 Not Found: daemonsets.apps \"web\" not found");
        let stranger = Kubeconfig { identity: None, token: Some("nobody's".to_owned()), ..config.clone() };
        let refused = get(&stranger, rollout).await.unwrap_err();
        assert!(matches!(refused, KubeError::Refused { code: StatusCode::UNAUTHORIZED, .. }), "{refused}");
        let plain = Kubeconfig { server: config.server.replace("https", "http"), ..config };
        assert!(matches!(get(&plain, "/").await, Err(KubeError::Address(_))));

        stop_tx.send_replace(true);
        serving.await.unwrap().unwrap();
    }
}
