//! Laws that hold for any rulesets: what `diff` gives leads from one to the other, and nothing is lost on the wire.
#![allow(clippy::unwrap_used)]

mod generate;

use generate::{rule, ruleset, set, spec};
use nft::kernel::Memory;
use nft::wire::{Assembly, Messages, decode, encode};
use nft::{Batch, Elements, Family, Op, Ruleset, SetRef, TableId, diff, diff_elements, lower, raise};
use proptest::collection::vec;
use proptest::prelude::*;

/// Elements of dynamic sets are the packets' and follow no law of ours.
fn without_dynamic(mut ruleset: Ruleset) -> Ruleset {
    for set in ruleset.tables.values_mut().flat_map(|table| table.sets.values_mut()) {
        if set.spec.flags.dynamic {
            set.elements.clear();
        }
    }
    ruleset
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_difference_leads_from_one_to_the_other(a in ruleset(), b in ruleset()) {
        let mut kernel = Memory::new();
        kernel.commit(&diff(&Ruleset::default(), &a)).unwrap();
        prop_assert_eq!(kernel.ruleset(), &a);
        let batch = diff(kernel.ruleset(), &b);
        kernel.commit(&batch).unwrap();
        prop_assert_eq!(without_dynamic(kernel.ruleset().clone()), without_dynamic(b.clone()));
        prop_assert!(diff(kernel.ruleset(), &b).is_empty());

        // Without the kernel's handles of rules it takes more operations, and leads to the same.
        let mut belief = a.clone();
        belief.apply(&diff(&a, &b)).unwrap();
        prop_assert_eq!(without_dynamic(belief), without_dynamic(b));
    }

    #[test]
    fn a_refused_batch_leaves_no_trace(a in ruleset(), b in ruleset()) {
        let mut kernel = Memory::new();
        kernel.commit(&diff(&Ruleset::default(), &a)).unwrap();
        let mut batch = diff(kernel.ruleset(), &b);
        batch.push(Op::DeleteTable { table: TableId::new(Family::Ip6, "no such"), must_exist: true });
        let before = kernel.ruleset().clone();
        let refused = kernel.commit(&batch).unwrap_err();
        prop_assert_eq!(refused.op, batch.ops.len() - 1);
        prop_assert_eq!(kernel.ruleset(), &before);
    }

    #[test]
    fn nothing_is_lost_on_the_wire(a in ruleset()) {
        let batch = diff(&Ruleset::default(), &a);
        prop_assume!(!batch.is_empty());
        let encoded = encode(&batch, 7, None);
        let mut assembly = Assembly::new();
        for message in Messages(&encoded.bytes) {
            decode(&message).into_iter().for_each(|decoded| assembly.add(decoded));
        }
        prop_assert_eq!(assembly.finish(), a);
    }

    #[test]
    fn rules_come_back_from_the_register_machine(rule in rule(), inet in any::<bool>()) {
        let family = if inet { Family::Inet } else { Family::Ip };
        let widths = |name: &str| {
            let shape = name[1..].parse().unwrap();
            Some(spec(shape, None, false).key.iter().map(|field| field.padded()).sum())
        };
        prop_assert_eq!(raise(family, &lower(family, &rule), &widths), rule.statements);
    }

    #[test]
    fn the_difference_of_elements_is_the_smallest(a in set(), b in set()) {
        let (shape, a) = a;
        let (_, b) = (shape, if b.0 == shape { b.1 } else { a.clone() });
        let set = SetRef { table: TableId::new(Family::Ip, "t"), name: "s".into(), spec: a.spec.clone() };
        let batch = Batch { ops: diff_elements(&set, &a.elements, &b.elements) };
        let only = |left: &Elements, right: &Elements| {
            left.iter().filter(|(key, element)| right.get(*key) != Some(*element)).count()
        };
        prop_assert_eq!(batch.elements(), only(&a.elements, &b.elements) + only(&b.elements, &a.elements));
    }

    #[test]
    fn no_bytes_make_the_decoder_fail(bytes in vec(any::<u8>(), 0..300)) {
        let mut assembly = Assembly::new();
        for message in Messages(&bytes) {
            decode(&message).into_iter().for_each(|decoded| assembly.add(decoded));
        }
        assembly.finish();
    }

    #[test]
    fn damaged_messages_do_not_make_the_decoder_fail(a in ruleset(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let batch = diff(&Ruleset::default(), &a);
        prop_assume!(!batch.is_empty());
        let mut bytes = encode(&batch, 7, None).bytes;
        *at.get_mut(&mut bytes) = byte;
        let mut assembly = Assembly::new();
        for message in Messages(&bytes) {
            decode(&message).into_iter().for_each(|decoded| assembly.add(decoded));
        }
        let _ = assembly.finish().to_string();
    }
}
