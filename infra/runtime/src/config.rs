//! Configuration read once, into types that cannot be wrong; all problems at once.
//!
//! A text in TOML becomes a typed value. Unknown keys are refused, `${NAME}` in a string is replaced from the
//! environment, and every problem is reported, not just the first: the offending key is taken out, noted, and the
//! reading starts again. Nothing is connected to.

mod read;
mod units;

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use units::{ByteSize, Secret};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: the key's path such as `bridge.mqtt.port`, or `FILE:LINE` for a text that is not TOML.
    pub at: String,
    /// What is wrong there.
    pub what: String,
    /// What may help.
    pub hint: Option<String>,
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes one more. A key that already has a problem gets no second one: it would be a consequence.
    pub fn add(&mut self, at: impl Into<String>, what: impl Into<String>, hint: Option<String>) {
        let at = at.into();
        if !self.concerns(&at) {
            self.0.push(Problem { at, what: what.into(), hint });
        }
    }

    /// Notes a file that is not there or is a folder. One that this user may not see is not judged: the part that needs
    /// it may run as another.
    pub fn file(&mut self, at: impl Into<String>, path: &Path) {
        match fs_err::metadata(path) {
            Ok(found) if found.is_dir() => {
                self.add(at, format!("{} is a folder, not a file", path.display()), None);
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.add(at, format!("{} is not there", path.display()), None);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order found.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    fn concerns(&self, at: &str) -> bool {
        self.0.iter().any(|problem| problem.at == at)
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Problem { at, what, hint }) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{at}: {what}")?;
            if let Some(hint) = hint {
                write!(f, " ({hint})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// What types alone cannot say: ranges, and fields that must agree with each other.
pub trait Check {
    /// Notes what is wrong; `at` is the path of this value, `""` at the top. See [`key`].
    fn check(&self, at: &str, problems: &mut Problems);
}

/// Path of a key below `at`: `key("", "bridge")` is `bridge`, `key("bridge", "mqtt")` is `bridge.mqtt`.
pub fn key(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Reads a configuration. `origin` names the text in messages; `env` answers for `${NAME}`.
///
/// # Errors
/// All problems: text that is not TOML, unknown and missing keys, wrong types, unset variables, and what
/// [`Check`] found.
pub fn load<T: DeserializeOwned + Check>(
    text: &str,
    origin: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<T, Problems> {
    let mut problems = Problems::default();
    let value = read::read::<T>(text, origin, env, &mut problems);
    if let Some(value) = &value {
        value.check("", &mut problems);
    }
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(problems),
    }
}
