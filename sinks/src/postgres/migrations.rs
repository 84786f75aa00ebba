//! The versions of the schema, in order.
//!
//! A file under `sinks/migrations` that has once been applied somewhere is never edited: databases remember its
//! checksum, and a difference stops every sink. A change is a new file with the next number and a line below.

use sqlx::{
    PgConnection, SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::store::failed;
use crate::SinkError;

/// Number, name, statements.
static MIGRATIONS: &[(i64, &str, &str)] = &[
    // every file of the folder
    (1, "spine", include_str!("../../migrations/0001_spine.sql")),
    (2, "notifications", include_str!("../../migrations/0002_notifications.sql")),
    (3, "reports", include_str!("../../migrations/0003_reports.sql")),
    (4, "reports_on_bus", include_str!("../../migrations/0004_reports_on_bus.sql")),
];

/// Brings the schema to this version. Every process that opens the database calls it first: they wait for each other
/// by an advisory lock, each migration is one transaction, and what was applied before is only compared.
///
/// Fails for good when an applied migration differs from this version's, or a statement finds what it does not
/// expect; all other failures are waited for.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), SinkError> {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect());
    // A newer version may have been here before a downgrade; its additions do not disturb this one.
    migrator.set_ignore_missing(true);
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed(error),
        MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => {
            SinkError::Fatal(format!("postgres: {error}"))
        }
        other => SinkError::unavailable("postgres", other),
    })
}

fn migration(&(version, name, sql): &(i64, &'static str, &'static str)) -> Migration {
    Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Databases out there hold these checksums.
    const APPLIED: [(i64, &str); 4] = [
        (
            1,
            "3ca8fe5c5171fabf9394d9a3d8effba46b1a183a03f24a157b08cac2d34ea11abd13f8f2faace2d1af31ffb8f8e7931f",
        ),
        (
            2,
            "b7f3c9fd86621904a894efecde3b5667d152ea7c869421e0bce88ac1a0bca4b4397fa8d60852e28537c2fe3013f10472",
        ),
        (
            3,
            "e942c50ac6551a5284495f45727fb0a509d3eac2ab2459506d30a37d13800293582c4369adbc4d73c1051448b5eb0edc",
        ),
        (
            4,
            "d0e10ec610ad9d76a448cc98a342eadfcb2e0b01ce939f3a5f48e42ead82d7b193fb9723d46698a50b85ea83d4e3a1e2",
        ),
    ];

    #[test]
    fn what_databases_have_applied_is_not_edited() {
        assert_eq!(APPLIED.len(), MIGRATIONS.len(), "a new one is pinned as well");
        for (version, checksum) in APPLIED {
            let listed = MIGRATIONS.iter().find(|(number, ..)| *number == version).unwrap();
            let checksum_now = migration(listed).checksum;
            let nibbles = checksum_now.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            let actual: String =
                nibbles.map(|nibble| char::from_digit(u32::from(nibble), 16).unwrap()).collect();
            assert_eq!(actual, checksum, "migration {version}");
        }
    }

    #[test]
    fn every_file_is_listed_under_its_number() {
        let mut files: Vec<String> = fs_err::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<String> =
            MIGRATIONS.iter().map(|(version, name, _)| format!("{version:04}_{name}.sql")).collect();
        assert_eq!(files, listed);
    }
}
