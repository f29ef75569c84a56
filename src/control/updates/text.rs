//! A rollout as `garrison rollout` prints it. Pure.

use super::{Rollout, Row};

/// Causes of nodes that need no line of their own.
const DONE: [&str; 2] = ["Available", "UpToDate"];

/// The rollout in lines: how it is, what of its budget is used, the nodes by their causes, then each node that is not done.
pub fn render(name: &str, rollout: &Rollout) -> String {
    let Rollout { phase, message, budget, used, causes, nodes, .. } = rollout;
    let counts: Vec<_> = causes.iter().map(|(cause, nodes)| format!("{nodes} {cause}")).collect();
    let mut text = format!("daemonset {name}: {phase}\n{message}\nbudget  {used} of {budget} used\n");
    text.push_str(&format!("nodes   {}: {}\n", nodes.len(), counts.join(", ")));
    let rest: Vec<_> = nodes.iter().filter(|row| !DONE.contains(&row.cause.as_str())).collect();
    let width = |of: fn(&Row) -> &str, heading: &str| {
        rest.iter().map(|row| of(row).chars().count()).chain([heading.len()]).max().unwrap_or(0)
    };
    let (node, cause) = (width(|row| row.node.as_str(), "NODE"), width(|row| &row.cause, "CAUSE"));
    if !rest.is_empty() {
        text.push_str(&format!("\n{:node$}  {:cause$}  MESSAGE\n", "NODE", "CAUSE"));
    }
    for row in rest {
        let line = format!("{:node$}  {:cause$}  {}", row.node.as_str(), row.cause, row.message);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(rows: &[(&str, &str, &str)]) -> Rollout {
        let mut causes = std::collections::BTreeMap::new();
        rows.iter().for_each(|(_, cause, _)| *causes.entry((*cause).to_owned()).or_insert(0) += 1);
        let row = |(node, cause, message): &(&str, &str, &str)| Row {
            node: (*node).into(),
            cause: (*cause).to_owned(),
            message: (*message).to_owned(),
        };
        Rollout {
            revision: "abc".into(),
            phase: "Stalled".to_owned(),
            message: "revision abc is on 1 of 3 nodes and goes no further".to_owned(),
            budget: 2,
            used: 1,
            causes,
            nodes: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn nodes_that_are_not_done_have_a_line_each() {
        let text = render(
            "web",
            &rollout(&[
                ("edge-17", "Unhealthy", "container web: CrashLoopBackOff"),
                ("b", "Unable", "ErrImagePull"),
                ("c", "UpToDate", ""),
            ]),
        );
        let expected = "\
daemonset web: Stalled
revision abc is on 1 of 3 nodes and goes no further
budget  1 of 2 used
nodes   3: 1 Unable, 1 Unhealthy, 1 UpToDate

NODE     CAUSE      MESSAGE
edge-17  Unhealthy  container web: CrashLoopBackOff
b        Unable     ErrImagePull
";
        assert_eq!(text, expected);
        let done = render("web", &rollout(&[("c", "UpToDate", "")]));
        assert!(done.ends_with("nodes   1: 1 UpToDate\n"), "{done}");
    }
}
