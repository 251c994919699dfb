//! MPI programs over soft-RoCE: their ranks move between machines, cables are pulled.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meander_lab::{Rxe, artifacts};

use crate::support::{Job, Started};

/// `steady` stops when this file is on machine a.
const STOP: &str = "/run/rxe/stop";
/// Enough for rendezvous, in several pieces.
const LARGE_BYTES: &str = "700000";
/// So that these programs still run when they have been moved, on a quiet machine too.
const NETPIPE_REPEATS: &str = "250";
const HEAT2D_STEPS: &str = "20000";
/// How long packets are held: longer than a queue pair tries again.
const FROZEN: Duration = Duration::from_secs(10);

fn steady(options: &[&str]) -> Result<Vec<String>> {
    let mut words = vec![text(artifacts::program("steady")?)?];
    words.extend(["--until", STOP].map(str::to_owned));
    words.extend(options.iter().map(|&it| it.to_owned()));
    Ok(words)
}

fn text(path: PathBuf) -> Result<String> {
    path.into_os_string()
        .into_string()
        .ok()
        .context("a path that is text")
}

fn start_steady<'a>(
    lab: &'a Rxe,
    name: &str,
    transports: Option<&str>,
    options: &[&str],
) -> Result<Job<'a>> {
    lab.run("a", &["rm", "-f", STOP])?;
    let words = steady(options)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Job::start(lab, name, transports, &words)
}

/// Ends it, and has it say that all it received was right.
fn end_steady(lab: &Rxe, job: Job<'_>) -> Result<()> {
    lab.run("a", &["touch", STOP])?;
    let said = job.output()?;
    ensure!(said.contains("steady: ok"), "{said}");
    Ok(())
}

