//! The steps of upstream's TTL controller. They overlap, so that a cluster that grows and shrinks by a few nodes does not write to all of them
//! each time.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

use crate::mechanism::Write;

pub const TTL: &str = "node.alpha.kubernetes.io/ttl";

/// A range of cluster sizes, both ends included.
struct Step {
    least: usize,
    most: usize,
    seconds: u32,
}

const STEPS: [Step; 5] = [
    Step { least: 0, most: 100, seconds: 0 },
    Step { least: 90, most: 500, seconds: 15 },
    Step { least: 450, most: 1000, seconds: 30 },
    Step { least: 900, most: 2000, seconds: 60 },
    Step { least: 1800, most: usize::MAX, seconds: 300 },
];

/// How many nodes there are, and the step that they have led to.
#[derive(Debug, Default)]
pub struct Size {
    nodes: usize,
    step: usize,
}

impl Size {
    /// One node more. True when the step is another one now.
    pub fn grow(&mut self) -> bool {
        self.nodes += 1;
        let over = self.nodes > STEPS[self.step].most;
        self.step += usize::from(over);
        over
    }

    /// One node less. True when the step is another one now.
    pub fn shrink(&mut self) -> bool {
        self.nodes = self.nodes.saturating_sub(1);
        let under = self.nodes < STEPS[self.step].least;
        self.step -= usize::from(under);
        under
    }

    pub fn seconds(&self) -> u32 {
        STEPS[self.step].seconds
    }
}

pub fn decide(node: &Node, seconds: u32) -> Option<Write> {
    // What is no number is written over; what is the same number in other words is not, as upstream.
    if node.annotations().get(TTL).and_then(|text| text.parse().ok()) == Some(seconds) {
        return None;
    }
    let meta = json!({"uid": node.metadata.uid, "annotations": {TTL: seconds.to_string()}});
    Some(Write::patch(node, json!({"metadata": meta})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::Verb;

    /// What the size has led to after it went through each of these.
    fn through(sizes: &[usize]) -> Vec<u32> {
        let mut size = Size::default();
        let reached = |to: &usize| {
            while size.nodes < *to {
                size.grow();
            }
            while size.nodes > *to {
                size.shrink();
            }
            size.seconds()
        };
        sizes.iter().map(reached).collect()
    }

    #[test]
    fn seconds_follow_the_size_and_wait_before_they_go_back() {
        let check = |sizes: &[usize], seconds: &[u32]| assert_eq!(through(sizes), seconds, "{sizes:?}");
        check(&[0, 1, 100, 101, 500, 501], &[0, 0, 0, 15, 15, 30]);
        check(&[1000, 1001, 2000, 2001, 9000], &[30, 60, 60, 300, 300]);
        check(&[101, 90, 89, 100, 101], &[15, 15, 0, 0, 15]);
        check(&[501, 450, 449], &[30, 30, 15]);
        check(&[1001, 900, 899], &[60, 60, 30]);
        check(&[2001, 1800, 1799, 0], &[300, 300, 60, 0]);
    }

    #[test]
    fn a_change_of_step_is_told_once() {
        let mut size = Size::default();
        assert_eq!((0..200).filter(|_| size.grow()).count(), 1);
        assert_eq!((0..200).filter(|_| size.shrink()).count(), 1);
        assert!(!size.shrink(), "there is no step below none");
    }

    #[test]
    fn a_node_is_written_only_when_it_says_something_else() {
        let written = |annotation: Option<&str>, seconds: u32| {
            let meta = json!({"name": "n", "uid": "u", "annotations": annotation.map(|text| json!({TTL: text}))});
            let node: Node = serde_json::from_value(json!({"metadata": meta})).unwrap();
            decide(&node, seconds).map(|write| {
                let Verb::Patch(patch) = write.verb else { panic!("{write}") };
                patch["metadata"]["annotations"][TTL].as_str().unwrap().to_owned()
            })
        };
        assert_eq!(written(None, 0), Some("0".to_owned()));
        assert_eq!(written(Some("0"), 0), None);
        assert_eq!(written(Some("0"), 15), Some("15".to_owned()));
        assert_eq!(written(Some("soon"), 30), Some("30".to_owned()));
    }
}
