//! The simulator's own test: every planted fault must be found.

use std::panic;
use std::process::ExitCode;
use std::thread;

use meander_core::{PlantedFault, plant};
use meander_sim::exhaustive::Small;
use meander_sim::{Plan, run};

/// Those that one move alone can show, without messages.
const IN_THE_SMALL_WORLD: &[PlantedFault] = &[
    PlantedFault::CommitWithoutConfirmation,
    PlantedFault::ResumeAfterCommit,
    PlantedFault::ReleaseWithoutCommit,
    PlantedFault::RollBackWithoutAsking,
    PlantedFault::ResumeFromJournal,
    PlantedFault::RecoverWithoutReclaim,
    PlantedFault::ForgetCallingOff,
    PlantedFault::ForgetCommit,
    PlantedFault::DiscardWithoutAsking,
    PlantedFault::RemoveWithoutCompare,
    PlantedFault::ReportTheMoved,
];

/// Those that two ports show which owe each other a message.
const BETWEEN_TWO_PORTS: &[PlantedFault] = &[
    PlantedFault::SkipDuplicateCheck,
    PlantedFault::LoseRetainedTail,
    PlantedFault::ForgetPulls,
    PlantedFault::CompleteTooEarly,
    PlantedFault::ForgetToRaiseEpoch,
    PlantedFault::AnswerBeforeFencing,
    PlantedFault::ReleaseWithoutCommit,
    PlantedFault::ResumeAfterCommit,
];

/// Runs seeds with each fault planted until one breaks a promise; then the same without any.
pub fn find(seeds: u64, plan: &Plan) -> ExitCode {
    let all = PlantedFault::ALL;
    panic::set_hook(Box::new(|_| {}));
    let mut last = 0;
    let mut found = 0;
    let (mut fits, mut small_found) = (0, 0);
    for fault in all {
        let name = format!("{fault:?}");
        let by_seed = search(seeds, plan, *fault);
        let alone = IN_THE_SMALL_WORLD.contains(fault);
        let in_small = alone.then(|| small(*fault, Small::ALL[0]));
        let talking = BETWEEN_TWO_PORTS.contains(fault);
        let between = talking.then(|| between_two_ports(*fault));
        let in_small: Vec<_> = in_small.into_iter().chain(between).collect();
        found += usize::from(by_seed.is_some() || in_small.iter().any(Option::is_some));
        match by_seed {
            Some((seed, how)) => {
                last = last.max(seed);
                println!("{name:<28} seed {seed:>4}  {how}");
            }
            None => println!("{name:<28} not found in {seeds} seeds"),
        }
        for how in in_small {
            fits += 1;
            small_found += usize::from(how.is_some());
            let how = how.unwrap_or("NOT FOUND in a small world".to_owned());
            println!("{:<28} {how}", "");
        }
    }
    let innocent = (0..=last).find_map(|seed| breaks(seed, plan, None));
    if let Some((seed, how)) = innocent {
        println!("mutants: seed {seed} fails with nothing planted: {how}");
        return ExitCode::FAILURE;
    }
    println!("mutants: found {small_found} of {fits} in the small worlds");
    println!("mutants: found {found} of {}", all.len());
    if found == all.len() && small_found == fits {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The first seed that finds a fault. Several look at once; the answer is that of one who looks alone.
fn search(seeds: u64, plan: &Plan, fault: PlantedFault) -> Option<(u64, String)> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    (0..seeds.div_ceil(threads)).find_map(|round| {
        let first = round * threads;
        let look = |seed| move || breaks(seed, plan, Some(fault));
        thread::scope(|scope| {
            let several: Vec<_> = (first..seeds.min(first + threads))
                .map(|seed| scope.spawn(look(seed)))
                .collect();
            let answers = several.into_iter().map(|it| it.join().expect("it catches"));
            answers.collect::<Vec<_>>().into_iter().flatten().next()
        })
    })
}

/// Where no mishap is needed, none is tried: there are fewer states.
fn between_two_ports(fault: PlantedFault) -> Option<String> {
    let without = Small {
        mishaps: 0,
        ..Small::ALL[1]
    };
    small(fault, without).or_else(|| small(fault, Small::ALL[1]))
}

/// How a small world goes wrong with a fault planted, if it does.
fn small(fault: PlantedFault, world: Small) -> Option<String> {
    let explored = panic::catch_unwind(|| world.explore(|| plant(Some(fault))));
    plant(None);
    match explored {
        Ok(outcome) => {
            let (what, way) = outcome.fault?;
            let (states, steps) = (outcome.states, way.len());
            Some(format!(
                "{}: {states} states, {steps} steps  {what:?}",
                world.name()
            ))
        }
        Err(_) => Some("small world: an assertion of the protocol's own".to_owned()),
    }
}

/// How a run goes wrong, if it does.
fn breaks(seed: u64, plan: &Plan, fault: Option<PlantedFault>) -> Option<(u64, String)> {
    plant(fault);
    let result = panic::catch_unwind(|| run(seed, plan));
    plant(None);
    let how = match result {
        Ok(report) => format!("{:?}", report.faults.into_iter().next()?),
        Err(_) => "an assertion of the protocol's own".to_owned(),
    };
    Some((seed, how))
}