/// Zero-copy traffic is in flight all the time.
pub fn large_messages_through_moves(lab: &Rxe) -> Result<()> {
    let job = start_steady(lab, "large", Some("verbs"), &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    for to in ["c", "b"] {
        let before = job.linked_by("verbs");
        job.migrate(to)?;
        job.wait_linked_by("verbs", before)?;
    }
    end_steady(lab, job)
}

pub fn netpipe_through_a_move(lab: &Rxe) -> Result<()> {
    let program = [
        "NPopenmpi",
        "-i",
        "-u",
        "300000",
        "-n",
        NETPIPE_REPEATS,
        "-o",
        "/run/rxe/np.out",
    ];
    let job = Job::start(lab, "netpipe", Some("verbs"), &program)?;
    job.migrate("c")?;
    ensure!(job.linked_by("verbs") > 0, "it was not over verbs");
    let mut errors = String::new();
    let said = job.output_and_errors(&mut errors)?;
    let all = said + &errors;
    let checked = all
        .lines()
        .filter(|line| line.contains("Integrity check passed"))
        .count();
    ensure!(
        checked > 20 && !all.contains("failed"),
        "{checked} sizes checked:\n{all}"
    );
    Ok(())
}

pub fn heat2d_through_a_move(lab: &Rxe) -> Result<()> {
    let program = text(artifacts::example("heat2d")?)?;
    let words = [program.as_str(), "128", HEAT2D_STEPS];
    let native = lab.mpirun(&["a", "b"], false, &[], &words)?;
    let native = Started::new("heat2d-native", native)?.output()?;
    let job = Job::start(lab, "heat2d", Some("verbs"), &words)?;
    job.migrate("c")?;
    let ours = job.output()?;
    let sum = |said: &str| -> Option<String> {
        let line = said.lines().find(|line| line.contains("checksum"))?;
        Some(line.to_owned())
    };
    ensure!(
        sum(&ours).is_some() && sum(&ours) == sum(&native),
        "{ours}\nnative:\n{native}"
    );
    Ok(())
}

/// HPC Challenge on two ranks: natively, and over verbs with a move in its middle.
pub fn hpcc_through_a_move(lab: &Rxe) -> Result<()> {
    let input = include_str!("../../programs/hpccinf.txt");
    let lines: Vec<String> = input
        .lines()
        .enumerate()
        .map(|(at, line)| match at {
            5 => "120 Ns".to_owned(),
            7 => "40 NBs".to_owned(),
            10 => "1 Ps".to_owned(),
            11 => "2 Qs".to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let input = lines.join("\n") + "\n";
    let script =
        format!("mkdir -p /run/rxe/hpcc && cat > /run/rxe/hpcc/hpccinf.txt <<'END'\n{input}END\n");
    for node in ["a", "b", "c"] {
        lab.run(node, &["sh", "-c", &script])?;
    }
    let words = ["sh", "-c", "cd /run/rxe/hpcc && exec hpcc"];
    let results = "/run/rxe/hpcc/hpccoutf.txt";
    let check = || -> Result<()> {
        let said = lab.run("a", &["cat", results])?;
        lab.run("a", &["rm", results])?;
        ensure!(
            said.contains("Success=1") && !said.contains("FAILED"),
            "{said}"
        );
        ensure!(
            said.contains("End of HPC Challenge tests."),
            "cut short:\n{said}"
        );
        Ok(())
    };
    let start = Instant::now();
    let native = lab.mpirun(&["a", "b"], false, &[], &words)?;
    Started::new("hpcc-native", native)?.output()?;
    let native = start.elapsed();
    check()?;
    let start = Instant::now();
    let job = Job::start(lab, "hpcc", Some("verbs"), &words)?;
    job.migrate("c")?;
    job.output()?;
    check()?;
    let ours = start.elapsed();
    println!(
        "hpcc on 2 ranks: native over TCP {:.1} s, over verbs with a move {:.1} s",
        native.as_secs_f64(),
        ours.as_secs_f64()
    );
    Ok(())
}

/// The streams go on over the other network, and back when the cable is.
pub fn cable_pulled_and_put_back(lab: &Rxe) -> Result<()> {
    let job = start_steady(lab, "cable", Some("verbs,tcp"), &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    let before = job.linked_by("tcp");
    set_cable(lab, "down")?;
    let fallen_back = job.wait_linked_by("tcp", before);
    let before = job.linked_by("verbs");
    std::thread::sleep(Duration::from_secs(2));
    set_cable(lab, "up")?;
    fallen_back?;
    job.wait_linked_by("verbs", before)?;
    end_steady(lab, job)
}

fn set_cable(lab: &Rxe, state: &str) -> Result<()> {
    lab.run("b", &["ip", "link", "set", "rdma0", state])
        .map(drop)
}

/// Packets freeze on their way, while the streams resume over the other network, and thaw when what
/// they were meant for has gone: they must not touch anything.
pub fn frozen_packets_thaw(lab: &Rxe) -> Result<()> {
    let job = start_steady(lab, "frozen", Some("verbs,tcp"), &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    let before = job.linked_by("tcp");
    let freeze = format!("delay {}s limit 100000", FROZEN.as_secs());
    let freeze: Vec<&str> = ["tc", "qdisc", "add", "dev", "rdma0", "root", "netem"]
        .into_iter()
        .chain(freeze.split(' '))
        .collect();
    for node in ["a", "b"] {
        lab.run(node, &freeze)?;
    }
    let resumed = job.wait_linked_by("tcp", before);
    // Every packet that was on its way arrives now, at the latest.
    std::thread::sleep(FROZEN);
    let before = job.linked_by("verbs");
    for node in ["a", "b"] {
        lab.run(node, &["tc", "qdisc", "del", "dev", "rdma0", "root"])?;
    }
    resumed?;
    job.wait_linked_by("verbs", before)?;
    end_steady(lab, job)
}

/// From verbs to TCP and back, in mid-stream, by moves alone.
pub fn to_a_node_without_rdma_and_back(lab: &Rxe) -> Result<()> {
    lab.run("c", &["rdma", "link", "delete", "rxe0"])?;
    let job = start_steady(lab, "without", None, &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    for (to, by) in [("c", "tcp"), ("b", "verbs")] {
        let before = job.linked_by(by);
        job.migrate(to)?;
        job.wait_linked_by(by, before)?;
    }
    let restored = lab.run(
        "c",
        &[
            "rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "rdma0",
        ],
    );
    end_steady(lab, job)?;
    restored.map(drop)
}
