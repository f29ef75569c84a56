//! How a client asks for another protocol on its connection, and how it gets it. Pure.
//!
//! Source: RFC 6455, 4.2; kubernetes v1.36, `k8s.io/apimachinery/pkg/util/httpstream/httpstream.go`.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Protocol;
use crate::control::rest::errors::ApiError;

/// Which versions of the protocol over SPDY a client knows, one a line; which of them was chosen.
const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    upgrade: Upgrade,
    /// The protocols it knows, the one it likes best first; may be empty.
    offered: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Upgrade {
    WebSocket {
        /// `Sec-WebSocket-Accept` of the answer.
        accept: String,
    },
    Spdy,
}

/// The answer to a request that asks for no other protocol, or came by HTTP/2, which cannot have one.
pub(super) fn required() -> ApiError {
    ApiError::BadRequest("Upgrade request required".to_owned())
}

impl Handshake {
    /// Reads it from a request's head.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] if there is none, or it is not as it has to be.
    pub(super) fn of(parts: &Parts) -> Result<Self, ApiError> {
        let headers = &parts.headers;
        let asks = |name: &str| tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(name));
        if !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return Err(required());
        }
        let all = |name| tokens(headers, name).map(str::to_owned).collect();
        if asks("SPDY/3.1") {
            return Ok(Self { upgrade: Upgrade::Spdy, offered: all(&STREAM_VERSION) });
        }
        if !asks("websocket") {
            return Err(required());
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| parts.method == Method::GET);
        let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        let Some(key) = key.filter(|_| version) else {
            return Err(ApiError::BadRequest("the WebSocket handshake is not one of version 13".to_owned()));
        };
        let accept = derive_accept_key(key.as_bytes());
        Ok(Self { upgrade: Upgrade::WebSocket { accept }, offered: all(&SEC_WEBSOCKET_PROTOCOL) })
    }

    pub(super) fn is_websocket(&self) -> bool {
        self.upgrade != Upgrade::Spdy
    }

    /// The first of the client's protocols that is known here. A client that names none gets the last of `known`, the
    /// oldest.
    ///
    /// # Errors
    /// [`ApiError::Protocol`] if they have none in common.
    pub(super) fn choose(&self, known: &'static [Protocol]) -> Result<&'static Protocol, ApiError> {
        let mut common = self.offered.iter().filter_map(|name| known.iter().find(|protocol| protocol.name == name));
        if let Some(protocol) = common.next().or_else(|| known.last().filter(|_| self.offered.is_empty())) {
            return Ok(protocol);
        }
        let known: Vec<_> = known.iter().map(|protocol| protocol.name).collect();
        Err(ApiError::Protocol(format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            self.offered.join(" "),
            known.join(" "),
        )))
    }

    /// The answer after which the connection is another.
    pub(super) fn response(&self, protocol: &Protocol) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let version = match &self.upgrade {
            Upgrade::Spdy => {
                headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
                STREAM_VERSION
            }
            Upgrade::WebSocket { accept } => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(accept).expect("base64 is plain text"));
                SEC_WEBSOCKET_PROTOCOL
            }
        };
        // Who named none does not understand the choice.
        if !self.offered.is_empty() {
            headers.insert(version, HeaderValue::from_static(protocol.name));
        }
        response
    }
}

/// The parts of a header that may have several values, in one line or in many.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::protocol::{SPDY_COMMANDS, WEBSOCKET_COMMANDS};
    use super::*;

    fn handshake(method: &str, headers: &[(&str, &str)]) -> Result<Handshake, String> {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Handshake::of(&parts).map_err(|error| error.to_string())
    }

    const WEBSOCKET: &[(&str, &str)] = &[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        // The example of RFC 6455.
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn chosen(headers: &[(&str, &str)], known: &'static [Protocol]) -> Result<(&'static str, Vec<String>), String> {
        let handshake = handshake("GET", headers)?;
        let protocol = handshake.choose(known).map_err(|error| error.to_string())?;
        let response = handshake.response(protocol);
        assert_eq!(response.status(), 101);
        let mut headers: Vec<_> =
            response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        headers.sort();
        Ok((protocol.name, headers))
    }

    #[test]
    fn what_the_client_likes_best_of_what_is_known_is_spoken() {
        let answer = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let python = [WEBSOCKET, &[("sec-websocket-protocol", "v9, v4.channel.k8s.io,v5.channel.k8s.io")]].concat();
        let accepted = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let expected =
            ["connection: Upgrade", accepted, "sec-websocket-protocol: v4.channel.k8s.io", "upgrade: websocket"];
        assert_eq!(chosen(&python, WEBSOCKET_COMMANDS), Ok(("v4.channel.k8s.io", answer(&expected))));

        let kubectl = [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
        ];
        let expected = ["connection: Upgrade", "upgrade: SPDY/3.1", "x-stream-protocol-version: v4.channel.k8s.io"];
        assert_eq!(chosen(&kubectl, SPDY_COMMANDS), Ok(("v4.channel.k8s.io", answer(&expected))));

        // Very old ones name none.
        let expected = ["connection: Upgrade", "upgrade: SPDY/3.1"];
        assert_eq!(chosen(&kubectl[..2], SPDY_COMMANDS), Ok(("channel.k8s.io", answer(&expected))));
        let unknown = [WEBSOCKET, &[("sec-websocket-protocol", "chat")]].concat();
        let refusal = chosen(&unknown, WEBSOCKET_COMMANDS).unwrap_err();
        assert!(
            refusal.starts_with("unable to upgrade: unable to negotiate protocol: client supports [chat]"),
            "{refusal}"
        );
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let required = Err("Upgrade request required".to_owned());
        assert_eq!(handshake("GET", &[]), required);
        assert_eq!(handshake("GET", &[("upgrade", "websocket")]), required);
        assert_eq!(handshake("GET", &[("connection", "upgrade"), ("upgrade", "h2c")]), required);
        let bad = Err("the WebSocket handshake is not one of version 13".to_owned());
        assert_eq!(handshake("POST", WEBSOCKET), bad);
        assert_eq!(handshake("GET", &WEBSOCKET[..3]), bad);
        assert_eq!(
            handshake("GET", &[&WEBSOCKET[..2], &[("sec-websocket-version", "8")], &WEBSOCKET[3..]].concat()),
            bad
        );
    }
}
