//! Two ports under any script of operations: sends, pulls, cuts, moves. The simulator's checker judges.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| {
    let faults = meander_sim::run_script(script);
    assert!(faults.is_empty(), "{faults:?}");
});
