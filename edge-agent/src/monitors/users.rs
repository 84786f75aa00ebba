//! Names of accounts by their number, from `/etc/passwd`; read again only when it changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

const PASSWD: &str = "/etc/passwd";

#[derive(Debug, Default)]
pub(super) struct Users {
    names: HashMap<u32, Arc<str>>,
    read_at: Option<SystemTime>,
}

impl Users {
    /// The name, or the number as text for accounts that are not in the file (directories, containers).
    pub(super) fn name(&mut self, uid: u32) -> Arc<str> {
        if let Some(name) = self.names.get(&uid) {
            return name.clone();
        }
        let changed_at = std::fs::metadata(PASSWD).and_then(|file| file.modified()).ok();
        if changed_at.is_some() && changed_at != self.read_at {
            self.read_at = changed_at;
            if let Ok(text) = std::fs::read_to_string(PASSWD) {
                self.names = parse(&text);
            }
        }
        match self.names.get(&uid) {
            Some(name) => name.clone(),
            None => uid.to_string().into(),
        }
    }
}

fn parse(text: &str) -> HashMap<u32, Arc<str>> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?, fields.nth(1)?);
            Some((uid.parse().ok()?, name.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_number_and_numbers_for_strangers() {
        let names = parse("root:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n");
        assert_eq!(names[&0].as_ref(), "root");
        assert_eq!(names[&1000].as_ref(), "alice");
        assert_eq!(names.len(), 2);
        assert_eq!(Users::default().name(4_000_000_001).as_ref(), "4000000001");
    }
}
