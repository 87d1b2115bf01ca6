//! Which Ingresses are ours: by class, by the old annotation, or by being the default.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

const ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Who we are to IngressClasses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRule {
    /// IngressClasses with this `spec.controller` are ours.
    pub controller: String,
    /// What the old annotation says to mean us, where there is no IngressClass of that name.
    pub name: String,
}

/// The IngressClasses that are there: name → (ours, default).
#[derive(Debug, Clone, Default)]
pub(super) struct Classes {
    known: BTreeMap<String, (bool, bool)>,
}

impl Classes {
    /// Takes a class in; says whether that changed anything.
    pub fn apply(&mut self, class: &IngressClass, rule: &ClassRule) -> bool {
        let name = class.metadata.name.clone().unwrap_or_default();
        let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
        let ours = controller == Some(rule.controller.as_str());
        let annotations = class.metadata.annotations.as_ref();
        let default = annotations.and_then(|all| all.get(DEFAULT)).is_some_and(|value| value == "true");
        self.known.insert(name, (ours, default)) != Some((ours, default))
    }

    pub fn remove(&mut self, name: &str) -> bool {
        self.known.remove(name).is_some()
    }

    /// The field wins over the annotation; an Ingress that names nobody belongs to the default class.
    pub fn is_ours(&self, ingress: &Ingress, rule: &ClassRule) -> bool {
        if let Some(name) = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref()) {
            return self.known.get(name).is_some_and(|(ours, _)| *ours);
        }
        if let Some(name) = ingress.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION)) {
            return self.known.get(name).map_or(*name == rule.name, |(ours, _)| *ours);
        }
        self.known.values().any(|(ours, default)| *ours && *default)
    }
}
