//! Loading a filter of system calls.

use crate::{Errno, Result};

/// One instruction of classic BPF.
pub type Instruction = libc::sock_filter;

/// Packs an instruction into the 64 bits that it is made of, to carry it in a message.
#[must_use]
pub const fn pack(instruction: Instruction) -> u64 {
    (instruction.code as u64) << 48
        | (instruction.jt as u64) << 40
        | (instruction.jf as u64) << 32
        | instruction.k as u64
}

/// The reverse of [`pack`].
#[must_use]
pub const fn unpack(packed: u64) -> Instruction {
    Instruction {
        code: (packed >> 48) as u16,
        jt: (packed >> 40) as u8,
        jf: (packed >> 32) as u8,
        k: packed as u32,
    }
}

/// Filters this thread's system calls from now on, and those of everything it starts (`seccomp(2)`). `flags` are
/// `SECCOMP_FILTER_FLAG_*`; those that make the call return a descriptor are refused.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN and without no_new_privs, `EINVAL` for a program the kernel refuses.
pub fn load(program: &[Instruction], flags: u32) -> Result<()> {
    if libc::c_ulong::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        return Err(Errno::EINVAL);
    }
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let header = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the header points at `length` instructions that outlive the call; the kernel copies and only reads them.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const header,
        )
    };
    Errno::result(outcome).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_survive_packing() {
        let packed = pack(Instruction {
            code: 0x15,
            jt: 7,
            jf: 255,
            k: u32::MAX - 3,
        });
        let back = unpack(packed);
        assert_eq!((back.code, back.jt, back.jf, back.k), (0x15, 7, 255, u32::MAX - 3));
    }
}
