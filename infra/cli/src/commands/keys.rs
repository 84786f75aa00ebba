//! `varta keys`: issue, list and revoke API keys of the HTTPS intake.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bridge::keys::{self, KeyRow, Wanted};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::config::Config;
use crate::exit::Exit;

/// What `varta keys` can be told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file of keys; without it `bridge.http.keys` of the configuration.
    #[arg(long, global = true, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Make a key and show it, once: only its hash is kept.
    Issue {
        /// An agent that the key speaks for: its id, or a pattern such as plant-*; may be given several times.
        #[arg(long = "agent", value_name = "ID")]
        agents: Vec<String>,
        /// The key may give feedback about alerts.
        #[arg(long)]
        feedback: bool,
        /// For people: who gets it.
        #[arg(long, default_value = "")]
        name: String,
        /// When it ends: after a time such as 90d, or at a date such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = expiry)]
        expires: Option<Expiry>,
    },
    /// Show all keys, without their secrets.
    List {
        /// As JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Make a key worth nothing. Bridges that run hear of it within a second.
    Revoke {
        /// Its id, as `list` shows it: the part between the underscores.
        id: String,
    },
}

#[derive(Clone, Copy, Debug)]
enum Expiry {
    After(Duration),
    At(DateTime<Utc>),
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(Expiry::At(at.to_utc()));
    }
    let after = humantime::parse_duration(text);
    after
        .map(Expiry::After)
        .map_err(|_| "neither a time such as 90d nor a date such as 2027-01-31T00:00:00Z".into())
}

/// Does what was asked.
pub(crate) fn keys(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let path = args.file.as_ref().unwrap_or(&config.bridge.http.keys);
    let now = Utc::now();
    match &args.what {
        What::Issue { agents, feedback, name, expires } => {
            let expires_at = match expires {
                None => None,
                Some(Expiry::At(at)) => Some(*at),
                Some(Expiry::After(after)) => Some(
                    chrono::TimeDelta::from_std(*after)
                        .ok()
                        .and_then(|after| now.checked_add_signed(after))
                        .context("--expires is beyond the end of the calendar")?,
                ),
            };
            let wanted =
                Wanted { name: name.clone(), agents: agents.clone(), feedback: *feedback, expires_at };
            let text = keys::change(path, |file| file.issue(wanted, now))?;
            eprintln!("kept in {} as a hash; this is the only time that the key is shown:", path.display());
            println!("{text}");
        }
        What::List { json } => {
            let file = keys::read(path)?;
            if !json {
                println!("{:<12}  {:<8}  {:<20}  {:<20}  for", "id", "state", "name", "expires");
            }
            for key in &file.keys {
                if *json {
                    println!("{}", as_json(key, now));
                } else {
                    let expires = key.expires_at.map_or_else(|| "never".to_owned(), date);
                    let (id, name, state) = (&key.id, &key.name, state(key, now));
                    println!("{id:<12}  {state:<8}  {name:<20}  {expires:<20}  {}", uses(key).join(" "));
                }
            }
        }
        What::Revoke { id } => {
            keys::change(path, |file| file.revoke(id, now).map(drop))?;
            println!("{id} is revoked");
        }
    }
    Ok(Exit::Done)
}

fn state(key: &KeyRow, now: DateTime<Utc>) -> &'static str {
    if key.revoked_at.is_some() {
        "revoked"
    } else if key.expires_at.is_some_and(|at| at <= now) {
        "expired"
    } else {
        "good"
    }
}

/// The agents, and feedback.
fn uses(key: &KeyRow) -> Vec<&str> {
    key.agents.iter().map(String::as_str).chain(key.feedback.then_some("(feedback)")).collect()
}

fn date(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn as_json(key: &KeyRow, now: DateTime<Utc>) -> serde_json::Value {
    serde_json::json!({
        "id": key.id, "name": key.name, "state": state(key, now), "agents": key.agents, "feedback": key.feedback,
        "issued_at": date(key.issued_at), "expires_at": key.expires_at.map(date),
        "revoked_at": key.revoked_at.map(date),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(folder: &std::path::Path, what: What) -> Args {
        Args { file: Some(folder.join("keys.toml")), what }
    }

    #[test]
    fn a_key_is_issued_listed_without_its_secret_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default();
        let issue = What::Issue {
            agents: vec!["plant-*".into()],
            feedback: true,
            name: "gateway".into(),
            expires: Some(expiry("90d").unwrap()),
        };
        assert_eq!(keys(&config, &args(folder.path(), issue)).unwrap(), Exit::Done);
        let path = folder.path().join("keys.toml");
        let key = keys::read(&path).unwrap().keys.remove(0);
        assert_eq!(state(&key, Utc::now()), "good");
        assert_eq!(state(&key, Utc::now() + chrono::TimeDelta::days(91)), "expired");
        assert_eq!(uses(&key), ["plant-*", "(feedback)"]);
        assert!(!as_json(&key, Utc::now()).to_string().contains(&key.sha256));
        keys(&config, &args(folder.path(), What::Revoke { id: key.id.clone() })).unwrap();
        assert_eq!(state(&keys::read(&path).unwrap().keys[0], Utc::now()), "revoked");
        assert!(keys(&config, &args(folder.path(), What::Revoke { id: "nobody".into() })).is_err());
        let useless = What::Issue { agents: vec![], feedback: false, name: String::new(), expires: None };
        assert!(keys(&config, &args(folder.path(), useless)).is_err());
    }

    #[test]
    fn an_end_is_a_time_or_a_date() {
        assert!(matches!(expiry("90d"), Ok(Expiry::After(after)) if after == Duration::from_hours(90 * 24)));
        assert!(
            matches!(expiry("2027-01-31T00:00:00+02:00"), Ok(Expiry::At(at)) if date(at) == "2027-01-30T22:00:00Z")
        );
        assert!(expiry("soon").is_err());
    }
}
