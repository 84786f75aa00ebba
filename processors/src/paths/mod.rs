//! What a path says about where a program lies: pure text, no file system.
//!
//! Agents report paths as their system spells them, and what is under attack is exactly this spelling. So paths are
//! compared by whole segments (`C:\WindowsEvil` is not under `C:\Windows`), after `.`, `..`, mixed separators, short
//! names (`PROGRA~1`), environment forms (`%TEMP%`, `$HOME`), and device prefixes (`\\?\`, `\Device\HarddiskVolume3`)
//! are resolved; Windows without regard to case, POSIX with it. A trailing blank in a Windows segment counts: the
//! folder `C:\Windows \System32` is a known trick and not the system's.
//!
//! Not known here: links, mount points, rights, which drive letter a volume has. A volume without letter, a path
//! rooted without drive, and an environment form are taken to be on the system drive, which is `C:`.

mod class;
mod directory;
mod parse;
mod posix;
mod windows;

pub use class::PathClass;
pub use directory::Directory;
pub use parse::{Path, Root};

/// The class of the place where the file at `path` lies.
pub fn classify(path: &str) -> PathClass {
    let path = Path::parse(path);
    match path.root() {
        Root::None => PathClass::Unknown,
        Root::Memory => PathClass::Memory,
        Root::Share => PathClass::Network,
        Root::Removable => PathClass::Removable,
        Root::Device => PathClass::Other,
        Root::Drive(_) | Root::AnyDrive => windows::classify(path.root(), path.segments()),
        Root::Posix => posix::classify(path.segments()),
    }
}

/// The last segment of a path, without the mark that Linux puts after a removed program; `None` where there is none.
pub fn basename(path: &str) -> Option<&str> {
    let text = parse::trimmed(path);
    let windows = parse::looks_like_windows(text);
    let is_separator = |c: char| c == '/' || (windows && c == '\\');
    text.trim_end_matches(is_separator).rsplit(is_separator).next().filter(|name| !name.is_empty())
}

/// Whether a path, or a bare program name, is spelled the Windows way; its names are then compared without case.
pub fn is_windows(path: &str) -> bool {
    let text = parse::trimmed(path);
    parse::looks_like_windows(text) || parse::has_windows_extension(text)
}

#[cfg(test)]
mod tests;
