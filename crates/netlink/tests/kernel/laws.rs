//! The kernel in memory and the real one take the same batches and hold the same afterwards.

use netlink::NfTables;
use nft::kernel::Memory;
use nft::{Family, Ruleset, TableId, diff};
use proptest::prelude::*;

use crate::common::Scratch;
use crate::generate;

/// Random rules fit no hook in particular, and the kernel looks at that only where packets could come. They are of both
/// address families.
fn unhooked(ruleset: Ruleset) -> Ruleset {
    let mut tables = ruleset.tables;
    for chain in tables.values_mut().flat_map(|table| table.chains.values_mut()) {
        chain.base = None;
    }
    let inet = |id: TableId| TableId { family: Family::Inet, ..id };
    Ruleset { tables: tables.into_iter().map(|(id, table)| (inet(id), table)).collect() }
}

/// Elements of dynamic sets may expire while we look.
fn without_dynamic(mut ruleset: Ruleset) -> Ruleset {
    for set in ruleset.tables.values_mut().flat_map(|table| table.sets.values_mut()) {
        if set.spec.flags.dynamic {
            set.elements.clear();
        }
    }
    ruleset
}

fn read(nft: &mut NfTables, rulesets: &[&Ruleset]) -> Ruleset {
    let mut actual = Ruleset::default();
    for id in rulesets.iter().flat_map(|ruleset| ruleset.tables.keys()) {
        actual.tables.extend(nft.dump(id).unwrap().into_ruleset(id.clone()).tables);
    }
    actual
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_kernels_agree(a in generate::ruleset(), b in generate::ruleset()) {
        let scratch = Scratch::new();
        let mut nft = NfTables::open(&scratch.ns).unwrap();
        let mut memory = Memory::new();
        let mut actual = Ruleset::default();
        for desired in [unhooked(a.clone()), unhooked(b.clone())] {
            nft.commit(&diff(&actual, &desired)).map_err(|error| TestCaseError::fail(error.to_string()))?;
            memory.commit(&diff(memory.ruleset(), &desired)).unwrap();
            actual = read(&mut nft, &[&actual, &desired]);
            prop_assert_eq!(without_dynamic(actual.clone()), without_dynamic(memory.ruleset().clone()));
            prop_assert!(diff(&actual, &desired).is_empty());
        }
    }
}
