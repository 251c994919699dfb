//! Real MPI programs under a real `mpirun`, with the shim and without it.
//!
//! The programs are in `tests/c`; each checks its own results and prints `NAME: ok on N`.

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::{command, expect_ok, mpirun, native, preload, program, shim, shimmed, words};

#[test]
fn the_programs_are_right_without_the_shim() {
    for (name, ranks) in [
        ("ring", 2),
        ("collectives", 3),
        ("matching", 3),
        ("types", 3),
    ] {
        expect_ok(name, ranks, &native(ranks, &[&program(name)]));
    }
    for (name, ranks) in [("userop", 3), ("comms", 3)] {
        expect_ok(name, ranks, &native(ranks, &[&program(name)]));
    }
}

#[test]
fn a_ring() {
    for ranks in [1, 2, 4] {
        expect_ok("ring", ranks, &shimmed(ranks, &[&program("ring")]));
    }
}

#[test]
fn every_collective() {
    for ranks in [1, 2, 3, 4, 6] {
        expect_ok(
            "collectives",
            ranks,
            &shimmed(ranks, &[&program("collectives")]),
        );
    }
    let seeded = shimmed(5, &[&program("collectives"), "77"]);
    expect_ok("collectives", 5, &seeded);
}

#[test]
fn matching_order_wildcards_probe_cancel_ssend() {
    for ranks in [2, 4] {
        expect_ok("matching", ranks, &shimmed(ranks, &[&program("matching")]));
    }
}

#[test]
fn derived_datatypes() {
    for ranks in [1, 2, 5] {
        expect_ok("types", ranks, &shimmed(ranks, &[&program("types")]));
    }
}

#[test]
fn operations_that_do_not_commute() {
    for ranks in [1, 2, 5, 8] {
        expect_ok("userop", ranks, &shimmed(ranks, &[&program("userop")]));
    }
}

#[test]
fn communicators_and_groups() {
    for ranks in [1, 2, 5] {
        expect_ok("comms", ranks, &shimmed(ranks, &[&program("comms")]));
    }
}

#[test]
fn a_flood_of_unexpected_messages() {
    expect_ok("flood", 2, &shimmed(2, &[&program("flood")]));
    expect_ok("flood", 4, &shimmed(4, &[&program("flood"), "20000"]));
}

#[test]
fn a_flood_past_its_bound_stays_with_the_senders() {
    let program = program("flood");
    let bound = "MEANDER_UNEXPECTED_BYTES=1000000";
    let run = mpirun(2, &["-x", bound, "-x", &preload(), &program, "20000"]);
    expect_ok("flood", 2, &run);
}

/// Also what crosses ranks by rendezvous, in collectives, and in floods.
#[test]
fn with_links_encrypted() {
    let preload = preload();
    let encrypted = ["-x", "MEANDER_TCP_ENCRYPTION=on"];
    let on = [
        &encrypted[..],
        &["-x", "MEANDER_TRANSPORT=tcp", "-x", &preload],
    ]
    .concat();
    for (name, ranks) in [("ring", 2), ("collectives", 3), ("matching", 2)] {
        let run = mpirun(ranks, &[&on[..], &[&program(name)]].concat());
        expect_ok(name, ranks, &run);
    }
    let wrong = ["-x", "MEANDER_TCP_ENCRYPTION=yes", "-x", &preload];
    let run = mpirun(2, &[&wrong[..], &[&program("ring")]].concat());
    assert!(!run.status.success());
    let text = words(&run);
    assert!(text.contains("`yes` is neither `on` nor `off`"), "{text}");
}

#[test]
fn a_function_that_is_not_provided_says_so() {
    expect_ok("missing", 2, &shimmed(2, &[&program("missing")]));
    let run = shimmed(2, &[&program("ending"), "missing", "0", "1"]);
    assert!(!run.status.success());
    let text = words(&run);
    assert!(
        text.contains("MPI_Ibarrier is not yet provided by meander"),
        "{text}"
    );
}

#[test]
fn abort_ends_every_rank_wherever_it_is() {
    for (code, wanted) in [("7", 7), ("0", 1), ("256", 1)] {
        let run = shimmed(5, &[&program("ending"), "abort", code, "2"]);
        let text = words(&run);
        assert_eq!(run.status.code(), Some(wanted), "{text}");
        let line = format!("MPI_Abort was called with code {code}; the job ends");
        assert!(
            text.contains("meander: rank 2 on ") && text.contains(&line),
            "{text}"
        );
    }
}

