//! Environment variables as written, `$(NAME)` in texts, and files of variables.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go` (`makeEnvironmentVariables`),
//! `third_party/forked/golang/expansion/expand.go`.

use k8s_openapi::api::core::v1 as k8s;

use super::downward::Sources;
use super::objects::Reference;
use super::{ApiAddress, EnvFile, EnvFrom, EnvSource, EnvVar};
use crate::api::field::{FieldError, Path};

/// `env` of one container.
pub(super) fn variables(
    container: &k8s::Container,
    sources: &Sources<'_>,
    at: &Path,
) -> Result<Vec<EnvVar>, FieldError> {
    let mut variables = Vec::new();
    for (index, written) in container.env.iter().flatten().enumerate() {
        let at = at.child("env").index(index);
        let source = match (written.value.as_deref(), &written.value_from) {
            (None | Some(""), Some(source)) => sourced(source, &container.name, sources, &at.child("valueFrom"))?,
            (value, _) => EnvSource::Text(value.unwrap_or_default().to_owned()),
        };
        variables.push(EnvVar { name: written.name.clone(), source });
    }
    Ok(variables)
}

fn sourced(
    source: &k8s::EnvVarSource,
    container: &str,
    sources: &Sources<'_>,
    at: &Path,
) -> Result<EnvSource, FieldError> {
    let is_optional = |optional: Option<bool>| optional == Some(true);
    Ok(match source {
        k8s::EnvVarSource { field_ref: Some(field), .. } => {
            EnvSource::Field(sources.field(field, &at.child("fieldRef"))?)
        }
        k8s::EnvVarSource { resource_field_ref: Some(resource), .. } => {
            EnvSource::Field(sources.resource(resource, container, &at.child("resourceFieldRef"))?)
        }
        k8s::EnvVarSource { config_map_key_ref: Some(of), .. } => EnvSource::Key {
            object: Reference::config_map(&of.name),
            key: of.key.clone(),
            optional: is_optional(of.optional),
        },
        k8s::EnvVarSource { secret_key_ref: Some(of), .. } => EnvSource::Key {
            object: Reference::secret(&of.name),
            key: of.key.clone(),
            optional: is_optional(of.optional),
        },
        k8s::EnvVarSource { file_key_ref: Some(of), .. } => EnvSource::FileKey {
            file: EnvFile { volume: of.volume_name.clone(), path: of.path.clone() },
            key: of.key.clone(),
            optional: is_optional(of.optional),
        },
        _ => {
            let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                          `fileKeyRef`";
            return Err(FieldError::required(at, detail));
        }
    })
}

/// `envFrom` of one container.
pub(super) fn from(container: &k8s::Container) -> Vec<EnvFrom> {
    let object = |source: &k8s::EnvFromSource| {
        let config_map = source.config_map_ref.as_ref();
        let config_map = config_map.map(|of| (Reference::config_map(&of.name), of.optional));
        let secret = || source.secret_ref.as_ref().map(|of| (Reference::secret(&of.name), of.optional));
        config_map.or_else(secret)
    };
    let source = |source: &k8s::EnvFromSource| {
        let (object, optional) = object(source)?;
        Some(EnvFrom { prefix: source.prefix.clone().unwrap_or_default(), object, optional: optional == Some(true) })
    };
    container.env_from.iter().flatten().filter_map(source).collect()
}

/// The variables by which every container finds the API: those of a Service `kubernetes`.
///
/// Source: kubernetes v1.36 `pkg/kubelet/envvars/envvars.go`.
pub(super) fn of_api(api: &ApiAddress) -> Vec<(String, String)> {
    let ApiAddress { host, port } = api;
    let in_url = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let url = format!("tcp://{in_url}:{port}");
    let variable = |name: &str, value: &str| (format!("KUBERNETES_{name}"), value.to_owned());
    let number = port.to_string();
    vec![
        variable("SERVICE_HOST", host),
        variable("SERVICE_PORT", &number),
        variable("SERVICE_PORT_HTTPS", &number),
        variable("PORT", &url),
        variable(&format!("PORT_{port}_TCP"), &url),
        variable(&format!("PORT_{port}_TCP_PROTO"), "tcp"),
        variable(&format!("PORT_{port}_TCP_PORT"), &number),
        variable(&format!("PORT_{port}_TCP_ADDR"), host),
    ]
}

/// Puts values in place of `$(NAME)`. A name without a value stays as it is; `$$` is one `$`.
pub fn expand<'a>(text: &str, mut value: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, from) = rest.split_at(dollar);
        expanded.push_str(before);
        let after = &from[1..];
        let reference = after.strip_prefix('(').and_then(|name| name.split_once(')'));
        rest = if let Some((name, behind)) = reference {
            match value(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            behind
        } else {
            expanded.push('$');
            after.strip_prefix('$').unwrap_or(after)
        };
    }
    expanded.push_str(rest);
    expanded
}

/// The text is no file of variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not NAME='value'")]
pub struct BadEnvFile(pub usize);

