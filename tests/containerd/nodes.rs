//! Three nodes and a control endpoint, each in a network of its own, connected by a switch; and traffic to the nodes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::harness::{Booting, Node};

/// How many nodes a fleet has.
pub const NODES: usize = 3;
/// The last part of the first node's address.
const FIRST: usize = 11;
/// How long a node may take to answer one request.
const ANSWER: Duration = Duration::from_millis(500);
/// The pause between two requests to a node.
const PAUSE: Duration = Duration::from_millis(20);

/// Nodes are called by their place, from 0.
pub struct Fleet {
    pub nodes: Vec<Node>,
    /// The hub, where control runs and kubectl is used.
    pub control: Node,
}

impl Fleet {
    /// Makes three nodes that have joined with control's token. `name` has to be unique among the tests.
    pub fn up(name: &str) -> Self {
        let mut control = Node::hub(&format!("{name}-hub"));
        let boot = |place| Node::boot_in(&control, &format!("{name}-{}", place + 1), FIRST + place);
        let booting: Vec<_> = (0..NODES).map(boot).collect();
        control.garrison_control();
        let state_dir = control.path("state");
        let state_dir = state_dir.to_str().expect("test paths are UTF-8");
        let token = control.run(&["token", "create", "--uses", &NODES.to_string(), "--state-dir", state_dir]);
        let said = token.expect("control makes a token");
        let token = said.lines().next().expect("the token stands before the hint");
        let mut nodes: Vec<_> = booting.into_iter().map(Booting::wait).collect();
        nodes.iter_mut().for_each(|node| node.garrison_agent(token));
        let fleet = Self { nodes, control };
        fleet.control.eventually("all nodes are ready", |control| {
            let status = control.try_kubectl(&["get", "nodes", "--no-headers"])?;
            if status.matches(" Ready ").count() == NODES { Ok(()) } else { Err(status) }
        });
        fleet
    }

    /// `metadata.name` of a Node.
    pub fn name(&self, place: usize) -> &str {
        self.nodes[place].name()
    }

    /// Takes a node's link down: nothing gets through in either direction, and nobody is told.
    pub fn cut(&self, place: usize) {
        self.set_link(place, "down");
    }

    /// Gives a node its link back.
    pub fn mend(&self, place: usize) {
        self.set_link(place, "up");
    }

    /// Loses every fifth packet between control and its nodes, at random, in each direction.
    pub fn lose_packets(&self) {
        for (chain, device) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            let loss = "-m statistic --mode random --probability 0.2 -j DROP";
            self.control.shell(&format!("iptables -w -A {chain} {device} eth0 {loss}"));
        }
    }

    /// Closes every port of a node to what comes from outside, as a firewall or an address translator does. What it dials goes on.
    pub fn close_ports(&self, place: usize) {
        self.nodes[place].shell("iptables -w -A INPUT -i eth0 -p tcp --syn -j DROP");
    }

    /// How many packets were lost since.
    pub fn lost_packets(&self) -> u64 {
        let rules =
            self.control.shell("iptables -w -nvxL | awk '$3 == \"DROP\" { lost += $1 } END { print lost + 0 }'");
        rules.trim().parse().expect("a number")
    }

    fn set_link(&self, place: usize, to: &str) {
        let port = format!("port-{}", FIRST + place);
        let set = self.control.inside("ip").args(["link", "set", &port, to]).status().expect("ip can be run");
        assert!(set.success());
    }

    /// What `garrison rollout` prints for a DaemonSet in the default namespace.
    pub fn rollout_text(&self, daemonset: &str) -> String {
        self.garrison_rollout(&[daemonset]).unwrap_or_else(|said| panic!("{said}"))
    }

    fn garrison_rollout(&self, args: &[&str]) -> Result<String, String> {
        let kubeconfig = self.control.path("state/admin.kubeconfig");
        let kubeconfig = kubeconfig.to_str().expect("test paths are UTF-8");
        self.control.run(&[&["rollout", "--kubeconfig", kubeconfig], args].concat())
    }

    /// Waits until the rollout of a DaemonSet is as `is` wants it. Whenever it is looked at, its rows have to add up.
    pub fn rollout(&self, daemonset: &str, what: &str, is: impl Fn(&Rollout) -> bool) -> Rollout {
        self.control.eventually(&format!("the rollout of {daemonset} has {what}"), |_| {
            let said = self.garrison_rollout(&[daemonset, "--output", "json"])?;
            let said: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
            let rollout = Rollout(said["status"].clone());
            let causes = rollout.0["causes"].as_object().into_iter().flatten();
            let total: u64 = causes.filter_map(|(_, count)| count.as_u64()).sum();
            assert_eq!((total, rollout.rows().len()), (NODES as u64, NODES), "{rollout:?}");
            if is(&rollout) { Ok(rollout) } else { Err(format!("{rollout:#?}")) }
        })
    }
}

