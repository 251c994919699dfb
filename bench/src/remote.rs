//! Two machines: one listens, as perftest's tools do, the other measures.
//!
//! Orders go over a TCP connection in the clear. What proves that both are of one mind is the key,
//! which both read from a file: no order is taken before the port has proved it to the other's.

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use meander_node::keyfile;

use crate::measure::{Session, Setting};
use crate::peer;

/// How the measuring process is told where the other is.
#[derive(Args, Default)]
pub struct Elsewhere {
    /// Measure with `meander-bench serve` at this address, not with a process of one's own.
    #[arg(long, requires = "key")]
    pub connect: Option<SocketAddr>,
    /// The file of the key that both have; `meander key --key FILE` makes one.
    #[arg(long)]
    key: Option<PathBuf>,
}

/// Where to serve.
#[derive(Args)]
pub struct ServeOptions {
    /// The address to listen at.
    #[arg(long)]
    listen: SocketAddr,
    /// The file of the key that both have.
    #[arg(long)]
    key: PathBuf,
}

/// How long the other may take to listen.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long a round may go on once nobody measures any more.
const ORPHAN_LIMIT: Duration = Duration::from_secs(5);

/// Is the other process of one measurement.
pub fn serve(options: &ServeOptions) -> Result<()> {
    let key = keyfile::read(&options.key)?;
    let listener = TcpListener::bind(options.listen)
        .with_context(|| format!("listening at {}", options.listen))?;
    let (orders, _) = listener.accept()?;
    drop(listener);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || pass_on(orders, sender));
    peer::accept_invitation(&mut lines.into_iter(), Some(key))
}

/// Passes orders on as they come. When there are no more, nobody measures any more, and a round that
/// still runs would never end.
fn pass_on(orders: TcpStream, to: mpsc::Sender<io::Result<String>>) {
    for line in BufReader::new(orders).lines() {
        let failed = line.is_err();
        if to.send(line).is_err() || failed {
            break;
        }
    }
    drop(to);
    thread::sleep(ORPHAN_LIMIT);
    eprintln!("meander-bench: the measuring process is gone");
    std::process::exit(1);
}

impl Elsewhere {
    /// A session with a process there, or with one of our own.
    pub fn session(&self, setting: &Setting) -> Result<Session> {
        match (self.connect, &self.key) {
            (Some(address), Some(key)) => meet(address, key, setting),
            _ => Session::start(setting),
        }
    }
}

fn meet(address: SocketAddr, key: &Path, setting: &Setting) -> Result<Session> {
    let key = keyfile::read(key)?;
    let orders = connect(address).with_context(|| format!("connecting to {address}"))?;
    orders.set_nodelay(true)?;
    let here = orders.local_addr()?.ip();
    Session::invite(Box::new(orders), here, key, setting, false)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused
                    && start.elapsed() < CONNECT_LIMIT =>
            {
                thread::sleep(Duration::from_millis(100));
            }
            connected => return connected,
        }
    }
}
