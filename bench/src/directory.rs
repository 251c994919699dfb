//! What the directory costs: a look-up and a move with many ports in it, and a move of a port with
//! many peers.
//!
//! The first is measured over real processes on loopback, each backend in turn; the second is
//! counted on virtual time, where nothing else disturbs it (`meander_sim::star`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use meander::{Epoch, JobId, Location, NodeName, PortId};
use meander_core::directory::{Commit, Directory, Entry, Identity, Record, Reply, Request};
use meander_core::{Card, MoveId, TransportKind};
use meander_node::cluster::Cluster;
use meander_node::directory::Client;
use meander_node::directory::embedded::{Connection, Places, Role, Store};
use meander_node::directory::etcd::Etcd;
use meander_node::keyfile;
use meander_sim::star;

/// Look-ups of a measurement.
const LOOK_UPS: usize = 4000;
/// Moves of a measurement.
const MOVES: usize = 500;
/// Ports that are no peers of the mover.
const OTHERS: usize = 100;
/// How long a process may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(crate) struct Options {
    /// How many ports the directory holds, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 100_000])]
    ports: Vec<usize>,
    /// How many peers the mover has, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    peers: Vec<usize>,
    /// Leave etcd out. Otherwise three members are started, from PATH.
    #[arg(long)]
    no_etcd: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    peers(&options.peers);
    println!(
        "\n| directory | ports | look-up, median (99 %) | move's commit, median (99 %) | list of all | handed over in |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for ports in &options.ports {
        embedded(*ports)?;
    }
    if !options.no_etcd {
        for ports in &options.ports {
            etcd(*ports)?;
        }
    }
    Ok(())
}

fn peers(counts: &[usize]) {
    println!(
        "| peers | which are | mover: frames out, in | bytes out | a peer: frames out, in | dials | look-ups | \
         move's own requests | {} others: all of it |",
        OTHERS
    );
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for busy in [false, true] {
        for count in counts {
            let cost = star::move_with(*count, OTHERS, busy);
            let each = |sum: u64| sum as f64 / *count as f64;
            println!(
                "| {count} | {} | {}, {} | {} | {:.1}, {:.1} | {:.1} | {:.1} | {} | {} |",
                if busy { "each sends" } else { "silent" },
                cost.mover.sent,
                cost.mover.received,
                cost.mover.sent_bytes,
                each(cost.peers.sent),
                each(cost.peers.received),
                each(cost.peers.dials),
                each(cost.peers.look_ups),
                cost.requests,
                cost.others.sent + cost.others.received + cost.others.dials + cost.others.look_ups,
            );
        }
    }
}