impl Drop for Fleet {
    #[expect(clippy::print_stderr, reason = "a test that failed shows what every node had to say")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in self.nodes.iter().chain([&self.control]) {
                eprintln!("--- {}: garrison's log ends:\n{}", node.name(), node.end_of_log());
            }
        }
    }
}

/// `status` of a rollout.
#[derive(Debug)]
pub struct Rollout(pub Value);

impl Rollout {
    fn rows(&self) -> Vec<&Value> {
        self.0["nodes"].as_array().into_iter().flatten().collect()
    }

    /// The nodes with this cause.
    pub fn with(&self, cause: &str) -> Vec<String> {
        let rows = self.rows().into_iter().filter(|row| row["cause"] == cause);
        rows.map(|row| row["node"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What is said of a node.
    pub fn message(&self, node: &str) -> String {
        let rows = self.rows();
        let row = rows.iter().find(|row| row["node"] == node);
        row.and_then(|row| row["message"].as_str()).unwrap_or_default().to_owned()
    }
}

/// A time in which a node answered nothing for sure: from the end of the first request that failed to the start of the last.
/// It is the node's own time only, so that two of them overlap only if both nodes were down together.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    pub node: usize,
    since: Instant,
    until: Instant,
}

impl Outage {
    pub fn overlaps(&self, other: &Self) -> bool {
        self.since.max(other.since) <= self.until.min(other.until)
    }
}

/// Requests to a hostPort of every node, one after the other for each, from the hub.
pub struct Traffic {
    over: Arc<AtomicBool>,
    askers: Vec<JoinHandle<Vec<Outage>>>,
}

impl Traffic {
    /// Begins once all nodes answer.
    pub fn begin(fleet: &Fleet, port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let asker = |node: usize| {
            let (network, over) = (fleet.control.network(), over.clone());
            let address = format!("10.99.0.{}:{port}", FIRST + node).parse().expect("an address");
            std::thread::spawn(move || {
                // A thread of its own has a network of its own.
                setns(&network, CloneFlags::CLONE_NEWNET).expect("tests run as root");
                outages(node, address, &over)
            })
        };
        let traffic = Self { askers: (0..NODES).map(asker).collect(), over: over.clone() };
        for place in 0..NODES {
            let url = format!("http://10.99.0.{}:{port}/", FIRST + place);
            fleet.control.eventually("the node's hostPort answers", |control| control.fetch(&url));
        }
        traffic
    }

    /// All outages since the nodes answered first.
    pub fn end(mut self) -> Vec<Outage> {
        self.over.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.askers).into_iter().flat_map(|asker| asker.join().expect("it ends")).collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn outages(node: usize, address: SocketAddr, over: &AtomicBool) -> Vec<Outage> {
    let mut outages = Vec::new();
    let (mut has_answered, mut down) = (false, None::<Outage>);
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match (ask(address), &mut down) {
            (Ok(()), down) => {
                has_answered = true;
                outages.extend(down.take());
            }
            (Err(_), Some(outage)) => outage.until = begun,
            (Err(_), down) if has_answered => *down = Some(Outage { node, since: Instant::now(), until: begun }),
            (Err(_), _) => {}
        }
        std::thread::sleep(PAUSE);
    }
    outages.extend(down);
    outages
}

fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.read_exact(&mut [0; 4])
}
