//! docs/configuration.md is made from the flags, and the files that packages ship know every key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::CommandFactory;

use super::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
/// Where the table is in the page.
const BEGIN: &str = "<!-- keys: made by `UPDATE_DOCS=1 cargo test --lib config::tests::reference` -->\n";
const END: &str = "<!-- end of keys -->";
/// Flags that are no settings.
const NO_KEYS: [&str; 5] = ["config", "help", "log", "token", "version"];

/// One key, as its flag's help describes it.
#[derive(Default)]
struct Row {
    roles: Vec<&'static str>,
    default: String,
    meaning: String,
}

/// By key: those of `garrison agent` and `garrison control`. `up` has both.
fn rows() -> BTreeMap<String, (String, Row)> {
    let cli = Cli::command();
    let mut rows: BTreeMap<String, (String, Row)> = BTreeMap::new();
    for role in ["agent", "control"] {
        let command = cli.find_subcommand(role).expect("it is a role");
        for argument in command.get_arguments() {
            let Some(flag) = argument.get_long().filter(|flag| !NO_KEYS.contains(flag)) else { continue };
            let help = argument.get_help().expect("every flag has help").to_string();
            let (meaning, default) = help.split_once(" [default: ").unwrap_or((&help, ""));
            let (_, row) = rows.entry(camel_case(flag)).or_insert_with(|| (flag.to_owned(), Row::default()));
            row.roles.push(role);
            meaning.clone_into(&mut row.meaning);
            default.trim_end_matches(']').clone_into(&mut row.default);
        }
    }
    rows
}

/// `nodeName` of `node-name`.
fn camel_case(flag: &str) -> String {
    let mut words = flag.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |key, word| key + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn the_page_is_as_the_flags_are() {
    let line = |(key, (flag, row)): (String, (String, Row))| {
        // A value is code, words are not.
        let default = if row.default.is_empty() || row.default.contains(' ') {
            row.default
        } else {
            format!("`{}`", row.default)
        };
        format!("| `{key}` | `--{flag}` | {} | {default} | {} |\n", row.roles.join(", "), row.meaning)
    };
    let lines: String = rows().into_iter().map(line).collect();
    let table = format!("\n| key | flag | of | default | what it says |\n|---|---|---|---|---|\n{lines}\n");
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page says where the table begins");
    let (_, after) = rest.split_once(END).expect("the page says where the table ends");
    let wanted = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PAGE, &wanted).unwrap();
    }
    assert!(fs::read_to_string(PAGE).unwrap() == wanted, "docs/configuration.md is old; run with UPDATE_DOCS=1");
}

#[test]
fn every_flag_is_a_key_and_every_key_a_flag() {
    let error = crate::error::Chain(&parse_file(Path::new("x"), "noSuchKey: 1").unwrap_err()).to_string();
    let keys: BTreeSet<_> = rows().into_keys().collect();
    for key in &keys {
        assert!(error.contains(key), "{key} is a flag and no key: {error}");
    }
    // What is left of the words of the message is no key.
    let words = error.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.contains(char::is_uppercase));
    let unknown: Vec<_> = words.filter(|word| !keys.contains(*word) && *word != "noSuchKey").collect();
    assert_eq!(unknown, Vec::<&str>::new(), "keys without a flag, in {error}");
}

#[test]
fn the_files_of_the_packages_explain_every_key() {
    let mut explained = BTreeSet::new();
    for name in ["agent", "control"] {
        let path = format!("{}/packaging/etc/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap();
        parse_file(Path::new(&path), &text).expect("as it is shipped");
        // An example is a line that begins with # and no blank, or goes on such a line.
        let examples = text.lines().filter_map(|line| line.strip_prefix('#').filter(|rest| is_example(rest)));
        let examples: Vec<_> = examples.collect();
        parse_file(Path::new(&path), &examples.join("\n")).expect("with every example in force");
        let of_line = |line: &str| line.trim_start_matches('#').split(':').next().unwrap_or_default().to_owned();
        explained.extend(text.lines().map(of_line));
    }
    for key in rows().keys() {
        assert!(explained.contains(key), "{key} is in neither packaging/etc/agent.yaml nor control.yaml");
    }
}

fn is_example(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_lowercase()) || line.starts_with("  ")
}
