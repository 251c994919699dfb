//! What a message costs does not grow unnoticed.

use anyhow::{Context, Result, ensure};
use meander_lab::instructions;

/// Instructions of our own code for 8 bytes, as they are and a twentieth more: another compiler counts
/// a little differently.
const INSTRUCTIONS: [(&str, &str, f64); 4] = [
    ("stream-posted", "send", 1160.0),
    ("stream-posted", "receive", 1960.0),
    ("stream", "send", 1540.0),
    ("stream", "receive", 3045.0),
];

/// Work requests, doorbells and completions of a message, at most.
const REQUESTS: [(usize, [f64; 3]); 3] = [
    // One SEND, and its arrival; one send in sixteen asks for a completion.
    (8, [1.0, 1.0, 1.07]),
    // Envelope, pull, write with its packet, and word that it is done.
    (64 << 10, [5.0, 4.0, 5.0]),
    (1 << 20, [5.0, 4.0, 5.0]),
];

#[test]
fn a_message_costs_no_more_than_it_did() -> Result<()> {
    let counts = instructions::run()?;
    for (line, half, most) in INSTRUCTIONS {
        let mut halves = counts.instructions.iter();
        let found = halves.find(|it| (it.line, it.half) == (line, half));
        let ours = found.context("a half is missing")?.ours;
        ensure!(
            ours <= most,
            "{line} {half}: {ours} instructions, where {most} were enough"
        );
    }
    for (bytes, most) in REQUESTS {
        let found = counts.requests.iter().find(|it| it.bytes == bytes);
        let found = found.context("a size is missing")?;
        let each = [found.send_requests, found.send_doorbells, found.completions];
        let within = each
            .iter()
            .zip(most)
            .all(|(count, most)| *count <= most + 0.05);
        ensure!(
            within,
            "{bytes} bytes: {each:?} requests, doorbells and completions, where {most:?} were enough"
        );
    }
    Ok(())
}
