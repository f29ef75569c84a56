//! Nodes for one test: private containerd and registry from `tests/env/node.sh`, garrison beside them, kubectl.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/env/node.sh");
/// How long anything may take on a busy machine before the test calls it a failure.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The address of a fleet's hub.
pub const HUB: &str = "10.99.0.1";

/// A node that exists as long as this value.
pub struct Node {
    name: String,
    dir: tempfile::TempDir,
    /// Keeps the node up until its standard input ends, however this process dies.
    keeper: Child,
    garrison: Option<Child>,
}

/// A node on its way up. Several can be at once.
pub struct Booting(Node);

/// A running container as containerd tells it, for telling a restart from the same one. The pid is the node's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    pub container: String,
    pub pid: u32,
}

impl Booting {
    /// Waits until the node is up.
    pub fn wait(self) -> Node {
        let Self(mut node) = self;
        let mut socket = String::new();
        let said = BufReader::new(node.keeper.stdout.take().expect("it is piped")).read_line(&mut socket);
        assert!(said.is_ok_and(|bytes| bytes > 0), "node {} did not come up", node.name);
        node
    }
}

/// A DaemonSet, as a YAML document that others may follow. `pod` are the lines of its pod's spec, indented by six spaces.
pub fn daemonset(name: &str, pod: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
{pod}---
"
    )
}

/// A DaemonSet of one busybox container that runs `script` and stays; `pod` are further lines of its pod's spec, `container`
/// of its container. Its errors go where its output goes: lines of two streams may be logged in another order than written.
pub fn shell_daemonset(name: &str, script: &str, container: &str, pod: &str) -> String {
    let spec = format!(
        "      terminationGracePeriodSeconds: 0
{pod}      containers:
        - name: main
          image: busybox:1.35
          command: [sh, -c, 'exec 2>&1; {script}; sleep 1000']
{container}"
    );
    daemonset(name, &spec)
}

impl Node {
    /// Makes namespaces, containerd and registry. `name` has to be unique among the tests.
    pub fn up(name: &str) -> Self {
        Self::boot(name, &[]).wait()
    }

    /// Makes the hub of a fleet: the network that others are plugged into, without containerd. Its address is [`HUB`].
    pub fn hub(name: &str) -> Self {
        Self::boot(name, &["hub"]).wait()
    }

    /// Begins to make a node with the address `10.99.0.number` in the network of a hub.
    pub fn boot_in(hub: &Self, name: &str, number: usize) -> Booting {
        let hub = hub.dir.path().to_str().expect("test paths are UTF-8");
        Self::boot(name, &[hub, &number.to_string()])
    }

    fn boot(name: &str, fleet: &[&str]) -> Booting {
        let dir = tempfile::Builder::new().prefix("gt-").tempdir_in("/tmp").expect("/tmp is writable");
        let name = format!("gt-{name}");
        let mut keeper = Command::new(SCRIPT);
        keeper.arg("run").arg(&name).arg(dir.path()).args(fleet).stdin(Stdio::piped()).stdout(Stdio::piped());
        let keeper = keeper.spawn().expect("tests/env/node.sh can be run");
        Booting(Self { name, dir, keeper, garrison: None })
    }

    /// `metadata.name` of its Node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts `garrison up` and waits until the API answers and the node is there.
    pub fn garrison_up(&mut self) {
        self.garrison_up_with(&[]);
    }

    /// The same with further flags.
    pub fn garrison_up_with(&mut self, flags: &[&str]) {
        self.spawn(&[&["up"], flags].concat());
        self.is_ready();
    }

    /// Waits until the node is ready.
    pub fn is_ready(&self) {
        self.eventually("the node is ready", |node| {
            let status = node.try_kubectl(&["get", "nodes", "--no-headers"])?;
            if status.contains(" Ready ") { Ok(()) } else { Err(status) }
        });
    }

    /// Starts `garrison agent` on a folder of manifests, without a control endpoint.
    pub fn garrison_alone(&mut self, manifests: &Path) {
        let manifests = manifests.to_str().expect("test paths are UTF-8").to_owned();
        self.spawn(&["agent", "--manifests", &manifests]);
    }

    /// Starts `garrison control` on the hub of a fleet and waits until the API answers.
    pub fn garrison_control(&mut self) {
        self.start(&["control", "--listen", &format!("{HUB}:6443")]);
        self.eventually("the API answers", |node| node.try_kubectl(&["get", "--raw", "/readyz"]));
    }

    /// Starts `garrison agent` with a join token for the control endpoint on the hub.
    pub fn garrison_agent(&mut self, token: &str) {
        self.spawn(&["agent", "--control", &format!("{HUB}:6443"), "--token", token]);
    }

