//! The `meander` command.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use meander::NodeName;
use meander_node::commands::{self, exit, migrate::RankName};
use meander_node::directory::embedded;
use meander_node::{Error, agent, cluster, keyfile, logs, moves};

/// Moves running ranks of unmodified MPI programs between nodes.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
First steps, as root on every node:
  meander key                    make the cluster key (once; copy it to the other nodes)
  meander agent --node a         start the agent of node `a` of /etc/meander/cluster.toml
  meander doctor                 see what is missing
Then, as any user, on any node:
  mpirun -x LD_PRELOAD=.../libmeander_mpi.so ./program
  meander ps                     see the jobs and where their ranks are
  meander migrate 0a1b2c3d/3 c   move rank 3 of job 0a1b2c3d to node `c` while it runs

Exit codes:
  0  done
  1  failed (the message says how and why)
  2  wrong usage
  3  no agent, directory or node can be reached
  4  no such rank or node, or it is not yours to move
  5  the move was rolled back: the rank runs where it was, nothing is lost
  6  the rank ended by itself during its move

MEANDER_RUN_DIR names the directory of sockets and logs (default /run/meander)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve this node: one agent a node, as root, in the foreground
    Agent {
        #[command(flatten)]
        files: Files,
        /// This node's name in the cluster file [default: the host name]
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Largest image of a rank to take in, such as 512MiB or 8GiB [default: what memory is free]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        memory_limit: Option<u64>,
        /// The directory, instead of the cluster file's: a node's name, or etcd://HOST:PORT,HOST:PORT,...
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<String>,
        /// The directory's file, should this node hold it [default: in /var/lib/meander]
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
    },
    /// Show where the directory is, or hand it over to another node
    Directory {
        #[command(subcommand)]
        command: Option<DirectoryCommand>,
    },
    /// List jobs, and where their ranks are
    Ps {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Move a rank to another node while it runs
    Migrate {
        /// The rank, as `meander ps` shows it; a beginning of the job's name will do
        #[arg(value_name = "JOB/RANK")]
        rank: RankName,
        /// The node to move it to
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Make the cluster key, or show the fingerprint of the one there is
    Key {
        /// The key's file
        #[arg(long, value_name = "FILE", default_value = keyfile::DEFAULT_PATH)]
        key: PathBuf,
    },
    /// Check what this node can do, and say how to mend what it can't
    Doctor {
        #[command(flatten)]
        files: Files,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    #[command(hide = true)]
    MoveSource {
        #[arg(long)]
        order: Option<String>,
        #[arg(long)]
        recover: Option<PathBuf>,
    },
    #[command(hide = true)]
    Guardian,
}

#[derive(Subcommand)]
enum DirectoryCommand {
    /// Show where it is (the same as no subcommand)
    Show,
    /// Hand it over to another node while jobs run, say before its node is emptied
    ///
    /// Nothing is lost, and moves that are asked for meanwhile wait. The node that held it tells
    /// whoever asks there who holds it now; agents remember that.
    Move {
        /// The node that shall hold it
        #[arg(value_name = "NODE")]
        node: String,
    },
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        files: Files,
        #[arg(long)]
        node: String,
        #[arg(long)]
        store: Option<PathBuf>,
        #[arg(long)]
        directory: Option<String>,
    },
}

#[derive(Args)]
struct Files {
    /// The cluster file
    #[arg(long, value_name = "FILE", default_value = cluster::DEFAULT_PATH)]
    cluster: PathBuf,
    /// The cluster key's file
    #[arg(long, value_name = "FILE", default_value = keyfile::DEFAULT_PATH)]
    key: PathBuf,
}

fn main() -> ExitCode {
    if let Some(code) = meander_node::hidden::run() {
        return code;
    }
    let command = Cli::parse().command;
    ExitCode::from(run(command).unwrap_or_else(|error| commands::complain(&error)))
}

fn run(command: Command) -> Result<u8, Error> {
    match command {
        Command::Ps { json } => return commands::ps::run(json),
        Command::Migrate { rank, node } => return commands::migrate::run(rank, node),
        Command::Key { key } => commands::key::run(&key)?,
        Command::Doctor { files, json } => {
            return commands::doctor::run(&files.cluster, &files.key, json);
        }
        Command::Agent {
            files,
            node,
            memory_limit,
            directory,
            store,
        } => {
            logs::start();
            let node = NodeName(node.unwrap_or_else(host_name));
            let Files { cluster, key } = files;
            agent::run(agent::Config {
                cluster,
                directory,
                key,
                node,
                memory_limit_bytes: memory_limit,
                store,
            })?;
        }
        Command::Directory { command } => return run_directory(command),
        Command::MoveSource { order, recover } => {
            logs::start();
            // The agent that waits for this process reads from its exit code whether the rank is
            // still the agent's to look after.
            let moved = match recover {
                Some(journal) => moves::source::recover(&journal)?,
                None => moves::source::start(&order.unwrap_or_default())?,
            };
            return Ok(if moved { exit::DONE } else { exit::ROLLED_BACK });
        }
        Command::Guardian => {
            logs::start();
            moves::destination::run()?;
        }
    }
    Ok(exit::DONE)
}

fn run_directory(command: Option<DirectoryCommand>) -> Result<u8, Error> {
    match command {
        None | Some(DirectoryCommand::Show) => commands::directory::show(),
        Some(DirectoryCommand::Move { node }) => commands::directory::hand_over(NodeName(node)),
        Some(DirectoryCommand::Serve {
            files,
            node,
            store,
            directory,
        }) => {
            logs::start();
            let cluster = cluster::Cluster::read(&files.cluster)?;
            let cluster = cluster.with_directory(directory.as_deref())?;
            let key = keyfile::read(&files.key)?;
            let store = store.unwrap_or_else(|| embedded::default_store(&key));
            embedded::server::start(&cluster, &key, &NodeName(node), &store)?;
            Ok(exit::DONE)
        }
    }
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Bytes, with a unit: 512MiB, 8G, 1000000.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size such as 512MiB or 8GiB");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("8G"), Ok(8 << 30));
        assert_eq!(parse_size("1000"), Ok(1000));
        for wrong in ["", "GiB", "1XB", "-1", "99999999999TiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
