//! The whole way: from an event at the edge to people, and back to the bus.

use super::*;

/// An event of an outsider, now.
fn event(agent: &str, name: &str, path: &str, user: &str) -> Value {
    json!({
        "agent_id": agent, "event_id": uuid::Uuid::new_v4().to_string(),
        "event_time": runtime::clock::now_us(), "event_type": event_type::PROCESS_STARTED, "source": "test/hand",
        "host": "told-host", "user": user, "replayed": false,
        "payload": { "pid": 4711, "name": name, "path": path },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_event_to_a_message_and_back_to_the_edge() -> anyhow::Result<()> {
    let receiver = Receiver::start().await?;
    let stage = Stage::new("told").await?;
    let broker = stage.stack.variables()?;
    let more = format!(
        "[sinks.notifier]\npoll = \"50ms\"\n\
         [[sinks.notifier.telegram]]\nname = \"starts\"\ntoken = \"123:abc\"\nchat = \"5\"\napi = \"{telegram}\"\n\
         filter = {{ alerts = false }}\n\
         [[sinks.notifier.webhook]]\nname = \"alerts\"\nurl = \"{webhook}\"\n\
         filter = {{ starts = false, severity = \"low\" }}\n\
         [sinks.mqtt]\nenabled = true\nhost = \"{host}\"\nport = {port}\nusername = \"{user}\"\n\
         password = \"{password}\"\ngroup = \"{prefix}-mqtt\"\nclient_id = \"{prefix}-alerts\"\n",
        telegram = receiver.url(""),
        webhook = receiver.url("/alerts"),
        host = broker.get("VARTA_MQTT_HOST")?,
        port = broker.get("VARTA_MQTT_PORT")?,
        user = broker.get("VARTA_MQTT_USER_BRIDGE")?,
        password = broker.get("VARTA_MQTT_PASSWORD_BRIDGE")?,
        prefix = stage.prefix,
    );
    stage.start_server(&Options { extra: more.clone(), ..Options::default() })?;
    stage
        .until("the server has created the topics", PATIENCE, async || {
            Ok(stage.records(&stage.topics().raw()).is_ok_and(|clocks| !clocks.is_empty()))
        })
        .await?;

    let agent = uuid::Uuid::new_v4().to_string();
    let machine = Listener::connect(&stage, Account::Agent, &agent, &format!("alerts/{agent}/#")).await?;
    for event in [
        event(&agent, "chrome.exe", "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe", "alice"),
        event(&agent, "notepad.exe", "C:\\Windows\\notepad.exe", "alice"),
        event(&agent, "explorer.exe", "C:\\Windows\\explorer.exe", "NT AUTHORITY\\SYSTEM"),
        event(&agent, "invoice.exe", "C:\\Users\\alice\\AppData\\Local\\Temp\\invoice.exe", "alice"),
    ] {
        machine.publish(&mqtt::event_topic(&agent, event_type::PROCESS_STARTED), &event).await?;
    }
    stage.until("the alert is back at the edge", PATIENCE, async || Ok(!machine.heard().is_empty())).await?;
    let told = machine.heard().remove(0);
    let (topic, alert) = (told.topic, told.body);
    ensure!(topic.starts_with(&format!("alerts/{agent}/")), "{topic}");
    ensure!(alert["agent_id"] == json!(agent) && alert["evidence"].is_array(), "{alert}");

    stage
        .until("the start is told in the words of the specification", PATIENCE, async || {
            Ok(receiver.arrived("/bot123:abc/sendMessage").iter().any(|message| {
                let text = message.body["text"].as_str().unwrap_or_default();
                text.starts_with('[') && text.ends_with("] Пользователь alice запустил chrome.exe")
            }))
        })
        .await?;
    stage
        .until("the alert is told", PATIENCE, async || {
            Ok(receiver
                .arrived("/alerts")
                .iter()
                .any(|message| message.body.to_string().contains("invoice.exe")))
        })
        .await?;
    stage
        .until("all starts are stored", PATIENCE, async || {
            Ok(stage.postgres.count("program_starts").await? == 4)
        })
        .await?;
    let outbox =
        stage.postgres.texts("SELECT program FROM notification_outbox WHERE kind = 'program_start'").await?;
    ensure!(
        outbox == ["chrome.exe"],
        "neither other programs nor the system's accounts are told: {outbox:?}"
    );
    // Nobody is told of what is not stored.
    let strangers = stage
        .postgres
        .texts(
            "SELECT key FROM notification_outbox o WHERE kind = 'alert' AND NOT EXISTS \
             (SELECT FROM alerts a WHERE o.key LIKE 'alert:' || a.finding_uid || ':%')",
        )
        .await?;
    ensure!(strangers.is_empty(), "{strangers:?}");

    the_sink_to_the_edge_dies_at_each_step(&stage, &machine, &more).await?;
    let findings: BTreeSet<String> =
        machine.heard().iter().map(|told| told.body["finding_uid"].to_string()).collect();
    let alerts = stage.alerts().await?;
    let known: BTreeSet<String> = alerts
        .iter()
        .filter_map(|alert| alert.text("finding_uid"))
        .map(|uid| json!(uid).to_string())
        .collect();
    ensure!(findings.is_subset(&known), "{findings:?} of {known:?}");
    stage.stop("up")
}

/// Dead before the broker has an alert, or before its offset is stored, the sink tells it in its next life.
async fn the_sink_to_the_edge_dies_at_each_step(
    stage: &Stage,
    machine: &Listener,
    sections: &str,
) -> anyhow::Result<()> {
    for (number, (failpoint, told_by_the_dead, told_again)) in [
        ("mqtt.before_publish", false, true),
        ("mqtt.after_publish", true, true),
        ("mqtt.after_offsets", true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let again = Options {
            extra: sections
                .replace("-mqtt\"", &format!("-mqtt-{number}\""))
                .replace("-alerts\"", &format!("-again-{number}\"")),
            ..Options::default()
        };
        let starter = stage.starter(&format!("mqtt-{number}"), &["sink", "mqtt"], &again)?;
        let idle = Load::new(0, 1, 1);
        let before = machine.heard().len();
        let mut doomed = starter.start(&idle, &[("VARTA_FAILPOINT", failpoint.to_owned())])?;
        stage.until("the sink dies at the failpoint", PATIENCE, async || doomed.has_ended()).await?;
        ensure!(doomed.deaths_at(failpoint)? == 1, "it died of something else than {failpoint}");
        stage
            .until("it has told what it was to tell", PATIENCE, async || {
                Ok(!told_by_the_dead || machine.heard().len() > before)
            })
            .await?;
        let told = machine.heard().len();
        let next = starter.start(&idle, &[])?;
        stage
            .until("the next tells what is left", PATIENCE, async || {
                let lives = stage.log(&format!("mqtt-{number}")).matches("partitions assigned sink").count();
                Ok(lives == 2 && (!told_again || machine.heard().len() > told))
            })
            .await?;
        ensure!(blocking(|| next.stop(PATIENCE))? == 0, "the next sink does not end in order");
    }
    Ok(())
}

/// Items of the webhook's messages about this program's place.
fn told_of(receiver: &Receiver, program: &str) -> usize {
    let arrived = receiver.arrived("/hook");
    let items = arrived.iter().flat_map(|message| message.body["items"].as_array().into_iter().flatten());
    let is_of = |item: &&Value| item["rule_id"] == "suspicious-path" && item.to_string().contains(program);
    items.filter(is_of).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_outbox_is_away_everything_is_told_later_and_once() -> anyhow::Result<()> {
    let receiver = Receiver::start().await?;
    let mut stage = Stage::new("away").await?;
    blocking(|| stage.stack.up(&["postgres"]))?;
    stage.postgres = Postgres::at(&stage.stack.variables()?.get("VARTA_POSTGRES")?);
    let extra = format!(
        "[sinks.notifier]\npoll = \"50ms\"\n[[sinks.notifier.webhook]]\nname = \"hook\"\nurl = \"{}\"\n\
         filter = {{ starts = false, severity = \"low\" }}\npace = {{ digest_every = \"1s\" }}\n",
        receiver.url("/hook")
    );
    stage.start_server(&Options { extra, ..Options::default() })?;
    stage
        .until("the server has created the topics", PATIENCE, async || {
            Ok(stage.records(&stage.topics().raw()).is_ok_and(|clocks| !clocks.is_empty()))
        })
        .await?;
    let agent = uuid::Uuid::new_v4().to_string();
    let machine = Listener::connect(&stage, Account::Agent, &agent, &format!("alerts/{agent}/#")).await?;
    let start = async |program: &str| {
        let path = format!("C:\\Users\\alice\\AppData\\Local\\Temp\\{program}\\{program}");
        let started = event(&agent, program, &path, "alice");
        machine.publish(&mqtt::event_topic(&agent, event_type::PROCESS_STARTED), &started).await
    };
    start("first.exe").await?;
    stage.until("the first is told", PATIENCE, async || Ok(told_of(&receiver, "first.exe") == 1)).await?;

    // The database goes while a message is under way: the service takes it, and nobody can write that down.
    receiver.set("/hook", Mood::Late(Duration::from_secs(4)));
    start("second.exe").await?;
    stage
        .until("the second is under way", PATIENCE, async || Ok(told_of(&receiver, "second.exe") == 1))
        .await?;
    blocking(|| stage.stack.kill("postgres"))?;
    receiver.set("/hook", Mood::Well);
    let waits = "waiting for the outbox in PostgreSQL";
    stage
        .until("the notifier says what it waits for", PATIENCE, async || Ok(stage.log("up").contains(waits)))
        .await?;
    start("third.exe").await?;
    stage
        .until("the other sinks run on", PATIENCE, async || {
            let named =
                |row: &tests::audit::Row| row.text("evidence").is_some_and(|rows| rows.contains("third.exe"));
            ensure!(stage.alerts().await?.iter().any(named), "no alert");
            let rows = stage.alerts().await?.len();
            ensure!(stage.table_rows("alerts").await? == rows, "the lake has not all of {rows} alerts");
            let points = stage.influx.values("process_event", "name").await?;
            Ok(points.keys().any(|name| name.contains("third.exe")))
        })
        .await?;
    ensure!(told_of(&receiver, "third.exe") == 0, "told of what is not stored");

    let back = Instant::now();
    blocking(|| stage.stack.start("postgres"))?;
    stage.until("the third is told", PATIENCE, async || Ok(told_of(&receiver, "third.exe") == 1)).await?;
    ensure!(back.elapsed() < Duration::from_mins(1), "the first message came after {:?}", back.elapsed());
    stage
        .until("all is on record", PATIENCE, async || {
            let left = "SELECT key FROM notification_outbox o WHERE kind = 'alert' AND NOT EXISTS \
                        (SELECT FROM notification_deliveries d JOIN notification_messages m ON m.id = d.message_id \
                        WHERE d.outbox_id = o.id AND m.state = 'sent')";
            let left = stage.postgres.texts(left).await?;
            ensure!(left.is_empty(), "not told: {left:?}");
            Ok(true)
        })
        .await?;
    for program in ["first.exe", "second.exe", "third.exe"] {
        ensure!(told_of(&receiver, program) == 1, "{program} is told {} times", told_of(&receiver, program));
    }
    stage.stop("up")
}
