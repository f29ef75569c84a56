//! Agent and control as processes of their own inside a node, to be killed and started again.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::harness::{Node, daemonset};

/// How long a loop of faults goes on unless `GARRISON_SOAK_SECS` says otherwise.
const SOAK: Duration = Duration::from_secs(60);

/// One of garrison's roles inside a node.
pub struct Process {
    /// `agent` or `control`.
    pub role: &'static str,
    args: Vec<String>,
    starter: Option<Child>,
}

impl Process {
    /// A control endpoint whose kubeconfig is the one the node's kubectl uses.
    pub fn control(node: &Node) -> Self {
        let args = ["control".to_owned(), "--state-dir".to_owned(), path(node, "state")];
        Self { role: "control", args: args.into(), starter: None }
    }

    /// An agent of that endpoint, which joins with the token that this left.
    pub fn agent(node: &Node) -> Self {
        let token = node.eventually("a join token is there", |node| {
            fs::read_to_string(node.path("state/join.token")).map_err(|error| error.to_string())
        });
        let args = ["agent", "--control", "localhost:6443", "--eviction-hard", "memory.available<100Mi", "--token"];
        let mut args: Vec<_> = args.map(str::to_owned).into();
        args.extend([token.trim().to_owned(), "--state-dir".to_owned(), path(node, "agent")]);
        Self { role: "agent", args, starter: None }
    }

    /// An agent without control, of the folder `manifests`.
    pub fn alone(node: &Node) -> Self {
        let args = ["agent", "--node-name", "alone", "--eviction-hard", "memory.available<100Mi", "--manifests"];
        let mut args: Vec<_> = args.map(str::to_owned).into();
        args.extend([path(node, "manifests"), "--state-dir".to_owned(), path(node, "agent")]);
        Self { role: "agent", args, starter: None }
    }

    /// Starts it.
    pub fn start(&mut self, node: &Node) {
        let log = File::options().create(true).append(true).open(node.path("garrison.log")).expect("a log file");
        let mut command = node.inside(env!("CARGO_BIN_EXE_garrison"));
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.starter = Some(command.spawn().expect("the binary under test starts"));
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: &Node) {
        node.kill_child(self.starter.take().expect("it was started"), "garrison");
    }

    /// Waits until it ends by itself with an error; what garrison's processes have said by then.
    pub fn fails(&mut self, node: &Node) -> String {
        let mut starter = self.starter.take().expect("it was started");
        node.eventually("it ends by itself", |_| match starter.try_wait() {
            Ok(Some(status)) if !status.success() => Ok(()),
            other => Err(format!("{other:?}")),
        });
        fs::read_to_string(node.path("garrison.log")).expect("a log file")
    }

    /// Its pid inside the node.
    pub fn pid(&self, node: &Node) -> u32 {
        let pattern = format!("{} {} ", env!("CARGO_BIN_EXE_garrison"), self.role);
        node.eventually(&format!("{} runs", self.role), |node| {
            let found = node.inside("pgrep").args(["-f", "-o", &pattern]).output().expect("pgrep is installed");
            let said = String::from_utf8_lossy(&found.stdout);
            said.trim().parse().map_err(|_| format!("pgrep says {said:?}"))
        })
    }
}

/// A control endpoint and an agent of it, both started, once the node is ready.
pub fn control_and_agent(node: &Node) -> (Process, Process) {
    let mut control = Process::control(node);
    control.start(node);
    let mut agent = Process::agent(node);
    agent.start(node);
    node.is_ready();
    (control, agent)
}

/// A path in the node's folder, as an argument.
pub fn path(node: &Node, name: &str) -> String {
    node.path(name).to_str().expect("test paths are UTF-8").to_owned()
}

/// How long a loop of faults goes on.
pub fn soak() -> Duration {
    let secs = std::env::var("GARRISON_SOAK_SECS").ok();
    secs.map_or(SOAK, |secs| Duration::from_secs(secs.parse().expect("GARRISON_SOAK_SECS is a number")))
}

/// A DaemonSet of one container that is told apart by `value`.
pub fn sleeper(name: &str, value: &str) -> String {
    let spec = format!(
        "      terminationGracePeriodSeconds: 0
      volumes: [{{name: settings, configMap: {{name: settings, optional: true}}}}]
      containers:
        - name: main
          image: busybox:1.35
          command: [sleep, '100000']
          env: [{{name: VALUE, value: '{value}'}}]
          volumeMounts: [{{name: settings, mountPath: /settings}}]
"
    );
    daemonset(name, &spec)
}
