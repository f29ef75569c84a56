//! The host's resolver configuration, for pods that use it.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::{FileError, failed};
use crate::podspec::Dns;

/// The host's resolver.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved writes the servers it asks itself.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// What the host resolves names with, as far as it is of use inside a pod.
///
/// Where the host asks a server on its own loopback address, nobody answers at that address in a pod's network; behind
/// systemd-resolved the servers it asks itself are taken instead, which kubeadm sets up the same way.
///
/// # Errors
/// [`FileError`] if `/etc/resolv.conf` is there and cannot be read; a host without one has no servers.
pub fn host() -> Result<Dns, FileError> {
    let dns = read(Path::new(RESOLV_CONF))?.unwrap_or_default();
    if dns.servers.iter().all(|server| is_loopback(server))
        && let Some(behind) = read(Path::new(SYSTEMD_RESOLV_CONF))?
    {
        return Ok(behind);
    }
    Ok(dns)
}

fn read(path: &Path) -> Result<Option<Dns>, FileError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(parse(&String::from_utf8_lossy(&text)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn is_loopback(server: &str) -> bool {
    server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads resolv.conf(5): all servers, the last `search` line, of each option the last.
///
/// Source: kubernetes v1.36 `pkg/kubelet/network/dns/dns.go`, `parseResolvConf`.
pub(crate) fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    for line in lines {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let domains = words.map(|domain| domain.strip_suffix('.').unwrap_or(domain));
                dns.searches = domains.filter(|domain| !domain.is_empty()).map(str::to_owned).collect();
            }
            Some("options") => words.for_each(|option| set_option(&mut dns.options, option)),
            _ => {}
        }
    }
    dns
}

fn set_option(options: &mut Vec<String>, option: &str) {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    options.retain(|known| name(known) != name(option));
    options.push(option.to_owned());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_read_is_words_and_reads_back(text in "(nameserver|search|options|#| |\t|\n|\\.|:|x|é|\\PC){0,40}") {
            let dns = parse(&text);
            let words = [&dns.servers, &dns.searches, &dns.options];
            for word in words.into_iter().flatten() {
                prop_assert!(!word.is_empty() && !word.contains(char::is_whitespace), "{word:?}");
            }
            let servers: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
            let written = format!("{servers}search {}\noptions {}\n", dns.searches.join(" "), dns.options.join(" "));
            prop_assert_eq!(Dns { searches: vec![], ..parse(&written) }, Dns { searches: vec![], ..dns });
        }
    }

    #[test]
    fn a_resolvers_configuration_is_read_as_the_kubelet_reads_it() {
        let text = "# comment\n; other\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 # trailing\nsearch old.example\n\
                    search example.com. . sub.example\noptions ndots:2 rotate\noptions ndots:5\nnameserver\ndomain x\n";
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = Dns {
            servers: own(&["10.0.0.1", "fe80::1%eth0"]),
            searches: own(&["example.com", "sub.example"]),
            options: own(&["rotate", "ndots:5"]),
        };
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), Dns::default());
    }
}
