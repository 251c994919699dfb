//! Latency, bandwidth and message rate of Meander streams, beside raw sockets and raw shared memory that do
//! the same in the same run.
//!
//! Two processes on this machine talk to each other over each transport in turn, or one of two machines serves and
//! the other measures ([`remote`]). For each size the contenders take turns, round after round, so that
//! whatever else the machine does meets all of them; what is reported is the median of the rounds.

mod directory;
mod instructions;
mod line;
mod measure;
mod migrate;
mod output;
mod peer;
mod pin;
mod remote;
mod report;
mod shared;
mod sizes;
mod survey;
mod transport;

use clap::{Parser, Subcommand};

use crate::measure::Measure;

#[derive(Parser)]
#[command(
    version,
    about = "Latency, bandwidth and message rate of Meander streams beside raw sockets and raw shared memory, and what a move costs them"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Half the round trip of a message that is sent back at once, in microseconds.
    Latency(survey::Options),
    /// Messages one after the other in one direction, in megabytes (10^6) a second.
    Bandwidth(survey::Options),
    /// Small messages one after the other in one direction, in millions a second.
    Rate(survey::Options),
    /// Messages in both directions at once, in megabytes (10^6) a second of both together.
    Bidirectional(survey::Options),
    /// Latency before and after the other end of a stream moves to another process, and the gap
    /// meanwhile.
    Migrate(migrate::Options),
    /// What the directory costs: a look-up and a move with many ports in it, and a move of a port
    /// with many peers.
    Directory(directory::Options),
    /// Draws what was measured: one HTML page.
    Report(report::Options),
    /// Be the other process of one measurement on another machine, then end.
    Serve(remote::ServeOptions),
    /// Sends messages from one port to another of this process, for an instruction counter.
    #[command(hide = true)]
    Instructions(instructions::Options),
    /// The other process of a measurement; it is started by the first.
    #[command(hide = true)]
    Peer,
    /// The process that the other one's port moves to.
    #[command(hide = true)]
    Successor,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Latency(options) => survey::run(Measure::Latency, &options),
        Command::Bandwidth(options) => survey::run(Measure::Bandwidth, &options),
        Command::Rate(options) => survey::run(Measure::Rate, &options),
        Command::Bidirectional(options) => survey::run(Measure::Bidirectional, &options),
        Command::Migrate(options) => migrate::run(&options),
        Command::Directory(options) => directory::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Serve(options) => remote::serve(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Peer => peer::serve(),
        Command::Successor => peer::succeed(),
    }
}
