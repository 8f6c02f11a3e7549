//! The filter of system calls: it limits the sockets of an agent and of all its tools.
//!
//! Some address families know nothing of network namespaces. Over `AF_VSOCK`, for
//! one, two containers reach each other and the host, and not every engine refuses
//! it. So an agent may open sockets of four families and no others:
//!
//! - A family that is not allowed is "not supported", as on a kernel without it.
//!   Programs expect that and go on without.
//! - `io_uring` opens sockets too, and filters do not see it. It is "not
//!   implemented", as on a kernel without it. Programs that would use it have
//!   another way.
//! - x32 calls are "not implemented", as on most kernels.
//! - A call of another architecture, such as a 32-bit call with its `socketcall`,
//!   ends the process. A 32-bit program can do nothing without its calls, and its
//!   end (`SIGSYS`) says more than errors that it does not expect.
//!
//! An agent that may write to a folder which others may only read makes no pipes with a
//! name: whoever may read a folder can write to a pipe in it.
//!
//! The filter holds for this process and for everything that it starts, and
//! nobody can take it away.

use nix::libc;
use seccompiler::{BpfProgram, sock_filter};

use super::error::AgentError;

/// The families whose sockets stay within the network namespace, and that programs need: netlink
/// tells a resolver which addresses the machine has.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// The calls of `io_uring`.
const RINGS: [i64; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Whether pipes with a name may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedPipes {
    Allowed,
    /// "Not permitted", as a folder says that allows none.
    Refused,
}

/// The calls that make a pipe with a name, and where the kernel puts the mode that they are given.
#[cfg(target_arch = "x86_64")]
const NODES: [(i64, u32); 2] =
    [(libc::SYS_mknod, AT_SECOND_ARGUMENT), (libc::SYS_mknodat, AT_THIRD_ARGUMENT)];
#[cfg(target_arch = "aarch64")]
const NODES: [(i64, u32); 1] = [(libc::SYS_mknodat, AT_THIRD_ARGUMENT)];

/// The architecture of this program, as `linux/audit.h` has it.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the filter of system calls is written for x86_64 and aarch64");

/// The bit that tells an x32 call from one of x86_64: the architecture is the same.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Where the kernel puts what a filter looks at: `struct seccomp_data`. Of an argument this is the
/// lower half, which is all that the kernel reads of an `int`.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const AT_FIRST_ARGUMENT: u32 = 16;
#[cfg(target_arch = "x86_64")]
const AT_SECOND_ARGUMENT: u32 = 24;
const AT_THIRD_ARGUMENT: u32 = 32;

/// The instructions that are used, from `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
#[cfg(target_arch = "x86_64")]
const JUMP_IF_AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Puts the filter into force, for good.
pub(super) fn apply(pipes: NamedPipes) -> Result<(), AgentError> {
    seccompiler::apply_filter(&program(pipes))
        .map_err(|error| AgentError::Start(format!("the filter of system calls: {error}")))
}

fn program(pipes: NamedPipes) -> BpfProgram {
    let mut program = vec![load(AT_ARCHITECTURE)];
    program.extend(unless_equal(ARCHITECTURE, libc::SECCOMP_RET_KILL_PROCESS));
    program.push(load(AT_NUMBER));
    #[cfg(target_arch = "x86_64")]
    program.extend([jump(JUMP_IF_AT_LEAST, X32, 0, 1), end(error(libc::ENOSYS))]);
    for call in RINGS {
        program.extend(if_equal(number(call), error(libc::ENOSYS)));
    }
    if pipes == NamedPipes::Refused {
        for (call, mode) in NODES {
            // Past all of this, where it is another call; the number is needed again.
            program.extend([
                jump(JUMP_IF_EQUAL, number(call), 0, 5),
                load(mode),
                instruction(AND, libc::S_IFMT),
            ]);
            program.extend(if_equal(libc::S_IFIFO, error(libc::EPERM)));
            program.push(end(libc::SECCOMP_RET_ALLOW));
        }
    }
    program.extend([
        jump(JUMP_IF_EQUAL, number(libc::SYS_socket), 2, 0),
        jump(JUMP_IF_EQUAL, number(libc::SYS_socketpair), 1, 0),
        end(libc::SECCOMP_RET_ALLOW),
        load(AT_FIRST_ARGUMENT),
    ]);
    for family in FAMILIES {
        program.extend(if_equal(family.unsigned_abs(), libc::SECCOMP_RET_ALLOW));
    }
    program.push(end(error(libc::EAFNOSUPPORT)));
    program
}

/// Ends with `answer` if the value that was loaded is `value`.
fn if_equal(value: u32, answer: u32) -> [sock_filter; 2] {
    [jump(JUMP_IF_EQUAL, value, 0, 1), end(answer)]
}

/// Ends with `answer` unless the value that was loaded is `value`.
fn unless_equal(value: u32, answer: u32) -> [sock_filter; 2] {
    [jump(JUMP_IF_EQUAL, value, 1, 0), end(answer)]
}

fn load(offset: u32) -> sock_filter {
    instruction(LOAD, offset)
}

fn instruction(code: u16, operand: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k: operand }
}

/// Skips so many instructions if the comparison is true, or if it is false.
fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { code, jt: if_true, jf: if_false, k: value }
}

fn end(answer: u32) -> sock_filter {
    instruction(RETURN, answer)
}

/// The answer that makes a call fail.
fn error(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

fn number(call: i64) -> u32 {
    u32::try_from(call).expect("the kernel's own numbers are small")
}
