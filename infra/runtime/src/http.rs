//! `/metrics`, `/health` and `/ready`.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;

use crate::health::Health;
use crate::shutdown::Shutdown;

/// Why the server of metrics and health could not run.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The server ended by itself.
    #[error("serving metrics and health: {0}")]
    Serve(std::io::Error),
    /// Another recorder of metrics was installed before.
    #[error("cannot install the recorder of metrics: {0}")]
    Recorder(String),
}

/// Buckets of every histogram whose name ends in `_seconds`: 1 ms to 60 s.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();

/// Installs the process's recorder of metrics. Idempotent. Whoever keeps handles of counters must call it before
/// it makes them: a handle made earlier counts into nothing.
pub fn install_metrics() -> Result<(), HttpError> {
    handle().map(drop)
}

fn handle() -> Result<&'static PrometheusHandle, HttpError> {
    let installed = HANDLE.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| error.to_string())
    });
    installed.as_ref().map_err(|error| HttpError::Recorder(error.clone()))
}

/// Serves until shutdown: `/metrics` in Prometheus' text format; `/health` 200 while no component has failed;
/// `/ready` 200 while all are ready, else 503, both with each component's state and reason as JSON.
pub async fn serve(address: SocketAddr, health: Health, shutdown: Shutdown) -> Result<(), HttpError> {
    let listener =
        tokio::net::TcpListener::bind(address).await.map_err(|error| HttpError::Listen { address, error })?;
    serve_on(listener, health, shutdown).await
}

/// As [`serve`], on a listener that is open already.
pub async fn serve_on(
    listener: tokio::net::TcpListener,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), HttpError> {
    let prometheus = handle()?;
    let router = Router::new()
        .route("/metrics", get(move || std::future::ready(render(prometheus))))
        .route("/health", get(alive))
        .route("/ready", get(ready))
        .with_state(health);
    let stop = shutdown.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { stop.wait().await });
    tokio::select! {
        ended = server => ended.map_err(HttpError::Serve),
        () = upkeep(prometheus, &shutdown) => Ok(()),
    }
}

/// Histograms grow until somebody reads them; this bounds them when nobody scrapes. Ends a moment after shutdown
/// is requested, so that an open keep-alive connection cannot hold the process.
async fn upkeep(prometheus: &PrometheusHandle, shutdown: &Shutdown) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            _ = every.tick() => prometheus.run_upkeep(),
            () = shutdown.wait() => break,
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn render(prometheus: &'static PrometheusHandle) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], prometheus.render())
}

async fn alive(Shared(health): Shared<Health>) -> impl IntoResponse {
    (status(health.is_alive()), Json(health.snapshot()))
}

async fn ready(Shared(health): Shared<Health>) -> impl IntoResponse {
    (status(health.is_ready()), Json(health.snapshot()))
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_with_reasons_and_metrics_and_ends_at_shutdown() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, shutdown) = (Health::new(), Shutdown::new());
        install_metrics().unwrap();
        metrics::counter!("varta_runtime_test_events_total").increment(7);
        metrics::histogram!("varta_runtime_test_seconds").record(0.004);
        let kafka = health.component("kafka");
        let server = tokio::spawn(serve_on(listener, health.clone(), shutdown.clone()));

        kafka.waiting("no broker answers");
        let answer = ask(address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("no broker answers"), "{answer}");
        assert!(ask(address, "/health").await.starts_with("HTTP/1.1 200"));
        kafka.ready();
        assert!(ask(address, "/ready").await.starts_with("HTTP/1.1 200"));
        kafka.failed("gave up");
        assert!(ask(address, "/health").await.starts_with("HTTP/1.1 503"));
        let answer = ask(address, "/metrics").await;
        assert!(answer.contains("varta_runtime_test_events_total 7"), "{answer}");
        assert!(answer.contains("varta_runtime_test_seconds_bucket{le=\"0.005\"} 1"), "{answer}");

        shutdown.request();
        server.await.unwrap().unwrap();
    }
}
