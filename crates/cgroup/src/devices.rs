//! Which devices a group's processes may use: rules in version 1, a BPF program made from the same rules in version 2.

use std::path::Path;

use gantry_sys::bpf::{Instruction, attach_device_program, load_device_program};

use crate::CgroupError;
use crate::error::write;

/// Kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both kinds.
    Any,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u32);

impl Access {
    /// Making a node of it (`BPF_DEVCG_ACC_MKNOD`).
    pub const MAKE: Self = Self(1);
    /// All of it: making, reading and writing.
    pub const ALL: Self = Self(7);

    fn letters(self) -> String {
        [(2, 'r'), (4, 'w'), (1, 'm')]
            .into_iter()
            .filter_map(|(bit, letter)| (self.0 & bit != 0).then_some(letter))
            .collect()
    }
}

/// An exception from "no devices".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Which kind.
    pub kind: DeviceKind,
    /// Major number; all when absent.
    pub major: Option<u32>,
    /// Minor number; all when absent.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: Access,
}

impl DeviceRule {
    /// All access to everything, as a privileged container has.
    pub const EVERYTHING: Self = Self {
        kind: DeviceKind::Any,
        major: None,
        minor: None,
        access: Access::ALL,
    };

    fn text(self) -> String {
        let kind = match self.kind {
            DeviceKind::Any => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_string(), |number| number.to_string());
        format!(
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access.letters()
        )
    }
}

pub(crate) fn allow_v1(group: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    write(&group.join("devices.deny"), "a")?;
    for rule in rules {
        write(&group.join("devices.allow"), &rule.text())?;
    }
    Ok(())
}

pub(crate) fn allow_v2(group: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    if rules.contains(&DeviceRule::EVERYTHING) {
        // What no program restricts is allowed.
        return Ok(());
    }
    let failed = |source: std::io::Error| CgroupError::DeviceProgram {
        path: group.to_path_buf(),
        source,
    };
    let folder = std::fs::File::open(group).map_err(failed)?;
    let program = load_device_program(&compile(rules)).map_err(|errno| failed(errno.into()))?;
    attach_device_program(&folder, &program).map_err(|errno| failed(errno.into()))
}

/// eBPF operation codes of `linux/bpf.h` that the program uses.
mod op {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE_REGISTER: u8 = 0xbc;
    pub(super) const MOVE_CONSTANT: u8 = 0xb4;
    pub(super) const AND_CONSTANT: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x56;
    pub(super) const EXIT: u8 = 0x95;
}

/// The context is `struct bpf_cgroup_dev_ctx`: access type (access << 16 | kind), major, minor, a word each.
/// Each rule is a run of comparisons that skip to the next rule; falling through allows.
fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let two = |code, to: u8, from: u8, offset| Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate: 0,
    };
    let one = |code, to: u8, immediate| Instruction {
        code,
        registers: to,
        offset: 0,
        immediate,
    };
    // r2 = kind, r3 = access, r4 = major, r5 = minor; r1 is the context.
    let mut program = vec![
        two(op::LOAD_WORD, 2, 1, 0),
        one(op::AND_CONSTANT, 2, 0xffff),
        two(op::LOAD_WORD, 3, 1, 0),
        one(op::SHIFT_RIGHT, 3, 16),
        two(op::LOAD_WORD, 4, 1, 4),
        two(op::LOAD_WORD, 5, 1, 8),
    ];
    for rule in rules {
        let mut tests: Vec<Instruction> = Vec::new();
        match rule.kind {
            DeviceKind::Any => {}
            DeviceKind::Block => tests.push(one(op::JUMP_NOT_EQUAL, 2, 1)),
            DeviceKind::Character => tests.push(one(op::JUMP_NOT_EQUAL, 2, 2)),
        }
        if rule.access != Access::ALL {
            // Anything asked for beyond what is allowed: skip.
            tests.push(two(op::MOVE_REGISTER, 6, 3, 0));
            tests.push(one(op::AND_CONSTANT, 6, !rule.access.0 as i32));
            tests.push(one(op::JUMP_NOT_EQUAL, 6, 0));
        }
        tests.extend(rule.major.map(|major| one(op::JUMP_NOT_EQUAL, 4, major as i32)));
        tests.extend(rule.minor.map(|minor| one(op::JUMP_NOT_EQUAL, 5, minor as i32)));
        let length = tests.len();
        for (index, test) in tests.iter_mut().enumerate() {
            if test.code == op::JUMP_NOT_EQUAL {
                // Past the remaining tests and the two instructions that allow; a rule has at most six tests.
                test.offset = (length - index - 1 + 2) as i16;
            }
        }
        program.append(&mut tests);
        program.push(one(op::MOVE_CONSTANT, 0, 1));
        program.push(one(op::EXIT, 0, 0));
    }
    program.push(one(op::MOVE_CONSTANT, 0, 0));
    program.push(one(op::EXIT, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [DeviceRule; 2] = [
        DeviceRule {
            kind: DeviceKind::Character,
            major: None,
            minor: None,
            access: Access::MAKE,
        },
        DeviceRule {
            kind: DeviceKind::Character,
            major: Some(1),
            minor: Some(3),
            access: Access::ALL,
        },
    ];

    /// Runs the instructions that [`compile`] emits.
    fn allows(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 7];
        let mut at = 0usize;
        loop {
            let instruction = program[at];
            let to = usize::from(instruction.registers & 15);
            let from = usize::from(instruction.registers >> 4);
            let constant = instruction.immediate as u32;
            at += 1;
            match instruction.code {
                op::LOAD_WORD => registers[to] = context[instruction.offset as usize / 4],
                op::MOVE_REGISTER => registers[to] = registers[from],
                op::MOVE_CONSTANT => registers[to] = constant,
                op::AND_CONSTANT => registers[to] &= constant,
                op::SHIFT_RIGHT => registers[to] >>= constant,
                op::JUMP_NOT_EQUAL if registers[to] != constant => at += instruction.offset as usize,
                op::JUMP_NOT_EQUAL => {}
                op::EXIT => return registers[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    #[test]
    fn rules_read_as_the_kernel_writes_them() {
        assert_eq!(RULES[0].text(), "c *:* m");
        assert_eq!(RULES[1].text(), "c 1:3 rwm");
        assert_eq!(DeviceRule::EVERYTHING.text(), "a *:* rwm");
    }

    #[test]
    fn the_program_allows_what_the_rules_allow_and_nothing_else() {
        let program = compile(&RULES);
        let (block, character, make, read) = (1, 2, 1, 2);
        assert!(allows(&program, character, make, 9, 9));
        assert!(allows(&program, character, read, 1, 3));
        assert!(!allows(&program, character, read, 1, 5));
        assert!(!allows(&program, character, make | read, 9, 9));
        assert!(!allows(&program, block, make, 1, 3));
        assert!(!allows(&compile(&[]), block, read, 8, 0));
    }

    #[test]
    fn the_kernel_takes_the_program() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: loading a BPF program needs root");
            return;
        }
        load_device_program(&compile(&RULES)).expect("the verifier accepts the program");
    }
}
