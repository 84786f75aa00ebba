//! `POST /v1/events` and `POST /v1/feedback`.
//!
//! Nothing of a bad request is written, unless its sender asks for `?partial=true`: then what is sound is taken, and
//! the rest becomes dead letters, as over MQTT.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use metrics::{counter, histogram};
use runtime::clock::now_us;
use schemas::mqtt::is_agent_id;
use schemas::translate::{Feedback, Form};
use serde::{Deserialize, Serialize};

use super::config::for_events;
use super::gate::{Gate, Loaded, form};
use super::refusal::{BadEvent, MAX_NAMED, Refusal};
use crate::intake::{Arrival, Parcel, Turned, Voice, cut};
use crate::keys::Key;

/// What may be asked of `POST /v1/events`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    /// Take what is sound of a bad batch.
    partial: bool,
    /// The agent of events that name none.
    agent: Option<String>,
}

/// What was taken.
#[derive(Debug, Serialize)]
struct Taken {
    /// How many events are in Kafka.
    accepted: usize,
    /// Those that are not, and became dead letters; the first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<BadEvent>,
    /// How many these are in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_total: Option<usize>,
}

/// A key, and the agent that the request names.
struct Speaker<'a> {
    key: &'a Key,
    agent: Option<&'a str>,
}

impl Voice for Speaker<'_> {
    fn may_speak_for(&self, agent_id: &str) -> bool {
        self.key.may_speak_for(agent_id)
    }

    fn default_agent(&self) -> Option<&str> {
        self.agent.or_else(|| self.key.default_agent())
    }
}

/// All that is served.
pub(super) fn router(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/v1/events", post(events))
        .route("/v1/feedback", post(feedback))
        .fallback(async || {
            refuse("other", Refusal::new(StatusCode::NOT_FOUND, "no_such_path", "no such path"))
        })
        .method_not_allowed_fallback(async || {
            refuse("other", Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "only POST is answered"))
        })
        .with_state(gate)
}

async fn events(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let since = Instant::now();
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let outcome = take_events(&gate, &parts, &mut body).await;
    answer("events", &gate, since, &parts, body, outcome).await
}

async fn feedback(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let since = Instant::now();
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let outcome = take_feedback(&gate, &parts, &mut body).await;
    answer("feedback", &gate, since, &parts, body, outcome).await
}

/// Counts the request and answers it.
async fn answer(
    endpoint: &'static str,
    gate: &Gate,
    since: Instant,
    parts: &axum::http::request::Parts,
    body: Option<axum::body::Body>,
    outcome: Result<Response, Refusal>,
) -> Response {
    histogram!("varta_bridge_http_seconds", "endpoint" => endpoint).record(since.elapsed());
    let refusal = match outcome {
        Ok(response) => {
            count(endpoint, response.status(), "none");
            return response;
        }
        Err(refusal) => refusal,
    };
    if let Some(body) = body {
        gate.dismiss(&parts.headers, body).await;
    }
    refuse(endpoint, refusal)
}

fn refuse(endpoint: &'static str, refusal: Refusal) -> Response {
    count(endpoint, refusal.status, refusal.label);
    tracing::debug!(endpoint, status = refusal.status.as_u16(), reason = refusal.label, "refused");
    refusal.into_response()
}

fn count(endpoint: &'static str, status: StatusCode, reason: &'static str) {
    let status = status.as_str().to_owned();
    counter!("varta_bridge_http_requests_total", "endpoint" => endpoint, "status" => status, "reason" => reason)
        .increment(1);
}

