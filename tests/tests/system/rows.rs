//! Rows of a scenario's topics and tables.

use anyhow::ensure;
use schemas::family::Family;
use tests::audit::{Row, TopicRecord, compare, count_lake, read_topic, visit_topic};

use crate::stage::{PATIENCE, Stage, blocking};

impl Stage {
    /// Every row of a topic.
    pub(crate) async fn rows(&self, topic: &str) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        visit_topic(&self.servers(), topic, &mut self.schemas(), |row| rows.push(row)).await?;
        Ok(rows)
    }

    /// Every row of the events of a family.
    pub(crate) async fn events(&self, family: Family) -> anyhow::Result<Vec<Row>> {
        self.rows(&self.topics().events(family)).await
    }

    /// Every alert.
    pub(crate) async fn alerts(&self) -> anyhow::Result<Vec<Row>> {
        self.rows(&self.topics().alerts()).await
    }

    /// Waits until every program start is in Postgres, and no other row.
    pub(crate) async fn must_store_starts(&self, starts: usize) -> anyhow::Result<()> {
        self.until("every program start is in Postgres", PATIENCE, async || {
            let stored = self.postgres.count("program_starts").await?;
            ensure!(stored == starts, "{stored} of {starts}");
            Ok(true)
        })
        .await
    }

    /// How many rows a table of the lake has.
    pub(crate) async fn table_rows(&self, name: &str) -> anyhow::Result<usize> {
        count_lake(&self.lake().join(name)).await
    }

    /// The records of a topic as bytes.
    pub(crate) fn records(&self, topic: &str) -> anyhow::Result<Vec<TopicRecord>> {
        blocking(|| read_topic(&self.kafka, topic))
    }

    /// Everything in which made, raw, events and lake differ; nothing when the sets are equal.
    pub(crate) async fn differences(&self, made: &tests::audit::Counts) -> anyhow::Result<Vec<String>> {
        let lake = self.lake();
        let findings = compare(&self.servers(), &self.topics(), Some(&lake), Some(made)).await?;
        let differing = findings.into_iter().filter(|finding| !finding.difference.is_none());
        Ok(differing.map(|finding| format!("{}: {}", finding.what, finding.difference)).collect())
    }

    /// Fails with the differences, if there are any.
    pub(crate) async fn must_equal(&self, made: &tests::audit::Counts) -> anyhow::Result<()> {
        let differences = self.differences(made).await?;
        anyhow::ensure!(differences.is_empty(), "the sets differ:\n{}", differences.join("\n"));
        Ok(())
    }

    /// Waits until raw, events and lake hold what was made.
    pub(crate) async fn until_equal(&self, made: &tests::audit::Counts) -> anyhow::Result<()> {
        self.until("made = raw = events = lake", PATIENCE, async || {
            self.must_equal(made).await?;
            Ok(true)
        })
        .await
    }
}

impl Stage {
    /// Fails unless raw, events and lake hold the same events, whoever made them.
    pub(crate) async fn must_equal_raw(&self) -> anyhow::Result<()> {
        self.until("raw = events = lake", PATIENCE, async || {
            let lake = self.lake();
            let findings = compare(&self.servers(), &self.topics(), Some(&lake), None).await?;
            for finding in findings {
                anyhow::ensure!(finding.difference.is_none(), "{}: {}", finding.what, finding.difference);
            }
            Ok(true)
        })
        .await
    }
}
