//! Latency and bandwidth of Meander streams, beside a plain socket that does the same in the same
//! run.
//!
//! Two processes on this machine talk over loopback, or one of two machines serves and the other
//! measures ([`remote`]); `MEANDER_TRANSPORT` chooses the transport. For each size the contenders take turns, round
//! after round, so that whatever else the machine does meets all of them; what is reported is the
//! median of the rounds.

mod directory;
mod fork;
mod instructions;
mod line;
mod measure;
mod migrate;
mod peer;
mod remote;
mod report;

use clap::{Args, Parser, Subcommand};

use crate::line::Contender;
use crate::measure::Measure;

#[derive(Parser)]
#[command(
    version,
    about = "Latency and bandwidth of Meander streams beside a plain socket, and what a move costs them"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Half the round trip of a message that is sent back at once, in microseconds.
    Latency(Options),
    /// Messages one after the other in one direction, in megabytes (10^6) a second.
    Bandwidth(Options),
    /// Latency before and after the other end of a stream moves to another process, and the gap
    /// meanwhile.
    Migrate(MigrateOptions),
    /// What the directory costs: a look-up and a move with many ports in it, and a move of a port
    /// with many peers.
    Directory(directory::Options),
    /// Be the other process of one `latency` or `bandwidth` on another machine, then end.
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

#[derive(Args)]
struct Options {
    /// Sizes of the messages in bytes, separated by commas.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Rounds of each contender at each size.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages of a round; by default as many as take a moment.
    #[arg(long)]
    messages: Option<usize>,
    /// Contenders, separated by commas; on one machine the raw socket is always one.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contender>,
    #[command(flatten)]
    elsewhere: remote::Elsewhere,
    /// Print JSON, not a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct MigrateOptions {
    /// Size of the messages in bytes.
    #[arg(long, default_value_t = 8)]
    size: usize,
    /// Rounds, a move each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages before a move, and after it.
    #[arg(long)]
    messages: Option<usize>,
    /// Print JSON, not a table.
    #[arg(long)]
    json: bool,
}

const LATENCY_SIZES: [usize; 6] = [1, 8, 64, 1024, 16_384, 65_536];
const BANDWIDTH_SIZES: [usize; 6] = [64, 1024, 16_384, 65_536, 1 << 20, 16 << 20];

fn main() -> anyhow::Result<()> {
    fork::announce();
    let (measure, options, sizes) = match Cli::parse().command {
        Command::Latency(options) => (Measure::Latency, options, LATENCY_SIZES),
        Command::Bandwidth(options) => (Measure::Bandwidth, options, BANDWIDTH_SIZES),
        Command::Migrate(options) => return print_migrate(&options),
        Command::Directory(options) => return directory::run(&options),
        Command::Serve(options) => return remote::serve(&options),
        Command::Instructions(options) => return instructions::run(&options),
        Command::Peer => return peer::serve(),
        Command::Successor => return peer::succeed(),
    };
    let sizes = if options.sizes.is_empty() {
        sizes.to_vec()
    } else {
        options.sizes
    };
    let mut results = Vec::new();
    let mut session = options.elsewhere.session()?;
    // The first is what the others are compared with.
    let compared =
        |it: &Contender| *it == Contender::RawSocket && options.elsewhere.connect.is_none();
    let mut contenders = Contender::ALL.to_vec();
    contenders.retain(|it| compared(it) || options.only.is_empty() || options.only.contains(it));
    for size in sizes {
        let row = session.row(
            measure,
            &contenders,
            size,
            options.rounds.max(1),
            options.messages,
        )?;
        if !options.json {
            report::print_row(measure, &row, results.is_empty());
        }
        results.push(row);
    }
    if options.json {
        println!("{}", report::json(measure, &results)?);
    }
    session.end()
}

fn print_migrate(options: &MigrateOptions) -> anyhow::Result<()> {
    let results = migrate::measure(options.size, options.rounds.max(1), options.messages)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        report::print_migration(&results);
    }
    Ok(())
}
