//! Device programs for control groups of version 2, where there is no devices controller.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::{Errno, Result, owned_fd};

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Attaching again replaces the program, and groups below may have their own.
const BPF_F_ALLOW_OVERRIDE: u32 = 1;

/// One instruction of eBPF: operation, registers (destination in the low 4 bits, source in the high), offset, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Class, size and operation.
    pub code: u8,
    /// Destination register | source register << 4.
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Constant operand.
    pub immediate: i32,
}

/// The part of `union bpf_attr` that loading uses.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that attaching uses.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads a program that decides over access to devices.
///
/// # Errors
/// `EINVAL` or `EACCES` when the verifier refuses it, `EPERM` without CAP_BPF.
pub fn load_device_program(program: &[Instruction]) -> Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    let size = std::mem::size_of::<LoadAttributes>();
    // SAFETY: the attributes have the kernel's layout; what they point at outlives the call and is only read.
    owned_fd(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size) })
}

/// Attaches a device program to the control group behind a descriptor of its folder; it replaces one
/// attached before, and stays until the group is removed.
///
/// # Errors
/// The kernel's.
pub fn attach_device_program(group: impl AsFd, program: impl AsFd) -> Result<()> {
    let attributes = AttachAttributes {
        target: group.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_OVERRIDE,
    };
    let size = std::mem::size_of::<AttachAttributes>();
    // SAFETY: the attributes have the kernel's layout and outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size) };
    Errno::result(outcome).map(drop)
}
