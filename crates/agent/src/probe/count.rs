//! How many equal answers in a row make a verdict. Pure; the rule is the kubelet's.

use k8s_openapi::api::core::v1::Probe;

/// The answers of one probe of one container run.
#[derive(Debug, Clone)]
pub struct Counter {
    needed_to_pass: u32,
    needed_to_fail: u32,
    last: Option<bool>,
    run: u32,
}

impl Counter {
    pub fn new(probe: &Probe) -> Counter {
        let threshold =
            |value: Option<i32>, default| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default).max(1);
        Counter {
            needed_to_pass: threshold(probe.success_threshold, 1),
            needed_to_fail: threshold(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// Takes an answer; gives the verdict once enough in a row agree (again with each further one).
    pub fn observe(&mut self, passed: bool) -> Option<bool> {
        if self.last == Some(passed) {
            self.run = self.run.saturating_add(1);
        } else {
            (self.last, self.run) = (Some(passed), 1);
        }
        let needed = if passed { self.needed_to_pass } else { self.needed_to_fail };
        (self.run >= needed).then_some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(success: i32, failure: i32, answers: &str, verdicts: &str) {
        let probe = Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        let shown = answers.chars().map(|c| match counter.observe(c == '+') {
            Some(true) => '+',
            Some(false) => '-',
            None => '.',
        });
        assert_eq!(shown.collect::<String>(), verdicts, "{answers}");
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        check(1, 3, "+--+---+", "+..+..-+");
        check(1, 1, "+-+", "+-+");
        check(2, 2, "+-+-++--", ".....+.-");
        check(1, 3, "-----", "..---");
    }
}
