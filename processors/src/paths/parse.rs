//! From the spelling of a path to its root and segments.

/// What a path starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// A Windows drive, its letter in upper case.
    Drive(u8),
    /// A Windows path whose drive is not spelled: a volume, `\Windows\…`, `%TEMP%\…`.
    AnyDrive,
    /// A share; the first two segments are server and share.
    Share,
    /// An optical drive or a floppy.
    Removable,
    /// Another object of the Windows device name space, such as a pipe.
    Device,
    /// The root of a POSIX system.
    Posix,
    /// An anonymous memory file of Linux.
    Memory,
    /// None: the path is relative, or there is no path.
    None,
}

/// A path taken apart. Segments hold no `.`, `..` or empty ones; a user whom an environment form implies is `*`.
#[derive(Debug)]
pub struct Path<'a> {
    root: Root,
    segments: Vec<&'a str>,
}

/// The mark that Linux puts after the path of a running program whose file was removed or replaced.
const DELETED: &str = " (deleted)";

/// Environment forms of Windows and the place that they stand for.
const WINDOWS_VARIABLES: &[(&str, &[&str])] = &[
    ("SYSTEMDRIVE", &[]),
    ("HOMEDRIVE", &[]),
    ("SYSTEMROOT", &["Windows"]),
    ("WINDIR", &["Windows"]),
    ("PROGRAMFILES", &["Program Files"]),
    ("PROGRAMFILES(X86)", &["Program Files (x86)"]),
    ("PROGRAMW6432", &["Program Files"]),
    ("COMMONPROGRAMFILES", &["Program Files", "Common Files"]),
    ("COMMONPROGRAMFILES(X86)", &["Program Files (x86)", "Common Files"]),
    ("PROGRAMDATA", &["ProgramData"]),
    ("ALLUSERSPROFILE", &["ProgramData"]),
    ("PUBLIC", &["Users", "Public"]),
    ("USERPROFILE", &["Users", "*"]),
    ("HOMEPATH", &["Users", "*"]),
    ("ONEDRIVE", &["Users", "*", "OneDrive"]),
    ("APPDATA", &["Users", "*", "AppData", "Roaming"]),
    ("LOCALAPPDATA", &["Users", "*", "AppData", "Local"]),
    ("TEMP", &["Users", "*", "AppData", "Local", "Temp"]),
    ("TMP", &["Users", "*", "AppData", "Local", "Temp"]),
];

/// Environment forms of POSIX shells and the place that they stand for.
const POSIX_VARIABLES: &[(&str, &[&str])] = &[
    ("HOME", &["home", "*"]),
    ("TMPDIR", &["tmp"]),
    ("XDG_RUNTIME_DIR", &["run", "user", "*"]),
    ("XDG_CONFIG_HOME", &["home", "*", ".config"]),
    ("XDG_DATA_HOME", &["home", "*", ".local", "share"]),
    ("XDG_CACHE_HOME", &["home", "*", ".cache"]),
];

/// Short names of well-known directories. Others are not guessed: a directory may be *named* `PROGRA~7`.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("PROGRA~1", "Program Files"),
    ("PROGRA~2", "Program Files (x86)"),
    ("PROGRA~3", "ProgramData"),
    ("COMMON~1", "Common Files"),
    ("DOWNLO~1", "Downloads"),
    ("LOCALS~1", "Local Settings"),
    ("APPLIC~1", "Application Data"),
    ("MYDOCU~1", "My Documents"),
    ("$RECYC~1.BIN", "$Recycle.Bin"),
];

impl<'a> Path<'a> {
    /// Takes a path apart; never fails, for whatever cannot be read has no root.
    pub fn parse(text: &'a str) -> Self {
        let text = trimmed(text);
        if looks_like_windows(text) { Self::windows(text) } else { Self::posix(text) }
    }

    /// What the path starts from.
    pub fn root(&self) -> Root {
        self.root
    }

