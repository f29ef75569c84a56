//! The command line, as typed by the user. What the values mean together is `config`'s.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;

use crate::model::ObjectKey;

/// Stations Kubernetes DaemonSets on every host of a fleet, without a cluster.
#[derive(Debug, Parser)]
#[command(name = "garrison", version, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    /// What is logged: a level (error, warn, info, debug, trace) or target=level pairs
    #[arg(long, global = true, env = "GARRISON_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The roles and the small commands beside them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this host's agent: it decides which DaemonSets belong here and realizes their pods through containerd
    Agent(AgentArgs),
    /// Run the control endpoint: the Kubernetes API for kubectl, and gRPC for agents
    Control(ControlArgs),
    /// Run agent and control endpoint in one process on this host, with defaults for everything
    Up(UpFlags),
    /// Say for each DaemonSet whether its pod runs on this host, with every reason; works offline
    Explain(ExplainFlags),
    /// Show how this host's agent is: node, link to control, holds, pods
    Status(StatusFlags),
    /// Say how far a DaemonSet's newest revision has come in the fleet, and for each node why it is not there yet
    Rollout(RolloutFlags),
    /// Look whether an agent can work on this host, and say what to do where it cannot; changes nothing
    Check(CheckFlags),
    /// Make, list and revoke the tokens with which hosts join; asks the control endpoint that runs on this host
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print a kubeconfig for a user, with a certificate of the fleet's authority or a token; run it on the control host
    Kubeconfig(KubeconfigFlags),
    /// End every pod of this host's agent and forget the node; the agent has to be stopped first
    Purge(PurgeFlags),
}

/// What is to be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a join token and print it; it is not shown again
    Create(TokenCreateFlags),
    /// List all tokens, of hosts and of users, without their secrets
    List(TokenListFlags),
    /// Make a token worth nothing, by its id
    Revoke(TokenRevokeFlags),
}

/// Flags of `garrison token create`.
#[derive(Debug, Args)]
pub struct TokenCreateFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// How long it is good, such as 90m, 8h or 30d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub ttl: SignedDuration,
    /// How many hosts may join with it [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// The only name a host may join under
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The only labels a host may give itself; without this flag it may give itself any
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',')]
    pub labels: Option<Vec<String>>,
}

/// Flags of `garrison token list`.
#[derive(Debug, Args)]
pub struct TokenListFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
}

/// Flags of `garrison token revoke`.
#[derive(Debug, Args)]
pub struct TokenRevokeFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// The first part of a join token, or the second of a user's
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Flags of `garrison kubeconfig`.
#[derive(Debug, Args)]
pub struct KubeconfigFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Who the kubeconfig is for; what they may do is up to roles and bindings
    #[arg(long, value_name = "NAME")]
    pub user: String,
    /// A group of theirs; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    pub groups: Vec<String>,
    /// How long it is good, such as 90m, 8h or 30d
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = duration)]
    pub ttl: SignedDuration,
    /// Where they reach the control endpoint [default: as admin.kubeconfig says]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Use a token, which can be revoked, in the place of a certificate; the control endpoint has to run
    #[arg(long)]
    pub token: bool,
}

/// A time as people write it: a number and `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = || format!("{text:?} is not a time; write a number and s, m, h or d, such as 8h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds_each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<i64>().ok().and_then(|number| number.checked_mul(seconds_each));
    seconds.filter(|seconds| *seconds > 0).map(SignedDuration::from_secs).ok_or_else(wrong)
}

