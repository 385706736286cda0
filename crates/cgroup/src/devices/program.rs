//! The BPF program that decides over devices in version 2.

use gantry_sys::bpf::Instruction;

use super::{Access, DeviceKind, DevicePolicy, DeviceRule};

/// eBPF operation codes of `linux/bpf.h` that the program uses.
mod op {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE_REGISTER: u8 = 0xbc;
    pub(super) const MOVE_CONSTANT: u8 = 0xb4;
    pub(super) const AND_CONSTANT: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const JUMP_EQUAL: u8 = 0x16;
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x56;
    pub(super) const EXIT: u8 = 0x95;
}

fn of_registers(code: u8, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate: 0,
    }
}

fn of_constant(code: u8, to: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to,
        offset: 0,
        immediate,
    }
}

/// The context is `struct bpf_cgroup_dev_ctx`: access type (access << 16 | kind), major, minor, a word each.
/// Each exception is a run of comparisons that skip to the next one; falling through decides against the default.
pub(super) fn compile(policy: &DevicePolicy) -> Vec<Instruction> {
    let verdict = |allow: bool| {
        [
            of_constant(op::MOVE_CONSTANT, 0, i32::from(allow)),
            of_constant(op::EXIT, 0, 0),
        ]
    };
    // r2 = kind, r3 = access, r4 = major, r5 = minor; r1 is the context.
    let mut program = vec![
        of_registers(op::LOAD_WORD, 2, 1, 0),
        of_constant(op::AND_CONSTANT, 2, 0xffff),
        of_registers(op::LOAD_WORD, 3, 1, 0),
        of_constant(op::SHIFT_RIGHT, 3, 16),
        of_registers(op::LOAD_WORD, 4, 1, 4),
        of_registers(op::LOAD_WORD, 5, 1, 8),
    ];
    for rule in policy.exceptions() {
        let mut tests = compare(rule, policy.allows_by_default());
        let length = tests.len();
        for (index, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, op::JUMP_NOT_EQUAL | op::JUMP_EQUAL) {
                // Past the remaining tests and the two instructions of the verdict; a rule has at most six tests.
                test.offset = (length - index - 1 + 2) as i16;
            }
        }
        program.append(&mut tests);
        program.extend(verdict(!policy.allows_by_default()));
    }
    program.extend(verdict(policy.allows_by_default()));
    program
}

/// Jumps when the rule is not about what is asked for. A rule that allows must allow all of it; one that forbids need only
/// forbid a part.
fn compare(rule: DeviceRule, forbids: bool) -> Vec<Instruction> {
    let mut tests = Vec::new();
    match rule.kind {
        DeviceKind::Any => {}
        DeviceKind::Block => tests.push(of_constant(op::JUMP_NOT_EQUAL, 2, 1)),
        DeviceKind::Character => tests.push(of_constant(op::JUMP_NOT_EQUAL, 2, 2)),
    }
    if rule.access != Access::ALL {
        let (mask, jump) = if forbids {
            (rule.access.bits(), op::JUMP_EQUAL)
        } else {
            (!rule.access.bits(), op::JUMP_NOT_EQUAL)
        };
        tests.push(of_registers(op::MOVE_REGISTER, 6, 3, 0));
        tests.push(of_constant(op::AND_CONSTANT, 6, mask as i32));
        tests.push(of_constant(jump, 6, 0));
    }
    tests.extend(rule.major.map(|major| of_constant(op::JUMP_NOT_EQUAL, 4, major as i32)));
    tests.extend(rule.minor.map(|minor| of_constant(op::JUMP_NOT_EQUAL, 5, minor as i32)));
    tests
}

#[cfg(test)]
mod tests {
    use gantry_sys::bpf::load_device_program;

    use super::*;

    const BLOCK: u32 = 1;
    const CHARACTER: u32 = 2;
    const MAKE: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    fn policy(start: DevicePolicy, rules: &[(&str, bool)]) -> DevicePolicy {
        rules.iter().fold(start, |policy, (text, allowed)| {
            policy
                .then(DeviceRule::parse(text).expect("rule"), *allowed)
                .expect("no hole")
        })
    }

    fn closed() -> DevicePolicy {
        policy(DevicePolicy::nothing(), &[("c *:* m", true), ("c 1:3 rwm", true)])
    }

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
                op::JUMP_EQUAL if registers[to] == constant => at += instruction.offset as usize,
                op::JUMP_NOT_EQUAL | op::JUMP_EQUAL => {}
                op::EXIT => return registers[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_allow_and_nothing_else() {
        let program = compile(&closed());
        assert!(allows(&program, CHARACTER, MAKE, 9, 9));
        assert!(allows(&program, CHARACTER, READ, 1, 3));
        assert!(!allows(&program, CHARACTER, READ, 1, 5));
        assert!(!allows(&program, CHARACTER, MAKE | READ, 9, 9));
        assert!(!allows(&program, BLOCK, MAKE, 1, 3));
        assert!(!allows(&compile(&DevicePolicy::nothing()), BLOCK, READ, 8, 0));
    }

    #[test]
    fn what_is_forbidden_of_everything_is_forbidden_also_in_part() {
        let program = compile(&policy(
            DevicePolicy::everything(),
            &[("b 8:* w", false), ("c 10:229 rwm", false)],
        ));
        assert!(allows(&program, BLOCK, READ | MAKE, 8, 1));
        assert!(!allows(&program, BLOCK, READ | WRITE, 8, 1));
        assert!(!allows(&program, CHARACTER, READ, 10, 229));
        assert!(allows(&program, CHARACTER, READ, 10, 228));
        assert!(allows(&compile(&DevicePolicy::everything()), BLOCK, WRITE, 8, 0));
    }

    #[test]
    fn the_kernel_takes_the_program() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: loading a BPF program needs root");
            return;
        }
        for policy in [closed(), DevicePolicy::everything(), DevicePolicy::nothing()] {
            load_device_program(&compile(&policy)).expect("the verifier accepts the program");
        }
    }
}
