//! The seven proofs of the story, each printed as a line that says what was seen.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Setting;
use crate::command::{output, program, root};

/// How long a state may take to come about before a proof gives up; far above what any of them needs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Plays the story and prints each proof; gives the number that failed.
pub fn prove<'a>(setting: &'a Setting) -> Result<usize> {
    let mut story = Story { setting, vip: String::new(), node_port: String::new() };
    let proofs: [(&str, Proof<'a>); 7] = [
        ("the virtual IP was assigned before any pod existed", Story::vip_before_pods),
        ("the environment names the Service", Story::environment),
        ("news arrives in the queue, read through the node port", Story::news_arrives),
        ("ActiveMQ is redeployed: new pod address, same virtual IP", Story::redeploy),
        ("endpoints follow scaling to 3 and back", Story::scale),
        ("a pod that is not ready leaves the endpoints and comes back", Story::unready),
        ("the name resolves inside a pod", Story::name),
    ];
    let mut failed = 0;
    for (number, (promise, proof)) in proofs.into_iter().enumerate() {
        match proof(&mut story) {
            Ok(seen) => println!("✓ {}. {promise}: {seen}", number + 1),
            Err(error) => {
                failed += 1;
                println!("✗ {}. {promise}: {error:#}", number + 1);
            }
        }
    }
    println!("{} of {} proofs held", proofs.len() - failed, proofs.len());
    Ok(failed)
}

type Proof<'a> = fn(&mut Story<'a>) -> Result<String>;

struct Story<'a> {
    setting: &'a Setting,
    vip: String,
    node_port: String,
}

