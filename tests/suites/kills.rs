//! The daemon is killed again and again, at any point, while pods come and go. What should run goes on as it was; what should be gone
//! leaves nothing: mounts, namespaces, links, cgroups, processes, folders are counted.
//!
//! `PORTOLAN_TEST_KILLS` says how often (8 without it; `cargo xtask test --kills 200`), `PORTOLAN_TEST_SEED` repeats a run.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Machine, said, until};

const KILLS: usize = 8;
const NAMES: usize = 5;

/// Those that have ended stay as zombies on this machine, where the first process reaps nobody.
const SHIMS: &str = "for p in /proc/[0-9]*; do grep -q '^shim-' $p/comm && ! grep -q '^State:.Z' $p/status && echo $p; done 2> /dev/null; true";

/// One that must never be touched, with two containers, a volume and a probe.
const STEADY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: v, emptyDir: {medium: Memory}}]
  containers:
    - name: web
      image: localhost/busybox:test
      command: [sh, -c, "echo steady > /v/index.html; exec httpd -f -p 8080 -h /v"]
      volumeMounts: [{name: v, mountPath: /v}]
      readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
    - name: count
      image: localhost/busybox:test
      command: [sh, -c, "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"]
"#;

/// One that comes and goes: an init container, a volume of each kind, host ports, an end of its own or none.
fn churned(name: &str, ends: bool) -> String {
    let command = if ends { "exit 0" } else { "sleep 10000" };
    let number = name.rsplit('-').next().unwrap_or("0");
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: churn}}}}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: {policy}
  volumes: [{{name: v, emptyDir: {{medium: Memory}}}}, {{name: d, emptyDir: {{}}}}]
  initContainers: [{{name: init, image: "localhost/busybox:test", command: [sh, -c, "echo x > /v/x"], volumeMounts: [{{name: v, mountPath: /v}}]}}]
  containers:
    - name: c
      image: localhost/busybox:test
      command: [sh, -c, "{command}"]
      ports: [{{containerPort: 80, hostPort: 900{number}}}]
      volumeMounts: [{{name: v, mountPath: /v}}, {{name: d, mountPath: /d, subPath: a/b}}]
"#,
        policy = if ends { "OnFailure" } else { "Always" },
    )
}

/// Small, and the same from the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct Churn {
    machine: Machine,
    chance: Chance,
    /// Every pod that there has been.
    uids: BTreeSet<String>,
}

impl Churn {
    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.machine.kubectl(arguments)?.ok()?.out)
    }

    fn shell(&self, script: &str) -> Result<String> {
        Ok(said(self.machine.command("sh").args(["-c", script]))?.ok()?.out)
    }

    /// Makes or deletes one of a few pods; the API answers, the node works on it afterwards.
    fn step(&mut self) -> Result<()> {
        let name = format!("churn-{}", self.chance.below(NAMES as u64));
        if self.chance.below(3) == 0 {
            return self.kubectl(&["delete", "pod", &name, "--ignore-not-found", "--wait=false"]).map(drop);
        }
        let manifest = churned(&name, self.chance.below(4) == 0);
        let manifest = self.machine.file("churn.yaml", &manifest)?;
        // Refused while its predecessor is still on its way out.
        self.machine.kubectl(&["create", "-f", &manifest.to_string_lossy()]).map(drop)
    }

    fn kill(&self) -> Result<()> {
        let daemon = std::fs::read_to_string(self.machine.data_dir().join("run/lock"))?;
        let daemon = daemon.trim();
        // A process that is killed needs a moment for its end; then nobody holds its lock any more.
        let lock = self.machine.data_dir().join("run/lock");
        let script = format!("kill -9 {daemon}; until flock -n {} true; do sleep 0.01; done", lock.display());
        self.shell(&script).map(drop)
    }

    fn note_uids(&mut self) -> Result<()> {
        let uids = self.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"])?;
        self.uids.extend(uids.split_whitespace().map(str::to_owned));
        Ok(())
    }

    fn steady(&self) -> Result<String> {
        let path = "jsonpath={.metadata.uid} {.status.podIP} {.status.containerStatuses[*].containerID} \
            {.status.containerStatuses[*].restartCount}";
        self.kubectl(&["get", "pod", "steady", "-o", path])
    }

    /// What is on the machine besides the daemon, by kind.
    fn left(&self) -> Result<Vec<(&'static str, String)>> {
        let data = self.machine.data_dir().display().to_string();
        let groups: Vec<String> = self.uids.iter().map(|uid| format!("-name 'pod{uid}'")).collect();
        let groups = format!("find /sys/fs/cgroup -type d \\( -name none {} \\) | sort", {
            groups.iter().map(|g| format!("-o {g}")).collect::<Vec<_>>().join(" ")
        });
        let scripts = [
            ("mounts", format!("grep -c '{data}' /proc/self/mountinfo || true")),
            ("namespaces", format!("ls {data}/run/netns | sort")),
            ("pods", format!("ls {data}/pods/*; ls {data}/containers/*")),
            ("shims", SHIMS.to_owned()),
            (
                "links",
                format!("for n in {data}/run/netns/*; do nsenter --net=$n ip -br link | grep -c '^pod'; done; true"),
            ),
            (
                "host ports",
                format!(
                    "for n in {data}/run/netns/*; do nsenter --net=$n nft list ruleset | grep -c 'dnat to .*:80$'; done; true"
                ),
            ),
            ("cgroups", groups),
        ];
        scripts.into_iter().map(|(kind, script)| Ok((kind, self.shell(&script)?))).collect()
    }
}

