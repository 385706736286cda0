//! Properties of the state machine under random transactions.
//!
//! Few ids and few names, so that transactions meet the same objects again and again.

mod generate;
mod model;

use gantry_state::{EVENTS_KEPT, NewEvent, Op, Outcome, Precondition, Refusal, State, Transaction};
use proptest::prelude::*;

use crate::generate::{history, key, transaction};
use crate::model::{agree_with_naive_lookups, bytes, same};

fn applied(history: &[(u64, Transaction)]) -> State {
    let mut state = State::default();
    for (index, (term, transaction)) in history.iter().enumerate() {
        state.apply(index as u64 + 1, *term, transaction);
    }
    state
}

fn loaded(state: &State) -> State {
    rmp_serde::from_slice(&bytes(state)).expect("what was saved can be loaded")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn invariants_hold_after_every_transaction(history in history()) {
        let mut state = State::default();
        for (index, (term, transaction)) in history.iter().enumerate() {
            let (_, changes) = state.apply(index as u64 + 1, *term, transaction);
            prop_assert_eq!(state.violations_of(&changes), vec![]);
            prop_assert_eq!(state.violations(), vec![]);
        }
    }

    #[test]
    fn a_refused_transaction_changes_nothing_but_the_revision(history in history(), transaction in transaction(), key in key()) {
        let before = applied(&history);
        let mut after = before.clone();
        let index = before.revision() + 1;
        let exists = before.get(&key).is_some();
        let refusing = if exists { Precondition::Absent(key.clone()) } else { Precondition::Unchanged { key: key.clone(), modified: 0 } };
        let reason = if exists { Refusal::Exists(key) } else { Refusal::Gone(key) };
        let mut refused = transaction;
        refused.require = vec![refusing];
        let (outcome, changes) = after.apply(index, 1, &refused);
        prop_assert_eq!(outcome, Outcome::Refused(reason));
        prop_assert!(changes.is_empty());
        let mut skipped = before;
        skipped.skip(index);
        prop_assert_eq!(bytes(&after), bytes(&skipped));
        agree_with_naive_lookups(&after)?;
    }

    #[test]
    fn an_entry_applied_already_changes_nothing(history in history(), transaction in transaction()) {
        let before = applied(&history);
        for index in 0..=before.revision() {
            let mut again = before.clone();
            let (_, changes) = again.apply(index, 1, &transaction);
            prop_assert!(changes.is_empty());
            prop_assert_eq!(bytes(&again), bytes(&before));
        }
    }

    #[test]
    fn a_snapshot_is_the_state(history in history()) {
        let state = applied(&history);
        let copy = loaded(&state);
        same(&copy, &state)?;
        prop_assert_eq!(copy.violations(), vec![]);
    }

    #[test]
    fn a_server_restored_from_a_snapshot_goes_on_like_one_that_never_stopped(earlier in history(), later in history()) {
        let mut original = applied(&earlier);
        let mut restored = loaded(&original);
        for (offset, (term, transaction)) in later.iter().enumerate() {
            let index = earlier.len() as u64 + offset as u64 + 1;
            let (left, left_changes) = original.apply(index, *term, transaction);
            let (right, right_changes) = restored.apply(index, *term, transaction);
            prop_assert_eq!(left, right);
            prop_assert_eq!(left_changes.len(), right_changes.len());
        }
        same(&restored, &original)?;
    }

    #[test]
    fn indexes_answer_as_a_search_of_the_tables_does(history in history()) {
        let mut state = State::default();
        for (index, (term, transaction)) in history.iter().enumerate() {
            state.apply(index as u64 + 1, *term, transaction);
            agree_with_naive_lookups(&state)?;
        }
    }

    #[test]
    fn changes_lead_from_the_state_before_to_the_state_after(history in history()) {
        let mut state = State::default();
        let mut copy = std::collections::BTreeMap::new();
        for (index, (term, transaction)) in history.iter().enumerate() {
            let (_, changes) = state.apply(index as u64 + 1, *term, transaction);
            for change in changes {
                prop_assert_eq!(change.revision, state.revision());
                prop_assert!(change.before.is_some() || change.after.is_some());
                let before = match change.after {
                    Some(after) => copy.insert(change.key, after),
                    None => copy.remove(&change.key),
                };
                prop_assert_eq!(before, change.before);
            }
            let stored = model::objects(&state);
            prop_assert_eq!(&copy, &stored);
        }
    }

    #[test]
    fn an_earlier_clone_is_untouched_by_what_follows(earlier in history(), later in history()) {
        let mut state = applied(&earlier);
        let view = state.clone();
        let before = bytes(&view);
        for (offset, (term, transaction)) in later.iter().enumerate() {
            state.apply(earlier.len() as u64 + offset as u64 + 1, *term, transaction);
        }
        prop_assert_eq!(bytes(&view), before);
    }
}

#[test]
fn old_events_give_way_to_new_ones_and_their_numbers_go_on() {
    let mut state = State::default();
    let count = EVENTS_KEPT as u64 + 100;
    for index in 1..=count {
        let event = Op::Record(NewEvent::new("test", "counted", index.to_string()));
        state.apply(index, 1, &Transaction::new(gantry_model::Timestamp(index), vec![event]));
    }
    assert_eq!(state.events().count(), EVENTS_KEPT);
    assert_eq!(state.events().next().map(|event| event.sequence), Some(101));
    assert_eq!(state.events().next_back().map(|event| event.sequence), Some(count));
    assert_eq!(
        loaded(&state).events().next_back().map(|event| event.sequence),
        Some(count)
    );
}

#[test]
fn the_write_of_another_term_is_refused() {
    let mut state = State::default();
    let write = Transaction::default().requiring(Precondition::Term(3));
    assert_eq!(
        state.apply(1, 4, &write).0,
        Outcome::Refused(Refusal::Term { wanted: 3, actual: 4 })
    );
    assert_eq!(state.apply(2, 3, &write).0, Outcome::Committed { revision: 2 });
}

#[test]
fn a_snapshot_of_a_later_format_is_refused() {
    #[derive(serde::Serialize)]
    struct Later {
        format: u32,
        revision: u64,
        events_recorded: u64,
        objects: Vec<u8>,
        events: Vec<u8>,
    }
    let later = Later {
        format: 2,
        revision: 1,
        events_recorded: 0,
        objects: vec![],
        events: vec![],
    };
    let bytes = rmp_serde::to_vec_named(&later).expect("it can be encoded");
    let error = rmp_serde::from_slice::<State>(&bytes).expect_err("it is refused");
    assert!(error.to_string().contains("newer gantry"), "{error}");
}
