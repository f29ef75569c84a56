//! What the runtime is, whether it is well, and how it is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_cri::v1;
use serde_json::Value;

use super::{CriError, DEADLINE, Runtime, STATUS_DEADLINE};
use crate::podspec::CgroupDriver;

/// The API version asked for, and the one that has to be served.
const CRI_VERSION: &str = "v1";

/// Name and version of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// `containerd`.
    pub name: String,
    /// `1.6.20`, with whatever the distribution added.
    pub version: String,
}

impl RuntimeVersion {
    /// Whether it mounts images as volumes. Nothing else tells: containerd has no feature for it.
    pub fn mounts_images(&self) -> bool {
        if self.name != "containerd" {
            return true;
        }
        let mut numbers = self.version.trim_start_matches('v').split(['.', '-', '+', '~']).map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
        (next(), next()) >= (2, 1)
    }
}

/// Whether the runtime is well, and what it can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// CRI's `RuntimeReady`: sandboxes and containers can be made.
    pub runtime_ready: RuntimeCondition,
    /// CRI's `NetworkReady`: sandboxes with a network of their own can be made.
    pub network_ready: RuntimeCondition,
    /// What it says it can do beyond the CRI of its first days.
    pub features: RuntimeFeatures,
}

/// What a runtime can do. One that says nothing (containerd before 2.0) has none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// Groups that images give their users can be left out (`supplementalGroupsPolicy: Strict`).
    pub supplemental_groups_policy: bool,
    /// By the name of a handler, empty for the default one.
    pub handlers: BTreeMap<String, HandlerFeatures>,
}

/// What one handler of a runtime can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Mounts below a read-only mount can be read-only, too.
    pub recursive_read_only_mounts: bool,
    /// Pods can have users of their own.
    pub user_namespaces: bool,
}

impl RuntimeFeatures {
    /// What the handler of this name can do; nothing if there is none.
    pub fn handler(&self, name: &str) -> HandlerFeatures {
        self.handlers.get(name).copied().unwrap_or_default()
    }
}

/// One condition of the runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// False also when the runtime does not mention the condition.
    pub ready: bool,
    /// CamelCase, empty when ready.
    pub reason: String,
    /// For people, empty when ready.
    pub message: String,
}

/// How the runtime is set up, as far as it says. A runtime that says nothing gives `None` throughout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// Must agree with the cgroup parents given to it.
    pub cgroup_driver: Option<CgroupDriver>,
    /// Where it reads CNI configuration.
    pub cni_conf_dir: Option<PathBuf>,
    /// Where it finds CNI plugins.
    pub cni_bin_dir: Option<PathBuf>,
    /// The image every pod's sandbox is made from. Containerd pins it since 2.0, and then need not name it.
    pub sandbox_image: Option<String>,
}

impl RuntimeStatus {
    /// Pods can be run.
    pub fn is_ready(&self) -> bool {
        self.runtime_ready.ready && self.network_ready.ready
    }
}