/// The value of a key in a file of variables; none if the file does not have it. The first of several counts.
///
/// A line is `NAME='value'`, with blanks around `=` and before the name; everything between the quotes is the value,
/// line breaks too. Empty lines and lines that begin with `#` are passed over.
///
/// # Errors
/// [`BadEnvFile`] for anything else, also behind the key.
///
/// Source: kubernetes v1.36, "Define Environment Variable Values Using An Init Container", section "Env file syntax".
pub fn file_value(text: &str, key: &str) -> Result<Option<String>, BadEnvFile> {
    let mut found = None;
    let mut rest = text;
    while !rest.is_empty() {
        let number = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let bad = || BadEnvFile(number);
        let line_end = rest.find('\n').unwrap_or(rest.len());
        let line = rest[..line_end].trim_start_matches([' ', '\t']);
        if line.trim_end().is_empty() || line.starts_with('#') {
            rest = rest[line_end..].strip_prefix('\n').unwrap_or_default();
            continue;
        }
        let (name, behind) = rest.split_once('=').ok_or_else(bad)?;
        let name = name.trim_matches([' ', '\t']);
        let quoted = behind.trim_start_matches([' ', '\t']).strip_prefix('\'').ok_or_else(bad)?;
        let (value, behind) = quoted.split_once('\'').ok_or_else(bad)?;
        let (after, next) = behind.split_once('\n').unwrap_or((behind, ""));
        if name.is_empty() || name.contains(char::is_whitespace) || !after.trim_end().is_empty() {
            return Err(bad());
        }
        if name == key && found.is_none() {
            found = Some(value.to_owned());
        }
        rest = next;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> String {
        expand(text, |name| match name {
            "A" => Some("a"),
            "EMPTY" => Some(""),
            "NESTED" => Some("$(A)"),
            _ => None,
        })
    }

    #[test]
    fn references_are_replaced_and_all_else_stays() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "a"),
            ("x$(A)y$(A)z", "xayaz"),
            ("$(EMPTY)|", "|"),
            ("$(NESTED)", "$(A)"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$(A)", "$$(A)"),
            ("$(A", "$(A"),
            ("$(A$(A)", "$(A$(A)"),
            ("$", "$"),
            ("$$", "$"),
            ("$A$(A)", "$Aa"),
            ("$()", "$()"),
            ("é$(A)é", "éaé"),
        ] {
            assert_eq!(expanded(text), expected, "{text}");
        }
    }

    /// Upstream's scanner, byte by byte, as a model.
    fn model(text: &str) -> String {
        let bytes = text.as_bytes();
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let next = bytes.get(at + 1).filter(|_| bytes[at] == b'$');
            let closer = bytes.iter().skip(at + 2).position(|byte| *byte == b')').map(|offset| at + 2 + offset);
            match (next, closer) {
                (None, _) => out.push(bytes[at]),
                (Some(b'$'), _) => out.push(b'$'),
                (Some(b'('), Some(closer)) => {
                    out.extend(expanded(&text[at..=closer]).bytes());
                    at = closer - 1;
                }
                (Some(other), _) => out.extend([b'$', *other]),
            }
            at += if next.is_some() { 2 } else { 1 };
        }
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn expansion_is_upstreams(text in "[$()AéX]{0,12}") {
            prop_assert_eq!(expanded(&text), model(&text));
        }
    }

    #[test]
    fn a_file_of_variables_is_read_strictly() {
        let bad = |line| Err(BadEnvFile(line));
        let value = |text: &str| Ok(Some(text.to_owned()));
        for (text, expected) in [
            ("", Ok(None)),
            ("A='a'", value("a")),
            ("# A='x'\n\n  B='b'\n \tA = 'a' \nA='later'\n", value("a")),
            ("A=''\n", value("")),
            ("A='one\ntwo # not a comment'\nB='b'", value("one\ntwo # not a comment")),
            ("A='$(X) \\n'", value("$(X) \\n")),
            ("A='a'\r\nB='b'\r\n", value("a")),
            ("B='b'", Ok(None)),
            ("A=a", bad(1)),
            ("A=\"a\"", bad(1)),
            ("A='a''b'", bad(1)),
            ("A='a'$B", bad(1)),
            ("A='a' # no comment here", bad(1)),
            ("A='a'\nnonsense", bad(2)),
            ("B='b\n\n'\nA='a", bad(4)),
            ("export A='a'", bad(1)),
            ("='a'", bad(1)),
        ] {
            assert_eq!(file_value(text, "A"), expected, "{text:?}");
        }
    }

    #[test]
    fn the_api_has_the_variables_of_its_service() {
        let of = |host: &str| of_api(&ApiAddress { host: host.to_owned(), port: 6443 });
        let plain: Vec<_> = of("10.0.0.1").into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            plain,
            [
                "KUBERNETES_SERVICE_HOST=10.0.0.1",
                "KUBERNETES_SERVICE_PORT=6443",
                "KUBERNETES_SERVICE_PORT_HTTPS=6443",
                "KUBERNETES_PORT=tcp://10.0.0.1:6443",
                "KUBERNETES_PORT_6443_TCP=tcp://10.0.0.1:6443",
                "KUBERNETES_PORT_6443_TCP_PROTO=tcp",
                "KUBERNETES_PORT_6443_TCP_PORT=6443",
                "KUBERNETES_PORT_6443_TCP_ADDR=10.0.0.1",
            ]
        );
        assert_eq!(of("fd00::1")[3].1, "tcp://[fd00::1]:6443");
    }
}
