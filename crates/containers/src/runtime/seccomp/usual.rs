//! `RuntimeDefault`: what container runtimes let a program ask of the kernel, depending on its capabilities.
//!
//! A list of what is allowed; all else is answered with EPERM. It follows containerd's and Docker's lists, so that a program that
//! works there works here. What reaches deep into the kernel for little use (keyrings, io_uring, user faults, new mounts, …) is
//! not on it; what needs a capability anyway is there for those who have the capability.

use super::profile::{Action, Argument, Operator, Profile, Rule};

/// `CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET`
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const ENOSYS: u32 = 38;
const AF_VSOCK: u64 = 40;

/// For everybody. Names that an architecture does not have are passed over.
#[rustfmt::skip]
const FOR_ALL: &[&str] = &[
    // Files and folders
    "access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3",
    "faccessat", "faccessat2", "fadvise64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2",
    "fchown", "fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat",
    "fstatat", "fstatfs", "fsync", "ftruncate", "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "getxattrat",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "ioctl", "lchown", "lgetxattr", "link",
    "linkat", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "mkdir", "mkdirat",
    "mknod", "mknodat", "newfstatat", "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "removexattr", "removexattrat", "rename",
    "renameat", "renameat2", "rmdir", "sendfile", "setxattr", "setxattrat", "splice", "stat", "statfs", "statx", "symlink",
    "symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate", "umask", "unlink", "unlinkat", "utime",
    "utimensat", "utimes", "vmsplice", "write", "writev",
    // Waiting
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup",
    "io_submit", "pipe", "pipe2", "poll", "ppoll", "pselect6", "select", "signalfd", "signalfd4",
    // Memory
    "brk", "cachestat", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock",
    "mlock2", "mlockall", "mmap", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "remap_file_pages",
    // Processes, threads and their identity
    "alarm", "arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "futex",
    "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "get_thread_area", "getcpu", "getegid",
    "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresuid",
    "getrlimit", "getrusage", "getsid", "gettid", "getuid", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule",
    "landlock_create_ruleset", "landlock_restrict_self", "modify_ldt", "pidfd_open", "pidfd_send_signal", "prctl",
    "prlimit64", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace", "restart_syscall",
    "riscv_flush_icache", "riscv_hwprobe", "rseq", "sched_get_priority_max", "sched_get_priority_min",
    "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp",
    "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups", "setpgid",
    "setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setuid", "sysinfo", "tgkill",
    "times", "tkill", "uname", "uretprobe", "vfork", "wait4", "waitid",
    // Signals
    "pause", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack",
    // Time
    "adjtimex", "clock_adjtime", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "getrandom",
    "gettimeofday", "nanosleep", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    // Between processes
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv",
    "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget",
    // Sockets; `socket` itself is below
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
    "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
];

/// For those who have the capability.
#[rustfmt::skip]
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    ("CAP_SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "listmount", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount",
        "name_to_handle_at", "open_tree", "open_tree_attr", "perf_event_open", "quotactl", "quotactl_fd", "setdomainname",
        "sethostname", "setns", "statmount", "syslog", "umount", "umount2", "unshare",
    ]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "settimeofday"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question which it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile of a program with these capabilities in its bounding set.
pub(super) fn profile(capabilities: &[&str]) -> Profile {
    let has = |capability: &str| capabilities.contains(&capability);
    let mut syscalls = vec![allow(FOR_ALL, &[])];
    for (_, names) in BY_CAPABILITY.iter().filter(|(capability, _)| has(capability)) {
        syscalls.push(allow(names, &[]));
    }
    for personality in PERSONALITIES {
        syscalls.push(allow(&["personality"], &[first(Operator::Equal, personality, 0)]));
    }
    // A socket into the virtual machine's host is not the pod's network.
    syscalls.push(allow(&["socket"], &[first(Operator::NotEqual, AF_VSOCK, 0)]));
    if !has("CAP_SYS_ADMIN") {
        syscalls.push(allow(&["clone"], &[first(Operator::MaskedEqual, NEW_NAMESPACES, 0)]));
        // Its flags are in memory, where a filter cannot look: programs are told to use `clone`.
        syscalls.push(Rule { action: Action::Errno, errno_ret: Some(ENOSYS), ..allow(&["clone3"], &[]) });
    }
    Profile { default_action: Action::Errno, default_errno_ret: None, syscalls }
}

fn allow(names: &[&str], args: &[Argument]) -> Rule {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Rule { names, action: Action::Allow, errno_ret: None, args: Some(args.to_vec()) }
}

fn first(op: Operator, value: u64, value_two: u64) -> Argument {
    Argument { index: 0, value, value_two, op }
}
