//! MPI programs over soft-RoCE: their ranks move between machines, cables are pulled.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meander_lab::artifacts;
use meander_lab::rxe::Site;

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
    site: &'a Site,
    name: &str,
    transports: Option<&str>,
    options: &[&str],
) -> Result<Job<'a>> {
    site.run("a", &["rm", "-f", STOP])?;
    let words = steady(options)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Job::start(site, name, transports, &words)
}

/// Ends it, and has it say that all it received was right.
fn end_steady(site: &Site, job: Job<'_>) -> Result<()> {
    site.run("a", &["touch", STOP])?;
    let said = job.output()?;
    ensure!(said.contains("steady: ok"), "{said}");
    Ok(())
}

/// Zero-copy traffic is in flight all the time.
pub fn large_messages_through_moves(site: &Site) -> Result<()> {
    let job = start_steady(site, "large", Some("verbs"), &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    for to in ["c", "b"] {
        let before = job.linked_by("verbs");
        job.migrate(to)?;
        job.wait_linked_by("verbs", before)?;
    }
    end_steady(site, job)
}

pub fn netpipe_through_a_move(site: &Site) -> Result<()> {
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
    let job = Job::start(site, "netpipe", Some("verbs"), &program)?;
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

pub fn heat2d_through_a_move(site: &Site) -> Result<()> {
    let program = text(artifacts::example("heat2d")?)?;
    let words = [program.as_str(), "128", HEAT2D_STEPS];
    let native = site.mpirun(&["a", "b"], false, &[], &words)?;
    let native = Started::new("heat2d-native", native)?.output()?;
    let job = Job::start(site, "heat2d", Some("verbs"), &words)?;
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
pub fn hpcc_through_a_move(site: &Site) -> Result<()> {
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
        site.run(node, &["sh", "-c", &script])?;
    }
    let words = ["sh", "-c", "cd /run/rxe/hpcc && exec hpcc"];
    let results = "/run/rxe/hpcc/hpccoutf.txt";
    let check = || -> Result<()> {
        let said = site.run("a", &["cat", results])?;
        site.run("a", &["rm", results])?;
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
    let native = site.mpirun(&["a", "b"], false, &[], &words)?;
    Started::new("hpcc-native", native)?.output()?;
    let native = start.elapsed();
    check()?;
    let start = Instant::now();
    let job = Job::start(site, "hpcc", Some("verbs"), &words)?;
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
pub fn cable_pulled_and_put_back(site: &Site) -> Result<()> {
    let job = start_steady(site, "cable", Some("verbs,tcp"), &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    let before = job.linked_by("tcp");
    set_cable(site, "down")?;
    let fallen_back = job.wait_linked_by("tcp", before);
    let before = job.linked_by("verbs");
    std::thread::sleep(Duration::from_secs(2));
    set_cable(site, "up")?;
    fallen_back?;
    job.wait_linked_by("verbs", before)?;
    end_steady(site, job)
}

fn set_cable(site: &Site, state: &str) -> Result<()> {
    site.run("b", &["ip", "link", "set", "rdma0", state])
        .map(drop)
}

/// Packets freeze on their way, while the streams resume over the other network, and thaw when what
/// they were meant for has gone: they must not touch anything.
pub fn frozen_packets_thaw(site: &Site) -> Result<()> {
    let job = start_steady(site, "frozen", Some("verbs,tcp"), &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    let before = job.linked_by("tcp");
    let freeze = format!("delay {}s limit 100000", FROZEN.as_secs());
    let freeze: Vec<&str> = ["tc", "qdisc", "add", "dev", "rdma0", "root", "netem"]
        .into_iter()
        .chain(freeze.split(' '))
        .collect();
    for node in ["a", "b"] {
        site.run(node, &freeze)?;
    }
    let resumed = job.wait_linked_by("tcp", before);
    // Every packet that was on its way arrives now, at the latest.
    std::thread::sleep(FROZEN);
    let before = job.linked_by("verbs");
    for node in ["a", "b"] {
        site.run(node, &["tc", "qdisc", "del", "dev", "rdma0", "root"])?;
    }
    resumed?;
    job.wait_linked_by("verbs", before)?;
    end_steady(site, job)
}

/// From verbs to TCP and back, in mid-stream, by moves alone.
///
/// No scenario removes a device that is in use: rdma_rxe of Linux 6.12 has no `disassociate_ucontext`, so
/// that `rdma link delete` tells nobody and waits until every process has closed the device.
pub fn to_a_node_without_rdma_and_back(site: &Site) -> Result<()> {
    site.run("c", &["rdma", "link", "delete", "rxe0"])?;
    let job = start_steady(site, "without", None, &["--bytes", LARGE_BYTES])?;
    job.wait_linked_by("verbs", 0)?;
    for (to, by) in [("c", "tcp"), ("b", "verbs")] {
        let before = job.linked_by(by);
        job.migrate(to)?;
        job.wait_linked_by(by, before)?;
    }
    let restored = site.run(
        "c",
        &[
            "rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "rdma0",
        ],
    );
    end_steady(site, job)?;
    restored.map(drop)
}
