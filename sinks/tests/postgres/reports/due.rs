//! Which reports are due, and who computes them.

use super::*;

fn config(period: Cadence) -> ReportsConfig {
    // the rows are old; what is due does not depend on the time of day
    ReportsConfig { period, look_back: Duration::from_hours(24 * 3650), ..ReportsConfig::default() }
}

fn listed(due: &[Due]) -> Vec<String> {
    due.iter()
        .map(|due| format!("{} {} {}", due.period.kind().as_str(), due.period.start(), due.subject))
        .collect()
}

#[tokio::test]
async fn what_is_due_adapts_to_the_setting() {
    let (_database, mut connection) = filled().await;
    let until: DateTime<Utc> = "2026-01-12T00:00:00Z".parse().unwrap();
    let weeks = [
        "week 2025-12-29 agent a",
        "week 2025-12-29 agent c",
        "week 2025-12-29 all machines",
        "week 2025-12-29 user alice",
        "week 2026-01-05 agent a",
        "week 2026-01-05 agent b",
        "week 2026-01-05 all machines",
        "week 2026-01-05 user alice",
        "week 2026-01-05 user bob",
    ];
    assert_eq!(listed(&due(&mut connection, &config(Cadence::Week), until).await.unwrap()), weeks);
    let days = due(&mut connection, &config(Cadence::Day), until).await.unwrap();
    assert_eq!(days.len(), 9);
    assert!(days.iter().all(|due| due.period.kind() == Kind::Day));
    // of the days only those with an alert, or four hours: `b`, `c`, and alice on the 6th have neither
    let auto = listed(&due(&mut connection, &config(Cadence::Auto), until).await.unwrap());
    let days: Vec<_> = auto.iter().filter(|due| due.starts_with("day")).map(String::as_str).collect();
    assert_eq!(
        days,
        [
            "day 2025-12-30 agent a",
            "day 2025-12-30 all machines",
            "day 2025-12-30 user alice",
            "day 2026-01-06 agent a",
            "day 2026-01-06 all machines",
            "day 2026-01-06 user bob",
        ]
    );
    assert_eq!(auto.len(), weeks.len() + days.len());
    // a period that is not over is not due
    let sunday: DateTime<Utc> = "2026-01-11T23:59:59Z".parse().unwrap();
    let due_then = listed(&due(&mut connection, &config(Cadence::Week), sunday).await.unwrap());
    assert_eq!(due_then, &weeks[..4]);
}

