//! The directory in its own process, run by an agent.

use std::time::Duration;

use meander_node::cluster::Cluster as ClusterFile;
use meander_node::directory::Client;
use meander_node::directory::embedded::{Connection, Places};
use meander_node::keyfile;
use meander_node::process::{Process, arguments};

use crate::conformance;
use crate::oracle::Oracle;
use crate::support::{Cluster, wait_until};

const LEASE: Duration = Duration::from_secs(2);
/// Times that the directory or its agent, or both, are killed.
const KILLS: u32 = 40;

/// A client of the cluster's directory, on no node of it.
pub fn client(cluster: &Cluster) -> Client {
    Client::over(Box::new(connection(cluster)), LEASE)
}

pub fn connection(cluster: &Cluster) -> Connection {
    let file = ClusterFile::read(&cluster.path("cluster.toml")).unwrap();
    let key = keyfile::read(&cluster.path("key")).unwrap();
    let places = Places::open_in(&cluster.path("state-outside"), &file, &key);
    Connection::from(places, file, key)
}

/// The directory's process of a node, if it runs.
pub fn process(cluster: &Cluster, node: &str) -> Option<Process> {
    let file = cluster.path("cluster.toml").display().to_string();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    pids.into_iter()
        .find(|pid| {
            let words = arguments(*pid);
            let has = |word: &str| words.iter().any(|it| it == word);
            has("directory") && has("serve") && has(&file) && has(node)
        })
        .and_then(Process::find)
}

#[test]
fn the_embedded_one_does_what_a_directory_must() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    conformance::all(&|| client(&cluster));
}

/// What was answered is there whenever the directory's process is killed, and its agent. `[R23]`
#[test]
fn killed_at_any_moment_it_keeps_what_it_answered() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start("a");
    let oracle = Oracle::start(&client(&cluster), 6);
    let clients: Vec<Client> = (0..3).map(|_| client(&cluster)).collect();
    let mut seed = 0x2545_F491_4F6C_DD1Du64;
    std::thread::scope(|scope| {
        let _stop = oracle.stop_at_the_end();
        for client in &clients {
            let oracle = &oracle;
            scope.spawn(move || oracle.write(client));
        }
        for kill in 0..KILLS {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let before = oracle.committed();
            wait_until("moves between kills", || oracle.committed() > before + 3);
            std::thread::sleep(Duration::from_micros(seed % 20_000));
            if kill % 4 != 1
                && let Some(directory) = process(&cluster, "a")
            {
                directory.kill();
            }
            if kill % 4 >= 1 {
                cluster.kill("a");
                cluster.start("a");
            }
        }
    });
    let count = oracle.check(&client(&cluster));
    println!("{count:?}");
    assert!(count.committed > KILLS as usize * 3);
}
