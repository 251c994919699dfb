//! `meander-lab`: the labs by hand. `cargo xtask lab` and `cargo xtask demo` call it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Parser, Subcommand};
use meander_lab::{Lab, Rxe, compare, demo, downtime, instructions, rxe, state, teardown};

/// The name of the lab when none is given.
const DEFAULT_LAB: &str = "lab";

#[derive(Parser)]
#[command(
    name = "meander-lab",
    about = "Nodes made of namespaces, to try Meander on one machine"
)]
struct Arguments {
    /// Which lab, where there are several
    #[arg(long, global = true, default_value = DEFAULT_LAB)]
    name: String,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Bring up nodes on one bridge, with an agent on each
    Up {
        /// Names of the nodes, or how many
        #[arg(default_values = ["a", "b", "c"])]
        nodes: Vec<String>,
        /// Start no agents
        #[arg(long)]
        no_agents: bool,
    },
    /// Run a command inside a node
    Run {
        /// The node
        node: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show the labs that are up
    List,
    /// Cut a node's cable, or mend it
    Link {
        /// The node
        node: String,
        /// `up` or `down`
        #[arg(value_parser = ["up", "down"])]
        state: String,
    },
    /// Limit a node's rate: `100mbit`, or `off`
    Shape {
        /// The node
        node: String,
        /// A rate in the words of tc(8), or `off`
        rate: String,
    },
    /// Start the agent of a node again
    Agent {
        /// The node
        node: String,
    },
    /// Take the lab down, with all that runs in it
    Down,
    /// Move a rank of a running program to another node and back, and show it
    Demo,
    /// Measure moves: phase by phase, and what a peer feels
    Downtime,
    /// An MPI program under the shim beside the same under Open MPI and MPICH, and beside UCX, NetPIPE and raw
    /// baselines, on this machine
    Compare {
        /// By what ranks reach each other, separated by commas; all if there are none, as with the next ones
        #[arg(long, value_delimiter = ',')]
        path: Vec<compare::mpi::Path>,
        /// What is measured
        #[arg(long, value_delimiter = ',')]
        metric: Vec<compare::mpi::Metric>,
        /// Sizes in bytes; else each metric has its own
        #[arg(long, value_delimiter = ',')]
        sizes: Vec<usize>,
        /// Numbers of ranks of the collectives
        #[arg(long, value_delimiter = ',')]
        ranks: Vec<u32>,
        /// Rounds of each contender in each case
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Whom to compare with
        #[arg(long, value_delimiter = ',')]
        with: Vec<String>,
    },
    /// Nodes that are virtual machines with soft-RoCE
    Rxe {
        /// Use this machine's own kernel, which must have rdma_rxe (`compare` only)
        #[arg(long)]
        host: bool,
        #[command(subcommand)]
        command: RxeCommands,
    },
    /// The cables between the machines of an rxe lab
    #[command(hide = true)]
    RxeHub {
        /// The lab's directory
        lab: PathBuf,
    },
}

#[derive(Subcommand)]
enum RxeCommands {
    /// Boot the machines, with an agent on each
    Up {
        /// Their names
        #[arg(default_values = ["a", "b"])]
        nodes: Vec<String>,
    },
    /// Run a command on a machine
    Run {
        /// The machine
        node: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// End the machines
    Down,
    /// What a message costs that repeats: instructions of our code, requests, completions, doorbells; on
    /// this machine, with a provider that needs no device
    Instructions,
    /// Streams over verbs beside perftest, rsockets and UCX, on two machines of its own
    Compare {
        /// Sizes of the messages in bytes, separated by commas
        #[arg(long, value_delimiter = ',', default_values_t = compare::rxe::SIZES)]
        sizes: Vec<usize>,
        /// Rounds of each tool at each size
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Tools to compare with, separated by commas; all if there are none
        #[arg(long, value_delimiter = ',')]
        with: Vec<String>,
        /// What our side uses
        #[arg(long, default_value = "verbs")]
        transport: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("meander-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let name = arguments.name.as_str();
    match arguments.command {
        Subcommands::Up { nodes, no_agents } => up(name, &nodes, !no_agents)?,
        Subcommands::Run { node, command } => {
            let lab = Lab::find(name)?;
            lab.try_node(&node)?;
            let (program, rest) = command.split_first().expect("clap wants one");
            bail!(
                "{program}: {}",
                lab.command(&node, program).args(rest).exec()
            );
        }
        Subcommands::List => list()?,
        Subcommands::Link { node, state } => Lab::find(name)?.set_link(&node, state == "up")?,
        Subcommands::Shape { node, rate } => {
            Lab::find(name)?.shape(&node, (rate != "off").then_some(rate.as_str()))?;
        }
        Subcommands::Agent { node } => {
            let lab = Lab::find(name)?;
            lab.try_node(&node)?;
            lab.start_agent(&node, &[], &[])?;
        }
        Subcommands::Down => {
            state::check_name("lab", name)?;
            teardown::lab_down(&state::lab_dir(name))?;
        }
        Subcommands::Demo => return demo::run(),
        Subcommands::Downtime => return downtime::run(),
        Subcommands::Compare {
            path,
            metric,
            sizes,
            ranks,
            rounds,
            with,
        } => compare::mpi::run(&compare::mpi::Options {
            selection: compare::mpi::Selection {
                paths: path,
                metrics: metric,
                sizes,
                ranks,
            },
            rounds,
            others: with,
        })?,
        Subcommands::Rxe { host, command } => run_rxe(name, host, command)?,
        Subcommands::RxeHub { lab } => rxe::hub::serve(&lab)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_rxe(name: &str, host: bool, command: RxeCommands) -> Result<()> {
    ensure!(
        !host || matches!(command, RxeCommands::Compare { .. }),
        "--host is for `rxe compare` and `cargo xtask rxe --host test`: the other commands want machines of their own"
    );
    match command {
        RxeCommands::Up { nodes } => {
            let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let mut lab = Rxe::up(name, &names)?;
            lab.start_agents()?;
            lab.keep();
            println!(
                "{} are up; state and logs: {}",
                nodes.join(", "),
                lab.dir().display()
            );
        }
        RxeCommands::Run { node, command } => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            bail!(
                "dbclient: {}",
                Rxe::find(name)?.command(&node, &words)?.exec()
            );
        }
        RxeCommands::Down => Rxe::find(name)?.down(),
        RxeCommands::Instructions => drop(instructions::run()?),
        RxeCommands::Compare {
            sizes,
            rounds,
            with,
            transport,
        } => {
            let options = compare::rxe::Options {
                sizes,
                rounds,
                others: with,
                transport,
                host,
            };
            compare::rxe::run(&format!("{name}-compare"), &options)?;
        }
    }
    Ok(())
}

fn up(name: &str, nodes: &[String], agents: bool) -> Result<()> {
    let numbered = match nodes {
        [count] if count.chars().all(|c| c.is_ascii_digit()) => count.parse::<usize>()?,
        _ => 0,
    };
    let names: Vec<String> = match numbered {
        0 => nodes.to_vec(),
        count => (0..count).map(node_name).collect(),
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut lab = Lab::up(name, &names)?;
    if agents {
        lab.start_agents()?;
    }
    lab.keep();
    for node in lab.nodes() {
        println!("{}  {}", node.name, node.address());
    }
    println!("state and logs: {}", lab.dir().display());
    Ok(())
}

/// a, b, ... z, then n26, n27, ...
fn node_name(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index) if index < 26 => char::from(b'a' + index).to_string(),
        _ => format!("n{index}"),
    }
}

fn list() -> Result<()> {
    for entry in std::fs::read_dir(state::LABS_DIR)
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let nodes = std::fs::read_to_string(entry.path().join("nodes")).unwrap_or_default();
        let nodes: Vec<&str> = nodes
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        let processes = teardown::members(&entry.path()).len();
        println!("{name}: nodes {}; {processes} processes", nodes.join(" "));
    }
    Ok(())
}
