//! What a host is told when it joins, as the drop-in that keeps it. Pure.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ConfigError, label, parse_file};
use crate::cli::{JoinFlags, RegistrationFlags};

/// The drop-in's name, in `agent.d`.
pub const JOIN_DROP_IN: &str = "50-join.yaml";
/// Its first line.
const HEAD: &str = "# Written by garrison agent join.\n";

/// The text of the drop-in at `path`, a key a line: what flags say, and what `before`, its present text, says beside that. None
/// if neither says anything.
///
/// # Errors
/// [`ConfigError::Label`], and [`ConfigError::File`] for a present text that is not usable.
pub fn join_drop_in(flags: &JoinFlags, path: &Path, before: Option<&str>) -> Result<Option<String>, ConfigError> {
    let mut keys = match before {
        Some(text) => keys(path, text)?,
        None => Map::new(),
    };
    let mut set = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
    if let Some(control) = &flags.control {
        set("control", json!(control));
    }
    let RegistrationFlags { node_name, node_labels, register_with_taints } = &flags.registration;
    if let Some(name) = node_name {
        set("nodeName", json!(name));
    }
    if !node_labels.is_empty() {
        set("nodeLabels", Value::Object(labels(node_labels)?));
    }
    if !register_with_taints.is_empty() {
        set("registerWithTaints", json!(register_with_taints));
    }
    if flags.install_cni {
        set("installCni", json!(true));
    }
    // A value in JSON is one in YAML.
    let line = |(key, value): (&String, &Value)| format!("{key}: {value}\n");
    Ok((!keys.is_empty()).then(|| HEAD.to_owned() + &keys.iter().map(line).collect::<String>()))
}

fn keys(path: &Path, text: &str) -> Result<Map<String, Value>, ConfigError> {
    // Only for what it says of unknown keys and wrong types.
    parse_file(path, text)?;
    let read = serde_saphyr::from_str::<Option<Map<String, Value>>>(text);
    read.map(Option::unwrap_or_default)
        .map_err(|source| ConfigError::File { path: path.to_owned(), source: Box::new(source) })
}

fn labels(texts: &[String]) -> Result<Map<String, Value>, ConfigError> {
    texts.iter().map(|text| label(text).map(|(key, value)| (key, value.into()))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{AgentArgs, AgentTask, Cli, Command};

    fn flags(args: &[&str]) -> JoinFlags {
        let args = ["garrison", "agent", "join"].iter().chain(args);
        match Cli::try_parse_from(args).unwrap().command {
            Command::Agent(AgentArgs { task: Some(AgentTask::Join(flags)), .. }) => flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_host_is_told_is_read_back_and_laid_over_what_it_was_told_before() {
        let path = Path::new("/etc/garrison/agent.d/50-join.yaml");
        let args = ["--control", "control.example:6443", "--node-labels", "site=north,tier=", "--install-cni"];
        let text = join_drop_in(&flags(&args), path, None).unwrap().unwrap();
        let file = parse_file(path, &text).unwrap();
        assert_eq!((file.control.as_deref(), file.install_cni), (Some("control.example:6443"), Some(true)));
        assert_eq!(file.node_labels, [("site".into(), "north".into()), ("tier".into(), String::new())].into());

        assert_eq!(join_drop_in(&flags(&[]), path, Some(&text)).unwrap().as_deref(), Some(&*text), "nothing new");
        let text = join_drop_in(&flags(&["--node-name", "edge-1", "--control", "[::1]:1"]), path, Some(&text)).unwrap();
        let file = parse_file(path, &text.unwrap()).unwrap();
        assert_eq!((file.control.as_deref(), file.node_name.as_deref()), (Some("[::1]:1"), Some("edge-1")));
        assert_eq!((file.install_cni, file.node_labels.len()), (Some(true), 2));

        assert_eq!(join_drop_in(&flags(&[]), path, None).unwrap(), None);
        assert!(matches!(
            join_drop_in(&flags(&["--node-labels", "north"]), path, None),
            Err(ConfigError::Label { .. })
        ));
        let typo = join_drop_in(&flags(&[]), path, Some("contrl: x"));
        assert!(matches!(typo, Err(ConfigError::File { .. })));
    }
}
