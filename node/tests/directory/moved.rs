//! The directory handed over from node to node, with writers that go on meanwhile.

use std::process::{Child, Output, Stdio};
use std::time::Duration;

use meander::NodeName;
use meander_node::cluster::Cluster as ClusterFile;
use meander_node::directory::embedded::{Role, role_at};
use meander_node::keyfile;

use crate::embedded::{client, process};
use crate::oracle::Oracle;
use crate::support::{Cluster, text_of, wait_until};

const NODES: [&str; 3] = ["a", "b", "c"];
/// Hand-overs with a kill at some moment.
const WILD: u64 = 16;

/// `[R52]`
#[test]
fn it_goes_where_it_is_told_to_and_stays_there() {
    let mut cluster = start(&[]);
    let oracle = Oracle::start(&client(&cluster), 4);
    let clients = [client(&cluster), client(&cluster)];
    std::thread::scope(|scope| {
        let _stop = oracle.stop_at_the_end();
        for client in &clients {
            let oracle = &oracle;
            scope.spawn(move || oracle.write(client));
        }
        // The command may be given on any node.
        for (on, to) in [("b", "c"), ("a", "b"), ("c", "a"), ("a", "c")] {
            let output = cluster.run(on, &["directory", "move", to]);
            assert!(output.status.success(), "{}", text_of(&output));
            assert!(text_of(&output).contains(&format!("on {to}")));
            let before = oracle.committed();
            wait_until("moves there", || oracle.committed() > before + 20);
            assert_eq!(holders(&cluster), [to]);
        }
        // Who held it refuses, and says who does.
        assert!(matches!(role(&cluster, "a"), Some(Role::Gone { term: 4, to }) if to.0 == "c"));
    });
    for node in NODES {
        let shown = text_of(&cluster.run(node, &["directory"]));
        assert_eq!(shown, "on c, in its term 4\n");
    }
    // Node a is emptied; agents that start now find it all the same, and so does a stranger.
    cluster.kill("a");
    process(&cluster, "a").unwrap().kill();
    cluster.kill("b");
    cluster.start("b");
    assert_eq!(cluster.ps("b").len(), 4);
    std::fs::remove_file(place_of(&cluster, "b")).unwrap();
    cluster.kill("b");
    cluster.start("b");
    assert_eq!(cluster.ps("b").len(), 4);
    oracle.check(&client(&cluster));

    // All of it is started again, a with nothing but the cluster file, which says that it holds it.
    for node in ["b", "c"] {
        cluster.kill(node);
        process(&cluster, node).unwrap().kill();
    }
    std::fs::remove_dir_all(cluster.path("state-a")).unwrap();
    for node in ["c", "b", "a"] {
        cluster.start(node);
    }
    assert_eq!(holders(&cluster), ["c"]);
    for node in NODES {
        assert_eq!(cluster.ps(node).len(), 4);
    }
    oracle.check(&client(&cluster));
}

#[test]
fn what_can_not_hold_it_is_refused() {
    let mut cluster = start(&[]);
    for (to, code, words) in [
        ("a", 4, "holds the directory already"),
        ("z", 4, "no node `z`"),
    ] {
        let output = cluster.run("b", &["directory", "move", to]);
        let text = text_of(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(words), "{text}");
    }
    cluster.kill("c");
    let output = cluster.run("b", &["directory", "move", "c"]);
    assert_eq!(output.status.code(), Some(3), "{}", text_of(&output));
    assert_eq!(holders(&cluster), ["a"]);
}

