//! Running a role: reads the files that flags name, settles the settings, starts the runtime, stops on a signal.

use std::fs;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::panic;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::Context;
use garrison::agent::{self, Finding, Grade};
use garrison::cli::{
    AgentArgs, AgentFlags, AgentTask, CheckFlags, Command, CommonFlags, ControlArgs, ControlFlags, ControlTask,
    ExplainFlags, HoldsFlags, KubeconfigFlags, Output, PurgeFlags, RecoverFlags, RolloutFlags, RotateCaFlags,
    StatusFlags, TokenCommand, TokenCreateFlags, TokenListFlags, TokenRevokeFlags, UpFlags,
};
use garrison::config::{self, AgentSettings, ConfigError, ControlSettings, File};
use garrison::control::endpoint::Endpoint;
use garrison::control::holds::{self, Holds};
use garrison::control::recovery::{self, Choice, Recovery};
use garrison::control::remote::{self, JoinTokenRequest, Minted, TokenList, UserTokenRequest};
use garrison::control::rest::holds::{Decision, PATH as HOLDS};
use garrison::control::rest::recovery as recovery_path;
use garrison::control::tokens::Allowance;
use garrison::control::updates::{self, Rollout};
use garrison::host::{footprint, service};
use garrison::kube::{self, Kubeconfig};
use garrison::link::tls::{self, ADMINISTRATOR_KUBECONFIG, Authority, Credential};
use garrison::model::{NodeName, Uid};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

mod join;

/// How long the token is good for with which `up` enrols its own agent.
const OWN_TOKEN: SignedDuration = SignedDuration::from_mins(10);
/// How long the token is good for that `control` leaves for the hosts of its fleet.
const FLEET_TOKEN: SignedDuration = SignedDuration::from_hours(24);

/// How often a role with an agent gives back the memory that it does not use.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(30);

/// The name of the service's credential that holds the join token.
const TOKEN_CREDENTIAL: &str = "garrison.token";

/// Runs what the command line asks for, to its end.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Agent(AgentArgs { task: Some(AgentTask::Join(flags)), .. }) => join::join(&flags),
        Command::Agent(AgentArgs { flags, task: None }) => run_agent(flags),
        Command::Control(ControlArgs { task: Some(ControlTask::Holds(flags)), .. }) => holds(flags),
        Command::Control(ControlArgs { task: Some(ControlTask::Recover(flags)), .. }) => recover(flags),
        Command::Control(ControlArgs { task: Some(ControlTask::RotateCa(flags)), .. }) => rotate_ca(&flags),
        Command::Control(ControlArgs { flags, task: None }) => run_control(flags),
        Command::Up(flags) => run_up(flags),
        Command::Explain(flags) => explain(flags),
        Command::Token(TokenCommand::Create(flags)) => create_token(flags),
        Command::Token(TokenCommand::List(flags)) => list_tokens(&flags),
        Command::Token(TokenCommand::Revoke(flags)) => revoke_token(&flags),
        Command::Kubeconfig(flags) => kubeconfig(&flags),
        Command::Status(flags) => status(flags),
        Command::Rollout(flags) => rollout(flags),
        Command::Check(flags) => check(flags),
        Command::Purge(flags) => purge(flags),
    }
}

fn run_agent(flags: AgentFlags) -> anyhow::Result<()> {
    let file = read_config(&flags.common)?;
    let state_dir = config::state_dir(flags.common.state_dir, &file);
    let install_cni = flags.install_cni.then_some(true);
    let mut settings = config::agent(flags.node, state_dir, install_cni, flags.control, file, &hostname()?)?;
    if settings.control.is_none() && settings.manifests.is_none() {
        return Err(ConfigError::NoSource.into());
    }
    settings.token = match given_token(flags.token)? {
        None => service::credential(TOKEN_CREDENTIAL)?,
        token => token,
    };
    end_with_a_panic();
    block_on(run_small(async { Ok(agent::run(settings, stop_signal()?).await?) }))
}

/// A token as given with `--token`, where `-` is standard input.
fn given_token(flag: Option<String>) -> anyhow::Result<Option<String>> {
    match flag {
        Some(token) if token == "-" => Ok(Some(read_input(None).context("cannot read the token")?.trim().to_owned())),
        token => Ok(token),
    }
}

