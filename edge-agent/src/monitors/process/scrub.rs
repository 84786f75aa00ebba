//! Takes secrets out of command lines before anything else sees them.
//!
//! Whatever follows a telling name goes: `--password=x`, `--token x`, `PGPASSWORD=x`, `/p:x`,
//! `Server=h;Pwd=x`, `?access_token=x`, `-H "Authorization: Bearer x"`, `curl -u user:x`,
//! `mysql -px`; so do credentials in URLs and words that have the shape of well-known keys. It
//! would rather take too much than too little; it cannot know a secret that is just a word.

const MASK: &str = "***";

/// Longest command line passed on, in bytes.
pub const MAX_BYTES: usize = 4096;

/// One line of text without secrets, cut to [`MAX_BYTES`].
pub fn command_line(arguments: &[String]) -> String {
    let program = arguments.first().map_or("", |first| base_name(first)).to_ascii_lowercase();
    let mut line = String::new();
    let mut next = Next::Plain;
    for (number, argument) in arguments.iter().enumerate() {
        if number > 0 {
            line.push(' ');
        }
        // An argument with blanks is often a command line itself (`sh -c "…"`).
        for (word_number, word) in argument.split(' ').enumerate() {
            if word_number > 0 {
                line.push(' ');
            }
            next = scrub_word(word, &program, next, &mut line);
        }
        if line.len() > MAX_BYTES {
            break;
        }
    }
    clip(&mut line);
    line
}

/// What the word before says about this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Plain,
    /// It is a secret.
    Secret,
    /// It is `user:secret`.
    Credentials,
    /// It is a scheme like `Bearer` with the secret behind it, or the secret.
    Authorization,
}

fn scrub_word(word: &str, program: &str, expected: Next, out: &mut String) -> Next {
    let bare = word.trim_matches(['"', '\'']);
    if bare.is_empty() {
        out.push_str(word);
        return expected;
    }
    match expected {
        Next::Secret if !looks_like_option(bare) => {
            out.push_str(MASK);
            return Next::Plain;
        }
        Next::Credentials => {
            out.push_str(bare.split_once(':').map_or(MASK, |(user, _)| user));
            if bare.contains(':') {
                out.push(':');
                out.push_str(MASK);
            }
            return Next::Plain;
        }
        Next::Authorization if is_scheme(bare) => {
            out.push_str(word);
            return Next::Secret;
        }
        Next::Authorization => {
            out.push_str(MASK);
            return Next::Plain;
        }
        Next::Plain | Next::Secret => {}
    }
    if is_scheme(bare) && bare.eq_ignore_ascii_case("bearer") {
        out.push_str(word);
        return Next::Secret;
    }
    if ["-u", "--user", "--proxy-user"].contains(&bare)
        && ["curl", "wget", "http", "https"].contains(&program)
    {
        out.push_str(word);
        return Next::Credentials;
    }
    if let Some(rest) = bare.strip_prefix("-p")
        && !rest.is_empty()
        && !rest.starts_with('-')
        && ["mysql", "mysqldump", "mysqladmin", "mariadb", "mariadb-dump", "sshpass"].contains(&program)
    {
        out.push_str("-p");
        out.push_str(MASK);
        return Next::Plain;
    }
    if bare == "-p" && program == "sshpass" {
        out.push_str(word);
        return Next::Secret;
    }
    if looks_like_option(bare) && !bare.contains(['=', ':']) && is_telling(bare) {
        out.push_str(word);
        return Next::Secret;
    }
    scrub_parts(word, out)
}

/// Masks values of `name=value`, `name:value` and credentials of URLs within one word.
fn scrub_parts(word: &str, out: &mut String) -> Next {
    if is_key_shape(word.trim_matches(['"', '\''])) {
        out.push_str(MASK);
        return Next::Plain;
    }
    let mut next = Next::Plain;
    for part in word.split_inclusive(['&', ';', '?', ',', '#']) {
        let (part, end) = match part.char_indices().next_back() {
            Some((at, last)) if "&;?,#".contains(last) => part.split_at(at),
            _ => (part, ""),
        };
        next = scrub_part(part, out);
        out.push_str(end);
    }
    next
}

