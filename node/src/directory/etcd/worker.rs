//! The one thread that knows of tokio, and the members of the etcd cluster it talks to.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};

use super::rows::Rows;
use crate::Error;

/// How long one member may take over one call; then the next one is asked.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long connecting to a member may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How much longer a caller waits than what he waits for may take.
const GRACE: Duration = Duration::from_secs(1);
/// Pause once every member has failed.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce(Arc<Members>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Runs futures for synchronous callers, on a thread that starts with the first.
pub(super) struct Worker {
    members: Arc<Members>,
    jobs: Mutex<Option<tokio::sync::mpsc::UnboundedSender<Job>>>,
}

impl Worker {
    pub(super) fn new(endpoints: Vec<String>, rows: Rows) -> Worker {
        Worker {
            members: Arc::new(Members {
                clients: endpoints.iter().map(|_| Mutex::new(None)).collect(),
                endpoints,
                rows,
                preferred: AtomicUsize::new(0),
                counted: Mutex::new(None),
            }),
            jobs: Mutex::new(None),
        }
    }

    /// Runs it to its end and returns what it gave. It is given `limit` as its deadline by its own
    /// means; the error is for a thread that does not answer at all.
    pub(super) fn run<T, F>(
        &self,
        limit: Duration,
        job: impl FnOnce(Arc<Members>) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        let boxed: Job = Box::new(|members| Box::pin(tell(job(members), answer)));
        let dead = |why: &str| Error::NoDirectory {
            why: format!("the thread that talks to etcd {why}"),
        };
        self.thread()?.send(boxed).map_err(|_| dead("has ended"))?;
        answered
            .recv_timeout(limit + GRACE)
            .map_err(|_| dead("does not answer"))
    }

    fn thread(&self) -> Result<tokio::sync::mpsc::UnboundedSender<Job>, Error> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = jobs.as_ref().filter(|jobs| !jobs.is_closed()) {
            return Ok(jobs.clone());
        }
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let members = self.members.clone();
        // Connections belong to the thread that made them.
        members.forget();
        std::thread::Builder::new()
            .name("etcd".into())
            .spawn(move || serve(&members, receiver))
            .map_err(Error::io("starting the thread that talks to etcd"))?;
        *jobs = Some(sender.clone());
        Ok(sender)
    }
}

async fn tell<T>(job: impl Future<Output = T>, answer: SyncSender<T>) {
    // Who asked may have given up.
    let _ = answer.send(job.await);
}

fn serve(members: &Arc<Members>, mut jobs: tokio::sync::mpsc::UnboundedReceiver<Job>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime.inspect_err(|error| tracing::error!("starting tokio: {error}"))
    else {
        return;
    };
    let tasks = tokio::task::LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        while let Some(job) = jobs.recv().await {
            tokio::task::spawn_local(job(members.clone()));
        }
    }));
}

/// The members, each with a connection once it was needed.
pub(super) struct Members {
    endpoints: Vec<String>,
    clients: Vec<Mutex<Option<Client>>>,
    pub(super) rows: Rows,
    /// The one that answered last.
    preferred: AtomicUsize,
    /// When the ports were last counted, and whether there were too many.
    counted: Mutex<Option<(Instant, bool)>>,
}

impl Members {
    /// Makes a call at one member after the other until one answers, or `deadline` has come.
    /// `call` may have arrived at each of those that did not answer.
    pub(super) async fn call<T, F>(
        &self,
        deadline: tokio::time::Instant,
        call: impl Fn(Client) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = String::from("no member was asked in time");
        loop {
            for turn in 0..self.endpoints.len() {
                let at = (first + turn) % self.endpoints.len();
                last = match self.call_at(at, deadline, &call).await {
                    Ok(answer) => {
                        self.preferred.store(at, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(why) => why,
                };
                tracing::debug!("etcd at {last}");
                if tokio::time::Instant::now() >= deadline {
                    return Err(last);
                }
            }
            tokio::time::sleep_until(deadline.min(tokio::time::Instant::now() + ROUND_PAUSE)).await;
            if tokio::time::Instant::now() >= deadline {
                return Err(last);
            }
        }
    }

    /// Makes a call at one member. After an error it may have arrived there; the next call goes to
    /// another.
    pub(super) async fn call_once<T, F>(
        &self,
        deadline: tokio::time::Instant,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let at = self.preferred.load(Ordering::Relaxed) % self.endpoints.len();
        let called = self.call_at(at, deadline, call).await;
        if called.is_err() {
            self.preferred.store(at + 1, Ordering::Relaxed);
        }
        called
    }

    /// Whether there were too many ports when they were last counted, if that is not long ago.
    pub(super) fn was_full(&self, within: Duration) -> Option<bool> {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted
            .filter(|(at, _)| at.elapsed() < within)
            .map(|(_, full)| full)
    }

    /// The ports have just been counted.
    pub(super) fn note_full(&self, full: bool) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted = Some((Instant::now(), full));
    }

    async fn call_at<T, F>(
        &self,
        at: usize,
        deadline: tokio::time::Instant,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let limit = deadline.min(tokio::time::Instant::now() + CALL_TIMEOUT);
        let called = async { call(self.client(at).await?).await };
        let why = match tokio::time::timeout_at(limit, called).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "does not answer".into(),
        };
        Err(format!("{}: {why}", self.endpoints[at]))
    }

    async fn client(&self, at: usize) -> Result<Client, etcd_client::Error> {
        let slot = || {
            self.clients[at]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(client) = &*slot() {
            return Ok(client.clone());
        }
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_require_leader(true);
        let endpoint = format!("http://{}", self.endpoints[at]);
        let client = Client::connect([endpoint], Some(options)).await?;
        *slot() = Some(client.clone());
        Ok(client)
    }

    fn forget(&self) {
        for client in &self.clients {
            *client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}
