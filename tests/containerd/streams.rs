//! kubectl exec, cp, attach, port-forward and logs, over WebSocket and over SPDY; kube-rs' exec and logs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, LogParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::Node;

/// What kubectl is told to speak: it speaks WebSocket by itself, and SPDY to servers that do not.
const SPOKEN: [(&str, bool); 2] = [("WebSocket", true), ("SPDY", false)];

/// A file server on port 8080 with a file of 5 MB and one that nobody waits for, a container that ticks, and one that says back what it hears.
const MANIFEST: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: shell}
spec:
  selector: {matchLabels: {app: shell}}
  template:
    metadata: {labels: {app: shell}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: busybox:1.35
          command: [sh, -c, 'mkdir /www; head -c 5000000 /dev/urandom >/www/big; truncate -s 1G /www/endless; httpd -f -p 8080 -h /www']
        - name: clock
          image: busybox:1.35
          command: [sh, -c, 'while true; do echo tick; sleep 1; done']
        - name: echo
          image: busybox:1.35
          stdin: true
          command: [sh, -c, 'while read line; do echo got $line; done']
";

/// A node with the pod `shell`, and the pod's name.
fn node_with_shell(name: &str, manifest: &str) -> (Node, String) {
    let mut node = Node::up(name);
    node.garrison_up();
    node.apply(manifest);
    node.kubectl(&["rollout", "status", "daemonset/shell", "--timeout=90s"]);
    let pod = node.kubectl(&["get", "pods", "-l", "app=shell", "-o", "jsonpath={.items[0].metadata.name}"]);
    (node, pod.trim().to_owned())
}

fn speaking(mut command: Command, websocket: bool) -> Command {
    for variable in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
        command.env(variable, websocket.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs kubectl with this standard input.
fn fed(node: &Node, args: &[&str], websocket: bool, input: &[u8]) -> Output {
    let mut command = speaking(node.kubectl_command(args), websocket);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("kubectl is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // A process that ends without reading all is no failure here.
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it is our child");
    feeding.join().expect("writing does not panic");
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bytes that cannot be compressed and do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// What kube-rs gets to hear of a pod: the first line of the log of `clock`, and what `cat` says to `input` in `main`.
async fn ask_by_kube_rs(kubeconfig: &Path, pod: &str, input: &[u8]) -> anyhow::Result<(String, Vec<u8>)> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let pods = Api::<Pod>::default_namespaced(kube::Client::try_from(config)?);
    let first = LogParams { container: Some("clock".to_owned()), limit_bytes: Some(5), ..LogParams::default() };
    let log = pods.logs(pod, &first).await?;
    let params = AttachParams::default().container("main").stdin(true).stderr(false);
    let mut process = pods.exec(pod, ["cat"], &params).await?;
    let mut stdin = process.stdin().context("its input")?;
    let mut stdout = process.stdout().context("its output")?;
    let mut output = Vec::new();
    let feed = async {
        stdin.write_all(input).await?;
        stdin.shutdown().await
    };
    tokio::try_join!(feed, stdout.read_to_end(&mut output))?;
    process.join().await?;
    Ok((log, output))
}

/// The same, from where the node is.
fn by_kube_rs(node: &Node, pod: &str, input: &[u8]) -> anyhow::Result<(String, Vec<u8>)> {
    let (network, kubeconfig) = (node.network(), node.path("state/admin.kubeconfig"));
    std::thread::scope(|scope| {
        // A thread of its own has a network of its own.
        let asking = scope.spawn(|| {
            setns(&network, CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask_by_kube_rs(&kubeconfig, pod, input))
        });
        asking.join().expect("it does not panic")
    })
}

#[test]
fn commands_run_in_containers() {
    let (node, pod) = node_with_shell("exec", MANIFEST);
    for (name, websocket) in SPOKEN {
        let exec = |command: &[&str], input: &[u8]| {
            let flags = ["exec", "-i", &pod, "-c", "main", "--"];
            fed(&node, &[&flags, command].concat(), websocket, input)
        };
        let failed = exec(&["sh", "-c", "echo out; echo err >&2; exit 7"], b"");
        assert_eq!((failed.status.code(), stdout(&failed)), (Some(7), "out\n".to_owned()), "{name}");
        assert_eq!(stderr(&failed), "err\ncommand terminated with exit code 7\n", "{name}");

        // All that goes in comes out, and the end of the input ends the command.
        let sent = noise(3_000_000);
        let echoed = exec(&["cat"], &sent);
        assert!(echoed.status.success() && echoed.stdout == sent, "{name}: {}", stderr(&echoed));

        let missing = exec(&["no-such-program"], b"");
        assert_eq!(missing.status.code(), Some(1), "{name}");
        assert!(stderr(&missing).contains("executable file not found"), "{name}: {}", stderr(&missing));
        let wrong = fed(&node, &["exec", &pod, "-c", "nope", "--", "true"], websocket, b"");
        assert!(stderr(&wrong).contains("container nope is not valid for pod"), "{name}: {}", stderr(&wrong));
    }
    let sent = noise(3_000_000);
    let (log, echoed) = by_kube_rs(&node, &pod, &sent).expect("kube-rs gets on with control");
    assert!(log == "tick\n" && echoed == sent, "{log:?}, {} bytes", echoed.len());
}

#[test]
fn files_are_copied_both_ways() {
    let (node, pod) = node_with_shell("cp", MANIFEST);
    let sent = noise(3_000_000);
    std::fs::create_dir_all(node.path("tree/sub")).expect("a folder for test files");
    std::fs::write(node.path("tree/sub/file"), &sent).expect("the node's folder is writable");
    for (name, websocket) in SPOKEN {
        let cp = |from: &str, to: &str| {
            let output = fed(&node, &["cp", "-c", "main", from, to], websocket, b"");
            assert!(output.status.success(), "{name}: {}", stderr(&output));
        };
        let local = |file: &str| node.path(file).to_str().expect("test paths are UTF-8").to_owned();
        cp(&local("tree"), &format!("{pod}:/tmp/{name}"));
        cp(&format!("{pod}:/tmp/{name}/sub/file"), &local(name));
        assert!(std::fs::read(node.path(name)).is_ok_and(|received| received == sent), "{name}");
    }
}

#[test]
fn a_terminal_has_the_users_size() {
    let (node, pod) = node_with_shell("tty", MANIFEST);
    for (name, websocket) in SPOKEN {
        // The terminal grows once the command has seen its first size.
        let waits = |size: &str| format!("until stty size | grep {size}; do sleep 0.1; done");
        let exec = node.kubectl_line(&format!(
            "exec -it {pod} -c main -- sh -c '{}; touch /tmp/{name}; {}; exit 5'",
            waits("33.77"),
            waits("50.120")
        ));
        let seen = node.kubectl_line(&format!("exec {pod} -c main -- ls /tmp/{name}"));
        let grow =
            format!("until {seen}; do sleep 0.2; done >/dev/null 2>&1 </dev/null; stty rows 50 cols 120 </dev/tty");
        let mut command = Command::new("timeout");
        command.args(["60", "script", "-qec"]).arg(format!("stty rows 33 cols 77; ({grow}) & {exec}")).arg("/dev/null");
        let output = speaking(command, websocket).output().expect("script is installed");
        assert_eq!(output.status.code(), Some(5), "{name}: {}{}", stdout(&output), stderr(&output));
        let shown = stdout(&output);
        assert!(shown.contains("33 77") && shown.contains("50 120"), "{name}: {shown}");
    }
}

#[test]
fn a_container_is_attached_to() {
    let (node, pod) = node_with_shell("attach", MANIFEST);
    for (name, websocket) in SPOKEN {
        let mut command = speaking(node.kubectl_command(&["attach", &pod, "-c", "clock"]), websocket);
        let file = std::fs::File::create(node.path(name)).expect("the node's folder is writable");
        let child = command.stdout(file).spawn().expect("kubectl is installed");
        node.eventually(&format!("the clock ticks over {name}"), |node| {
            let shown = std::fs::read_to_string(node.path(name)).unwrap_or_default();
            if shown.matches("tick").count() > 1 { Ok(()) } else { Err(shown) }
        });
        node.kill_child(child, "kubectl");

        let mut command = speaking(node.kubectl_command(&["attach", "-i", &pod, "-c", "echo"]), websocket);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("kubectl is installed");
        let mut stdin = child.stdin.take().expect("it is piped");
        writeln!(stdin, "{name}").expect("kubectl reads");
        node.sees(&["logs", &pod, "-c", "echo"], &[&format!("got {name}\n")]);
        node.kill_child(child, "kubectl");
    }
    // They go on.
    node.sees(&["get", "pod", &pod], &["3/3", "Running", " 0 "]);
}

#[test]
fn a_command_whose_user_is_killed_finds_the_end_of_its_input() {
    let (node, pod) = node_with_shell("killed", MANIFEST);
    for (name, websocket) in SPOKEN {
        let script = format!("touch /tmp/{name}.begun; cat >/dev/null; touch /tmp/{name}.ended");
        let args = ["exec", "-i", &pod, "-c", "main", "--", "sh", "-c", &script];
        let mut child =
            speaking(node.kubectl_command(&args), websocket).stdin(Stdio::piped()).spawn().expect("kubectl");
        // Some of the input is on its way when the user goes.
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(&noise(1_000_000)).expect("it is read");
        node.sees(&["exec", &pod, "-c", "main", "--", "ls", "/tmp"], &[&format!("{name}.begun")]);
        node.kill_child(child, "kubectl");
        node.sees(&["exec", &pod, "-c", "main", "--", "ls", "/tmp"], &[&format!("{name}.ended")]);
        drop(stdin);
    }
}

/// Starts port-forward and waits until it listens.
fn forward(node: &Node, target: &str, ports: &[&str], websocket: bool, log: &str) -> Child {
    let args = [&["port-forward", target], ports].concat();
    let file = std::fs::File::create(node.path(log)).expect("the node's folder is writable");
    let mut command = speaking(node.kubectl_command(&args), websocket);
    let child = command.stdout(file.try_clone().expect("a second handle")).stderr(file).spawn().expect("kubectl");
    node.eventually("port-forward listens", |node| {
        let said = std::fs::read_to_string(node.path(log)).unwrap_or_default();
        if said.matches("Forwarding from 127.0.0.1").count() == ports.len() { Ok(()) } else { Err(said) }
    });
    child
}

#[test]
fn ports_are_forwarded() {
    let (node, pod) = node_with_shell("forward", MANIFEST);
    let sum = node.kubectl(&["exec", &pod, "-c", "main", "--", "md5sum", "/www/big"]);
    let sum = sum.split_whitespace().next().expect("a sum").to_owned();
    for (index, (name, websocket)) in SPOKEN.into_iter().enumerate() {
        let (port, refused) = (18080 + index, 18090 + index);
        let ports = [format!("{port}:8080"), format!("{refused}:81")];
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let child = forward(&node, &pod, &ports, websocket, name);
        // Six at once.
        let mut script = String::new();
        for _ in 0..6 {
            write!(script, "curl -sS --max-time 60 http://127.0.0.1:{port}/big | md5sum & ").expect("it is memory");
        }
        let output = node.inside("sh").args(["-c", &(script + "wait")]).output().expect("sh can be run");
        assert_eq!(stdout(&output).matches(&sum).count(), 6, "{name}: {}{}", stdout(&output), stderr(&output));

        // Killed while a connection is under way, the client leaves nothing behind.
        let url = format!("http://127.0.0.1:{port}/endless");
        let mut slow =
            node.inside("curl").args(["-sS", "--limit-rate", "100k", "-o", "/dev/null", &url]).spawn().expect("curl");
        node.eventually("the slow connection is there", |node| connections(node, &pod, 1));
        node.kill_child(child, "kubectl");
        node.eventually("no connection is left in the pod", |node| connections(node, &pod, 0));
        slow.wait().expect("it is our child");

        let child = forward(&node, &pod, &ports, websocket, name);
        let failed = node.fetch(&format!("http://127.0.0.1:{refused}/"));
        assert!(failed.is_err(), "{failed:?}");
        node.eventually("the refusal is told", |node| {
            let said = std::fs::read_to_string(node.path(name)).unwrap_or_default();
            let told = format!("error forwarding port 81 to pod {pod}");
            if said.contains(&told) && said.contains("Connection refused") { Ok(()) } else { Err(said) }
        });
        drop(child.wait_with_output());
    }
}

/// How many connections to the file server are open in the pod.
fn connections(node: &Node, pod: &str, expected: usize) -> Result<(), String> {
    let shown = node.kubectl(&["exec", pod, "-c", "main", "--", "netstat", "-tn"]);
    let open = shown.lines().filter(|line| line.contains(":8080 ") && line.contains("ESTABLISHED")).count();
    // Both ends are in the pod's network.
    if open == 2 * expected { Ok(()) } else { Err(shown) }
}

#[test]
fn the_hosts_network_is_forwarded_to() {
    let manifest = MANIFEST
        .replace("    spec:\n      termination", "    spec:\n      hostNetwork: true\n      termination")
        .replace("-p 8080", "-p 8098");
    let (node, pod) = node_with_shell("forward-host", &manifest);
    let child = forward(&node, &pod, &["18098:8098"], true, "forward.log");
    let fetched = node.eventually("the file is served", |node| {
        let output = node.inside("sh").args(["-c", "curl -sS http://127.0.0.1:18098/big | wc -c"]).output();
        let output = output.expect("sh can be run");
        if stdout(&output).trim() == "5000000" { Ok(stdout(&output)) } else { Err(stderr(&output)) }
    });
    assert_eq!(fetched.trim(), "5000000");
    node.kill_child(child, "kubectl");
}

#[test]
fn logs_are_shown_as_asked_for() {
    let manifest = MANIFEST.replace(
        "while true; do echo tick; sleep 1; done",
        "for n in 1 2 3; do echo line $n; done; test -e /tmp/again && exec sleep 1000; sleep 1; exit 3",
    );
    // The clock's container ends and is started again, now and then.
    let mut node = Node::up("logs");
    node.garrison_up();
    node.apply(&manifest);
    node.sees(&["logs", "-l", "app=shell", "-c", "clock", "--previous"], &["line 1\nline 2\nline 3\n"]);
    let pod = node.kubectl(&["get", "pods", "-l", "app=shell", "-o", "jsonpath={.items[0].metadata.name}"]);
    let logs = |args: &[&str]| node.kubectl(&[&["logs", pod.trim(), "-c", "clock"], args].concat());
    assert_eq!(logs(&["--tail=2"]), "line 2\nline 3\n");
    assert_eq!(logs(&["--tail=0"]), "");
    assert_eq!(logs(&["--limit-bytes=8"]), "line 1\nl");
    assert_eq!(logs(&["--since=1h"]), "line 1\nline 2\nline 3\n");
    assert_eq!(logs(&["--since-time=2100-01-01T00:00:00Z"]), "");
    let stamped = logs(&["--timestamps", "--tail=1"]);
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 3\n"), "{stamped}");
    let all = node.kubectl(&["logs", "daemonset/shell", "--all-containers", "--prefix"]);
    assert!(all.contains(&format!("[pod/{}/clock] line 1\n", pod.trim())), "{all}");
    // Until the container ends.
    assert!(logs(&["--follow"]).contains("line 3\n"));

    let refused = |args: &[&str]| node.kubectl_refused(&[&["logs", pod.trim()], args].concat());
    let never = refused(&["-c", "main", "--previous"]);
    assert!(never.contains("previous terminated container \"main\" in pod"), "{never}");
    let path = format!("/api/v1/namespaces/default/pods/{}/log?container=main&tailLines=-1", pod.trim());
    let invalid = node.kubectl_refused(&["get", "--raw", &path]);
    assert!(invalid.contains("tailLines: Invalid value: -1"), "{invalid}");
}

#[test]
fn a_log_that_is_too_large_is_rotated_and_followed() {
    let manifest = MANIFEST.replace(
        "while true; do echo tick; sleep 1; done",
        "echo first; head -c 11000000 /dev/zero | tr \"\\\\0\" x | fold -w 1000; until test -e /tmp/rotated; do sleep 0.2; done; echo last; exec sleep 1000",
    );
    let (node, pod) = node_with_shell("rotate", &manifest);
    let following = node.kubectl_command(&["logs", "-f", &pod, "-c", "clock", "--tail=1"]);
    let file = std::fs::File::create(node.path("followed")).expect("the node's folder is writable");
    let mut following = speaking(following, true);
    let child = following.stdout(file).spawn().expect("kubectl is installed");
    node.eventually("the log is rotated", |node| {
        let uid = node.kubectl(&["get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"]);
        let dir = format!("/var/log/pods/default_{pod}_{}/clock", uid.trim());
        let output = node.inside("ls").arg(dir).output().expect("ls can be run");
        if stdout(&output).contains("0.log.20") { Ok(()) } else { Err(stdout(&output)) }
    });
    node.kubectl(&["exec", &pod, "-c", "clock", "--", "touch", "/tmp/rotated"]);
    node.eventually("the new file is followed", |node| {
        let shown = std::fs::read_to_string(node.path("followed")).unwrap_or_default();
        if shown.ends_with("last\n") { Ok(()) } else { Err(format!("{} bytes", shown.len())) }
    });
    assert_eq!(node.kubectl(&["logs", &pod, "-c", "clock"]), "last\n");
    node.kill_child(child, "kubectl");
}
