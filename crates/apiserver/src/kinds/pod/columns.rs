//! A pod's row: readiness, one word for its state, restarts.
//!
//! The word follows upstream's printer case by case, because people read `CrashLoopBackOff` and `Init:1/2` off it.

use serde_json::Value;

use crate::kinds::Column;
use crate::kinds::common::{get, table};

pub const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Ready", "Ready containers of all"),
    Column::text("Status", "State of the pod's containers in one word"),
    Column::text("Restarts", "How often containers were started again, and when last"),
    Column::AGE,
    Column::wide("IP", "Address of the pod"),
    Column::wide("Node", "Node that runs it"),
    Column::wide("Nominated Node", "Node that others are pushed off for it"),
    Column::wide("Readiness Gates", "Conditions that are true of those asked for"),
];

pub fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let state = state(pod);
    let restarts = match &state.last_restart {
        Some(last) if state.restarts != 0 => format!("{} ({} ago)", state.restarts, table::since(last, now)),
        Some(_) | None => state.restarts.to_string(),
    };
    vec![
        table::name(pod),
        format!("{}/{}", state.ready, state.total).into(),
        state.word.into(),
        restarts.into(),
        table::age(pod, now),
        table::or_none(get::text(pod, "/status/podIPs/0/ip")),
        table::or_none(get::text(pod, "/spec/nodeName")),
        table::or_none(get::text(pod, "/status/nominatedNodeName")),
        gates(pod),
    ]
}

struct State {
    word: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<String>,
}

impl State {
    fn restarted(&mut self, container: &Value) {
        self.restarts += get::int(container, "/restartCount");
        let finished = get::text(container, "/lastState/terminated/finishedAt");
        if !finished.is_empty() && self.last_restart.as_deref().is_none_or(|last| last < finished) {
            self.last_restart = Some(finished.to_owned());
        }
    }
}

fn state(pod: &Value) -> State {
    let phase = get::text(pod, "/status/phase");
    let reason = get::text(pod, "/status/reason");
    let mut word = if reason.is_empty() { phase } else { reason }.to_owned();
    let conditions = get::list(pod, "/status/conditions");
    if conditions
        .iter()
        .any(|one| get::text(one, "/type") == "PodScheduled" && get::text(one, "/reason") == "SchedulingGated")
    {
        word = "SchedulingGated".to_owned();
    }
    let total = get::list(pod, "/spec/containers").len()
        + get::list(pod, "/spec/initContainers").iter().filter(|one| is_sidecar(one)).count();
    let mut state = State { word, ready: 0, total, restarts: 0, last_restart: None };
    let initializing = initialize(pod, &mut state);
    if !initializing || is_true(conditions, "Initialized") {
        run(pod, &mut state);
    }
    if get::has(pod, "/metadata/deletionTimestamp") {
        if reason == "NodeLost" {
            state.word = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            state.word = "Terminating".to_owned();
        }
    }
    state
}

/// Counts the init containers; whether one of them is not done yet, and then `word` says which and why.
fn initialize(pod: &Value, state: &mut State) -> bool {
    let specs = get::list(pod, "/spec/initContainers");
    for (index, container) in get::list(pod, "/status/initContainerStatuses").iter().enumerate() {
        state.restarted(container);
        let name = get::text(container, "/name");
        let sidecar = specs.iter().any(|spec| get::text(spec, "/name") == name && is_sidecar(spec));
        let terminated = container.pointer("/state/terminated").filter(|found| found.is_object());
        if terminated.is_some_and(|end| get::int(end, "/exitCode") == 0) {
            continue;
        }
        if sidecar && get::flag(container, "/started") {
            state.ready += usize::from(get::flag(container, "/ready"));
            continue;
        }
        let waiting = get::text(container, "/state/waiting/reason");
        state.word = match terminated {
            Some(end) => format!("Init:{}", ended(end)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{index}/{}", specs.len()),
        };
        return true;
    }
    false
}

/// Counts the containers; the first one that waits or ended gives the word.
fn run(pod: &Value, state: &mut State) {
    state.restarts = 0;
    state.last_restart = None;
    let specs = get::list(pod, "/spec/initContainers");
    for container in get::list(pod, "/status/initContainerStatuses") {
        let name = get::text(container, "/name");
        if specs.iter().any(|spec| get::text(spec, "/name") == name && is_sidecar(spec)) {
            state.restarted(container);
        }
    }
    let mut running = false;
    for container in get::list(pod, "/status/containerStatuses").iter().rev() {
        state.restarted(container);
        let waiting = get::text(container, "/state/waiting/reason");
        if !waiting.is_empty() {
            state.word = waiting.to_owned();
        } else if let Some(end) = container.pointer("/state/terminated").filter(|found| found.is_object()) {
            state.word = ended(end);
        } else if get::flag(container, "/ready") && get::has(container, "/state/running") {
            running = true;
            state.ready += 1;
        }
    }
    if state.word == "Completed" && running {
        let ready = is_true(get::list(pod, "/status/conditions"), "Ready");
        state.word = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn ended(end: &Value) -> String {
    match (get::text(end, "/reason"), get::int(end, "/signal")) {
        ("", 0) => format!("ExitCode:{}", get::int(end, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    get::text(container, "/restartPolicy") == "Always"
}

fn is_true(conditions: &[Value], kind: &str) -> bool {
    conditions.iter().any(|one| get::text(one, "/type") == kind && get::text(one, "/status") == "True")
}

fn gates(pod: &Value) -> Value {
    let gates = get::list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let conditions = get::list(pod, "/status/conditions");
    let open = gates.iter().filter(|gate| is_true(conditions, get::text(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(name: &str, pod: Value, expected: [&str; 3]) {
        let cells = cells(&pod, 0);
        let shown: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
        assert_eq!(shown, expected, "{name}");
    }

    #[test]
    fn the_word_says_what_the_containers_do() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        let running = json!({"running": {}});
        check("pending", json!({"spec": spec, "status": {"phase": "Pending"}}), ["0/2", "Pending", "0"]);
        check(
            "initializing",
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": running}]}}),
            ["0/2", "Init:0/1", "0"],
        );
        check(
            "crashing",
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
                {"name": "b", "ready": true, "state": running}]}}),
            ["1/2", "CrashLoopBackOff", "3"],
        );
        check(
            "deleted",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": {"phase": "Running"}}),
            ["0/2", "Terminating", "0"],
        );
    }
}
