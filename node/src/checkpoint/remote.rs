//! A traced thread that is made to do system calls (ptrace(2), x86-64).

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Pause between two looks at a thread that is not there yet.
const LOOK: Duration = Duration::from_micros(50);

/// A system call at a syscall instruction of the thread's memory.
pub(super) struct Call {
    pub at: u64,
    pub number: i64,
    pub arguments: [u64; 4],
}

/// A thread that this one traces. Should this one end, the kernel kills it.
pub(super) struct Tracee {
    id: Pid,
    /// Signals that arrived and were put aside.
    signals: Vec<i32>,
}

/// Where a thread stands.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// On its way into a system call, or out of it.
    Syscall,
    /// It has executed a program.
    Executed,
    /// Told to, or by job control, or a signal came.
    Other,
}

impl Tracee {
    /// Seizes a thread and tells it to stop as soon as it runs.
    pub fn seize(id: Pid) -> Result<Tracee, String> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(id, options).map_err(|errno| format!("seize thread {id}: {errno}"))?;
        ptrace::interrupt(id).map_err(|errno| format!("interrupt thread {id}: {errno}"))?;
        Ok(Tracee {
            id,
            signals: Vec::new(),
        })
    }

    pub fn id(&self) -> Pid {
        self.id
    }

    pub fn take_signals(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.signals)
    }

    pub fn wait_until_stopped(&mut self, deadline: Instant) -> Result<(), String> {
        self.wait(deadline).map(drop)
    }

    /// Does a system call and gives what it returns.
    pub fn call(&mut self, call: Call, deadline: Instant) -> Result<i64, String> {
        self.begin(call, deadline)?;
        while self.wait(deadline)? != Stop::Syscall {
            self.go_on()?;
        }
        Ok(self.registers()?.rax as i64)
    }

    /// Goes into a system call; [`Tracee::call`] and [`Tracee::executed`] say how it ends.
    pub fn begin(&mut self, call: Call, deadline: Instant) -> Result<(), String> {
        let mut registers = self.registers()?;
        registers.rip = call.at;
        registers.rax = call.number as u64;
        // Not a system call that is to be restarted.
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = call.arguments;
        ptrace::setregs(self.id, registers)
            .map_err(|errno| format!("set the registers of {}: {errno}", self.id))?;
        self.go_on()?;
        while self.wait(deadline)? != Stop::Syscall {
            self.go_on()?;
        }
        self.go_on()
    }

    /// Whether the execve that was begun has ended, and how: with an errno where it failed.
    pub fn executed(&mut self) -> Result<Option<Result<(), i32>>, String> {
        match self.look()? {
            None => Ok(None),
            Some(Stop::Executed) => Ok(Some(Ok(()))),
            Some(Stop::Syscall) => Ok(Some(Err(-(self.registers()?.rax as i64) as i32))),
            Some(Stop::Other) => self.go_on().map(|()| None),
        }
    }

    /// Whether the thread has ended; takes note of it, as the kernel wants.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.look(), Ok(None | Some(_)))
    }

    /// Ends the tracing; the thread runs on.
    pub fn let_go(&mut self) -> Result<(), String> {
        ptrace::detach(self.id, None).map_err(|errno| format!("let {} go: {errno}", self.id))
    }

    fn registers(&self) -> Result<libc::user_regs_struct, String> {
        ptrace::getregs(self.id)
            .map_err(|errno| format!("get the registers of {}: {errno}", self.id))
    }

    /// To the next system call's beginning or end. A signal that came is put aside.
    fn go_on(&self) -> Result<(), String> {
        ptrace::syscall(self.id, None).map_err(|errno| format!("go on with {}: {errno}", self.id))
    }

    fn wait(&mut self, deadline: Instant) -> Result<Stop, String> {
        loop {
            if let Some(stop) = self.look()? {
                return Ok(stop);
            }
            if Instant::now() > deadline {
                return Err(format!("thread {} does not stop", self.id));
            }
            sleep(LOOK);
        }
    }

    /// Where it stopped; `None` while it runs.
    fn look(&mut self) -> Result<Option<Stop>, String> {
        match waitpid(self.id, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Ok(None),
            Ok(WaitStatus::PtraceSyscall(_)) => Ok(Some(Stop::Syscall)),
            Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC)) => Ok(Some(Stop::Executed)),
            Ok(WaitStatus::PtraceEvent(..)) => Ok(Some(Stop::Other)),
            Ok(WaitStatus::Stopped(_, signal)) => {
                self.signals.push(signal as i32);
                Ok(Some(Stop::Other))
            }
            // A real-time signal: not in the enumeration.
            Err(Errno::EINVAL) => {
                let number = ptrace::getsiginfo(self.id).map(|info| info.si_signo);
                self.signals.extend(number.ok());
                Ok(Some(Stop::Other))
            }
            Ok(ended) => Err(format!("thread {} has ended: {ended:?}", self.id)),
            Err(errno) => Err(format!("wait for thread {}: {errno}", self.id)),
        }
    }
}