/// All reports are there, of rows that came long ago.
async fn all_computed(connection: &mut PgConnection, config: &ReportsConfig, until: DateTime<Utc>) {
    let past = "update features_1h set changed_at = '2026-01-07Z'; update user_features_1h set changed_at = '2026-01-07Z';
                update alerts set stored_at = '2026-01-07Z'; update alert_feedback set stored_at = '2026-01-07Z'";
    connection.execute(past).await.unwrap();
    for due in due(connection, config, until).await.unwrap() {
        let report = computed(connection, due.period, &due.subject).await;
        store(connection, &report).await.unwrap();
    }
    assert!(due(connection, config, until).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_came_after_a_report_makes_it_due_again_and_nothing_else_does() {
    let (_database, mut connection) = filled().await;
    let until: DateTime<Utc> = "2026-01-12T00:00:00Z".parse().unwrap();
    let weekly = config(Cadence::Week);
    all_computed(&mut connection, &weekly, until).await;
    // an agent that was offline brings a row of the first week
    connection
        .execute("update features_1h set revision = 1, changed_at = now() where agent_id = 'c'")
        .await
        .unwrap();
    let again = listed(&due(&mut connection, &weekly, until).await.unwrap());
    // the fleet's next week compares itself with that one
    assert_eq!(
        again,
        ["week 2025-12-29 agent c", "week 2025-12-29 all machines", "week 2026-01-05 all machines"]
    );
    // days that begin elsewhere are other reports
    let elsewhere = ReportsConfig { zone: "Europe/Kyiv".into(), ..weekly };
    assert!(!due(&mut connection, &elsewhere, until).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_compute_what_is_due_and_one_bad_report_does_not_stop_the_rest() {
    let (database, mut connection) = filled().await;
    // reports that PostgreSQL does not take, about `a` and the fleet of one day
    connection
        .execute(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
             create trigger refuse before insert on reports for each row
             when (new.period_start = '2026-01-06' and new.key in ('a', '') and new.scope <> 'user')
             execute function refuse()",
        )
        .await
        .unwrap();
    let postgres = PostgresConfig { url: Secret::new(database.url.as_str()), ..PostgresConfig::default() };
    let shutdown = Shutdown::new();
    let parts: Vec<_> = (0..2)
        .map(|_| {
            let config = ReportsConfig { every: Duration::from_secs(1), ..config(Cadence::Day) };
            tokio::spawn(run(config, postgres.clone(), Health::default(), shutdown.clone()))
        })
        .collect();
    let stored = "select string_agg(concat_ws(' ', period_start, scope, key), ', ' order by period_start, scope, key) from reports";
    until(
        &database,
        stored,
        "2025-12-30 agent a, 2025-12-30 agent c, 2025-12-30 fleet , 2025-12-30 user alice, 2026-01-06 agent b, \
         2026-01-06 user alice, 2026-01-06 user bob",
    )
    .await;
    shutdown.request();
    for part in parts {
        part.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_agent_that_lies_takes_away_nobodys_report() {
    let (_database, mut connection) = filled().await;
    connection
        .execute(
            "update features_1h set net_rx_mean_bytes_per_s = 1.7e308, active_s = 1.7e308, cpu_mean = 1.7e308,
                 mem_used_mean_bytes = 1.7e308, cpu_over_share = 'NaN', coverage = -1.7e308,
                 mouse_events = 9223372036854775807, keyboard_events = -9223372036854775807 - 1,
                 events = 9223372036854775807, lost = 9223372036854775807
             where agent_id = 'a';
             update user_features_1h set active_s = 'Infinity', mouse_events = 9223372036854775807",
        )
        .await
        .unwrap();
    let week = Period::holding(Kind::Week, day("2026-01-06"));
    for period in [tuesday(), week] {
        for subject in [Subject::Fleet, Subject::Agent("a".into()), Subject::User("alice".into())] {
            let report = computed(&mut connection, period, &subject).await;
            let body = report.body().unwrap();
            let seconds = 3600.0 * body.activity.hours as f64;
            assert!(body.activity.active_s.unwrap() <= seconds, "{subject}");
            assert!(body.coverage.coverage_mean.is_none_or(|mean| mean >= 0.0));
            assert!(body.load.cpu_mean.unwrap() <= 100.0);
            html(&body).unwrap();
        }
    }
    // what the others say counts as before, and what nobody measured is not invented
    let body = computed(&mut connection, tuesday(), &Subject::Agent("b".into())).await.body().unwrap();
    assert_eq!((body.load.cpu_mean, body.activity.active_s), (Some(80.0), None));
}

#[tokio::test]
async fn what_people_say_of_an_alert_makes_its_reports_due_again() {
    let (_database, mut connection) = filled().await;
    let until: DateTime<Utc> = "2026-01-12T00:00:00Z".parse().unwrap();
    let weekly = config(Cadence::Week);
    all_computed(&mut connection, &weekly, until).await;
    connection
        .execute("insert into alert_feedback (alert_id, author, verdict, given_at) values ('f2', 'ben', 'tp', now())")
        .await
        .unwrap();
    let again = listed(&due(&mut connection, &weekly, until).await.unwrap());
    assert_eq!(
        again,
        ["week 2026-01-05 agent a", "week 2026-01-05 all machines", "week 2026-01-05 user bob"]
    );
}
