//! The cryptography provider of rustls.

/// Installs *ring* as the provider of the whole process. Idempotent.
///
/// Several TLS users are linked in and none of them brings a provider of its own: a client built before this
/// call panics. So each `main` and each test that builds a TLS or HTTP client calls it first.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is all that is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
