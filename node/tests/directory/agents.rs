//! What agents make of the directory: on etcd, with leases, and told of changes.

use std::time::Duration;

use meander::control::{FromPort, ToPort};
use meander::{Epoch, NodeName};
use meander_core::directory::{Reply, Request};
use meander_node::keyfile;

use crate::embedded::client;
use crate::etcd::Members;
use crate::rank::FakeRank;
use crate::support::{Cluster, text_of, wait_until};
use crate::{entry, new_port};

#[test]
fn agents_keep_their_directory_in_etcd() {
    let mut members = Members::start();
    members.wait();
    let mut cluster = Cluster::new(&["a", "b"]);
    let directory = format!("etcd://{}", members.endpoints().join(","));
    for node in ["a", "b"] {
        cluster.start_with(node, &["--directory", &directory], &[]);
    }
    let _zero = FakeRank::register(&cluster.path("a"), "job1", 0, 0);
    let mut one = FakeRank::register(&cluster.path("b"), "job1", 1, 4);
    for (node, gone) in [("a", 1), ("b", 2)] {
        members.kill(gone);
        wait_until("both ranks", || {
            cluster.ps(node) == ["job1/0 a 0", "job1/1 b 4"]
        });
        members.restart(gone);
        std::thread::sleep(Duration::from_millis(700));
    }
    let shown = text_of(&cluster.run("a", &["directory"]));
    assert_eq!(
        shown,
        format!("in {}\n", directory.replace("://", ": ").replace(',', ", "))
    );
    let refused = cluster.run("a", &["directory", "move", "b"]);
    assert_eq!(refused.status.code(), Some(4), "{}", text_of(&refused));
    // Both agents are killed; what they listed is there, and a rank that ends is listed no more.
    for node in ["a", "b"] {
        cluster.kill(node);
        cluster.start_with(node, &["--directory", &directory], &[]);
    }
    assert_eq!(cluster.ps("b"), ["job1/0 a 0", "job1/1 b 4"]);
    one = {
        drop(one);
        FakeRank::register(&cluster.path("b"), "job1", 1, 4)
    };
    one.say(&FromPort::Leaving);
    wait_until("the rank to be gone", || cluster.ps("a") == ["job1/0 a 0"]);
    // Nothing runs a directory of its own.
    assert!(crate::embedded::process(&cluster, "a").is_none());
    let key = keyfile::read(&cluster.path("key")).unwrap();
    let alive = members.client(&key).alive().unwrap();
    assert!(alive.contains(&NodeName("a".into())) && alive.contains(&NodeName("b".into())));
}

/// `[R53]`
#[test]
fn a_node_that_is_silent_for_a_lease_is_shown_so_and_said_to_be() {
    let mut cluster = with_short_leases();
    cluster.start("a");
    cluster.start("b");
    let mut zero = FakeRank::register(&cluster.path("a"), "job1", 0, 0);
    let _one = FakeRank::register(&cluster.path("b"), "job1", 1, 0);
    let states = |cluster: &Cluster| {
        let output = cluster.run("a", &["ps", "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let ranks = json["jobs"][0]["ranks"].as_array().cloned();
        let state = |rank: serde_json::Value| rank["state"].as_str().unwrap().to_owned();
        let ranks = ranks.unwrap_or_default().into_iter();
        ranks.map(state).collect::<Vec<_>>()
    };
    wait_until("both", || states(&cluster) == ["running", "running"]);
    // Only its agent is gone: its ranks may live, and nobody is told otherwise.
    cluster.kill("b");
    wait_until("silence", || states(&cluster) == ["running", "no agent"]);
    let port = meander::PortId(2);
    zero.say(&FromPort::Lookup { port });
    assert!(matches!(
        zero.hear(),
        Some(ToPort::Found {
            contact: Some(_),
            ..
        })
    ));
    cluster.start("b");
    let _one = FakeRank::register(&cluster.path("b"), "job1", 1, 0);
    wait_until("its return", || states(&cluster) == ["running", "running"]);

    // z's host does not answer. As long as it has its lease its ranks count as alive.
    let directory = client(&cluster);
    let z = NodeName("z".into());
    directory.hold_lease(&z).unwrap();
    let port = new_port();
    let listed = entry(0, "z");
    let register = Request::Register {
        port,
        entry: listed,
    };
    assert_eq!(directory.request(&register).unwrap(), Reply::Done);
    zero.say(&FromPort::Lookup { port });
    assert!(matches!(
        zero.hear(),
        Some(ToPort::Found {
            contact: Some(_),
            ..
        })
    ));
    zero.say(&FromPort::Lookup {
        port: meander::PortId(99),
    });
    assert!(
        matches!(zero.hear(), Some(ToPort::Found { contact: None, .. })),
        "nothing is said of the death of one that lives"
    );
    wait_until("its end", || states(&cluster).contains(&"dead".into()));
    zero.say(&FromPort::Lookup { port });
    assert!(matches!(
        zero.hear(),
        Some(ToPort::Found {
            contact: Some(_),
            ..
        })
    ));
    assert_eq!(zero.hear(), Some(ToPort::PeerDead { port }));
}

#[test]
fn who_asks_for_a_rank_that_is_being_moved_is_told_where_it_arrives() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start("a");
    let mut zero = FakeRank::register(&cluster.path("a"), "job1", 0, 0);
    let directory = client(&cluster);
    let port = new_port();
    let mut moving = entry(3, "a");
    let card = moving.location.cards.pop().unwrap();
    let register = Request::Register {
        port,
        entry: moving.clone(),
    };
    assert_eq!(directory.request(&register).unwrap(), Reply::Done);
    zero.say(&FromPort::Lookup { port });
    let place = |message: Option<ToPort>| match message {
        Some(ToPort::Found { contact, .. }) => contact.unwrap().location,
        other => panic!("{other:?}"),
    };
    assert_eq!(place(zero.hear()), moving.location);
    let mut arrived = moving.location;
    arrived.cards.push(card);
    let locate = Request::Locate {
        port,
        epoch: Epoch(3),
        location: arrived.clone(),
    };
    assert_eq!(directory.request(&locate).unwrap(), Reply::Done);
    assert_eq!(place(zero.hear()), arrived);
}

/// Two nodes that are heard of within two seconds, and one that has no host.
fn with_short_leases() -> Cluster {
    let cluster = Cluster::new(&["a", "b"]);
    let file = cluster.path("cluster.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let nobody = "[nodes.z]\naddress = \"255.255.255.255:7117\"\n";
    std::fs::write(&file, format!("lease_s = 2\n{text}{nobody}")).unwrap();
    cluster
}