/// Flags that each role has.
#[derive(Debug, Args)]
pub struct CommonFlags {
    /// Configuration file (YAML; flags win over it, unknown keys are errors)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for everything garrison keeps [default: /var/lib/garrison]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// Flags about the Node that a host is registered as.
#[derive(Debug, Default, Args)]
pub struct RegistrationFlags {
    /// Name of this host's Node; fixed once it is enrolled [default: the hostname]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Labels the Node is registered with
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints the Node is registered with
    #[arg(long, value_name = "KEY=VALUE:EFFECT,...", value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
}

/// Flags of the agent's side.
#[derive(Debug, Default, Args)]
pub struct NodeFlags {
    /// The container runtime's CRI socket [default: unix:///run/containerd/containerd.sock]
    #[arg(long, value_name = "URL")]
    pub container_runtime_endpoint: Option<String>,
    /// As what the host is registered.
    #[command(flatten)]
    pub registration: RegistrationFlags,
    /// Address the Node reports as its InternalIP [default: that of the default route]
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Folder with DaemonSet manifests to run besides, or without, a control endpoint; it is watched
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Folder for pods' files, laid out as kubelet's [default: /var/lib/kubelet]
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<PathBuf>,
    /// Folder for pods' logs [default: /var/log/pods]
    #[arg(long, value_name = "DIR")]
    pub pod_logs_dir: Option<PathBuf>,
    /// Cgroup below which pods' cgroups are made [default: the root]
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_root: Option<String>,
    /// Name servers of a cluster, for pods with dnsPolicy ClusterFirst [default: none; such pods use the host's]
    #[arg(long, value_name = "IP,...", value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Domain below which a cluster's names are [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Kernel settings pods may change beside the safe ones; a trailing * stands for all that begin so
    #[arg(long, value_name = "SYSCTL,...", value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How much has to be left of memory, disks and PIDs, or pods are sent away; replaces all of the default, empty for no bounds
    /// [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%]
    #[arg(long, value_name = "SIGNAL<AMOUNT,...")]
    pub eviction_hard: Option<String>,
    /// How full, in percent, the disk of images may be until those that nothing on this node needs are removed; 100 keeps all [default: 85]
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_high_threshold: Option<u8>,
    /// How full, in percent, the disk of images may stay when they are [default: 80]
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_low_threshold: Option<u8>,
    /// Folder where the runtime looks for CNI configuration [default: as the runtime says]
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
}

/// Flags of `garrison agent`.
#[derive(Debug, Args)]
pub struct AgentFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Flags of the agent's side.
    #[command(flatten)]
    pub node: NodeFlags,
    /// The control endpoint to dial
    #[arg(long, value_name = "HOST:PORT")]
    pub control: Option<String>,
    /// Join token, needed until this host is enrolled: what join.token in control's state folder holds; - reads standard input
    #[arg(long, value_name = "TOKEN", env = "GARRISON_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Give the runtime a bridge network when it has no CNI configuration
    #[arg(long)]
    pub install_cni: bool,
}

/// `garrison agent`: the role itself, or what makes it this host's.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    /// Flags of the role.
    #[command(flatten)]
    pub flags: AgentFlags,
    /// What else to do.
    #[command(subcommand)]
    pub task: Option<AgentTask>,
}

/// What can be done with the agent of a host.
#[derive(Debug, Subcommand)]
pub enum AgentTask {
    /// Make this host a node of a fleet: check it, enrol it, write its settings down, enable and start its service. It stays as
    /// it was if that fails
    Join(JoinFlags),
}

/// Flags of `garrison agent join`.
#[derive(Debug, Args)]
pub struct JoinFlags {
    /// Configuration of the agent; what is given here goes into agent.d/50-join.yaml beside it [default: /etc/garrison/agent.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The control endpoint to dial [default: as the configuration says]
    #[arg(long, value_name = "HOST:PORT")]
    pub control: Option<String>,
    /// Join token, as garrison token create prints it; - reads standard input. It is kept nowhere
    #[arg(long, value_name = "TOKEN", env = "GARRISON_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// As what the host is registered.
    #[command(flatten)]
    pub registration: RegistrationFlags,
    /// Give the runtime a bridge network when it has no CNI configuration
    #[arg(long)]
    pub install_cni: bool,
}

/// Flags of `garrison control`.
#[derive(Debug, Args)]
pub struct ControlFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Address to serve kubectl and agents on [default: 0.0.0.0:6443; for up 127.0.0.1:6443]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Append a line of JSON for each request that changes something or is refused
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Verbs of the requests that are written down; '*' for all [default: create,delete,deletecollection,patch,update]
    #[arg(long, value_name = "VERB,...", value_delimiter = ',')]
    pub audit_verbs: Vec<String>,
    /// Further names and addresses under which this endpoint is reached; they go into its certificate
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub names: Vec<String>,
}

/// `garrison control`: the role itself, or something about one that runs.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ControlArgs {
    /// Flags of the role.
    #[command(flatten)]
    pub flags: ControlFlags,
    /// What else to do.
    #[command(subcommand)]
    pub task: Option<ControlTask>,
}

