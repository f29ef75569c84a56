//! Giving back what a network holds for a sandbox that its runtime has forgotten: its address, its port mappings, its namespace.
//!
//! Whoever asks CNI for a network keeps what was asked and answered, to take it back one day. A runtime that has lost its own
//! records will never ask; the mapping of a host's port would lead to the old address for ever.
//!
//! Source: CNI specification 1.0, section 4 (`DEL`); containernetworking/cni `libcni/api.go`, `cachedInfo`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::model::Uid;

/// Where libcni keeps it.
pub const RECORDS: &str = "/var/lib/cni/results";
/// Where runtimes keep the namespaces of their sandboxes.
const NAMESPACES: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// How long one plugin may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is on record of one network of one sandbox.
struct Record {
    path: PathBuf,
    content: Value,
    /// The list of plugins.
    network: Value,
}

/// Gives back the networks of the pod's sandboxes that are not `known`. `records` is [`RECORDS`], `bin_dir` has the plugins.
/// What could not be given back is answered, one line each; it stays on record.
pub async fn release(records: &Path, bin_dir: &Path, pod: &Uid, known: &BTreeSet<String>) -> Vec<String> {
    let mut failures = Vec::new();
    for record in of_pod(records, pod, known) {
        match record.give_back(bin_dir).await {
            Ok(()) => drop(fs::remove_file(&record.path)),
            Err(error) => failures.push(format!("{}: {error}", record.path.display())),
        }
    }
    failures
}

/// A record names its pod among what plugins were told; that of the loopback device, too.
fn of_pod(records: &Path, pod: &Uid, known: &BTreeSet<String>) -> Vec<Record> {
    let entries = fs::read_dir(records).into_iter().flatten().flatten();
    let record = |path: PathBuf| {
        let content: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        let is_of_pod = |argument: &Value| argument[0] == "K8S_POD_UID" && argument[1] == *pod.0;
        let is_known = content["containerId"].as_str().is_none_or(|id| known.contains(id));
        let network = STANDARD.decode(content["config"].as_str()?).ok()?;
        let network = serde_json::from_slice(&network).ok()?;
        let is_lost = !is_known && content["cniArgs"].as_array()?.iter().any(is_of_pod);
        is_lost.then_some(Record { path, content, network })
    };
    entries.filter_map(|entry| record(entry.path())).collect()
}

impl Record {
    /// The plugins undo what they did, the last first; then the namespace goes.
    async fn give_back(&self, bin_dir: &Path) -> Result<(), String> {
        let plugins = self.network["plugins"].as_array().ok_or("it names no plugins")?;
        for plugin in plugins.iter().rev() {
            self.undo(plugin, bin_dir).await?;
        }
        if let Some(namespace) = self.namespace() {
            // One that was unmounted before is a plain file.
            let _ = umount2(namespace, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            drop(fs::remove_file(namespace));
        }
        Ok(())
    }

    /// The file of the sandbox's network namespace, as the interface in it has it.
    fn namespace(&self) -> Option<&Path> {
        let interfaces = self.content["result"]["interfaces"].as_array()?;
        let path =
            interfaces.iter().find_map(|interface| interface["sandbox"].as_str().filter(|path| !path.is_empty()))?;
        let path = Path::new(path);
        NAMESPACES.iter().any(|dir| path.parent() == Some(Path::new(dir))).then_some(path)
    }

    async fn undo(&self, plugin: &Value, bin_dir: &Path) -> Result<(), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let program = bin_dir.join(text(&plugin["type"]).replace('/', ""));
        let arguments = self.content["cniArgs"].as_array().into_iter().flatten();
        let arguments: Vec<_> =
            arguments.map(|argument| format!("{}={}", text(&argument[0]), text(&argument[1]))).collect();
        let mut command = Command::new(&program);
        command
            .env("CNI_COMMAND", "DEL")
            .env("CNI_CONTAINERID", text(&self.content["containerId"]))
            .env("CNI_NETNS", self.namespace().unwrap_or_else(|| Path::new("")))
            .env("CNI_IFNAME", text(&self.content["ifName"]))
            .env("CNI_ARGS", arguments.join(";"))
            .env("CNI_PATH", bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let input = self.input(plugin).to_string();
        let run = async {
            let mut child = command.spawn()?;
            child.stdin.take().expect("it is piped").write_all(input.as_bytes()).await?;
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(DEADLINE, run).await;
        match output {
            Err(_) => Err(format!("{} did not end within {DEADLINE:?}", program.display())),
            Ok(Err(error)) => Err(format!("cannot run {}: {error}", program.display())),
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => Err(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stdout).trim())),
        }
    }

