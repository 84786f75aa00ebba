use chrono::TimeDelta;

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_763_700_000, 0).unwrap()
}

fn wanted(agents: &[&str]) -> Wanted {
    Wanted {
        name: "plant".to_owned(),
        agents: agents.iter().map(|agent| (*agent).to_owned()).collect(),
        ..Wanted::default()
    }
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    (folder, path)
}

#[test]
fn a_key_is_known_by_its_whole_text_only() {
    let mut file = KeyFile::default();
    let text = file.issue(wanted(&["pc001"]), now()).unwrap();
    let other = file.issue(wanted(&["pc002"]), now()).unwrap();
    assert_eq!(text.len(), MARK.len() + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES);
    let set = KeySet::new(file.clone()).unwrap();
    assert_eq!(set.authenticate(&text, now()).unwrap().id, file.keys[0].id);
    // Every single changed character, a missing one, one too many, and the id of one with the secret of another.
    for at in 0..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(set.authenticate(&changed, now()), Err(Denied::Unknown), "{at}");
    }
    let secret_of = |text: &str| text.rsplit_once('_').unwrap().1.to_owned();
    let mixed = format!("{MARK}{}_{}", file.keys[0].id, secret_of(&other));
    let long = format!("{text}{}", "0".repeat(1000));
    for wrong in ["", "varta_", "varta__", &text[1..], &text[..text.len() - 1], &mixed, &long] {
        assert_eq!(set.authenticate(wrong, now()), Err(Denied::Unknown), "{wrong}");
    }
}

#[test]
fn revoked_and_expired_keys_are_worth_nothing() {
    let mut file = KeyFile::default();
    let until = now() + TimeDelta::seconds(10);
    let text = file.issue(Wanted { expires_at: Some(until), ..wanted(&["a"]) }, now()).unwrap();
    let set = KeySet::new(file.clone()).unwrap();
    assert!(set.authenticate(&text, now() + TimeDelta::seconds(9)).is_ok());
    assert_eq!(set.authenticate(&text, until), Err(Denied::Expired));
    let id = file.keys[0].id.clone();
    assert_eq!(file.revoke(&id, now()).unwrap().revoked_at, Some(now()));
    file.revoke(&id, until).unwrap();
    assert_eq!(file.keys[0].revoked_at, Some(now()), "since the first time");
    assert_eq!(KeySet::new(file.clone()).unwrap().authenticate(&text, now()), Err(Denied::Revoked));
    assert!(matches!(file.revoke("nobody", now()), Err(KeysError::Unknown(_))));
}

#[test]
fn a_key_without_use_or_with_an_impossible_agent_is_not_issued() {
    let mut file = KeyFile::default();
    assert!(matches!(file.issue(wanted(&[]), now()), Err(KeysError::Useless)));
    assert!(matches!(file.issue(wanted(&["a/b"]), now()), Err(KeysError::Pattern(_))));
    assert!(file.issue(Wanted { feedback: true, ..wanted(&[]) }, now()).is_ok());
    assert_eq!(file.keys.len(), 1);
}

#[test]
fn only_a_key_of_one_agent_has_a_default() {
    let mut file = KeyFile::default();
    for agents in [&["a"][..], &["a", "b"], &["plant-*"]] {
        file.issue(wanted(agents), now()).unwrap();
    }
    let ids: Vec<String> = file.keys.iter().map(|row| row.id.clone()).collect();
    let set = KeySet::new(file).unwrap();
    let defaults: Vec<Option<&str>> = ids.iter().map(|id| set.keys[id].default_agent()).collect();
    assert_eq!(defaults, [Some("a"), None, None]);
    assert!(set.keys[&ids[2]].may_speak_for("plant-7") && !set.keys[&ids[2]].may_speak_for("a"));
}

#[test]
fn the_file_keeps_hashes_and_only_its_owner_reads_it() {
    let (_folder, path) = folder();
    assert_eq!(read(&path).unwrap(), KeyFile::default(), "no file, no keys");
    let text = change(&path, |file| file.issue(wanted(&["a"]), now())).unwrap();
    change(&path, |file| file.issue(wanted(&["b"]), now())).unwrap();
    let stored = fs_err::read_to_string(&path).unwrap();
    let secret = text.rsplit_once('_').unwrap().1;
    assert!(!stored.contains(secret) && stored.starts_with('#'), "{stored}");
    assert_eq!(read(&path).unwrap().keys.len(), 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o662)).unwrap();
        assert!(matches!(read(&path), Err(KeysError::Exposed { .. })));
    }
}

#[test]
fn a_change_that_fails_changes_nothing_and_one_that_was_interrupted_is_no_hindrance() {
    let (_folder, path) = folder();
    change(&path, |file| file.issue(wanted(&["a"]), now())).unwrap();
    let before = fs_err::read(&path).unwrap();
    assert!(change(&path, |file| file.revoke("nobody", now()).map(drop)).is_err());
    assert_eq!(fs_err::read(&path).unwrap(), before);
    fs_err::write(path.with_extension("toml.new"), b"half a fi").unwrap();
    change(&path, |file| file.issue(wanted(&["b"]), now())).unwrap();
    assert_eq!(read(&path).unwrap().keys.len(), 2);
}

#[cfg(unix)]
#[test]
fn a_change_leaves_the_file_whose_it_was_and_as_readable() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let (_folder, path) = folder();
    change(&path, |file| file.issue(wanted(&["a"]), now())).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    // Only root may give a file to somebody else.
    let is_root = fs_err::metadata(&path).unwrap().uid() == 0;
    if is_root {
        chown(&path, Some(4711), Some(4712)).unwrap();
    }
    let before = fs_err::metadata(&path).unwrap();
    change(&path, |file| file.issue(wanted(&["b"]), now())).unwrap();
    let after = fs_err::metadata(&path).unwrap();
    assert_ne!(before.ino(), after.ino());
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    let lock = fs_err::metadata(path.with_extension("toml.lock")).unwrap();
    assert_eq!(lock.uid(), after.uid(), "its owner can lock it");
}

#[test]
fn changes_at_the_same_time_are_all_there() {
    let (_folder, path) = folder();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || change(&path, |file| file.issue(wanted(&["a"]), now())).unwrap())
        })
        .collect();
    let texts: std::collections::HashSet<String> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(texts.len(), 8);
    assert_eq!(read(&path).unwrap().keys.len(), 8);
}

#[test]
fn a_file_that_is_none_of_keys_is_refused_with_its_name() {
    let (_folder, path) = folder();
    for text in [
        "[[key]]\nid = 1",
        "nonsense",
        "[[key]]\nid = \"a\"\nname = \"\"\nsha256 = \"00\"\nissued_at = \"2026-01-01T00:00:00Z\"",
    ] {
        fs_err::write(&path, text).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("keys.toml"), "{error}");
    }
}
