//! The programs that verbs streams are compared with, and our own: how each is run on two machines,
//! and what it prints.

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::MIB;
use super::super::owned;
use super::super::ucx::Ucx;

/// What is measured in one run of a pair of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Half a round trip, in microseconds: the median, or the mean of a tool that knows no other.
    Latency,
    /// One message after another, in 10^6 bytes a second.
    Bandwidth,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub measure: Measure,
    /// Bytes of a message.
    pub bytes: usize,
}

/// A program that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `meander-bench`, as libraries use streams: its contender `stream-posted`.
    Ours,
    /// perftest: SEND.
    SendLatency,
    /// perftest: RDMA WRITE, the receiver watching memory.
    WriteLatency,
    /// perftest: RDMA WRITE.
    WriteBandwidth,
    /// rsockets: send and receive.
    Rstream,
    /// rsockets: write into the other's memory.
    Riostream,
    /// UCX's transport layer over rc_verbs: active messages as long as they fit, then RDMA WRITE.
    Ucx,
}

impl Tool {
    /// Everybody but ourselves.
    pub const OTHERS: [Tool; 6] = [
        Tool::SendLatency,
        Tool::WriteLatency,
        Tool::WriteBandwidth,
        Tool::Rstream,
        Tool::Riostream,
        Tool::Ucx,
    ];

    /// What the results call it.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Ours => "meander",
            Tool::SendLatency => "ib_send_lat",
            Tool::WriteLatency => "ib_write_lat",
            Tool::WriteBandwidth => "ib_write_bw",
            Tool::Rstream => "rstream",
            Tool::Riostream => "riostream",
            Tool::Ucx => "ucx_perftest",
        }
    }

    /// Whether it measures that.
    pub fn measures(self, measure: Measure) -> bool {
        match self {
            Tool::SendLatency | Tool::WriteLatency => measure == Measure::Latency,
            Tool::WriteBandwidth => measure == Measure::Bandwidth,
            Tool::Ours | Tool::Rstream | Tool::Riostream | Tool::Ucx => true,
        }
    }

    /// The command of the machine that serves, and that of the one which measures.
    pub fn commands(self, run: &Run, ends: &Ends<'_>) -> (Vec<String>, Vec<String>) {
        let (bytes, count) = (run.bytes.to_string(), run.messages().to_string());
        let count = count.as_str();
        match self {
            Tool::Ours => ours(run, ends),
            Tool::SendLatency | Tool::WriteLatency | Tool::WriteBandwidth => {
                let device = ["-d", ends.device, "-x", ends.gid_index];
                let of_run = ["-s", &bytes, "-n", count, "-F"];
                let server = [&[self.name()], &device[..], &of_run].concat();
                let client = [&server[..], &[ends.rdma_address]].concat();
                (owned(&server), owned(&client))
            }
            Tool::Rstream | Tool::Riostream => {
                // To and fro so many times, or so many one way and then so many back.
                let (transfers, rounds) = match run.measure {
                    Measure::Latency => ("1", count),
                    Measure::Bandwidth => (count, "1"),
                };
                let of_run = ["-S", &bytes, "-C", transfers, "-I", rounds];
                let server = [&[self.name(), "-b", ends.rdma_address], &of_run[..]].concat();
                let client = [&[self.name(), "-s", ends.rdma_address], &of_run[..]].concat();
                (owned(&server), owned(&client))
            }
            Tool::Ucx => {
                let (test, layout) = run.ucx_test();
                let index = format!("UCX_IB_GID_INDEX={}", ends.gid_index);
                let device = format!("{}:1", ends.device);
                let server = [
                    "env",
                    &index,
                    "ucx_perftest",
                    "-d",
                    &device,
                    "-x",
                    "rc_verbs",
                ];
                let of_run = ["-t", test, "-D", layout, "-s", &bytes, "-n", count];
                let rest = ["-w", "5", "-f", "-v", ends.address];
                let client = [&server[..], &of_run, &rest].concat();
                (owned(&server), owned(&client))
            }
        }
    }

    /// The value that the measuring program has printed.
    pub fn value(self, run: &Run, output: &str) -> Result<f64> {
        let value = match self {
            Tool::Ours => our_value(output),
            Tool::SendLatency | Tool::WriteLatency => perftest_row(run, output, 4),
            Tool::WriteBandwidth if run.is_small() => {
                perftest_row(run, output, 4).map(|rate| rate * run.bytes as f64)
            }
            Tool::WriteBandwidth => perftest_row(run, output, 3).map(|mebibytes| mebibytes * MIB),
            Tool::Rstream | Tool::Riostream => rsockets_value(run, output),
            Tool::Ucx => ucx_value(run, output),
        };
        value
            .filter(|value| value.is_finite() && *value > 0.0)
            .with_context(|| format!("{} said:\n{output}", self.name()))
    }
}

