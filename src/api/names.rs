//! The syntax of names, keys and label values, with Kubernetes' words for what breaks it.
//!
//! Each function answers with the messages against a value, empty when there are none.
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/validation/validation.go`.

/// The longest label value, DNS label and name part of a qualified name, in bytes.
const MAX_LABEL_BYTES: usize = 63;
/// The longest DNS subdomain, in bytes.
const MAX_SUBDOMAIN_BYTES: usize = 253;

const DNS_LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_NAME_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_NAME_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                                   with an alphanumeric character";

/// `(e.g. '<example>', regex used for validation is '<regex>')` after a rule, as upstream's `RegexError`.
pub(crate) fn regex_message(rule: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    let examples = if examples.is_empty() { String::new() } else { format!("e.g. {}", examples.join(" or ")) };
    format!("{rule} ({examples}regex used for validation is '{regex}')")
}

/// `must be no more than <max> bytes`.
pub(crate) fn max_bytes_message(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be between <low> and <high>, inclusive`.
pub(crate) fn range_message(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// Not empty, begins and ends with an `edge` character and has `inner` ones between.
pub(crate) fn is_framed(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => edge(*only),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|byte| inner(*byte)),
    }
}

pub(crate) fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_dns_label_syntax(text: &str) -> bool {
    is_framed(text, is_lower_alphanumeric, |byte| is_lower_alphanumeric(byte) || byte == b'-')
}

fn is_dns_subdomain_syntax(text: &str) -> bool {
    text.split('.').all(is_dns_label_syntax)
}

fn is_qualified_part_syntax(text: &str) -> bool {
    is_framed(
        text,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
    )
}

/// Against a DNS label (RFC 1123): names of namespaces, containers, volumes.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > MAX_LABEL_BYTES {
        messages.push(max_bytes_message(MAX_LABEL_BYTES));
    }
    if !is_dns_label_syntax(value) {
        messages.push(if is_dns_subdomain_syntax(value) {
            "must not contain dots".to_owned()
        } else {
            regex_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                DNS_LABEL_REGEX,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// Against a DNS subdomain (RFC 1123): names of most objects.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > MAX_SUBDOMAIN_BYTES {
        messages.push(max_bytes_message(MAX_SUBDOMAIN_BYTES));
    }
    if !is_dns_subdomain_syntax(value) {
        messages.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            &format!("{DNS_LABEL_REGEX}(\\.{DNS_LABEL_REGEX})*"),
            &["example.com"],
        ));
    }
    messages
}

/// Against a DNS subdomain whose labels may begin with an underscore and have more of them: DNS search domains.
pub fn dns_subdomain_with_underscore(value: &str) -> Vec<String> {
    let is_label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        is_framed(label, is_lower_alphanumeric, |byte| is_lower_alphanumeric(byte) || matches!(byte, b'-' | b'_'))
    };
    let mut messages = Vec::new();
    if value.len() > MAX_SUBDOMAIN_BYTES {
        messages.push(max_bytes_message(MAX_SUBDOMAIN_BYTES));
    }
    if !value.split('.').all(is_label) {
        let label = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        messages.push(regex_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
             must start and end with an alphanumeric character",
            &format!("{label}(\\.{label})*"),
            &["example.com"],
        ));
    }
    messages
}

