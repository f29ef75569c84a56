//! The network configuration the runtime gives pods addresses by.
//!
//! Where a host has none, [`install`] writes a bridge with port mappings, under a name that sorts behind every other: what
//! somebody else puts there later wins. It never replaces or edits a file.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use serde_json::{Value, json};

use super::{FileError, failed};

pub mod release;

/// The file written.
const FILE_NAME: &str = "99-garrison.conflist";
/// What is written goes by this name in the runtime and in host-local's records.
const NETWORK: &str = "garrison";
/// The bridge; 15 bytes at most.
pub(super) const BRIDGE: &str = "garrison0";
/// What the configuration runs; the runtime itself wants `loopback`.
const PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];
/// Where pods get their addresses from: the first of these that overlaps no network of the host. Pod addresses are seen on
/// the host alone, so that every host of a fleet may use the same.
const SUBNETS: [(Ipv4Addr, u8); 3] =
    [(Ipv4Addr::new(10, 87, 0, 0), 16), (Ipv4Addr::new(172, 29, 0, 0), 16), (Ipv4Addr::new(192, 168, 187, 0), 24)];

/// Why no network was installed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The configuration would name programs that are not there.
    #[error(
        "CNI plugins {} are missing in {dir}; install them (Debian: containernetworking-plugins), or set \
         bin_dir in containerd's CRI configuration to where they are", .missing.join(", ")
    )]
    NoPlugins {
        /// Where the runtime looks for plugins.
        dir: PathBuf,
        /// Their names.
        missing: Vec<String>,
    },
    /// All networks known to this program are in use on the host.
    #[error(
        "no free network for pods: each of {} overlaps an address of this host; write a CNI configuration",
        subnets()
    )]
    NoFreeSubnet,
    /// The system would not.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The configuration the runtime would take from `conf_dir`: the first, by name, that can be read and names a network with
/// plugins. `None` also if there is no such directory.
///
/// # Errors
/// [`FileError`] for a directory that is there and cannot be read. A file that cannot is passed over, as libcni does.
pub fn present(conf_dir: &Path) -> Result<Option<PathBuf>, FileError> {
    let entries = match fs::read_dir(conf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", conf_dir)(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = paths.collect::<Result<_, _>>().map_err(failed("read", conf_dir))?;
    paths.sort();
    let known =
        |path: &PathBuf| path.extension().is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json");
    Ok(paths.into_iter().filter(known).find(|path| fs::read(path).is_ok_and(|text| is_usable(path, &text))))
}

/// Writes the network of this program's own if [`present`] finds none; gives the file written.
///
/// # Errors
/// [`CniError`]; what is missing is said with its remedy. Nothing is written then.
pub fn install(conf_dir: &Path, bin_dir: &Path) -> Result<Option<PathBuf>, CniError> {
    if present(conf_dir)?.is_some() {
        return Ok(None);
    }
    let missing = missing(bin_dir);
    if !missing.is_empty() {
        return Err(CniError::NoPlugins { dir: bin_dir.to_owned(), missing });
    }
    let subnet = free_subnet(&host_addresses()).ok_or(CniError::NoFreeSubnet)?;
    fs::create_dir_all(conf_dir).map_err(failed("make directory", conf_dir))?;
    let path = conf_dir.join(FILE_NAME);
    let text = format!("{:#}\n", conflist(subnet));
    // `create_new`: a file of this name that is there is somebody's, even if it is of no use.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
    made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed("write", &path))?;
    Ok(Some(path))
}

/// Removes what [`install`] has written, if it has. Networks of others are not touched.
///
/// # Errors
/// [`FileError`] for a file that cannot be removed.
pub fn uninstall(conf_dir: &Path) -> Result<(), FileError> {
    super::remove(&conf_dir.join(FILE_NAME))
}

/// The plugins [`install`] needs that are not in `bin_dir`.
pub fn missing(bin_dir: &Path) -> Vec<String> {
    PLUGINS.iter().filter(|name| !bin_dir.join(name).is_file()).map(|name| (*name).into()).collect()
}

/// Whether libcni would take it: a name, and plugins with a type (of a single `.conf`, its own type).
fn is_usable(path: &Path, text: &[u8]) -> bool {
    let Ok(config) = serde_json::from_slice::<Value>(text) else { return false };
    let typed = |plugin: &Value| plugin["type"].as_str().is_some_and(|kind| !kind.is_empty());
    let plugins = if path.extension() == Some(OsStr::new("conflist")) {
        config["plugins"].as_array().is_some_and(|plugins| !plugins.is_empty() && plugins.iter().all(typed))
    } else {
        typed(&config)
    };
    plugins && config["name"].as_str().is_some_and(|name| !name.is_empty())
}

