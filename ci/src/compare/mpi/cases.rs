//! What is measured: each metric by each path, for its sizes and numbers of ranks.

use anyhow::{Result, ensure};
use clap::ValueEnum;

/// By what ranks of one machine reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Path {
    /// Shared memory.
    Shm,
    /// Sockets on loopback.
    Tcp,
}

impl Path {
    /// Its name in a row.
    pub fn name(self) -> &'static str {
        match self {
            Path::Shm => "shm",
            Path::Tcp => "tcp",
        }
    }
}

/// What `ci/programs/pace.c` measures, by these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Half of a round trip.
    Latency,
    /// Messages one way.
    Rate,
    /// Bytes one way.
    Bandwidth,
    /// A sum of numbers of 8 bytes.
    Allreduce,
    /// Something from each for each.
    Alltoall,
    /// From rank 0.
    Bcast,
    /// Nothing but waiting for all.
    Barrier,
}

impl Metric {
    /// What the program calls it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Latency => "latency",
            Metric::Rate => "rate",
            Metric::Bandwidth => "bandwidth",
            Metric::Allreduce => "allreduce",
            Metric::Alltoall => "alltoall",
            Metric::Bcast => "bcast",
            Metric::Barrier => "barrier",
        }
    }

    /// Its name in a row.
    pub fn with_unit(self) -> &'static str {
        match self {
            Metric::Latency => "latency_us",
            Metric::Rate => "rate_Mps",
            Metric::Bandwidth => "bandwidth_MBps",
            Metric::Allreduce => "allreduce_us",
            Metric::Alltoall => "alltoall_us",
            Metric::Bcast => "bcast_us",
            Metric::Barrier => "barrier_us",
        }
    }

    /// Whether it is a time.
    pub fn less_is_better(self) -> bool {
        !matches!(self, Metric::Rate | Metric::Bandwidth)
    }

    /// Not between two ranks, but among all.
    pub fn is_collective(self) -> bool {
        !matches!(self, Metric::Latency | Metric::Rate | Metric::Bandwidth)
    }

    /// Sizes that are compared where nothing else is said.
    fn sizes(self) -> &'static [usize] {
        match self {
            Metric::Latency | Metric::Rate => &[8],
            Metric::Bandwidth => &[8 << 10, 64 << 10, 1 << 20, 4 << 20],
            Metric::Allreduce | Metric::Alltoall | Metric::Bcast => &[8, 64 << 10, 1 << 20],
            Metric::Barrier => &[0],
        }
    }
}

/// Numbers of ranks of a collective where nothing else is said.
pub const RANKS: [u32; 3] = [2, 4, 8];
/// Ranks between which messages are measured.
const PAIR: u32 = 2;
/// Most bytes that a rank may have for each other; their number is an `int` of the program's.
const BYTES_MAX: usize = 1 << 28;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub path: Path,
    pub metric: Metric,
    pub bytes: usize,
    pub ranks: u32,
}

impl Case {
    /// For a person.
    pub fn name(&self) -> String {
        let Case { bytes, ranks, .. } = self;
        let (path, metric) = (self.path.name(), self.metric.name());
        format!("{path} {metric}, {bytes} bytes, {ranks} ranks")
    }
}

/// What is asked for; what is empty is everything.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// By what ranks reach each other.
    pub paths: Vec<Path>,
    /// What is measured.
    pub metrics: Vec<Metric>,
    /// Of every metric but the barrier.
    pub sizes: Vec<usize>,
    /// Of the collectives.
    pub ranks: Vec<u32>,
}

impl Selection {
    /// The cases, in the order in which they are measured.
    pub fn cases(&self) -> Result<Vec<Case>> {
        let paths = or_all(&self.paths, Path::value_variants());
        let metrics = or_all(&self.metrics, Metric::value_variants());
        let mut cases = Vec::new();
        for path in paths {
            for &metric in &metrics {
                let sizes = match metric {
                    Metric::Barrier => metric.sizes().to_vec(),
                    _ => or_all(&self.sizes, metric.sizes()),
                };
                let ranks = match metric.is_collective() {
                    true => or_all(&self.ranks, &RANKS),
                    false => vec![PAIR],
                };
                for ranks in ranks {
                    for &bytes in &sizes {
                        let case = Case {
                            path,
                            metric,
                            bytes,
                            ranks,
                        };
                        // What is named twice is measured once.
                        if !cases.contains(&case) {
                            cases.push(case);
                        }
                    }
                }
            }
        }
        cases.iter().try_for_each(check)?;
        Ok(cases)
    }
}

fn or_all<T: Clone>(some: &[T], all: &[T]) -> Vec<T> {
    if some.is_empty() { all } else { some }.to_vec()
}

fn check(case: &Case) -> Result<()> {
    let least = if case.metric == Metric::Barrier { 0 } else { 1 };
    ensure!(
        (least..=BYTES_MAX).contains(&case.bytes),
        "--sizes: {}: a size is from 1 to {BYTES_MAX}",
        case.name()
    );
    ensure!(
        case.metric != Metric::Allreduce || case.bytes.is_multiple_of(size_of::<f64>()),
        "--sizes: {}: an allreduce adds numbers of 8 bytes; give a multiple of 8, or other metrics by --metric",
        case.name()
    );
    ensure!(
        case.ranks >= PAIR,
        "--ranks: {}: there must be two",
        case.name()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aim_is_a_case() {
        let cases = Selection::default().cases().unwrap();
        let of = |metric| cases.iter().filter(|case| case.metric == metric).count();
        let counts = [
            of(Metric::Latency),
            of(Metric::Rate),
            of(Metric::Bandwidth),
            of(Metric::Allreduce),
            of(Metric::Barrier),
        ];
        assert_eq!(counts, [2, 2, 8, 18, 6]);
        assert_eq!(cases.len(), 2 * (1 + 1 + 4 + 3 * 9 + 3));
    }

    #[test]
    fn a_selection_leaves_out_the_rest() {
        let selection = Selection {
            paths: vec![Path::Tcp],
            metrics: vec![Metric::Rate, Metric::Barrier],
            sizes: vec![8, 16, 8],
            ranks: vec![4],
        };
        let cases = selection.cases().unwrap();
        let cases: Vec<_> = cases.iter().map(Case::name).collect();
        let expected = [
            "tcp rate, 8 bytes, 2 ranks",
            "tcp rate, 16 bytes, 2 ranks",
            "tcp barrier, 0 bytes, 4 ranks",
        ];
        assert_eq!(cases, expected);
    }

    #[test]
    fn what_the_program_would_refuse_is_refused_before() {
        let sized = |metric, sizes: &[usize], ranks: &[u32]| Selection {
            metrics: vec![metric],
            sizes: sizes.to_vec(),
            ranks: ranks.to_vec(),
            ..Selection::default()
        };
        assert!(sized(Metric::Allreduce, &[12], &[]).cases().is_err());
        assert!(sized(Metric::Bcast, &[0], &[]).cases().is_err());
        assert!(sized(Metric::Bcast, &[12], &[1]).cases().is_err());
        assert!(sized(Metric::Bcast, &[12], &[3]).cases().is_ok());
    }
}