/// Where the two ends are.
pub struct Ends<'a> {
    /// The verbs device and the index of its RoCE v2 address.
    pub device: &'a str,
    pub gid_index: &'a str,
    /// The serving machine's addresses: on the network with RDMA, and on the other.
    pub rdma_address: &'a str,
    pub address: &'a str,
    /// The measuring machine's on the network without.
    pub client_address: &'a str,
    /// What our side uses (`MEANDER_TRANSPORT`).
    pub transport: &'a str,
    /// The file of the key that both machines have.
    pub key: &'a str,
}

/// UCX sends no longer ones as active messages over rc_verbs.
const UCX_MESSAGE_MAX: usize = 8 << 10;
/// UCX puts these into the work request itself.
const UCX_SHORT_MAX: usize = 32;
/// Bytes of a bandwidth run, as far as its bounds of messages allow.
const RUN_BYTES: usize = 8 << 20;
/// Where our side serves.
const PORT: u16 = 7218;

impl Run {
    /// How many messages: the machines are slow.
    fn messages(&self) -> usize {
        match self.measure {
            Measure::Latency => (RUN_BYTES / 2 / self.bytes).clamp(8, 200),
            Measure::Bandwidth => (RUN_BYTES / self.bytes).clamp(8, 500),
        }
    }

    /// So small that a rate has more digits in what is printed than a bandwidth.
    fn is_small(&self) -> bool {
        self.bytes < 4096
    }

    fn ucx_test(&self) -> (&'static str, &'static str) {
        let layout = match self.bytes {
            0..=UCX_SHORT_MAX => "short",
            bytes if bytes < UCX_MESSAGE_MAX => "bcopy",
            _ => "zcopy",
        };
        let test = match (self.measure, layout) {
            (Measure::Latency, "zcopy") => "put_lat",
            (Measure::Latency, _) => "am_lat",
            (Measure::Bandwidth, "zcopy") => "put_bw",
            (Measure::Bandwidth, _) => "am_bw",
        };
        (test, layout)
    }
}

fn ours(run: &Run, ends: &Ends<'_>) -> (Vec<String>, Vec<String>) {
    let transport = format!("MEANDER_TRANSPORT={}", ends.transport);
    let bind = |address| format!("MEANDER_TCP_ADDR={address}");
    let (here, there) = (bind(ends.address), bind(ends.client_address));
    let listen = format!("{}:{PORT}", ends.address);
    let (bytes, count) = (run.bytes.to_string(), run.messages().to_string());
    let measure = match run.measure {
        Measure::Latency => "latency",
        Measure::Bandwidth => "bandwidth",
    };
    let server = ["env", &transport, &here, "meander-bench", "serve"];
    let server = [&server[..], &["--listen", &listen, "--key", ends.key]].concat();
    let client = ["env", &transport, &there, "meander-bench", measure];
    let of_run = ["--sizes", &bytes, "--messages", &count, "--rounds", "1"];
    let rest = ["--only", "stream-posted", "--json"];
    let to = ["--connect", &listen, "--key", ends.key];
    (
        owned(&server),
        owned(&[&client[..], &of_run, &rest, &to].concat()),
    )
}

fn our_value(output: &str) -> Option<f64> {
    let document: Value = serde_json::from_str(output).ok()?;
    document["rows"][0]["results"][0]["value"].as_f64()
}

