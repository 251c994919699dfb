//! What every transport must do: one suite, run by each transport's own tests.
//!
//! ```text
//! struct Loopback;
//! impl Fabric for Loopback { /* how to open one */ }
//! meander_sim::conformance!(Loopback);
//! ```
//!
//! Each test is a function over a [`Fabric`]; [`conformance!`](macro@crate::conformance) makes a `#[test]`
//! of every one.

mod end;
pub mod tests;

use std::time::{Duration, Instant};

pub use end::{End, Got, Record};
use meander_core::transport::Transport;

/// How to open the transport under test.
pub trait Fabric {
    /// The transport.
    type Transport: Transport;
    /// Opens one more, able to reach the others.
    fn open(&self) -> Self::Transport;
    /// Lets the fabric move what is on its way; nothing for one that moves by itself.
    fn go_on(&self) {}
}

/// How long a test waits for what must happen. A transport that is right never takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Drives the ends until `done` says so.
pub(crate) fn until<F: Fabric>(
    fabric: &F,
    ends: &mut [&mut End<F::Transport>],
    what: &str,
    mut done: impl FnMut(&mut [&mut End<F::Transport>]) -> bool,
) {
    let start = Instant::now();
    while !done(ends) {
        fabric.go_on();
        for end in ends.iter_mut() {
            end.drive();
        }
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
    }
}

/// Makes a `#[test]` of every test of the suite, over a value of type [`Fabric`]. Each is given
/// the attribute after the value, if there is one.
#[macro_export]
macro_rules! conformance {
    (@all $attribute:tt $fabric:expr; $($name:ident),*) => {
        $($crate::conformance!(@test $attribute $fabric; $name);)*
    };
    (@test [$($attribute:meta)?] $fabric:expr; $name:ident) => {
        #[test]
        $(#[$attribute])?
        fn $name() { $crate::conformance::tests::$name(&$fabric); }
    };
    ($fabric:expr $(; $attribute:meta)?) => {
        $crate::conformance!(@all [$($attribute)?] $fabric;
            frames_arrive_in_order,
            a_full_link_says_so_and_takes_more_later,
            full_is_a_result_and_broken_another,
            frames_sent_at_once_keep_their_place,
            the_smallest_and_the_largest_frame,
            bodies_go_straight_into_their_place,
            header_application_header_and_body_make_one_frame,
            a_peer_that_vanishes_breaks_the_link,
            a_peer_that_vanishes_under_fire_leaves_whole_frames,
            links_come_and_go_in_storms,
            many_links_come_and_go_at_once,
            closing_drops_what_is_in_flight_and_nothing_else,
            nothing_touches_memory_after_close,
            two_ports_on_one_thread_talk_both_ways,
            sixty_four_peers,
            a_card_that_is_nonsense_is_an_error,
            a_card_that_leads_nowhere_breaks_the_link,
            nonsense_breaks_the_link,
            the_sink_can_break_the_link
        );
    };
}