impl Runtime {
    /// Name and version of the runtime, once it is sure that it serves CRI v1.
    ///
    /// # Errors
    /// [`CriError::NoCriV1`] for a runtime that has only older versions; otherwise as every call.
    pub async fn version(&self) -> Result<RuntimeVersion, CriError> {
        let request = v1::VersionRequest { version: CRI_VERSION.to_owned() };
        match self.call("Version", DEADLINE, self.pods().version(request)).await {
            Ok(reply) => Ok(RuntimeVersion { name: reply.runtime_name, version: reply.runtime_version }),
            Err(error) if error.is_unimplemented() => {
                Err(CriError::NoCriV1 { endpoint: self.endpoint.to_string(), source: Box::new(error) })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the runtime and its network are ready.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn status(&self) -> Result<RuntimeStatus, CriError> {
        Ok(runtime_status(self.raw_status(false).await?))
    }

    /// How the runtime is set up: asked with `RuntimeConfig` (containerd 2), else read from the configuration that
    /// containerd shows in a verbose `Status`.
    ///
    /// # Errors
    /// As every call: [`CriError`]. A runtime that has no such information is no error.
    pub async fn settings(&self) -> Result<RuntimeSettings, CriError> {
        let shown = self.raw_status(true).await?.info.remove("config").unwrap_or_default();
        let mut settings = serde_json::from_str(&shown).map(|config| shown_settings(&config)).unwrap_or_default();
        let request = v1::RuntimeConfigRequest {};
        match self.call("RuntimeConfig", DEADLINE, self.pods().runtime_config(request)).await {
            Ok(reply) => {
                let told = reply.linux.map(|linux| match linux.cgroup_driver() {
                    v1::CgroupDriver::Systemd => CgroupDriver::Systemd,
                    v1::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
                });
                settings.cgroup_driver = told.or(settings.cgroup_driver);
            }
            Err(error) if error.is_unimplemented() => {}
            Err(error) => return Err(error),
        }
        Ok(settings)
    }

    async fn raw_status(&self, verbose: bool) -> Result<v1::StatusResponse, CriError> {
        self.call("Status", STATUS_DEADLINE, self.pods().status(v1::StatusRequest { verbose })).await
    }
}

fn runtime_status(reply: v1::StatusResponse) -> RuntimeStatus {
    let conditions = reply.status.unwrap_or_default().conditions;
    let find = |kind: &str| {
        let found = conditions.iter().find(|condition| condition.r#type == kind);
        found.map_or_else(RuntimeCondition::default, |condition| RuntimeCondition {
            ready: condition.status,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        })
    };
    let handler = |handler: v1::RuntimeHandler| {
        let features = handler.features.unwrap_or_default();
        let features = HandlerFeatures {
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        };
        (handler.name, features)
    };
    let features = RuntimeFeatures {
        supplemental_groups_policy: reply.features.is_some_and(|features| features.supplemental_groups_policy),
        handlers: reply.runtime_handlers.into_iter().map(handler).collect(),
    };
    RuntimeStatus { runtime_ready: find("RuntimeReady"), network_ready: find("NetworkReady"), features }
}

/// Reads containerd's CRI plugin configuration, as `info.config` of a verbose `Status` has it.
fn shown_settings(config: &Value) -> RuntimeSettings {
    let containerd = &config["containerd"];
    let runtime = containerd["defaultRuntimeName"].as_str().unwrap_or_default();
    let systemd = containerd["runtimes"][runtime]["options"]["SystemdCgroup"].as_bool();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let path = |value: &Value| text(value).map(PathBuf::from);
    RuntimeSettings {
        // containerd leaves the option out where it is false.
        cgroup_driver: containerd["runtimes"][runtime].is_object().then_some(match systemd {
            Some(true) => CgroupDriver::Systemd,
            _ => CgroupDriver::Cgroupfs,
        }),
        cni_conf_dir: path(&config["cni"]["confDir"]),
        // A list since containerd 2.1; the first is where packages put their plugins.
        cni_bin_dir: path(&config["cni"]["binDir"]).or_else(|| path(&config["cni"]["binDirs"][0])),
        sandbox_image: text(&config["sandboxImage"]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_read_from_what_each_containerd_shows() {
        let containerd =
            |options: &Value| json!({ "defaultRuntimeName": "runc", "runtimes": { "runc": { "options": options } } });
        let settings = |driver, conf: Option<&str>, bin: Option<&str>| RuntimeSettings {
            cgroup_driver: driver,
            cni_conf_dir: conf.map(PathBuf::from),
            cni_bin_dir: bin.map(PathBuf::from),
            sandbox_image: conf.map(|_| "pause:3".to_owned()),
        };
        let (cgroupfs, systemd) = (Some(CgroupDriver::Cgroupfs), Some(CgroupDriver::Systemd));
        for (shown, expected) in [
            (
                json!({ "containerd": containerd(&json!({})), "cni": { "confDir": "/etc/cni/net.d", "binDir": "/opt/cni/bin" },
                        "sandboxImage": "pause:3" }),
                settings(cgroupfs, Some("/etc/cni/net.d"), Some("/opt/cni/bin")),
            ),
            (
                json!({ "containerd": containerd(&json!({ "SystemdCgroup": true })),
                        "cni": { "confDir": "/c", "binDir": "", "binDirs": ["/a", "/b"] }, "sandboxImage": "pause:3" }),
                settings(systemd, Some("/c"), Some("/a")),
            ),
            (json!({ "containerd": containerd(&Value::Null) }), settings(cgroupfs, None, None)),
            (json!({ "another": "runtime" }), RuntimeSettings::default()),
        ] {
            assert_eq!(shown_settings(&shown), expected, "{shown}");
        }
    }

    #[test]
    fn images_are_mounted_by_containerd_since_2_1() {
        let rows = [
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "1.7.24", false),
            ("containerd", "v2.0.4", false),
            ("containerd", "2.1.0-rc.0", true),
            ("containerd", "v2.1.9", true),
            ("containerd", "3.0.0", true),
            ("containerd", "unknown", false),
            ("cri-o", "1.33.0", true),
        ];
        for (name, version, expected) in rows {
            let version = RuntimeVersion { name: name.to_owned(), version: version.to_owned() };
            assert_eq!(version.mounts_images(), expected, "{version:?}");
        }
    }

    #[test]
    fn a_condition_that_is_not_told_does_not_hold() {
        let condition = |kind: &str, status| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: "Why".to_owned(),
            message: "in words".to_owned(),
        };
        let conditions = vec![condition("RuntimeReady", true), condition("Other", false)];
        let reply = v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() };
        let status = runtime_status(reply);
        assert!(status.runtime_ready.ready);
        assert_eq!(status.network_ready, RuntimeCondition::default());
        assert_eq!(status.features, RuntimeFeatures::default());
    }

    #[test]
    fn what_a_runtime_can_do_is_told_by_handler() {
        let handler = |name: &str, user_namespaces| v1::RuntimeHandler {
            name: name.to_owned(),
            features: Some(v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces }),
        };
        let features = runtime_status(v1::StatusResponse {
            runtime_handlers: vec![handler("", true), handler("kata", false)],
            features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true }),
            ..Default::default()
        })
        .features;
        assert!(features.supplemental_groups_policy);
        let users = ["", "kata", "other"].map(|name| features.handler(name).user_namespaces);
        assert_eq!(users, [true, false, false]);
        assert!(features.handler("kata").recursive_read_only_mounts);
    }
}
