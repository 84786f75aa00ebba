//! Connections: so many at once, none for ever, and none that sends its head too slowly.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::{counter, gauge};
use runtime::shutdown::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::config::LimitsConfig;
use super::gate::Gate;
use super::patience::Patient;
use super::routes;

/// Largest head of a request, and the most that is read of a body before somebody asks for it.
const BUFFER: usize = 16 << 10;
/// Most headers of a request.
const HEADERS: usize = 64;
/// After a failure to accept, such as a lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long the request at hand may still take on a connection that is to be closed.
const LAST_REQUEST: Duration = Duration::from_mins(1);

/// Serves until shutdown, and then for at most `drain` the requests at hand.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    gate: Arc<Gate>,
    drain: Duration,
    shutdown: Shutdown,
) {
    let limits = gate.limits.clone();
    let router = routes::router(Arc::clone(&gate));
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let open = gauge!("varta_bridge_http_connections");
    let held = gauge!("varta_bridge_http_in_flight_bytes");
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        open.set(connections.len() as f64);
        let place = Arc::clone(&places).acquire_owned();
        tokio::select! {
            accepted = async {
                // First a place, then a connection: who finds none waits in the system's queue.
                let place = place.await;
                (listener.accept().await, place)
            } => match accepted {
                (Ok((stream, peer)), Ok(place)) => {
                    let connection = Connection {
                        stream, peer, tls: tls.clone(), router: router.clone(), limits: limits.clone(),
                        shutdown: shutdown.clone(),
                    };
                    connections.spawn(async move {
                        connection.run().await;
                        drop(place);
                    });
                }
                (Err(error), _) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
                (_, Err(_)) => break,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = ticks.tick() => held.set(gate.held() as f64),
            () = shutdown.wait() => break,
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!(connections = connections.len(), "requests did not end in time");
    }
    // What is left is aborted with the set: none of it has been answered with 202.
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: LimitsConfig,
    shutdown: Shutdown,
}

impl Connection {
    async fn run(self) {
        let Self { stream, peer, tls, router, limits, shutdown } = self;
        // An answer is one small packet; it must not wait for more.
        let _ = stream.set_nodelay(true);
        let outcome = match tls {
            None => serve_http(stream, router, &limits, &shutdown).await,
            Some(tls) => match tokio::time::timeout(limits.head_timeout, tls.accept(stream)).await {
                Ok(Ok(stream)) => serve_http(stream, router, &limits, &shutdown).await,
                Ok(Err(error)) => ended("tls", &error),
                Err(_) => ended("tls", &io::Error::from(io::ErrorKind::TimedOut)),
            },
        };
        if let Err(Ended { how, error }) = outcome {
            counter!("varta_bridge_http_connections_failed_total", "reason" => how).increment(1);
            tracing::debug!(%peer, how, %error, "a connection ended early");
        }
    }
}

/// A connection that did not end in order.
struct Ended {
    how: &'static str,
    error: String,
}

fn ended(how: &'static str, error: &dyn std::fmt::Display) -> Result<(), Ended> {
    Err(Ended { how, error: error.to_string() })
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: &LimitsConfig,
    shutdown: &Shutdown,
) -> Result<(), Ended> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(
            TokioIo::new(Patient::new(stream, limits.body_timeout)),
            TowerToHyperService::new(router),
        );
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = old_or_stopping(limits.connection_age, shutdown) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_REQUEST, connection).await {
                Ok(outcome) => outcome,
                Err(_) => return ended("age", &"its last request did not end"),
            }
        }
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if is_stalled(&error) => ended("unread_answer", &error),
        Err(error) if error.is_timeout() => ended("slow_head", &error),
        Err(error) if error.is_parse() => ended("not_http", &error),
        Err(error) => ended("broken", &error),
    }
}

/// Whether the client did not read its answer.
fn is_stalled(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

async fn old_or_stopping(age: Duration, shutdown: &Shutdown) {
    tokio::select! {
        () = tokio::time::sleep(age) => {}
        () = shutdown.wait() => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_given_up() {
        let (mut client, stream) = tokio::io::duplex(1024);
        let router = Router::new().fallback(async || vec![b'x'; 1 << 20]);
        let limits = LimitsConfig::default();
        let began = tokio::time::Instant::now();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let Err(Ended { how, .. }) = serve_http(stream, router, &limits, &Shutdown::new()).await else {
            panic!("it ended in order");
        };
        assert_eq!(how, "unread_answer");
        assert!(began.elapsed() < limits.body_timeout * 2, "after {:?}", began.elapsed());
    }
}
