//! What a run came to: counts for programs, and a plot of latency and failures over time for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::clients::{Outcome, Sample};

/// One run, counted.
#[derive(Debug, Default)]
pub struct Report {
    pub replacements: usize,
    pub attempts: usize,
    pub failed_connections: usize,
    pub failed_requests: usize,
    /// Kept connections that ended with their pod.
    pub reconnects: usize,
    /// Pods that ended without all acknowledgements.
    pub late: usize,
    /// Each second: median, 99th percentile in milliseconds, failures.
    seconds: Vec<Second>,
    /// How often each target failed, and the first reason.
    pub faults: BTreeMap<String, (usize, String)>,
    /// The attempts that failed, in the order of time.
    pub lost: Vec<Sample>,
}

#[derive(Debug, Default, Clone)]
struct Second {
    median: f64,
    high: f64,
    failures: usize,
}

impl Report {
    /// Counts attempts until no more come.
    pub fn of(samples: impl IntoIterator<Item = Sample>) -> Report {
        let mut report = Report::default();
        let mut seconds: BTreeMap<u64, (Vec<u32>, usize)> = BTreeMap::new();
        for sample in samples {
            report.attempts += 1;
            let failed = match sample.outcome {
                Outcome::Answered => false,
                Outcome::Again => {
                    report.reconnects += 1;
                    false
                }
                Outcome::NotConnected => {
                    report.failed_connections += 1;
                    true
                }
                Outcome::NotAnswered => {
                    report.failed_requests += 1;
                    true
                }
            };
            let second = seconds.entry(sample.at.as_secs()).or_default();
            second.0.push(u32::try_from(sample.took.as_micros()).unwrap_or(u32::MAX));
            second.1 += usize::from(failed);
            if failed {
                let why = sample.why.as_deref().and_then(|why| why.lines().next()).unwrap_or_default();
                let at = format!("{why}, first at {:.1} s", sample.at.as_secs_f64());
                report.faults.entry(sample.target.to_string()).or_insert((0, at)).0 += 1;
                report.lost.push(sample);
            }
        }
        report.lost.sort_by_key(|sample| sample.at);
        let last = seconds.keys().last().copied().unwrap_or(0);
        report.seconds = (0..=last).map(|number| summary(seconds.remove(&number).unwrap_or_default())).collect();
        report
    }

    pub fn print(&self, title: &str) {
        println!(
            "{title}: {} replacements, {} attempts, {} failed connections, {} failed requests, {} kept connections ended, {} late drains",
            self.replacements, self.attempts, self.failed_connections, self.failed_requests, self.reconnects, self.late
        );
        for (target, (count, first)) in &self.faults {
            println!("  {target}: {count} ({first})");
        }
    }
}

/// Of microseconds.
fn summary((mut took, failures): (Vec<u32>, usize)) -> Second {
    took.sort_unstable();
    let at = |share: usize| {
        let index = (took.len() * share / 100).min(took.len().saturating_sub(1));
        took.get(index).map_or(0.0, |took| f64::from(*took) / 1000.0)
    };
    Second { median: at(50), high: at(99), failures }
}

const WIDTH: f64 = 960.0;
const PANEL: f64 = 200.0;
const MARGIN: f64 = 60.0;

/// Draws runs below each other, each with latency as lines and failures as red bars.
pub fn svg(runs: &[(&str, &Report)]) -> String {
    let height = (PANEL + MARGIN) * runs.len() as f64 + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + 2.0 * MARGIN
    );
    for (index, (title, report)) in runs.iter().enumerate() {
        let top = MARGIN + (PANEL + MARGIN) * index as f64;
        panel(&mut out, title, report, top);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, title: &str, report: &Report, top: f64) {
    let count = report.seconds.len().max(2) as f64;
    let highest = report.seconds.iter().map(|second| second.high).fold(1.0, f64::max);
    let most = report.seconds.iter().map(|second| second.failures).max().unwrap_or(0).max(1) as f64;
    let x = |second: usize| MARGIN + WIDTH * second as f64 / (count - 1.0);
    // Logarithmic: a timeout would flatten everything else.
    let y = |value: f64| top + PANEL - PANEL * ((1.0 + value).ln() / (1.0 + highest).ln()).min(1.0);
    let failed = report.failed_connections + report.failed_requests;
    let _ = writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"{}\">{title}: {} replacements, {failed} failures of {} attempts</text>",
        top - 8.0,
        report.replacements,
        report.attempts
    );
    let _ = writeln!(out, "<path d=\"M{MARGIN} {top} v{PANEL} h{WIDTH}\" fill=\"none\" stroke=\"black\"/>");
    for (number, second) in report.seconds.iter().enumerate().filter(|(_, second)| second.failures > 0) {
        let bar = PANEL * second.failures as f64 / most;
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"{bar:.1}\" fill=\"#d33\"/>",
            x(number) - 1.5,
            top + PANEL - bar
        );
    }
    let mut line = |name: &str, colour: &str, of: fn(&Second) -> f64, at: f64| {
        let points = report.seconds.iter().enumerate().map(|(n, second)| format!("{:.1},{:.1}", x(n), y(of(second))));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(out, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>");
        let _ =
            writeln!(out, "<text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>", MARGIN + WIDTH - at, top - 8.0);
    };
    line("median", "#28c", |second| second.median, 190.0);
    line("99th percentile", "#e90", |second| second.high, 130.0);
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{highest:.0} ms</text><text x=\"{MARGIN}\" y=\"{}\">0 s</text>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{count:.0} s; red: failures a second, {most:.0} at most</text>",
        MARGIN - 6.0,
        top + 12.0,
        top + PANEL + 16.0,
        MARGIN + WIDTH,
        top + PANEL + 16.0
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn attempts_are_counted_by_how_they_ended() {
        let sample = |second: u64, outcome| Sample {
            at: Duration::from_secs(second),
            took: Duration::from_millis(2),
            outcome,
            target: "cluster ip new".into(),
            why: Some("refused".into()),
        };
        let samples = [
            sample(0, Outcome::Answered),
            sample(1, Outcome::NotConnected),
            sample(3, Outcome::NotAnswered),
            sample(3, Outcome::Again),
        ];
        let report = Report::of(samples);
        assert_eq!((report.failed_connections, report.failed_requests, report.reconnects), (1, 1, 1));
        assert_eq!((report.seconds.len(), report.lost.len()), (4, 2));
        assert_eq!(report.faults["cluster ip new"], (2, "refused, first at 1.0 s".to_owned()));
        let drawn = svg(&[("with", &report), ("without", &report)]);
        assert_eq!(drawn.matches("<polyline").count(), 4);
    }
}
