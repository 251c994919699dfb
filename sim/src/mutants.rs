//! The simulator's own test: every planted fault must be found.

use std::panic;
use std::process::ExitCode;

use meander_core::{PlantedFault, plant};
use meander_sim::{Plan, run};

/// Runs seeds with each fault planted until one breaks a promise; then the same without any.
pub fn find(seeds: u64, plan: &Plan) -> ExitCode {
    let all = PlantedFault::ALL;
    panic::set_hook(Box::new(|_| {}));
    let mut last = 0;
    let mut found = 0;
    for fault in all {
        match (0..seeds).find_map(|seed| breaks(seed, plan, Some(*fault))) {
            Some((seed, how)) => {
                found += 1;
                last = last.max(seed);
                println!("{:<28} seed {seed:>4}  {how}", format!("{fault:?}"));
            }
            None => println!("{:<28} NOT FOUND in {seeds} seeds", format!("{fault:?}")),
        }
    }
    let innocent = (0..=last).find_map(|seed| breaks(seed, plan, None));
    if let Some((seed, how)) = innocent {
        println!("mutants: seed {seed} fails with nothing planted: {how}");
        return ExitCode::FAILURE;
    }
    println!("mutants: found {found} of {}", all.len());
    if found == all.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
