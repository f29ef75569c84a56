//! GET requests over HTTP/1.1, with and without TLS.
//!
//! Source: kubernetes v1.36 `pkg/probe/http/http.go` and `request.go`; of Go's `net/http` what these rely on.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use ::http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, LOCATION, TRAILER, TRANSFER_ENCODING, USER_AGENT,
};
use ::http::uri::{PathAndQuery, Scheme};
use ::http::{HeaderMap, Request, Response, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{OUTPUT_BYTES_MAX, VERSION, address, connect, tls, within, words};
use crate::error::Chain;
use crate::plan::probe::Attempt;
use crate::podspec::HttpGet;

/// So many requests are sent before it is said that they lead nowhere.
const REQUESTS_MAX: usize = 10;
/// What of a user's headers is not the user's to say: it belongs to a body, and there is none.
const OF_BODY: [HeaderName; 3] = [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER];
/// What is sent once however often it is given.
const FIRST_COUNTS: [HeaderName; 2] = [HOST, USER_AGENT];
/// What Go says when the time is over.
const TIMED_OUT: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
/// The same after the beginning of an answer.
const BODY_TIMED_OUT: &str = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";

/// An answer, the one at the end of all redirects that were followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The first [`OUTPUT_BYTES_MAX`] bytes, as text.
    pub body: String,
}

/// Why there is no answer, as Go's client words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// What was asked for makes no request.
    #[error("{0}")]
    Request(String),
    /// The pod has no address yet, and no host is given.
    #[error("the pod has no address")]
    NoAddress,
    /// No answer came.
    #[error("Get \"{url}\": {words}")]
    Answer {
        /// The last one asked.
        url: Uri,
        /// What happened instead.
        words: String,
    },
    /// What answered does not speak TLS.
    #[error("Get \"{url}\": http: server gave HTTP response to HTTPS client")]
    NoTls {
        /// The last one asked.
        url: Uri,
    },
    /// The answer began and broke off.
    #[error("{0}")]
    Body(String),
}

