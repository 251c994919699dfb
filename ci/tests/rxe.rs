//! Two virtual machines with kernels and soft-RoCE devices of their own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meander_lab::Rxe;
use meander_lab::artifacts;
use meander_lab::state::wait_until;

/// Everything is slow in emulation, the more on a busy host.
const PATIENCE: Duration = Duration::from_secs(240);

/// The job stops when this file is on machine a.
const STOP: &str = "/run/rxe/stop";

/// A program whose output is read at its end; it is ended when this is dropped.
struct Started(Child);

impl Started {
    fn new(mut command: Command) -> Result<Started> {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Started(piped.spawn()?))
    }

    fn output(mut self) -> Result<String> {
        let mut text = String::new();
        let mut stdout = self.0.stdout.take().context("it is piped")?;
        std::io::Read::read_to_string(&mut stdout, &mut text)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}\n{text}");
        Ok(text)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rxe_verbs_work_and_a_rank_moves_between_kernels() -> Result<()> {
    let lab = Rxe::up("t-rxe", &["a", "b"])?;
    verbs_work(&lab)?;
    lab.start_agents()?;
    a_rank_moves_there_and_back(&lab)
}

fn verbs_work(lab: &Rxe) -> Result<()> {
    let pingpong = ["ibv_rc_pingpong", "-d", "rxe0", "-g", "1", "-n", "100"];
    let server = Started::new(lab.command("a", &pingpong)?)?;
    let client = [&pingpong[..], &["a-rdma"]].concat();
    let said = wait_until("the pingpong to answer", PATIENCE, || {
        lab.run("b", &client).ok()
    })?;
    ensure!(said.contains("100 iters in"), "{said}");
    let said = server.output()?;
    ensure!(said.contains("100 iters in"), "{said}");
    Ok(())
}

fn a_rank_moves_there_and_back(lab: &Rxe) -> Result<()> {
    let program = artifacts::program("steady")?;
    let program = program.to_str().context("a path that is text")?;
    let job = Started::new(lab.mpirun(true, &[program, "--until", STOP])?)?;
    let places = || -> Option<Vec<(String, String)>> {
        let text = lab.run("a", &["meander", "ps", "--json"]).ok()?;
        let all = meander_lab::meander::places(text.as_bytes()).ok()?;
        let named = all
            .into_iter()
            .map(|it| (format!("{}/{}", it.job, it.rank), it.node));
        let named: Vec<_> = named.collect();
        (named.len() == 2).then_some(named)
    };
    let listed = wait_until("the ranks to be listed", PATIENCE, places)?;
    let (rank, _) = &listed[1];
    for to in ["a", "b"] {
        let moved = lab.run("a", &["meander", "migrate", rank, to])?;
        ensure!(moved.contains("downtime"), "{moved}");
        let now = places().context("the ranks are listed")?;
        ensure!(now[1].1 == to, "{now:?}");
    }
    lab.run("a", &["touch", STOP])?;
    let said = job.output()?;
    ensure!(said.contains("steady: ok"), "{said}");
    Ok(())
}
