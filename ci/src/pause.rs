//! Stopping a move at a chosen point, to break something there.
//!
//! Agents started with `MEANDER_TEST_PAUSE=POINT` make every move wait at that point: the file
//! `/run/meander/paused-POINT` appears on the node, and the move goes on when it is removed.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Lab;
use crate::state::wait_until;

/// The variable that names the points, separated by commas.
pub const PAUSE_VARIABLE: &str = "MEANDER_TEST_PAUSE";
/// How long a move may take to come to a point.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(40);

/// A point of a move, and the side of it that pauses there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The source mover enters the phase of this name.
    Source(&'static str),
    /// The guardian at the destination comes to this point.
    Destination(&'static str),
}

impl Point {
    /// Every one, in the order of a move.
    pub const ALL: [Point; 12] = [
        Point::Source("check"),
        Point::Source("suspend"),
        Point::Source("freeze"),
        Point::Source("copy"),
        Point::Destination("receive"),
        Point::Source("confirm"),
        Point::Destination("restore"),
        Point::Destination("held"),
        Point::Source("commit"),
        Point::Source("attach"),
        Point::Destination("release"),
        Point::Source("shadow"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Point::Source(name) | Point::Destination(name) => name,
        }
    }

    /// The node that pauses, of a move between these two.
    pub fn node<'n>(self, source: &'n str, destination: &'n str) -> &'n str {
        match self {
            Point::Source(_) => source,
            Point::Destination(_) => destination,
        }
    }
}

/// A move that waits at a point.
pub struct Paused {
    file: PathBuf,
}

impl Lab {
    /// Starts an agent on every node, under which moves pause at `point`.
    pub fn start_agents_pausing_at(&self, point: Point) -> Result<()> {
        let variable = [(PAUSE_VARIABLE, point.name())];
        self.nodes()
            .iter()
            .try_for_each(|node| self.start_agent(&node.name, &[], &variable))
    }

    /// Waits until a move pauses at `point` on `node`.
    pub fn wait_for_pause(&self, node: &str, point: Point) -> Result<Paused> {
        let inside = format!("/run/meander/paused-{}", point.name());
        let file = self.node(node).path_from_outside(&inside);
        let what = format!("a move on {node} to come to {}", point.name());
        wait_until(&what, ARRIVAL_LIMIT, || file.exists().then_some(()))?;
        Ok(Paused { file })
    }
}

impl Paused {
    /// Lets the move go on.
    pub fn go_on(self) -> Result<()> {
        fs::remove_file(&self.file).with_context(|| format!("no {}", self.file.display()))
    }
}
