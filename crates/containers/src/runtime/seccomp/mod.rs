//! Seccomp filters: from a profile to the programs that the kernel takes. Pure; the shim loads them right before the container's
//! program is executed.
//!
//! The compiler makes programs with two answers, a profile may have more. So there is one program that answers for everything
//! that the profile names or leaves out ("allow" or its default), and one further for each other answer, which allows all else:
//! of several filters the kernel takes the strictest answer, which is then the profile's.
//!
//! System calls of another architecture's ABI (32-bit programs on a 64-bit node) end the process.

mod profile;
mod usual;

use std::collections::BTreeMap;
use std::path::Path;

use linux::seccomp::Instruction;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

use super::Seccomp;
use crate::Error;
use profile::{Action, Argument, Operator, Profile, Rule};

/// Filters in the order in which they are loaded: the one that may forbid loading comes last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filters(Vec<Vec<(u16, u8, u8, u32)>>);

impl Filters {
    /// Loads all of them into the calling thread.
    pub(crate) fn load(&self) -> linux::Result<()> {
        for program in &self.0 {
            let instruction = |&(code, jump_true, jump_false, operand): &(u16, u8, u8, u32)| Instruction {
                code,
                jump_true,
                jump_false,
                operand,
            };
            linux::seccomp::load(&program.iter().map(instruction).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// What the container asked for, compiled; nothing for `Unconfined`. `capabilities` are those that its program can have.
pub(super) fn filters(wanted: &Seccomp, capabilities: &[&str]) -> Result<Filters, Error> {
    match wanted {
        Seccomp::Unconfined => Ok(Filters::default()),
        Seccomp::RuntimeDefault => compile(&usual::profile(capabilities)),
        Seccomp::Localhost(path) => compile(&read(path)?),
    }
}

fn read(path: &Path) -> Result<Profile, Error> {
    let wrong = |why: String| Error::Create(format!("cannot load seccomp profile \"{}\": {why}", path.display()));
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(profile: &Profile) -> Result<Filters, Error> {
    let default = answer(profile.default_action, profile.default_errno_ret)?;
    let mut named = Rules::new();
    let mut others: Vec<(SeccompAction, Rules)> = Vec::new();
    for rule in &profile.syscalls {
        let action = answer(rule.action, rule.errno_ret)?;
        if action == default {
            continue;
        }
        add(&mut named, rule)?;
        if action != SeccompAction::Allow {
            match others.iter_mut().find(|(other, _)| *other == action) {
                Some((_, rules)) => add(rules, rule)?,
                None => {
                    let mut rules = Rules::new();
                    add(&mut rules, rule)?;
                    others.push((action, rules));
                }
            }
        }
    }
    let mut programs = Vec::new();
    for (action, rules) in others {
        programs.push(program(rules, SeccompAction::Allow, action)?);
    }
    if default != SeccompAction::Allow {
        programs.push(program(named, default, SeccompAction::Allow)?);
    }
    Ok(Filters(programs))
}

fn program(rules: Rules, otherwise: SeccompAction, matching: SeccompAction) -> Result<Vec<(u16, u8, u8, u32)>, Error> {
    let wrong = |e: seccompiler::BackendError| Error::Invalid(format!("seccomp profile: {e}"));
    let here = TargetArch::try_from(std::env::consts::ARCH).map_err(wrong)?;
    let filter = SeccompFilter::new(rules, otherwise, matching, here).map_err(wrong)?;
    let program = BpfProgram::try_from(filter).map_err(wrong)?;
    Ok(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect())
}

/// Adds a rule for each of its system calls that this architecture has. A rule without conditions makes the others of its system
/// call idle.
fn add(rules: &mut Rules, rule: &Rule) -> Result<(), Error> {
    let numbers = rule.names.iter().filter_map(|name| name.parse::<syscalls::Sysno>().ok()).map(|s| i64::from(s.id()));
    let conditions = rule.args.iter().flatten().map(condition).collect::<Result<Vec<_>, _>>()?;
    for number in numbers {
        let known = rules.get(&number).is_some_and(Vec::is_empty);
        let alternatives = rules.entry(number).or_default();
        if conditions.is_empty() {
            alternatives.clear();
        } else if !known {
            alternatives.push(SeccompRule::new(conditions.clone()).map_err(invalid)?);
        }
    }
    Ok(())
}

fn condition(argument: &Argument) -> Result<SeccompCondition, Error> {
    let (operator, value) = match argument.op {
        Operator::NotEqual => (SeccompCmpOp::Ne, argument.value),
        Operator::LessThan => (SeccompCmpOp::Lt, argument.value),
        Operator::LessOrEqual => (SeccompCmpOp::Le, argument.value),
        Operator::Equal => (SeccompCmpOp::Eq, argument.value),
        Operator::GreaterOrEqual => (SeccompCmpOp::Ge, argument.value),
        Operator::GreaterThan => (SeccompCmpOp::Gt, argument.value),
        // `value` is the mask here, and `valueTwo` what must be left.
        Operator::MaskedEqual => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
    };
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Qword, operator, value).map_err(invalid)
}

fn invalid(error: seccompiler::BackendError) -> Error {
    Error::Invalid(format!("seccomp profile: {error}"))
}

fn answer(action: Action, errno: Option<u32>) -> Result<SeccompAction, Error> {
    /// What `SCMP_ACT_ERRNO` means without a number.
    const EPERM: u32 = 1;
    Ok(match action {
        Action::Allow => SeccompAction::Allow,
        Action::Errno => SeccompAction::Errno(errno.unwrap_or(EPERM)),
        Action::Kill | Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trap => SeccompAction::Trap,
        Action::Trace => SeccompAction::Trace(errno.unwrap_or(EPERM)),
        Action::Notify => return Err(Error::Invalid("seccomp profile: SCMP_ACT_NOTIFY is not supported".to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the programs as the kernel does, on `(system call, its first argument)`, and gives the strictest answer.
    fn ask(filters: &Filters, name: &str, argument: u64) -> u32 {
        let number = name.parse::<syscalls::Sysno>().unwrap().id() as u32;
        let arch: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let load = |at: u32| match at {
            0 => number,
            4 => arch,
            16 => argument as u32,
            20 => (argument >> 32) as u32,
            _ => 0,
        };
        // The higher the value as a signed number, the milder the answer.
        filters.0.iter().map(|program| run(program, load)).min_by_key(|answer| *answer as i32).unwrap_or(0x7fff_0000)
    }

    fn run(program: &[(u16, u8, u8, u32)], load: impl Fn(u32) -> u32) -> u32 {
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let (code, yes, no, k) = program[at];
            at += 1;
            let mut jump = |holds: bool| at += usize::from(if holds { yes } else { no });
            match code {
                0x20 => a = load(k),
                0x54 => a &= k,
                0x05 => at += k as usize,
                0x15 => jump(a == k),
                0x25 => jump(a > k),
                0x35 => jump(a >= k),
                0x06 => return k,
                other => panic!("what is instruction {other:#x}?"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const fn errno(number: u32) -> u32 {
        0x0005_0000 | number
    }

    #[test]
    fn the_usual_profile_by_capabilities() {
        let plain = filters(&Seccomp::RuntimeDefault, &["CAP_CHOWN", "CAP_SYS_CHROOT"]).unwrap();
        for (call, argument, expected) in [
            ("read", 0, ALLOW),
            ("execve", 0, ALLOW),
            ("chroot", 0, ALLOW),
            ("mount", 0, errno(1)),
            ("unshare", 0, errno(1)),
            ("keyctl", 0, errno(1)),
            ("reboot", 0, errno(1)),
            ("io_uring_setup", 0, errno(1)),
            // Programs fall back to clone, whose flags can be looked at, only for ENOSYS.
            ("clone3", 0, errno(38)),
            ("clone", 0x0001_0000, ALLOW),
            ("clone", 0x1000_0000, errno(1)),
            ("personality", 0, ALLOW),
            ("personality", 8, ALLOW),
            ("personality", 4, errno(1)),
            // AF_VSOCK
            ("socket", 40, errno(1)),
            ("socket", 2, ALLOW),
        ] {
            assert_eq!(ask(&plain, call, argument), expected, "{call}({argument:#x})");
        }
        let admin = filters(&Seccomp::RuntimeDefault, &["CAP_SYS_ADMIN"]).unwrap();
        for (call, expected) in [("mount", ALLOW), ("clone3", ALLOW), ("clone", ALLOW), ("chroot", errno(1))] {
            assert_eq!(ask(&admin, call, 0x1000_0000), expected, "{call}");
        }
    }

    #[track_caller]
    fn check(profile: &str, asked: &[(&str, u64, u32)]) {
        let filters = compile(&serde_json::from_str(profile).unwrap()).unwrap();
        for (call, argument, expected) in asked {
            assert_eq!(ask(&filters, call, *argument), *expected, "{call}({argument:#x})");
        }
    }

    #[test]
    fn profiles_of_the_node() {
        check(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
                {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
            &[("mkdirat", 0, errno(1)), ("sync", 0, 0x8000_0000), ("read", 0, ALLOW)],
        );
        check(r#"{"defaultAction": "SCMP_ACT_LOG"}"#, &[("read", 0, 0x7ffc_0000), ("mount", 0, 0x7ffc_0000)]);
        check(
            r#"{"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 5, "syscalls": [
                {"names": ["read", "exit_group"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_GT"}]},
                {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_LE"}]},
                {"names": ["openat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
            &[("read", 0, ALLOW), ("write", 2, ALLOW), ("write", 3, 0), ("openat", 0, errno(13)), ("mount", 0, 0)],
        );
    }

    #[test]
    fn what_cannot_be_is_said() {
        let missing = filters(&Seccomp::Localhost("/no/such/profile.json".into()), &[]).unwrap_err().to_string();
        assert!(missing.contains("cannot load seccomp profile \"/no/such/profile.json\""), "{missing}");
        let notify =
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#;
        assert!(compile(&serde_json::from_str(notify).unwrap()).is_err());
    }
}