#[test]
fn an_exit_without_finalize_ends_every_rank() {
    for (how, code, who, wanted) in [
        ("exit", "0", "1", 1),
        ("exit", "3", "4", 3),
        ("exit", "256", "0", 1),
        ("_exit", "0", "3", 1),
        ("_exit", "5", "1", 5),
        ("handler", "0", "2", 1),
        ("return", "0", "2", 1),
        ("return", "9", "3", 9),
    ] {
        let run = shimmed(5, &[&program("ending"), how, code, who]);
        let text = words(&run);
        assert_eq!(run.status.code(), Some(wanted), "{how} {code}: {text}");
        assert!(
            text.contains("without calling MPI_Finalize"),
            "{how} {code}: {text}"
        );
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    let script = r#"if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then (sleep 2; kill -9 $$) & fi; exec "$0" abort 0 9"#;
    let run = shimmed(3, &["sh", "-c", script, &program("ending")]);
    assert_eq!(run.status.code(), Some(128 + 9), "{}", words(&run));
}

#[test]
fn a_shell_script_as_the_program() {
    let script = r#"echo "script of rank $OMPI_COMM_WORLD_RANK"; "$0""#;
    let run = shimmed(2, &["sh", "-c", script, &program("ring")]);
    expect_ok("ring", 2, &run);
    let text = words(&run);
    assert!(
        text.contains("script of rank 0") && text.contains("script of rank 1"),
        "{text}"
    );
}

#[test]
fn programs_that_never_call_mpi() {
    let run = shimmed(3, &[&program("plain")]);
    assert!(run.status.success(), "{}", words(&run));
    assert_eq!(words(&run).matches("no MPI here").count(), 3);
    assert!(shimmed(2, &["true"]).status.success());
    assert_eq!(shimmed(2, &["sh", "-c", "exit 3"]).status.code(), Some(3));
}

#[test]
fn rank_0_reads_standard_input() {
    let mut command = command(3, &["-x", &preload(), &program("echo")]);
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .expect("mpirun starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&vec![b'x'; 70_000]).expect("mpirun reads");
    drop(stdin);
    let run = child.wait_with_output().expect("mpirun ends");
    let text = words(&run);
    assert!(run.status.success(), "{text}");
    assert_eq!(text.matches("heard of 70000 bytes").count(), 3, "{text}");
}

/// It would be one directory for all ranks and jobs of a user on a node, and whoever ends removes it from under
/// whoever begins.
#[test]
fn the_native_library_in_a_rank_makes_no_directory() {
    let run = Command::new(program("ring"))
        .env("LD_PRELOAD", shim())
        .env("TMPDIR", "/proc/nowhere")
        .output()
        .expect("the program starts");
    expect_ok("ring", 1, &run);
}

#[test]
fn a_program_alone_is_a_world_of_one() {
    let run = Command::new(program("ring"))
        .env("LD_PRELOAD", shim())
        .output()
        .expect("the program starts");
    expect_ok("ring", 1, &run);
}

#[test]
fn the_shim_needs_no_mpi_library() {
    let run = Command::new("readelf")
        .arg("-d")
        .arg(shim())
        .output()
        .expect("readelf (binutils)");
    let text = words(&run);
    let needed: Vec<_> = text
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .collect();
    assert!(!needed.is_empty());
    assert!(
        !needed.iter().any(|line| line.contains("mpi")),
        "{needed:?}"
    );
    let run = Command::new("sh")
        .args(["-c", "echo alive"])
        .env("LD_PRELOAD", shim())
        .output()
        .expect("sh starts");
    assert_eq!(words(&run).trim(), "alive");
}

/// What crosses ranks or takes one of our handles is ours, under both names; so that a function
/// added to the header is not forgotten.
#[test]
fn every_function_with_a_handle_of_ours_is_exported_twice() {
    let run = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(shim())
        .output()
        .expect("nm");
    let text = words(&run);
    let ours: HashSet<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("prototypes.c");
    fs::write(&source, "#include <mpi.h>\n").expect("writable");
    let mut mpicc = Command::new("mpicc");
    let run = mpicc
        .args(["-E", "-P"])
        .arg(&source)
        .output()
        .expect("mpicc");
    let header = words(&run).replace('\n', " ");
    let handles = [
        "MPI_Comm ",
        "MPI_Group ",
        "MPI_Request ",
        "MPI_Win ",
        "MPI_File ",
        "MPI_Message ",
    ];
    // Local, and only ever about null handles as long as no others can be made.
    let local = ["MPI_Win_c2f", "MPI_File_c2f", "MPI_Message_c2f"];
    let mut missing = Vec::new();
    for prototype in header.split(';') {
        let Some((before, arguments)) = prototype.split_once('(') else {
            continue;
        };
        let name = before.rsplit([' ', '*']).next().unwrap_or_default();
        let concerned = name.starts_with("MPI_")
            && !prototype.contains("typedef")
            && handles.iter().any(|handle| arguments.contains(handle));
        if concerned && !local.contains(&name) {
            let twin = format!("P{name}");
            if !ours.contains(name) || !ours.contains(twin.as_str()) {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}
