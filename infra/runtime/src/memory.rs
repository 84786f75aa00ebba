//! How the system gives this process its memory.

/// Asks for pages of the common size, where the system would otherwise give huge ones (Linux, transparent huge pages).
/// For work that takes much memory and gives it back at once: of a huge page nothing goes back while any byte of it is
/// in use. What keeps its memory is faster with huge ones. If it is refused, nothing but that is lost.
pub fn prefer_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn huge_pages_are_declined() {
        super::prefer_small_pages();
        assert_eq!(nix::sys::prctl::get_thp_disable(), Ok(true));
    }
}
