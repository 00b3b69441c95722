//! Schedules by lot.

use super::{Act, HOSTS, LEASE, QUIET_MS, TURN_MS, run};
use proptest::prelude::*;

fn act() -> impl Strategy<Value = Act> {
    let at = || 0..HOSTS;
    prop_oneof![
        12 => (at(), 1..150_u64).prop_map(|(host, amount)| Act::Call { host, amount }),
        6 => (at(), 0..8_usize, 0..=8_u64).prop_map(|(host, which, part)| Act::End { host, which, part }),
        2 => (at(), 1..150_u64).prop_map(|(host, amount)| Act::Credit { host, amount }),
        12 => at().prop_map(|host| Act::Send { host }),
        12 => (at(), 0..4_usize, prop::bool::weighted(0.85)).prop_map(|(host, which, answered)| Act::Deliver { host, which, answered }),
        2 => (at(), 0..4_usize).prop_map(|(host, which)| Act::Lose { host, which }),
        2 => at().prop_map(|host| Act::Crash { host }),
        4 => (at(), prop::bool::weighted(0.2)).prop_map(|(host, moved)| Act::Start { host, moved }),
        4 => prop_oneof![Just(100_u64), Just(TURN_MS), Just(QUIET_MS), Just(LEASE)].prop_map(|ms| Act::Wait { ms }),
        1 => Just(Act::Turn),
        1 => Just(Act::VaultStarts),
        2 => Just(Act::VaultBackup),
        2 => Just(Act::VaultRestored),
        2 => Just(Act::VaultDumped),
        1 => Just(Act::Accept),
        1 => at().prop_map(|host| Act::HostBackup { host }),
        1 => at().prop_map(|host| Act::HostRestored { host }),
        2 => (at(), any::<bool>()).prop_map(|(host, truly)| Act::WriteOff { host, truly }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn no_schedule_overspends(acts in prop::collection::vec(act(), 1..300)) {
        run(acts).map_err(TestCaseError::fail)?;
    }
}