fn scrub_part(part: &str, out: &mut String) -> Next {
    if let Some((scheme, rest)) = part.split_once("://") {
        out.push_str(scheme);
        out.push_str("://");
        let authority_end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_end);
        match authority.rsplit_once('@') {
            Some((credentials, host)) => {
                if let Some((user, _)) = credentials.split_once(':') {
                    out.push_str(user);
                    out.push(':');
                }
                out.push_str(MASK);
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        out.push_str(path);
        return Next::Plain;
    }
    let Some(at) = part.find(['=', ':']) else {
        out.push_str(part);
        return Next::Plain;
    };
    let (name, value) = part.split_at(at);
    let (separator, value) = value.split_at(1);
    out.push_str(name);
    out.push_str(separator);
    if !is_telling(name) {
        if value.contains(['=', ':']) {
            return scrub_part(value, out);
        }
        if is_key_shape(value.trim_matches(['"', '\''])) {
            out.push_str(MASK);
        } else {
            out.push_str(value);
        }
        return Next::Plain;
    }
    let header = normalised(name).contains("authorization");
    if value.trim_matches(['"', '\'']).is_empty() {
        out.push_str(value);
        return if header { Next::Authorization } else { Next::Secret };
    }
    if header && is_scheme(value.trim_matches(['"', '\''])) {
        out.push_str(value);
        return Next::Secret;
    }
    out.push_str(MASK);
    // A quoted value may go on in the next word; its closing quote went with the mask.
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    match quote {
        Some(quote) if value.len() == 1 || !value.ends_with(quote) => Next::Secret,
        _ => Next::Plain,
    }
}

/// Names whose value is a secret.
fn is_telling(name: &str) -> bool {
    const PARTS: [&str; 17] = [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "apikey",
        "accesskey",
        "privatekey",
        "credential",
        "authorization",
        "sessionid",
        "cookie",
        "sharedkey",
        "accountkey",
        "signature",
        "bearer",
    ];
    const WHOLE: [&str; 7] = ["pass", "pw", "p", "auth", "sig", "psk", "pin"];
    let name = normalised(name);
    // `/p:x` is a password of Windows tools, `-p x` mostly a port.
    if name == "p" {
        return false;
    }
    PARTS.iter().any(|part| name.contains(part)) || WHOLE.contains(&name.as_str()) || name.ends_with("pass")
}

fn normalised(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

fn looks_like_option(word: &str) -> bool {
    word.len() > 1 && (word.starts_with('-') || word.starts_with('/') && !word[1..].contains('/'))
}

fn is_scheme(word: &str) -> bool {
    ["bearer", "basic", "digest", "token", "apikey", "negotiate"]
        .iter()
        .any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// Keys that can be told by their look alone.
fn is_key_shape(word: &str) -> bool {
    const STARTS: [&str; 15] = [
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "github_pat_",
        "glpat-",
        "xoxb-",
        "xoxp-",
        "xapp-",
        "sk-",
        "sk_live_",
        "rk_live_",
        "AKIA",
        "ASIA",
        "AIza",
    ];
    let long = word.len() >= 16;
    let is_jwt = word.starts_with("eyJ") && word.matches('.').count() >= 2;
    long && (is_jwt || STARTS.iter().any(|start| word.starts_with(start)))
}

fn base_name(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    name.strip_suffix(".exe").unwrap_or(name)
}

fn clip(line: &mut String) {
    if line.len() <= MAX_BYTES {
        return;
    }
    let end = (0..=MAX_BYTES - '…'.len_utf8()).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line.truncate(end);
    line.push('…');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scrub(line: &[&str]) -> String {
        command_line(&line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let cases: &[(&[&str], &str)] = &[
            (&["app", "--password=hunter2", "--port=80"], "app --password=*** --port=80"),
            (&["app", "--api-key", "hunter2", "run"], "app --api-key *** run"),
            (&["app", "-Password", "hunter2"], "app -Password ***"),
            (&["env", "PGPASSWORD=hunter2", "psql"], "env PGPASSWORD=*** psql"),
            (&["net", "use", "/password:hunter2"], "net use /password:***"),
            (&["git", "clone", "https://me:hunter2@host/x.git"], "git clone https://me:***@host/x.git"),
            (&["git", "clone", "https://hunter2@host/x"], "git clone https://***@host/x"),
            (&["curl", "-u", "me:hunter2", "http://h/"], "curl -u me:*** http://h/"),
            (&["curl", "http://h/?a=1&access_token=hunter2&b=2"], "curl http://h/?a=1&access_token=***&b=2"),
            (&["curl", "-H", "Authorization: Bearer hunter2"], "curl -H Authorization: Bearer ***"),
            (&["curl", "-H", "X-Api-Key: hunter2"], "curl -H X-Api-Key: ***"),
            (&["mysql", "-uroot", "-phunter2", "db"], "mysql -uroot -p*** db"),
            (&["ssh", "-p", "2222", "host"], "ssh -p 2222 host"),
            (&["app", "Server=h;Uid=me;Pwd=hunter2;Db=x"], "app Server=h;Uid=me;Pwd=***;Db=x"),
            (&["sh", "-c", "app --token hunter2 | tee log"], "sh -c app --token *** | tee log"),
            (&["gh", "ghp_0123456789abcdef0123"], "gh ***"),
            (&["app", "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"], "app ***"),
            (&["app", "--secret", "--verbose"], "app --secret --verbose"),
            (&["sshpass", "-p", "hunter2", "ssh", "h"], "sshpass -p *** ssh h"),
            (&["/usr/bin/vi", "/etc/hosts"], "/usr/bin/vi /etc/hosts"),
            (&[], ""),
        ];
        for (line, expected) in cases {
            assert_eq!(scrub(line), *expected);
            assert!(!scrub(line).contains("hunter2"), "{line:?}");
        }
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        let line = scrub(&["x", &"ä".repeat(5000)]);
        assert!(line.len() <= MAX_BYTES && line.ends_with('…'));
    }

    proptest! {
        #[test]
        fn never_panics_and_is_stable(words in proptest::collection::vec("[ -~äß]{0,30}", 0..8)) {
            let once = command_line(&words);
            prop_assert!(once.len() <= MAX_BYTES);
        }

        #[test]
        fn a_named_secret_never_survives(
            name in "(--|-|/)(db-)?(password|token|secret|api[-_]key)",
            separator in "[=:]",
            secret in "Q[a-zA-Z0-9]{6,20}Q",
        ) {
            let line = command_line(&["app".to_owned(), format!("{name}{separator}{secret}"), "end".to_owned()]);
            prop_assert!(!line.contains(&secret), "{}", line);
            prop_assert!(line.ends_with(" end"));
        }
    }
}
