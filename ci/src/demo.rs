//! `cargo xtask demo`: a rank of a running MPI program moves to another node and back.
//!
//! Three runs of the same program must end with the same checksum: by the native MPI library alone, under
//! the shim, and under the shim with a rank that moves twice. The last line is `demo: ok ...` only then.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Lab;
use crate::artifacts;
use crate::meander::{Migration, RankPlace};
use crate::mpirun::{Ended, Mpirun, Running};
use crate::state::wait_until;

const LAB: &str = "demo";
const NODES: [&str; 3] = ["a", "b", "c"];
const PROGRAM: &str = "heat2d";
/// Points on a side of the plate.
const POINTS: &str = "384";
/// Steps that a run may have: the most that this machine does in [`RUN_AIM`].
const STEPS: [u32; 5] = [10_000, 20_000, 40_000, 80_000, 160_000];
/// Lines that a run prints.
const LINES: u32 = 20;
/// Steps by which the machine's speed is measured.
const TRIAL_STEPS: u32 = 4_000;
/// Lines of that run.
const TRIAL_LINES: u32 = 8;
/// How long a run should take, so that it is worth watching and there is time to move.
const RUN_AIM: Duration = Duration::from_secs(25);
/// The rank that moves.
const MOVER: u32 = 2;
/// Where it goes: away, and back.
const JOURNEY: [(&str, &str); 2] = [("b", "c"), ("c", "b")];
/// How long one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(170);
/// How long the ranks may take to be listed.
const LISTED_LIMIT: Duration = Duration::from_secs(30);

