//! What a bridge needs before the first message: schema identifiers, partitions, a way into Kafka.
//!
//! Registry and Kafka may come up later than the bridge. It waits for them, and says so; all of it is set up
//! before the broker is connected, so that an outage here is never taken out on a message.

use std::sync::Arc;
use std::time::Duration;

use eventlog::registry::{RegistryError, SchemaRegistry, register_all};
use eventlog::{Log, LogError};
use runtime::backoff::Backoff;
use runtime::fate::Fate;
use runtime::health::Component;
use runtime::shutdown::Shutdown;
use schemas::topics::Topics;
use tokio::task::spawn_blocking;

use crate::BridgeError;
use crate::deliveries::Deliveries;
use crate::intake::WriterIds;

/// Something that may be worth another attempt.
trait Attempt: std::fmt::Display {
    fn fate(&self) -> Fate;
}

impl Attempt for LogError {
    fn fate(&self) -> Fate {
        self.fate()
    }
}

impl Attempt for RegistryError {
    fn fate(&self) -> Fate {
        self.fate()
    }
}

/// Repeats a blocking attempt while its failures are transient; `None` when shutdown came first.
async fn until_done<T, E>(
    what: &str,
    health: &Component,
    shutdown: &Shutdown,
    attempt: impl Fn() -> Result<T, E> + Clone + Send + 'static,
) -> Result<Option<T>, BridgeError>
where
    T: Send + 'static,
    E: Attempt + Into<BridgeError> + Send + 'static,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let once = attempt.clone();
        let outcome = tokio::select! {
            outcome = spawn_blocking(once) => outcome?,
            () = shutdown.wait() => return Ok(None),
        };
        match outcome {
            Ok(value) => return Ok(Some(value)),
            Err(error) if error.fate() == Fate::Transient => {
                let delay = backoff.next_delay();
                tracing::warn!(%error, ?delay, waiting_for = what, "not there yet");
                health.waiting(format!("{what}: {error}"));
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = shutdown.wait() => return Ok(None),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Registers what the bridge writes and answers the identifiers.
pub(crate) async fn schema_ids(
    registry: Arc<dyn SchemaRegistry>,
    health: &Component,
    shutdown: &Shutdown,
) -> Result<Option<WriterIds>, BridgeError> {
    let register = move || register_all(&*registry);
    let ids = until_done("schema registry", health, shutdown, register).await?;
    Ok(ids.map(|ids| WriterIds::new(|kind| ids.id(kind))))
}

/// Partitions of the raw topic.
pub(crate) async fn partitions<L: Log>(
    log: L,
    topics: &Topics,
    health: &Component,
    shutdown: &Shutdown,
) -> Result<Option<i32>, BridgeError> {
    let raw = topics.raw();
    until_done("kafka", health, shutdown, move || log.partitions(&raw)).await
}

/// An appender for so many messages in flight at once, and what its callback tells.
pub(crate) async fn appender<L: Log>(
    log: L,
    slots: usize,
    health: &Component,
    shutdown: &Shutdown,
) -> Result<Option<(L::Appender, Arc<Deliveries>)>, BridgeError> {
    let deliveries = Arc::new(Deliveries::new(slots));
    let told = Arc::clone(&deliveries);
    let open = move || {
        let told = Arc::clone(&told);
        log.appender(Box::new(move |token, outcome| told.settle(token, outcome)))
    };
    let appender = until_done("kafka", health, shutdown, open).await?;
    Ok(appender.map(|appender| (appender, deliveries)))
}
