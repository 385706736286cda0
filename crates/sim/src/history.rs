//! Reads and writes of registers as people saw them, and whether they could have happened one at a time.
//!
//! A register is linearizable if every call can be given one moment between its beginning and its end so that each read returns
//! what the last write before it wrote (Herlihy and Wing 1990). The search is that of Wing and Gong (1993) with Lowe's memory of
//! dead ends (2017), as in the checkers Knossos and Porcupine. A write that nobody knows the fate of may take its moment at any
//! later time, or never.

use std::collections::{BTreeMap, BTreeSet};

/// Names a call.
pub type Call = usize;

/// One call.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Which register.
    pub register: usize,
    /// When it began.
    pub begins: u64,
    /// When it ended; never, when its fate is not known.
    pub ends: Option<u64>,
    /// What was written, in a write.
    pub written: Option<u64>,
    /// What was read, in a read that ended.
    pub read: Option<u64>,
    /// It surely did not happen.
    pub never: bool,
}

/// All calls of a run.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// A call begins: a write of a value, or a read.
    pub fn begins(&mut self, now: u64, register: usize, written: Option<u64>) -> Call {
        self.operations.push(Operation {
            register,
            begins: now,
            ends: None,
            written,
            read: None,
            never: false,
        });
        self.operations.len() - 1
    }

    /// It ended, with what was read.
    pub fn ends(&mut self, now: u64, call: Call, read: Option<u64>) {
        let operation = &mut self.operations[call];
        operation.ends = Some(now);
        operation.read = read;
    }

    /// It surely did not happen.
    pub fn never(&mut self, call: Call) {
        self.operations[call].never = true;
    }

    /// A register whose calls cannot have happened one at a time, if there is one.
    #[must_use]
    pub fn offender(&self) -> Option<(usize, Vec<Operation>)> {
        let mut registers: BTreeMap<usize, Vec<Operation>> = BTreeMap::new();
        for operation in self.operations.iter().filter(|one| !one.never) {
            // A read without an answer says nothing.
            if operation.written.is_some() || operation.ends.is_some() {
                registers.entry(operation.register).or_default().push(operation.clone());
            }
        }
        registers
            .into_iter()
            .find(|(_, operations)| !is_linearizable(operations))
    }
}

/// Whether the calls of one register, empty at first, could have happened one at a time. At most 128 calls.
#[must_use]
pub fn is_linearizable(operations: &[Operation]) -> bool {
    assert!(operations.len() <= 128, "a set of calls is a 128-bit number here");
    let needed = operations.iter().enumerate().filter(|(_, one)| one.ends.is_some());
    let needed = needed.fold(0u128, |set, (index, _)| set | 1u128 << index);
    let mut dead_ends = BTreeSet::new();
    search(operations, needed, 0, None, &mut dead_ends)
}

fn search(
    operations: &[Operation],
    needed: u128,
    done: u128,
    value: Option<u64>,
    dead_ends: &mut BTreeSet<(u128, Option<u64>)>,
) -> bool {
    if done & needed == needed {
        return true;
    }
    if !dead_ends.insert((done, value)) {
        return false;
    }
    let open = |index: &usize| done & (1u128 << index) == 0;
    let ends = (0..operations.len())
        .filter(open)
        .filter_map(|index| operations[index].ends);
    // Nothing can come before a call that had ended when it began.
    let horizon = ends.min().unwrap_or(u64::MAX);
    for index in (0..operations.len()).filter(open) {
        let operation = &operations[index];
        let fits = operation.written.is_some() || operation.read == value;
        if operation.begins <= horizon && fits {
            let next = operation.written.or(value);
            if search(operations, needed, done | 1u128 << index, next, dead_ends) {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(begins: u64, ends: Option<u64>, value: u64) -> Operation {
        Operation {
            register: 0,
            begins,
            ends,
            written: Some(value),
            read: None,
            never: false,
        }
    }

    fn read(begins: u64, ends: u64, value: Option<u64>) -> Operation {
        Operation {
            register: 0,
            begins,
            ends: Some(ends),
            written: None,
            read: value,
            never: false,
        }
    }

    #[test]
    fn histories_are_judged() {
        let cases = [
            (vec![], true),
            (vec![write(0, Some(2), 1), read(3, 4, Some(1))], true),
            (vec![write(0, Some(2), 1), read(3, 4, None)], false),
            (vec![write(0, Some(5), 1), read(1, 2, None), read(3, 4, Some(1))], true),
            (vec![write(0, Some(5), 1), read(1, 2, Some(1)), read(3, 4, None)], false),
            (vec![write(0, None, 1), read(9, 10, None), read(11, 12, Some(1))], true),
            (vec![write(0, None, 1), read(9, 10, Some(1)), read(11, 12, None)], false),
            (
                vec![write(0, Some(1), 1), write(2, Some(3), 2), read(4, 5, Some(1))],
                false,
            ),
            (
                vec![
                    write(0, Some(9), 1),
                    write(0, Some(9), 2),
                    read(10, 11, Some(1)),
                    read(12, 13, Some(1)),
                ],
                true,
            ),
            (
                vec![
                    write(0, Some(9), 1),
                    write(0, Some(9), 2),
                    read(10, 11, Some(1)),
                    read(12, 13, Some(2)),
                ],
                false,
            ),
        ];
        for (operations, expected) in cases {
            assert_eq!(is_linearizable(&operations), expected, "{operations:?}");
        }
    }
}
