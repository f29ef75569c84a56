//! What this version cannot realize, field by field.
//!
//! Every struct of the pod template is taken apart without `..`, so a field that a newer Kubernetes adds does not compile
//! until it is decided here. A field bound to `_` is realized, or has nothing to act on: the comment says which.

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::lifecycle::ephemeral_container;
use crate::api::field::{FieldError, Path};

mod configuration;
mod volumes;

const NO_SCHEDULER: &str = "there is no scheduler here that could look at other nodes and pods";

/// Names every field of a pod template that this version does not realize, so that it is refused as a whole and nothing
/// is dropped in silence.
///
/// `at` is where the template is in its object, such as `spec.template`; empty for the template itself. The order is that
/// of the fields in Kubernetes' types. Whether values are valid at all is not looked at.
pub fn unsupported(template: &k8s::PodTemplateSpec, at: &Path) -> Vec<FieldError> {
    let k8s::PodTemplateSpec { metadata, spec } = template;
    let mut refusals = Refusals(Vec::new());
    if let Some(metadata) = metadata {
        refusals.metadata(metadata, &at.child("metadata"));
    }
    if let Some(spec) = spec {
        refusals.pod(spec, &at.child("spec"));
    }
    refusals.0
}

/// The same for a container that is added to a pod while it runs. `at` is where it is.
pub fn unsupported_ephemeral(container: &k8s::EphemeralContainer, at: &Path) -> Vec<FieldError> {
    let mut refusals = Refusals(Vec::new());
    refusals.container(&ephemeral_container(container.clone()).0, at);
    refusals.0
}

/// The errors found so far. Each method takes one struct apart.
struct Refusals(Vec<FieldError>);

/// Whether a field holds something. An empty list or map is as good as none.
trait IsGiven {
    fn is_given(&self) -> bool;
}

impl<T> IsGiven for Option<Vec<T>> {
    fn is_given(&self) -> bool {
        self.as_ref().is_some_and(|items| !items.is_empty())
    }
}

impl IsGiven for Option<String> {
    fn is_given(&self) -> bool {
        self.as_ref().is_some_and(|text| !text.is_empty())
    }
}

impl IsGiven for Option<bool> {
    fn is_given(&self) -> bool {
        *self == Some(true)
    }
}

impl Refusals {
    /// Refuses a field that is given and not realized.
    fn refuse(&mut self, given: bool, at: &Path, field: &str, detail: &str) {
        if given {
            self.0.push(FieldError::forbidden(&at.child(field), detail));
        }
    }

    /// Refuses a field that is given: its time has not come.
    fn not_yet(&mut self, given: bool, at: &Path, field: &str) {
        self.refuse(given, at, field, "not supported yet");
    }

    /// Refuses a value other than those realized. An empty text is no value.
    fn only(&mut self, value: Option<&str>, realized: &[&str], at: &Path, field: &str) {
        if let Some(value) = value.filter(|value| !value.is_empty() && !realized.contains(value)) {
            self.0.push(FieldError::not_supported(&at.child(field), value, realized));
        }
    }

    fn metadata(&mut self, metadata: &ObjectMeta, at: &Path) {
        let ObjectMeta {
            // Realized.
            annotations: _,
            labels: _,
            finalizers,
            // Of a template's metadata no others reach the pod, here as upstream.
            creation_timestamp: _,
            deletion_grace_period_seconds: _,
            deletion_timestamp: _,
            generate_name: _,
            generation: _,
            managed_fields: _,
            name: _,
            namespace: _,
            owner_references: _,
            resource_version: _,
            self_link: _,
            uid: _,
        } = metadata;
        self.not_yet(finalizers.is_given(), at, "finalizers");
    }

    fn pod(&mut self, spec: &k8s::PodSpec, at: &Path) {
        let k8s::PodSpec {
            // Realized.
            active_deadline_seconds: _,
            affinity,
            // Resolved by admission.
            automount_service_account_token: _,
            containers,
            // Realized.
            dns_config: _,
            dns_policy: _,
            // There are no Services, so there are no links to them either way.
            enable_service_links: _,
            ephemeral_containers,
            // Realized.
            host_aliases: _,
            host_ipc: _,
            host_network: _,
            host_pid: _,
            host_users: _,
            hostname: _,
            hostname_override: _,
            image_pull_secrets: _,
            init_containers,
            // `eligibility` judges by these.
            node_name: _,
            node_selector: _,
            os,
            // Realized.
            overhead: _,
            preemption_policy: _,
            // Resolved by admission.
            priority: _,
            priority_class_name: _,
            // Realized.
            readiness_gates: _,
            resource_claims,
            // Realized.
            resources: _,
            restart_policy: _,
            // Resolved by admission.
            runtime_class_name: _,
            scheduler_name,
            scheduling_gates,
            scheduling_group,
            security_context,
            // Resolved by admission.
            service_account: _,
            service_account_name: _,
            // Realized.
            set_hostname_as_fqdn: _,
            share_process_namespace: _,
            subdomain: _,
            termination_grace_period_seconds: _,
            // `eligibility` judges by these.
            tolerations: _,
            topology_spread_constraints,
            volumes,
        } = spec;
        if let Some(affinity) = affinity {
            self.affinity(affinity, &at.child("affinity"));
        }
        for (index, container) in containers.iter().enumerate() {
            self.container(container, &at.child("containers").index(index));
        }
        // They are added to a pod that runs, never written with it ([`unsupported_ephemeral`]).
        self.not_yet(ephemeral_containers.is_given(), at, "ephemeralContainers");
        for (index, container) in init_containers.iter().flatten().enumerate() {
            self.container(container, &at.child("initContainers").index(index));
        }
        if let Some(k8s::PodOS { name }) = os {
            self.only(Some(name), &["linux"], &at.child("os"), "name");
        }
        self.not_yet(resource_claims.is_given(), at, "resourceClaims");
        self.only(scheduler_name.as_deref(), &["default-scheduler"], at, "schedulerName");
        self.refuse(scheduling_gates.is_given(), at, "schedulingGates", NO_SCHEDULER);
        self.refuse(scheduling_group.is_some(), at, "schedulingGroup", NO_SCHEDULER);
        if let Some(security_context) = security_context {
            self.pod_security(security_context, &at.child("securityContext"));
        }
        for (index, constraint) in topology_spread_constraints.iter().flatten().enumerate() {
            self.spread(constraint, &at.child("topologySpreadConstraints").index(index));
        }
        self.image_parts(spec, at);
        for (index, volume) in volumes.iter().flatten().enumerate() {
            self.volume(volume, &at.child("volumes").index(index));
        }
    }

