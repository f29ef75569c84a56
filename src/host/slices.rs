//! Slices of pods and their classes, for runtimes that leave cgroups to systemd: made, limited and stopped over D-Bus.
//!
//! ```text
//! kubepods.slice                     weight: what pods may use of the node
//! kubepods-pod<uid>.slice            Guaranteed: weight and limits of the pod
//! kubepods-burstable-pod<uid>.slice  below kubepods-burstable.slice; kubepods-besteffort.slice likewise
//! ```
//!
//! In: a pod or what classes ask for. Out: transient units, which end with the host's uptime. One connection is made when
//! the first slice is, and another one after it was lost; with the cgroupfs driver there is none. It leads over the system's
//! bus: on its own socket, which is private, systemd signs what it says with a name that zbus takes for a mistake.
//!
//! Nothing here fails: a pod runs without its slice's limits rather than not at all, since the runtime makes a slice that
//! is missing. The first failure is a warning, and so is the first after a success; those in between are not.
//!
//! Not done here: a pod's page sizes, which systemd has no word for, and what is left in cgroups ([`super::cgroups`]).
//!
//! Source: org.freedesktop.systemd1(5); kubernetes v1.36 `pkg/kubelet/cm/cgroup_manager_linux.go`, opencontainers/cgroups
//! v0.1.0 `systemd/common.go`, `dbus.go`. Unlike those we do not wait for the unit's job, as whatever is started in a slice
//! is ordered after it by systemd, and do not set what was just set at the start.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::{Connection, DynamicType, Error};

use super::cgroups::class_limits;
use crate::podspec::{CgroupLimits, Pod};
use unit::Property;

mod unit;

/// The system's bus.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// How long systemd may take for an answer, or a bus to take a connection. It may be reading all its units anew.
const PATIENCE: Duration = Duration::from_secs(5);

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
/// A job takes the place of another that is in its way.
const MODE: &str = "replace";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// The host's slices.
#[derive(Debug)]
pub struct Slices {
    bus: String,
    cgroup_v2: bool,
    connection: Mutex<Option<Connection>>,
    /// The last attempt failed, which was said.
    failing: AtomicBool,
}

impl Slices {
    /// Those of this host's systemd. Nothing is asked yet.
    pub fn new(cgroup_v2: bool) -> Self {
        Self::at(BUS, cgroup_v2)
    }

    /// Those of a systemd that is reached over the bus with this D-Bus address.
    pub(crate) fn at(bus: &str, cgroup_v2: bool) -> Self {
        Self { bus: bus.to_owned(), cgroup_v2, connection: Mutex::default(), failing: AtomicBool::new(false) }
    }

    /// Makes `kubepods.slice` and its classes, and weighs them. To be repeated when requests change; the arguments are
    /// those of [`super::cgroups::Cgroups::weigh_classes`].
    pub async fn weigh_classes(&self, pods_millis: u64, burstable_millis: u64) {
        for (slice, millis) in [
            ("kubepods.slice", pods_millis),
            ("kubepods-burstable.slice", burstable_millis),
            ("kubepods-besteffort.slice", 0),
        ] {
            self.say(slice, self.set(slice, "Pods run by Garrison", &class_limits(millis)).await);
        }
    }

    /// Makes the slice of a pod, or finds it, and sets what the pod as a whole may use. Nothing for a pod whose cgroup is
    /// none. Repeatable.
    pub async fn make_pod(&self, pod: &Pod) {
        if let Some(slice) = unit::slice(&pod.cgroup_parent) {
            self.say(slice, self.set(slice, &format!("Pod {}", pod.key), &pod.cgroup).await);
        }
    }

    /// Stops the slice of a pod that has no process left. Nothing for a pod whose cgroup is none. Repeatable.
    pub async fn remove_pod(&self, pod: &Pod) {
        if let Some(slice) = unit::slice(&pod.cgroup_parent) {
            let stopped = self.call("StopUnit", &(slice, MODE)).await;
            let is_gone = stopped.as_ref().is_err_and(|error| is_refused_with(error, NO_SUCH_UNIT));
            self.say(slice, if is_gone { Ok(()) } else { stopped });
        }
    }

    /// A slice that something was started in before exists already, without limits.
    async fn set(&self, slice: &str, description: &str, limits: &CgroupLimits) -> Result<(), Error> {
        let limits = || unit::limits(limits, self.cgroup_v2);
        let properties: Vec<_> = unit::beginning(description).into_iter().chain(limits()).collect();
        let other_units = Vec::<(&str, Vec<Property>)>::new();
        match self.call("StartTransientUnit", &(slice, MODE, properties, other_units)).await {
            Err(error) if is_refused_with(&error, UNIT_EXISTS) => {
                let until_reboot = true;
                self.call("SetUnitProperties", &(slice, until_reboot, limits())).await
            }
            other => other,
        }
    }

    /// Asks systemd, and once more over another connection if this one turns out to be lost: buses are restarted.
    async fn call(&self, method: &'static str, body: &(impl Serialize + DynamicType)) -> Result<(), Error> {
        match self.ask(method, body).await {
            Err(Error::InputOutput(error)) if error.kind() != io::ErrorKind::TimedOut => self.ask(method, body).await,
            other => other,
        }
    }

    async fn ask(&self, method: &'static str, body: &(impl Serialize + DynamicType)) -> Result<(), Error> {
        let connection = self.connect().await?;
        let answer = connection.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body).await;
        if matches!(answer, Err(Error::InputOutput(_))) {
            self.connection().take();
        }
        answer.map(drop)
    }

    /// The connection, or a new one. Of two that are made at once one stays.
    async fn connect(&self) -> Result<Connection, Error> {
        if let Some(connection) = self.connection().as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let dialling = Builder::address(self.bus.as_str()).method_timeout(PATIENCE).build();
        let made = timeout(PATIENCE, dialling).await;
        let made = made.unwrap_or_else(|elapsed| Err(Error::InputOutput(io::Error::from(elapsed).into())))?;
        let mut kept = self.connection();
        match kept.as_ref().filter(|connection| !connection.is_closed()) {
            Some(connection) => Ok(connection.clone()),
            None => Ok(kept.insert(made).clone()),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, slice: &str, result: Result<(), Error>) {
        let failed = result.is_err();
        let was_failing = self.failing.swap(failed, Ordering::Relaxed);
        match result {
            // This error prints its sources by itself.
            Err(error) if !was_failing => {
                tracing::warn!(slice, %error, "systemd does not do what it is asked for pods' cgroups: they go without their limits");
            }
            Err(error) => tracing::debug!(slice, %error, "systemd still does not do what it is asked"),
            Ok(()) if was_failing => tracing::info!(slice, "systemd does what it is asked for pods' cgroups"),
            Ok(()) => {}
        }
    }
}

fn is_refused_with(error: &Error, name: &str) -> bool {
    matches!(error, Error::MethodError(refusal, ..) if refusal.as_str() == name)
}

#[cfg(test)]
mod tests;