    /// Starts a role that has an agent in it.
    fn spawn(&mut self, role: &[&str]) {
        let name = self.name.clone();
        let mut arguments = [role, &["--node-name", &name]].concat();
        if !role.contains(&"--eviction-hard") {
            // The disk of the machine that runs the tests may be fuller than a node's should be.
            arguments.extend(["--eviction-hard", "memory.available<100Mi"]);
        }
        if !role.contains(&"--image-gc-high-threshold") {
            arguments.extend(["--image-gc-high-threshold", "100"]);
        }
        self.start(&arguments);
    }

    /// Inside the node all of garrison's default paths are the node's own.
    fn start(&mut self, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path("garrison.log")).expect("a log file");
        let mut command = self.inside(env!("CARGO_BIN_EXE_garrison"));
        command.args(arguments).arg("--state-dir").arg(self.path("state"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.garrison = Some(command.spawn().expect("the binary under test starts"));
    }

    /// `kill -9` of garrison itself; what started it ends with it.
    pub fn kill_garrison(&mut self) {
        let mut starter = self.garrison.take().expect("garrison was started");
        let pid = self.eventually("garrison runs", |_| descendant(starter.id(), "garrison"));
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill can be run");
        assert!(killed.success());
        starter.wait().expect("it is our child");
    }

    /// `kill -9` of containerd; the containers' shims stay.
    pub fn kill_containerd(&self) {
        self.signal_containerd("-KILL");
    }

    /// Sends containerd a signal, such as `-STOP`.
    pub fn signal_containerd(&self, signal: &str) {
        let pid = fs::read_to_string(self.path("containerd.pid")).expect("the node's script writes it");
        self.signal(pid.trim(), signal);
    }

    /// `kill -9` of a process by the pid it has inside the node.
    pub fn kill(&self, pid: u32) {
        self.signal(&pid.to_string(), "-KILL");
    }

    fn signal(&self, pid: &str, signal: &str) {
        let sent = self.inside("kill").args([signal, pid]).status().expect("kill can be run");
        assert!(sent.success());
    }

    /// What a shell inside the node says, which has to succeed.
    pub fn shell(&self, script: &str) -> String {
        let output = self.inside("sh").args(["-c", script]).output().expect("sh can be run");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        text(&output)
    }

    /// Ends every process of the node at once, containerd, registry and containers included; the disk stays as it is.
    pub fn cut_power(&mut self) {
        // All but the first process of the node, which keeps its namespaces, and the one that kills.
        let cut = self.inside("sh").args(["-c", "kill -9 -1"]).status().expect("sh can be run");
        assert!(cut.success());
        if let Some(mut starter) = self.garrison.take() {
            starter.wait().expect("it is our child");
        }
    }

    /// Starts containerd again.
    pub fn start_containerd(&self) {
        let started = Command::new(SCRIPT).arg("start-containerd").arg(&self.name).arg(self.dir.path()).status();
        assert!(started.expect("tests/env/node.sh can be run").success());
    }

    /// The node's own root directory, as seen from outside.
    pub fn root(&self) -> PathBuf {
        let pid = fs::read_to_string(self.path("node.pid")).expect("the node's script writes it");
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim())).expect("the node is up");
        let init = children.split_whitespace().next().expect("the node has a first process");
        Path::new("/proc").join(init).join("root")
    }

    /// A path in the node's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command inside the node.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new(SCRIPT);
        command.arg("exec").arg(&self.name).arg(self.dir.path()).arg(program);
        command
    }

    /// Runs one of garrison's small commands; what it said, whether it failed or not.
    pub fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = self.inside(env!("CARGO_BIN_EXE_garrison")).args(args).output();
        let output = output.expect("the binary under test starts");
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }

    /// Runs kubectl; panics with what it said if it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap_or_else(|said| panic!("kubectl {args:?} failed:\n{said}"))
    }

    /// Runs kubectl, which has to fail; answers with what it said.
    pub fn kubectl_refused(&self, args: &[&str]) -> String {
        match self.try_kubectl(args) {
            Ok(said) => panic!("kubectl {args:?} was to fail, it said:\n{said}"),
            Err(said) => said,
        }
    }

    /// Runs kubectl; what it said, whether it failed or not.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let output = self.kubectl_command(args).output().expect("kubectl is installed");
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }

    /// kubectl, to be run by the caller.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.inside("kubectl");
        command.arg("--kubeconfig").arg(self.path("state/admin.kubeconfig")).arg("--cache-dir").arg(self.path("cache"));
        command.args(args);
        command
    }

    /// kubectl as one line for a shell, with what its output or input is to be.
    pub fn kubectl_line(&self, args: &str) -> String {
        let (dir, script) = (self.dir.path().display(), SCRIPT);
        let name = &self.name;
        format!(
            "{script} exec {name} {dir} kubectl --kubeconfig {dir}/state/admin.kubeconfig --cache-dir {dir}/cache {args}"
        )
    }

    /// `kill -9` of a program that a command has become or started, and waits for the command.
    pub fn kill_child(&self, mut child: Child, program: &str) {
        let pid = self.eventually(&format!("{program} runs"), |_| descendant(child.id(), program));
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill can be run");
        assert!(killed.success());
        child.wait().expect("it is our child");
    }

    /// Ends a program that writes until it is ended; answers with what it wrote.
    pub fn end_child(&self, child: Child, program: &str) -> String {
        let pid = self.eventually(&format!("{program} runs"), |_| descendant(child.id(), program));
        let ended = Command::new("kill").arg(pid.to_string()).status().expect("kill can be run");
        assert!(ended.success());
        text(&child.wait_with_output().expect("it is our child"))
    }

    /// `kubectl apply` of these manifests.
    pub fn apply(&self, manifests: &str) {
        let file = self.write("applied.yaml", manifests);
        self.kubectl(&["apply", "-f", &file]);
    }

    /// Writes a file of the test and answers with its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder for test files");
        fs::write(&path, content).expect("the node's folder is writable");
        path.to_str().expect("test paths are UTF-8").to_owned()
    }

    /// Writes a file inside the node, where `write` would write one beside it.
    pub fn write_inside(&self, path: &str, content: &str) {
        let script = "mkdir -p \"${1%/*}\" && printf %s \"$2\" >\"$1\"";
        let written = self.inside("sh").args(["-c", script, "sh", path, content]).status().expect("sh can be run");
        assert!(written.success());
    }

    /// The content of a file inside the node, if it can be read.
    pub fn read(&self, path: &str) -> Option<String> {
        let output = self.inside("cat").arg(path).output().expect("cat can be run");
        output.status.success().then(|| text(&output))
    }

    /// Fetches a URL from inside the node.
    pub fn fetch(&self, url: &str) -> Result<String, String> {
        let output = self.inside("curl").args(["-sS", "--max-time", "5", url]).output().expect("curl is installed");
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }

    /// The containers that run now, sandboxes included.
    pub fn tasks(&self) -> Vec<Task> {
        let socket = self.path("containerd.sock");
        let output = Command::new("ctr").arg("-a").arg(socket).args(["-n", "k8s.io", "tasks", "list"]).output();
        let listing = text(&output.expect("ctr is installed"));
        let task = |line: &str| {
            let mut words = line.split_whitespace();
            let (container, pid, status) = (words.next()?, words.next()?, words.next()?);
            (status == "RUNNING").then(|| Task { container: container.to_owned(), pid: pid.parse().expect("a pid") })
        };
        let mut tasks: Vec<_> = listing.lines().filter_map(task).collect();
        tasks.sort();
        tasks
    }

    /// Waits until `probe` answers; panics with its last complaint and the end of garrison's log when it never does.
    pub fn eventually<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match probe(self) {
                Ok(value) => return value,
                Err(complaint) if Instant::now() > deadline => {
                    panic!("waited in vain until {what}: {complaint}\ngarrison's log ends:\n{}", self.end_of_log());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// The last lines garrison wrote, each as far as it fits a screen.
    pub fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.path("garrison.log")).unwrap_or_default();
        let lines: Vec<String> = log.lines().map(|line| line.chars().take(300).collect()).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The node's network namespace, to be entered by a thread of the test.
    pub fn network(&self) -> File {
        let pid = fs::read_to_string(self.path("node.pid")).expect("the node's script writes it");
        File::open(format!("/proc/{}/ns/net", pid.trim())).expect("the node is up")
    }

    /// Waits until kubectl's output contains all of `parts`.
    pub fn sees(&self, args: &[&str], parts: &[&str]) -> String {
        self.eventually(&format!("kubectl {args:?} shows {parts:?}"), |node| {
            let shown = node.try_kubectl(args)?;
            if parts.iter().all(|part| shown.contains(part)) { Ok(shown) } else { Err(shown) }
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its end of the pipe closes, and the keeper takes everything down: garrison, pods, mounts, namespaces.
        drop(self.keeper.stdin.take());
        let down = self.keeper.wait();
        if let Some(mut starter) = self.garrison.take() {
            drop(starter.wait());
        }
        assert!(
            down.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "the node did not go down cleanly"
        );
    }
}

/// The process of this name that `ancestor` has become or started.
fn descendant(ancestor: u32, name: &str) -> Result<u32, String> {
    let comm = fs::read_to_string(format!("/proc/{ancestor}/comm")).map_err(|error| error.to_string())?;
    if comm.trim() == name {
        return Ok(ancestor);
    }
    let children = fs::read_to_string(format!("/proc/{ancestor}/task/{ancestor}/children"));
    let children = children.map_err(|error| error.to_string())?;
    let mut children = children.split_whitespace().filter_map(|child| child.parse().ok());
    children.find_map(|child| descendant(child, name).ok()).ok_or_else(|| format!("{ancestor} ({comm}) has no {name}"))
}

/// What a program printed, on both channels.
fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