/// Either side is killed at each step: one node holds it then, with everything that was answered. `[R51]`
#[test]
fn a_kill_in_the_middle_leaves_it_on_one_node() {
    const POINTS: [&str; 3] = ["directory-giving", "directory-taken", "directory-gone"];
    let cluster = start(&[("MEANDER_TEST_PAUSE", &POINTS.join(","))]);
    let oracle = Oracle::start(&client(&cluster), 4);
    let writer = client(&cluster);
    std::thread::scope(|scope| {
        let _stop = oracle.stop_at_the_end();
        scope.spawn(|| oracle.write(&writer));
        for (point, victim_is_old) in POINTS.iter().flat_map(|p| [(p, true), (p, false)]) {
            let old = holders(&cluster).remove(0);
            let new = NODES.into_iter().find(|node| *node != old).unwrap();
            let moving = start_move(&cluster, &old, new);
            let paused = |point| cluster.path(&old).join(format!("paused-{point}"));
            for step in POINTS {
                wait_until("the hand-over to come that far", || paused(step).exists());
                if step == *point {
                    break;
                }
                std::fs::remove_file(paused(step)).unwrap();
            }
            let victim = if victim_is_old { old.as_str() } else { new };
            process(&cluster, victim).unwrap().kill();
            // What lives goes on without further pauses.
            let done = finish(moving, || {
                for step in POINTS {
                    let _ = std::fs::remove_file(paused(step));
                }
            });
            let decided =
                *point == "directory-gone" || (*point == "directory-taken" && !victim_is_old);
            let expected = if decided { new } else { &old };
            wait_until("one holder", || holders(&cluster) == [expected]);
            let before = oracle.committed();
            wait_until("moves after it", || oracle.committed() > before + 5);
            assert_eq!(
                done.status.success(),
                decided && !victim_is_old,
                "{point}, {victim} killed: {}",
                text_of(&done)
            );
        }
    });
    oracle.check(&client(&cluster));
}

#[test]
fn killed_at_any_moment_of_many_hand_overs_it_keeps_what_it_answered() {
    let cluster = start(&[]);
    let oracle = Oracle::start(&client(&cluster), 4);
    let writers = [client(&cluster), client(&cluster)];
    let mut moved = 0;
    std::thread::scope(|scope| {
        let _stop = oracle.stop_at_the_end();
        for writer in &writers {
            let oracle = &oracle;
            scope.spawn(move || oracle.write(writer));
        }
        let mut seed = 0x9E37_79B9u64;
        for turn in 0..WILD {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(turn);
            let old = holders(&cluster).remove(0);
            let others: Vec<&str> = NODES.into_iter().filter(|node| *node != old).collect();
            let new = others[(seed >> 40) as usize % 2];
            let moving = start_move(&cluster, &old, new);
            std::thread::sleep(Duration::from_micros((seed >> 33) % 120_000));
            for victim in [old.as_str(), new] {
                if (seed >> 50) & 1 == u64::from(victim == new)
                    && let Some(victim) = process(&cluster, victim)
                {
                    victim.kill();
                }
            }
            finish(moving, || {});
            wait_until("one holder", || holders(&cluster).len() == 1);
            moved += usize::from(holders(&cluster) != [old]);
            let before = oracle.committed();
            wait_until("moves after it", || oracle.committed() > before + 5);
        }
    });
    let count = oracle.check(&client(&cluster));
    println!("{moved} of {WILD} hand-overs happened; {count:?}");
}

fn start(environment: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::new(&NODES);
    for node in NODES {
        cluster.start_with(node, &[], environment);
    }
    cluster
}

fn start_move(cluster: &Cluster, on: &str, to: &str) -> Child {
    cluster
        .command(on)
        .args(["directory", "move", to])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(mut moving: Child, mut meanwhile: impl FnMut()) -> Output {
    wait_until("the command to end", || {
        meanwhile();
        moving.try_wait().unwrap().is_some()
    });
    moving.wait_with_output().unwrap()
}

fn role(cluster: &Cluster, node: &str) -> Option<Role> {
    let file = ClusterFile::read(&cluster.path("cluster.toml")).unwrap();
    let key = keyfile::read(&cluster.path("key")).unwrap();
    role_at(&file, &key, &NodeName(node.into())).ok()
}

/// The nodes that say that they hold it. There is never more than one.
fn holders(cluster: &Cluster) -> Vec<String> {
    let holds = |node: &&str| matches!(role(cluster, node), Some(Role::Holder { .. }));
    let holders: Vec<String> = NODES.into_iter().filter(holds).map(String::from).collect();
    assert!(holders.len() <= 1, "{holders:?}");
    holders
}

fn place_of(cluster: &Cluster, node: &str) -> std::path::PathBuf {
    let files = std::fs::read_dir(cluster.path(&format!("state-{node}"))).unwrap();
    let mut files = files.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|it| it == "place"))
        .expect("what it learned is kept")
}