fn run_control(flags: ControlFlags) -> anyhow::Result<()> {
    let file = read_config(&flags.common)?;
    let settings = config::control(flags, &file, Ipv4Addr::UNSPECIFIED)?;
    block_on(async {
        let endpoint = Endpoint::open(&settings).await?;
        announce(&endpoint);
        let allowance = Allowance { valid_for: FLEET_TOKEN, uses: None, node_name: None, labels: None };
        let token = endpoint.write_join_token(allowance).await?;
        service::ready("serving the Kubernetes API");
        tracing::info!(token = %token.display(), hours = FLEET_TOKEN.as_hours(), "hosts join with the token in this file");
        Ok(endpoint.serve(stop_signal()?).await?)
    })
}

fn run_up(flags: UpFlags) -> anyhow::Result<()> {
    let file = read_config(&flags.control.common)?;
    let control = config::control(flags.control, &file, Ipv4Addr::LOCALHOST)?;
    // Trying it out shall not begin with network plugins.
    let install_cni = Some(file.install_cni.unwrap_or(true));
    let agent = config::agent(flags.node, control.state_dir.clone(), install_cni, None, file, &hostname()?)?;
    block_on(run_small(up(control, agent)))
}

/// Control and agent in one process. The agent enrols itself with a token made for it alone.
async fn up(control: ControlSettings, mut agent: AgentSettings) -> anyhow::Result<()> {
    let endpoint = Endpoint::open(&control).await?;
    announce(&endpoint);
    // Whoever starts both vouches for the labels: this host's pods may have what goes by them.
    let allowance = Allowance {
        valid_for: OWN_TOKEN,
        uses: Some(1),
        node_name: Some(agent.node_name.clone()),
        labels: Some(agent.node_labels.clone()),
    };
    agent.token = Some(endpoint.join_token(allowance).await?.to_string());
    agent.control = Some(format!("localhost:{}", endpoint.address.port()));
    let stop = stop_signal()?;
    // Whichever ends first ends both: an agent that cannot begin, or a control endpoint that cannot serve.
    tokio::select! {
        served = endpoint.serve(stop.clone()) => served?,
        ran = agent::run(agent, stop) => ran?,
    }
    Ok(())
}

fn announce(endpoint: &Endpoint) {
    let (address, kubeconfig) = (endpoint.address, endpoint.kubeconfig.display());
    tracing::info!(%address, %kubeconfig, "serving the Kubernetes API; use it with kubectl --kubeconfig");
}

fn create_token(flags: TokenCreateFlags) -> anyhow::Result<()> {
    let labels = flags.labels.map(|labels| labels.iter().map(|text| label(text)).collect()).transpose()?;
    let request = JoinTokenRequest {
        ttl_seconds: flags.ttl.as_secs(),
        uses: flags.uses,
        node_name: flags.node_name.map(NodeName::from),
        labels,
    };
    let Minted { token } = ask(&flags.common, Method::POST, remote::JOIN_TOKENS, Some(&request))?;
    print(&format!("{token}\n"));
    // Beside the token, which a program may read.
    hint(&format!(
        "\nOn the host that is to join, as root:\n\n    {}\n",
        remote::join_command(&token, &reached_at(&flags.common)?, &request)
    ));
    Ok(())
}

/// Where hosts reach the control endpoint of this host: the first of the names it was given, or the hostname.
fn reached_at(flags: &CommonFlags) -> anyhow::Result<String> {
    let file = read_installed_config(flags, config::CONTROL_CONFIG)?;
    let name = file.names.first().cloned().map_or_else(hostname, Ok)?;
    let server = Kubeconfig::read(&control_dir(flags)?.join(ADMINISTRATOR_KUBECONFIG))?.server;
    Ok(remote::address(&name, &server))
}

