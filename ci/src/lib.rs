//! The labs in which Meander is tried, and what the scenarios in `ci/tests/` share.
//!
//! The netns lab ([`Lab`]) makes nodes out of one machine: each is a set of namespaces with its own
//! host name, address, `/run`, `/dev/shm` and uptime, all joined by one bridge. Programs run in them at native
//! speed, `mpirun` spans them, and links can be cut or slowed ([`fault`]). In the rxe lab ([`Rxe`])
//! they are virtual machines with soft-RoCE.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = meander_lab::Lab::up("try", &["a", "b", "c"])?;
//! lab.start_agents()?;
//! let status = lab.command("a", "hostname").status()?;
//! assert!(status.success());
//! # Ok(())
//! # } // the lab is taken down when it is dropped
//! ```

pub mod agent;
pub mod artifacts;
pub mod compare;
pub mod demo;
pub mod downtime;
pub mod fault;
pub mod instructions;
pub mod lab;
pub mod meander;
pub mod mpirun;
pub mod node;
pub mod pause;
pub mod rxe;
pub mod scenario;
pub mod state;
pub mod teardown;

pub use lab::Lab;
pub use mpirun::{Ended, Mpirun, Running};
pub use rxe::Rxe;
