//! Classes of places on Linux and, as far as they differ, macOS.

use super::PathClass;

/// Where home directories lie; `*` is the user.
const HOMES: &[&[&str]] = &[&["home", "*"], &["root"], &["var", "root"], &["Users", "*"]];

/// Places in a home directory, the more exact first.
const IN_HOME: &[(&[&str], PathClass)] = &[
    (&[".local", "share", "Trash"], PathClass::Home),
    (&[".local"], PathClass::UserLocal),
    (&[".cache"], PathClass::UserLocal),
    (&[".cargo", "bin"], PathClass::UserLocal),
    (&[".rustup", "toolchains"], PathClass::UserLocal),
    (&[".nvm"], PathClass::UserLocal),
    (&[".pyenv"], PathClass::UserLocal),
    (&[".vscode-server"], PathClass::UserLocal),
    (&["bin"], PathClass::UserLocal),
    (&["go", "bin"], PathClass::UserLocal),
    (&["snap"], PathClass::UserLocal),
    (&["Applications"], PathClass::UserLocal),
    (&["Library"], PathClass::UserLocal),
    (&[".config"], PathClass::UserRoaming),
    (&["Documents"], PathClass::UserDocuments),
    (&["Downloads"], PathClass::UserDownloads),
    (&["Desktop"], PathClass::UserDesktop),
];

/// Places below the root, the more exact first.
const PLACES: &[(&[&str], PathClass)] = &[
    (&["tmp"], PathClass::Temp),
    (&["var", "tmp"], PathClass::Temp),
    (&["private", "tmp"], PathClass::Temp),
    (&["private", "var", "tmp"], PathClass::Temp),
    (&["private", "var", "folders"], PathClass::UserTemp),
    (&["var", "folders"], PathClass::UserTemp),
    (&["run", "user"], PathClass::UserTemp),
    (&["dev", "shm"], PathClass::WorldWritable),
    (&["dev", "mqueue"], PathClass::WorldWritable),
    (&["run", "shm"], PathClass::WorldWritable),
    (&["run", "lock"], PathClass::WorldWritable),
    (&["var", "lock"], PathClass::WorldWritable),
    (&["var", "crash"], PathClass::WorldWritable),
    (&["Users", "Shared"], PathClass::WorldWritable),
    (&["usr", "tmp"], PathClass::Temp),
    (&["usr", "local"], PathClass::Program),
    (&["usr"], PathClass::System),
    (&["bin"], PathClass::System),
    (&["sbin"], PathClass::System),
    (&["lib"], PathClass::System),
    (&["lib32"], PathClass::System),
    (&["lib64"], PathClass::System),
    (&["libx32"], PathClass::System),
    (&["libexec"], PathClass::System),
    (&["boot"], PathClass::System),
    (&["etc"], PathClass::System),
    (&["System"], PathClass::System),
    (&["opt"], PathClass::Program),
    (&["snap"], PathClass::Program),
    (&["var", "lib", "snapd"], PathClass::Program),
    (&["var", "lib", "flatpak"], PathClass::Program),
    (&["nix", "store"], PathClass::Program),
    (&["gnu", "store"], PathClass::Program),
    (&["Applications"], PathClass::Program),
    (&["Library"], PathClass::Program),
    (&["media"], PathClass::Removable),
    (&["run", "media"], PathClass::Removable),
    (&["Volumes"], PathClass::Removable),
    (&["net"], PathClass::Network),
];

pub(super) fn classify(segments: &[&str]) -> PathClass {
    if let Some(class) = first(PLACES, segments) {
        return class;
    }
    match HOMES.iter().find_map(|home| below(home, segments)) {
        // a file beside the home directories, not in one
        Some([]) if segments.len() > 1 => PathClass::Other,
        Some(rest) => first(IN_HOME, rest).unwrap_or(PathClass::Home),
        None => PathClass::Other,
    }
}

fn first(places: &[(&[&str], PathClass)], segments: &[&str]) -> Option<PathClass> {
    places.iter().find(|(place, _)| below(place, segments).is_some()).map(|(_, class)| *class)
}

fn below<'a, 'b>(place: &[&str], segments: &'b [&'a str]) -> Option<&'b [&'a str]> {
    let (head, rest) = segments.split_at_checked(place.len())?;
    place.iter().zip(head).all(|(own, other)| *own == "*" || own == other).then_some(rest)
}
