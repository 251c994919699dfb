//! Two processes converse over a Meander stream. Half-way, one of them takes its port off the
//! fabric, hands it on as a value and ends; another process attaches it and carries on. The first
//! one notices nothing, and nothing is lost.
//!
//! ```text
//! cargo run --package meander-streams --example converse
//! ```
//!
//! The asker never pauses: it keeps sending questions while the answerer is being replaced.

use std::error::Error;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use meander::{Config, Contact, Key, Port, Stream};

const QUESTIONS: u64 = 20_000;
/// The first answerer hands on after so many.
const HAND_ON_AFTER: u64 = 8_000;
/// The number that both programs know the service by.
const SERVICE: u32 = 1;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => ask(),
        Some("answer") => answer(),
        Some("carry-on") => carry_on(),
        Some(other) => Err(format!("there is no part called {other}").into()),
    }
}

/// The asker: a port, a stream, a thread that sends and one that checks what comes back.
fn ask() -> Result<()> {
    let key = Key(std::array::from_fn(|place| place as u8)); // a real one is random, and secret
    let port = Port::open(Config::from_env(key.clone())?)?;
    port.listen(SERVICE);
    let mut first = start("answer", &postcard::to_stdvec(&(key, port.contact()))?)?;
    let stream = port.accept(PATIENCE)?;
    println!("process {} asks {QUESTIONS} questions", std::process::id());

    let answerers = thread::scope(|scope| {
        scope.spawn(|| send_questions(&stream));
        let successor = scope.spawn(|| replace(&mut first).map_err(|error| error.to_string()));
        let answerers = check_answers(&stream)?;
        let mut second = successor.join().expect("the thread does not panic")?;
        assert!(second.wait()?.success(), "the second answerer failed");
        Ok::<_, Box<dyn Error>>(answerers)
    })?;
    for (process, answers) in &answerers {
        println!("process {process} answered {answers}");
    }
    assert_eq!(answerers.len(), 2, "two processes answered");
    println!("all {QUESTIONS} answers came, once each and in order");
    Ok(())
}

fn send_questions(stream: &Stream) {
    for number in 0..QUESTIONS {
        stream
            .send(&number.to_le_bytes())
            .expect("the stream is whole");
    }
    stream.finish().expect("the stream is whole");
}

/// Returns which process answered how many.
fn check_answers(stream: &Stream) -> Result<Vec<(u32, u64)>> {
    let mut answerers: Vec<(u32, u64)> = Vec::new();
    for number in 0..QUESTIONS {
        let answer = stream.recv(PATIENCE)?.ok_or("the answers ended early")?;
        let (square, process) = answer.split_at(8);
        assert_eq!(square, number.wrapping_mul(number).to_le_bytes());
        let process = u32::from_le_bytes(process.try_into()?);
        match answerers.last_mut() {
            Some((last, answers)) if *last == process => *answers += 1,
            _ => answerers.push((process, 1)),
        }
    }
    assert_eq!(stream.recv(PATIENCE)?, None);
    Ok(answerers)
}

/// Waits for the first answerer to hand on its port, and gives it to a second one.
fn replace(first: &mut Child) -> Result<Child> {
    let mut value = Vec::new();
    first
        .stdout
        .take()
        .ok_or("it has no output")?
        .read_to_end(&mut value)?;
    assert!(first.wait()?.success(), "the first answerer failed");
    println!(
        "the port is a value of {} bytes; another process attaches it",
        value.len()
    );
    start("carry-on", &value)
}

/// Starts a part of this program and gives it its input.
fn start(part: &str, input: &[u8]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(part)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn()?;
    child
        .stdin
        .take()
        .ok_or("it has no input")?
        .write_all(input)?;
    Ok(child)
}

/// The first answerer: connects, answers for a while, hands on.
fn answer() -> Result<()> {
    let (key, asker): (Key, Contact) = postcard::from_bytes(&input()?)?;
    let port = Port::open(Config::from_env(key)?)?;
    let stream = port.connect(&asker, SERVICE)?;
    for _ in 0..HAND_ON_AFTER {
        answer_one(&stream)?;
    }
    // Whatever was not acknowledged, and what was not read, goes along.
    io::stdout().write_all(&port.suspend()?)?;
    Ok(())
}

/// The second answerer: attaches the port and goes on where the first one stopped.
fn carry_on() -> Result<()> {
    let key = Key([0; 32]); // the value brings the right one
    let (port, streams) = Port::attach(Config::from_env(key)?, &input()?)?;
    let stream = streams.first().ok_or("the port had no stream")?;
    while answer_one(stream)? {}
    stream.finish()?;
    port.flush(PATIENCE)?;
    Ok(())
}

/// Whether there was a question.
fn answer_one(stream: &Stream) -> Result<bool> {
    let Some(question) = stream.recv(PATIENCE)? else {
        return Ok(false);
    };
    let number = u64::from_le_bytes(question[..].try_into()?);
    let mut answer = number.wrapping_mul(number).to_le_bytes().to_vec();
    answer.extend_from_slice(&std::process::id().to_le_bytes());
    stream.send(&answer)?;
    Ok(true)
}

fn input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}
