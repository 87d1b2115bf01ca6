//! Every recorded scenario, played through model, plan and rules, decides as kube-proxy 1.36 did with real packets, and every row of the
//! table of packets as it says.
//!
//! `DIFFERENCES` names the scenarios where we decide otherwise, each with its reason. It may only get shorter.

mod cluster;

use cluster::Cluster;
use cluster::data::{Scenario, scenarios};
use cluster::table::table;

const DIFFERENCES: &[(&str, &str)] = &[];

#[test]
fn scenarios_end_as_recorded() {
    let mut failures = Vec::new();
    for scenario in scenarios().iter().filter(|s| s.unstable.is_null()) {
        let faults = play(scenario);
        let known = DIFFERENCES.iter().any(|(name, _)| *name == scenario.name);
        match (known, faults.is_empty()) {
            (false, false) => failures.extend(faults),
            (true, true) => failures.push(format!("{}: is as recorded now, take it off the list", scenario.name)),
            (true, false) | (false, true) => {}
        }
    }
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_table_of_packets_holds() {
    let table = table(|_| &["tcp", "udp"]);
    assert!(table.iter().map(|scenario| scenario.probes.len()).sum::<usize>() > 4000);
    let failures: Vec<String> = table.iter().flat_map(play).collect();
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

fn play(scenario: &Scenario) -> Vec<String> {
    let mut cluster = Cluster::new(scenario);
    let mut faults = Vec::new();
    let mut play = |cluster: &mut Cluster, probes: &[cluster::data::Probe], at: usize| {
        for probe in probes.iter().filter(|probe| probe.quirk.is_none()) {
            if let Err(fault) = cluster.probe(probe) {
                let probed = format!("{} -> {}{:?}", probe.from, probe.to, probe.check);
                faults.push(format!("{} step {at}: {probed}: {fault}", scenario.name));
            }
        }
    };
    play(&mut cluster, &scenario.probes, 0);
    for (n, step) in scenario.steps.iter().enumerate() {
        cluster.change(&step.change);
        play(&mut cluster, &step.probes, n + 1);
    }
    faults
}
