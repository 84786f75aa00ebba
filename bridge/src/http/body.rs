//! The body of a request, piece by piece, never more than allowed of it in memory.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::StreamExt as _;

use super::config::INFLATER;
use super::limits::Share;

/// How a body was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
}

/// Why a body was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodyRefused {
    /// More bytes than allowed, as sent or inflated.
    TooLarge,
    /// All requests together hold as much as they may.
    NoRoom,
    /// It did not come in time.
    Slow,
    /// The sender went away in the middle of it.
    Cut(String),
    /// What is said to be gzip is none.
    NotGzip(String),
}

/// How long a sender that is refused may go on sending.
const SKIP: Duration = Duration::from_secs(2);

/// Gathers pieces.
struct Gathered {
    limit: usize,
    received: u64,
    bytes: Unpacked,
}

enum Unpacked {
    Plain(Bounded),
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

/// Bytes up to a limit. What goes beyond is refused before it is there.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    is_over: bool,
}

impl Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > self.limit {
            self.is_over = true;
            return Err(io::Error::other("over the limit"));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Gathered {
    fn new(packing: Packing, limit: usize, expected: usize) -> Self {
        let bytes = |capacity| Bounded { bytes: Vec::with_capacity(capacity), limit, is_over: false };
        let bytes = match packing {
            Packing::Plain => Unpacked::Plain(bytes(expected.min(limit))),
            Packing::Gzip => Unpacked::Gzip(Box::new(MultiGzDecoder::new(bytes(0)))),
        };
        Self { limit, received: 0, bytes }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), BodyRefused> {
        self.received += piece.len() as u64;
        if self.received > self.limit as u64 {
            return Err(BodyRefused::TooLarge);
        }
        match &mut self.bytes {
            Unpacked::Plain(plain) => plain.write_all(piece).map_err(|_| BodyRefused::TooLarge),
            Unpacked::Gzip(gzip) => gzip.write_all(piece).map_err(|error| of_gzip(gzip.get_ref(), &error)),
        }
    }

    /// Bytes of memory.
    fn held(&self) -> u64 {
        match &self.bytes {
            Unpacked::Plain(plain) => plain.bytes.capacity() as u64,
            Unpacked::Gzip(gzip) => gzip.get_ref().bytes.capacity() as u64 + INFLATER,
        }
    }

    fn finish(self) -> Result<Bytes, BodyRefused> {
        match self.bytes {
            Unpacked::Plain(plain) => Ok(plain.bytes.into()),
            Unpacked::Gzip(mut gzip) => match gzip.try_finish() {
                Ok(()) => {
                    let whole = gzip.finish().map_err(|error| BodyRefused::NotGzip(error.to_string()))?;
                    Ok(whole.bytes.into())
                }
                Err(error) => Err(of_gzip(gzip.get_ref(), &error)),
            },
        }
    }
}

fn of_gzip(inflated: &Bounded, error: &io::Error) -> BodyRefused {
    if inflated.is_over { BodyRefused::TooLarge } else { BodyRefused::NotGzip(error.to_string()) }
}

/// Reads a whole body of at most `limit` bytes, as sent and inflated, within `time`. `expected` is what its sender says
/// of its length. `share` grows with what is held.
pub(super) async fn read(
    body: Body,
    packing: Packing,
    expected: usize,
    limit: usize,
    time: Duration,
    share: &mut Share,
) -> Result<Bytes, BodyRefused> {
    let mut pieces = body.into_data_stream();
    let whole = gather(&mut pieces, packing, expected, limit, share);
    let outcome = tokio::time::timeout(time, whole).await.map_err(|_| BodyRefused::Slow)?;
    if let Err(BodyRefused::TooLarge | BodyRefused::NoRoom | BodyRefused::NotGzip(_)) = &outcome {
        skip(&mut pieces, 2 * limit as u64).await;
    }
    outcome
}

async fn gather(
    pieces: &mut BodyDataStream,
    packing: Packing,
    expected: usize,
    limit: usize,
    share: &mut Share,
) -> Result<Bytes, BodyRefused> {
    let mut gathered = Gathered::new(packing, limit, expected);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| BodyRefused::Cut(error.to_string()))?;
        gathered.push(&piece)?;
        if !share.grow_to(gathered.held()) {
            return Err(BodyRefused::NoRoom);
        }
    }
    gathered.finish()
}

/// Reads what is left of a request that is refused, without keeping it: a connection that is closed on a sender who
/// still sends takes the answer away from it. Gives up after `limit` bytes, or [`SKIP`].
pub(super) async fn discard(body: Body, limit: u64) {
    skip(&mut body.into_data_stream(), limit).await;
}

