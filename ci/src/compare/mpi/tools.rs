//! Who is compared: the MPI program under the shim and under native libraries, NetPIPE likewise, UCX, and
//! the raw baselines. How each is run on this machine, and what it prints.

use std::net::TcpListener;

use anyhow::{Context, Result, bail};

use super::super::owned;
use super::super::ucx::Ucx;
use super::cases::{Case, Metric, Path};
use super::values;
use crate::artifacts::{self, Artifacts};

/// A program that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `pace`, under Open MPI's launcher and our shim.
    Ours,
    /// `pace` under Open MPI: vader, or its TCP.
    OpenMpi,
    /// `pace` under MPICH: its shared memory, or UCX's TCP.
    Mpich,
    /// UCX's own measurement, at its layer of tagged messages, on which MPI libraries stand.
    Ucx,
    /// NetPIPE for Open MPI, under our shim.
    NetpipeOurs,
    /// NetPIPE for Open MPI.
    NetpipeOpenMpi,
    /// NetPIPE over plain sockets.
    NetpipeTcp,
    /// `meander-bench`: a ring of cache lines between two processes.
    RawRing,
    /// `meander-bench`: messages copied once.
    RawMemcpy,
    /// `meander-bench`: a plain socket.
    RawSocket,
}

impl Tool {
    /// Everybody but ourselves.
    pub const OTHERS: [Tool; 8] = [
        Tool::OpenMpi,
        Tool::Mpich,
        Tool::Ucx,
        Tool::NetpipeOpenMpi,
        Tool::NetpipeTcp,
        Tool::RawRing,
        Tool::RawMemcpy,
        Tool::RawSocket,
    ];

    /// What the results call it.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Ours => "meander",
            Tool::OpenMpi => "openmpi",
            Tool::Mpich => "mpich",
            Tool::Ucx => "ucx_perftest",
            Tool::NetpipeOurs => "netpipe-meander",
            Tool::NetpipeOpenMpi => "netpipe-openmpi",
            Tool::NetpipeTcp => "netpipe-tcp",
            Tool::RawRing => "raw-ring",
            Tool::RawMemcpy => "raw-memcpy",
            Tool::RawSocket => "raw-socket",
        }
    }

    /// Whether it is what others are compared with.
    pub fn is_ours(self) -> bool {
        self == self.counterpart()
    }

    /// Which of ours it is compared with: the same program under the shim, as far as there is one.
    pub fn counterpart(self) -> Tool {
        match self {
            Tool::NetpipeOurs | Tool::NetpipeOpenMpi | Tool::NetpipeTcp => Tool::NetpipeOurs,
            _ => Tool::Ours,
        }
    }

    /// Whether it measures that.
    pub fn measures(self, case: &Case) -> bool {
        let over = |path| case.path == path && !case.metric.is_collective();
        match self {
            Tool::Ours | Tool::OpenMpi | Tool::Mpich => true,
            Tool::Ucx => !case.metric.is_collective(),
            Tool::NetpipeOurs | Tool::NetpipeOpenMpi => {
                matches!(case.metric, Metric::Latency | Metric::Bandwidth)
            }
            Tool::NetpipeTcp => over(Path::Tcp) && case.metric != Metric::Rate,
            Tool::RawRing => over(Path::Shm),
            Tool::RawMemcpy => over(Path::Shm) && case.metric == Metric::Bandwidth,
            Tool::RawSocket => over(Path::Tcp),
        }
    }

    /// How it is run.
    pub fn launch(self, case: &Case, programs: &Programs) -> Result<Launch> {
        Ok(match self {
            Tool::Ours => Launch::One(open_mpi(case, &ours(case, programs), programs.pace(case))),
            Tool::OpenMpi => {
                let native = owned(native_open_mpi(case.path));
                Launch::One(open_mpi(case, &native, programs.pace(case)))
            }
            Tool::Mpich => Launch::One(mpich(case, programs)),
            Tool::NetpipeOurs => {
                Launch::One(open_mpi(case, &ours(case, programs), netpipe_mpi(case)))
            }
            Tool::NetpipeOpenMpi => {
                let native = owned(native_open_mpi(case.path));
                Launch::One(open_mpi(case, &native, netpipe_mpi(case)))
            }
            Tool::NetpipeTcp => netpipe_tcp(case)?,
            Tool::Ucx => ucx(case)?,
            Tool::RawRing | Tool::RawMemcpy | Tool::RawSocket => {
                Launch::One(raw(self.name(), case, programs))
            }
        })
    }

    /// The value it has printed, in the unit of the case's metric.
    pub fn value(self, case: &Case, output: &str) -> Result<f64> {
        let value = match self {
            Tool::Ours | Tool::OpenMpi | Tool::Mpich => values::of_pace(case, output),
            Tool::NetpipeOurs | Tool::NetpipeOpenMpi | Tool::NetpipeTcp => {
                values::of_netpipe(case, output)
            }
            Tool::Ucx => Ucx::read(output).map(|ucx| match case.metric {
                Metric::Latency => ucx.median_us,
                Metric::Rate => ucx.rate,
                _ => ucx.bandwidth,
            }),
            Tool::RawRing | Tool::RawMemcpy | Tool::RawSocket => {
                values::of_bench(self.name(), output)
            }
        };
        value
            .filter(|value| value.is_finite() && *value > 0.0)
            .with_context(|| format!("no value in what it said:\n{output}"))
    }
}

