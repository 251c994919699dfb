//! A pair of programs, one of which serves and the other measures.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Serving,
    Measuring,
}

/// Runs a pair once, each limited to so many seconds; gives what the measuring one printed. `start` makes
/// a command for an end out of its words.
pub fn run(
    (server, client): &(Vec<String>, Vec<String>),
    limit_s: u32,
    start: impl Fn(End, &[&str]) -> Result<Command>,
) -> Result<String> {
    let limit = ["timeout".to_owned(), limit_s.to_string()];
    let start = |end, words: &[String]| {
        let words: Vec<&str> = limit.iter().chain(words).map(String::as_str).collect();
        start(end, &words)
    };
    let server = Server::start(start(End::Serving, server)?)?;
    // It may not listen yet: then the other fails at once.
    let words: Vec<String> = client.iter().map(|word| format!("'{word}'")).collect();
    let words = words.join(" ");
    let script = format!(
        "for attempt in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; said=$({words} 2>&1) && break; done; status=$?; echo \"$said\"; exit $status"
    );
    let client = ["bash".to_owned(), "-c".to_owned(), script];
    let output = start(End::Measuring, &client)?
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{}: {said}\nthe server said: {}",
            output.status,
            server.end()
        );
    }
    Ok(said)
}

/// The serving program. It ends when the measuring one has, or by its limit.
struct Server(Child);

impl Server {
    fn start(mut command: Command) -> Result<Server> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::null()).spawn();
        Ok(Server(child.context("cannot start the serving program")?))
    }

    fn end(mut self) -> String {
        let _ = self.0.kill();
        let mut said = String::new();
        if let Some(stdout) = &mut self.0.stdout {
            let _ = stdout.read_to_string(&mut said);
        }
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}
