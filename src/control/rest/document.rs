//! A document that is the same for every client until the server itself changes.
//!
//! Discovery and OpenAPI are such documents. They are built on first use and their bytes are shared by all answers.

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Bytes with the entity tag of their content.
#[derive(Debug)]
pub struct Document {
    /// The body.
    pub body: Bytes,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// SHA-256 of the body in lower-case hex: changes whenever the body does.
    pub hash: String,
}

impl Document {
    /// A document of these bytes.
    pub fn new(body: impl Into<Bytes>, content_type: &'static str) -> Self {
        let body = body.into();
        let hash = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { body, content_type, hash }
    }

    /// A document of this value as compact JSON.
    pub fn json(content: &Value, content_type: &'static str) -> Self {
        // Boxed, so that what the string grew to while written is not kept.
        Self::new(content.to_string().into_bytes().into_boxed_slice(), content_type)
    }

    /// Value of `ETag`.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.hash)
    }

    /// The client has this content already, by its `If-None-Match`: answer 304 without a body.
    ///
    /// Source: RFC 9110, section 13.1.2 (weak comparison).
    pub fn is_known_to(&self, if_none_match: &str) -> bool {
        let etag = self.etag();
        if_none_match.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == etag)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_that_names_the_tag_knows_the_document() {
        let document = Document::json(&json!({"a": 1}), "application/json");
        assert_eq!(document.body, r#"{"a":1}"#);
        assert_eq!(document.hash, "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862");
        let etag = document.etag();
        for known in [etag.clone(), "*".to_owned(), format!("W/{etag}"), format!("\"x\", {etag}")] {
            assert!(document.is_known_to(&known), "{known}");
        }
        for unknown in ["", "\"x\"", &document.hash] {
            assert!(!document.is_known_to(unknown), "{unknown}");
        }
        assert_ne!(Document::json(&json!({"a": 2}), "application/json").hash, document.hash);
    }
}
