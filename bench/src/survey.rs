//! A measurement over sizes and transports, as the command line asks for it.

use anyhow::{Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::line::Contender;
use crate::measure::{Measure, Row, Session, Setting};
use crate::output::{self, Format};
use crate::pin::Pin;
use crate::remote::Elsewhere;
use crate::sizes::{Bytes, Sweep};
use crate::transport::{self, Transport};

#[derive(Args)]
pub struct Options {
    /// Sizes of the messages, separated by commas: 8,64K,1M.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<Bytes>,
    /// Sizes from one to another, round ones and such beside them: 1..4M.
    #[arg(long, value_name = "FROM..TO", conflicts_with = "sizes")]
    sweep: Option<Sweep>,
    /// Rounds of each contender at each size.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages of a round, of which a tenth warms up; by default as many as take a moment.
    #[arg(long)]
    messages: Option<usize>,
    /// Contenders, separated by commas; on one machine the raw one is always there.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Transports, separated by commas; else what MEANDER_TRANSPORT says, else all there are.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "connect")]
    transport: Vec<Transport>,
    /// Processors of this process and the other: 0,1, or none; by default two cores.
    #[arg(long, value_name = "A,B")]
    pin: Option<Pin>,
    #[command(flatten)]
    elsewhere: Elsewhere,
    #[command(flatten)]
    format: Format,
}

/// Measures and prints.
pub fn run(measure: Measure, options: &Options) -> Result<()> {
    let rows = measure_all(measure, options, &mut |row, first| {
        options.format.print_row(measure, row, first);
    })?;
    options
        .format
        .print_all(&output::Document::new(measure, rows))
}

fn measure_all(
    measure: Measure,
    options: &Options,
    each: &mut dyn FnMut(&Row, bool),
) -> Result<Vec<Row>> {
    let sizes = options.sizes(measure);
    let remote = options.elsewhere.connect.is_some();
    let transports = transport::chosen(&options.transport, remote);
    let bar = progress_bar(sizes.len() * transports.len());
    let mut rows = Vec::new();
    for transport in transports {
        let usual = || if remote { Pin::Free } else { Pin::usual() };
        let mut session = options.elsewhere.session(&Setting {
            transport,
            pin: options.pin.unwrap_or_else(usual),
            bytes_max: sizes.iter().copied().max().unwrap_or(1),
        })?;
        let contenders = options.contenders(measure, &session, remote)?;
        for &size in &sizes {
            bar.set_message(format!("{} {size} B", session.transport()?));
            let row = session.row(
                measure,
                &contenders,
                size,
                options.rounds.max(1),
                options.messages,
            )?;
            bar.suspend(|| each(&row, rows.is_empty()));
            bar.inc(1);
            rows.push(row);
        }
        session.end()?;
    }
    bar.finish_and_clear();
    Ok(rows)
}

impl Options {
    fn sizes(&self, measure: Measure) -> Vec<usize> {
        match self.sweep {
            Some(sweep) => sweep.sizes(),
            None if self.sizes.is_empty() => measure.usual_sizes().to_vec(),
            None => self.sizes.iter().map(|it| it.0).collect(),
        }
    }

    fn contenders(
        &self,
        measure: Measure,
        session: &Session,
        remote: bool,
    ) -> Result<Vec<Contender>> {
        let mut all = Contender::over(session.transport()?, measure);
        if remote {
            // It is on the wire's other end whatever streams go by.
            let raw = |it: &Contender| matches!(it, Contender::RawRing | Contender::RawMemcpy);
            all.retain(|it| !raw(it));
        }
        let first = all[0];
        all.retain(|it| {
            self.only.is_empty() || self.only.contains(it) || (*it == first && !remote)
        });
        ensure!(!all.is_empty(), "none of these contenders takes part here");
        Ok(all)
    }
}

/// On a terminal only.
pub fn progress_bar(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(steps as u64).with_style(style)
}
