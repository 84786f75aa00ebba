//! What a scenario stands on: servers, programs, names and folders of its own.

mod config;
mod load;
mod mqtt;
mod programs;
mod running;
mod servers;
mod stores;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemas::topics::Topics;
use tests::audit::SchemaCache;
use tests::bench::part::Part;
use tests::servers::Servers;

pub(crate) use config::{AgentOptions, Options, PARTITIONS};
pub(crate) use load::{Load, NOT_CONFIRMED, Starter};
pub(crate) use mqtt::{Account, Heard, Listener, Sender};
pub(crate) use programs::{Program, is_slow_profile};
use running::Running;
pub(crate) use servers::Stack;
pub(crate) use stores::{Influx, Postgres};
pub(crate) use wait::{blocking, until};

/// Time for anything that needs a process to start, groups to settle and rows to pass, on a machine that runs
/// several scenarios at once in the dev profile.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// One scenario's world. Its folder stays behind when the tests fail, with every log.
pub(crate) struct Stage {
    /// Begins every name that the scenario shares a server with.
    pub(crate) prefix: String,
    /// Logs, configurations, outboxes, lake.
    pub(crate) folder: PathBuf,
    /// The servers that this scenario started; the broker at least.
    pub(crate) stack: Stack,
    pub(crate) kafka: String,
    pub(crate) registry: String,
    pub(crate) postgres: Postgres,
    pub(crate) influx: Influx,
    running: Running,
}

impl Stage {
    /// A broker of its own; Kafka, registry and stores are shared, under names of its own.
    pub(crate) async fn new(name: &str) -> anyhow::Result<Self> {
        Self::with_broker(name, &[]).await
    }

    /// The same, with variables that the stack's script reads, such as `VARTA_MQTT_MAX_QUEUED`.
    pub(crate) async fn with_broker(name: &str, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        runtime::tls::install_crypto();
        let shared = Servers::from_environment()?;
        let (prefix, folder) = place(name)?;
        let stack = Stack::plan(&folder.join("stack"), variables)?;
        blocking(|| stack.up(&["mosquitto"]))?;
        let postgres = Postgres::create(&tests::servers::variable("VARTA_POSTGRES")?, &prefix).await?;
        let influx = Influx::create(
            &tests::servers::variable("VARTA_INFLUX_URL")?,
            &tests::servers::variable("VARTA_INFLUX_TOKEN")?,
            &prefix,
        )
        .await?;
        Ok(Self {
            prefix,
            folder,
            stack,
            kafka: shared.kafka,
            registry: shared.registry,
            postgres,
            influx,
            running: Running::default(),
        })
    }

    /// Every server is its own and none of them runs yet; their addresses are settled.
    pub(crate) fn alone(name: &str) -> anyhow::Result<Self> {
        runtime::tls::install_crypto();
        Servers::from_environment()?; // without the servers of `make test` nothing is tested, here neither
        let (prefix, folder) = place(name)?;
        let stack = Stack::plan(&folder.join("stack"), &[])?;
        // the first start of the lightest server settles all ports and secrets
        blocking(|| stack.up(&["mosquitto"]).and_then(|()| stack.down()))?;
        let own = stack.variables()?;
        Ok(Self {
            prefix,
            folder,
            kafka: own.get("VARTA_KAFKA")?,
            registry: own.get("VARTA_REGISTRY")?,
            postgres: Postgres::at(&own.get("VARTA_POSTGRES")?),
            influx: Influx::at(
                &own.get("VARTA_INFLUX_URL")?,
                &own.get("VARTA_INFLUX_TOKEN")?,
                &own.get("VARTA_INFLUX_BUCKET")?,
            ),
            stack,
            running: Running::default(),
        })
    }

    /// Names of the topics.
    pub(crate) fn topics(&self) -> Topics {
        Topics::new(self.prefix.as_str())
    }

    /// Where Kafka and the registry are.
    pub(crate) fn servers(&self) -> Servers {
        Servers { kafka: self.kafka.clone(), registry: self.registry.clone() }
    }

    /// An empty cache of schemas.
    pub(crate) fn schemas(&self) -> SchemaCache {
        SchemaCache::new(&self.registry)
    }

    /// Root of the lake.
    pub(crate) fn lake(&self) -> PathBuf {
        self.folder.join("lake")
    }

    /// Starts `varta up`; what it prints goes to `up.log` in the folder.
    pub(crate) fn start_server(&self, options: &Options) -> anyhow::Result<()> {
        let config = self.write_config("up", options)?;
        let arguments = ["--config", text(&config)?, "up"];
        self.watch(Part::start("up", &Program::Varta.path()?, &arguments, &[], &self.folder)?)
    }

    /// Starts the real agent of this machine.
    pub(crate) fn start_agent(&self, options: &AgentOptions) -> anyhow::Result<()> {
        let config = self.write_agent_config("agent", options)?;
        let arguments = ["--config", text(&config)?];
        self.watch(Part::start("agent", &Program::Agent.path()?, &arguments, &[], &self.folder)?)
    }

    /// The outbox of an agent that was started under this name.
    pub(crate) fn outbox(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("outbox.db")
    }

    /// What a part has printed so far.
    pub(crate) fn log(&self, name: &str) -> String {
        let bytes = fs_err::read(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", path.display()))
}

/// A name that nobody else has, and a folder of this name.
pub(crate) fn place(name: &str) -> anyhow::Result<(String, PathBuf)> {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let prefix = format!("{name}-{}", &unique[..6]);
    let folder = PathBuf::from(tests::servers::variable("VARTA_STACK_DIR")?).join("system").join(&prefix);
    fs_err::create_dir_all(&folder)?;
    Ok((prefix, folder))
}
