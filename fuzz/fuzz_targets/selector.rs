//! Label and field selectors of any text: what is read is printed as a selector that selects the same.
#![no_main]

use api::selector::{FieldSelector, LabelSelector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        let printed = selector.to_string();
        let again = LabelSelector::parse(&printed).expect("reads what it printed");
        assert_eq!(again.to_string(), printed);
        for value in [None, Some(""), Some("a"), Some("5")] {
            assert_eq!(selector.matches(|_| value), again.matches(|_| value), "{text:?} {value:?}");
        }
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.matches(|field| field.to_owned());
        let _ = selector.required("metadata.name");
    }
    let parsed: Result<api::quantity::Quantity, _> = text.parse();
    if let Ok(quantity) = parsed {
        let again: api::quantity::Quantity = quantity.to_string().parse().expect("reads what it printed");
        assert_eq!(again.cmp(&quantity), std::cmp::Ordering::Equal, "{text:?}");
    }
});