/// Two nodes' directory processes, of which the first holds so many ports.
fn embedded(ports: usize) -> Result<()> {
    let files = tempfile::tempdir()?;
    let path = |name: &str| files.path().join(name);
    let host = own_host(1);
    let text = format!(
        "directory = \"a\"\n[nodes.a]\naddress = \"{host}:7117\"\n[nodes.b]\naddress = \"{host}:7127\"\n"
    );
    std::fs::write(path("cluster.toml"), text)?;
    let key = keyfile::make(&path("key"))?;
    let records = records(ports);
    Store::open(&path("a.redb"))?.replace(&Role::Holder { term: 0 }, &records)?;
    let servers = ["b", "a"].map(|node| Server::start(files.path(), node));
    let cluster = Cluster::read(&path("cluster.toml"))?;
    let open = || {
        let places = Places::open_in(&path("places"), &cluster, &key);
        Connection::from(places, cluster.clone(), key.clone())
    };
    let client = Client::over(Box::new(open()), Duration::from_secs(30));
    wait_for(&client)?;
    let measured = measure(&client, &records)?;
    let started = Instant::now();
    open().hand_over(&NodeName("b".into()))?;
    // It holds it once it answers.
    client.lookup(records[0].0)?;
    let handed_over = format!("{:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    row("embedded", ports, &measured, &handed_over);
    for server in servers {
        drop(server?);
    }
    Ok(())
}

fn etcd(ports: usize) -> Result<()> {
    let files = tempfile::tempdir()?;
    let members = Members::start(files.path())?;
    let key = keyfile::random();
    let open = || Etcd::new(&members.endpoints, &key);
    let client = Client::over(Box::new(open()), Duration::from_secs(30));
    wait_for(&client)?;
    let records = records(ports);
    open().fill(&records)?;
    row("etcd, 3 members", ports, &measure(&client, &records)?, "");
    Ok(())
}

struct Measured {
    look_ups: Histogram<u64>,
    moves: Histogram<u64>,
    list: Duration,
}

fn measure(client: &Client, records: &[(PortId, Record)]) -> Result<Measured> {
    let mut measured = Measured {
        look_ups: Histogram::new(3)?,
        moves: Histogram::new(3)?,
        list: Duration::ZERO,
    };
    // A stride that meets all of them, in no order.
    let port = |turn: usize| records[turn * 7919 % records.len()].0;
    for turn in 0..LOOK_UPS {
        let started = Instant::now();
        let entry = client.lookup(port(turn))?;
        measured
            .look_ups
            .record(started.elapsed().as_nanos() as u64)?;
        ensure!(entry.is_some(), "a port is missing");
    }
    for turn in 0..MOVES.min(records.len()) {
        let commit = Commit {
            move_id: MoveId(keyfile::random_id()),
            from: Epoch(0),
            node: NodeName("b".into()),
            host_pid: 1,
            shadow: None,
        };
        let port = port(turn);
        let started = Instant::now();
        let reply = client.request(&Request::Commit { port, commit })?;
        measured.moves.record(started.elapsed().as_nanos() as u64)?;
        ensure!(reply == Reply::Committed { epoch: Epoch(1) }, "{reply:?}");
    }
    let started = Instant::now();
    ensure!(
        client.list()?.len() == records.len(),
        "the list is not whole"
    );
    measured.list = started.elapsed();
    Ok(measured)
}

fn row(name: &str, ports: usize, measured: &Measured, handed_over: &str) {
    let us = |all: &Histogram<u64>, share: f64| all.value_at_quantile(share) as f64 / 1e3;
    let both = |all| format!("{:.0} µs ({:.0})", us(all, 0.5), us(all, 0.99));
    println!(
        "| {name} | {ports} | {} | {} | {:.0} ms | {handed_over} |",
        both(&measured.look_ups),
        both(&measured.moves),
        measured.list.as_secs_f64() * 1e3,
    );
}

/// Ports as agents list them: two cards each.
fn records(count: usize) -> Vec<(PortId, Record)> {
    let mut directory = Directory::default();
    let records = (0..count).map(|rank| {
        let port = PortId(keyfile::random_id());
        let card = |transport, bytes| Card {
            transport,
            bytes: vec![7; bytes],
        };
        let entry = Entry {
            identity: Identity {
                job: JobId("0a1b2c3d".into()),
                rank: rank as u32,
                size: count as u32,
                program: "program".into(),
            },
            epoch: Epoch(0),
            location: Location {
                node: NodeName("a".into()),
                cards: vec![card(TransportKind::Tcp, 24), card(TransportKind::Sim, 32)],
            },
            uid: 1000,
            pid: 4711,
            host_pid: 4711,
            shadow: None,
        };
        match directory.handle(Request::Register { port, entry }).1 {
            Some(change) => (change.port, *change.record),
            other => unreachable!("{other:?}"),
        }
    });
    records.collect()
}

/// A loopback address that nobody else has.
fn own_host(last: u8) -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{high}.{low}.{last}")
}

fn wait_for(client: &Client) -> Result<()> {
    let started = Instant::now();
    while client.lookup(PortId(0)).is_err() {
        if started.elapsed() > START_LIMIT {
            bail!("the directory does not answer");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// `meander directory serve` of one node; it ends with this value.
struct Server(Child);

impl Server {
    fn start(files: &Path, node: &str) -> Result<Server> {
        let program = std::env::current_exe()?.with_file_name("meander");
        let child = Command::new(&program)
            .args(["directory", "serve", "--node", node, "--cluster"])
            .arg(files.join("cluster.toml"))
            .arg("--key")
            .arg(files.join("key"))
            .arg("--store")
            .arg(files.join(format!("{node}.redb")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(files.join(format!("{node}.log")))?)
            .spawn()
            .with_context(|| format!("{} is built by `cargo xtask build`", program.display()))?;
        Ok(Server(child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three etcd members on loopback; they end with this value.
struct Members {
    endpoints: Vec<String>,
    children: Vec<Child>,
}

impl Members {
    fn start(files: &Path) -> Result<Members> {
        let host = own_host(2);
        let address = |member: usize, port: usize| format!("{host}:{}", port + 10 * member);
        let url = |member, port| format!("http://{}", address(member, port));
        let peers: Vec<String> = (0..3).map(|m| format!("m{m}={}", url(m, 2380))).collect();
        let mut members = Members {
            endpoints: (0..3).map(|member| address(member, 2379)).collect(),
            children: Vec::new(),
        };
        for member in 0..3 {
            let directory: PathBuf = files.join(format!("m{member}"));
            let child = Command::new("etcd")
                .arg(format!("--name=m{member}"))
                .arg("--data-dir")
                .arg(directory)
                .args(["--initial-cluster", &peers.join(",")])
                .args(["--listen-peer-urls", &url(member, 2380)])
                .args(["--initial-advertise-peer-urls", &url(member, 2380)])
                .args(["--listen-client-urls", &url(member, 2379)])
                .args(["--advertise-client-urls", &url(member, 2379)])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("cannot run etcd (Debian: etcd-server); --no-etcd leaves it out")?;
            members.children.push(child);
        }
        Ok(members)
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