/// What can be done with a control endpoint that runs.
#[derive(Debug, Subcommand)]
pub enum ControlTask {
    /// Show the nodes that hold because control was restored from an older copy, with the differences, and what nodes run that
    /// control has no record of; confirm that control's word counts for them, or end what they run
    Holds(HoldsFlags),
    /// Rebuild a lost store from what hosts hold: control, begun on an empty store with the folder pki it had, asks the hosts that
    /// it has no record of, and shows what that comes to; nothing is written before it is confirmed
    Recover(RecoverFlags),
    /// Put a new certificate authority in the place of the fleet's, which control takes up when it is restarted; hosts renew their
    /// certificates by themselves
    RotateCa(RotateCaFlags),
}

/// Flags of `garrison control rotate-ca`.
#[derive(Debug, Args)]
pub struct RotateCaFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Drop the authority before the present one: hosts that have not been connected since have to join again
    #[arg(long)]
    pub finish: bool,
}

/// Flags of `garrison control recover`.
#[derive(Debug, Args)]
pub struct RecoverFlags {
    /// Write what was shown under this number
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["without", "include", "vouch_for_labels"])]
    pub confirm: Option<u64>,
    /// Hosts whose word does not count and which are not taken on
    #[arg(long, value_name = "NODE,...", value_delimiter = ',')]
    pub without: Vec<String>,
    /// DaemonSets to rebuild though they seem to be deleted
    #[arg(long, value_name = "NAMESPACE/NAME,...", value_delimiter = ',', value_parser = object_key)]
    pub include: Vec<ObjectKey>,
    /// Let the labels that hosts say they have buy ConfigMaps, Secrets and tokens
    #[arg(long)]
    pub vouch_for_labels: bool,
    /// How to reach the control endpoint [default: admin.kubeconfig in control's state folder, or else ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

fn object_key(text: &str) -> Result<ObjectKey, String> {
    let (namespace, name) = text.split_once('/').ok_or_else(|| format!("{text:?} is not NAMESPACE/NAME"))?;
    Ok(ObjectKey::new(namespace, name))
}

/// Flags of `garrison control holds`.
#[derive(Debug, Args)]
pub struct HoldsFlags {
    /// Confirm this era, as it was shown, as the successor of all before it: held nodes follow control again
    #[arg(long, value_name = "ERA")]
    pub confirm: Option<u64>,
    /// End what nodes run of this DaemonSet, which control has no record of, by the uid that was shown
    #[arg(long, value_name = "UID", conflicts_with = "confirm")]
    pub end: Option<String>,
    /// How to reach the control endpoint [default: admin.kubeconfig in control's state folder, or else ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// Flags of `garrison up`.
#[derive(Debug, Args)]
pub struct UpFlags {
    /// Flags of the control endpoint.
    #[command(flatten)]
    pub control: ControlFlags,
    /// Flags of the agent's side.
    #[command(flatten)]
    pub node: NodeFlags,
}

/// Flags of `garrison explain`.
#[derive(Debug, Args)]
pub struct ExplainFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Manifest to judge instead of what this host already knows; - reads it from standard input
    #[arg(short, long, value_name = "FILE")]
    pub filename: Option<PathBuf>,
}

/// Flags of `garrison status`.
#[derive(Debug, Args)]
pub struct StatusFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// Flags of `garrison rollout`.
#[derive(Debug, Args)]
pub struct RolloutFlags {
    /// The DaemonSet
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Its namespace [default: that of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How to reach the control endpoint [default: admin.kubeconfig in control's state folder, or else ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// Flags of `garrison check`.
#[derive(Debug, Args)]
pub struct CheckFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Flags of the agent's side.
    #[command(flatten)]
    pub node: NodeFlags,
    /// The control endpoint the agent is to dial
    #[arg(long, value_name = "HOST:PORT")]
    pub control: Option<String>,
    /// Look also whether a control endpoint could serve on this address
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
}

/// Flags of `garrison purge`.
#[derive(Debug, Args)]
pub struct PurgeFlags {
    /// Flags of each role.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Flags of the agent's side.
    #[command(flatten)]
    pub node: NodeFlags,
    /// Do it; without this it only says which pods would end
    #[arg(long)]
    pub yes: bool,
}

/// The form of an answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs; fields are added from version to version, none is changed
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn times_are_read_as_people_write_them() {
        let seconds = |text: &str| super::duration(text).map(|time| time.as_secs()).ok();
        assert_eq!((seconds("90m"), seconds("8h"), seconds("1d")), (Some(5400), Some(28800), Some(86400)));
        for wrong in ["", "8", "h", "-1h", "0s", "1w", "9999999999999999d", "8é"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
