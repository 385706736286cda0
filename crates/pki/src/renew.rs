//! When a certificate is renewed.

use gantry_model::Timestamp;

/// A random moment between 50 % and 80 % of the certificate's life, as in Swarm: members made together do not renew together.
#[must_use]
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, random: u64) -> Timestamp {
    let life = u128::from(not_after.since(not_before).0);
    let permille = 500 + u128::from(random % 301);
    let after = u64::try_from(life * permille / 1000).unwrap_or(u64::MAX);
    Timestamp(not_before.0.saturating_add(after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn renewal_lies_between_half_and_four_fifths(from in 0..1u64 << 50, life in 1..1u64 << 50, random: u64) {
            let at = renew_at(Timestamp(from), Timestamp(from + life), random);
            prop_assert!(at.0 >= from + life / 2 && at.0 <= from + life / 5 * 4 + 4);
        }
    }

    #[test]
    fn both_ends_are_reached() {
        assert_eq!(renew_at(Timestamp(0), Timestamp(1000), 0), Timestamp(500));
        assert_eq!(renew_at(Timestamp(0), Timestamp(1000), 300), Timestamp(800));
    }
}