/// What a message cost our measuring side: an object of numbers.
pub fn our_costs(output: &str) -> Option<Value> {
    let document: Value = serde_json::from_str(output).ok()?;
    let costs = &document["rows"][0]["results"][0]["per_message"];
    costs.is_object().then(|| costs.clone())
}

/// A column of perftest's one row: bytes, iterations, and then least, most, typical ... of a latency,
/// or peak, average (2^20 bytes a second) and rate (10^6 a second) of a bandwidth.
fn perftest_row(run: &Run, output: &str, column: usize) -> Option<f64> {
    let bytes = run.bytes.to_string();
    let mut rows = output.lines().map(str::split_ascii_whitespace);
    let mut row =
        rows.find(|row| row.clone().next() == Some(&bytes) && row.clone().count() >= 5)?;
    row.nth(column)?.parse().ok()
}

/// The last column is microseconds a transfer.
fn rsockets_value(run: &Run, output: &str) -> Option<f64> {
    let row = output.lines().find(|line| line.starts_with("custom"))?;
    let each: f64 = row.split_ascii_whitespace().last()?.parse().ok()?;
    Some(match run.measure {
        Measure::Latency => each,
        Measure::Bandwidth => run.bytes as f64 / each,
    })
}

fn ucx_value(run: &Run, output: &str) -> Option<f64> {
    let ucx = Ucx::read(output)?;
    Some(match run.measure {
        Measure::Latency => ucx.median_us,
        Measure::Bandwidth if run.is_small() => ucx.rate * run.bytes as f64,
        Measure::Bandwidth => ucx.bandwidth,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(measure: Measure, bytes: usize) -> Run {
        Run { measure, bytes }
    }

    #[test]
    fn what_perftest_prints_is_understood() {
        let latency = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec] \n 8       500          350.04         16409.24      3880.63  \t       3150.96     \t2267.25\t\t13129.10 \t\t16409.24\n";
        let value = Tool::SendLatency.value(&run(Measure::Latency, 8), latency);
        assert_eq!(value.unwrap(), 3880.63);
        let bandwidth = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n 65536      300              14.90              14.00   \t\t   0.000224\n 8          300              0.00               0.00   \t\t   0.000500\n";
        let large = Tool::WriteBandwidth.value(&run(Measure::Bandwidth, 65536), bandwidth);
        assert!((large.unwrap() - 14.680_064).abs() < 1e-9);
        let small = Tool::WriteBandwidth.value(&run(Measure::Bandwidth, 8), bandwidth);
        assert!((small.unwrap() - 0.004).abs() < 1e-12);
        assert!(
            Tool::SendLatency
                .value(&run(Measure::Latency, 64), latency)
                .is_err()
        );
    }

    #[test]
    fn what_rsockets_print_is_understood() {
        let output = "name      bytes   xfers   iters   total       time     Gb/sec    usec/xfer\ncustom    64k     100     1       12m         1.65s      0.06    8192.00\n";
        let latency = Tool::Rstream.value(&run(Measure::Latency, 65536), output);
        assert_eq!(latency.unwrap(), 8192.0);
        let bandwidth = Tool::Riostream.value(&run(Measure::Bandwidth, 65536), output);
        assert_eq!(bandwidth.unwrap(), 8.0);
    }

    #[test]
    fn what_ucx_prints_is_understood() {
        let output = "iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr\n 100,10004.000,11640.999,13145.940,5.37,4.75,89,77\n";
        let latency = Tool::Ucx.value(&run(Measure::Latency, 65536), output);
        assert_eq!(latency.unwrap(), 10004.0);
        let bandwidth = Tool::Ucx.value(&run(Measure::Bandwidth, 65536), output);
        assert!((bandwidth.unwrap() - 4.980_736).abs() < 1e-9);
        let small = Tool::Ucx.value(&run(Measure::Bandwidth, 1000), output);
        assert!((small.unwrap() - 0.077).abs() < 1e-12);
        let failed = "iterations,50.0_percentile_lat,avg_lat\n";
        assert!(Tool::Ucx.value(&run(Measure::Latency, 8), failed).is_err());
    }
}