/// Sends a request and judges the answer: anything from 200 to 399 is a success.
pub async fn http(get: &HttpGet, ip: Option<IpAddr>, timeout: Duration) -> Attempt {
    let user_agent = format!("kube-probe/{VERSION}");
    match send(get, ip, &user_agent, Some(Instant::now() + timeout)).await {
        Ok(Reply { status: 200..=299, .. }) => Attempt::Success,
        Ok(Reply { status: 300..=399, body }) => {
            Attempt::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        Ok(Reply { status, .. }) => Attempt::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(error @ (HttpError::Request(_) | HttpError::NoAddress | HttpError::Body(_))) => {
            Attempt::Unknown(error.to_string())
        }
        Err(error @ (HttpError::Answer { .. } | HttpError::NoTls { .. })) => Attempt::Failure(error.to_string()),
    }
}

/// Sends the request of a hook, for as long as it takes; any answer will do.
///
/// # Errors
/// [`HttpError`].
pub async fn get(get: &HttpGet, ip: Option<IpAddr>) -> Result<Reply, HttpError> {
    send(get, ip, &format!("kube-lifecycle/{VERSION}"), None).await
}

/// Sends a request, and another one for each redirect that stays with the host.
async fn send(
    get: &HttpGet,
    ip: Option<IpAddr>,
    user_agent: &str,
    deadline: Option<Instant>,
) -> Result<Reply, HttpError> {
    let port = get.port.clone().map_err(HttpError::Request)?;
    let host = get.host.clone().or_else(|| ip.map(|ip| ip.to_string())).ok_or(HttpError::NoAddress)?;
    let mut url = Uri::builder()
        .scheme(if get.https { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(address(&host, port))
        .path_and_query(get.path.as_str())
        .build()
        .map_err(|error| HttpError::Request(format!("{}: {error}", address(&host, port))))?;
    let mut headers = headers(get, &url, user_agent)?;
    for _ in 0..REQUESTS_MAX {
        match ask(&url, &headers, deadline).await? {
            Answer::Final(reply) => return Ok(reply),
            Answer::Elsewhere { url: next, keeps_host } => {
                if !keeps_host {
                    headers.insert(HOST, host_header(&next)?);
                }
                url = next;
            }
        }
    }
    Err(HttpError::Answer { url, words: format!("stopped after {REQUESTS_MAX} redirects") })
}

/// What a request leads to.
enum Answer {
    Final(Reply),
    Elsewhere {
        url: Uri,
        /// The redirect names no host of its own, so what was given as `Host` still holds.
        keeps_host: bool,
    },
}

/// The headers as they go over the wire. A name may be there more than once; of `Host` and `User-Agent` the first counts.
fn headers(get: &HttpGet, url: &Uri, user_agent: &str) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &get.headers {
        let bad = || HttpError::Request(format!("net/http: invalid header field value for \"{name}\""));
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad())?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let is_known = FIRST_COUNTS.contains(&name) && headers.contains_key(&name);
        let counts = !is_known && !OF_BODY.contains(&name);
        if counts {
            headers.append(name, value);
        }
    }
    let is_empty = |headers: &HeaderMap, name: &HeaderName| headers.get(name).is_some_and(HeaderValue::is_empty);
    if !headers.contains_key(HOST) || is_empty(&headers, &HOST) {
        headers.insert(HOST, host_header(url)?);
    }
    let user_agent = HeaderValue::from_str(user_agent).expect("the name is plain text");
    for (name, default) in [(USER_AGENT, user_agent), (ACCEPT, HeaderValue::from_static("*/*"))] {
        if is_empty(&headers, &name) {
            headers.remove(name);
        } else if !headers.contains_key(&name) {
            headers.insert(name, default);
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

fn host_header(url: &Uri) -> Result<HeaderValue, HttpError> {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    HeaderValue::from_str(authority).map_err(|error| HttpError::Request(error.to_string()))
}

/// Sends one request over a connection of its own.
async fn ask(url: &Uri, headers: &HeaderMap, deadline: Option<Instant>) -> Result<Answer, HttpError> {
    let failed = |words| HttpError::Answer { url: url.clone(), words };
    let timed_out = || failed(TIMED_OUT.to_owned());
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_https = url.scheme() == Some(&Scheme::HTTPS);
    let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });

    let stream = within(deadline, connect(host, port)).await.ok_or_else(timed_out)?.map_err(failed)?;
    if !is_https {
        return exchange(stream, url, headers, deadline).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(format!("tls: {error}")))?;
    let shaken = within(deadline, tls::ANY.connect(name, stream)).await.ok_or_else(timed_out)?;
    match shaken {
        Ok(stream) => exchange(stream, url, headers, deadline).await,
        Err(error) if tls::is_not_spoken(&error) => Err(HttpError::NoTls { url: url.clone() }),
        Err(error) => Err(failed(words(&error))),
    }
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin,
    url: &Uri,
    headers: &HeaderMap,
    deadline: Option<Instant>,
) -> Result<Answer, HttpError> {
    let failed = |words| HttpError::Answer { url: url.clone(), words };
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    *request.headers_mut() = headers.clone();
    // Servers that take names of headers literally know the form in which Go sends them.
    let handshake = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(hyper_words(&error)))?;
    let asking = async move {
        let response = within(deadline, sender.send_request(request)).await;
        let response = response.ok_or_else(|| failed(TIMED_OUT.to_owned()))?;
        let response = response.map_err(|error| failed(hyper_words(&error)))?;
        match redirect(url, &response) {
            Some(Ok((url, keeps_host))) => Ok(Answer::Elsewhere { url, keeps_host }),
            Some(Err(words)) => Err(failed(words)),
            None => {
                let status = response.status().as_u16();
                let body = within(deadline, body(response.into_body())).await;
                let body = body.unwrap_or_else(|| Err(BODY_TIMED_OUT.to_owned())).map_err(HttpError::Body)?;
                Ok(Answer::Final(Reply { status, body }))
            }
        }
    };
    let (mut asking, connection) = (pin!(asking), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        // What it has read until its end is still to be taken.
        _ = connection => asking.await,
    }
}

/// The beginning of a body.
async fn body(mut body: Incoming) -> Result<String, String> {
    let mut read = Vec::new();
    while read.len() < OUTPUT_BYTES_MAX
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame.map_err(|error| hyper_words(&error))?.into_data() {
            read.extend_from_slice(&data);
        }
    }
    read.truncate(OUTPUT_BYTES_MAX);
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// Where an answer says to go on, and whether it leaves the host open; none if it is to be taken as it is, as one that leads
/// to another host is.
fn redirect<B>(from: &Uri, response: &Response<B>) -> Option<Result<(Uri, bool), String>> {
    let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|location| moved && !location.is_empty())?;
    let location = String::from_utf8_lossy(location.as_bytes());
    match join(from, &location) {
        None => Some(Err(format!("failed to parse Location header \"{location}\""))),
        Some((to, _)) if to.host() != from.host() => None,
        Some((to, _)) if to.scheme().is_none_or(|scheme| ![Scheme::HTTP, Scheme::HTTPS].contains(scheme)) => {
            Some(Err(format!("unsupported protocol scheme in \"{location}\"")))
        }
        Some(next) => Some(Ok(next)),
    }
}

/// The URL that `reference` means at `from`, and whether the reference leaves the host open.
///
/// Source: RFC 3986 section 5.2.
fn join(from: &Uri, reference: &str) -> Option<(Uri, bool)> {
    let reference = reference.split('#').next().unwrap_or_default();
    let scheme = from.scheme_str()?;
    if reference.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphabetic())) {
        return Some((reference.parse().ok()?, false));
    }
    if reference.starts_with("//") {
        return Some((format!("{scheme}:{reference}").parse().ok()?, false));
    }
    let path = if reference.starts_with('/') {
        reference.to_owned()
    } else if reference.is_empty() {
        from.path_and_query()?.to_string()
    } else if reference.starts_with('?') {
        format!("{}{reference}", from.path())
    } else {
        let (folder, _) = from.path().rsplit_once('/')?;
        without_dots(&format!("{folder}/{reference}"))
    };
    let parts = Uri::builder().scheme(scheme).authority(from.authority()?.as_str()).path_and_query(path);
    Some((parts.build().ok()?, true))
}

/// The path with `.` and `..` carried out.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// hyper wraps what the system said.
fn hyper_words(error: &hyper::Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let from_system = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
    match from_system {
        Some(system) => format!("read: {}", words(system)),
        None if error.is_incomplete_message() => "EOF".to_owned(),
        None => Chain(error).to_string(),
    }
}
