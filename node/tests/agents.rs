//! Agents that talk to each other, to ranks and to users, without any move.

#[path = "support/rank.rs"]
mod rank;
mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use meander::control::{FromPort, ToPort};
use meander::{NodeName, PortId};
use rank::FakeRank;
use support::{Cluster, text_of, wait_until};

#[test]
fn every_node_lists_the_ranks_of_all() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    cluster.start("b");
    let _zero = FakeRank::register(&cluster.path("a"), "job1", 0, 0);
    let mut one = FakeRank::register(&cluster.path("b"), "job1", 1, 0);
    for node in ["a", "b"] {
        wait_until("both ranks", || {
            cluster.ps(node) == ["job1/0 a 0", "job1/1 b 0"]
        });
    }
    let table = text_of(&cluster.run("a", &["ps"]));
    assert!(table.contains("JOB") && table.contains("fake"), "{table}");

    one.say(&FromPort::Lookup { port: PortId(1) });
    let Some(ToPort::Found {
        contact: Some(contact),
        ..
    }) = one.hear()
    else {
        panic!()
    };
    assert_eq!(contact.location.node, NodeName("a".into()));
    assert_eq!(contact.location.cards[0].bytes, [0]);
    one.say(&FromPort::Lookup { port: PortId(99) });
    assert_eq!(
        one.hear(),
        Some(ToPort::Found {
            port: PortId(99),
            contact: None
        })
    );

    one.say(&FromPort::Leaving);
    wait_until("the rank to be gone", || cluster.ps("a") == ["job1/0 a 0"]);
}

#[test]
fn a_killed_agent_takes_neither_the_directory_nor_the_ranks_along() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    cluster.start("b");
    let rank = FakeRank::register(&cluster.path("a"), "job1", 0, 3);
    wait_until("the rank", || cluster.ps("b") == ["job1/0 a 3"]);
    cluster.kill("a");
    assert_eq!(cluster.ps("b"), ["job1/0 a 3"], "the directory lives on");
    drop(rank);
    cluster.start("a");
    let _rank = FakeRank::register(&cluster.path("a"), "job1", 0, 3);
    wait_until("the rank again", || cluster.ps("a") == ["job1/0 a 3"]);
}

#[test]
fn a_directory_that_is_killed_comes_back_with_what_it_knew() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start("a");
    let _rank = FakeRank::register(&cluster.path("a"), "job1", 0, 5);
    wait_until("the rank", || cluster.ps("a") == ["job1/0 a 5"]);
    let file = cluster.path("cluster.toml").display().to_string();
    let directory = (1..u32::from(u16::MAX) * 64).find(|pid| {
        let words = meander_node::process::arguments(*pid);
        words.iter().any(|word| word == "directory") && words.contains(&file)
    });
    meander_node::process::Process::find(directory.unwrap())
        .unwrap()
        .kill();
    wait_until("the directory again", || {
        let output = cluster.run("a", &["ps", "--json"]);
        output.status.success() && text_of(&output).contains("job1")
    });
    assert_eq!(cluster.ps("a"), ["job1/0 a 5"]);
}

#[test]
fn another_key_keeps_an_agent_out() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    let other = cluster.path("other-key");
    cluster.run("b", &["key", "--key", other.to_str().unwrap()]);
    cluster.start_with("b", &["--key", other.to_str().unwrap()], &[]);
    let output = cluster.run("b", &["ps"]);
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("key"), "{text}");
    let doctor = text_of(&cluster.run("a", &["doctor", "--json"]));
    assert!(
        doctor.contains("does not know this cluster's key"),
        "{doctor}"
    );
}

#[test]
fn keys_are_made_once_and_only_their_fingerprint_is_shown() {
    let cluster = Cluster::new(&["a"]);
    let path = cluster.path("key");
    let secret = std::fs::read_to_string(&path).unwrap();
    let again = text_of(&cluster.run("a", &["key", "--key", path.to_str().unwrap()]));
    assert!(
        again.contains("fingerprint") && !again.contains(secret.trim()),
        "{again}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), secret);
}

#[test]
fn what_can_not_be_done_is_said_with_a_code_of_its_own() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let nobody = cluster.run("a", &["ps"]);
    assert_eq!(nobody.status.code(), Some(3));
    assert!(
        text_of(&nobody).contains("start one: `meander agent"),
        "{}",
        text_of(&nobody)
    );
    cluster.start("a");
    let _rank = FakeRank::register(&cluster.path("a"), "job1", 0, 0);
    wait_until("the rank", || cluster.ps("a") == ["job1/0 a 0"]);
    for (rank, node, code, words) in [
        ("nojob/0", "b", 4, "no job `nojob`"),
        ("job1/7", "b", 4, "no rank 7"),
        ("job1/0", "z", 4, "no node `z`"),
        ("job1/0", "a", 4, "already"),
        ("job1", "a", 2, "JOB/RANK"),
    ] {
        let output = cluster.run("a", &["migrate", rank, node]);
        let text = text_of(&output);
        assert_eq!(output.status.code(), Some(code), "{rank} {node}: {text}");
        assert!(text.contains(words), "{rank} {node}: {text}");
    }
}

#[test]
fn a_second_agent_of_a_node_says_so() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start("a");
    let files = [cluster.path("cluster.toml"), cluster.path("key")];
    let [file, key] = files.map(|path| path.display().to_string());
    let agent = ["agent", "--cluster", &file, "--key", &key, "--node", "a"];
    let output = cluster.run("a", &agent);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text_of(&output).contains("listening"),
        "{}",
        text_of(&output)
    );
}

/// Not a test: the process that [`a_rank_that_dies_is_reported_to_its_job`] kills.
#[test]
fn a_process_to_be_killed() {
    if let Ok(run_dir) = std::env::var("FAKE_RANK_IN") {
        let _rank = FakeRank::register(run_dir.as_ref(), "job1", 1, 0);
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_rank_that_dies_is_reported_to_its_job() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    cluster.start("b");
    let mut zero = FakeRank::register(&cluster.path("a"), "job1", 0, 0);
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_to_be_killed"])
        .env("FAKE_RANK_IN", cluster.path("b"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("both", || cluster.ps("a") == ["job1/0 a 0", "job1/1 b 0"]);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(zero.hear(), Some(ToPort::PeerDead { port: PortId(2) }));
    wait_until("the dead to be gone", || cluster.ps("a") == ["job1/0 a 0"]);
}

#[test]
fn the_doctor_finds_a_cluster_that_is_well_and_one_that_is_not() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let files = [cluster.path("cluster.toml"), cluster.path("key")];
    let [file, key] = files.map(|path| path.display().to_string());
    let doctor = ["doctor", "--json", "--cluster", &file, "--key", &key];
    let grade = |output: &std::process::Output, check: &str| {
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = json["checks"].as_array().unwrap().clone();
        let found = checks
            .into_iter()
            .find(|finding| finding["check"] == check)
            .unwrap();
        (
            found["grade"].as_str().unwrap().to_owned(),
            found["mend"].as_str().unwrap().to_owned(),
        )
    };
    let output = cluster.run("a", &doctor);
    assert_eq!(output.status.code(), Some(1));
    let (agent, mend) = grade(&output, "agent");
    assert_eq!(agent, "fail");
    assert!(mend.contains("meander agent"), "{mend}");
    cluster.start("a");
    let output = cluster.run("a", &doctor);
    for check in ["cluster", "key", "agent", "directory"] {
        assert_eq!(grade(&output, check).0, "ok", "{check}");
    }
}
