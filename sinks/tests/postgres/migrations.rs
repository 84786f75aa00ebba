//! Many processes start at once, some of them on what an earlier version left.

use futures::future::join_all;
use sinks::{SinkError, postgres::migrate};
use sqlx::{
    Executor as _, PgConnection, SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

use crate::database::Database;

async fn versions(connection: &mut PgConnection) -> Vec<i64> {
    sqlx::query_scalar("select version from _sqlx_migrations where success order by version")
        .fetch_all(connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_migrate_an_empty_database_at_once() {
    let database = Database::create().await;
    let connections = join_all((0..8).map(|_| database.connect())).await;
    let outcomes = join_all(connections.into_iter().map(|mut connection| {
        tokio::spawn(async move {
            migrate(&mut connection).await?;
            connection
                .execute("select 1 from program_starts, agents, alerts, offsets limit 0")
                .await
                .unwrap();
            Ok::<_, SinkError>(connection)
        })
    }))
    .await;
    let mut connections: Vec<PgConnection> =
        outcomes.into_iter().map(|outcome| outcome.unwrap().unwrap()).collect();
    let applied = versions(&mut connections[0]).await;
    assert_eq!(applied.first(), Some(&1));
    migrate(&mut connections[1]).await.unwrap();
    assert_eq!(versions(&mut connections[2]).await, applied);
}

/// Applies only the first migration, as the first version did.
async fn first_version(connection: &mut PgConnection) {
    let sql = include_str!("../../migrations/0001_spine.sql");
    let spine = Migration::new(1, "spine".into(), MigrationType::Simple, sql.into_sql_str(), false);
    Migrator::with_migrations(vec![spine]).run_direct(None, connection, false).await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_version_keeps_its_rows() {
    let database = Database::create().await;
    let mut connection = database.connect().await;
    first_version(&mut connection).await;
    connection
        .execute(
            "insert into offsets (sink, topic, partition, next_offset) values ('postgres', 'varta.alerts', 0, 7);
             insert into agents (agent_id, seen_at, host) values ('a', '2026-01-05 10:00Z', 'pc')",
        )
        .await
        .unwrap();
    migrate(&mut connection).await.unwrap();
    let offset: i64 =
        sqlx::query_scalar("select next_offset from offsets").fetch_one(&mut connection).await.unwrap();
    let host: String =
        sqlx::query_scalar("select host from agents").fetch_one(&mut connection).await.unwrap();
    assert_eq!((offset, host.as_str()), (7, "pc"));
}

#[tokio::test]
async fn another_schema_under_our_numbers_stops_the_sink() {
    let database = Database::create().await;
    let mut connection = database.connect().await;
    first_version(&mut connection).await;
    connection
        .execute("update _sqlx_migrations set checksum = 'other'::bytea where version = 1")
        .await
        .unwrap();
    let error = migrate(&mut connection).await.unwrap_err();
    assert!(matches!(error, SinkError::Fatal(_)), "{error}");
}