/// Runs it, on the terminal.
pub fn run() -> Result<ExitCode> {
    let start = Instant::now();
    let program = artifacts::example(PROGRAM)?;
    headline("Three nodes, made of namespaces of this machine");
    let lab = Lab::up(LAB, &NODES)?;
    lab.start_agents()?;
    for node in lab.nodes() {
        println!("  node {}  {}  a meander agent", node.name, node.address());
    }

    let plate = Plate {
        steps: affordable_steps(&lab, &program)?,
        program,
    };

    headline(
        "1. The heat equation on 4 ranks, two on node a and two on node b: the MPI library alone",
    );
    let native = plate.run(lab.mpirun(&NODES[..2], 2).native(), "")?;

    headline("2. The same program file under Meander, nothing moved");
    let still = plate.run(lab.mpirun(&NODES[..2], 2), PRELOAD)?;

    headline("3. Under Meander again, and while it runs, one rank moves to node c and back");
    let (moved, journeys) = with_moves(&lab, &plate)?;

    headline("What came of it");
    let runs = [
        ("MPI library alone", &native),
        ("Meander, un-moved", &still),
        ("Meander, moved", &moved),
    ];
    let mut checksums = Vec::new();
    for (name, run) in runs {
        let checksum = run
            .value("checksum")
            .with_context(|| format!("{name}: no checksum"))?;
        println!(
            "  {name:<18} {:>6.1} s   checksum {checksum}",
            run.took.as_secs_f64()
        );
        checksums.push(checksum);
    }
    let mut worst_ms: f64 = 0.0;
    for (migration, (from, to)) in journeys.iter().zip(JOURNEY) {
        let downtime_ms = migration
            .downtime_ms()
            .context("meander migrate told no downtime")?;
        println!("  rank {MOVER}, {from} to {to}:     {downtime_ms:>6.1} ms  without it");
        worst_ms = worst_ms.max(downtime_ms);
    }
    lab.down()?;
    println!(
        "  everything took {:.0} s; the lab is taken down",
        start.elapsed().as_secs_f64()
    );
    println!();
    let checksum = &checksums[0];
    if checksums.iter().any(|other| other != checksum) {
        println!(
            "demo: FAILED, the checksums differ: {}",
            checksums.join(" ")
        );
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "demo: ok checksum={checksum} moves={} downtime_ms={worst_ms:.0}",
        journeys.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// What is added to the command line for Meander.
const PRELOAD: &str = "-x LD_PRELOAD=libmeander_mpi.so ";

/// The program, with arguments that are the same in every run: they decide the checksum.
struct Plate {
    program: PathBuf,
    steps: u32,
}

impl Plate {
    fn start(&self, mpirun: Mpirun<'_>, preload: &str) -> Result<Running> {
        let every = self.steps / LINES;
        let arguments = [POINTS, &self.steps.to_string(), &every.to_string()];
        println!(
            "  $ mpirun -np 4 --host a:2,b:2 {preload}{PROGRAM} {}",
            arguments.join(" ")
        );
        mpirun.watch().start(&self.program, &arguments)
    }

    fn run(&self, mpirun: Mpirun<'_>, preload: &str) -> Result<Ended> {
        self.start(mpirun, preload)?.wait(RUN_LIMIT)?.success()
    }
}

/// By the time between the lines of a short run, without what mpirun needs to start.
fn affordable_steps(lab: &Lab, program: &Path) -> Result<u32> {
    let arguments = [TRIAL_STEPS, TRIAL_STEPS / TRIAL_LINES].map(|number| number.to_string());
    let arguments = [POINTS, &arguments[0], &arguments[1]];
    let trial = lab
        .mpirun(&NODES[..2], 2)
        .native()
        .run(program, &arguments, RUN_LIMIT)?;
    let lines = trial.success()?.lines;
    let mut times = lines
        .iter()
        .filter(|line| line.text.starts_with("step"))
        .map(|line| line.at);
    let (Some(first), Some(last)) = (times.next(), times.next_back()) else {
        bail!("{PROGRAM} prints no steps");
    };
    let step = (last - first) / (TRIAL_STEPS - TRIAL_STEPS / TRIAL_LINES);
    let affordable = STEPS
        .into_iter()
        .rev()
        .find(|steps| step * *steps <= RUN_AIM);
    Ok(affordable.unwrap_or(STEPS[0]))
}

fn with_moves(lab: &Lab, plate: &Plate) -> Result<(Ended, Vec<Migration>)> {
    let mut running = plate.start(lab.mpirun(&NODES[..2], 2), PRELOAD)?;
    let ranks = lab.wait_for_ranks(4, LISTED_LIMIT)?;
    let job = ranks[0].job.clone();
    show_places(lab, "before")?;
    let mut journeys = Vec::new();
    for (step, (from, to)) in JOURNEY.into_iter().enumerate() {
        // A line of the program before each move shows that it goes on.
        let seen = running.lines().len();
        wait_until("the program's next line", RUN_LIMIT, || {
            running.lines()[seen..]
                .iter()
                .any(|line| line.text.starts_with("step"))
                .then_some(())
        })?;
        let rank = format!("{job}/{MOVER}");
        println!("  $ meander migrate {rank} {to}        (typed on node {from})");
        let migration = lab.migrate(from, &rank, to)?.moved()?;
        for line in migration.text.lines().filter(|line| !is_progress(line)) {
            println!("  | {line}");
        }
        journeys.push(migration);
        let place = show_places(lab, if step == 0 { "there" } else { "back" })?;
        ensure!(
            place.node == to,
            "rank {MOVER} is listed on {}, not on {to}",
            place.node
        );
    }
    if !running.is_running() {
        bail!("{PROGRAM} ended before the rank was back: too few steps for this machine");
    }
    Ok((running.wait(RUN_LIMIT)?.success()?, journeys))
}

fn headline(text: &str) {
    println!("\n{text}");
}

/// Prints where each rank is, and gives the mover's place.
fn show_places(lab: &Lab, when: &str) -> Result<RankPlace> {
    let ranks = lab.ps(NODES[0])?;
    let mut line = format!("  {when:>6}: ");
    for node in NODES {
        let here: Vec<String> = ranks
            .iter()
            .filter(|rank| rank.node == node)
            .map(|rank| {
                if rank.rank == MOVER {
                    format!("[{}]", rank.rank)
                } else {
                    rank.rank.to_string()
                }
            })
            .collect();
        line += &format!("  node {node}: {:<8}", here.join(" "));
    }
    println!("{}", line.trim_end());
    ranks
        .into_iter()
        .find(|rank| rank.rank == MOVER)
        .context("meander ps does not list the rank")
}

/// The phases as they passed; the summary after them names each again, with its time.
fn is_progress(line: &str) -> bool {
    line.starts_with("  ") && !line.contains("ms")
}