    fn affinity(&mut self, affinity: &k8s::Affinity, at: &Path) {
        let k8s::Affinity {
            // `eligibility` judges by what is required; what is preferred is a choice between nodes, of which there is none.
            node_affinity: _,
            pod_affinity,
            pod_anti_affinity,
        } = affinity;
        const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
        if let Some(k8s::PodAffinity {
            preferred_during_scheduling_ignored_during_execution: _,
            required_during_scheduling_ignored_during_execution: required,
        }) = pod_affinity
        {
            self.refuse(required.is_given(), &at.child("podAffinity"), REQUIRED, NO_SCHEDULER);
        }
        if let Some(k8s::PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: _,
            required_during_scheduling_ignored_during_execution: required,
        }) = pod_anti_affinity
        {
            self.refuse(required.is_given(), &at.child("podAntiAffinity"), REQUIRED, NO_SCHEDULER);
        }
    }

    /// A constraint that may be left unsatisfied has nothing to act on: a daemon has no choice of nodes.
    fn spread(&mut self, constraint: &k8s::TopologySpreadConstraint, at: &Path) {
        let k8s::TopologySpreadConstraint {
            label_selector: _,
            match_label_keys: _,
            max_skew: _,
            min_domains: _,
            node_affinity_policy: _,
            node_taints_policy: _,
            topology_key: _,
            when_unsatisfiable,
        } = constraint;
        self.refuse(when_unsatisfiable != "ScheduleAnyway", at, "whenUnsatisfiable", NO_SCHEDULER);
    }

    fn pod_security(&mut self, context: &k8s::PodSecurityContext, at: &Path) {
        let k8s::PodSecurityContext {
            // Realized.
            app_armor_profile: _,
            fs_group: _,
            // Every volume there is belongs to its pod alone, and is given to the group when it is made.
            fs_group_change_policy: _,
            // Realized.
            run_as_group: _,
            run_as_non_root: _,
            run_as_user: _,
            se_linux_change_policy,
            // Realized.
            se_linux_options: _,
            seccomp_profile: _,
            supplemental_groups: _,
            supplemental_groups_policy: _,
            sysctls: _,
            windows_options,
        } = context;
        // Without volumes that are mounted with a label there is nothing but relabelling.
        self.only(se_linux_change_policy.as_deref(), &["Recursive"], at, "seLinuxChangePolicy");
        self.refuse(windows_options.is_some(), at, "windowsOptions", "only Linux is supported");
    }

    fn container(&mut self, container: &k8s::Container, at: &Path) {
        let k8s::Container {
            // Realized.
            args: _,
            command: _,
            env,
            env_from,
            // Realized.
            image: _,
            image_pull_policy: _,
            lifecycle,
            // Realized.
            liveness_probe: _,
            name: _,
            ports: _,
            readiness_probe: _,
            // Nothing is resized in place, so there is nothing to act on.
            resize_policy: _,
            resources,
            // Realized.
            restart_policy: _,
            restart_policy_rules: _,
            security_context,
            // Realized.
            startup_probe: _,
            stdin: _,
            stdin_once: _,
            termination_message_path: _,
            termination_message_policy: _,
            tty: _,
            volume_devices,
            volume_mounts,
            // Realized.
            working_dir: _,
        } = container;
        env.iter().flatten().for_each(configuration::env);
        env_from.iter().flatten().for_each(configuration::env_from);
        if let Some(k8s::Lifecycle {
            // Realized.
            post_start: _,
            pre_stop: _,
            stop_signal,
        }) = lifecycle
        {
            self.not_yet(stop_signal.is_given(), &at.child("lifecycle"), "stopSignal");
        }
        if let Some(resources) = resources {
            self.resources(resources, &at.child("resources"));
        }
        if let Some(security_context) = security_context {
            self.container_security(security_context, &at.child("securityContext"));
        }
        self.not_yet(volume_devices.is_given(), at, "volumeDevices");
        volume_mounts.iter().flatten().for_each(configuration::mount);
    }

    fn resources(&mut self, resources: &k8s::ResourceRequirements, at: &Path) {
        let k8s::ResourceRequirements {
            claims,
            // Realized: what a node does not have is short there.
            limits: _,
            requests: _,
        } = resources;
        self.not_yet(claims.is_given(), at, "claims");
    }

    fn container_security(&mut self, context: &k8s::SecurityContext, at: &Path) {
        let k8s::SecurityContext {
            // Realized.
            allow_privilege_escalation: _,
            app_armor_profile: _,
            capabilities: _,
            privileged: _,
            proc_mount: _,
            read_only_root_filesystem: _,
            run_as_group: _,
            run_as_non_root: _,
            run_as_user: _,
            se_linux_options: _,
            seccomp_profile: _,
            windows_options,
        } = context;
        self.refuse(windows_options.is_some(), at, "windowsOptions", "only Linux is supported");
    }
}

#[cfg(test)]
mod tests;
