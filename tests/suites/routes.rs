//! Ways between nodes on one machine: from pod to pod, to the ports that pods have on their nodes, and from the machine to all of them.

use anyhow::{Result, ensure};
use testkit::{Machine, said, until};

fn web(name: &str, node: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 0,
         "containers": [{{"name": "c", "image": "localhost/busybox:test", "ports": [{{"containerPort": 8080, "hostPort": 8088}}],
         "command": ["sh", "-c", "echo {name} > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]}}]}}}}"#
    )
}

#[test]
fn pods_of_two_nodes_reach_each_other() -> Result<()> {
    let machine = Machine::new()?;
    machine.busybox_image()?;
    machine.up(&["--nodes", "2"])?;
    let kubectl = |arguments: &[&str]| -> Result<String> { Ok(machine.kubectl(arguments)?.ok()?.out) };
    let nodes = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let nodes: Vec<&str> = nodes.split_whitespace().collect();
    ensure!(nodes.len() == 2, "{nodes:?}");
    for (name, node) in ["one", "two"].iter().zip(&nodes) {
        let file = machine.file(&format!("{name}.json"), &web(name, node))?;
        kubectl(&["apply", "-f", &file.to_string_lossy()])?;
        kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=90s"])?;
    }
    for (from, to) in [("one", "two"), ("two", "one"), ("one", "one")] {
        let ip = kubectl(&["get", "pod", to, "-o", "jsonpath={.status.podIP}"])?;
        let host = kubectl(&["get", "pod", to, "-o", "jsonpath={.status.hostIP}"])?;
        until(&format!("{from} reaches {to}"), || {
            // By its own address, and by the port of its node.
            for url in [format!("http://{ip}:8080/"), format!("http://{host}:8088/")] {
                let answer = kubectl(&["exec", from, "--", "wget", "-qO-", &url])?;
                ensure!(answer == format!("{to}\n"), "{url} answers {answer}");
            }
            Ok(())
        })?;
    }
    // The same host port on two nodes is no conflict, and the machine reaches both.
    for (name, node) in ["one", "two"].iter().zip(&nodes) {
        let path = "jsonpath={.status.addresses[0].address}";
        let address = kubectl(&["get", "node", node, "-o", path])?;
        let answer =
            said(machine.command("curl").args(["-sf", "--max-time", "5", &format!("http://{address}:8088/")]))?;
        ensure!(answer.ok()?.out == format!("{name}\n"), "{node}");
    }
    Ok(())
}