/// Against a qualified name, `[<DNS subdomain>/]<name>`: label keys, annotation keys, finalizers, taint keys.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages.extend(dns_subdomain(prefix).into_iter().map(|message| format!("prefix part {message}")));
            }
            *name
        }
        _ => {
            let rule = regex_message(QUALIFIED_NAME_RULE, QUALIFIED_NAME_REGEX, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL_BYTES {
        messages.push(format!("name part {}", max_bytes_message(MAX_LABEL_BYTES)));
    }
    if !is_qualified_part_syntax(name) {
        let rule = regex_message(QUALIFIED_NAME_RULE, QUALIFIED_NAME_REGEX, &["MyName", "my.name", "123-abc"]);
        messages.push(format!("name part {rule}"));
    }
    messages
}

/// Against the value of a label; the empty string is one.
pub fn label_value(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > MAX_LABEL_BYTES {
        messages.push(max_bytes_message(MAX_LABEL_BYTES));
    }
    if !value.is_empty() && !is_qualified_part_syntax(value) {
        messages.push(regex_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &format!("({QUALIFIED_NAME_REGEX})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// Against a key of a ConfigMap or a Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > MAX_SUBDOMAIN_BYTES {
        messages.push(max_bytes_message(MAX_SUBDOMAIN_BYTES));
    }
    let is_key_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if value.is_empty() || !value.bytes().all(is_key_byte) {
        messages.push(regex_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => messages.push("must not be '.'".to_owned()),
        ".." => messages.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// Against the name of an environment variable: printable ASCII without `=` (KEP-4369).
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// Against the name of a container port (RFC 6335, lower case only).
pub fn port_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.len() > 15 {
        messages.push(max_bytes_message(15));
    }
    if value.is_empty() || !value.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// Against a port number, 1 to 65535.
pub fn port_number(value: i32) -> Vec<String> {
    if (1..=65535).contains(&value) { Vec::new() } else { vec![range_message(1, 65535)] }
}

/// Against an IP address, of either family.
///
/// Upstream also takes parts with leading zeros, which the C library and Go read differently; they are refused here.
pub fn ip_address(value: &str) -> Vec<String> {
    if value.parse::<std::net::IpAddr>().is_ok() {
        return Vec::new();
    }
    vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
}

/// Against the name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![regex_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// Against a percentage such as `10%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// A name that can be one segment of a path and nothing else, as roles have it.
///
/// Source: `k8s.io/apimachinery/pkg/api/validation/path/name.go`, `IsValidPathSegmentName`.
pub fn path_segment(value: &str) -> Vec<String> {
    if let "." | ".." = value {
        return vec![format!("may not be '{value}'")];
    }
    let held = ["/", "%"].into_iter().filter(|illegal| value.contains(illegal));
    held.map(|illegal| format!("may not contain '{illegal}'")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `good` pass; each of `bad` is refused with messages that hold the words beside it, in order.
    fn check(rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[(&str, &[&str])]) {
        for value in good {
            assert_eq!(rule(value), Vec::<String>::new(), "{value:?}");
        }
        for (value, words) in bad {
            let messages = rule(value);
            assert_eq!(messages.len(), words.len(), "{value:?}: {messages:?}");
            for (message, words) in messages.iter().zip(*words) {
                assert!(message.contains(words), "{value:?}: {message:?} has no {words:?}");
            }
        }
    }

    #[test]
    fn names_follow_their_syntax() {
        let long = "a".repeat(64);
        check(
            dns_label,
            &["a", "0", "a-b", "a--b"],
            &[
                ("", &["label must consist"]),
                ("a.b", &["must not contain dots"]),
                ("A", &["label must consist"]),
                ("-a", &["label must consist"]),
                (&long, &["no more than 63 bytes"]),
            ],
        );
        check(
            dns_subdomain,
            &["a", "a.b-c.d", &long],
            &[("a..b", &["subdomain must consist"]), ("a.", &["subdomain must consist"]), ("a_b", &["subdomain"])],
        );
        check(
            qualified_name,
            &["a", "A_b.c", "example.com/A"],
            &[
                ("", &["name part must be non-empty", "name part must consist"]),
                ("/a", &["prefix part must be non-empty"]),
                ("A/b", &["prefix part a lowercase RFC 1123 subdomain"]),
                ("a/b/c", &["a qualified name must consist"]),
                ("a b", &["name part must consist"]),
            ],
        );
        check(label_value, &["", "a", "A_b.1"], &[("a/b", &["a valid label"]), ("-a", &["a valid label"])]);
        check(
            config_key,
            &["a", "A.b_c-d", ".a"],
            &[
                ("", &["config key"]),
                ("..", &["must not be '..'"]),
                ("..a", &["start with '..'"]),
                ("a/b", &["config key"]),
            ],
        );
        check(
            env_name,
            &["A", "my.env-name", "1 a"],
            &[("", &["non-empty"]), ("a=b", &["printable"]), ("ä", &["printable"])],
        );
        check(
            port_name,
            &["http", "a-1"],
            &[
                ("1", &["at least one letter"]),
                ("a--b", &["consecutive"]),
                ("-a", &["begin or end"]),
                ("UPPER", &["only alpha-numeric", "at least one letter"]),
                ("aaaaaaaaaaaaaaaa", &["no more than 15"]),
            ],
        );
    }

    #[test]
    fn a_regex_message_joins_its_examples_as_upstream_does() {
        assert_eq!(
            regex_message("must be so", "[a]", &["x", "y"]),
            "must be so (e.g. 'x',  or 'y', regex used for validation is '[a]')"
        );
    }
}
