//! Which controllers run: lists of upstream's names, as people write them.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::{Error, Name};

/// Short names that upstream's flag has known for long.
const ALIASES: [(&str, Name); 4] = [
    ("endpoint", Name::Endpoints),
    ("podgc", Name::PodGc),
    ("root-ca-cert-publisher", Name::RootCa),
    ("ttl-after-finished", Name::TtlAfterFinished),
];

impl FromStr for Name {
    type Err = Error;

    /// Takes a name with or without `-controller`, and upstream's short names.
    fn from_str(text: &str) -> Result<Name, Error> {
        let plain = |name: &str| name.strip_suffix("-controller").unwrap_or(name).replace('-', "");
        let found = Name::ALL.into_iter().find(|name| plain(name.as_str()) == plain(text));
        let alias = || ALIASES.into_iter().find(|(alias, _)| *alias == text).map(|(_, name)| name);
        found.or_else(alias).ok_or_else(|| Error::UnknownController { name: text.to_owned() })
    }
}

/// What upstream's `--controllers` selects: `*` is all, `foo` names one, `-foo` leaves one out.
///
/// # Errors
/// When a name is not that of a controller.
pub fn selected(list: &[String]) -> Result<BTreeSet<Name>, Error> {
    let (mut named, mut left_out, mut all) = (BTreeSet::new(), BTreeSet::new(), false);
    for word in list.iter().map(|word| word.trim()).filter(|word| !word.is_empty()) {
        match word.strip_prefix('-') {
            _ if word == "*" => all = true,
            Some(name) => drop(left_out.insert(name.parse::<Name>()?)),
            None => drop(named.insert(word.parse::<Name>()?)),
        }
    }
    if all {
        named.extend(Name::ALL);
    }
    Ok(named.difference(&left_out).copied().collect())
}

/// All controllers but those of a list; `*` leaves none.
///
/// # Errors
/// When a name is not that of a controller.
pub fn without(list: &[String]) -> Result<BTreeSet<Name>, Error> {
    let left_out = selected(list)?;
    Ok(Name::ALL.into_iter().filter(|name| !left_out.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn names_are_upstreams_long_or_short() {
        for name in Name::ALL {
            assert_eq!(name.as_str().parse::<Name>().unwrap(), name);
        }
        let table = [("endpointslice", Name::EndpointSlice), ("garbagecollector", Name::GarbageCollector)];
        let table = table.into_iter().chain([("podgc", Name::PodGc), ("nodelifecycle", Name::NodeLifecycle)]);
        for (text, name) in table.chain([("endpoint", Name::Endpoints), ("cronjob", Name::CronJob)]) {
            assert_eq!(text.parse::<Name>().unwrap(), name);
        }
        let error = "nope".parse::<Name>().unwrap_err().to_string();
        assert!(error.contains("`nope`") && error.contains("hint: ") && error.contains("job-controller"), "{error}");
    }

    #[test]
    fn lists_name_all_some_or_all_but_some() {
        assert_eq!(selected(&list("*")).unwrap().len(), Name::ALL.len());
        assert_eq!(selected(&list("job,-job,cronjob")).unwrap(), BTreeSet::from([Name::CronJob]));
        let all_but = selected(&list("*,-endpoints-controller")).unwrap();
        assert_eq!(all_but, without(&list("endpoints")).unwrap());
        assert!(!all_but.contains(&Name::Endpoints) && all_but.len() == Name::ALL.len() - 1);
        assert!(without(&list("*")).unwrap().is_empty());
        assert!(without(&list("-nope")).is_err());
    }
}
