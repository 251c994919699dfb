//! One process that sends a message to itself again and again, for an instruction counter: two ports,
//! one thread, and each half of a message in a function of its own that the counter can be told of.
//!
//! It prints what a message cost by verbs, in JSON; `null` where they were not in use.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use meander::{Config, Key, Port};

use crate::line::{Contender, Line, StreamPosted};
use crate::measure::PerMessage;
use crate::peer::SERVICE;

#[derive(Args)]
pub struct Options {
    /// Bytes of a message.
    #[arg(long, default_value_t = 8)]
    size: usize,
    /// Messages that are counted.
    #[arg(long, default_value_t = 1000)]
    messages: usize,
    /// The kind of stream.
    #[arg(long, value_enum, default_value_t = Contender::StreamPosted)]
    line: Contender,
}

/// Messages before those that are counted: what grows has grown then.
const WARM_UP: usize = 200;

pub fn run(options: &Options) -> Result<()> {
    let key = Key([7; 32]);
    let near = Port::open(Config::from_env(key.clone())?)?;
    let far = Port::open(Config::from_env(key)?)?;
    near.listen(SERVICE);
    let (inviting, contact) = (far.clone(), near.contact());
    let connecting = thread::spawn(move || inviting.connect(&contact, SERVICE));
    let near_stream = near.accept(Some(Duration::from_secs(60)))?;
    let far_stream = connecting.join().ok().context("the thread panicked")??;
    let (mut from, mut to): (Box<dyn Line>, Box<dyn Line>) = match options.line {
        Contender::Stream => (Box::new(near_stream), Box::new(far_stream)),
        Contender::StreamPosted => (
            Box::new(StreamPosted::new(near.clone(), far.id())),
            Box::new(StreamPosted::new(far.clone(), near.id())),
        ),
        raw => bail!("{} is none of our code", raw.name()),
    };
    let message = Arc::new(vec![1; options.size]);
    for _ in 0..WARM_UP {
        from.send(&message)?;
        to.receive(options.size)?;
        to.send(&message)?;
        from.receive(options.size)?;
    }
    let before = near.verbs_counters();
    for _ in 0..options.messages {
        counted_send(&mut *from, &message)?;
        counted_receive(&mut *to, options.size)?;
        // The way back is not counted; on it go acknowledgements and credits, as they would.
        to.send(&message)?;
        from.receive(options.size)?;
    }
    // Of one message each way a port does both halves, so its counts are those of a message.
    let counted = before.zip(near.verbs_counters());
    let counted: Vec<_> = counted.into_iter().collect();
    println!(
        "{}",
        serde_json::to_string(&PerMessage::of(&counted, options.messages))?
    );
    Ok(())
}

/// What is counted of the sender.
#[inline(never)]
fn counted_send(line: &mut dyn Line, message: &Arc<Vec<u8>>) -> Result<()> {
    black_box(line).send(black_box(message))
}

/// What is counted of the receiver.
#[inline(never)]
fn counted_receive(line: &mut dyn Line, len: usize) -> Result<()> {
    black_box(line).receive(black_box(len))
}
