//! The programs under test, beside those that Cargo built for this test.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// One of the programs that users run, or the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Varta,
    Agent,
    Load,
}

impl Program {
    /// Its file; the error says how it is built.
    pub(crate) fn path(self) -> anyhow::Result<PathBuf> {
        let load = Path::new(env!("CARGO_BIN_EXE_varta-load"));
        let name = match self {
            Self::Varta => "varta",
            Self::Agent => "varta-agent",
            Self::Load => return Ok(load.to_owned()),
        };
        let path = load.parent().context("a program lies in a folder")?.join(name);
        ensure!(path.is_file(), "{} is missing: run `make test`, which builds it first", path.display());
        Ok(path)
    }
}

/// True where the programs are built without optimisation.
pub(crate) const fn is_slow_profile() -> bool {
    cfg!(debug_assertions)
}
