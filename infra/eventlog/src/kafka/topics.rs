//! Topics are made and compared.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;
use schemas::topics::TopicSpec;

use super::voice::VoiceContext;
use super::{ASK, Inner, errors};
use crate::error::{LogError, LogErrorKind};
use crate::log::{Created, Drift};

/// How long a topic may take to show up in the metadata after it was made.
const APPEAR: Duration = Duration::from_secs(15);

type Admin = AdminClient<VoiceContext>;

pub(super) fn create(inner: &Inner, specs: &[TopicSpec], partitions: i32) -> Result<Vec<Created>, LogError> {
    let admin: Admin = inner
        .config
        .admin()
        .create_with_context(VoiceContext(Arc::clone(&inner.voice)))
        .map_err(|error| errors::of(&error, "admin client"))?;
    let is_new =
        inner.voice.patiently(inner.config.request_timeout, || make(inner, &admin, specs, partitions))?;
    for spec in specs {
        compare_partitions(inner, spec, partitions)?;
    }
    let drift = inner.voice.patiently(inner.config.request_timeout, || compare_settings(&admin, specs))?;
    let outcomes = specs.iter().zip(is_new).zip(drift).map(|((spec, is_new), drift)| {
        for Drift { setting, wanted, found } in &drift {
            tracing::warn!(topic = %spec.name, %setting, %wanted, %found, "topic differs from what it should be");
        }
        Created { topic: Arc::clone(&spec.name), is_new, drift }
    });
    Ok(outcomes.collect())
}

/// Which of them were missing.
fn make(inner: &Inner, admin: &Admin, specs: &[TopicSpec], partitions: i32) -> Result<Vec<bool>, LogError> {
    let settings: Vec<_> = specs.iter().map(TopicSpec::settings).collect();
    let topics: Vec<NewTopic<'_>> = specs
        .iter()
        .zip(&settings)
        .map(|(spec, settings)| {
            let replication = TopicReplication::Fixed(inner.config.replication);
            let topic = NewTopic::new(&spec.name, partitions, replication);
            settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
    let made = futures::executor::block_on(admin.create_topics(&topics, &options))
        .map_err(|error| errors::of(&error, "creating topics"))?;
    let mut is_new = vec![false; specs.len()];
    for outcome in made {
        let (name, code) = match outcome {
            Ok(name) => (name, None),
            Err((name, code)) => (name, Some(code)),
        };
        match code {
            None => {
                if let Some(index) = specs.iter().position(|spec| *spec.name == *name) {
                    is_new[index] = true;
                }
            }
            Some(Code::TopicAlreadyExists) => {}
            Some(code) => return Err(errors::of_code(code, &format!("creating topic {name}"))),
        }
    }
    Ok(is_new)
}

fn compare_partitions(inner: &Inner, spec: &TopicSpec, wanted: i32) -> Result<(), LogError> {
    let found = inner.voice.patiently(APPEAR, || {
        inner.partitions(&spec.name).map_err(|error| match error.kind {
            // Made a moment ago, and not yet known to the broker that was asked.
            LogErrorKind::UnknownTopic => LogError::unavailable(error.message),
            _ => error,
        })
    })?;
    if found == wanted {
        return Ok(());
    }
    Err(LogError::fatal(format!(
        "topic {} has {found} partitions, not {wanted}: the number is fixed at creation, for keys would move",
        spec.name
    )))
}

/// Differences by topic, in the order of `specs`.
fn compare_settings(admin: &Admin, specs: &[TopicSpec]) -> Result<Vec<Vec<Drift>>, LogError> {
    let resources: Vec<ResourceSpecifier<'_>> =
        specs.iter().map(|spec| ResourceSpecifier::Topic(&spec.name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let described = futures::executor::block_on(admin.describe_configs(&resources, &options))
        .map_err(|error| errors::of(&error, "settings of topics"))?;
    let mut drift = Vec::with_capacity(specs.len());
    for (spec, resource) in specs.iter().zip(described) {
        let resource =
            resource.map_err(|code| errors::of_code(code, &format!("settings of {}", spec.name)))?;
        let present = resource.entry_map();
        let differs = |(setting, wanted): (&str, String)| {
            let found = present.get(setting).and_then(|entry| entry.value.clone()).unwrap_or_default();
            (found != wanted).then(|| Drift { setting: setting.to_owned(), wanted, found })
        };
        drift.push(spec.settings().into_iter().filter_map(differs).collect());
    }
    Ok(drift)
}
