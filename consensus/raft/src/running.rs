//! The Raft thread: its own runtime, from opening the store to closing it.
//!
//! Decides the order in which things end: Raft, its tasks, the writer, the lock. Never shares
//! its runtime: a busy daemon must not delay a heartbeat.

use std::{future::Future, sync::Arc, thread};

use openraft::{AsyncRuntime as _, Config, Raft, async_runtime::watch::WatchReceiver as _};
use tokio::{
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    agreement::Settings,
    carrier::Carrier,
    clock::Scale,
    errors::OpenError,
    hearing::{self, Answers, Hearing, Led},
    machine::{Machine, Published},
    network::Links,
    probes::Probes,
    raft_types::{Metrics, Runtime, Types},
    status::RaftStatus,
    store::{Applied, Store},
};

/// Raft as the handle talks to it.
pub(crate) type Group<M> = Raft<Types, Applied<M>>;

/// Where Raft's tasks run, and those that must run beside it.
pub(crate) enum Home {
    /// In the Raft thread.
    Thread(Handle),
    /// In a simulated process.
    #[cfg(feature = "simulation")]
    Process(crate::simulation::Process),
}

impl Home {
    /// Raft's configuration where it is not the usual one.
    fn adapt(&self, config: Arc<Config>) -> Arc<Config> {
        match self {
            Self::Thread(_) => config,
            #[cfg(feature = "simulation")]
            Self::Process(process) => process.adapt(config),
        }
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        match self {
            Self::Thread(runtime) => runtime.spawn(work),
            #[cfg(feature = "simulation")]
            Self::Process(process) => process.spawn(work),
        }
    }
}

/// What the thread hands out once it runs.
pub(crate) struct Running<M: Machine> {
    pub(crate) raft: Group<M>,
    pub(crate) home: Home,
    pub(crate) published: watch::Receiver<Published<M>>,
    pub(crate) status: watch::Receiver<RaftStatus>,
    /// What came from leaders.
    pub(crate) led: Led,
    /// Dropped by the thread when the store is closed.
    pub(crate) closed: watch::Receiver<()>,
}

/// Starts the thread and waits until Raft runs. Raft ends when `stop` is dropped or sent.
pub(crate) async fn start<M: Machine>(
    settings: Settings,
    initial: M,
    carrier: Arc<dyn Carrier>,
    stop: oneshot::Receiver<()>,
) -> Result<Running<M>, OpenError> {
    let (ready, started) = oneshot::channel();
    thread::Builder::new()
        .name("raft".to_owned())
        .spawn(move || live(&settings, initial, carrier, stop, ready))
        .map_err(OpenError::Io)?;
    let died = || OpenError::Raft("its thread died while starting".to_owned());
    started.await.unwrap_or_else(|_| Err(died()))
}

fn live<M: Machine>(
    settings: &Settings,
    initial: M,
    carrier: Arc<dyn Carrier>,
    stop: oneshot::Receiver<()>,
    ready: oneshot::Sender<Result<Running<M>, OpenError>>,
) {
    let opened = Store::open(&settings.dir, settings.raft_id, &settings.node);
    let mut store = match opened {
        Ok(store) => store,
        Err(error) => return drop(ready.send(Err(error))),
    };
    // Lives until the store is closed, whoever ends first.
    let (closing, closed) = watch::channel(());
    match Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => {
            runtime.block_on(async {
                let home = Home::Thread(Handle::current());
                match assemble(settings, initial, carrier, &mut store, home, closed).await {
                    Ok(running) => {
                        let raft = running.raft.clone();
                        if ready.send(Ok(running)).is_ok() {
                            until_stopped(&raft, stop).await;
                        } else {
                            end(&raft).await;
                        }
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
            // Ends every task, and with them every clone of the store.
            drop(runtime);
        }
        Err(error) => drop(ready.send(Err(OpenError::Io(error)))),
    }
    store.close();
    drop(closing);
}

/// The same in a simulated process, without a thread. Must be called within its runtime.
#[cfg(feature = "simulation")]
pub(crate) async fn start_in<M: Machine>(
    process: crate::simulation::Process,
    settings: Settings,
    initial: M,
    carrier: Arc<dyn Carrier>,
    stop: oneshot::Receiver<()>,
) -> Result<Running<M>, OpenError> {
    let inside = process.clone();
    let started = process.spawn(async move {
        let mut store = Store::open_in(&inside, settings.raft_id, &settings.node)?;
        let (closing, closed) = watch::channel(());
        let home = Home::Process(inside.clone());
        let running = assemble(&settings, initial, carrier, &mut store, home, closed).await?;
        let raft = running.raft.clone();
        inside.spawn(async move {
            until_stopped(&raft, stop).await;
            drop(raft);
            store.close();
            drop(closing);
        });
        Ok(running)
    });
    let died = || OpenError::Raft("its process died while starting".to_owned());
    started.await.unwrap_or_else(|_| Err(died()))
}

async fn until_stopped<M: Machine>(raft: &Group<M>, stop: oneshot::Receiver<()>) {
    // An error means that the last handle is gone: the same wish.
    drop(stop.await);
    end(raft).await;
}

async fn end<M: Machine>(raft: &Group<M>) {
    if let Err(error) = raft.shutdown().await {
        tracing::error!(%error, "Raft did not end cleanly");
    }
}

async fn assemble<M: Machine>(
    settings: &Settings,
    initial: M,
    carrier: Arc<dyn Carrier>,
    store: &mut Store,
    home: Home,
    closed: watch::Receiver<()>,
) -> Result<Running<M>, OpenError> {
    let config = home.adapt(settings.timers.config()?);
    let own = settings.raft_id.0;
    let (hears, hearing) = watch::channel(Hearing::default());
    let answers = Answers::default();
    let probes = Probes::new(Arc::clone(&carrier), &settings.timers);
    let links = Links {
        own,
        carrier,
        timers: settings.timers,
        hearing: hearing.clone(),
        answers: answers.clone(),
    };
    let applied = Applied::open(initial, store.snapshot.take(), store.log.clone())
        .map_err(OpenError::Damaged)?;
    let published = applied.published();
    let raft = Raft::new(own, config, links, store.log.clone(), applied).await;
    let raft = raft.map_err(|error| OpenError::Raft(error.to_string()))?;
    let led = Led::default();
    let heard = (answers.clone(), led.clone());
    hearing::listen(&raft, &settings.timers, heard, probes, hears);
    let status = follow(&raft, hearing, answers);
    Ok(Running {
        raft,
        home,
        published,
        status,
        led,
        closed,
    })
}

/// Translates Raft's metrics for as long as Raft runs.
fn follow<M: Machine>(
    raft: &Group<M>,
    mut hearing: watch::Receiver<Hearing>,
    answers: Answers,
) -> watch::Receiver<RaftStatus> {
    let mut metrics = raft.metrics();
    let scale = Scale::new();
    let translate = move |metrics: &Metrics, hearing| {
        RaftStatus::from_metrics(metrics, hearing, &answers, &scale)
    };
    let first = Hearing::default();
    let (told, status) = watch::channel(translate(&metrics.borrow_watched(), first));
    Runtime::spawn(async move {
        loop {
            // Both arms keep what was not seen.
            let changed = tokio::select! {
                changed = metrics.changed() => changed.is_ok(),
                Ok(()) = hearing.changed() => true,
            };
            if !changed {
                return;
            }
            let heard = *hearing.borrow_and_update();
            let now = translate(&metrics.borrow_watched(), heard);
            told.send_if_modified(|last| now.replaces(last));
        }
    });
    status
}
