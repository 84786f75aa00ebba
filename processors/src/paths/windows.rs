//! Classes of places on Windows.

use super::PathClass;
use super::parse::{Root, same_name};

/// Directories below `C:\Windows` that any user may write to.
const WRITABLE_IN_WINDOWS: &[&[&str]] = &[
    &["Tasks"],
    &["tracing"],
    &["PLA", "Reports"],
    &["PLA", "Rules"],
    &["PLA", "Templates"],
    &["debug", "WIA"],
    &["Registration", "CRMLog"],
    &["System32", "Tasks"],
    &["System32", "FxsTmp"],
    &["System32", "com", "dmp"],
    &["System32", "LogFiles", "WMI"],
    &["System32", "Microsoft", "Crypto", "RSA", "MachineKeys"],
    &["System32", "spool", "PRINTERS"],
    &["System32", "spool", "SERVERS"],
    &["System32", "spool", "drivers", "color"],
    &["SysWOW64", "Tasks"],
    &["SysWOW64", "FxsTmp"],
    &["SysWOW64", "com", "dmp"],
];

/// Where profiles lie; `*` is the user.
const PROFILES: &[&[&str]] = &[
    &["Users", "*"],
    &["Documents and Settings", "*"],
    &["Windows", "ServiceProfiles", "*"],
    &["Windows", "System32", "config", "systemprofile"],
    &["Windows", "SysWOW64", "config", "systemprofile"],
];

/// Places in a profile, the more exact first.
const IN_PROFILE: &[(&[&str], PathClass)] = &[
    (&["AppData", "Local", "Temp"], PathClass::UserTemp),
    (&["AppData", "LocalLow", "Temp"], PathClass::UserTemp),
    (&["Local Settings", "Temp"], PathClass::UserTemp),
    (&["AppData", "Roaming"], PathClass::UserRoaming),
    (&["Application Data"], PathClass::UserRoaming),
    (&["AppData"], PathClass::UserLocal),
    (&["Local Settings"], PathClass::UserLocal),
    (&["Documents"], PathClass::UserDocuments),
    (&["My Documents"], PathClass::UserDocuments),
    (&["OneDrive", "Documents"], PathClass::UserDocuments),
    (&["Downloads"], PathClass::UserDownloads),
    (&["Desktop"], PathClass::UserDesktop),
    (&["OneDrive", "Desktop"], PathClass::UserDesktop),
];

/// Places at the root of any drive, the more exact first.
const ON_DRIVE: &[(&[&str], PathClass)] = &[
    (&["Program Files"], PathClass::Program),
    (&["Program Files (x86)"], PathClass::Program),
    // its own service may update itself there, users may not
    (&["ProgramData", "Microsoft", "Windows Defender", "Platform"], PathClass::Program),
    (&["ProgramData"], PathClass::ProgramData),
    (&["Temp"], PathClass::Temp),
    (&["Tmp"], PathClass::Temp),
    (&["$Recycle.Bin"], PathClass::WorldWritable),
    (&["RECYCLER"], PathClass::WorldWritable),
    (&["PerfLogs"], PathClass::WorldWritable),
];

pub(super) fn classify(root: Root, segments: &[&str]) -> PathClass {
    if matches!(root, Root::Drive(b'A' | b'B')) {
        return PathClass::Removable;
    }
    if let Some(class) = in_profile(segments) {
        return class;
    }
    // a folder named Windows on another drive is not the system's
    if matches!(root, Root::Drive(b'C') | Root::AnyDrive)
        && let Some(rest) = below(&["Windows"], segments)
    {
        return in_windows(rest);
    }
    first(ON_DRIVE, segments).unwrap_or(PathClass::Other)
}

fn in_profile(segments: &[&str]) -> Option<PathClass> {
    let rest = PROFILES.iter().find_map(|profile| below(profile, segments))?;
    if below(&["Users", "Public"], segments).is_some() {
        return Some(PathClass::WorldWritable);
    }
    // `C:\Users\x.exe` is a file beside the profiles, not in one
    if rest.is_empty() && below(&["Users"], segments).is_some() {
        return Some(PathClass::Other);
    }
    Some(first(IN_PROFILE, rest).unwrap_or(PathClass::Home))
}

fn in_windows(rest: &[&str]) -> PathClass {
    if below(&["Temp"], rest).is_some() {
        PathClass::Temp
    } else if WRITABLE_IN_WINDOWS.iter().any(|place| below(place, rest).is_some()) {
        PathClass::WorldWritable
    } else {
        PathClass::System
    }
}

fn first(places: &[(&[&str], PathClass)], segments: &[&str]) -> Option<PathClass> {
    places.iter().find(|(place, _)| below(place, segments).is_some()).map(|(_, class)| *class)
}

fn below<'a, 'b>(place: &[&str], segments: &'b [&'a str]) -> Option<&'b [&'a str]> {
    let (head, rest) = segments.split_at_checked(place.len())?;
    let same = place.iter().zip(head).all(|(own, other)| *own == "*" || same_name(own, other));
    same.then_some(rest)
}
