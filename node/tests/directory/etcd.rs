//! The directory in a real etcd: three members on loopback, from Debian's `etcd-server`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meander::Key;
use meander_core::directory::{Refusal, Reply, Request};
use meander_node::directory::Client;
use meander_node::directory::etcd::Etcd;

use crate::oracle::Oracle;
use crate::support::{own_host, wait_until};
use crate::{conformance, entry, new_port};

const MEMBERS: usize = 3;
const LEASE: Duration = Duration::from_secs(2);

/// An etcd cluster; it ends with this value.
pub struct Members {
    host: String,
    files: tempfile::TempDir,
    members: Vec<Option<Child>>,
}

impl Members {
    pub fn start() -> Members {
        let mut members = Members {
            host: own_host(),
            files: tempfile::tempdir().unwrap(),
            members: (0..MEMBERS).map(|_| None).collect(),
        };
        for member in 0..MEMBERS {
            members.restart(member);
        }
        members
    }

    /// `host:port` of all.
    pub fn endpoints(&self) -> Vec<String> {
        (0..MEMBERS).map(|m| self.address(m, 2379)).collect()
    }

    pub fn client(&self, key: &Key) -> Client {
        Client::over(Box::new(Etcd::new(&self.endpoints(), key)), LEASE)
    }

    /// Waits until a majority answers.
    pub fn wait(&self) {
        let client = self.client(&Key([0; 32]));
        wait_until("etcd to answer", || client.alive().is_ok());
    }

    pub fn kill(&mut self, member: usize) {
        let mut child = self.members[member].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn restart(&mut self, member: usize) {
        let peers: Vec<String> = (0..MEMBERS)
            .map(|m| format!("m{m}=http://{}", self.address(m, 2380)))
            .collect();
        let url = |port| format!("http://{}", self.address(member, port));
        let log = self.files.path().join(format!("m{member}.log"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = Command::new("etcd")
            .arg(format!("--name=m{member}"))
            .arg("--data-dir")
            .arg(self.files.path().join(format!("m{member}")))
            .args(["--listen-peer-urls", &url(2380)])
            .args(["--initial-advertise-peer-urls", &url(2380)])
            .args(["--listen-client-urls", &url(2379)])
            .args(["--advertise-client-urls", &url(2379)])
            .args(["--initial-cluster", &peers.join(",")])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is there: `cargo xtask setup` installs it");
        self.members[member] = Some(child);
    }

    fn address(&self, member: usize, port: usize) -> String {
        format!("{}:{}", self.host, port + 10 * member)
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn etcd_does_what_a_directory_must() {
    let members = Members::start();
    members.wait();
    let key = Key([1; 32]);
    conformance::all(&|| members.client(&key));

    // Another cluster's directory in the same etcd is another directory.
    let port = new_port();
    let entry = entry(0, "a");
    let register = Request::Register { port, entry };
    assert_eq!(
        members.client(&key).request(&register).unwrap(),
        Reply::Done
    );
    let other = members.client(&Key([2; 32]));
    assert_eq!(other.lookup(port).unwrap(), None);
    assert_eq!(other.list().unwrap(), []);
    let commit = crate::commit(crate::new_move(), 0, "b");
    assert_eq!(
        other.request(&Request::Commit { port, commit }).unwrap(),
        Reply::Refused(Refusal::Unknown)
    );
}

#[test]
fn a_killed_member_loses_and_doubles_nothing() {
    let mut members = Members::start();
    members.wait();
    let key = Key([3; 32]);
    let oracle = Oracle::start(&members.client(&key), 6);
    let clients: Vec<Client> = (0..3).map(|_| members.client(&key)).collect();
    std::thread::scope(|scope| {
        let _stop = oracle.stop_at_the_end();
        for client in &clients {
            let oracle = &oracle;
            scope.spawn(move || oracle.write(client));
        }
        for member in [0, 1, 2, 0] {
            let before = oracle.committed();
            members.kill(member);
            wait_until("moves with one member gone", || {
                oracle.committed() > before + 30
            });
            members.restart(member);
            std::thread::sleep(Duration::from_millis(700));
        }
    });
    let count = oracle.check(&members.client(&key));
    println!("{count:?}");
}

#[test]
fn without_a_majority_nothing_is_answered_and_nothing_happens() {
    let mut members = Members::start();
    members.wait();
    let key = Key([4; 32]);
    let client = members.client(&key);
    let oracle = Oracle::start(&client, 1);
    members.kill(0);
    members.kill(1);
    let lookup = Request::Lookup { port: new_port() };
    assert!(client.request(&lookup).is_err());
    members.restart(0);
    wait_until("a majority", || client.request(&lookup).is_ok());
    oracle.check(&client);
}
