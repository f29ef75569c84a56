//! What device plugins give containers along with their devices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a container gets beside what its pod asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Granted {
    /// Variables; the container's own go before them.
    pub env: BTreeMap<String, String>,
    /// Made before the container's own.
    pub mounts: Vec<GrantedMount>,
    /// Device nodes.
    pub nodes: Vec<DeviceNode>,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Devices by their names in the Container Device Interface, `vendor.example/class=name`.
    pub cdi_devices: Vec<String>,
}

/// A path of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantedMount {
    /// In the container.
    pub container_path: String,
    /// On the host.
    pub host_path: String,
    /// No writes through this mount.
    pub read_only: bool,
}

/// A device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    /// In the container.
    pub container_path: String,
    /// On the host.
    pub host_path: String,
    /// Some of `rwm`.
    pub permissions: String,
}

impl Granted {
    /// Adds what came with another resource's devices; of two that exclude each other the first stays.
    ///
    /// Source: kubernetes v1.36 `pkg/kubelet/cm/devicemanager/pod_devices.go`, `deviceRunContainerOptions`.
    pub fn add(&mut self, other: Self) {
        for (name, value) in other.env {
            self.env.entry(name).or_insert(value);
        }
        for (name, value) in other.annotations {
            self.annotations.entry(name).or_insert(value);
        }
        for mount in other.mounts {
            if self.mounts.iter().all(|known| known.container_path != mount.container_path) {
                self.mounts.push(mount);
            }
        }
        for node in other.nodes {
            if self.nodes.iter().all(|known| known.container_path != node.container_path) {
                self.nodes.push(node);
            }
        }
        for name in other.cdi_devices {
            if !self.cdi_devices.contains(&name) {
                self.cdi_devices.push(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_resources_the_first_has_its_way() {
        let of = |name: &str| Granted {
            env: [("BOTH".to_owned(), name.to_owned()), (name.to_owned(), String::new())].into(),
            mounts: vec![GrantedMount {
                container_path: "/lib".to_owned(),
                host_path: name.to_owned(),
                read_only: true,
            }],
            nodes: ["/dev/ctl", name]
                .map(|path| DeviceNode {
                    container_path: path.to_owned(),
                    host_path: name.to_owned(),
                    ..DeviceNode::default()
                })
                .into(),
            annotations: [("both".to_owned(), name.to_owned())].into(),
            cdi_devices: vec!["v/c=all".to_owned(), name.to_owned()],
        };
        let mut granted = of("a");
        granted.add(of("b"));
        assert_eq!(
            granted.env,
            [("BOTH", "a"), ("a", ""), ("b", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
        assert_eq!((granted.mounts, granted.annotations), (of("a").mounts, of("a").annotations));
        let nodes: Vec<_> = granted.nodes.iter().map(|node| (&*node.container_path, &*node.host_path)).collect();
        assert_eq!(nodes, [("/dev/ctl", "a"), ("a", "a"), ("b", "b")]);
        assert_eq!(granted.cdi_devices, ["v/c=all", "a", "b"]);
    }
}
