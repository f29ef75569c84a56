//! The clients against real servers on the loopback, each of which says what the test wants it to.

use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, HeaderValue, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::podspec::HttpGet;

/// Longer than anything here takes that is not to run out of time.
const LONG: Duration = Duration::from_secs(20);
/// For what is to run out of time.
const SHORT: Duration = Duration::from_millis(200);
const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that gives one answer to each connection, in order, and keeps what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start<const N: usize>(answers: [&str; N]) -> Self {
        Self::serve(answers.map(str::to_owned).into(), None).await
    }

    async fn serve(answers: Vec<String>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let requests = asked.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let request = match &tls {
                    Some(tls) => talk(tls.accept(stream).await.unwrap(), &answer).await,
                    None => talk(stream, &answer).await,
                };
                requests.lock().unwrap().push(request);
            }
        });
        Self { port, asked }
    }

    fn url(&self, path: &str) -> HttpGet {
        HttpGet { https: false, host: None, port: Ok(self.port), path: path.to_owned(), headers: vec![] }
    }

    /// The requests so far, this server's port written as `PORT`.
    fn asked(&self) -> Vec<String> {
        let port = format!(":{}", self.port);
        self.asked.lock().unwrap().iter().map(|request| request.replace(&port, ":PORT")).collect()
    }
}

/// Reads a request, or the beginning of TLS, and answers. After an answer that ends in dots more is to come, and never does.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let mut request = Vec::new();
    let is_whole = |request: &[u8]| request.ends_with(b"\r\n\r\n") || request.first() == Some(&22);
    while !is_whole(&request) && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
    let said = answer.strip_suffix("...");
    stream.write_all(said.unwrap_or(answer).as_bytes()).await.unwrap();
    if said.is_some() {
        tokio::time::sleep(LONG).await;
    }
    drop(stream.shutdown().await);
    String::from_utf8_lossy(&request).into_owned()
}

fn failure(words: &str) -> Attempt {
    Attempt::Failure(words.to_owned())
}

fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_request_has_the_headers_of_the_kubelets_and_those_that_are_asked_for() {
    let server = Server::start([OK, OK, OK]).await;
    let mut request = server.url("/healthz?full=1");
    assert_eq!(http(&request, Some(LOCAL), LONG).await, Attempt::Success);
    request.headers = headers(&[
        ("x-one", "1"),
        ("X-One", "2"),
        ("host", "example.com"),
        ("Host", "ignored"),
        ("User-Agent", "mine"),
        ("Accept", ""),
        ("Content-Length", "7"),
    ]);
    assert_eq!(http(&request, Some(LOCAL), LONG).await, Attempt::Success);
    request.headers = headers(&[("User-Agent", ""), ("Accept", "text/plain")]);
    assert_eq!(get(&request, Some(LOCAL)).await, Ok(Reply { status: 200, body: "ok".to_owned() }));

    let sorted = |request: &String| {
        let mut lines: Vec<_> = request.trim_end().split("\r\n").map(str::to_owned).collect();
        lines[1..].sort();
        lines
    };
    let asked: Vec<_> = server.asked().iter().map(sorted).collect();
    let line = "GET /healthz?full=1 HTTP/1.1";
    let expected = [
        vec![line, "Accept: */*", "Connection: close", "Host: 127.0.0.1:PORT", "User-Agent: kube-probe/1.36"],
        vec![line, "Connection: close", "Host: example.com", "User-Agent: mine", "X-One: 1", "X-One: 2"],
        vec![line, "Accept: text/plain", "Connection: close", "Host: 127.0.0.1:PORT"],
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn an_answer_is_judged_by_its_status() {
    let answer = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nbody");
    let warning = || Attempt::Warning("Probe terminated redirects, Response body: body".to_owned());
    for (status, expected) in [
        ("200 OK", Attempt::Success),
        ("299 Fine", Attempt::Success),
        ("300 Many", warning()),
        ("302 Found", warning()),
        ("404 Not Found", failure("HTTP probe failed with statuscode: 404")),
        ("500 Oops", failure("HTTP probe failed with statuscode: 500")),
    ] {
        let server = Server::serve(vec![answer(status)], None).await;
        assert_eq!(http(&server.url("/"), Some(LOCAL), LONG).await, expected, "{status}");
    }
}

#[tokio::test]
async fn only_redirects_to_the_same_host_are_followed() {
    let to = |location: &str| format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 4\r\n\r\ngone");
    let listener = Server::serve(vec![to("../c?d=/e"), to("//127.0.0.1/x")], None).await;
    // The second leads to port 80 of the same host, where nobody listens.
    let answer = http(&listener.url("/a/b"), Some(LOCAL), LONG).await;
    assert_eq!(answer, failure("Get \"http://127.0.0.1/x\": dial tcp 127.0.0.1:80: connect: connection refused"));
    let lines: Vec<_> = listener.asked().iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["GET /a/b HTTP/1.1", "GET /c?d=/e HTTP/1.1"]);

    for elsewhere in ["http://localhost/", "https://example.com/x", "//example.com"] {
        let server = Server::serve(vec![to(elsewhere)], None).await;
        let warning = Attempt::Warning("Probe terminated redirects, Response body: gone".to_owned());
        assert_eq!(http(&server.url("/"), Some(LOCAL), LONG).await, warning, "{elsewhere}");
    }

    let round = Server::serve(vec![to("/again"); 10], None).await;
    let expected = format!("Get \"http://127.0.0.1:{}/again\": stopped after 10 redirects", round.port);
    assert_eq!(http(&round.url("/"), Some(LOCAL), LONG).await, failure(&expected));

    // A host name that was asked for holds until another one is named.
    let server = Server::serve(vec![to("/next"), to("http://127.0.0.1:1/")], None).await;
    let request = HttpGet { headers: headers(&[("Host", "example.com")]), ..server.url("/") };
    http(&request, Some(LOCAL), LONG).await;
    assert!(server.asked().iter().all(|request| request.contains("\r\nHost: example.com\r\n")));
}

#[tokio::test]
async fn what_goes_wrong_on_the_way_is_told_in_gos_words() {
    let closed = TcpListener::bind((LOCAL, 0)).await.unwrap().local_addr().unwrap().port();
    let request = |port| HttpGet { https: false, host: None, port: Ok(port), path: "/x".to_owned(), headers: vec![] };
    let url = |port| format!("Get \"http://127.0.0.1:{port}/x\": ");
    let refused = format!("{}dial tcp 127.0.0.1:{closed}: connect: connection refused", url(closed));
    assert_eq!(http(&request(closed), Some(LOCAL), LONG).await, failure(&refused));

    let silent = Server::start(["..."]).await;
    let late =
        format!("{}context deadline exceeded (Client.Timeout exceeded while awaiting headers)", url(silent.port));
    assert_eq!(http(&request(silent.port), Some(LOCAL), SHORT).await, failure(&late));

    let hangs_up = Server::start([""]).await;
    assert_eq!(http(&request(hangs_up.port), Some(LOCAL), LONG).await, failure(&format!("{}EOF", url(hangs_up.port))));

    let half = Server::start(["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n..."]).await;
    let late = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    assert_eq!(http(&request(half.port), Some(LOCAL), SHORT).await, Attempt::Unknown(late.to_owned()));

    let unknown = HttpGet { port: Err("port web not found".to_owned()), ..request(1) };
    assert_eq!(http(&unknown, Some(LOCAL), LONG).await, Attempt::Unknown("port web not found".to_owned()));
    assert_eq!(http(&request(1), None, LONG).await, Attempt::Unknown("the pod has no address".to_owned()));
}

#[tokio::test]
async fn no_more_is_read_than_is_kept() {
    let body = "x".repeat(OUTPUT_BYTES_MAX + 1);
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}...", body.len() + 1);
    let server = Server::serve(vec![whole], None).await;
    let reply = get(&server.url("/"), Some(LOCAL)).await.unwrap();
    assert_eq!(reply.body.len(), OUTPUT_BYTES_MAX);
}

