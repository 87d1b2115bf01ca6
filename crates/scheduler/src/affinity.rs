//! Affinity between pods: which terms a pod has, and which pods a term means.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

type Labels = BTreeMap<String, String>;

pub fn required_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_affinity.as_ref());
    affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// Terms of required anti-affinity, which also keeps others away from the pod.
pub fn aversions(pod: &Pod) -> Vec<Term> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    let terms = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
    terms.unwrap_or_default().iter().map(|term| Term::new(term, pod)).collect()
}

/// Preferred terms with their weights, negative for anti-affinity.
pub fn wishes(pod: &Pod) -> Vec<(Term, i64)> {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return Vec::new() };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let far = affinity.pod_anti_affinity.as_ref();
    let far = far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let weigh = |sign: i64| {
        move |term: &WeightedPodAffinityTerm| (Term::new(&term.pod_affinity_term, pod), sign * i64::from(term.weight))
    };
    near.into_iter().flatten().map(weigh(1)).chain(far.into_iter().flatten().map(weigh(-1))).collect()
}

/// What a pod in place wishes of newcomers: what it prefers, and a little of what it had to have itself (upstream's weight).
pub fn wishes_of_others(pod: &Pod) -> Vec<(Term, i64)> {
    let required = required_affinity(pod).iter().map(|term| (Term::new(term, pod), 1));
    required.chain(wishes(pod)).collect()
}

/// A term, ready to be asked about pods.
#[derive(Debug, Clone)]
pub struct Term {
    pub topology_key: String,
    selector: Option<Selector>,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

impl Term {
    /// `owner` is the pod that has the term: it gives the namespace, and the values of `matchLabelKeys`.
    pub fn new(term: &PodAffinityTerm, owner: &Pod) -> Term {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(owner.namespace().unwrap_or_default());
        }
        let keys = term.match_label_keys.as_deref().unwrap_or_default();
        let not_keys = term.mismatch_label_keys.as_deref().unwrap_or_default();
        let selector = term.label_selector.as_ref().map(|selector| {
            let with = narrowed(selector, owner, keys, "In");
            narrowed(&with, owner, not_keys, "NotIn")
        });
        Term {
            topology_key: term.topology_key.clone(),
            selector: selector.and_then(|selector| Selector::try_from(selector).ok()),
            namespaces,
            namespace_selector: term.namespace_selector.clone().and_then(|selector| Selector::try_from(selector).ok()),
        }
    }

    pub fn means(&self, pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> bool {
        let namespace = pod.namespace().unwrap_or_default();
        let named = self.namespaces.contains(&namespace);
        let by_label = || {
            let none = Labels::new();
            let labels = namespaces.get(&namespace).unwrap_or(&none);
            self.namespace_selector.as_ref().is_some_and(|selector| selector.matches(labels))
        };
        self.selector.as_ref().is_some_and(|selector| selector.matches(pod.labels())) && (named || by_label())
    }
}

/// A selector with one requirement more for each of `keys` that the pod carries.
pub fn narrowed(selector: &LabelSelector, pod: &Pod, keys: &[String], operator: &str) -> LabelSelector {
    let mut narrowed = selector.clone();
    for key in keys {
        if let Some(value) = pod.labels().get(key) {
            narrowed.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    narrowed
}
