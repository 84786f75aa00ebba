//! When windows end: whose are closed with which commit, and what becomes of agents that are silent or gone.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use schemas::record::RecordKind;

use super::{CoreJob, CoreState};
use crate::engine::{JobError, Output, Share};
use crate::jobs::features::FeatureWindows;
use crate::jobs::outputs::fatal;
use crate::jobs::scan::{micros, text};
use crate::jobs::stages::Step;
use crate::windows::Closing;

impl CoreJob {
    /// Closes a share of what the watermarks have passed, and judges it.
    pub(super) fn close(
        &mut self,
        state: &mut CoreState,
        share: Share,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        note_ended(state);
        let ended = state.owed.take(share, self.closed_at_once);
        self.close_ended(state, ended, output)
    }

    /// The same of some agents.
    pub(super) fn close_of(
        &mut self,
        state: &mut CoreState,
        agents: &[u32],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        note_ended(state);
        let ended = state.owed.take_of(agents);
        self.close_ended(state, ended, output)
    }

    fn close_ended(
        &mut self,
        state: &mut CoreState,
        ended: Vec<(u32, i64)>,
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        let closing = |(number, before)| {
            let agent = state.tracker.agent(number);
            Closing { agent: Arc::clone(&agent.id), before, watermark: agent.watermark }
        };
        let closings: Vec<Closing> = ended.into_iter().map(closing).collect();
        self.close_all(state, &closings, output)?;
        Ok(())
    }

    /// Closes windows of some agents, sends what they come to and judges it; answers the latest end by agent, µs.
    fn close_all(
        &mut self,
        state: &mut CoreState,
        closings: &[Closing],
        output: &mut Output<'_>,
    ) -> Result<AHashMap<Arc<str>, i64>, JobError> {
        let began = self.stages.begin();
        let mut alerts = Vec::new();
        let mut until = AHashMap::new();
        for emission in state.windows.close(&mut self.features, closings).map_err(fatal)? {
            if emission.kind == RecordKind::Feature1m {
                let judge = self.rules.judge();
                alerts
                    .extend(judge.features(emission.kind, &emission.rows, &mut state.rules).map_err(fatal)?);
            }
            let agents = text(&emission.rows, "agent_id").map_err(fatal)?;
            for (row, end) in micros(&emission.rows, "window_end").map_err(fatal)?.iter().enumerate() {
                let latest = until.entry(Arc::from(agents.value(row))).or_insert(*end);
                *latest = (*latest).max(*end);
            }
            self.send_features(emission, output)?;
        }
        self.send_alerts(&alerts, output)?;
        if !closings.is_empty() {
            self.stages.end(Step::Close, closings.len(), began);
        }
        Ok(until)
    }

    /// Emits the windows of agents that fell silent as they stand; they stay open.
    pub(super) fn peek(
        &mut self,
        state: &mut CoreState,
        silent: &[u32],
        output: &mut Output<'_>,
    ) -> Result<(), JobError> {
        if silent.is_empty() {
            return Ok(());
        }
        let agents: Vec<Closing> = silent
            .iter()
            .map(|number| {
                let agent = state.tracker.agent(*number);
                Closing { agent: Arc::clone(&agent.id), before: agent.watermark, watermark: agent.watermark }
            })
            .collect();
        for emission in state.windows.peek(&mut self.features, &agents).map_err(fatal)? {
            self.send_features(emission, output)?;
        }
        Ok(())
    }

    /// Closes all windows of agents that nobody heard of for the whole hold, and drops the agents.
    pub(super) fn expired(&mut self, state: &mut CoreState, output: &mut Output<'_>) -> Result<(), JobError> {
        if !state.tracker.has_expired() {
            return Ok(());
        }
        self.close(state, Share::All, output)?;
        let expired = state.tracker.take_expired();
        let closing = |number: &u32| {
            let agent = state.tracker.agent(*number);
            Closing { agent: Arc::clone(&agent.id), before: agent.watermark, watermark: i64::MAX }
        };
        let closings: Vec<Closing> = expired.iter().map(closing).collect();
        let until = self.close_all(state, &closings, output)?;
        let gone: AHashSet<&str> = closings.iter().map(|closing| &*closing.agent).collect();
        let is_gone = |agent: &str| gone.contains(agent);
        let alerts = self.rules.judge().forget(is_gone, state.tracker.now(), &mut state.rules);
        self.send_alerts(&alerts, output)?;
        let mut excess = 0;
        for (number, closing) in expired.iter().zip(&closings) {
            let until = until.get(&closing.agent).copied();
            state.rules.forget(*number);
            excess += state.tracker.forget(*number, until.unwrap_or(i64::MIN));
        }
        metrics::counter!("varta_processors_expired_agents_total").increment(expired.len() as u64);
        metrics::counter!("varta_processors_dropped_floors_total").increment(excess);
        Ok(())
    }
}

/// Whose windows ended since this was last asked; of what was restored, whose are open and should not be.
fn note_ended(state: &mut CoreState) {
    let CoreState { tracker, windows, owed, .. } = state;
    for (number, before) in tracker.take_advanced() {
        if FeatureWindows::closes(before, tracker.agent(number).watermark) {
            owed.note(number, before);
        }
    }
    if owed.is_unknown() {
        let ended = tracker.agents().filter(|(_, agent)| windows.have_ended(&agent.id, agent.watermark));
        owed.know(ended.map(|(number, _)| number));
    }
}
