//! References to images.
//!
//! Source: github.com/distribution/reference v0.6 `regexp.go`, `normalize.go`; kubernetes v1.36
//! `pkg/kubelet/images/image_manager.go`, `applyDefaultImageTag`.

use super::PullPolicy;
use crate::api::field::{FieldError, Path};

/// Where images without a registry in their name come from.
const DOCKER_HUB: &str = "docker.io";

/// When an image is pulled; a template that was defaulted says so.
pub(super) fn pull_policy(written: Option<&str>, at: &Path) -> Result<PullPolicy, FieldError> {
    match written.unwrap_or_default() {
        "Always" => Ok(PullPolicy::Always),
        "IfNotPresent" => Ok(PullPolicy::IfNotPresent),
        "Never" => Ok(PullPolicy::Never),
        other => Err(FieldError::not_supported(at, other, &["Always", "IfNotPresent", "Never"])),
    }
}

/// The reference a runtime is asked for: as written, with `:latest` where there is neither tag nor digest.
///
/// # Errors
/// Why `image` is no reference, in upstream's words.
pub(super) fn reference(image: &str) -> Result<String, String> {
    let wrong = |why: &str| format!("couldn't parse image name \"{image}\": {why}");
    let (named, digest) = match image.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash belongs to a port.
    let name_end = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[name_end..].find(':') {
        Some(colon) => (&named[..name_end + colon], Some(&named[name_end + colon + 1..])),
        None => (named, None),
    };
    if name.chars().any(|letter| letter.is_ascii_uppercase()) && is_name(&name.to_ascii_lowercase()) && !is_name(name) {
        return Err(wrong("invalid reference format: repository name must be lowercase"));
    }
    if !is_name(name) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return Err(wrong("invalid reference format"));
    }
    let suffix = if tag.is_none() && digest.is_none() { ":latest" } else { "" };
    Ok(format!("{image}{suffix}"))
}

/// The repository that a reference names in full: registry and path, without tag and digest. `busybox` is
/// `docker.io/library/busybox`.
pub(super) fn repository(reference: &str) -> String {
    let named = reference.split_once('@').map_or(reference, |(named, _)| named);
    let name_end = named.rfind('/').map_or(0, |slash| slash + 1);
    let name = named[name_end..].find(':').map_or(named, |colon| &named[..name_end + colon]);
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain_like(first) => (first, path),
        _ => (DOCKER_HUB, name),
    };
    match domain {
        DOCKER_HUB | "index.docker.io" if path.contains('/') => format!("{DOCKER_HUB}/{path}"),
        DOCKER_HUB | "index.docker.io" => format!("{DOCKER_HUB}/library/{path}"),
        domain => format!("{domain}/{path}"),
    }
}

/// A reference with its repository in full, as runtimes keep it: `busybox:1` is `docker.io/library/busybox:1`.
pub fn full_reference(reference: &str) -> String {
    let named = reference.split_once('@').map_or(reference, |(named, _)| named);
    let name_end = named.rfind('/').map_or(0, |slash| slash + 1);
    let version = named[name_end..].find(':').map_or(named.len(), |colon| name_end + colon);
    format!("{}{}", repository(reference), &reference[version..])
}

/// `[domain[:port]/]component[/component]…`
fn is_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((first, path)) if is_domain_like(first) => {
            if !is_domain(first) {
                return false;
            }
            path
        }
        _ => name,
    };
    path.split('/').all(is_component)
}

/// Whether the part before the first slash is meant as a registry.
fn is_domain_like(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|letter| letter.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let is_label = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_ipv6 = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|inner| inner.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':'))
    };
    (is_ipv6(host) || host.split('.').all(is_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case letters and digits, in runs separated by `.`, `_`, `__` or dashes.
fn is_component(component: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut runs = component.split(|letter: char| letter.is_ascii() && is_letter(letter as u8)).peekable();
    let separated = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
    !component.is_empty()
        && component.bytes().next().is_some_and(is_letter)
        && component.bytes().next_back().is_some_and(is_letter)
        && runs.all(separated)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+._-".contains(&byte))
            && hex.len() >= 32
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_gets_the_tag_latest_only_where_it_names_no_version() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let rows = [
            ("fluentd", "fluentd:latest"),
            ("fluentd:v1.16", "fluentd:v1.16"),
            ("prom/node-exporter", "prom/node-exporter:latest"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("localhost:5000/a:1", "localhost:5000/a:1"),
            ("Registry.example/a__b-c.d/e", "Registry.example/a__b-c.d/e:latest"),
            ("[fd00::1]:5000/a", "[fd00::1]:5000/a:latest"),
            (&format!("a@{digest}"), &format!("a@{digest}")),
            (&format!("a:1@{digest}"), &format!("a:1@{digest}")),
        ];
        for (image, expected) in rows {
            assert_eq!(reference(image).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_repository_has_its_registry_in_front() {
        for (reference, expected) in [
            ("busybox", "docker.io/library/busybox"),
            ("grafana/promtail:1", "docker.io/grafana/promtail"),
            ("index.docker.io/busybox:1", "docker.io/library/busybox"),
            ("localhost/a:1", "localhost/a"),
            ("a.example:5000/b/c:1@sha256:00", "a.example:5000/b/c"),
        ] {
            assert_eq!(repository(reference), expected);
        }
        assert_eq!(full_reference("busybox:1"), "docker.io/library/busybox:1");
        assert_eq!(full_reference("a.example:5000/b/c@sha256:00"), "a.example:5000/b/c@sha256:00");
    }

    #[test]
    fn what_is_no_reference_is_told_as_upstream_tells_it() {
        let bad = [
            "",
            ":1",
            "a:",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a@sha256:12",
            "a:é",
            "é",
            "x.y:z/a",
        ];
        for image in bad {
            let message = format!("couldn't parse image name \"{image}\": invalid reference format");
            assert_eq!(reference(image), Err(message));
        }
        let message =
            "couldn't parse image name \"Fluentd:1\": invalid reference format: repository name must be lowercase";
        assert_eq!(reference("Fluentd:1"), Err(message.to_owned()));
    }
}
