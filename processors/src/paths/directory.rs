use super::parse::{Path, Root, same_name};

/// A directory to compare paths with. A segment `*` stands for any one segment: `C:\Users\*\Downloads`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    root: Root,
    segments: Vec<String>,
}

impl Directory {
    /// Reads the spelling of an absolute directory, in any form that a path may have.
    ///
    /// `None` if it is relative, or names no place that a file can be in.
    pub fn parse(text: &str) -> Option<Self> {
        let path = Path::parse(text);
        if matches!(path.root(), Root::None | Root::Device | Root::Memory) {
            return None;
        }
        let segments = path.segments().iter().map(|&segment| segment.to_owned()).collect();
        Some(Self { root: path.root(), segments })
    }

    /// Whether the path lies in this directory or in one below it; the directory is not under itself.
    pub fn contains(&self, path: &Path<'_>) -> bool {
        path.segments().len() > self.segments.len() && self.leads_to(path)
    }

    /// Whether the path lies directly in this directory.
    pub fn holds(&self, path: &Path<'_>) -> bool {
        path.segments().len() == self.segments.len() + 1 && self.leads_to(path)
    }

    fn leads_to(&self, path: &Path<'_>) -> bool {
        let same_root = match (self.root, path.root()) {
            (Root::AnyDrive, Root::Drive(letter)) | (Root::Drive(letter), Root::AnyDrive) => letter == b'C',
            (own, other) => own == other,
        };
        let posix = self.root == Root::Posix;
        same_root
            && self
                .segments
                .iter()
                .zip(path.segments())
                .all(|(own, other)| own == "*" || if posix { own == other } else { same_name(own, other) })
    }
}
