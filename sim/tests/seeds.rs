//! Many seeds: nothing lost, nothing doubled, nothing stuck.

use meander_sim::{Plan, run};

fn check(seeds: std::ops::Range<u64>, plan: &Plan) {
    let mut moves = 0;
    let mut cuts = 0;
    for seed in seeds {
        let report = run(seed, plan);
        assert!(report.faults.is_empty(), "seed {seed}: {:?}", report.faults);
        moves += report.moves;
        cuts += report.cuts;
    }
    assert!(
        moves > 0 && cuts > 0,
        "the plan never moved a port or never cut a link"
    );
}

#[test]
fn two_ports() {
    check(0..150, &Plan::default());
}

#[test]
fn five_ports() {
    check(
        1000..1060,
        &Plan {
            hosts: 5,
            ..Plan::default()
        },
    );
}

#[test]
fn a_storm_of_cuts_and_moves() {
    check(
        2000..2060,
        &Plan {
            hosts: 3,
            steps: 300,
            cuts: 15,
            moves: 20,
        },
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (one, two) = (run(42, &Plan::default()), run(42, &Plan::default()));
    assert_eq!(format!("{one:?}"), format!("{two:?}"));
}