/// The commands of a run.
pub enum Launch {
    One(Vec<String>),
    /// One that serves, and one that measures.
    Pair((Vec<String>, Vec<String>)),
}

/// The programs that are ours.
pub struct Programs {
    open_mpi: String,
    mpich: String,
    shim: String,
    bench: String,
}

impl Programs {
    /// Compiles what is C, and fails where the rest was not built.
    pub fn ready() -> Result<Programs> {
        let built = Artifacts::locate();
        for name in ["libmeander_mpi.so", "meander-wireup", "meander-bench"] {
            let path = built.dir().join(name);
            if !path.exists() {
                bail!(
                    "{} is missing: `cargo xtask build` makes it",
                    path.display()
                );
            }
        }
        let pace = |compiler| artifacts::program_by(PROGRAM, compiler);
        Ok(Programs {
            open_mpi: pace("mpicc.openmpi")?.display().to_string(),
            mpich: pace("mpicc.mpich")?.display().to_string(),
            shim: built.shim().display().to_string(),
            bench: built.dir().join("meander-bench").display().to_string(),
        })
    }

    fn pace(&self, case: &Case) -> Vec<String> {
        let bytes = case.bytes.to_string();
        owned(&[&self.open_mpi, case.metric.name(), &bytes])
    }
}

/// The program that runs under each library.
const PROGRAM: &str = "pace";
/// NetPIPE's and UCX's pairs meet here.
const LOOPBACK: &str = "127.0.0.1";
/// Bytes that UCX sends in a run, as far as its bounds of messages allow.
const UCX_RUN_BYTES: usize = 1 << 30;
const UCX_MESSAGES: (usize, usize) = (200, 100_000);

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

/// Ranks that have a core each are bound to them under both launchers, others to none.
fn open_mpi(case: &Case, how: &[String], program: Vec<String>) -> Vec<String> {
    let binding = if case.ranks <= processors() {
        "core:overload-allowed"
    } else {
        "none"
    };
    let ranks = case.ranks.to_string();
    let launcher = ["mpirun.openmpi", "--oversubscribe", "-np", &ranks];
    let binding = ["--bind-to", binding];
    [owned(&launcher), owned(&binding), how.to_vec(), program].concat()
}

fn native_open_mpi(path: Path) -> &'static [&'static str] {
    match path {
        Path::Shm => &["--mca", "pml", "ob1", "--mca", "btl", "self,vader"],
        Path::Tcp => &[
            "--mca",
            "pml",
            "ob1",
            "--mca",
            "btl",
            "self,tcp",
            "--mca",
            "btl_tcp_if_include",
            "lo",
        ],
    }
}

fn ours(case: &Case, programs: &Programs) -> Vec<String> {
    let transport = match case.path {
        Path::Shm => "MEANDER_TRANSPORT=shm,tcp",
        Path::Tcp => "MEANDER_TRANSPORT=tcp",
    };
    let preload = format!("LD_PRELOAD={}", programs.shim);
    let address = format!("MEANDER_TCP_ADDR={LOOPBACK}");
    owned(&["-x", &preload, "-x", transport, "-x", &address])
}

