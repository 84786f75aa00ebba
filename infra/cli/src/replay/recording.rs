//! A recording on disk: JSON lines, plain or gzip, grouped by the host that recorded them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value};

use super::windows::{self, Mapped};

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    /// Events by host, each list in the order of event time.
    pub hosts: BTreeMap<String, Vec<Mapped>>,
    /// Lines that gave no event: reason and how many.
    pub refused: BTreeMap<String, usize>,
    /// Lines read.
    pub lines: usize,
}

impl Recording {
    /// Events in all.
    pub(crate) fn events(&self) -> usize {
        self.hosts.values().map(Vec::len).sum()
    }
}

/// Reads the whole file; a line that cannot be mapped is counted with its reason, never dropped silently.
pub(crate) fn read(path: &Path) -> anyhow::Result<Recording> {
    let mut file = BufReader::new(fs_err::File::open(path)?);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let reader: Box<dyn Read> =
        if is_gzip { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut recording = Recording::default();
    for (index, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.with_context(|| format!("{} line {}", path.display(), index + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        recording.lines += 1;
        match serde_json::from_str::<Map<String, Value>>(&line)
            .map_err(|error| format!("not a JSON object: {error}"))
            .and_then(|record| windows::map(&record))
        {
            Ok(event) => recording.hosts.entry(event.host.clone()).or_default().push(event),
            Err(reason) => *recording.refused.entry(reason).or_default() += 1,
        }
    }
    for events in recording.hosts.values_mut() {
        events.sort_by_key(|event| event.event_time);
    }
    Ok(recording)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const GOOD: &str = r#"{"EventID":5,"Channel":"Microsoft-Windows-Sysmon/Operational","Hostname":"W1","UtcTime":"2020-06-10 02:51:10.116","Image":"C:\\a.exe"}"#;

    #[test]
    fn gzip_and_plain_read_the_same_and_every_line_is_accounted_for() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{GOOD}\nnot json\n\n{{\"EventID\":7}}\n");
        let plain = folder.path().join("a.ndjson");
        fs_err::write(&plain, &text).unwrap();
        let packed = folder.path().join("a.ndjson.gz");
        let mut encoder = flate2::write::GzEncoder::new(
            std::fs::File::create(&packed).unwrap(),
            flate2::Compression::fast(),
        );
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        for path in [plain, packed] {
            let recording = read(&path).unwrap();
            assert_eq!(recording.lines, 3);
            assert_eq!(recording.events(), 1);
            assert_eq!(recording.refused.values().sum::<usize>(), 2);
        }
    }
}
