//! Loading a seccomp filter into the calling thread: a program that the kernel asks about each system call from then on.
//!
//! What the filter says is made elsewhere, as values. Loading needs CAP_SYS_ADMIN or `no_new_privs`; a filter cannot be taken
//! back, is inherited by children and survives `execve`. See seccomp(2).

use std::io;

use crate::{Error, Result};

/// One instruction of classic BPF, as the kernel's `struct sock_filter` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub operand: u32,
}

/// Adds a filter to those of the calling thread. Of several filters the strictest answer counts.
pub fn load(program: &[Instruction]) -> Result<()> {
    const ACT: &str = "load the seccomp filter";
    let mut raw: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter { code: i.code, jt: i.jump_true, jf: i.jump_false, k: i.operand })
        .collect();
    let len = u16::try_from(raw.len()).map_err(|_| Error::call(ACT, io::Error::from(io::ErrorKind::InvalidInput)))?;
    let program = libc::sock_fprog { len, filter: raw.as_mut_ptr() };
    // SAFETY: the kernel copies `len` instructions from `filter`, which points to as many in `raw`, alive during the call; it
    // checks the program itself and writes to no memory of ours. Flags are 0.
    let loaded = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if loaded != 0 {
        return Err(Error::call(ACT, io::Error::last_os_error()));
    }
    Ok(())
}
