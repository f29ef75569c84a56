//! `garrison agent join`: this host becomes a node of a fleet in one step, or stays as it was.
//!
//! Looked at and settled first, written and asked for afterwards, in the order of what is taken back most easily: a drop-in,
//! the enrolment, the service. The token is kept nowhere, since the host is enrolled before its agent runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use garrison::agent;
use garrison::cli::{JoinFlags, NodeFlags};
use garrison::config::{self, AgentSettings, ConfigError};
use garrison::host::units;
use garrison::model::NodeName;

use super::{block_on, given_token, hostname, print, read_config_with, show};

/// The agent's service, as packages have it.
const SERVICE: &str = "garrison-agent.service";

pub(super) fn join(flags: &JoinFlags) -> anyhow::Result<()> {
    let config = flags.config.clone().unwrap_or_else(|| config::AGENT_CONFIG.into());
    anyhow::ensure!(
        config.is_file(),
        "there is no {}; install the package, or name the agent's configuration with --config",
        config.display()
    );
    let drop_in = DropIn::settle(flags, config.with_extension("d").join(config::JOIN_DROP_IN))?;
    let (mut settings, control) = settings(flags, &config, &drop_in)?;
    let node = agent::enrolled(&settings)?;
    match &node {
        Some(node) => stays(node, &config, &control)?,
        None => settings.token = given_token(flags.token.clone())?,
    }
    let findings =
        block_on(async { Ok(agent::check(Ok(settings.clone()), config::defaults(&hostname()?), None).await?) })?;
    show(&findings).context("this host is left as it was")?;

    drop_in.write()?;
    let node = match node {
        Some(node) => node,
        None => {
            block_on(async { Ok(agent::enrol(&settings, &control).await?) }).inspect_err(|_| drop_in.take_back())?
        }
    };
    print(&format!("this host is node {node} of the fleet at {control}\n"));
    start(&config, drop_in.is_new()).with_context(|| {
        format!(
            "node {node} is enrolled, but its agent does not start; see journalctl -u {SERVICE}, then call this again"
        )
    })
}

/// What the agent will run with, and the control endpoint among it.
fn settings(flags: &JoinFlags, config: &Path, drop_in: &DropIn) -> anyhow::Result<(AgentSettings, String)> {
    let new = drop_in.text.as_deref().map(|text| (drop_in.path.as_path(), text));
    let file = read_config_with(config, new)?;
    let state_dir = config::state_dir(None, &file);
    let settings = config::agent(NodeFlags::default(), state_dir, None, None, file, &hostname()?)?;
    let control = settings.control.clone().ok_or(ConfigError::NoControl)?;
    anyhow::ensure!(
        flags.control.as_ref().is_none_or(|asked| *asked == control),
        "another file in {} sets control: {control}, and comes after {}; remove it there",
        config.with_extension("d").display(),
        config::JOIN_DROP_IN
    );
    Ok((settings, control))
}

/// A node stays in its fleet.
fn stays(node: &NodeName, config: &Path, asked: &str) -> anyhow::Result<()> {
    let control = read_config_with(config, None)?.control;
    anyhow::ensure!(
        control.as_deref() == Some(asked),
        "this host is node {node} of the fleet at {} already; to make it one of another fleet, stop its agent and call garrison purge \
         first; if its control endpoint has moved, change control: in the agent's configuration",
        control.as_deref().unwrap_or("an endpoint that no configuration names")
    );
    Ok(())
}

fn start(config: &Path, restart: bool) -> anyhow::Result<()> {
    if config == Path::new(config::AGENT_CONFIG) && units::has(SERVICE) {
        units::enable_and_start(SERVICE, restart)?;
        print(&format!("{SERVICE} runs, now and after every boot; garrison status tells how it is\n"));
    } else {
        print(&format!("start its agent: garrison agent --config {}\n", config.display()));
    }
    Ok(())
}

/// What is settled by joining, on disk.
struct DropIn {
    path: PathBuf,
    before: Option<String>,
    /// None if there is nothing to write.
    text: Option<String>,
}

impl DropIn {
    fn settle(flags: &JoinFlags, path: PathBuf) -> anyhow::Result<Self> {
        let before = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.with_context(|| format!("cannot read {}", path.display()))?),
        };
        let text = config::join_drop_in(flags, &path, before.as_deref())?;
        Ok(Self { path, before, text })
    }

    fn is_new(&self) -> bool {
        self.text != self.before
    }

    fn write(&self) -> anyhow::Result<()> {
        let Some(text) = self.text.as_ref().filter(|_| self.is_new()) else { return Ok(()) };
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let written = fs::create_dir_all(dir).and_then(|()| fs::write(&self.path, text));
        written.inspect_err(|_| self.take_back()).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// As far as the disk lets it.
    fn take_back(&self) {
        if self.is_new() {
            let _ = match &self.before {
                Some(before) => fs::write(&self.path, before),
                None => fs::remove_file(&self.path),
            };
        }
    }
}
