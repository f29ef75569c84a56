//! Large answers are compressed for clients that take gzip.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/writers.go`: the threshold, and the
//! level.

use std::io::Write;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http_body_util::BodyExt;
use hyper::body::Body as _;

/// Smaller answers are sent as they are.
const THRESHOLD_BYTES: u64 = 128 * 1024;

/// Compresses an answer whose size is known and large. Watches and logs flow on as they come.
pub async fn compress(request: Request, next: Next) -> Response {
    let takes_gzip = takes_gzip(request.headers());
    let response = next.run(request).await;
    let size = response.body().size_hint().exact().unwrap_or_default();
    if !takes_gzip || size < THRESHOLD_BYTES || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // The body is in memory already: it has a size.
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Response::from_parts(parts, Body::empty());
    };
    let compressed = tokio::task::spawn_blocking(move || gzip(&body)).await.ok();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(compressed.unwrap_or_default()))
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn only_large_answers_and_only_for_who_takes_them() {
        let text = |size: usize| "x".repeat(size);
        let router = Router::new()
            .route("/large", get(move || async move { text(200_000) }))
            .route("/small", get(move || async move { text(100) }))
            .layer(from_fn(compress));
        let ask = async |path: &str, encoding: &str| {
            let request =
                http::Request::builder().uri(path).header(ACCEPT_ENCODING, encoding).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let compressed = response.headers().contains_key(CONTENT_ENCODING);
            (compressed, response.into_body().collect().await.unwrap().to_bytes())
        };
        let (compressed, body) = ask("/large", "deflate, gzip;q=1.0").await;
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut plain).unwrap();
        assert_eq!((compressed, plain.len()), (true, 200_000));
        assert!(!ask("/small", "gzip").await.0);
        assert!(!ask("/large", "br").await.0);
    }
}