#[test]
fn kills_at_any_point_leave_nothing_and_end_nothing() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("PORTOLAN_TEST_KILLS").map_or(KILLS, |kills| kills as usize);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
    let seed = number("PORTOLAN_TEST_SEED").unwrap_or(now) | 1;
    let machine = Machine::new()?;
    machine.busybox_image()?;
    machine.up(&[])?;
    let mut churn = Churn { machine, chance: Chance(seed), uids: BTreeSet::new() };
    run(&mut churn, kills).with_context(|| format!("PORTOLAN_TEST_SEED={seed}"))
}

fn run(churn: &mut Churn, kills: usize) -> Result<()> {
    let before = churn.left()?;
    let manifest = churn.machine.file("steady.yaml", STEADY)?;
    churn.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    churn.kubectl(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=90s"])?;
    let steady = churn.steady()?;
    for kill in 0..kills {
        for _ in 0..1 + churn.chance.below(3) {
            churn.step()?;
        }
        churn.note_uids()?;
        std::thread::sleep(Duration::from_millis(churn.chance.below(300)));
        churn.kill()?;
        churn.machine.up(&[]).with_context(|| format!("after kill {kill}"))?;
        churn.note_uids()?;
        let now = churn.steady()?;
        ensure!(now == steady, "after kill {kill} the steady pod is\n{now}\nand was\n{steady}");
    }
    // Whatever is left of the churn still comes to run, or to its end.
    until("every pod is as it should be", || {
        let path = "jsonpath={range .items[*]}{.metadata.name}={.status.phase} {end}";
        let phases = churn.kubectl(&["get", "pods", "-l", "app=churn", "-o", path])?;
        ensure!(phases.split_whitespace().all(|p| p.ends_with("=Running") || p.ends_with("=Succeeded")), "{phases}");
        Ok(())
    })?;
    counted(churn)?;
    churn.kubectl(&["delete", "pods", "--all", "--timeout=90s"])?;
    until("nothing is left", || {
        let after = churn.left()?;
        ensure!(after == before, "left is\n{after:#?}\nbefore it was\n{before:#?}");
        Ok(())
    })
}

/// The numbers that the counting container wrote are all there, in order: its log went on through every kill.
fn counted(churn: &Churn) -> Result<()> {
    let log = churn.kubectl(&["logs", "steady", "-c", "count"])?;
    let numbers: Vec<u64> = log.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "the log has gaps: {log}");
    Ok(())
}
