//! Where the directory is does not matter to a rank: in etcd, of which a member is killed, or on a
//! node that hands it over while ranks move.

use std::fs::File;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use meander_lab::Lab;
use meander_lab::scenario::{NODES, PATIENCE, Scenario};
use meander_lab::state::wait_until;
use rustix::process::Signal;

/// An etcd member on every node of a lab. What still runs ends with the lab.
struct Etcd<'l> {
    lab: &'l Lab,
    members: Vec<Child>,
}

impl<'l> Etcd<'l> {
    fn start(lab: &'l Lab) -> Result<Etcd<'l>> {
        let mut members = Vec::new();
        for node in lab.nodes() {
            members.push(Etcd::member(lab, &node.name)?);
        }
        Ok(Etcd { lab, members })
    }

    /// What `--directory` takes.
    fn directory(&self) -> String {
        let members = NODES.map(|node| format!("{}:2379", self.lab.node(node).address()));
        format!("etcd://{}", members.join(","))
    }

    fn kill(&mut self, at: usize) -> Result<()> {
        self.members[at].kill()?;
        self.members[at].wait()?;
        Ok(())
    }

    /// Starts a member again, and waits until it takes part: of three, one may be missing at a time.
    fn restart(&mut self, at: usize) -> Result<()> {
        self.members[at] = Etcd::member(self.lab, NODES[at])?;
        let ask =
            "exec 3<>/dev/tcp/$0/2379 && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3";
        let address = self.lab.node(NODES[at]).address();
        wait_until("a member of etcd to take part again", PATIENCE, || {
            let mut asking = self.lab.command(NODES[at], "bash");
            let said = asking.args(["-c", ask, &address]).output().ok()?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            said.contains("\"health\":\"true\"").then_some(())
        })
    }

    fn member(lab: &Lab, name: &str) -> Result<Child> {
        let node = lab.node(name);
        let url = |address: &str, port| format!("http://{address}:{port}");
        let peers: Vec<String> = lab
            .nodes()
            .iter()
            .map(|node| format!("{}={}", node.name, url(&node.address(), 2380)))
            .collect();
        let (peer, client) = (url(&node.address(), 2380), url(&node.address(), 2379));
        let log = File::create(node.dir().join("etcd.log"))?;
        lab.command(name, "etcd")
            .args(["--name", name, "--initial-cluster", &peers.join(",")])
            .arg("--data-dir")
            .arg(node.dir().join("etcd"))
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run etcd: `cargo xtask setup` installs it (Debian: etcd-server)")
    }
}

impl Drop for Etcd<'_> {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

#[test]
fn ranks_move_with_their_directory_in_etcd_and_a_member_killed() -> Result<()> {
    let scenario = Scenario::without_agents("d-etcd")?;
    let mut etcd = Etcd::start(&scenario.lab)?;
    let directory = etcd.directory();
    for node in NODES {
        let options = ["--directory", directory.as_str()];
        scenario.lab.start_agent(node, &options, &[])?;
    }
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    job.moves(1, "c")?;
    for (member, rank, to) in [(0, 2, "c"), (1, 2, "a"), (2, 1, "b")] {
        let moving = job.start_move(rank, to)?;
        etcd.kill(member)?;
        moving.wait(PATIENCE)?.moved()?;
        job.expect_at(rank, to)?;
        job.expect_progress()?;
        etcd.restart(member)?;
    }
    job.finish()?;
    scenario.lab.wait_for_ranks(0, PATIENCE)?;
    Ok(())
}

#[test]
fn the_directory_moves_while_ranks_do() -> Result<()> {
    let scenario = Scenario::start("d-moves")?;
    let lab = &scenario.lab;
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    for (rank, rank_to, directory_to) in [(1, "c", "b"), (2, "a", "c"), (2, "c", "b")] {
        let moving = job.start_move(rank, rank_to)?;
        let handed_over = lab.meander("a", &["directory", "move", directory_to])?;
        ensure!(handed_over.status.success(), "{handed_over:?}");
        moving.wait(PATIENCE)?.moved()?;
        job.expect_at(rank, rank_to)?;
        job.expect_progress()?;
    }
    // Node a has no agent any more; moves between the others go on, by agents that start anew.
    lab.stop_agent("a", Signal::KILL)?;
    job.expect_progress()?;
    for node in ["b", "c"] {
        lab.stop_agent(node, Signal::KILL)?;
        lab.start_agent(node, &[], &[])?;
    }
    lab.migrate("b", &job.name(1), "b")?.moved()?;
    job.expect_progress()?;
    lab.start_agent("a", &[], &[])?;
    lab.wait_for_ranks(4, PATIENCE)?;
    job.finish()?;
    Ok(())
}
