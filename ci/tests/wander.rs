//! Ranks that wander about at random, one or two at a time, while links break now and then.
//!
//! `MEANDER_SEED` repeats a run; `MEANDER_WANDER_S` makes it longer, as `cargo xtask soak` does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use meander_lab::scenario::{NODES, PATIENCE, Scenario};

const SECONDS: u64 = 20;
const RANKS: u32 = 5;

/// Knuth's multiplier; the upper bits are good enough to choose by.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn number(variable: &str) -> Result<Option<u64>> {
    let text = std::env::var(variable).ok();
    text.map(|text| text.parse().with_context(|| format!("{variable}={text}")))
        .transpose()
}

#[test]
fn ranks_wander() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("MEANDER_SEED")?.unwrap_or(u64::from(now.subsec_nanos()));
    let seconds = number("MEANDER_WANDER_S")?.unwrap_or(SECONDS);
    println!("MEANDER_SEED={seed} repeats this run");
    wander(Dice(seed), Duration::from_secs(seconds)).with_context(|| format!("MEANDER_SEED={seed}"))
}

fn wander(mut dice: Dice, length: Duration) -> Result<()> {
    let scenario = Scenario::start("w-wander")?;
    let lab = &scenario.lab;
    let bytes = ["8", "1000", "70000", "500000"][dice.below(4)];
    let job = scenario
        .steady(RANKS)
        .with(&["--pause-us", "200", "--bytes", bytes])
        .start()?;
    let end = Instant::now() + length;
    while Instant::now() < end {
        let movers: BTreeSet<u32> = (0..=dice.below(2))
            .map(|_| dice.below(RANKS as usize) as u32)
            .collect();
        let mut moves = Vec::new();
        for rank in movers {
            let here = job.place(rank)?.node;
            let elsewhere: Vec<&str> = NODES.into_iter().filter(|node| *node != here).collect();
            let to = elsewhere[dice.below(elsewhere.len())];
            println!("rank {rank}: {here} to {to}");
            moves.push((rank, to, job.start_move(rank, to)?));
        }
        for (rank, to, migrating) in moves {
            migrating
                .wait(PATIENCE)?
                .moved()
                .with_context(|| format!("rank {rank} to {to}"))?;
            job.expect_at(rank, to)?;
        }
        if dice.below(4) == 0 {
            let node = NODES[dice.below(NODES.len())];
            println!("the link of {node} is cut for a moment");
            lab.set_link(node, false)?;
            std::thread::sleep(Duration::from_millis(dice.below(300) as u64));
            lab.set_link(node, true)?;
        }
        job.expect_progress()?;
    }
    job.finish()?;
    Ok(())
}