#[tokio::test]
async fn any_certificate_will_do_and_plain_http_will_not() {
    let key = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], der)
        .unwrap();
    let secure = Server::serve(vec![OK.to_owned()], Some(TlsAcceptor::from(Arc::new(config)))).await;
    let request = HttpGet { https: true, ..secure.url("/") };
    assert_eq!(http(&request, Some(LOCAL), LONG).await, Attempt::Success);

    let plain = Server::start(["HTTP/1.1 400 Bad Request\r\n\r\n"; 2]).await;
    let request = HttpGet { https: true, ..plain.url("/") };
    let words = format!("Get \"https://127.0.0.1:{}/\": http: server gave HTTP response to HTTPS client", plain.port);
    assert_eq!(http(&request, Some(LOCAL), LONG).await, failure(&words));
    assert!(matches!(get(&request, Some(LOCAL)).await, Err(HttpError::NoTls { .. })));
}

#[tokio::test]
async fn a_port_is_open_or_it_is_not() {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(tcp("127.0.0.1", port, LONG).await, Attempt::Success);
    assert_eq!(tcp("localhost", port, LONG).await, Attempt::Success);
    drop(listener);
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(tcp("127.0.0.1", port, LONG).await, failure(&refused));
    let unknown = "dial tcp: lookup nowhere.invalid: no such host";
    assert_eq!(tcp("nowhere.invalid", port, LONG).await, failure(unknown));
}

/// A server that answers every call with a message and with a status in the trailers.
async fn grpc_server(message: &'static [u8], trailers: &'static [(&'static str, &'static str)]) -> u16 {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await?.to_bytes();
        assert_eq!(asked, Bytes::from_static(b"\0\0\0\0\x05\x0a\x03web"));
        let trailers: HeaderMap =
            trailers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        let body = Full::new(Bytes::from_static(message)).with_trailers(async move { Some(Ok(trailers)) });
        Ok::<_, hyper::Error>(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    });
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(stream), answer).await);
    });
    port
}

#[tokio::test]
async fn only_a_service_that_serves_is_well() {
    const DONE: &[(&str, &str)] = &[("grpc-status", "0")];
    const NOT_FOUND: &[(&str, &str)] = &[("grpc-status", "5"), ("grpc-message", "unknown service")];
    const UNIMPLEMENTED: &[(&str, &str)] = &[("grpc-status", "12"), ("grpc-message", "no Health")];
    let none = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): no Health";
    let not_found = "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service";
    for (message, trailers, expected) in [
        (&b"\0\0\0\0\x02\x08\x01"[..], DONE, Attempt::Success),
        (b"\0\0\0\0\x02\x08\x02", DONE, failure("service unhealthy (responded with \"NOT_SERVING\")")),
        (b"\0\0\0\0\0", DONE, failure("service unhealthy (responded with \"UNKNOWN\")")),
        (b"", NOT_FOUND, failure(not_found)),
        (b"", UNIMPLEMENTED, failure(none)),
    ] {
        let port = grpc_server(message, trailers).await;
        assert_eq!(grpc("127.0.0.1", port, "web", LONG).await, expected);
    }
}

#[tokio::test]
async fn a_grpc_server_that_is_not_there_or_says_nothing_runs_out_of_time() {
    let silent = Server::start(["..."]).await;
    let late = "timeout: health rpc did not complete within 200ms";
    assert_eq!(grpc("127.0.0.1", silent.port, "", SHORT).await, failure(late));
    let closed = TcpListener::bind((LOCAL, 0)).await.unwrap().local_addr().unwrap().port();
    let late =
        format!("timeout: failed to connect service \"127.0.0.1:{closed}\" within 200ms: context deadline exceeded");
    assert_eq!(grpc("127.0.0.1", closed, "", SHORT).await, failure(&late));
}