/// `hairpinMode`: a pod reaches itself by its host port. CNI 0.4.0 is what containerd 1.6 and all later ones know.
fn conflist(subnet: (Ipv4Addr, u8)) -> Value {
    let (base, bits) = subnet;
    json!({
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": format!("{base}/{bits}") }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    })
}

/// Every IPv4 address of the host with its netmask, but for those of the bridge: it outlives its configuration, and takes no
/// other network than it had. A host that does not tell is taken to have none.
fn host_addresses() -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let interfaces = getifaddrs().into_iter().flatten().filter(|interface| interface.interface_name != BRIDGE);
    let ipv4 = |address: Option<nix::sys::socket::SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
    interfaces.filter_map(|interface| Some((ipv4(interface.address)?, ipv4(interface.netmask)?))).collect()
}

fn free_subnet(taken: &[(Ipv4Addr, Ipv4Addr)]) -> Option<(Ipv4Addr, u8)> {
    let overlaps = |base: Ipv4Addr, bits: u8| {
        let mask = u32::MAX << (32 - bits);
        // Two networks overlap if they are the same within the wider one's mask.
        taken.iter().any(|(address, netmask)| (base.to_bits() ^ address.to_bits()) & mask & netmask.to_bits() == 0)
    };
    SUBNETS.into_iter().find(|(base, bits)| !overlaps(*base, *bits))
}

fn subnets() -> String {
    SUBNETS.map(|(base, bits)| format!("{base}/{bits}")).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory for configuration and one with the plugins.
    fn dirs() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let (conf, bin) = (temp.path().join("net.d"), temp.path().join("bin"));
        fs::create_dir(&bin).unwrap();
        for plugin in PLUGINS {
            fs::write(bin.join(plugin), "").unwrap();
        }
        (temp, conf, bin)
    }

    #[test]
    fn a_network_is_installed_once_and_only_where_there_is_none() {
        let (_temp, conf, bin) = dirs();
        let installed = install(&conf, &bin).unwrap();
        assert_eq!(installed, Some(conf.join(FILE_NAME)));
        assert_eq!(present(&conf).unwrap(), installed, "what is written is usable");
        let text = fs::read(conf.join(FILE_NAME)).unwrap();
        assert_eq!(install(&conf, &bin).unwrap(), None);
        fs::write(conf.join("10-other.conf"), r#"{"name":"other","type":"ptp"}"#).unwrap();
        assert_eq!(present(&conf).unwrap(), Some(conf.join("10-other.conf")), "another's goes first");
        assert_eq!(fs::read(conf.join(FILE_NAME)).unwrap(), text);
    }

    #[test]
    fn a_file_that_stands_in_the_place_is_not_replaced() {
        let (_temp, conf, bin) = dirs();
        fs::create_dir(&conf).unwrap();
        fs::write(conf.join(FILE_NAME), "mine").unwrap();
        let error = install(&conf, &bin).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}", conf.join(FILE_NAME).display()));
        assert_eq!(fs::read(conf.join(FILE_NAME)).unwrap(), b"mine");
    }

    #[test]
    fn what_libcni_would_not_take_is_no_network() {
        for (name, text, usable) in [
            ("a.conflist", r#"{"name":"n","plugins":[{"type":"bridge"}]}"#, true),
            ("a.conf", r#"{"name":"n","type":"bridge"}"#, true),
            ("a.conf", r#"{"type":"bridge"}"#, false),
            ("a.conflist", r#"{"name":"n","plugins":[]}"#, false),
            ("a.conflist", r#"{"name":"n","plugins":[{"bridge":"b"}]}"#, false),
            ("a.conflist", r#"{"name":"n","type":"bridge"}"#, false),
            ("a.conflist", "{", false),
        ] {
            assert_eq!(is_usable(Path::new(name), text.as_bytes()), usable, "{name} {text}");
        }
    }

    #[test]
    fn missing_plugins_are_named_and_nothing_is_written() {
        let (_temp, conf, bin) = dirs();
        fs::remove_file(bin.join("portmap")).unwrap();
        let error = install(&conf, &bin).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("CNI plugins portmap are missing in {}", bin.display())),
            "{error}"
        );
        assert!(!conf.exists());
    }

    #[test]
    fn pods_get_a_network_the_host_is_not_part_of() {
        let network = |address: [u8; 4], netmask: [u8; 4]| (Ipv4Addr::from(address), Ipv4Addr::from(netmask));
        assert_eq!(free_subnet(&[]), Some(SUBNETS[0]));
        assert_eq!(free_subnet(&[network([10, 87, 3, 4], [255, 255, 255, 0])]), Some(SUBNETS[1]));
        assert_eq!(free_subnet(&[network([10, 1, 2, 3], [255, 0, 0, 0])]), Some(SUBNETS[1]), "a wider network");
        let all = [([10, 0, 0, 1], 8), ([172, 16, 0, 1], 12), ([192, 168, 1, 1], 16)]
            .map(|(address, bits)| (Ipv4Addr::from(address), Ipv4Addr::from_bits(u32::MAX << (32 - bits))));
        assert_eq!(free_subnet(&all), None);
    }
}
