//! Making the held original become the shadow.
//!
//! While it is frozen, every thread is seized and told to stop; thawed, each stops before it
//! returns to the program. Then the first thread is made to do system calls, at a syscall
//! instruction of its vDSO or C library, on memory of its stack that nobody will use again; the
//! last of them is execve.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::limits::SEIZE_TIMEOUT;
use super::remote::{Call, Tracee};
use super::{Error, Hold, proc};
use crate::{hidden, shadow};

/// Highest signal number.
const SIGNALS: u64 = 64;

/// Makes a held process execute the shadow, at its pid, with no instruction of its own in between,
/// and ends the hold. The process keeps its descriptors 0, 1 and 2, parent, session and owner.
///
/// On an error the process is killed: after the commit it must never run again. So it is when the
/// caller dies in the middle.
pub fn become_shadow(hold: Hold, config: &shadow::Config) -> Result<(), Error> {
    let pid = hold.pid();
    let failed = |why: String| Error::Shadow {
        pid: pid.as_raw(),
        why,
    };
    let done = transform(&hold, config).map_err(failed);
    match done {
        Ok(()) => hold.dissolve(),
        Err(error) => {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = hold.kill();
            Err(error)
        }
    }
}

fn transform(hold: &Hold, config: &shadow::Config) -> Result<(), String> {
    let pid = hold.pid();
    let text = |error: Error| error.to_string();
    let image = Image::of(pid, config).map_err(text)?;
    let mut leader = Tracee::seize(pid)?;
    let mut others = Vec::new();
    for thread in proc::threads(pid).map_err(text)? {
        if thread != pid {
            others.push(Tracee::seize(thread)?);
        }
    }
    hold.thaw().map_err(text)?;
    let deadline = Instant::now() + SEIZE_TIMEOUT;
    for thread in [&mut leader].into_iter().chain(&mut others) {
        thread.wait_until_stopped(deadline)?;
    }
    prepare(&mut leader, &image, deadline)?;
    execute(&mut leader, &mut others, &image, deadline)
}

/// What is written into the original: arguments of its last system calls.
struct Image {
    syscall_at: u64,
    scratch: u64,
    /// Zeroes: a disposition of `SIG_DFL`, a timer that is off.
    zeroes: u64,
    /// A signal mask with everything in it.
    everything: u64,
    program: u64,
    arguments: u64,
    environment: u64,
    bytes: Vec<u8>,
}

impl Image {
    fn of(pid: Pid, config: &shadow::Config) -> Result<Image, Error> {
        let maps = proc::mappings(pid)?;
        let syscall_at = find_syscall(pid, &maps)?;
        let stack = maps
            .iter()
            .filter(|map| map.permissions.starts_with("rw-p"));
        let stack = stack.max_by_key(|map| (map.name == "[stack]", map.end - map.start));
        let stack = stack.ok_or_else(|| Error::Shadow {
            pid: pid.as_raw(),
            why: "it has no memory to write to".to_owned(),
        })?;
        // The lower end: where a stack is not in use, and of no use to a doomed process otherwise.
        let mut image = Image {
            syscall_at,
            scratch: stack.start,
            zeroes: 0,
            everything: 0,
            program: 0,
            arguments: 0,
            environment: 0,
            bytes: Vec::new(),
        };
        image.zeroes = image.put(&[0; 64]);
        image.everything = image.put(&[0xff; 8]);
        let program = hidden::program()?;
        image.program = image.put_text(program.as_os_str().as_bytes());
        image.arguments = {
            let name = image.put_text(b"meander");
            let command = image.put_text(hidden::SHADOW.as_bytes());
            image.put_pointers(&[name, command])
        };
        let variables: Vec<u64> = shadow::environment(config)
            .iter()
            .map(|variable| image.put_text(variable.as_bytes()))
            .collect();
        image.environment = image.put_pointers(&variables);
        let room = stack.end - stack.start;
        if image.bytes.len() as u64 > room {
            let why = format!("its stack has only {room} bytes");
            return Err(Error::Shadow {
                pid: pid.as_raw(),
                why,
            });
        }
        Ok(image)
    }

    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.scratch + self.bytes.len() as u64;
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        at
    }

    fn put_text(&mut self, text: &[u8]) -> u64 {
        self.put(&[text, b"\0"].concat())
    }

    fn put_pointers(&mut self, pointers: &[u64]) -> u64 {
        let all = pointers.iter().chain([&0]);
        let bytes: Vec<u8> = all.flat_map(|pointer| pointer.to_le_bytes()).collect();
        self.put(&bytes)
    }
}