async fn take_events(
    gate: &Gate,
    parts: &axum::http::request::Parts,
    body: &mut Option<axum::body::Body>,
) -> Result<Response, Refusal> {
    let key = gate.admit(&parts.headers)?;
    if !key.has_agents() {
        let error = "this key speaks for no agent";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "not_for_events", error));
    }
    let form = form(&parts.headers)?;
    let asked = asked(parts, &key)?;
    let Loaded { bytes, mut share } = gate.load(parts, body).await?;
    let mint = gate.mint(&key, &parts.headers, &bytes)?;
    let cut = cut(&bytes, form).map_err(|turned| turned_away(turned, &key))?;
    Gate::reserve(&mut share, bytes.len() as u64 + for_events(bytes.len(), cut.len()))?;
    let arrival = Arrival {
        topic: Bytes::from(format!("POST /v1/events key {}", key.id)),
        payload: bytes,
        sent_at: None,
        received_at: now_us(),
        mint,
    };
    let parcel = {
        let speaker = Speaker { key: &key, agent: asked.agent.as_deref() };
        let judged =
            gate.intake.judge(&arrival, &cut, &speaker).map_err(|turned| turned_away(turned, &key))?;
        let refused = judged.iter().enumerate().filter_map(|(index, event)| Some((index, event.refused()?)));
        let total = refused.clone().count();
        let named: Vec<BadEvent> =
            refused.take(MAX_NAMED).map(|(index, reason)| BadEvent::new(index, reason)).collect();
        if total > 0 && !asked.partial {
            let error = format!("{total} of {} events are bad; none was taken", judged.len());
            return Err(Refusal {
                events: named,
                ..Refusal::new(StatusCode::BAD_REQUEST, "bad_events", error)
            });
        }
        let taken = Taken {
            accepted: judged.len() - total,
            refused: named,
            refused_total: Some(total).filter(|total| *total > 0),
        };
        (gate.intake.gather(&arrival, judged), taken)
    };
    let (Parcel { records, tally, .. }, taken) = parcel;
    drop((cut, arrival));
    gate.deliver(records, share).await?;
    gate.metrics.found(&tally);
    let status = if taken.refused.is_empty() { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(taken)).into_response())
}

fn asked(parts: &axum::http::request::Parts, key: &Key) -> Result<Asked, Refusal> {
    let Query(asked) = Query::<Asked>::try_from_uri(&parts.uri).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, "query", format!("the query is not understood: {error}"))
    })?;
    if let Some(agent) = &asked.agent {
        if !is_agent_id(agent) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "query", "agent: not the id of an agent"));
        }
        if !key.may_speak_for(agent) {
            return Err(unbound(key, "the agent of the query"));
        }
    }
    Ok(asked)
}

fn turned_away(turned: Turned, key: &Key) -> Refusal {
    match turned {
        Turned::Whole(reason) => Refusal::new(StatusCode::BAD_REQUEST, "not_events", reason.to_string()),
        Turned::Unbound { index } => unbound(key, &format!("the agent of event {index}")),
    }
}

fn unbound(key: &Key, whose: &str) -> Refusal {
    tracing::warn!(key = %key.id, name = %key.name, "a key was used for an agent that it is not bound to");
    let error = format!("this key does not speak for {whose}; nothing was taken");
    Refusal::new(StatusCode::FORBIDDEN, "agent_not_bound", error)
}

async fn take_feedback(
    gate: &Gate,
    parts: &axum::http::request::Parts,
    body: &mut Option<axum::body::Body>,
) -> Result<Response, Refusal> {
    let key = gate.admit(&parts.headers)?;
    if !key.feedback {
        let error = "this key may not give feedback";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "not_for_feedback", error));
    }
    if form(&parts.headers)? != Form::Json {
        let error = "Content-Type: expected application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", error));
    }
    let Loaded { bytes, share } = gate.load(parts, body).await?;
    let feedback = Feedback::from_json(&bytes, &key.name, now_us())
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "bad_feedback", error.to_string()))?;
    gate.deliver(vec![gate.intake.feedback_record(&feedback)], share).await?;
    Ok((StatusCode::ACCEPTED, Json(Taken { accepted: 1, refused: Vec::new(), refused_total: None }))
        .into_response())
}
