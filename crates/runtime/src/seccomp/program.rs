//! Verdicts by number, as classic BPF: a binary search over runs of equal verdicts, so that no call costs more than a dozen
//! comparisons.

use gantry_sys::seccomp::Instruction;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is made.
    Allow,
    /// It fails with this error number.
    Errno(u16),
    /// Its first argument decides between making it and EPERM.
    Test(ArgumentTest),
}

impl Verdict {
    /// EPERM.
    pub(super) const DENY: Self = Self::Errno(1);
    /// ENOSYS.
    pub(super) const NO_SUCH_CALL: Self = Self::Errno(38);
}

/// A condition on the low 32 bits of the first argument, which is all that the calls in question look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArgumentTest {
    /// None of these bits.
    AllOfMaskClear(u32),
    /// Another value.
    Not(u32),
    /// One of these.
    OneOf(&'static [u32]),
}

/// The verdicts of one architecture; a number past the list does not exist.
#[derive(Debug)]
pub(super) struct Architecture {
    pub(super) audit: u32,
    pub(super) verdicts: Vec<Verdict>,
}

/// Operation codes of `linux/bpf_common.h`.
mod op {
    pub(super) const LOAD: u16 = 0x20;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_AT_LEAST: u16 = 0x35;
    pub(super) const JUMP_ANY_BIT: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
}

/// Offsets in `struct seccomp_data`; both architectures are little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// `SECCOMP_RET_*`.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The whole filter.
pub(super) fn assemble(architectures: &[Architecture]) -> Vec<Instruction> {
    let mut program = vec![plain(op::LOAD, ARCHITECTURE)];
    for architecture in architectures {
        let mut section = vec![plain(op::LOAD, NUMBER)];
        section.extend(search(&runs(&architecture.verdicts)));
        // Another architecture: over this section to the next, which is further than a branch can reach.
        program.push(branch(op::JUMP_EQUAL, architecture.audit, 1, 0));
        program.push(plain(op::JUMP, section.len() as u32));
        program.append(&mut section);
    }
    program.push(plain(op::RETURN, KILL_PROCESS));
    program
}

/// First number and verdict of each run of equal verdicts.
fn runs(verdicts: &[Verdict]) -> Vec<(u32, Verdict)> {
    let mut runs: Vec<(u32, Verdict)> = Vec::new();
    let beyond = std::iter::once(&Verdict::NO_SUCH_CALL);
    for (number, verdict) in verdicts.iter().chain(beyond).enumerate() {
        if runs.last().is_none_or(|(_, last)| last != verdict) {
            runs.push((number as u32, *verdict));
        }
    }
    runs
}

fn search(runs: &[(u32, Verdict)]) -> Vec<Instruction> {
    let [_, .., _] = runs else {
        return runs.first().map_or_else(Vec::new, |(_, verdict)| leaf(*verdict));
    };
    let (below, from) = runs.split_at(runs.len() / 2);
    let (mut left, right) = (search(below), search(from));
    let first = from[0].0;
    let mut program = match u8::try_from(left.len()) {
        Ok(over) => vec![branch(op::JUMP_AT_LEAST, first, over, 0)],
        Err(_) => vec![
            branch(op::JUMP_AT_LEAST, first, 0, 1),
            plain(op::JUMP, left.len() as u32),
        ],
    };
    program.append(&mut left);
    program.extend(right);
    program
}

fn leaf(verdict: Verdict) -> Vec<Instruction> {
    let deny = plain(op::RETURN, ERRNO | 1);
    let allow = plain(op::RETURN, ALLOW);
    let test = match verdict {
        Verdict::Allow => return vec![allow],
        Verdict::Errno(errno) => return vec![plain(op::RETURN, ERRNO | u32::from(errno))],
        Verdict::Test(test) => test,
    };
    let mut program = vec![plain(op::LOAD, FIRST_ARGUMENT)];
    match test {
        ArgumentTest::AllOfMaskClear(mask) => program.extend([branch(op::JUMP_ANY_BIT, mask, 1, 0), allow, deny]),
        ArgumentTest::Not(value) => program.extend([branch(op::JUMP_EQUAL, value, 1, 0), allow, deny]),
        ArgumentTest::OneOf(values) => {
            for (index, value) in values.iter().enumerate() {
                // To the last instruction, which allows; the lists have a handful of values.
                program.push(branch(op::JUMP_EQUAL, *value, (values.len() - index) as u8, 0));
            }
            program.extend([deny, allow]);
        }
    }
    program
}

/// Runs a program as the kernel would: its return value for a call.
#[cfg(test)]
pub(super) fn run(program: &[Instruction], number: u32, architecture: u32, argument: u32) -> u32 {
    let (mut accumulator, mut at) = (0, 0usize);
    loop {
        let instruction = program[at];
        at += 1;
        let mut take = |condition: bool| at += usize::from(if condition { instruction.jt } else { instruction.jf });
        match instruction.code {
            op::LOAD => {
                accumulator = match instruction.k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    FIRST_ARGUMENT => argument,
                    other => panic!("no field at {other}"),
                };
            }
            op::JUMP => at += instruction.k as usize,
            op::JUMP_EQUAL => take(accumulator == instruction.k),
            op::JUMP_AT_LEAST => take(accumulator >= instruction.k),
            op::JUMP_ANY_BIT => take(accumulator & instruction.k != 0),
            op::RETURN => return instruction.k,
            other => panic!("unknown operation {other:#x}"),
        }
    }
}
