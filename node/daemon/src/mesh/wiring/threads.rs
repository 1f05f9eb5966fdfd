//! The threads of tasks that nothing else may hold up.
//!
//! Decides: which of them come before all ordinary threads of the host. Never: what they do.

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use super::Wiring;

impl Wiring {
    /// For tasks that nothing else of this daemon may hold up. They end by themselves at a stop.
    pub(super) fn on_own_thread<T>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        let runtime = own_runtime();
        self.tasks.spawn_blocking(move || {
            let _ = runtime.block_on(task);
            tracing::debug!(task = name, "ended");
        });
    }

    /// For tasks that nothing else of this host may hold up, as far as it grants that: which work for a
    /// moment and then wait. They end by themselves at a stop.
    pub(super) fn before_all_others<T>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        let runtime = own_runtime();
        let (running, ended) = oneshot::channel::<()>();
        let work = move || {
            if let Err(reason) = overlay_gate::take_precedence() {
                tracing::info!(task = name, reason, "its thread is an ordinary one");
            }
            let _ = runtime.block_on(task);
            drop(running);
        };
        // Not one of the runtime's, which are used again for something else.
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .expect("a daemon that starts has room for one more thread");
        self.track(name, ended);
    }
}

fn own_runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime with timers alone takes nothing that can be missing")
}
