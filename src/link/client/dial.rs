//! Connections to control: TCP, TLS, HTTP/2.

use std::io;
use std::sync::Mutex;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Endpoint;

use super::*;
use crate::link::heard::Noted;
use crate::link::tls;

/// What TCP and TLS may take together.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// An open connection.
pub(in crate::link) struct Dialled {
    /// For any number of calls. It does not connect again by itself.
    pub channel: Channel,
    pub heard: Heard,
}

/// Dials control as this node.
pub(super) async fn dial(settings: &ClientSettings) -> Result<Dialled, ClientError> {
    let config = tls::client_config(&settings.credentials, settings.last_seen)?;
    dial_with(&settings.control, config).await
}

/// Dials control with any TLS configuration.
pub(in crate::link) async fn dial_with(control: &str, config: ClientConfig) -> Result<Dialled, ClientError> {
    let (stream, heard) = connect(control, Arc::new(config)).await?;
    Ok(Dialled { channel: over(stream, endpoint()).await?, heard })
}

/// Dials control for tunnels alone. The connection finds out by itself when control is gone.
pub(super) async fn dial_for_tunnels(way: &Way) -> Result<Channel, ClientError> {
    let (stream, _) = connect(&way.control, way.config.clone()).await?;
    let endpoint = endpoint()
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(SILENCE - KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(TUNNEL_WINDOW_BYTES)
        .initial_connection_window_size(TUNNELS_WINDOW_BYTES);
    over(stream, endpoint).await
}

async fn connect(
    control: &str,
    config: Arc<ClientConfig>,
) -> Result<(TlsStream<Noted<TcpStream>>, Heard), ClientError> {
    let address = || ClientError::Address { control: control.to_owned() };
    let (host, _) = control.rsplit_once(':').ok_or_else(address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|_| address())?;

    let heard = Heard::now();
    let connecting = async {
        let reach = |source| ClientError::Reach { control: control.to_owned(), source };
        let stream = TcpStream::connect(control).await.map_err(reach)?;
        stream.set_nodelay(true).map_err(reach)?;
        let noted = Noted { io: stream, heard: heard.clone() };
        let handshake = TlsConnector::from(config).connect(name, noted).await;
        handshake.map_err(|source| ClientError::of_handshake(control, source))
    };
    let stream = tokio::time::timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_| {
        Err(ClientError::Reach { control: control.to_owned(), source: io::ErrorKind::TimedOut.into() })
    })?;
    Ok((stream, heard))
}

/// Control looks at paths only.
pub(in crate::link) fn endpoint() -> Endpoint {
    Endpoint::from_static("http://control")
}

/// Speaks HTTP/2 over a stream on which TLS is done already.
pub(in crate::link) async fn over<S>(stream: S, endpoint: Endpoint) -> Result<Channel, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The library would connect anew after a loss, behind the session's back; this stream is the only one it gets.
    let only = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_| {
        let taken = only.lock().ok().and_then(|mut only| only.take());
        std::future::ready(taken.ok_or(io::Error::from(io::ErrorKind::NotConnected)))
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| ClientError::Broken(error.into()))
}