fn label(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = text.split_once('=').with_context(|| format!("{text:?} is not a label; write key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

fn list_tokens(flags: &TokenListFlags) -> anyhow::Result<()> {
    let list: TokenList = ask(&flags.common, Method::GET, remote::TOKENS, None::<&()>)?;
    print(&remote::render(&list, Timestamp::now()));
    Ok(())
}

fn revoke_token(flags: &TokenRevokeFlags) -> anyhow::Result<()> {
    let path = format!("{}/{}", remote::TOKENS, flags.id);
    ask::<serde_json::Value>(&flags.common, Method::DELETE, &path, None::<&()>).map(drop)
}

/// Asks the control endpoint that runs on this host, as its administrator.
fn ask<T: DeserializeOwned>(
    flags: &CommonFlags,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> anyhow::Result<T> {
    let config = Kubeconfig::read(&control_dir(flags)?.join(ADMINISTRATOR_KUBECONFIG))?;
    let body = body.map(serde_json::to_value).transpose()?;
    let answer = block_on(async { Ok(kube::send(&config, method, path, body.as_ref()).await?) })?;
    T::deserialize(answer).context("the answer is of another version")
}

fn kubeconfig(flags: &KubeconfigFlags) -> anyhow::Result<()> {
    let state_dir = control_dir(&flags.common)?;
    let Kubeconfig { server, authority: ca, .. } = Kubeconfig::read(&state_dir.join(ADMINISTRATOR_KUBECONFIG))?;
    let server = flags.server.as_ref().unwrap_or(&server);
    let now = Timestamp::now();
    let text = if flags.token {
        let (user, groups) = (flags.user.clone(), flags.groups.clone());
        let request = UserTokenRequest { user, groups, ttl_seconds: flags.ttl.as_secs() };
        let Minted { token } = ask(&flags.common, Method::POST, remote::USER_TOKENS, Some(&request))?;
        tls::kubeconfig(server, &ca, &flags.user, &Credential::Token(&token), now)?
    } else {
        let authority = Authority::open(&state_dir)?;
        let credential = Credential::Certificate { authority: &authority, groups: &flags.groups, valid_for: flags.ttl };
        tls::kubeconfig(server, &ca, &flags.user, &credential, now)?
    };
    print(&text);
    Ok(())
}

fn explain(flags: ExplainFlags) -> anyhow::Result<()> {
    let file = read_host_config(&flags.common)?;
    let state_dir = config::state_dir(flags.common.state_dir, &file);
    let manifest = flags.filename.as_deref().map(|path| read_input(Some(path))).transpose()?;
    let text = agent::explain(&state_dir, manifest.as_deref())?;
    print(&text);
    Ok(())
}

fn status(flags: StatusFlags) -> anyhow::Result<()> {
    let file = read_host_config(&flags.common)?;
    let status = agent::status(&config::state_dir(flags.common.state_dir, &file))?;
    print(&match flags.output {
        Output::Text => agent::render(&status, Timestamp::now()),
        Output::Json => serde_json::to_string_pretty(&status)? + "\n",
    });
    Ok(())
}

fn rollout(flags: RolloutFlags) -> anyhow::Result<()> {
    let RolloutFlags { name, namespace, kubeconfig, output } = flags;
    let config = Kubeconfig::read(&kubeconfig.map_or_else(default_kubeconfig, Ok)?)?;
    let namespace = namespace.as_ref().unwrap_or(&config.namespace);
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}/rollout");
    let answer = block_on(async { Ok(kube::get(&config, &path).await?) })?;
    print(&match output {
        Output::Text => {
            let rollout = Rollout::deserialize(&answer["status"]).context("the answer is of another version")?;
            updates::render(&format!("{namespace}/{name}"), &rollout)
        }
        Output::Json => serde_json::to_string_pretty(&answer)? + "\n",
    });
    Ok(())
}

fn holds(flags: HoldsFlags) -> anyhow::Result<()> {
    let HoldsFlags { confirm, end, kubeconfig, output } = flags;
    let config = Kubeconfig::read(&kubeconfig.map_or_else(default_kubeconfig, Ok)?)?;
    let decision = confirm.map(Decision::Era).or_else(|| end.map(|uid| Decision::End(Uid(uid))));
    let answer = block_on(async {
        Ok(match &decision {
            Some(decision) => kube::send(&config, Method::POST, HOLDS, Some(&serde_json::to_value(decision)?)).await?,
            None => kube::get(&config, HOLDS).await?,
        })
    })?;
    let shown = Holds::deserialize(&answer).context("the answer is of another version")?;
    print(&match (output, decision) {
        (Output::Json, _) => serde_json::to_string_pretty(&answer)? + "\n",
        (Output::Text, None) => holds::render(&shown),
        (Output::Text, Some(Decision::Era(era))) => {
            format!("era {era} is confirmed; {} held nodes are received anew\n", shown.nodes.len())
        }
        (Output::Text, Some(Decision::End(uid))) => format!("what runs of DaemonSet {uid} ends on all nodes\n"),
    });
    Ok(())
}

fn recover(flags: RecoverFlags) -> anyhow::Result<()> {
    let RecoverFlags { confirm, without, include, vouch_for_labels, kubeconfig, output } = flags;
    let config = Kubeconfig::read(&kubeconfig.map_or_else(default_kubeconfig, Ok)?)?;
    let (path, body) = match confirm {
        Some(number) => (recovery_path::CONFIRM, serde_json::to_value(recovery_path::Confirmation { number })?),
        None => {
            let without = without.into_iter().map(NodeName::from).collect();
            let choice = Choice { without, include: include.into_iter().collect(), vouch_for_labels };
            (recovery_path::PATH, serde_json::to_value(choice)?)
        }
    };
    let answer = block_on(async { Ok(kube::send(&config, Method::POST, path, Some(&body)).await?) })?;
    let shown = Recovery::deserialize(&answer).context("the answer is of another version")?;
    print(&match (output, confirm) {
        (Output::Json, _) => serde_json::to_string_pretty(&answer)? + "\n",
        (Output::Text, None) => recovery::render(&shown),
        (Output::Text, Some(_)) => recovery::render_confirmed(&shown),
    });
    Ok(())
}

fn rotate_ca(flags: &RotateCaFlags) -> anyhow::Result<()> {
    let state_dir = control_dir(&flags.common)?;
    if !flags.finish {
        Authority::rotate(&state_dir)?;
        print("there is a new authority; restart control, and hosts renew their certificates with it\n");
        return Ok(());
    }
    anyhow::ensure!(Authority::finish_rotation(&state_dir)?, "no rotation is under way in {}", state_dir.display());
    print("the authority before is dropped; restart control\n");
    Ok(())
}

/// The administrator's on the control endpoint's host, the user's elsewhere.
fn default_kubeconfig() -> anyhow::Result<PathBuf> {
    let of_control = control_dir(&CommonFlags { config: None, state_dir: None })?.join(ADMINISTRATOR_KUBECONFIG);
    if of_control.is_file() {
        return Ok(of_control);
    }
    let home = std::env::home_dir().context("there is no home folder; give --kubeconfig")?;
    Ok(home.join(".kube/config"))
}

/// Fails if there is something that would keep an agent from its work.
fn check(flags: CheckFlags) -> anyhow::Result<()> {
    let hostname = hostname()?;
    let settings = read_host_config(&flags.common).and_then(|file| {
        let state_dir = config::state_dir(flags.common.state_dir, &file);
        Ok(config::agent(flags.node, state_dir, None, flags.control, file, &hostname)?)
    });
    let settings = settings.map_err(|error| format!("{error:#}"));
    let defaults = config::defaults(&hostname);
    let findings = block_on(async { Ok(agent::check(settings, defaults, flags.listen.as_deref()).await?) })?;
    show(&findings)
}

fn show(findings: &[Finding]) -> anyhow::Result<()> {
    print(&findings.iter().map(finding).collect::<String>());
    let problems = findings.iter().filter(|finding| finding.grade == Grade::Problem).count();
    anyhow::ensure!(problems == 0, "{problems} of {} findings keep an agent from working here", findings.len());
    Ok(())
}

fn finding(finding: &Finding) -> String {
    let grade = match finding.grade {
        Grade::Ok => "ok",
        Grade::Warning => "warning",
        Grade::Problem => "PROBLEM",
    };
    let line = format!("{grade:<9}{:<13}{}\n", finding.topic, finding.found);
    if finding.remedy.is_empty() { line } else { format!("{line}{:<22}-> {}\n", "", finding.remedy) }
}

fn purge(flags: PurgeFlags) -> anyhow::Result<()> {
    let file = read_host_config(&flags.common)?;
    let state_dir = config::state_dir(flags.common.state_dir, &file);
    let settings = config::agent(flags.node, state_dir, None, None, file, &hostname()?)?;
    let ended = block_on(async { Ok(agent::purge(settings, flags.yes).await?) })?;
    print(&format!("{} pods ended, and this node is forgotten\n", ended.len()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer of a command belongs on standard output")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "what people may want to know beside the answer")]
fn hint(text: &str) {
    eprint!("{text}");
}

/// A file, or standard input for `-` and nothing.
fn read_input(path: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    };
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The file `--config` names, with the drop-ins and labels beside it.
fn read_config(flags: &CommonFlags) -> anyhow::Result<File> {
    flags.config.as_deref().map_or_else(|| Ok(File::default()), |path| read_config_with(path, None))
}

/// The same with a drop-in that has yet to be written, or to be written anew: its path and its text.
fn read_config_with(path: &Path, new: Option<(&Path, &str)>) -> anyhow::Result<File> {
    let mut file = parse_config(path)?;
    let mut drop_ins = files_of(&path.with_extension("d"))?;
    drop_ins.extend(new.map(|(path, _)| path.to_owned()));
    drop_ins.sort();
    drop_ins.dedup();
    for drop_in in drop_ins.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "yaml")) {
        file = file.with(match new {
            Some((path, text)) if path == drop_in => config::parse_file(path, text)?,
            _ => parse_config(&drop_in)?,
        });
    }
    for labels in files_of(&path.with_file_name("labels.d"))? {
        file.host_labels.add(&labels, &read_input(Some(&labels))?)?;
    }
    Ok(file)
}

/// For commands about the agent of this host: what packages configure it with, unless told otherwise.
fn read_host_config(flags: &CommonFlags) -> anyhow::Result<File> {
    read_installed_config(flags, config::AGENT_CONFIG)
}

/// For commands about the control endpoint of this host: where it keeps what it has.
fn control_dir(flags: &CommonFlags) -> anyhow::Result<PathBuf> {
    let file = read_installed_config(flags, config::CONTROL_CONFIG)?;
    Ok(config::state_dir(flags.state_dir.clone(), &file))
}

fn read_installed_config(flags: &CommonFlags, installed: &str) -> anyhow::Result<File> {
    let installed = Path::new(installed);
    let config = flags.config.clone().or_else(|| installed.is_file().then(|| installed.to_owned()));
    read_config(&CommonFlags { config, state_dir: None })
}

fn parse_config(path: &Path) -> anyhow::Result<File> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read configuration {}", path.display()))?;
    Ok(config::parse_file(path, &text)?)
}

/// The files of a folder in the order of their names, but for hidden ones and those that editors and package managers
/// leave behind. None if there is no such folder.
fn files_of(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let is_left_over = |name: &str| {
        name.starts_with('.')
            || [".dpkg-old", ".dpkg-dist", ".dpkg-new", ".rpmsave", ".rpmnew", "~"]
                .iter()
                .any(|end| name.ends_with(end))
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = paths.with_context(|| format!("cannot read {}", dir.display()))?;
    paths.retain(|path| path.is_file() && !path.file_name().is_some_and(|name| is_left_over(&name.to_string_lossy())));
    paths.sort();
    Ok(paths)
}

fn hostname() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the hostname; give --node-name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// Two threads are enough: nothing here computes for long.
fn block_on<T>(role: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(role)
}

/// Runs a role that keeps no more memory than it uses.
async fn run_small<T>(role: impl Future<Output = T>) -> T {
    tokio::spawn(async {
        loop {
            tokio::time::sleep(GIVE_BACK_INTERVAL).await;
            footprint::give_back();
        }
    });
    role.await
}

/// Has the whole process end when one of its tasks panics: a pod would be left without its worker, and nobody would notice. The
/// service manager starts the agent anew, and no container is touched.
fn end_with_a_panic() {
    let say = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        say(panic);
        process::abort();
    }));
}

/// Becomes true with SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (stop_tx, stop_rx) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        // Both arms only wait.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop_tx.send_replace(true);
    });
    Ok(stop_rx)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use nix::libc;

    use super::*;

    #[test]
    fn a_task_that_panics_ends_the_process() {
        const PANICS: &str = "GARRISON_TEST_PANICS";
        if env::var_os(PANICS).is_some() {
            end_with_a_panic();
            let outcome = block_on(async { Ok(tokio::spawn(async { panic!("this worker has a bug") }).await) });
            assert!(outcome.unwrap().is_err());
            return;
        }
        let mut this = Command::new(env::current_exe().unwrap());
        this.args(["--exact", "roles::tests::a_task_that_panics_ends_the_process"]).env(PANICS, "1");
        assert_eq!(this.output().unwrap().status.signal(), Some(libc::SIGABRT));
    }
}
