//! Several ranks write one file by offset while one of them moves.

use std::fs;

use anyhow::{Context, Result, ensure};
use meander_lab::scenario::Scenario;

const BLOCK_BYTES: usize = 64;

#[test]
fn every_block_of_every_rank_is_in_the_file() -> Result<()> {
    let scenario = Scenario::start("f-blocks")?;
    let path = scenario.file("blocks");
    let path_text = path.to_str().context("a path that is text")?;
    let job = scenario
        .steady(4)
        .with(&["--pause-us", "200", "--blocks", path_text])
        .start()?;
    job.moves(1, "c")?;
    job.moves(3, "a")?;
    job.moves(1, "b")?;
    let ended = job.finish()?;
    let steps: usize = ended.value("steps").context("no count of steps")?.parse()?;
    let bytes = fs::read(&path)?;
    ensure!(
        bytes.len() == steps * 4 * BLOCK_BYTES,
        "{} bytes for {steps} steps",
        bytes.len()
    );
    for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let head = format!("step {} rank {} .", index / 4, index % 4);
        ensure!(
            block.starts_with(head.as_bytes()),
            "block {index}: {:?}",
            String::from_utf8_lossy(block)
        );
    }
    Ok(())
}
