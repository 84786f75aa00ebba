//! The configuration files of a scenario: every shared name begins with the scenario's prefix.

use std::path::PathBuf;

use super::Stage;

/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 4;

/// What differs between the `varta` processes of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Name of the process among those that run the job.
    pub(crate) worker: String,
    /// Its worker threads.
    pub(crate) workers: usize,
    /// Name of its bridge among those that share the messages.
    pub(crate) bridge: String,
    /// Whether it speaks TLS with the broker.
    pub(crate) tls: bool,
    /// Where it answers for its health; empty: nowhere.
    pub(crate) listen: String,
    /// Tells its sinks from those of other processes in the same consumer groups.
    pub(crate) member: String,
    /// Its sinks hold little, so that a short log is many batches, and PostgreSQL is waited for briefly.
    pub(crate) small_batches: bool,
    /// By which API its sink writes to InfluxDB.
    pub(crate) influx_api: &'static str,
    /// Further sections, as they stand in the file.
    pub(crate) extra: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            worker: "main".into(),
            workers: 1,
            bridge: "bridge".into(),
            tls: false,
            listen: String::new(),
            member: String::new(),
            small_batches: false,
            influx_api: "v2",
            extra: String::new(),
        }
    }
}

/// What differs between agents.
#[derive(Clone, Debug)]
pub(crate) struct AgentOptions {
    /// Its id; the scenario's agents must differ.
    pub(crate) agent_id: String,
    /// Its host name in events.
    pub(crate) host: String,
    /// Whether it speaks TLS with the broker.
    pub(crate) tls: bool,
    /// Most bytes in the outbox.
    pub(crate) outbox_limit: &'static str,
}

impl AgentOptions {
    /// An agent with an id of its own.
    pub(crate) fn new(host: &str) -> Self {
        Self {
            agent_id: uuid::Uuid::new_v4().to_string(),
            host: host.to_owned(),
            tls: false,
            outbox_limit: "64 MiB",
        }
    }
}

impl Stage {
    pub(super) fn write_config(&self, name: &str, options: &Options) -> anyhow::Result<PathBuf> {
        let broker = self.stack.variables()?;
        let small = |settings: &'static str| if options.small_batches { settings } else { "" };
        let text = format!(
            r#"
[kafka]
brokers = "{kafka}"
session_timeout = "6s"
request_timeout = "10s"
[registry]
url = "{registry}"
[topics]
prefix = "{prefix}"
partitions = {PARTITIONS}
[http]
listen = "{listen}"
[shutdown]
drain = "40s"
[bridge]
id = "{prefix}-{bridge}"
clock_interval = "1s"
[bridge.mqtt]
host = "{mqtt_host}"
port = {mqtt_port}
username = "{mqtt_user}"
password = "{mqtt_password}"
share_group = "{prefix}"
max_backoff = "1s"
{tls}
[process]
prefix = "{prefix}-"
name = "{worker}"
workers = {workers}
[sinks.lake]
root = "{lake}"
commit_age = "1s"
late_age = "1s"
group = "{prefix}-lake"
instance = "{prefix}-lake{member}"
{small_lake}
[sinks.influx]
url = "{influx_url}"
token = "{influx_token}"
org = "varta"
bucket = "{influx_bucket}"
api = "{influx_api}"
group = "{prefix}-influx"
instance = "{prefix}-influx{member}"
{small_influx}
[sinks.postgres]
url = "{postgres}"
group = "{prefix}-postgres"
instance = "{prefix}-postgres{member}"
{small_postgres}
[reports]
period = "day"
after = "0s"
every = "2s"
{extra}
"#,
            extra = options.extra,
            member = options.member,
            influx_api = options.influx_api,
            small_lake = small("commit_rows = 150\npoll_rows = 100"),
            small_influx = small("batch_lines = 80\npoll_rows = 40\ntimeout = \"3s\""),
            small_postgres = small("batch_rows = 16\npoll_rows = 10\ntimeout = \"3s\""),
            kafka = self.kafka,
            registry = self.registry,
            prefix = self.prefix,
            bridge = options.bridge,
            tls = if options.tls {
                format!("tls = {{ ca = \"{}\" }}", broker.get("VARTA_MQTT_CA")?)
            } else {
                String::new()
            },
            listen = options.listen,
            mqtt_host = broker.get("VARTA_MQTT_HOST")?,
            mqtt_port = broker.get(if options.tls { "VARTA_MQTT_TLS_PORT" } else { "VARTA_MQTT_PORT" })?,
            mqtt_user = broker.get("VARTA_MQTT_USER_BRIDGE")?,
            mqtt_password = broker.get("VARTA_MQTT_PASSWORD_BRIDGE")?,
            worker = options.worker,
            workers = options.workers,
            lake = self.lake().display(),
            influx_url = self.influx.url,
            influx_token = self.influx.token,
            influx_bucket = self.influx.bucket,
            postgres = self.postgres.url,
        );
        let path = self.folder.join(format!("{name}.toml"));
        fs_err::write(&path, text)?;
        Ok(path)
    }

    /// Writes an agent's configuration; its outbox lies in the folder of its name.
    pub(crate) fn write_agent_config(&self, name: &str, options: &AgentOptions) -> anyhow::Result<PathBuf> {
        let broker = self.stack.variables()?;
        let text = format!(
            r#"
agent_id = "{agent_id}"
host = "{host}"
state_dir = "{state}"
[mqtt]
host = "{mqtt_host}"
port = {mqtt_port}
username = "{mqtt_user}"
password = "{mqtt_password}"
retry_max = "1s"
{tls}
[publisher]
confirm_within = "3s"
confirm_within_max = "6s"
drain = "100s"
[scheduler]
report_interval = "2s"
[outbox]
limit = "{limit}"
"#,
            agent_id = options.agent_id,
            host = options.host,
            state = self.folder.join(name).display(),
            tls = if options.tls {
                format!("tls = {{ ca_file = \"{}\" }}", broker.get("VARTA_MQTT_CA")?)
            } else {
                String::new()
            },
            mqtt_host = broker.get("VARTA_MQTT_HOST")?,
            mqtt_port = broker.get(if options.tls { "VARTA_MQTT_TLS_PORT" } else { "VARTA_MQTT_PORT" })?,
            mqtt_user = broker.get("VARTA_MQTT_USER_AGENT")?,
            mqtt_password = broker.get("VARTA_MQTT_PASSWORD_AGENT")?,
            limit = options.outbox_limit,
        );
        let path = self.folder.join(format!("{name}.toml"));
        fs_err::write(&path, text)?;
        Ok(path)
    }
}
