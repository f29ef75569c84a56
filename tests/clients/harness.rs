//! A control endpoint for one test, and the clients that talk to it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use garrison::kube::Kubeconfig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take on a busy machine before the test calls it a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A control endpoint that exists as long as this value.
pub struct Control {
    dir: tempfile::TempDir,
    process: Child,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Control {
    /// Starts `garrison control` on a free port of the loopback interface, with a state folder of its own.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further flags.
    pub fn start_with(flags: &[&str]) -> Self {
        Self::start_in(&[], flags)
    }

    /// The same with variables of the environment.
    pub fn start_in(environment: &[(&str, &str)], flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("gc-").tempdir().expect("a folder for temporary files");
        let process = spawn(dir.path(), environment, flags);
        let control = Self { dir, process };
        control.answers();
        control
    }

    /// Kills it and starts it again on what it left behind, on another port.
    pub fn restart(&mut self) {
        self.process.kill().expect("control runs");
        self.process.wait().expect("control ends");
        fs::remove_file(self.kubeconfig()).expect("control has written a kubeconfig");
        self.process = spawn(self.dir.path(), &[], &[]);
        self.answers();
    }

    /// Tells it to end, waits until it has, and gives what it said.
    pub fn stop(mut self) -> String {
        let pid = Pid::from_raw(self.pid().try_into().expect("pids are small"));
        kill(pid, Signal::SIGTERM).expect("control runs");
        self.process.wait().expect("control ends");
        self.log()
    }

    /// Of the process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn answers(&self) {
        self.eventually("control answers", |control| {
            // It is written once the port is open.
            Kubeconfig::read(&control.kubeconfig()).map(drop).map_err(|error| format!("{error}: {}", control.log()))
        });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path("state/admin.kubeconfig")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Writes a file for a command to read.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).expect("the folder can be written to");
        path.to_str().expect("test paths are UTF-8").to_owned()
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Said {
        self.kubectl_as(&self.kubeconfig(), args)
    }

    /// Runs kubectl with another kubeconfig.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Said {
        let mut kubectl = self.client("kubectl");
        kubectl.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(self.path("cache")).args(args);
        run(kubectl)
    }

    /// Runs helm as the administrator.
    pub fn helm(&self, args: &[&str]) -> Said {
        let mut helm = self.client("helm");
        helm.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        run(helm)
    }

    /// Runs a command of garrison itself on this control's state folder.
    pub fn garrison(&self, args: &[&str]) -> Said {
        let mut garrison = Command::new(env!("CARGO_BIN_EXE_garrison"));
        garrison.args(args).arg("--state-dir").arg(self.path("state"));
        run(garrison)
    }

    /// A client that keeps everything it writes in this test's folder.
    fn client(&self, name: impl AsRef<OsStr>) -> Command {
        let mut client = Command::new(name);
        client.env("HOME", self.dir.path()).env_remove("KUBECONFIG").stdin(Stdio::null());
        client
    }

    /// Asks again until the answer is good; fails with the last one that was not.
    pub fn eventually<T>(&self, what: &str, ask: impl Fn(&Self) -> Result<T, String>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask(self) {
                Ok(answer) => return answer,
                Err(last) if Instant::now() > deadline => panic!("{what}: {last}"),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

fn spawn(dir: &Path, environment: &[(&str, &str)], flags: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log file");
    Command::new(env!("CARGO_BIN_EXE_garrison"))
        .args(["control", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(dir.join("state"))
        .args(flags)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("the binary under test starts")
}

impl Drop for Control {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Said {
    /// What a command that succeeded wrote.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What a command that failed complained of.
    #[track_caller]
    pub fn err(self) -> String {
        assert!(!self.success, "succeeded: {}", self.stdout);
        self.stderr
    }
}

fn run(mut command: Command) -> Said {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The oldest kubectl these tests are about: 1.27.
const OLDEST_MINOR: u32 = 27;

/// Whether there is a kubectl to test with.
pub fn has_kubectl() -> bool {
    match kubectl_minor() {
        None => missing("kubectl is not installed", "clients.sh"),
        Some(minor) if minor < OLDEST_MINOR => {
            missing(&format!("kubectl 1.{minor} is older than 1.{OLDEST_MINOR}"), "clients.sh")
        }
        Some(_) => true,
    }
}

/// Whether there is a helm to test with.
pub fn has_helm() -> bool {
    let found = Command::new("helm").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok() { has_kubectl() } else { missing("helm is not installed", "clients.sh") }
}

/// Whether there is a Prometheus to test with.
pub fn has_prometheus() -> bool {
    let found = Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok() { has_kubectl() } else { missing("prometheus is not installed", "packages.sh") }
}

/// Says aloud that a test checks nothing, and why; gives false. A script below `tests/env` fetches what is missing.
fn missing(why: &str, script: &str) -> bool {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not `eprintln`: what a test that passes prints in that way is not shown.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}; tests/env/{script} fetches it");
    false
}

fn kubectl_minor() -> Option<u32> {
    let output = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    // Some builds write `32+`.
    version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}
