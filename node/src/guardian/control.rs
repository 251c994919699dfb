//! What the owner of a rank's next move says to its guardian, at a socket of the node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use meander::control::run_dir;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::Baton;
use crate::checkpoint::{Error, channel};

/// How long a guardian may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What is asked of a guardian.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Demand {
    /// The rank is frozen: hand over the line to the shadow.
    Depart,
    /// The move did not happen: take it back.
    Stay,
    /// It did: kill the frozen rank, and end.
    Gone,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Baton(Box<Baton>),
    Done,
    Failed(String),
}

/// Where a guardian takes demands.
pub(super) struct Control {
    listener: Arc<UnixListener>,
    path: PathBuf,
}

/// The answer to one demand.
pub(super) struct Answer(UnixStream);

impl Control {
    pub fn bind(rank: Pid) -> Result<Control, Error> {
        let path = path(rank);
        let bind = || {
            fs::create_dir_all(run_dir())?;
            let _ = fs::remove_file(&path); // of a guardian that was killed
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(Arc::new(listener))
        };
        let listener = bind().map_err(Error::os(format!("listen at {}", path.display())))?;
        Ok(Control { listener, path })
    }

    /// Hands every demand to `demand`, from threads of its own.
    pub fn serve(&self, demand: impl Fn(Demand, Answer) + Clone + Send + 'static) {
        let listener = self.listener.clone();
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let demand = demand.clone();
                thread::spawn(move || {
                    while let Ok(Some(asked)) = channel::receive::<Demand>(&socket) {
                        let Ok(answer) = socket.try_clone() else {
                            return;
                        };
                        demand(asked, Answer(answer));
                    }
                });
            }
        });
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Answer {
    pub fn baton(self, baton: Result<Baton, Error>) {
        self.send(match baton {
            Ok(baton) => Reply::Baton(Box::new(baton)),
            Err(error) => Reply::Failed(error.to_string()),
        });
    }

    pub fn done(self, done: Result<(), Error>) {
        self.send(match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(error.to_string()),
        });
    }

    fn send(self, reply: Reply) {
        if let Err(error) = channel::send(&self.0, &reply) {
            tracing::warn!("who asked is gone: {error}");
        }
    }
}

/// A rank's guardian, as the owner of its next move sees it.
pub struct Handle {
    socket: UnixStream,
}

impl Handle {
    /// The guardian of the process `pid` of this node; `None` where it has none (it never moved).
    pub fn of(pid: Pid) -> Result<Option<Handle>, Error> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        let path = path(pid);
        match UnixStream::connect(&path) {
            Ok(socket) => {
                socket
                    .set_read_timeout(Some(ANSWER_TIMEOUT))
                    .map_err(Error::os("talk to the guardian"))?;
                Ok(Some(Handle { socket }))
            }
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(None),
            Err(error) => Err(Error::os(format!("connect to {}", path.display()))(error)),
        }
    }

    /// The rank is frozen and its image taken: takes in all it has written, and suspends the
    /// stream to the shadow. Not before the image is taken: a dump that has to be tried again lets
    /// the rank run for an instant.
    pub fn depart(&mut self) -> Result<Baton, Error> {
        match self.ask(&Demand::Depart)? {
            Reply::Baton(baton) => Ok(*baton),
            Reply::Failed(why) => Err(Error::Restore(format!("the rank's guardian: {why}"))),
            Reply::Done => Err(Error::Restore(
                "the rank's guardian handed over nothing".into(),
            )),
        }
    }

    /// Rolled back: the guardian goes on. The caller releases its hold afterwards.
    pub fn stay(self) -> Result<(), Error> {
        self.ask_done(&Demand::Stay)
    }

    /// Committed elsewhere: the guardian kills the frozen rank, ends the hold, and ends.
    pub fn gone(self) -> Result<(), Error> {
        self.ask_done(&Demand::Gone)
    }

    fn ask_done(&self, demand: &Demand) -> Result<(), Error> {
        match self.ask(demand)? {
            Reply::Failed(why) => Err(Error::Restore(format!("the rank's guardian: {why}"))),
            _ => Ok(()),
        }
    }

    fn ask(&self, demand: &Demand) -> Result<Reply, Error> {
        let asked = channel::send(&self.socket, demand);
        let reply = asked.and_then(|()| channel::receive(&self.socket));
        let reply = reply.map_err(Error::os("ask the rank's guardian"))?;
        reply.ok_or_else(|| Error::Restore("the rank's guardian has ended".to_owned()))
    }
}

fn path(rank: Pid) -> PathBuf {
    run_dir().join(format!("rank-{rank}.sock"))
}
