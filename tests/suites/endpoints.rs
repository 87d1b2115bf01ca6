//! A Service's endpoints are its ready pods and no others, whatever happens to these: scaling, rolling updates, rollbacks, and Services
//! and pods that come and go all the time.
//!
//! `PORTOLAN_TEST_CHURN` says for how many seconds things come and go (15 without it), `PORTOLAN_TEST_SERVICES` how many Services there are (5); a
//! node takes 110 pods, of which each Service has up to three.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Machine, until};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: localhost/busybox:test
          env: [{name: WORD, value: first}]
          command: [sh, -c, "echo $WORD > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{port: 80, targetPort: 8080}]}
---
"#;

struct Cluster {
    machine: Machine,
}

impl Cluster {
    fn up(flags: &[&str]) -> Result<Self> {
        Ok(Cluster { machine: Machine::with_cluster(flags)? })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.machine.kubectl(arguments)?.ok()?.out)
    }

    fn web(&self, names: &[String], replicas: usize) -> Result<()> {
        let one = |name: &String| WEB.replace("NAME", name).replace("REPLICAS", &replicas.to_string());
        let file = self.machine.file("web.yaml", &names.iter().map(one).collect::<String>())?;
        self.kubectl(&["apply", "-f", &file.to_string_lossy()]).map(drop)
    }

    fn rolled_out(&self) -> Result<()> {
        self.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]).map(drop)
    }

    /// By Service: the addresses that it sends to, and those of its ready pods.
    fn sides(&self) -> Result<[BTreeMap<String, BTreeSet<String>>; 2]> {
        let slices = r#"{range .items[*]}{.metadata.labels.kubernetes\.io/service-name}{range .endpoints[?(@.conditions.ready==true)]} {.addresses[0]}{end}{"\n"}{end}"#;
        let slices = self.kubectl(&["get", "endpointslices", "-o", &format!("jsonpath={slices}")])?;
        let pods = r#"{range .items[?(@.metadata.labels.app)]}{.metadata.labels.app} {.metadata.deletionTimestamp}|{.status.podIP}|{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
        let pods = self.kubectl(&["get", "pods", "-o", &format!("jsonpath={pods}")])?;
        let mut sides = [BTreeMap::new(), BTreeMap::new()];
        for line in slices.lines().filter(|line| !line.starts_with("kubernetes")) {
            let mut words = line.split_whitespace().map(str::to_owned);
            let of: &mut BTreeSet<String> = sides[0].entry(words.next().context("no name")?).or_default();
            of.extend(words);
        }
        for line in pods.lines() {
            let (app, state) = line.split_once(' ').context(line.to_owned())?;
            if let Some(address) = state.strip_prefix('|').and_then(|state| state.strip_suffix("|True")) {
                sides[1].entry(app.to_owned()).or_default().insert(address.to_owned());
            }
        }
        sides.iter_mut().for_each(|side| side.retain(|_, addresses| !addresses.is_empty()));
        Ok(sides)
    }

    /// Waits until endpoints and ready pods are the same, `replicas` of each of `services`.
    fn settled(&self, services: usize, replicas: usize) -> Result<BTreeMap<String, BTreeSet<String>>> {
        until(&format!("{services} Services have {replicas} endpoints each"), || {
            let [slices, pods] = self.sides()?;
            ensure!(slices == pods, "endpoints are {slices:?}, ready pods {pods:?}");
            ensure!(pods.len() == services && pods.values().all(|of| of.len() == replicas), "there are {pods:?}");
            Ok(slices)
        })
    }

    fn answer(&self) -> Result<String> {
        let address = self.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
        let mut curl = self.machine.command("curl");
        Ok(testkit::said(curl.args(["-sf", "--max-time", "5", &format!("http://{address}/")]))?.ok()?.out)
    }
}

#[test]
fn from_nothing_to_fifty_and_back() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.web(&["web".to_owned()], 0)?;
    cluster.settled(0, 0)?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=50"])?;
    cluster.rolled_out()?;
    cluster.settled(1, 50)?;
    cluster.kubectl(&["scale", "deployment/web", "--replicas=0"])?;
    cluster.settled(0, 0)?;
    cluster.kubectl(&["wait", "--for=delete", "pod", "-l", "app=web", "--timeout=90s"])?;
    Ok(())
}

#[test]
fn an_update_rolls_out_and_back() -> Result<()> {
    let cluster = Cluster::up(&[])?;
    cluster.web(&["web".to_owned()], 4)?;
    cluster.rolled_out()?;
    let first = cluster.settled(1, 4)?;
    ensure!(cluster.answer()? == "first\n");
    cluster.kubectl(&["set", "env", "deployment/web", "WORD=second"])?;
    cluster.rolled_out()?;
    let second = cluster.settled(1, 4)?;
    ensure!(first["web"].is_disjoint(&second["web"]), "{first:?} {second:?}");
    ensure!(cluster.answer()? == "second\n");
    // One that never becomes ready takes nobody's place.
    cluster.kubectl(&["set", "image", "deployment/web", "web=localhost/absent:1"])?;
    until("a pod waits for its image", || {
        let reasons = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
        let reasons = cluster.kubectl(&["get", "pods", "-o", reasons])?;
        ensure!(reasons.contains("ErrImagePull") || reasons.contains("ImagePullBackOff"), "{reasons}");
        Ok(())
    })?;
    let during = cluster.settled(1, 3).or_else(|_| cluster.settled(1, 4))?;
    ensure!(during["web"].is_subset(&second["web"]), "{during:?} {second:?}");
    cluster.kubectl(&["rollout", "undo", "deployment/web", "--to-revision=1"])?;
    cluster.rolled_out()?;
    cluster.settled(1, 4)?;
    ensure!(cluster.answer()? == "first\n");
    let history = cluster.kubectl(&["rollout", "history", "deployment/web"])?;
    let revisions: Vec<&str> =
        history.lines().filter_map(|line| line.split(' ').next()?.parse::<u32>().ok().map(|_| line)).collect();
    ensure!(revisions.len() == 3 && revisions[2].starts_with('4'), "the first revision is the fourth now: {history}");
    Ok(())
}

#[test]
fn whatever_comes_and_goes_endpoints_are_the_ready_pods() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let duration = Duration::from_secs(number("PORTOLAN_TEST_CHURN").unwrap_or(15));
    let services = number("PORTOLAN_TEST_SERVICES").map_or(5, |services| services as usize);
    let cluster = Cluster::up(&[])?;
    let names: Vec<String> = (0..services).map(|number| format!("web-{number}")).collect();
    cluster.web(&names, 1)?;
    let began = Instant::now();
    let mut round = 0;
    while began.elapsed() < duration {
        round += 1;
        let name = &names[round % services];
        let (deployment, service) = (format!("deployment/{name}"), format!("service/{name}"));
        match round % 5 {
            0 => drop(cluster.kubectl(&["delete", "pods", "-l", &format!("app={name}"), "--wait=false"])?),
            1 => drop(cluster.kubectl(&["scale", &deployment, &format!("--replicas={}", round % 4)])?),
            2 => cluster.machine.rollout_restart(&deployment)?,
            // A selector that means nobody, and then the same again.
            3 => drop(cluster.kubectl(&["patch", &service, "-p", r#"{"spec": {"selector": {"app": "nobody"}}}"#])?),
            _ => drop(cluster.kubectl(&["delete", &service])?),
        }
        cluster.web(std::slice::from_ref(name), 1)?;
    }
    cluster.web(&names, 2)?;
    cluster.settled(services, 2)?;
    println!("{round} changes in {} s", began.elapsed().as_secs());
    Ok(())
}