    /// Its segments, the last one being the file.
    pub fn segments(&self) -> &[&'a str] {
        &self.segments
    }

    fn new(root: Root) -> Self {
        Self { root, segments: Vec::with_capacity(12) }
    }

    fn posix(text: &'a str) -> Self {
        if text.starts_with("/memfd:") || text.starts_with("memfd:") {
            return Self::new(Root::Memory);
        }
        let (first, rest) = text.split_once('/').unwrap_or((text, ""));
        let mut path = Self::new(Root::Posix);
        match first.strip_prefix('$') {
            _ if first.is_empty() && text.starts_with('/') => {}
            _ if first.starts_with('~') => path.segments.extend(["home", "*"]),
            Some(name) => {
                let name = name.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(name);
                match POSIX_VARIABLES.iter().find(|(variable, _)| *variable == name) {
                    Some((_, place)) => path.segments.extend(*place),
                    None => return Self::new(Root::None),
                }
            }
            None => return Self::new(Root::None),
        }
        for segment in rest.split('/') {
            path.push(segment, 0);
        }
        path
    }

    fn windows(text: &'a str) -> Self {
        let text = strip_ci(text, r"\\?\globalroot").unwrap_or(text);
        if let Some(rest) = strip_any(text, &[r"\\?\", r"\\.\", r"\??\", "//?/", "//./"]) {
            return Self::device_name(rest);
        }
        if let Some(rest) = strip_ci(text, r"\device\") {
            return Self::device_object(rest);
        }
        if let Some(rest) = strip_ci(text, r"\systemroot\") {
            return Self::at(Root::AnyDrive, &["Windows"], rest);
        }
        if let Some(rest) = strip_any(text, &[r"\\", "//", r"\/", r"/\"]) {
            return Self::at(Root::Share, &[], rest);
        }
        if let Some(path) = Self::drive(text) {
            return path;
        }
        if let Some((place, rest)) = windows_variable(text) {
            // %HOMEDRIVE%%HOMEPATH%
            if place.is_empty()
                && let Some((inner, rest)) = windows_variable(rest)
            {
                return Self::at(Root::AnyDrive, inner, rest);
            }
            return Self::at(Root::AnyDrive, place, rest);
        }
        if text.starts_with(['\\', '/']) {
            return Self::at(Root::AnyDrive, &[], text);
        }
        Self::new(Root::None)
    }

    /// What follows `\\?\` or `\??\`.
    fn device_name(rest: &'a str) -> Self {
        if let Some(path) = Self::drive(rest) {
            return path;
        }
        if let Some(share) = strip_ci(rest, r"unc\").or_else(|| strip_ci(rest, "unc/")) {
            return Self::at(Root::Share, &[], share);
        }
        let (object, inner) = split_segment(rest);
        if strip_ci(object, "volume{").is_some() || strip_ci(object, "harddiskvolume").is_some() {
            return Self::at(Root::AnyDrive, &[], inner);
        }
        if strip_ci(object, "cdrom").is_some() {
            return Self::at(Root::Removable, &[], inner);
        }
        Self::new(Root::Device)
    }

    /// What follows `\Device\`.
    fn device_object(rest: &'a str) -> Self {
        let (object, inner) = split_segment(rest);
        if strip_ci(object, "harddiskvolume").is_some() {
            return Self::at(Root::AnyDrive, &[], inner);
        }
        if strip_ci(object, "harddisk").is_some() {
            let (_partition, inner) = split_segment(inner);
            return Self::at(Root::AnyDrive, &[], inner);
        }
        if strip_ci(object, "cdrom").is_some() || strip_ci(object, "floppy").is_some() {
            return Self::at(Root::Removable, &[], inner);
        }
        if ["mup", "lanmanredirector", "webdavredirector"]
            .iter()
            .any(|name| object.eq_ignore_ascii_case(name))
        {
            // `\Device\Mup\;LanmanRedirector\;Z:0000000000012345\server\share`
            let mut share = inner;
            while share.starts_with(';') {
                share = split_segment(share).1;
            }
            return Self::at(Root::Share, &[], share);
        }
        Self::new(Root::Device)
    }

    fn drive(text: &'a str) -> Option<Self> {
        let letter = drive_letter(text)?;
        let rest = &text[2..];
        if !rest.is_empty() && !rest.starts_with(['\\', '/']) {
            // `C:x.exe` is relative to wherever that drive's current directory was
            return Some(Self::new(Root::None));
        }
        Some(Self::at(Root::Drive(letter), &[], rest))
    }

    fn at(root: Root, place: &[&'static str], rest: &'a str) -> Self {
        let mut path = Self::new(root);
        path.segments.extend(place);
        // `..` never leaves a share
        let floor = if root == Root::Share { 2 } else { 0 };
        for segment in rest.split(['\\', '/']) {
            path.push(long_name(segment, path.segments.len()), floor);
        }
        path
    }

    fn push(&mut self, segment: &'a str, floor: usize) {
        match segment {
            "" | "." => {}
            ".." => {
                if self.segments.len() > floor {
                    self.segments.pop();
                }
            }
            _ => self.segments.push(segment),
        }
    }
}

/// The path itself, without quotes, blanks around it, and the mark of a removed file.
pub(super) fn trimmed(text: &str) -> &str {
    let text = text.trim().trim_matches('"');
    text.strip_suffix(DELETED).unwrap_or(text)
}

/// Whether the path is of Windows. A path that starts with a single `/` is POSIX, whatever follows.
pub(super) fn looks_like_windows(text: &str) -> bool {
    match text.as_bytes() {
        [b'/', b'/', ..] => text.starts_with("//?/") || text.starts_with("//./") || text.contains('\\'),
        [b'/', b'\\', ..] | [b'\\' | b'%', ..] => true,
        [b'/' | b'~', ..] => false,
        [b'$', ..] => strip_ci(text, "$env:").is_some(),
        _ => drive_letter(text).is_some() || text.contains('\\'),
    }
}

/// Whether a bare file name ends as programs of Windows do.
pub(super) fn has_windows_extension(text: &str) -> bool {
    const EXTENSIONS: [&str; 12] =
        ["exe", "com", "scr", "dll", "bat", "cmd", "ps1", "vbs", "msi", "sys", "cpl", "pif"];
    text.rsplit_once('.')
        .is_some_and(|(_, extension)| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Whether two names of Windows are the same file.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
        || (!(a.is_ascii() && b.is_ascii())
            && a.chars().flat_map(char::to_lowercase).eq(b.chars().flat_map(char::to_lowercase)))
}

fn drive_letter(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [letter, b':', ..] if letter.is_ascii_alphabetic() => Some(letter.to_ascii_uppercase()),
        _ => None,
    }
}

fn windows_variable(text: &str) -> Option<(&'static [&'static str], &str)> {
    let (name, rest) = if let Some(inner) = text.strip_prefix('%') {
        inner.split_once('%')?
    } else {
        let inner = strip_ci(text, "$env:")?;
        inner.split_at(inner.find(['\\', '/']).unwrap_or(inner.len()))
    };
    let (_, place) = WINDOWS_VARIABLES.iter().find(|(variable, _)| name.eq_ignore_ascii_case(variable))?;
    Some((place, rest))
}

fn long_name(segment: &str, depth: usize) -> &str {
    if !segment.contains('~') {
        return segment;
    }
    if segment.eq_ignore_ascii_case("DOCUME~1") {
        return if depth == 0 { "Documents and Settings" } else { "Documents" };
    }
    SHORT_NAMES
        .iter()
        .find(|(short, _)| segment.eq_ignore_ascii_case(short))
        .map_or(segment, |(_, long)| long)
}

fn split_segment(text: &str) -> (&str, &str) {
    text.split_once(['\\', '/']).unwrap_or((text, ""))
}

fn strip_ci<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

fn strip_any<'a>(text: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix))
}