async fn skip(pieces: &mut BodyDataStream, limit: u64) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            bytes += piece.len() as u64;
            if bytes > limit {
                return;
            }
        }
    };
    // Who is slow loses the answer, and nothing else.
    let _ = tokio::time::timeout(SKIP, read).await;
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;
    use crate::http::limits::Room;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn take(packing: Packing, pieces: &[&[u8]], limit: usize) -> Result<Bytes, BodyRefused> {
        let mut gathered = Gathered::new(packing, limit, 0);
        for piece in pieces {
            gathered.push(piece)?;
        }
        gathered.finish()
    }

    #[test]
    fn a_bomb_is_refused_when_it_passes_the_limit_and_not_after() {
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 80 << 10, "{} bytes", bomb.len());
        let mut gathered = Gathered::new(Packing::Gzip, 1 << 20, 0);
        assert_eq!(gathered.push(&bomb), Err(BodyRefused::TooLarge));
        assert!(gathered.held() < 3 << 20, "{} bytes held", gathered.held());
        // Bombs in a row, each small enough.
        let one = gzip(&vec![b' '; 600 << 10]);
        assert_eq!(take(Packing::Gzip, &[&one, &one], 1 << 20), Err(BodyRefused::TooLarge));
    }

    #[test]
    fn gzip_that_is_cut_short_or_followed_or_none_is_refused() {
        let whole = gzip(b"{\"a\": 1}");
        for cut in 0..whole.len() {
            let refused = take(Packing::Gzip, &[&whole[..cut]], 1 << 20);
            assert!(matches!(refused, Err(BodyRefused::NotGzip(_))), "{cut} of {}: {refused:?}", whole.len());
        }
        let followed = [&whole[..], b"garbage that is no member"].concat();
        assert!(matches!(take(Packing::Gzip, &[&followed], 1 << 20), Err(BodyRefused::NotGzip(_))));
        assert!(matches!(take(Packing::Gzip, &[b"{}"], 1 << 20), Err(BodyRefused::NotGzip(_))));
        let mut changed = whole.clone();
        let crc = changed.len() - 8;
        changed[crc] ^= 1;
        assert!(matches!(take(Packing::Gzip, &[&changed], 1 << 20), Err(BodyRefused::NotGzip(_))));
        let members = [gzip(b"{}\n"), gzip(b"[]")].concat();
        assert_eq!(take(Packing::Gzip, &[&members], 1 << 20).unwrap(), "{}\n[]");
    }

    #[test]
    fn a_body_of_exactly_the_limit_is_taken() {
        assert_eq!(take(Packing::Plain, &[&[7; 10], &[7; 6]], 16).unwrap().len(), 16);
        assert_eq!(take(Packing::Plain, &[&[7; 10], &[7; 7]], 16), Err(BodyRefused::TooLarge));
    }

    #[tokio::test]
    async fn what_comes_finds_room_or_is_refused_and_read_to_its_end() {
        let room = Room::new(64 << 10);
        let time = Duration::from_secs(5);
        let body = || Body::from(vec![b'x'; 48 << 10]);
        let mut first = room.share();
        read(body(), Packing::Plain, 48 << 10, 1 << 20, time, &mut first).await.unwrap();
        let mut second = room.share();
        let refused = read(body(), Packing::Plain, 0, 1 << 20, time, &mut second).await;
        assert_eq!(refused, Err(BodyRefused::NoRoom));
        drop((first, second));
        assert_eq!(room.held(), 0);
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&left);
        let pieces = futures::stream::iter((0..10).map(move |n| {
            count.store(n, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, io::Error>(Bytes::from(vec![b'x'; 1000]))
        }));
        let refused = read(Body::from_stream(pieces), Packing::Plain, 0, 5000, time, &mut room.share()).await;
        assert_eq!(refused, Err(BodyRefused::TooLarge));
        assert_eq!(left.load(std::sync::atomic::Ordering::Relaxed), 9, "the rest is read, and forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_not_waited_for() {
        let pieces = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, io::Error>(Bytes::from_static(b"x")), ()))
        });
        let room = Room::new(64 << 10);
        let body = Body::from_stream(pieces);
        let time = Duration::from_secs(30);
        let refused = read(body, Packing::Plain, 0, 1 << 20, time, &mut room.share()).await;
        assert_eq!(refused, Err(BodyRefused::Slow));
    }

    proptest! {
        #[test]
        fn any_cut_into_pieces_gives_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            zipped: bool,
        ) {
            let sent = if zipped { gzip(&bytes) } else { bytes.clone() };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(sent.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&sent[from..cut]);
                from = cut;
            }
            pieces.push(&sent[from..]);
            let packing = if zipped { Packing::Gzip } else { Packing::Plain };
            prop_assert_eq!(take(packing, &pieces, 1 << 20).unwrap(), bytes);
        }

        #[test]
        fn hostile_bytes_are_refused_or_taken_and_never_more_than_allowed(
            bytes in proptest::collection::vec(any::<u8>(), 0..500),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut sent = gzip(&bytes.repeat(20));
            for (at, byte) in flips {
                let at = at.index(sent.len());
                sent[at] = byte;
            }
            if let Ok(taken) = take(Packing::Gzip, &[&sent], 4096) {
                prop_assert!(taken.len() <= 4096);
            }
        }
    }
}
