//! `varta check`: the configuration is read (all problems at once happened before we are called), and the rules that it
//! names; with `--connect` every server is asked for an answer.

use std::time::Duration;

use eventlog::kafka::KafkaLog;
use eventlog::registry::{HttpRegistry, RegistryError, SchemaRegistry};
use eventlog::{Log, LogErrorKind};

use super::rules;
use crate::config::Config;
use crate::exit::Exit;

/// How long the lake's store may take: its client tries several times.
const LAKE: Duration = Duration::from_secs(10);

/// What `varta check` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also connect to every server that the configuration names.
    #[arg(long)]
    connect: bool,
}

/// Reports on the configuration and, if asked, on the servers.
pub(crate) async fn check(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    if let Some(problems) = rules::problems(config.process.rules.clone()).await? {
        for problem in problems {
            eprintln!("{problem}");
        }
        return Ok(Exit::WrongConfiguration);
    }
    println!("configuration: in order");
    if !args.connect {
        return Ok(Exit::Done);
    }
    let mut failed = 0;
    let mut report = |server: &str, address: &str, outcome: Result<(), String>| match outcome {
        Ok(()) => println!("{server:<10} {address:<48} answers"),
        Err(why) => {
            failed += 1;
            println!("{server:<10} {address:<48} {why}");
        }
    };
    report("kafka", &config.kafka.brokers, kafka(config).await);
    report("registry", &config.registry.url, registry(config).await);
    let mqtt = format!("{}:{}", config.bridge.mqtt.host, config.bridge.mqtt.port);
    report("mqtt", &mqtt, reach(&mqtt).await);
    if config.sinks.influx.enabled {
        let influx = &config.sinks.influx;
        report("influx", &influx.url, within(influx.timeout, sinks::influx::check(influx)).await);
    }
    if config.sinks.lake.enabled {
        report("lake", &config.sinks.lake.root, within(LAKE, sinks::lake::check(&config.sinks.lake)).await);
    }
    if config.sinks.postgres.enabled {
        report("postgres", "the configured database", postgres(config).await);
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::NotMet })
}

async fn kafka(config: &Config) -> Result<(), String> {
    let log = KafkaLog::connect(&config.kafka).map_err(|error| error.to_string())?;
    let topic = config.topic_names().raw();
    match tokio::task::spawn_blocking(move || log.partitions(&topic))
        .await
        .map_err(|error| error.to_string())?
    {
        // `varta up` creates what is missing.
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind, LogErrorKind::UnknownTopic) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn registry(config: &Config) -> Result<(), String> {
    let url = config.registry.clone();
    tokio::task::spawn_blocking(move || {
        let registry = HttpRegistry::new(&url).map_err(|error| error.to_string())?;
        match registry.schema(1) {
            // A registry that does not know schema 1 has answered well.
            Ok(_) | Err(RegistryError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .map_err(|error| error.to_string())?
}

async fn reach(address: &str) -> Result<(), String> {
    match tokio::time::timeout(Duration::from_secs(3), tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 3 s".into()),
    }
}

async fn within(
    limit: Duration,
    asked: impl Future<Output = Result<(), sinks::SinkError>>,
) -> Result<(), String> {
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

async fn postgres(config: &Config) -> Result<(), String> {
    use sqlx::Connection as _;
    let connect = sqlx::PgConnection::connect(config.sinks.postgres.url.expose());
    match tokio::time::timeout(Duration::from_secs(3), connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 3 s".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_refuses_or_never_answers_is_named() {
        let refused = async { Err(sinks::SinkError::Fatal("wrong key".to_owned())) };
        assert_eq!(within(LAKE, refused).await, Err("wrong key".to_owned()));
        let error = within(Duration::from_millis(5), std::future::pending()).await.unwrap_err();
        assert!(error.contains("5ms"), "{error}");
        assert_eq!(within(LAKE, async { Ok(()) }).await, Ok(()));
    }
}