impl Story<'_> {
    fn vip_before_pods(&mut self) -> Result<String> {
        self.apply("activemq-service.yaml")?;
        self.vip = self.get("service/activemq-service", "{.spec.clusterIP}")?;
        ensure!(self.vip.parse::<std::net::IpAddr>().is_ok(), "clusterIP is `{}`", self.vip);
        let pods = self.get("pods", "{.items[*].metadata.name}")?;
        ensure!(pods.is_empty(), "there are pods already: {pods}");
        let ping = program("busybox", &["ping", "-c", "1", "-W", "1", &self.vip]).output();
        ensure!(!ping.is_ok_and(|answer| answer.status.success()), "{} answers ping", self.vip);
        Ok(format!("{}, which no one can ping", self.vip))
    }

    fn environment(&mut self) -> Result<String> {
        for file in ["activemq-deployment.yaml", "news-feed.yaml", "newsproducer-deployment.yaml"] {
            self.apply(file)?;
        }
        for deployment in ["activemq-deployment", "news-feed-deployment", "newsproducer-deployment"] {
            println!("  waiting for {deployment}");
            self.kubectl(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=120s"])?;
        }
        let variables = self.kubectl(&["exec", "deployment/newsproducer-deployment", "--", "env"])?;
        let host = format!("ACTIVEMQ_SERVICE_SERVICE_HOST={}", self.vip);
        let expected = [
            host.clone(),
            "ACTIVEMQ_SERVICE_SERVICE_PORT=8161".to_owned(),
            "ACTIVEMQ_SERVICE_SERVICE_PORT_STOMP=61613".to_owned(),
            format!("ACTIVEMQ_SERVICE_PORT=tcp://{}:8161", self.vip),
            format!("ACTIVEMQ_SERVICE_PORT_61613_TCP_ADDR={}", self.vip),
        ];
        for line in expected {
            ensure!(variables.lines().any(|variable| variable == line), "no `{line}` in\n{variables}");
        }
        Ok(host)
    }

    fn news_arrives(&mut self) -> Result<String> {
        self.node_port = self.get("service/activemq-service", "{.spec.ports[1].nodePort}")?;
        self.read_news()
    }

    fn read_news(&self) -> Result<String> {
        let node = self.get("nodes", "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}")?;
        let address = format!("{node}:{}", self.node_port);
        let news = output(&mut program(&self.setting.newsproducer, &["read", &address, "2"]))?;
        let first = news.lines().next().context("the queue gave nothing")?;
        Ok(format!("“{first}” from {address}"))
    }

    fn redeploy(&mut self) -> Result<String> {
        let before = self.pod_addresses()?;
        self.kubectl(&["rollout", "restart", "deployment/activemq-deployment"])?;
        self.kubectl(&["rollout", "status", "deployment/activemq-deployment", "--timeout=120s"])?;
        let after = self.until("one endpoint of the new pod", |story| {
            let after = story.endpoints()?;
            ensure!(after.len() == 1 && after != before, "endpoints are {after:?}");
            Ok(after)
        })?;
        let vip = self.get("service/activemq-service", "{.spec.clusterIP}")?;
        ensure!(vip == self.vip, "the virtual IP changed from {} to {vip}", self.vip);
        let news = self.read_news().context("the producer did not go on")?;
        Ok(format!("{} became {}, {vip} stayed, and {news}", before.join(" "), after.join(" ")))
    }

    fn scale(&mut self) -> Result<String> {
        let mut seen = Vec::new();
        for replicas in [3, 1] {
            self.kubectl(&["scale", "deployment/activemq-deployment", &format!("--replicas={replicas}")])?;
            let endpoints = self.until("as many endpoints as replicas", |story| {
                let endpoints = story.endpoints()?;
                ensure!(endpoints.len() == replicas, "endpoints are {endpoints:?}");
                Ok(endpoints)
            })?;
            seen.push(endpoints.join(" "));
        }
        Ok(seen.join(", then "))
    }

    fn unready(&mut self) -> Result<String> {
        let pod = self.until("one pod", |story| {
            let pods = story.kubectl(&["get", "pods", "-l", "app=activemq", "-o", "name"])?;
            let names: Vec<&str> = pods.lines().collect();
            ensure!(names.len() == 1, "pods are {names:?}");
            Ok(names[0].to_owned())
        })?;
        self.kubectl(&["exec", &pod, "--", "touch", "/tmp/maintenance"])?;
        self.until("no endpoint", |story| {
            let endpoints = story.endpoints()?;
            ensure!(endpoints.is_empty(), "endpoints are {endpoints:?}");
            Ok(())
        })?;
        self.kubectl(&["exec", &pod, "--", "rm", "/tmp/maintenance"])?;
        let back = self.until("one endpoint", |story| {
            let endpoints = story.endpoints()?;
            ensure!(endpoints.len() == 1, "endpoints are {endpoints:?}");
            Ok(endpoints)
        })?;
        Ok(format!("none, then {} again", back.join(" ")))
    }

    fn name(&mut self) -> Result<String> {
        let asked = ["exec", "deployment/newsproducer-deployment", "--", "getent", "hosts", "activemq-service"];
        let answer = self.kubectl(&asked)?;
        ensure!(answer.split_whitespace().next() == Some(&self.vip), "it resolves to `{}`", answer.trim());
        Ok(answer.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Addresses of the Service's ready endpoints, sorted.
    fn endpoints(&self) -> Result<Vec<String>> {
        let path = "{range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{\"\\n\"}{end}";
        let selector = "kubernetes.io/service-name=activemq-service";
        let listed = self.kubectl(&["get", "endpointslices", "-l", selector, "-o", &format!("jsonpath={path}")])?;
        let mut addresses: Vec<String> = listed.lines().map(str::to_owned).collect();
        addresses.sort();
        Ok(addresses)
    }

    fn pod_addresses(&self) -> Result<Vec<String>> {
        let listed = self.kubectl(&["get", "pods", "-l", "app=activemq", "-o", "jsonpath={.items[*].status.podIP}"])?;
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }

    fn apply(&self, file: &str) -> Result<String> {
        let path = root().join("examples/news").join(file);
        self.kubectl(&["apply", "-f", &path.to_string_lossy()])
    }

    fn get(&self, what: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", what, &format!("--output=jsonpath={path}")])
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl: Command = program(&self.setting.kubectl, arguments);
        output(kubectl.env("KUBECONFIG", &self.setting.kubeconfig))
    }

    /// Asks again until it holds; the last answer is the error when it never does.
    fn until<T>(&self, what: &str, ask: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(error) if start.elapsed() > PATIENCE => bail!("never {what}: {error:#}"),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}
