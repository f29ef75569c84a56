//! A status as text for people.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use super::{DaemonSetLine, PodLine, Status};
use crate::model::Source;

/// Lines about node, agent, link and holds, then a table of pods. `now` is for their ages.
pub fn render(status: &Status, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| writeln!(text, "{name:<12}{value}").expect("writing to a string");
    line("node", &node(status));
    line("agent", &agent(status));
    line("control", &control(status));
    for hold in holds(status) {
        line("hold", &hold);
    }
    line("position", &format!("era {}, seq {}", status.position.era, status.position.seq));
    line("daemonsets", &daemonsets(&status.daemonsets));
    line("pods", &status.pods.len().to_string());
    if !status.pods.is_empty() {
        text.push('\n');
        text.push_str(&table(&status.pods, now));
    }
    text
}

fn node(status: &Status) -> String {
    match (&status.version, &status.not_ready) {
        _ if status.node.is_empty() => "none yet: this host is not enrolled".to_owned(),
        (None, _) => status.node.clone(),
        (Some(_), None) => format!("{}, ready", status.node),
        (Some(_), Some(why)) => format!("{}, not ready: {why}", status.node),
    }
}

fn agent(status: &Status) -> String {
    match &status.version {
        None => "does not run; this is what its ledger holds".to_owned(),
        Some(version) if status.ledger_refuses => {
            format!("{version}; its ledger cannot be written, so no pod is made or ended")
        }
        Some(version) => version.clone(),
    }
}

fn control(status: &Status) -> String {
    match (&status.version, &status.control) {
        (None, _) => "not known".to_owned(),
        (Some(_), None) => "none: this host works alone".to_owned(),
        (Some(_), Some(control)) if status.in_session => format!("{control}, in session"),
        (Some(_), Some(control)) => {
            let why = status.link_lost.as_deref().unwrap_or("not reached yet");
            format!("{control}, no session: {why}")
        }
    }
}

/// Everything that keeps this node from taking what is new; one line that there is nothing.
fn holds(status: &Status) -> Vec<String> {
    let unknown = |set: &&DaemonSetLine| set.unknown_to_control;
    let of_set = |set: &DaemonSetLine| {
        format!("{}/{} is unknown to control; what runs of it here stays", set.namespace, set.name)
    };
    let sets = status.daemonsets.iter().filter(unknown).map(of_set);
    let all: Vec<_> = status.hold.iter().cloned().chain(sets).collect();
    match (all.is_empty(), &status.version) {
        (false, _) => all,
        (true, Some(_)) => vec!["none".to_owned()],
        (true, None) => vec!["not known".to_owned()],
    }
}

fn daemonsets(sets: &[DaemonSetLine]) -> String {
    let of_files = sets.iter().filter(|set| set.source == Source::Files).count();
    let rejected = sets.iter().filter(|set| set.rejected).count();
    let is_older = |set: &&DaemonSetLine| set.permitted.as_ref().is_some_and(|permitted| *permitted != set.newest);
    let moving = sets.iter().filter(is_older).filter(|set| !set.rejected).count();
    let moving = (moving, "with a newer revision to come");
    let rejected = (rejected, "gone back from a newer revision that did not work here");
    let mut text = sets.len().to_string();
    for (count, what) in [(of_files, "from files"), moving, rejected] {
        if count > 0 {
            write!(text, ", {count} {what}").expect("writing to a string");
        }
    }
    text
}

fn table(pods: &[PodLine], now: Timestamp) -> String {
    let head = ["POD", "STATUS", "READY", "RESTARTS", "REVISION", "AGE", ""].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(pods.iter().map(|pod| row(pod, now))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + 2;
    let widths: Vec<_> = (0..7).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(text, "{}", cells.trim_end()).expect("writing to a string");
    }
    text
}

fn row(pod: &PodLine, now: Timestamp) -> [String; 7] {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let age = SignedDuration::from_secs(now.duration_since(pod.created_at).as_secs().max(0));
    let seen = pod.seen.as_ref();
    let status = match seen {
        _ if pod.ending => "Terminating".to_owned(),
        Some(seen) => seen.status.clone(),
        None => "-".to_owned(),
    };
    let of_seen = |text: fn(&super::SeenPod) -> String| seen.map_or_else(|| "-".to_owned(), text);
    [
        name,
        status,
        of_seen(|seen| format!("{}/{}", seen.ready, seen.containers)),
        of_seen(|seen| seen.restarts.to_string()),
        pod.revision.clone(),
        format!("{age:#}"),
        seen.map(|seen| seen.message.clone()).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::status::SeenPod;
    use crate::model::Position;

    fn set(name: &str, source: Source, permitted: &str) -> DaemonSetLine {
        DaemonSetLine {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            source,
            newest: "new".to_owned(),
            permitted: Some(permitted.to_owned()),
            rejected: false,
            unknown_to_control: false,
        }
    }

    fn pod(name: &str, age_secs: i64) -> PodLine {
        let seen =
            SeenPod { status: "Running".to_owned(), message: String::new(), ready: 1, containers: 1, restarts: 2 };
        PodLine {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            revision: "new".to_owned(),
            created_at: Timestamp::from_second(100_000 - age_secs).unwrap(),
            ending: false,
            seen: Some(seen),
        }
    }

    fn status() -> Status {
        Status {
            version: Some("0.1.0".to_owned()),
            node: "edge-1".to_owned(),
            control: Some("control:6443".to_owned()),
            in_session: true,
            position: Position { era: 1, seq: 42 },
            daemonsets: vec![set("log", Source::Link, "new"), set("web", Source::Files, "old")],
            pods: vec![pod("log-x", 75), pod("a-longer-name", 3_600)],
            ..Status::default()
        }
    }

    fn rendered(status: &Status) -> String {
        render(status, Timestamp::from_second(100_000).unwrap())
    }

    #[test]
    fn all_is_well() {
        assert_eq!(
            rendered(&status()),
            "\
node        edge-1, ready
agent       0.1.0
control     control:6443, in session
hold        none
position    era 1, seq 42
daemonsets  2, 1 from files, 1 with a newer revision to come
pods        2

POD                    STATUS   READY  RESTARTS  REVISION  AGE
default/log-x          Running  1/1    2         new       1m 15s
default/a-longer-name  Running  1/1    2         new       1h
"
        );
    }

    #[test]
    fn each_trouble_shows() {
        let mut troubled = Status {
            not_ready: Some("container runtime is down".to_owned()),
            in_session: false,
            link_lost: Some("connection refused".to_owned()),
            hold: Some("two hosts use this identity".to_owned()),
            ledger_refuses: true,
            ..status()
        };
        troubled.daemonsets[0].unknown_to_control = true;
        troubled.pods[0].ending = true;
        let text = rendered(&troubled);
        for line in [
            "node        edge-1, not ready: container runtime is down",
            "agent       0.1.0; its ledger cannot be written, so no pod is made or ended",
            "control     control:6443, no session: connection refused",
            "hold        two hosts use this identity",
            "hold        default/log is unknown to control; what runs of it here stays",
            "default/log-x          Terminating",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_ledger_alone_claims_nothing_it_cannot_know() {
        let mut offline = Status { version: None, control: None, in_session: false, ..status() };
        offline.pods = vec![PodLine { seen: None, ..pod("log-x", 0) }];
        let text = rendered(&offline);
        for line in [
            "node        edge-1\n",
            "agent       does not run; this is what its ledger holds",
            "control     not known",
            "hold        not known",
            "default/log-x  -       -      -         new       0s",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }
}
