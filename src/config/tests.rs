//! How files, drop-ins, labels and flags come together.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

mod reference;

fn file(text: &str) -> File {
    parse_file(Path::new("test.yaml"), text).unwrap()
}

fn flags(args: &[&str]) -> NodeFlags {
    let args = ["garrison", "agent"].iter().chain(args);
    let Command::Agent(flags) = Cli::parse_from(args).command else { panic!("it is the agent's command") };
    flags.flags.node
}

fn settle(args: &[&str], file: File) -> Result<AgentSettings, ConfigError> {
    agent(flags(args), STATE_DIR.into(), None, None, file, "Host-1")
}

#[test]
fn flags_win_over_drop_ins_those_over_the_file_and_that_over_labels_d() {
    let mut all =
        file("nodeLabels: {a: file, b: file, c: file}\nregisterWithTaints: ['old:NoSchedule']\ncontrol: one:1")
            .with(file("nodeLabels: {b: drop-in, c: drop-in}\nregisterWithTaints: ['new=1:NoSchedule']"))
            .with(file("# says nothing"))
            .with(file("control: two:2\ninstallCni: true"));
    all.host_labels.add(Path::new("x"), "a=host\nd=host\nnew=2:NoSchedule\nnew:NoExecute").unwrap();
    let settings = settle(&["--node-labels", "c=flag"], all).unwrap();
    let labels = [("a", "file"), ("b", "drop-in"), ("c", "flag"), ("d", "host")];
    assert_eq!(settings.node_labels, labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let taints: Vec<_> = settings.register_with_taints.iter().map(ToString::to_string).collect();
    assert_eq!(taints, ["new=1:NoSchedule", "new:NoExecute"]);
    assert_eq!((settings.control.as_deref(), settings.install_cni), (Some("two:2"), true));
    assert_eq!(settings.node_name.as_str(), "host-1");
}

#[test]
fn what_cannot_be_used_is_named_as_the_user_wrote_it() {
    let error = parse_file(Path::new("agent.yaml"), "nodeLable: {}").unwrap_err();
    assert_eq!(error.to_string(), "configuration file agent.yaml is not usable");
    assert!(crate::error::Chain(&error).to_string().contains("nodeLable"), "{}", crate::error::Chain(&error));
    for (args, text) in [
        (["--node-name", "No_name"], "--node-name: \"No_name\" is not a node name"),
        (["--root-dir", "kubelet"], "--root-dir: kubelet is relative"),
        (["--node-labels", "gpu"], "--node-labels: \"gpu\" is not a label"),
        (
            ["--container-runtime-endpoint", "/run/c.sock"],
            "--container-runtime-endpoint: \"/run/c.sock\" is not a socket",
        ),
    ] {
        let error = settle(&args, File::default()).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
}
