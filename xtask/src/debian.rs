//! What the machine must have besides Rust: packages of its own Debian release, and a CRIU that
//! works on its kernel. Only what is missing is fetched.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{Failure, as_root, cargo, in_path, must, root_prefix, run};

/// A Debian package and what it is for.
struct Package {
    name: &'static str,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "build-essential",
        why: "C programs of the tests",
    },
    Package {
        name: "pkg-config",
        why: "the build finds the MPI library",
    },
    Package {
        name: "libclang-dev",
        why: "the MPI library's header is read at build time",
    },
    Package {
        name: "protobuf-compiler",
        why: "etcd's interface is compiled at build time",
    },
    Package {
        name: "etcd-server",
        why: "the directory's tests run three members on loopback",
    },
    Package {
        name: "libibverbs-dev",
        why: "the types of verbs are read from its headers at build time",
    },
    Package {
        name: "librdmacm-dev",
        why: "the bindings of verbs read its header too",
    },
    Package {
        name: "libopenmpi-dev",
        why: "mpicc, and the MPI library's header",
    },
    Package {
        name: "openmpi-bin",
        why: "mpirun",
    },
    Package {
        name: "iproute2",
        why: "the lab's network",
    },
    Package {
        name: "debootstrap",
        why: "CRIU comes from a small Debian 13 tree",
    },
    Package {
        name: "netpipe-openmpi",
        why: "a scenario: NetPIPE",
    },
    Package {
        name: "valgrind",
        why: "a scenario: instructions of a message are counted",
    },
    Package {
        name: "hpcc",
        why: "a scenario: the HPC Challenge benchmark",
    },
];

/// What the rxe lab wants besides.
const MACHINE_PACKAGES: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        why: "the rxe lab's machines, in emulation",
    },
    Package {
        name: "busybox-static",
        why: "what the machines boot first",
    },
    Package {
        name: "kmod",
        why: "their kernel's modules",
    },
    Package {
        name: "cpio",
        why: "their initramfs",
    },
    Package {
        name: "xz-utils",
        why: "their modules are compressed",
    },
    Package {
        name: "dropbear-bin",
        why: "commands reach them by ssh",
    },
    Package {
        name: "ibverbs-providers",
        why: "the user half of soft-RoCE",
    },
    Package {
        name: "ibverbs-utils",
        why: "a scenario: ibv_rc_pingpong",
    },
    Package {
        name: "perftest",
        why: "compared with: ib_send_lat, ib_write_lat, ib_write_bw",
    },
    Package {
        name: "rdmacm-utils",
        why: "compared with: rsockets' rstream and riostream",
    },
    Package {
        name: "ucx-utils",
        why: "compared with: ucx_perftest",
    },
];

/// What `compare` wants besides.
const PEER_PACKAGES: &[Package] = &[
    Package {
        name: "mpich",
        why: "compared with: MPICH",
    },
    Package {
        name: "libmpich-dev",
        why: "its mpicc",
    },
    Package {
        name: "ucx-utils",
        why: "compared with: ucx_perftest",
    },
    Package {
        name: "netpipe-tcp",
        why: "compared with: NetPIPE over sockets",
    },
];

/// The recipe of the CRIU tree.
const CRIU_SCRIPT: &str = "ci/criu-tree.sh";

/// Installs what is missing. Says nothing where nothing is.
pub fn setup() -> Result<(), Failure> {
    packages(PACKAGES)?;
    rust_components();
    criu()
}

/// Installs what the rxe lab wants, besides what [`setup`] does. Its kernel is fetched when the
/// machines first boot.
pub fn setup_machines() -> Result<(), Failure> {
    packages(MACHINE_PACKAGES)
}

/// Installs those that `compare` compares with, besides what [`setup`] does.
pub fn setup_peers() -> Result<(), Failure> {
    packages(PEER_PACKAGES)
}

fn packages(wanted: &[Package]) -> Result<(), Failure> {
    if !in_path("dpkg-query") {
        return Err(Failure::new(
            "this is no Debian: install an MPI library with its headers, libclang, protoc, iproute2 and CRIU \
             by hand, then use cargo itself (CONTRIBUTING.md says how)",
        ));
    }
    let missing: Vec<&Package> = wanted
        .iter()
        .filter(|package| !installed(package.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: Debian packages");
    for package in &missing {
        println!("  {:<18} {}", package.name, package.why);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    apt_get(&["update", "-q"])?;
    apt_get(
        &[
            &["install", "-q", "-y", "--no-install-recommends"],
            names.as_slice(),
        ]
        .concat(),
    )
}

fn installed(package: &str) -> bool {
    let query = ["-W", "-f", "${db:Status-Status}", package];
    let output = Command::new("dpkg-query")
        .args(query)
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

fn apt_get(arguments: &[&str]) -> Result<(), Failure> {
    let mut words = root_prefix()?;
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"].map(String::from));
    let (program, rest) = words.split_first().expect("it has words");
    must(
        Command::new(program)
            .args(rest)
            .args(arguments)
            .stdin(Stdio::null()),
        &format!("apt-get {}", arguments.join(" ")),
    )
}

/// A Rust of rustup's minimal profile lacks these two; the layers that want them say so if this fails.
fn rust_components() {
    for component in ["rustfmt", "clippy"] {
        let tool = component.trim_start_matches("rust");
        let probe = cargo()
            .args([tool, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) && in_path("rustup") {
            println!("setup: rustup component {component}");
            let _ = run(Command::new("rustup").args(["component", "add", component]));
        }
    }
}

fn criu() -> Result<(), Failure> {
    if let Some(criu) = std::env::var_os("MEANDER_CRIU") {
        println!(
            "setup: CRIU is {} ($MEANDER_CRIU)",
            Path::new(&criu).display()
        );
        return Ok(());
    }
    // The script itself knows whether what is there is what its recipe makes.
    let script = |arguments: &[&str]| {
        let output = Command::new("bash")
            .arg(CRIU_SCRIPT)
            .args(arguments)
            .output();
        output.map_err(|error| Failure::new(format!("cannot run bash: {error}")))
    };
    let path = script(&["--path"])?.stdout;
    let there = Path::new(String::from_utf8_lossy(&path).trim()).exists();
    if there && script(&[])?.status.success() {
        return Ok(());
    }
    println!("setup: a CRIU for this kernel, from a Debian 13 tree (once, about a minute)");
    let made = as_root(Path::new("/bin/bash"), &[CRIU_SCRIPT])?;
    if made.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("{CRIU_SCRIPT} failed")))
    }
}
