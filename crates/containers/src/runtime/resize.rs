//! Other limits for what runs already.
//!
//! The kernel refuses a part that may use more than the whole, so the whole is widened first and narrowed last.

use linux::cgroup::{Cgroup, Limits};

use super::Resources;
use super::prepare::limits;
use crate::Error;
use crate::disk::{self, ContainerRecord, SandboxDir, SandboxRecord};

/// Gives the sandbox and those of its containers their new limits, and remembers each as soon as it holds.
pub(super) fn resize(
    dir: &SandboxDir,
    mut record: SandboxRecord,
    whole: Resources,
    containers: Vec<(String, Resources)>,
) -> Result<(), Error> {
    let group = Cgroup::at(&record.config.cgroup)?;
    let mut of_containers = Vec::new();
    for (id, resources) in containers {
        let path = dir.container(&id).record();
        let sandbox = record.config.id.clone();
        let found: Option<ContainerRecord> = disk::read(&path)?;
        let found = found.ok_or(Error::NoSuchContainer { sandbox, container: id })?;
        let group = Cgroup::at(&found.cgroup)?;
        spare(&group, &resources)?;
        of_containers.push((path, group, found, resources));
    }
    group.limit(&explicit(&wider(&record.config.resources, &whole)))?;
    for (path, group, mut found, resources) in of_containers {
        group.limit(&explicit(&resources))?;
        found.config.resources = resources;
        disk::write(&path, &found).map_err(Error::disk("write", &path))?;
    }
    group.limit(&explicit(&whole))?;
    record.config.resources = whole;
    let path = dir.record();
    disk::write(&path, &record).map_err(Error::disk("write", &path))
}

/// A limit below what is used would kill rather than limit.
fn spare(group: &Cgroup, resources: &Resources) -> Result<(), Error> {
    let used = group.usage().memory_bytes;
    match resources.memory.and_then(|limit| u64::try_from(limit).ok()) {
        Some(limit) if limit < used => {
            Err(Error::Invalid(format!("attempting to set pod memory limit ({limit}) below current usage ({used})")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Of each limit the larger; none is the largest.
fn wider(one: &Resources, other: &Resources) -> Resources {
    let larger = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
    Resources {
        memory: larger(one.memory, other.memory),
        cpu_shares: other.cpu_shares,
        cpu_quota: larger(one.cpu_quota, other.cpu_quota),
        cpu_period: other.cpu_period.or(one.cpu_period),
        pids: larger(one.pids, other.pids),
    }
}

/// What is not limited any more is said to be unlimited.
fn explicit(resources: &Resources) -> Limits {
    let mut limits = limits(resources);
    limits.memory.get_or_insert(-1);
    limits.cpu_quota.get_or_insert(-1);
    limits
}