fn mpich(case: &Case, programs: &Programs) -> Vec<String> {
    // Over TCP: no shared memory of MPICH's own, and none of UCX's.
    let environment: &[&str] = match case.path {
        Path::Shm => &["UCX_TLS=shm,self"],
        Path::Tcp => &["MPIR_CVAR_NOLOCAL=1", "UCX_TLS=tcp,self", UCX_LOOPBACK],
    };
    let (ranks, bytes) = (case.ranks.to_string(), case.bytes.to_string());
    let launcher = ["mpirun.mpich", "-np", &ranks];
    let binding: &[&str] = if case.ranks <= processors() {
        &["-bind-to", "core"]
    } else {
        &[]
    };
    let program = [&programs.mpich, case.metric.name(), &bytes];
    owned(&[&["env"], environment, &launcher, binding, &program].concat())
}

const UCX_LOOPBACK: &str = "UCX_NET_DEVICES=lo";

fn ucx(case: &Case) -> Result<Launch> {
    let environment: &[&str] = match case.path {
        Path::Shm => &["UCX_TLS=shm,self"],
        Path::Tcp => &["UCX_TLS=tcp,self", UCX_LOOPBACK],
    };
    let test = match case.metric {
        Metric::Latency => "tag_lat",
        _ => "tag_bw",
    };
    let (least, most) = UCX_MESSAGES;
    let count = (UCX_RUN_BYTES / case.bytes).clamp(least, most);
    let (bytes, warm) = (case.bytes.to_string(), (count / 10).to_string());
    let (count, port) = (count.to_string(), free_port()?);
    let server = [&["env"], environment, &["ucx_perftest", "-p", &port]].concat();
    let of_run = ["-t", test, "-s", &bytes, "-n", &count, "-w", &warm];
    let client = [&server[..], &[LOOPBACK], &of_run, &["-f", "-v"]].concat();
    Ok(Launch::Pair((owned(&server), owned(&client))))
}

/// One size, no odd ones beside it, and the result where it is printed.
fn netpipe(case: &Case) -> Vec<String> {
    let bytes = case.bytes.to_string();
    owned(&["-l", &bytes, "-u", &bytes, "-p", "0", "-o", "/dev/null"])
}

fn netpipe_mpi(case: &Case) -> Vec<String> {
    [owned(&["NPopenmpi"]), netpipe(case)].concat()
}

fn netpipe_tcp(case: &Case) -> Result<Launch> {
    let port = free_port()?;
    let server = [owned(&["NPtcp", "-P", &port]), netpipe(case)].concat();
    let client = [
        owned(&["NPtcp", "-h", LOOPBACK, "-P", &port]),
        netpipe(case),
    ];
    Ok(Launch::Pair((server, client.concat())))
}

fn raw(name: &str, case: &Case, programs: &Programs) -> Vec<String> {
    let bytes = case.bytes.to_string();
    let bench = [programs.bench.as_str(), case.metric.name(), "--transport"];
    let of_run = [case.path.name(), "--only", name, "--sizes", &bytes];
    owned(&[&bench[..], &of_run, &["--rounds", "1", "--json"]].concat())
}

fn free_port() -> Result<String> {
    let listener = TcpListener::bind((LOOPBACK, 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?.port().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(path: Path, metric: Metric, bytes: usize, ranks: u32) -> Case {
        Case {
            path,
            metric,
            bytes,
            ranks,
        }
    }

    #[test]
    fn what_has_no_value_in_it_is_an_error_that_shows_it() {
        let barrier = case(Path::Shm, Metric::Barrier, 0, 4);
        let value = |output| Tool::Mpich.value(&barrier, output);
        assert_eq!(value("pace barrier 0 4 12.5\n").unwrap(), 12.5);
        assert!(value("pace barrier 0 4 0.000000\n").is_err());
        let error = value("pace: no memory\n").unwrap_err().to_string();
        assert!(error.contains("pace: no memory"), "{error}");
    }

    #[test]
    fn each_is_compared_where_it_measures() {
        let who = |case: Case| -> Vec<&str> {
            let tools = Tool::OTHERS.into_iter();
            tools
                .filter(|tool| tool.measures(&case))
                .map(Tool::name)
                .collect()
        };
        let peers = ["openmpi", "mpich"];
        assert_eq!(who(case(Path::Tcp, Metric::Bcast, 8, 4)), peers);
        let rate = [&peers[..], &["ucx_perftest", "raw-ring"]].concat();
        assert_eq!(who(case(Path::Shm, Metric::Rate, 8, 2)), rate);
        let latency = ["ucx_perftest", "netpipe-openmpi", "netpipe-tcp"];
        let latency = [&peers[..], &latency, &["raw-socket"]].concat();
        assert_eq!(who(case(Path::Tcp, Metric::Latency, 8, 2)), latency);
    }
}
