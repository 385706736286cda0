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
    /// What the kernel is told, as it is.
    Return(u32),
    /// Its arguments decide: the position in [`Architecture::rules`].
    Rules(usize),
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

/// The verdicts of one architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    pub(super) audit: u32,
    pub(super) verdicts: Vec<Verdict>,
    /// For a number past the list.
    pub(super) beyond: Verdict,
    pub(super) rules: Vec<RuleList>,
}

/// The first rule whose conditions all hold decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleList {
    pub(super) rules: Vec<Rule>,
    /// What the kernel is told when none does.
    pub(super) otherwise: u32,
}

/// What the kernel is told when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) outcome: u32,
}

/// A condition on one argument, all 64 bits of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) index: u32,
    pub(super) comparison: Comparison,
    pub(super) value: u64,
}

/// The argument against a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// These bits of it are those of the value.
    MaskedEqual(u64),
}

/// Operation codes of `linux/bpf_common.h`.
mod op {
    pub(super) const LOAD: u16 = 0x20;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_AT_LEAST: u16 = 0x35;
    pub(super) const JUMP_ANY_BIT: u16 = 0x45;
    pub(super) const JUMP_GREATER: u16 = 0x25;
    pub(super) const AND: u16 = 0x54;
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
        section.extend(search(&runs(architecture), &architecture.rules));
        // Another architecture: over this section to the next, which is further than a branch can reach.
        program.push(branch(op::JUMP_EQUAL, architecture.audit, 1, 0));
        program.push(plain(op::JUMP, section.len() as u32));
        program.append(&mut section);
    }
    program.push(plain(op::RETURN, KILL_PROCESS));
    program
}

/// First number and verdict of each run of equal verdicts.
fn runs(architecture: &Architecture) -> Vec<(u32, Verdict)> {
    let mut runs: Vec<(u32, Verdict)> = Vec::new();
    let beyond = std::iter::once(&architecture.beyond);
    for (number, verdict) in architecture.verdicts.iter().chain(beyond).enumerate() {
        if runs.last().is_none_or(|(_, last)| last != verdict) {
            runs.push((number as u32, *verdict));
        }
    }
    runs
}

