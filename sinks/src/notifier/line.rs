//! One item as one line. Pure.

use arrow::array::timezone::Tz;
use chrono::DateTime;

use super::item::{Change, Item, Kind};

/// The specification's line: `[Время] Пользователь [Имя пользователя] запустил [Имя процесса]`, the last two pairs of
/// brackets being placeholders.
pub(super) const SPECIFICATION: &str = "[{time}] Пользователь {user} запустил {process}";
/// Characters of one line at most.
const LONGEST: usize = 700;

/// How lines are written.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    start: Vec<Piece>,
    zone: Tz,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Time,
    User,
    Process,
    Agent,
    Host,
}

impl Lines {
    /// `start` is the template of a program start, with `{time}`, `{user}`, `{process}`, `{agent}` and `{host}`; `zone`
    /// an IANA name or an offset. The error names what cannot be read.
    pub(super) fn parse(start: &str, zone: &str) -> Result<Self, String> {
        let zone: Tz = zone.parse().map_err(|_| format!("{zone:?} is no time zone"))?;
        Ok(Self { start: pieces(start)?, zone })
    }

    /// The line of an item.
    pub(super) fn line(&self, item: &Item) -> String {
        let line = match item.kind {
            Kind::ProgramStart => self.start.iter().map(|piece| self.piece(piece, item)).collect(),
            Kind::Alert => self.alert(item),
        };
        clean(&line, LONGEST)
    }

    /// A time, in µs since 1970-01-01 UTC, as people read it.
    pub(super) fn time(&self, micros: i64) -> String {
        let time = DateTime::from_timestamp_micros(micros).map(|time| time.with_timezone(&self.zone));
        time.map_or_else(|| "?".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
    }

    /// Who or what did it, without time: what items of one kind are counted under.
    pub(super) fn heading(item: &Item) -> String {
        let text = match item.kind {
            Kind::ProgramStart => {
                format!(
                    "{} запустил {}",
                    or_unknown(item.user.as_deref()),
                    or_unknown(item.program.as_deref())
                )
            }
            Kind::Alert => format!("{} ({})", item.title, item.severity.name()),
        };
        clean(&text, 160)
    }

    fn piece(&self, piece: &Piece, item: &Item) -> String {
        match piece {
            Piece::Text(text) => text.clone(),
            Piece::Time => self.time(item.event_time),
            Piece::User => or_unknown(item.user.as_deref()).to_owned(),
            Piece::Process => or_unknown(item.program.as_deref()).to_owned(),
            Piece::Agent => item.agent_id.clone(),
            Piece::Host => or_unknown(item.host.as_deref()).to_owned(),
        }
    }

    fn alert(&self, item: &Item) -> String {
        let state = match item.change {
            Change::New => "",
            Change::Updated => "still: ",
            Change::Closed => "over: ",
        };
        let mut place = Vec::new();
        place.extend(item.host.as_ref().map(|host| format!("host {host}")));
        place.extend(item.user.as_ref().map(|user| format!("user {user}")));
        place.push(format!("agent {}", item.agent_id));
        if item.count > 1 {
            place.push(format!("{} times", item.count));
        }
        format!(
            "[{}] {} {state}{}: {} ({})",
            self.time(item.event_time),
            item.severity.name().to_uppercase(),
            item.title,
            item.message,
            place.join(", ")
        )
    }
}

fn or_unknown(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("?")
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').ok_or_else(|| format!("`{{` without `}}` in {template:?}"))?;
        pieces.push(Piece::Text(rest[..open].to_owned()));
        pieces.push(match &rest[open + 1..open + close] {
            "time" => Piece::Time,
            "user" => Piece::User,
            "process" => Piece::Process,
            "agent" => Piece::Agent,
            "host" => Piece::Host,
            other => return Err(format!("{{{other}}} is not one of time, user, process, agent, host")),
        });
        rest = &rest[open + close + 1..];
    }
    pieces.push(Piece::Text(rest.to_owned()));
    pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
    Ok(pieces)
}

/// One line without control characters, at most so many characters. What agents send may hold anything; a line break in a
/// name must not look like a message of its own.
pub(crate) fn clean(text: &str, longest: usize) -> String {
    let mut line: String =
        text.chars().take(longest).map(|c| if c.is_control() || is_direction(c) { ' ' } else { c }).collect();
    if text.chars().nth(longest).is_some() {
        line.push('…');
    }
    line
}

/// Characters that turn the direction of what follows, so that a name reads as another.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::item::Severity, *};

    pub(in super::super) fn start(user: &str, program: &str) -> Item {
        Item {
            id: 1,
            kind: Kind::ProgramStart,
            change: Change::New,
            severity: Severity::Informational,
            rule_id: "program-start".to_owned(),
            title: "Program started".to_owned(),
            agent_id: "a1".to_owned(),
            host: None,
            user: Some(user.to_owned()),
            program: Some(program.to_owned()),
            message: String::new(),
            count: 1,
            event_time: 1_795_169_702_000_000, // 2026-11-20T10:15:02Z
        }
    }

    pub(in super::super) fn alert(id: i64, rule: &str, agent: &str, severity: Severity) -> Item {
        Item {
            id,
            kind: Kind::Alert,
            change: Change::New,
            severity,
            rule_id: rule.to_owned(),
            title: format!("Title of {rule}"),
            agent_id: agent.to_owned(),
            host: Some(format!("host-of-{agent}")),
            user: None,
            program: None,
            message: "a sentence".to_owned(),
            count: 1,
            event_time: 1_795_169_702_000_000,
        }
    }

    fn lines() -> Lines {
        Lines::parse(SPECIFICATION, "+00:00").unwrap()
    }

    #[test]
    fn a_program_start_is_told_in_the_words_of_the_specification() {
        assert_eq!(
            lines().line(&start("alice", "chrome.exe")),
            "[2026-11-20 10:15:02] Пользователь alice запустил chrome.exe"
        );
        let kyiv = Lines::parse("{time} {user}@{host} {process}/{agent}", "+02:00").unwrap();
        assert_eq!(kyiv.line(&start("{process}", "x")), "2026-11-20 12:15:02 {process}@? x/a1");
    }

    #[test]
    fn an_alert_says_how_bad_what_where_and_whether_it_is_over() {
        let mut item = alert(1, "r", "a1", Severity::High);
        assert_eq!(
            lines().line(&item),
            "[2026-11-20 10:15:02] HIGH Title of r: a sentence (host host-of-a1, agent a1)"
        );
        item.change = Change::Closed;
        item.count = 7;
        item.user = Some("bob".to_owned());
        assert_eq!(
            lines().line(&item),
            "[2026-11-20 10:15:02] HIGH over: Title of r: a sentence (host host-of-a1, user bob, agent a1, 7 times)"
        );
    }

    #[test]
    fn names_cannot_forge_lines_and_nothing_is_long() {
        let line = lines().line(&start("eve\n[2026-11-20 10:15:02] Пользователь root", "a\u{202e}exe.txt"));
        assert!(!line.contains('\n') && !line.contains('\u{202e}'), "{line}");
        assert!(lines().line(&start(&"x".repeat(100_000), "y")).chars().count() <= LONGEST + 1);
    }

    #[test]
    fn a_wrong_template_is_refused_by_name() {
        assert!(Lines::parse("{tim}", "+00:00").unwrap_err().contains("{tim}"));
        assert!(Lines::parse("{time", "+00:00").is_err());
        assert!(Lines::parse("", "Mars/Olympus").unwrap_err().contains("Mars/Olympus"));
    }
}