/// A syscall instruction in executable memory; the vDSO has one, and so does every C library.
fn find_syscall(pid: Pid, maps: &[proc::Mapping]) -> Result<u64, Error> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let memory = open_memory(pid)?;
    let mut code: Vec<&proc::Mapping> = maps.iter().filter(|map| map.is_executable()).collect();
    code.sort_by_key(|map| (map.name != "[vdso]", !map.name.contains("libc")));
    for map in code {
        let mut bytes = vec![0; (map.end - map.start) as usize];
        if memory.read_exact_at(&mut bytes, map.start).is_err() {
            continue; // [vsyscall] can't be read
        }
        if let Some(at) = bytes.windows(2).position(|pair| pair == SYSCALL) {
            return Ok(map.start + at as u64);
        }
    }
    let why = "its memory has no syscall instruction".to_owned();
    Err(Error::Shadow {
        pid: pid.as_raw(),
        why,
    })
}

fn open_memory(pid: Pid) -> Result<File, Error> {
    let path = format!("/proc/{pid}/mem");
    let memory = File::options().read(true).write(true).open(&path);
    memory.map_err(Error::os(format!("open {path}")))
}

/// Leaves the shadow a clean place: signals blocked and their handlers reset, so that those that
/// arrive from here on wait for it; no descriptors above 2; no timers.
fn prepare(leader: &mut Tracee, image: &Image, deadline: Instant) -> Result<(), String> {
    let memory = open_memory(leader.id()).map_err(|error| error.to_string())?;
    memory
        .write_all_at(&image.bytes, image.scratch)
        .map_err(|error| format!("write to its memory: {error}"))?;
    let mut call = |number: i64, arguments: [u64; 4]| {
        leader.call(
            Call {
                at: image.syscall_at,
                number,
                arguments,
            },
            deadline,
        )
    };
    let mask = [libc::SIG_SETMASK as u64, image.everything, 0, 8];
    call(libc::SYS_rt_sigprocmask, mask)?;
    for signal in 1..=SIGNALS {
        // It fails for SIGKILL and SIGSTOP.
        call(libc::SYS_rt_sigaction, [signal, image.zeroes, 0, 8])?;
    }
    for timer in 0..=2 {
        call(libc::SYS_setitimer, [timer, image.zeroes, 0, 0])?;
    }
    match call(libc::SYS_close_range, [3, u64::from(u32::MAX), 0, 0])? {
        0 => {}
        errno => return Err(format!("close_range gives {errno}")),
    }
    for signal in leader.take_signals() {
        let pid = leader.id().as_raw() as u64;
        let call = Call {
            at: image.syscall_at,
            number: libc::SYS_kill,
            arguments: [pid, signal as u64, 0, 0],
        };
        leader.call(call, deadline)?;
    }
    Ok(())
}

/// Executes the shadow. The kernel ends the other threads, and waits until their tracer knows.
fn execute(
    leader: &mut Tracee,
    others: &mut Vec<Tracee>,
    image: &Image,
    deadline: Instant,
) -> Result<(), String> {
    let arguments = [image.program, image.arguments, image.environment, 0];
    leader.begin(
        Call {
            at: image.syscall_at,
            number: libc::SYS_execve,
            arguments,
        },
        deadline,
    )?;
    loop {
        others.retain_mut(|thread| !thread.has_ended());
        match leader.executed()? {
            None if Instant::now() > deadline => return Err("execve takes too long".to_owned()),
            None => sleep(Duration::from_micros(100)),
            Some(Ok(())) => return leader.let_go(),
            Some(Err(errno)) => {
                let error = std::io::Error::from_raw_os_error(errno);
                return Err(format!("execute the shadow: {error}"));
            }
        }
    }
}