fn search(runs: &[(u32, Verdict)], rules: &[RuleList]) -> Vec<Instruction> {
    let [_, .., _] = runs else {
        return runs.first().map_or_else(Vec::new, |(_, verdict)| leaf(*verdict, rules));
    };
    let (below, from) = runs.split_at(runs.len() / 2);
    let (mut left, right) = (search(below, rules), search(from, rules));
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

fn leaf(verdict: Verdict, rules: &[RuleList]) -> Vec<Instruction> {
    let deny = plain(op::RETURN, ERRNO | 1);
    let allow = plain(op::RETURN, ALLOW);
    let test = match verdict {
        Verdict::Allow => return vec![allow],
        Verdict::Errno(errno) => return vec![plain(op::RETURN, ERRNO | u32::from(errno))],
        Verdict::Return(outcome) => return vec![plain(op::RETURN, outcome)],
        Verdict::Rules(position) => return list(&rules[position]),
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

fn list(list: &RuleList) -> Vec<Instruction> {
    let mut program = Vec::new();
    for rule in &list.rules {
        let mut block: Vec<Step> = rule.conditions.iter().flat_map(condition).collect();
        block.push(Step::Plain(plain(op::RETURN, rule.outcome)));
        let length = block.len();
        program.extend(
            block
                .into_iter()
                .enumerate()
                .map(|(at, step)| step.place(length - at - 1)),
        );
    }
    program.push(plain(op::RETURN, list.otherwise));
    program
}

/// An instruction of a rule, before it is known how far it is to the next rule.
enum Step {
    Plain(Instruction),
    /// Code, operand, and where to go when it holds and when not.
    Branch(u16, u32, Go, Go),
}

#[derive(Clone, Copy)]
enum Go {
    /// Over so many steps.
    Over(u8),
    /// To the next rule.
    Fail,
}

impl Step {
    /// `rest` steps of the rule follow; a rule has at most six conditions of six steps.
    fn place(self, rest: usize) -> Instruction {
        let distance = |go| match go {
            Go::Over(steps) => steps,
            Go::Fail => rest as u8,
        };
        match self {
            Self::Plain(instruction) => instruction,
            Self::Branch(code, operand, holds, fails) => branch(code, operand, distance(holds), distance(fails)),
        }
    }
}

/// High word first: when it decides, the low one is skipped.
fn condition(condition: &Condition) -> Vec<Step> {
    use Go::{Fail, Over};
    let low_at = FIRST_ARGUMENT + condition.index * 8;
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let load = |at| Step::Plain(plain(op::LOAD, at));
    let ordered = |code, yes: Go, no: Go| {
        // The outcome is settled by the high word alone when it differs.
        vec![
            load(low_at + 4),
            Step::Branch(op::JUMP_GREATER, high, skip(yes, 3), Over(0)),
            Step::Branch(op::JUMP_EQUAL, high, Over(0), skip(no, 2)),
            load(low_at),
            Step::Branch(code, low, yes, no),
        ]
    };
    match condition.comparison {
        Comparison::Equal => vec![
            load(low_at + 4),
            Step::Branch(op::JUMP_EQUAL, high, Over(0), Fail),
            load(low_at),
            Step::Branch(op::JUMP_EQUAL, low, Over(0), Fail),
        ],
        Comparison::NotEqual => vec![
            load(low_at + 4),
            Step::Branch(op::JUMP_EQUAL, high, Over(0), Over(2)),
            load(low_at),
            Step::Branch(op::JUMP_EQUAL, low, Fail, Over(0)),
        ],
        Comparison::Greater => ordered(op::JUMP_GREATER, Over(0), Fail),
        Comparison::GreaterOrEqual => ordered(op::JUMP_AT_LEAST, Over(0), Fail),
        Comparison::Less => ordered(op::JUMP_AT_LEAST, Fail, Over(0)),
        Comparison::LessOrEqual => ordered(op::JUMP_GREATER, Fail, Over(0)),
        Comparison::MaskedEqual(mask) => vec![
            load(low_at + 4),
            Step::Plain(plain(op::AND, (mask >> 32) as u32)),
            Step::Branch(op::JUMP_EQUAL, high, Over(0), Fail),
            load(low_at),
            Step::Plain(plain(op::AND, mask as u32)),
            Step::Branch(op::JUMP_EQUAL, low, Over(0), Fail),
        ],
    }
}

/// Past the steps that look at the low word, unless the rule fails anyway.
fn skip(go: Go, steps: u8) -> Go {
    match go {
        Go::Over(_) => Go::Over(steps),
        Go::Fail => Go::Fail,
    }
}

/// Runs a program as the kernel would: its return value for a call.
#[cfg(test)]
pub(super) fn run(program: &[Instruction], number: u32, architecture: u32, arguments: [u64; 6]) -> u32 {
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
                    field @ FIRST_ARGUMENT.. => {
                        let word = (field - FIRST_ARGUMENT) / 4;
                        (arguments[word as usize / 2] >> (32 * (word % 2))) as u32
                    }
                    other => panic!("no field at {other}"),
                };
            }
            op::AND => accumulator &= instruction.k,
            op::JUMP => at += instruction.k as usize,
            op::JUMP_EQUAL => take(accumulator == instruction.k),
            op::JUMP_AT_LEAST => take(accumulator >= instruction.k),
            op::JUMP_GREATER => take(accumulator > instruction.k),
            op::JUMP_ANY_BIT => take(accumulator & instruction.k != 0),
            op::RETURN => return instruction.k,
            other => panic!("unknown operation {other:#x}"),
        }
    }
}
