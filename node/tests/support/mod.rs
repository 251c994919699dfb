//! Agents on loopback, each with a run directory of its own, and ranks that are none.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use meander::control::{CONTROL_VERSION, FromPort, ToPort};
use meander::{Contact, Epoch, JobId, Location, NodeName, PortId};
use meander_core::{Card, Identity, TransportKind};
use meander_node::net::frame;

/// The program under test.
pub const MEANDER: &str = env!("CARGO_BIN_EXE_meander");

/// A cluster in a temporary directory; everything in it ends with it.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    agents: Vec<(String, Child)>,
}

impl Cluster {
    /// Describes a cluster of these nodes, the directory on the first. Nothing runs yet.
    pub fn new(nodes: &[&str]) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let mut ports: Vec<TcpListener> = Vec::new();
        let mut address = || {
            ports.push(TcpListener::bind("127.0.0.1:0").unwrap());
            ports.last().unwrap().local_addr().unwrap()
        };
        let mut text = format!("directory = {:?}\n", nodes[0]);
        for node in nodes {
            text += &format!("[nodes.{node}]\naddress = \"{}\"\n", address());
            text += &format!("directory_address = \"{}\"\n", address());
        }
        std::fs::write(dir.path().join("cluster.toml"), text).unwrap();
        let cluster = Cluster {
            dir,
            agents: Vec::new(),
        };
        let made = cluster.run(
            "nobody",
            &["key", "--key", cluster.path("key").to_str().unwrap()],
        );
        assert!(made.status.success(), "{}", text_of(&made));
        cluster
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `meander` as a user of this node would, and waits.
    pub fn run(&self, node: &str, arguments: &[&str]) -> Output {
        self.command(node)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn command(&self, node: &str) -> Command {
        let mut command = Command::new(MEANDER);
        command
            .env("MEANDER_RUN_DIR", self.path(node))
            .env("MEANDER_STATE_DIR", self.path("state"));
        command
    }

    /// Starts a node's agent and waits until it answers.
    pub fn start(&mut self, node: &str) {
        self.start_with_key(node, &self.path("key"));
    }

    /// The same, with another key.
    pub fn start_with_key(&mut self, node: &str, key: &Path) {
        let log = std::fs::File::create(self.path(&format!("{node}.log"))).unwrap();
        let agent = self
            .command(node)
            .arg("agent")
            .arg("--cluster")
            .arg(self.path("cluster.toml"))
            .arg("--key")
            .arg(key)
            .args(["--node", node])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agents.push((node.into(), agent));
        let socket = self.path(node).join("agent.sock");
        wait_until("the agent to listen", || {
            UnixStream::connect(&socket).is_ok()
        });
    }

    /// Kills a node's agent with SIGKILL.
    pub fn kill(&mut self, node: &str) {
        let at = self
            .agents
            .iter()
            .position(|(name, _)| name == node)
            .unwrap();
        let (_, mut agent) = self.agents.remove(at);
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// What `meander ps` lists on a node: `JOB/RANK NODE EPOCH`.
    pub fn ps(&self, node: &str) -> Vec<String> {
        let output = self.run(node, &["ps", "--json"]);
        assert!(output.status.success(), "{}", text_of(&output));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut lines = Vec::new();
        for job in json["jobs"].as_array().unwrap() {
            for rank in job["ranks"].as_array().unwrap() {
                let job = job["job"].as_str().unwrap();
                let node = rank["node"].as_str().unwrap();
                lines.push(format!("{job}/{} {node} {}", rank["rank"], rank["epoch"]));
            }
        }
        lines
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, agent) in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // The directory outlives the agents: it is found by the file it was told to serve.
        let cluster = self.path("cluster.toml").display().to_string();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let words = meander_node::process::arguments(pid);
            if words.contains(&cluster)
                && let Some(process) = meander_node::process::Process::find(pid)
            {
                process.kill();
            }
        }
        if std::thread::panicking() {
            for log in ["a", "b", "c"] {
                let text = std::fs::read_to_string(self.path(&format!("{log}.log")));
                eprintln!("--- agent of {log}:\n{}", text.unwrap_or_default());
            }
        }
    }
}

/// A connection to an agent that says of itself that it is a rank.
pub struct FakeRank {
    stream: UnixStream,
}

impl FakeRank {
    /// Registers with the agent whose run directory this is.
    pub fn register(run_dir: &Path, job: &str, rank: u32, epoch: u64) -> FakeRank {
        let mut stream = UnixStream::connect(run_dir.join("agent.sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let port = PortId(u128::from(rank) + 1);
        let identity = Identity {
            job: JobId(job.into()),
            rank,
            size: 2,
            program: "fake".into(),
        };
        let card = Card {
            transport: TransportKind::Sim,
            bytes: vec![rank as u8],
        };
        let location = Location {
            node: NodeName::default(),
            cards: vec![card],
        };
        let contact = Contact {
            port,
            epoch: Epoch(epoch),
            location,
        };
        let register = FromPort::Register {
            version: CONTROL_VERSION,
            identity,
            contact,
        };
        frame::write(&mut stream, &register).unwrap();
        let mut rank = FakeRank { stream };
        assert!(matches!(rank.hear(), Some(ToPort::Registered { .. })));
        rank
    }

    pub fn say(&mut self, message: &FromPort) {
        frame::write(&mut self.stream, message).unwrap();
    }

    pub fn hear(&mut self) -> Option<ToPort> {
        frame::read(&mut self.stream).unwrap()
    }
}

/// All that a command printed.
pub fn text_of(output: &Output) -> String {
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits at most 20 s.
pub fn wait_until(what: &str, mut check: impl FnMut() -> bool) {
    let started = Instant::now();
    while !check() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
