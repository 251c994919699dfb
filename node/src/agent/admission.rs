//! Letting a rank in: what is checked before its guardian is started.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meander::Contact;
use meander_core::moves::Trouble;

use super::{Agent, Offer};
use crate::moves::{self, GuardianOrder};
use crate::net::frame;
use crate::{Error, logs};

/// How long a guardian may take until it listens.
const GUARDIAN_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory that stays free whatever comes in, in bytes.
const SLACK_BYTES: u64 = 64 << 20;

/// Images that are being taken in, in bytes: two at once must not both count on the same memory.
static PROMISED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Checks an offer and starts the guardian.
pub(super) fn admit(agent: &Agent, offer: &Offer) -> Result<Contact, Trouble> {
    let here = agent.node();
    if offer.to != *here {
        let why = format!("the agent that answers for {} is {here}'s", offer.to);
        return Err(Trouble::new(why).mend("the cluster files of the nodes differ"));
    }
    check_memory(agent, offer)?;
    let missing = offer.needs.missing_here();
    if !missing.is_empty() {
        let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let why = format!("{here} lacks what the rank needs: {}", list.join("; "));
        return Err(Trouble::new(why).mend(format!("install the same on {here}")));
    }
    let promise = Promise::make(offer.needs.memory_bytes);
    let guardian = start_guardian(agent, offer, promise)?;
    let (job, rank) = (&offer.identity.job, offer.identity.rank);
    tracing::info!("taking in rank {job}/{rank} from {}", offer.from);
    Ok(guardian)
}

fn check_memory(agent: &Agent, offer: &Offer) -> Result<(), Trouble> {
    let (here, image) = (agent.node(), offer.needs.memory_bytes);
    if let Some(limit) = agent
        .config
        .memory_limit_bytes
        .filter(|limit| image > *limit)
    {
        let why = format!(
            "the image ({}) is larger than the memory limit of the agent on {here} ({})",
            mib(image),
            mib(limit)
        );
        return Err(Trouble::new(why).mend("raise --memory-limit of that agent"));
    }
    // The image lies in memory while the process is restored from it.
    let needed = 2 * (image + PROMISED_BYTES.load(Ordering::Relaxed)) + SLACK_BYTES;
    let free = available_bytes();
    if free.is_some_and(|free| free < needed) {
        let why = format!(
            "{here} has too little free memory: {} for an image of {}",
            mib(free.unwrap_or_default()),
            mib(image)
        );
        return Err(Trouble::new(why).mend("move it to a node with more, or try again later"));
    }
    Ok(())
}

fn start_guardian(agent: &Agent, offer: &Offer, promise: Promise) -> Result<Contact, Trouble> {
    let starting = || Error::io("starting the rank's guardian");
    let (mut ours, theirs) = UnixStream::pair().map_err(starting())?;
    let log = format!("guardian-{}-{}", offer.identity.job, offer.identity.rank);
    let mut child = Command::new("/proc/self/exe")
        .arg("guardian")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(logs::open(&log))
        .spawn()
        .map_err(starting())?;
    let order = GuardianOrder {
        cluster: agent.config.cluster.clone(),
        directory: agent.config.directory.clone(),
        key: agent.config.key.clone(),
        offer: offer.clone(),
        image_limit_bytes: agent.config.memory_limit_bytes,
    };
    let answer = ours
        .set_read_timeout(Some(GUARDIAN_TIMEOUT))
        .and_then(|()| frame::write(&mut ours, &order))
        .and_then(|()| frame::read::<Result<Contact, Trouble>>(&mut ours));
    let started = match answer {
        Ok(Some(started)) => started,
        _ => {
            let _ = child.kill();
            let log = logs::path(&log);
            Err(
                Trouble::new(format!("the guardian on {} did not start", agent.node()))
                    .mend(format!("see {} there", log.display())),
            )
        }
    };
    let images = moves::image_path(offer.move_id, "destination");
    // It outlives this agent; while there is an agent, no zombie is left. The promise holds until
    // the image is restored: the guardian closes its end then.
    std::thread::spawn(move || {
        let _ = ours.set_read_timeout(None);
        let _ = frame::read_bytes(&mut ours);
        drop(promise);
        let _ = child.wait();
        // It has done so itself, unless it was killed.
        let _ = fs::remove_dir_all(images);
    });
    started
}

/// Memory counted as taken, until it is dropped.
struct Promise(u64);

impl Promise {
    fn make(bytes: u64) -> Promise {
        PROMISED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        Promise(bytes)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        PROMISED_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
