//! Writes the man pages and shell completions of the command line, as packages ship them: `manual MAN-DIR COMPLETIONS-DIR`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use garrison::cli::Cli;

/// What every page ends with; roff(7).
const FILES: &str = r".SH FILES
.TP
.I /etc/garrison/agent.yaml\fR, \fI/etc/garrison/control.yaml
What the services run with; every key is explained there. Flags win over them.
.TP
.I /etc/garrison/agent.d/*.yaml\fR, \fI/etc/garrison/control.d/*.yaml
Drop-ins, laid over those in the order of their names.
.TP
.I /etc/garrison/labels.d/*
Labels and taints of this host, a line each: key=value, or key=value:Effect.
.TP
.I /etc/garrison/garrison.env
The services' environment.
.TP
.I /etc/credstore/garrison.token
The join token, needed until this host is enrolled.
.TP
.I /etc/credstore.encrypted/garrison.ledger
The key that what the agent keeps is sealed with, if there is one: 32 random bytes, encrypted with systemd\-creds(1).
.TP
.I /var/lib/garrison
What the agent keeps: ledger, certificate, status socket.
.TP
.I /var/lib/garrison-control
What the control endpoint keeps: store, keys, admin.kubeconfig, join.token.
";

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(man_dir), Some(completions_dir)) = (args.next(), args.next()) else {
        anyhow::bail!("usage: manual MAN-DIR COMPLETIONS-DIR");
    };
    // Pages for `help` and its copies of every command would tell nothing.
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    fs::create_dir_all(&man_dir)?;
    let names: Vec<_> = pages(&cli).iter().map(name).collect();
    for page in pages(&cli) {
        write_page(&man_dir, &page, &names)?;
    }
    fs::create_dir_all(&completions_dir)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "garrison", &completions_dir)?;
    }
    Ok(())
}

/// The command and those below it, each as its own page.
fn pages(command: &Command) -> Vec<Command> {
    let below = command.get_subcommands().filter(|sub| !sub.is_hide_set()).flat_map(pages);
    std::iter::once(command.clone()).chain(below).collect()
}

/// `garrison-agent` for `garrison agent`.
fn name(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

fn write_page(dir: &Path, command: &Command, names: &[String]) -> anyhow::Result<()> {
    let name = name(command);
    let source = format!("garrison {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_uppercase()).source(source).manual("Garrison");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let others: Vec<_> = names.iter().filter(|other| **other != name).map(|other| format!(".BR {other} (1)")).collect();
    write!(page, "{FILES}.SH SEE ALSO\n{},\n.BR kubectl (1)\n", others.join(",\n"))?;
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}
