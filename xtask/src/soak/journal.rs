//! What the cluster said meanwhile: slices, acknowledgements, addresses that moved, pods and late drains, each with its time.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::command::program;

/// (what is watched, how a line of it reads)
const WATCHES: &[(&[&str], &str)] = &[
    (
        &["endpointslices"],
        "slice {{.metadata.name}} at {{.metadata.resourceVersion}}:{{range .endpoints}} {{index .addresses 0}}@{{.nodeName}}\
         {{if .conditions.terminating}}:ends{{else if .conditions.ready}}{{else}}:unready{{end}}{{end}}",
    ),
    (
        &["pods"],
        "pod {{.metadata.name}} {{.status.podIP}}@{{.spec.nodeName}} {{.status.phase}}{{range .status.conditions}}{{if eq .type \"Ready\"}} \
         ready={{.status}}{{end}}{{end}}{{if .metadata.deletionTimestamp}} deleted{{end}}",
    ),
    (
        &["leases", "--namespace", "kube-system", "--selector", "portolan.dev/drain"],
        "lease {{.metadata.name}} {{with index .metadata.annotations \"portolan.dev/applied-revision\"}}applied {{.}}{{end}}\
         {{with index .metadata.annotations \"portolan.dev/waiting-for\"}}waits for {{.}}{{end}}",
    ),
    (
        &["leases", "--namespace", "kube-system", "--selector", "!portolan.dev/drain"],
        "lease {{.metadata.name}} held by {{.spec.holderIdentity}}",
    ),
    (
        &["events", "--field-selector", "reason=DrainLate"],
        "event {{.metadata.name}} {{.involvedObject.name}}: {{.message}}",
    ),
];

/// So much before a loss and after its end is told with it.
const AROUND: Duration = Duration::from_millis(1500);

type Lines = Arc<Mutex<Vec<(Duration, String)>>>;

/// Follows the cluster until it is dropped.
pub struct Journal {
    watches: Vec<Child>,
    lines: Lines,
}

impl Journal {
    pub fn start(kubectl: &Path, kubeconfig: &Path, began: Instant) -> Result<Journal> {
        let mut journal = Journal { watches: Vec::new(), lines: Lines::default() };
        for (what, template) in WATCHES {
            let template = format!("--output=go-template={template}{{{{\"\\n\"}}}}");
            let mut watch = program(kubectl, &["get", "--watch", &template]);
            watch.args(*what).env("KUBECONFIG", kubeconfig).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut watch = watch.spawn().context("cannot watch the cluster")?;
            let output = watch.stdout.take().context("no output")?;
            let lines = Arc::clone(&journal.lines);
            thread::spawn(move || read(output, began, &lines));
            journal.watches.push(watch);
        }
        Ok(journal)
    }

    /// What was said from shortly before `from` to shortly after `to`.
    pub fn around(&self, from: Duration, to: Duration) -> Vec<(Duration, String)> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let near = |at: &Duration| *at + AROUND >= from && *at <= to + AROUND;
        lines.iter().filter(|(at, _)| near(at)).cloned().collect()
    }

    /// How many drains were late.
    pub fn late(&self) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(_, line)| line.starts_with("event ")).count()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

/// Keeps what is news: Leases are renewed all the time.
fn read(output: impl Read, began: Instant, lines: &Lines) {
    let mut last = std::collections::BTreeMap::new();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let object = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        if last.insert(object, line.clone()).as_ref() != Some(&line) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push((began.elapsed(), line));
        }
    }
}
