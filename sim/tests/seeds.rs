//! Many seeds: nothing lost, nothing doubled, nothing stuck, nothing left out.

use meander_sim::exhaustive::Small;
use meander_sim::{Coverage, Plan, run};

#[test]
fn everything_arrives_whatever_moves_or_fails() {
    let mut coverage = Coverage::default();
    for seed in 0..60 {
        let report = run(seed, &Plan::default());
        assert!(report.faults.is_empty(), "seed {seed}: {:?}", report.faults);
        coverage.add(&report.coverage);
    }
    assert!(coverage.counts().any(|(what, _)| what == "move: committed"));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(42, &Plan::default()), run(42, &Plan::default()));
}

#[test]
fn a_small_world_is_looked_at_whole() {
    let small = Small {
        mishaps: 1,
        talking: false,
    };
    let outcome = small.explore(|| {});
    assert_eq!(outcome.fault, None);
    assert!(outcome.ends > 100 && outcome.states > 1000, "{outcome:?}");
}
