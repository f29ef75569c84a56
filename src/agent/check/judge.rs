//! What was found on a host, and what to do about it. Pure.

use std::path::PathBuf;

use jiff::Timestamp;

use super::{Finding, Grade};
use crate::config::AgentSettings;
use crate::cri::{RuntimeSettings, RuntimeStatus, RuntimeVersion};
use crate::host::facts::leading_version;
use crate::host::preflight::Signs;
use crate::link::{POD_API, tls};
use crate::podspec::CgroupDriver;

/// The oldest containerd the agent is made for.
const CONTAINERD_MIN: (u32, u32) = (1, 6);
/// The oldest kernel the agent is made for: that of the oldest distributions that still have support.
const KERNEL_MIN: (u32, u32) = (4, 18);
/// Controllers that pods cannot do without.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// `CAP_SYS_ADMIN` of capabilities(7): mounts.
const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_SYS_RESOURCE` of capabilities(7): negative OOM scores, for whoever has no more than this process.
const CAP_SYS_RESOURCE: u32 = 24;
/// Below this much free space, in percent, kubelets begin to evict.
const FREE_PERCENT_MIN: u64 = 10;
/// Names that many hosts have, none of its own choosing.
const NO_NAMES: [&str; 3] = ["localhost", "localhost.localdomain", "debian"];

/// Everything that was found.
pub(super) struct Evidence<'a> {
    /// What is wrong with the configuration.
    pub(super) unusable: Option<String>,
    pub(super) settings: &'a AgentSettings,
    pub(super) signs: &'a Signs,
    /// What the runtime told, or why it did not, with whether it has no CRI.
    pub(super) runtime: Result<RuntimeFacts, (bool, String)>,
    pub(super) network: Network,
    pub(super) enrolment: Enrolment,
    /// For an agent with a control endpoint: why that cannot be reached.
    pub(super) control: Option<Option<String>>,
    /// Why nobody can listen on the port at which pods reach the API.
    pub(super) pod_api: Option<String>,
    /// An address to serve on, and why it cannot be.
    pub(super) listen: Option<(&'a str, Option<String>)>,
    pub(super) now: Timestamp,
}

/// What the runtime told.
pub(super) struct RuntimeFacts {
    pub(super) version: RuntimeVersion,
    pub(super) status: RuntimeStatus,
    pub(super) settings: RuntimeSettings,
}

/// What there is of CNI.
pub(super) struct Network {
    pub(super) conf_dir: PathBuf,
    pub(super) bin_dir: PathBuf,
    pub(super) configuration: Result<Option<PathBuf>, String>,
    pub(super) missing_plugins: Vec<String>,
}

/// What this host is to its fleet.
pub(super) struct Enrolment {
    pub(super) agent_runs: bool,
    pub(super) known_name: Option<String>,
    pub(super) ledger_trouble: Vec<String>,
    /// Whether it has a certificate.
    pub(super) credentials: Result<bool, String>,
    /// With a certificate: when the fleet's authority ends.
    pub(super) trusted_until: Option<Timestamp>,
    pub(super) token_waits: bool,
}

fn finding(topic: &'static str, grade: Grade, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { topic, grade, found: found.into(), remedy: remedy.into() }
}

fn ok(topic: &'static str, found: impl Into<String>) -> Finding {
    finding(topic, Grade::Ok, found, "")
}

fn warning(topic: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    finding(topic, Grade::Warning, found, remedy)
}

fn problem(topic: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    finding(topic, Grade::Problem, found, remedy)
}

/// One finding at least for each topic, from the host's own matters to those between it and others.
pub(super) fn judge(evidence: &Evidence<'_>) -> Vec<Finding> {
    let (settings, signs) = (evidence.settings, evidence.signs);
    let mut all = vec![configuration(evidence), permissions(signs), kernel(signs), cgroups(signs, &evidence.runtime)];
    all.extend([mounts(signs), clock(evidence), machine(signs), name(evidence)]);
    all.extend([
        state_dir(settings, signs),
        space(signs),
        kubelet(settings, signs),
        runtime(settings, &evidence.runtime),
    ]);
    all.push(network(settings, &evidence.network, &evidence.runtime));
    all.extend(enrolment(evidence));
    all.extend(evidence.control.as_ref().map(|trouble| control(settings, trouble.as_deref())));
    if evidence.control.is_some() && !evidence.enrolment.agent_runs {
        all.push(port(evidence.pod_api.as_deref()));
    }
    all.extend(evidence.listen.as_ref().map(|(address, trouble)| listen(address, trouble.as_deref())));
    all
}

fn configuration(evidence: &Evidence<'_>) -> Finding {
    let settings = evidence.settings;
    match &evidence.unusable {
        Some(why) => problem("settings", why.clone(), "correct it; everything below was looked at with defaults"),
        None if settings.control.is_none() && settings.manifests.is_none() => problem(
            "settings",
            "neither a control endpoint nor a folder of manifests is set",
            "set control: HOST:PORT or manifests: DIR in /etc/garrison/agent.yaml",
        ),
        None => ok("settings", "usable"),
    }
}

fn permissions(signs: &Signs) -> Finding {
    let has = |capability: u32| signs.capabilities >> capability & 1 == 1;
    if signs.user != 0 || !has(CAP_SYS_ADMIN) {
        return problem(
            "permissions",
            format!(
                "this is user {}, {}",
                signs.user,
                if has(CAP_SYS_ADMIN) { "not root" } else { "without CAP_SYS_ADMIN" }
            ),
            "run the agent, and this check, as root with all capabilities: it mounts volumes and speaks to containerd",
        );
    }
    if !has(CAP_SYS_RESOURCE) {
        return warning(
            "permissions",
            "root lacks CAP_SYS_RESOURCE here; if containerd does too, no sandbox can be made",
            "set restrict_oom_score_adj = true in containerd's CRI configuration",
        );
    }
    ok("permissions", "root")
}

fn kernel(signs: &Signs) -> Finding {
    match leading_version(&signs.kernel) {
        Some(version) if version < KERNEL_MIN => problem(
            "kernel",
            format!("{} is older than {}.{}", signs.kernel, KERNEL_MIN.0, KERNEL_MIN.1),
            "install a newer kernel",
        ),
        _ => ok("kernel", signs.kernel.clone()),
    }
}

fn cgroups(signs: &Signs, runtime: &Result<RuntimeFacts, (bool, String)>) -> Finding {
    let version = if signs.cgroup_v2 { "v2" } else { "v1" };
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !signs.controllers.contains(*name)).collect();
    if !missing.is_empty() {
        let remedy = if missing.contains(&"memory") {
            "add cgroup_enable=memory to the kernel's command line (on a Raspberry Pi: /boot/firmware/cmdline.txt) and reboot"
        } else {
            "mount the controllers, or boot a kernel that has them"
        };
        return problem("cgroups", format!("{version} without {}", missing.join(", ")), remedy);
    }
    let driver = runtime.as_ref().ok().and_then(|runtime| runtime.settings.cgroup_driver);
    if signs.cgroup_v2 && signs.systemd && driver == Some(CgroupDriver::Cgroupfs) {
        return warning(
            "cgroups",
            "v2 with two masters: systemd, and containerd with its cgroupfs driver",
            "set SystemdCgroup = true for runc in containerd's configuration while no pods run",
        );
    }
    ok("cgroups", version)
}

fn mounts(signs: &Signs) -> Finding {
    if signs.root_is_shared {
        return ok("mounts", "shared");
    }
    warning(
        "mounts",
        "/ is mounted private: mount propagation of volumes cannot work",
        "mount --make-rshared /, at every boot before containerd starts; systemd does so by itself",
    )
}

fn clock(evidence: &Evidence<'_>) -> Finding {
    let remedy = "run systemd-timesyncd, chrony or another NTP client";
    let (signs, now) = (evidence.signs, evidence.now);
    if let Some(end) = evidence.enrolment.trusted_until.filter(|end| *end < now) {
        return problem(
            "clock",
            format!("{now} is after {end}, when the fleet's authority ends: no control is accepted"),
            format!(
                "{remedy}; if the clock is right, garrison purge, and join the fleet again under another authority"
            ),
        );
    }
    if now.as_second() < i64::try_from(tls::build_unix_secs()).unwrap_or(i64::MAX) {
        return warning("clock", format!("{now} is before this program was made"), remedy);
    }
    match signs.clock_synchronized {
        Some(false) => warning("clock", "nobody synchronizes it; times of events and logs will be off", remedy),
        _ => ok("clock", "synchronized"),
    }
}

fn machine(signs: &Signs) -> Finding {
    if signs.machine_id.is_empty() {
        return problem(
            "machine id",
            "/etc/machine-id is empty: hosts made from one image could not be told apart",
            "systemd-machine-id-setup",
        );
    }
    ok("machine id", signs.machine_id.clone())
}

fn name(evidence: &Evidence<'_>) -> Finding {
    let name = evidence.settings.node_name.as_str();
    match &evidence.enrolment.known_name {
        Some(known) if known != name && !evidence.settings.name_is_chosen => ok("name", known.as_str()),
        Some(known) if known != name => problem(
            "name",
            format!("the node is to be {name}, its ledger knows it as {known}"),
            format!("set nodeName: {known}; to make it another node, purge it first (garrison purge)"),
        ),
        None if NO_NAMES.contains(&name) => problem(
            "name",
            format!("{name} is what any host may be called, and every node needs a name of its own"),
            "hostnamectl set-hostname NAME, or nodeName: NAME",
        ),
        _ => ok("name", name),
    }
}

fn state_dir(settings: &AgentSettings, signs: &Signs) -> Finding {
    let dir = settings.state_dir.display();
    match signs.state_dir {
        Some(access) if access.owner != 0 || access.mode & 0o077 != 0 => warning(
            "state",
            format!(
                "{dir} belongs to user {} and has mode {:04o}: it holds keys and Secrets",
                access.owner, access.mode
            ),
            format!("chown root:root {dir} && chmod 0700 {dir}"),
        ),
        Some(_) => ok("state", dir.to_string()),
        None => ok("state", format!("{dir} is not there yet")),
    }
}

fn space(signs: &Signs) -> Finding {
    let short: Vec<_> = signs.space.iter().filter(|space| space.free_percent < FREE_PERCENT_MIN).collect();
    if short.is_empty() {
        let free = signs.space.iter().map(|space| format!("{} MiB free at {}", space.free_mib, space.dir.display()));
        return ok("disk", free.collect::<Vec<_>>().join(", "));
    }
    let found = short.iter().map(|space| format!("{} % free at {}", space.free_percent, space.dir.display()));
    warning("disk", found.collect::<Vec<_>>().join(", "), "make room: pods that want disk will not be started")
}

fn kubelet(settings: &AgentSettings, signs: &Signs) -> Finding {
    if signs.kubelets.is_empty() {
        return ok("kubelet", "none");
    }
    let found: Vec<_> = signs.kubelets.iter().map(|(name, pid)| format!("{name} (pid {pid})")).collect();
    if settings.is_apart_from_kubelet() {
        return warning(
            "kubelet",
            format!("{} runs here; this agent has folders, cgroups and a runtime of its own", found.join(", ")),
            "make sure that host ports and pod networks of both do not clash",
        );
    }
    problem(
        "kubelet",
        format!("{} runs here and would fight over pods' folders, cgroups and containers", found.join(", ")),
        "stop it; or give this agent its own: rootDir, cgroupRoot and containerRuntimeEndpoint",
    )
}

fn runtime(settings: &AgentSettings, runtime: &Result<RuntimeFacts, (bool, String)>) -> Finding {
    let endpoint = &settings.runtime_endpoint;
    let facts = match runtime {
        Ok(facts) => facts,
        Err((true, why)) => {
            return problem(
                "runtime",
                why.clone(),
                "remove cri from disabled_plugins in /etc/containerd/config.toml (packages made for Docker put it there) \
                 and restart containerd",
            );
        }
        Err((false, why)) => {
            return problem(
                "runtime",
                why.clone(),
                "install and start containerd (Debian: apt install containerd), or set containerRuntimeEndpoint",
            );
        }
    };
    let shown = format!("{} {} at {endpoint}", facts.version.name, facts.version.version);
    if facts.version.name != "containerd" {
        return warning("runtime", shown, "only containerd is tested; others may lack what the agent follows pods by");
    }
    match leading_version(&facts.version.version) {
        Some(version) if version < CONTAINERD_MIN => {
            problem("runtime", format!("{shown} is too old"), "upgrade containerd to 1.6 or later")
        }
        _ if !facts.status.runtime_ready.ready => problem(
            "runtime",
            format!("{shown} is not ready: {}", facts.status.runtime_ready.message),
            "see journalctl -u containerd",
        ),
        _ => ok("runtime", shown),
    }
}

fn network(settings: &AgentSettings, network: &Network, runtime: &Result<RuntimeFacts, (bool, String)>) -> Finding {
    let plugins = "install CNI plugins (Debian: apt install containernetworking-plugins) and set bin_dir in containerd's \
                   CRI configuration to where they are";
    let missing =
        format!("plugins {} are missing in {}", network.missing_plugins.join(", "), network.bin_dir.display());
    match &network.configuration {
        Err(why) => problem("network", why.clone(), "make it readable for root"),
        Ok(None) if !network.missing_plugins.is_empty() => problem("network", missing, plugins),
        Ok(None) if settings.install_cni => ok("network", "none yet; the agent will install a bridge"),
        Ok(None) => problem(
            "network",
            format!("there is no CNI configuration in {}", network.conf_dir.display()),
            "put one there, or set installCni: true for a bridge of the agent's own",
        ),
        // Which plugins another's configuration needs is for the runtime to say.
        Ok(Some(path)) => match runtime {
            Ok(facts) if !facts.status.network_ready.ready => {
                problem("network", facts.status.network_ready.message.clone(), plugins)
            }
            _ => ok("network", path.display().to_string()),
        },
    }
}

fn enrolment(evidence: &Evidence<'_>) -> Vec<Finding> {
    let enrolment = &evidence.enrolment;
    let damaged = |note: &String| {
        problem("ledger", note.clone(), "see the documentation, \"Back-up and restore\"; pods that run go on meanwhile")
    };
    let mut all: Vec<_> = enrolment.ledger_trouble.iter().map(damaged).collect();
    if enrolment.agent_runs {
        all.push(ok("agent", "runs; garrison status tells more"));
    }
    if evidence.settings.control.is_some() {
        all.push(match &enrolment.credentials {
            Err(why) => problem("enrolment", why.clone(), ""),
            Ok(true) => ok("enrolment", "this host has a certificate"),
            Ok(false) if enrolment.token_waits => ok("enrolment", "a join token waits"),
            Ok(false) => problem(
                "enrolment",
                "this host is not enrolled, and has no join token",
                "call what garrison token create prints on the control host, or put that token into \
                 /etc/credstore/garrison.token, mode 0600",
            ),
        });
    }
    all
}

fn control(settings: &AgentSettings, trouble: Option<&str>) -> Finding {
    let control = settings.control.as_deref().unwrap_or_default();
    match trouble {
        None => ok("control", format!("{control} accepts connections")),
        Some(why) => warning(
            "control",
            format!("{control} cannot be reached: {why}"),
            "check name, port and firewall; an enrolled host works on without it, a new one waits",
        ),
    }
}

fn port(trouble: Option<&str>) -> Finding {
    match trouble {
        None => ok("port", format!("{} is free", POD_API.port())),
        Some(why) => warning(
            "port",
            format!("{} cannot be listened on: {why}; there pods reach the API, at {POD_API}", POD_API.port()),
            format!("see who has it with ss -Hltnp sport = :{}", POD_API.port()),
        ),
    }
}

fn listen(address: &str, trouble: Option<&str>) -> Finding {
    match trouble {
        None => ok("listen", format!("{address} is free")),
        Some(why) => problem(
            "listen",
            format!("{address} cannot be served on: {why}"),
            "see who has it with ss -Hltnp; choose another address with listen: IP:PORT",
        ),
    }
}

#[cfg(test)]
mod tests;