    /// The plugin's configuration, as it was given to it when it was asked for the network.
    fn input(&self, plugin: &Value) -> Value {
        let mut input = plugin.clone();
        let asked = &self.content["capabilityArgs"];
        let can = plugin["capabilities"].as_object().into_iter().flatten().filter(|(_, can)| **can == true);
        let told: serde_json::Map<_, _> =
            can.filter_map(|(name, _)| Some((name.clone(), asked.get(name)?.clone()))).collect();
        input["name"] = self.network["name"].clone();
        input["cniVersion"] = self.network["cniVersion"].clone();
        input["prevResult"] = self.content["result"].clone();
        if !told.is_empty() {
            input["runtimeConfig"] = json!(told);
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A plugin that notes what it is told; `broken` does nothing but complain.
    fn plugin(dir: &Path, name: &str) {
        let note = dir.join("notes").display().to_string();
        let script = match name {
            "broken" => "#!/bin/sh\ncat >/dev/null; echo '{\"msg\": \"no way\"}'; exit 1\n".to_owned(),
            _ => format!(
                "#!/bin/sh\necho \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $(cat)\" >>{note}\n"
            ),
        };
        fs::write(dir.join(name), script).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn record(dir: &Path, container: &str, pod: &str, last: &str) -> PathBuf {
        let network = json!({"name": "pods", "cniVersion": "0.4.0", "plugins": [
            {"type": "bridge"}, {"type": last, "capabilities": {"portMappings": true, "dns": false}},
        ]});
        let record = json!({
            "containerId": container, "ifName": "eth0", "config": STANDARD.encode(network.to_string()),
            "cniArgs": [["K8S_POD_UID", pod], ["IgnoreUnknown", "1"]],
            "capabilityArgs": {"portMappings": [{"HostPort": 80}], "dns": {}},
            "result": {"interfaces": [{"name": "eth0", "sandbox": "/etc/not-a-namespace"}]},
        });
        let path = dir.join(format!("pods-{container}-eth0"));
        fs::write(&path, record.to_string()).unwrap();
        path
    }

    #[tokio::test]
    async fn what_a_forgotten_sandbox_holds_is_given_back_by_its_plugins_the_last_first() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        ["bridge", "portmap", "broken"].iter().for_each(|name| plugin(dir, name));
        let lost = record(dir, "lost", "web", "portmap");
        let stay = [record(dir, "known", "web", "portmap"), record(dir, "other", "log", "portmap")];
        let release = async || release(dir, dir, &Uid::from("web"), &["known".to_owned()].into()).await;
        assert_eq!(release().await, Vec::<String>::new());
        let notes = fs::read_to_string(dir.join("notes")).unwrap();
        let notes: Vec<_> = notes.lines().map(|line| line.split_once('{').unwrap()).collect();
        let told = "DEL lost eth0 K8S_POD_UID=web;IgnoreUnknown=1 ";
        assert_eq!([notes[0].0, notes[1].0], [format!("portmap {told}"), format!("bridge {told}")]);
        let input: Value = serde_json::from_str(&format!("{{{}", notes[0].1)).unwrap();
        assert_eq!(input["runtimeConfig"], json!({"portMappings": [{"HostPort": 80}]}));
        assert_eq!((&input["name"], &input["cniVersion"]), (&json!("pods"), &json!("0.4.0")));
        assert!(!lost.exists() && stay.iter().all(|path| path.exists()));

        let lost = record(dir, "lost", "web", "broken");
        let failures = release().await;
        assert!(failures.len() == 1 && failures[0].contains("no way"), "{failures:?}");
        assert!(lost.exists(), "it is tried again another time");
    }
}
