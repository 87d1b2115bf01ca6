//! What remains to be done for a sandbox whose shim is dead: its containers have lost their logs' reader, so they end
//! too, and how they ended is written where the shim would have written it.

use std::time::Duration;

use jiff::Timestamp;
use linux::ProcessId;
use linux::cgroup::Cgroup;

use super::{ContainerState, Exit};
use crate::Error;
use crate::disk::{self, ContainerRecord, SandboxDir, SandboxRecord, ShimRecord};

/// The sandbox's shim, if it lives.
pub(super) fn shim(dir: &SandboxDir) -> Result<Option<ProcessId>, Error> {
    let record: Option<ShimRecord> = disk::read_whole(&dir.shim_record())?;
    Ok(record.and_then(|record| record.process()).filter(ProcessId::is_alive))
}

/// Sees to it that the shim is gone: one that was asked to, or was killed, may take a moment.
fn end_shim(dir: &SandboxDir) -> Result<(), Error> {
    let Some(shim) = shim(dir)? else { return Ok(()) };
    if !shim.wait(Duration::from_secs(10))? {
        shim.signal(libc::SIGKILL)?;
        shim.wait(Duration::from_secs(10))?;
    }
    Ok(())
}

/// Waits for the shim's end, kills what is left in the sandbox's cgroup and writes an exit for each container that was running. Gives those
/// exits; a second time there are none.
pub(super) fn settle(dir: &SandboxDir) -> Result<Vec<(String, Exit)>, Error> {
    end_shim(dir)?;
    let Some(record) = disk::read::<SandboxRecord>(&dir.record())? else { return Ok(Vec::new()) };
    Cgroup::at(&record.config.cgroup)?.kill(Duration::from_secs(10))?;
    let mut exits = Vec::new();
    for id in disk::names(&dir.containers())? {
        let container = dir.container(&id);
        let state: Option<ContainerState> = disk::read(&container.state())?;
        let started_at = match state {
            Some(ContainerState::Running { started_at, .. }) => started_at,
            Some(ContainerState::Created | ContainerState::Exited(_)) | None => continue,
        };
        let record: Option<ContainerRecord> = disk::read(&container.record())?;
        let oom_kills = record.and_then(|r| Cgroup::at(&r.cgroup).ok()).map_or(0, |group| group.oom_kills());
        let exit = Exit {
            code: 137,
            signal: Some(libc::SIGKILL),
            oom_killed: oom_kills > 0,
            started_at: Some(started_at),
            finished_at: Timestamp::now(),
            message: Some("the process that looked after the container has died".to_owned()),
        };
        let path = container.state();
        disk::write(&path, &ContainerState::Exited(exit.clone())).map_err(Error::disk("write", &path))?;
        exits.push((id, exit));
    }
    Ok(exits)
}
