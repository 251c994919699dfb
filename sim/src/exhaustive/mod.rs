//! Small worlds, whole: every interleaving of one move, over core's own state machines.
//!
//! The owner of a move, its guardian, the agents of three nodes, the directory; in one world the move
//! alone and any two mishaps (crashes, steps that fail, lines and answers that are lost); in the other
//! two ports with a link between them, one message on its way each way (one with its payload, one that
//! is pulled), and one crash at any moment: of the mover, the guardian, an agent, any of the processes,
//! the directory. What nobody can come between happens at once; all else is an `Action`, and every
//! order of them is tried, each different state once, until there is no state left: there is no bound on
//! the depth. Deadlines may pass at any time, but those of a link's set-up: here every frame comes, or
//! the end of its link.
//!
//! In every state: never two live owners, nothing delivered twice, nothing touched after its
//! completion, nobody dead who was not killed. From every state a good end can be reached: whoever lives
//! has what he is owed, and his buffers back.
//!
//! So that there are few enough states, those that go on alike are one:
//! - times count as due or not; nonces, numbers of attempts, and what is said to people do not count
//!   (`Port::fingerprint`, `Source::fingerprint` and the like);
//! - what can't matter any more is dropped: whatever a dead process held, answers that nobody waits for,
//!   questions of the dead that change nothing, a line or an image that nobody will use (`forget`);
//! - of the orders of steps that have nothing to do with one another one is looked at (`order`).

mod actions;
mod enumerate;
mod fingerprint;
mod forget;
mod moving;
mod order;
mod process;
mod wires;
mod world;

pub use enumerate::Outcome;
use world::World;

/// One of the worlds that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// What may go wrong, in all: a crash, a step that fails, a line, a link or an answer lost.
    pub mishaps: u8,
    /// Whether there is another port and messages, or the move alone.
    pub talking: bool,
}

impl Small {
    /// The worlds that `cargo xtask exhaustive` looks at.
    pub const ALL: [Small; 2] = [
        Small {
            mishaps: 2,
            talking: false,
        },
        Small {
            mishaps: 1,
            talking: true,
        },
    ];

    /// What it is, in words.
    pub fn name(self) -> String {
        let what = if self.talking {
            "a move and two ports"
        } else {
            "a move alone"
        };
        format!(
            "{what}, {} mishap{}",
            self.mishaps,
            if self.mishaps == 1 { "" } else { "s" }
        )
    }

    /// Looks at all of it. `plant` is called in each thread that does.
    pub fn explore(self, plant: impl Fn() + Sync) -> Outcome {
        plant();
        enumerate::enumerate(World::new(self.mishaps, self.talking), plant)
    }
}
