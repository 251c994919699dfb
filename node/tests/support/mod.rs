//! Agents on loopback, each with a run directory of its own, and ranks that are none.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

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
        let host = own_host();
        let mut ports = 7117..;
        let mut address = || format!("{host}:{}", ports.next().unwrap());
        let mut text = format!("directory = {:?}\n", nodes[0]);
        for node in nodes {
            text += &format!("[nodes.{node}]\naddress = \"{}\"\n", address());
            text += &format!("directory_address = \"{}\"\n", address());
        }
        std::fs::write(dir.path().join("cluster.toml"), text).unwrap();
        std::fs::create_dir(dir.path().join("images")).unwrap();
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

    /// `meander`, as a user of this node would run it.
    pub fn command(&self, node: &str) -> Command {
        let mut command = Command::new(MEANDER);
        command
            .env("MEANDER_RUN_DIR", self.path(node))
            .env("MEANDER_STATE_DIR", self.path(&format!("state-{node}")))
            .env("MEANDER_IMAGE_DIR", self.path("images"));
        command
    }

    /// Starts a node's agent and waits until it answers.
    pub fn start(&mut self, node: &str) {
        self.start_with(node, &[], &[]);
    }

    /// The same, with further options and variables.
    pub fn start_with(&mut self, node: &str, options: &[&str], environment: &[(&str, &str)]) {
        let command = self.command(node);
        self.start_by(command, node, options, environment);
    }

    /// The same, for an agent that may have so many descriptors and no more.
    #[allow(dead_code)] // Not every test file uses it.
    pub fn start_limited(&mut self, node: &str, descriptors: u32) {
        let meander = self.command(node);
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={descriptors}:{descriptors}"))
            .arg(meander.get_program())
            .envs(
                meander
                    .get_envs()
                    .filter_map(|(name, it)| Some((name, it?))),
            );
        self.start_by(command, node, &[], &[]);
    }

    fn start_by(
        &mut self,
        mut command: Command,
        node: &str,
        options: &[&str],
        environment: &[(&str, &str)],
    ) {
        let log = std::fs::File::create(self.path(&format!("{node}.log"))).unwrap();
        command
            .arg("agent")
            .arg("--cluster")
            .arg(self.path("cluster.toml"));
        if !options.contains(&"--key") {
            command.arg("--key").arg(self.path("key"));
        }
        let agent = command
            .args(["--node", node])
            .args(options)
            .envs(environment.iter().copied())
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

/// A loopback address that no other cluster has, so that nobody takes the port of an agent that is
/// down for a moment.
pub fn own_host() -> String {
    static CLUSTERS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    format!("127.{high}.{low}.{cluster}")
}

/// All that a command printed.
pub fn text_of(output: &Output) -> String {
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits at most 40 s.
pub fn wait_until(what: &str, mut check: impl FnMut() -> bool) {
    let started = Instant::now();
    while !check() {
        assert!(
            started.elapsed() < Duration::from_secs(40),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Copies a program that is to be run at once. By a process of its own: a descriptor of ours that
/// writes it could be inherited by what another test starts at this moment, and the program would
/// be busy.
#[allow(dead_code)] // Not every test that has a cluster copies one.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
