//! Labels and taints from the files of `labels.d`: what other tools on a host know of it, one line each.
//!
//! ```text
//! # comments and empty lines do not count
//! example.com/gpu=a100
//! example.com/rack=
//! dedicated=storage:NoExecute
//! ```
//!
//! A line with an effect at its end is a taint; a label's value cannot hold the colon before it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::api::names;
use crate::model::Taint;

/// What the files say together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct HostLabels {
    /// By key.
    pub labels: BTreeMap<String, String>,
    /// In the order of files and lines.
    pub taints: Vec<Taint>,
}

/// A line that is neither a label nor a taint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}, line {line}: {text:?} is neither key=value nor key=value:Effect: {why}")]
pub struct BadLine {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// As it is there.
    pub text: String,
    /// What is against it, as the API says it.
    pub why: String,
}

impl HostLabels {
    /// Adds what a file says. A label that an earlier file has is replaced.
    ///
    /// # Errors
    /// [`BadLine`] for the first line that is none; nothing of the file has to be used then.
    pub fn add(&mut self, path: &Path, text: &str) -> Result<(), BadLine> {
        let lines = text.lines().map(str::trim).enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            self.add_line(line).map_err(|why| BadLine {
                path: path.to_owned(),
                line: index + 1,
                text: line.to_owned(),
                why,
            })?;
        }
        Ok(())
    }

    fn add_line(&mut self, line: &str) -> Result<(), String> {
        if line.contains(':') {
            let taint: Taint = line.parse().map_err(|error: crate::model::BadTaint| error.to_string())?;
            check(&taint.key, &taint.value)?;
            self.taints.push(taint);
            return Ok(());
        }
        let (key, value) = line.split_once('=').ok_or("there is no '=' in it")?;
        check(key, value)?;
        self.labels.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

fn check(key: &str, value: &str) -> Result<(), String> {
    let against: Vec<_> = names::qualified_name(key).into_iter().chain(names::label_value(value)).collect();
    if against.is_empty() { Ok(()) } else { Err(against.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_label_or_a_taint_and_later_files_win() {
        let mut all = HostLabels::default();
        all.add(Path::new("a"), "# from the vendor\n\n gpu=v100 \nrack=\nexample.com/site=north\n").unwrap();
        all.add(Path::new("b"), "gpu=a100\ndedicated=db:NoExecute\nspare:NoSchedule").unwrap();
        let labels = [("example.com/site", "north"), ("gpu", "a100"), ("rack", "")];
        assert_eq!(all.labels, labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(
            all.taints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["dedicated=db:NoExecute", "spare:NoSchedule"]
        );
    }

    #[test]
    fn a_line_that_is_neither_is_named() {
        for (text, line, why) in [
            ("gpu", 1, "there is no '='"),
            ("a=b\n\n-x=y", 3, "name part must consist of"),
            ("a=b c", 1, "a valid label must be"),
            ("a=b:Never", 1, "Effect one of"),
            ("a=b c:NoSchedule", 1, "a valid label must be"),
        ] {
            let error = HostLabels::default().add(Path::new("/etc/x"), text).unwrap_err();
            assert!(error.line == line && error.why.contains(why), "{error}");
        }
    }
}
