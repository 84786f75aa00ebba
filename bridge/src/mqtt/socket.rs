//! A socket that sends small packets together.
//!
//! The MQTT client flushes after every PUBACK, which would be one system call a message: at one event a message
//! that costs more than everything else the bridge does. So a flush only marks the bytes as due; they go out when
//! the client turns to reading, which it does whenever it has nothing more to write.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A flush sends at once when this much is waiting.
const DUE_BYTES: usize = 16 << 10;
/// A write waits for the peer when this much is waiting.
const FULL_BYTES: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Coalescing<S> {
    inner: S,
    unsent: BytesMut,
    /// While set, a flush sends at once: for the last packets of a connection, after which nobody reads.
    eager: Arc<AtomicBool>,
}

impl<S: AsyncWrite + Unpin> Coalescing<S> {
    pub(super) fn new(inner: S, eager: Arc<AtomicBool>) -> Self {
        Self { inner, unsent: BytesMut::new(), eager }
    }

    /// Sends what is waiting, as far as the peer takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalescing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsent.len() >= FULL_BYTES {
            ready!(self.poll_send(cx))?;
        }
        let taken = buf.len().min(FULL_BYTES - self.unsent.len());
        self.unsent.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.len() < DUE_BYTES && !self.eager.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Coalescing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A peer that takes nothing must not keep us from reading: sending goes on when it takes more.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    fn pair(
        capacity: usize,
    ) -> (Coalescing<tokio::io::DuplexStream>, tokio::io::DuplexStream, Arc<AtomicBool>) {
        let (near, far) = tokio::io::duplex(capacity);
        let eager = Arc::new(AtomicBool::new(false));
        (Coalescing::new(near, Arc::clone(&eager)), far, eager)
    }

    #[tokio::test]
    async fn bytes_go_when_the_client_turns_to_reading() {
        let (mut near, mut far, _) = pair(64);
        near.write_all(b"ab").await.unwrap();
        near.flush().await.unwrap();
        near.write_all(b"cd").await.unwrap();
        near.flush().await.unwrap();
        let mut got = [0; 4];
        assert!(timeout(Duration::from_millis(20), far.read(&mut got)).await.is_err(), "nothing is sent yet");
        // The far side never answers: the read itself stays pending.
        assert!(timeout(Duration::from_millis(20), near.read(&mut [0; 1])).await.is_err());
        assert_eq!(far.read(&mut got).await.unwrap(), 4);
        assert_eq!(&got, b"abcd");
    }

    #[tokio::test]
    async fn an_eager_flush_sends_at_once() {
        let (mut near, mut far, eager) = pair(64);
        eager.store(true, Ordering::Relaxed);
        near.write_all(b"bye").await.unwrap();
        near.flush().await.unwrap();
        let mut got = [0; 3];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"bye");
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_pushes_back_and_does_not_stop_the_reading() {
        let (mut near, mut far, _) = pair(8);
        let much = vec![7; 2 * FULL_BYTES];
        assert!(timeout(Duration::from_millis(20), near.write_all(&much)).await.is_err());
        far.write_all(b"in").await.unwrap();
        let mut got = [0; 2];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"in");
    }
}
