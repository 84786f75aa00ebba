use proptest::prelude::*;

use super::*;

fn class(path: &str) -> &'static str {
    classify(path).name()
}

fn under(path: &str, directory: &str) -> bool {
    Directory::parse(directory).unwrap().contains(&Path::parse(path))
}

fn directly_in(path: &str, directory: &str) -> bool {
    Directory::parse(directory).unwrap().holds(&Path::parse(path))
}

#[test]
fn places_of_windows() {
    let expected = [
        (r"C:\Windows\System32\svchost.exe", "system"),
        (r"c:\WINDOWS\system32\svchost.exe", "system"),
        (r"C:/Windows\System32/cmd.exe", "system"),
        (r"\SystemRoot\System32\smss.exe", "system"),
        (r"\Windows\explorer.exe", "system"),
        (r"%SystemRoot%\System32\cmd.exe", "system"),
        (r"\??\C:\Windows\system32\conhost.exe", "system"),
        (r"\\?\C:\Windows\System32\cmd.exe", "system"),
        (r"\Device\HarddiskVolume3\Windows\System32\lsass.exe", "system"),
        (r"\\?\GLOBALROOT\Device\HarddiskVolume1\Windows\notepad.exe", "system"),
        (r"\\?\Volume{4c1b02c1-d990-11dc-99ae-806e6f6e6963}\Windows\notepad.exe", "system"),
        (r"D:\Windows\System32\svchost.exe", "other"),
        (r"C:\WindowsEvil\svchost.exe", "other"),
        (r"C:\Windows \System32\svchost.exe", "other"),
        (r"C:\Users\anna\..\..\Windows\System32\cmd.exe", "system"),
        (r"C:\Windows\System32\..\Temp\x.exe", "temp"),
        (r"C:\..\..\Windows\x.exe", "system"),
        (r"C:\Windows\Temp\x.exe", "temp"),
        (r"C:\Windows\System32\spool\drivers\color\x.exe", "world_writable"),
        (r"C:\Windows\Tasks\x.exe", "world_writable"),
        (r"C:\Program Files\Mozilla Firefox\firefox.exe", "program"),
        (r"D:\Program Files (x86)\Steam\steam.exe", "program"),
        (r"C:\PROGRA~1\MICROS~1\Office\winword.exe", "program"),
        (r"C:\PROGRA~7\x.exe", "other"),
        (r"C:\ProgramData\Acme\x.exe", "program_data"),
        (r"C:\ProgramData\Microsoft\Windows Defender\Platform\4.18\MsMpEng.exe", "program"),
        (r"C:\Users\anna\AppData\Local\Temp\x.exe", "user_temp"),
        (r"C:\Users\anna\AppData\Local\Temp2\x.exe", "user_local"),
        (r"C:\DOCUME~1\anna\LOCALS~1\Temp\x.exe", "user_temp"),
        (r"%TEMP%\x.exe", "user_temp"),
        (r"$env:TEMP\x.exe", "user_temp"),
        (r"%LOCALAPPDATA%\Programs\x.exe", "user_local"),
        (r"C:\Windows\System32\config\systemprofile\AppData\Local\Temp\x.exe", "user_temp"),
        (r"C:\Users\anna\AppData\Roaming\x.exe", "user_roaming"),
        (r"%APPDATA%\x.exe", "user_roaming"),
        (r"%APPDATA%\..\Local\Temp\x.exe", "user_temp"),
        (r"C:\Users\anna\AppData\Local\Google\Chrome\Application\chrome.exe", "user_local"),
        (r"C:\Users\anna\Documents\x.exe", "user_documents"),
        (r"C:\Users\anna\OneDrive\Documents\x.exe", "user_documents"),
        (r"%HOMEDRIVE%%HOMEPATH%\Downloads\x.exe", "user_downloads"),
        (r"C:\Users\anna\Downloads\setup.exe", "user_downloads"),
        (r"C:\Users\anna\DOWNLO~1\setup.exe", "user_downloads"),
        (r"C:\Users\anna\Desktop\x.exe", "user_desktop"),
        (r"C:\Users\anna\x.exe", "home"),
        (r"C:\Users\x.exe", "other"),
        (r"C:\Users\Public\x.exe", "world_writable"),
        (r"%PUBLIC%\x.exe", "world_writable"),
        (r"C:\Temp\x.exe", "temp"),
        (r"C:\$Recycle.Bin\S-1-5-21\x.exe", "world_writable"),
        (r"\\server\share\x.exe", "network"),
        (r"\\?\UNC\server\share\x.exe", "network"),
        (r"\Device\Mup\server\share\x.exe", "network"),
        (r"\Device\LanmanRedirector\;Z:00000000000f2a1c\server\share\x.exe", "network"),
        (r"\\127.0.0.1\C$\Windows\System32\cmd.exe", "network"),
        (r"\Device\CdRom0\setup.exe", "removable"),
        (r"A:\x.exe", "removable"),
        (r"\\.\pipe\x", "other"),
        (r"E:\tools\x.exe", "other"),
        (r"C:x.exe", "unknown"),
        ("svchost.exe", "unknown"),
        (r"tools\x.exe", "unknown"),
        (r"%NOSUCH%\x.exe", "unknown"),
        ("-", "unknown"),
        ("", "unknown"),
        ("MemCompression", "unknown"),
    ];
    for (path, name) in expected {
        assert_eq!(class(path), name, "{path}");
    }
}

#[test]
fn places_of_posix() {
    let expected = [
        ("/usr/bin/bash", "system"),
        ("/bin/sh", "system"),
        ("/lib/systemd/systemd", "system"),
        ("/usr/sbin/sshd (deleted)", "system"),
        ("/Usr/bin/bash", "other"),
        ("/usrlocal/bin/x", "other"),
        ("/usr/local/bin/x", "program"),
        ("/opt/google/chrome/chrome", "program"),
        ("/snap/firefox/1/usr/lib/firefox/firefox", "program"),
        ("/nix/store/abc-bash/bin/bash", "program"),
        ("/tmp/x", "temp"),
        ("/tmpfoo/x", "other"),
        ("/usr/bin/../../tmp/x", "temp"),
        ("//tmp//x", "temp"),
        ("/var/tmp/.hidden/x", "temp"),
        ("/dev/shm/x", "world_writable"),
        ("/run/user/1000/x", "user_temp"),
        ("/home/anna/.local/bin/x", "user_local"),
        ("~/.local/bin/x", "user_local"),
        ("/home/anna/.config/autostart/x", "user_roaming"),
        ("$HOME/Downloads/x", "user_downloads"),
        ("${HOME}/Documents/x", "user_documents"),
        ("/home/anna/x", "home"),
        ("/home/x", "other"),
        ("/root/x", "home"),
        ("/root/Downloads/x", "user_downloads"),
        ("/media/anna/stick/x", "removable"),
        ("/memfd:kernel (deleted)", "memory"),
        ("/srv/www/x", "other"),
        ("/", "other"),
        ("bash", "unknown"),
        ("./x", "unknown"),
        ("../x", "unknown"),
        (r"/home/anna/C:\Windows\x", "home"),
    ];
    for (path, name) in expected {
        assert_eq!(class(path), name, "{path}");
    }
}

#[test]
fn under_means_whole_segments() {
    assert!(under(r"C:\Windows\System32\x.exe", r"C:\Windows"));
    assert!(under(r"c:\windows\x.exe", r"C:\Windows\"));
    assert!(!under(r"C:\WindowsEvil\x.exe", r"C:\Windows"));
    assert!(!under(r"C:\Windows", r"C:\Windows"), "a directory is not under itself");
    assert!(!under(r"D:\Windows\x.exe", r"C:\Windows"));
    assert!(!under(r"D:\Windows\x.exe", r"%SystemRoot%"));
    assert!(under(r"\Device\HarddiskVolume2\Windows\x.exe", r"C:\Windows"));
    assert!(under(r"C:\Users\anna\AppData\Roaming\Zoom\bin\Zoom.exe", r"%APPDATA%\Zoom"));
    assert!(under(r"%APPDATA%\Zoom\bin\Zoom.exe", r"C:\Users\*\AppData\Roaming\Zoom"));
    assert!(under(r"\\Server\Share\dir\x.exe", r"\\server\share"));
    assert!(!under(r"\\server\share\..\..\other\x.exe", r"\\server\other"), "a share has no parent");
    assert!(!under("/tmp/x", r"C:\tmp"));
    assert!(!under(r"C:\tmp\x", "/tmp"));
    assert!(under("/usr/lib/../bin/x", "/usr/bin"));
    assert!(!under("/USR/bin/x", "/usr"));
    assert!(under("/home/anna/Downloads/x", "/home/*/Downloads"));
    assert!(under(r"C:\ИГРЫ\x.exe", r"c:\игры"));
}

#[test]
fn directly_in_means_the_parent() {
    assert!(directly_in(r"C:\Windows\System32\svchost.exe", r"C:\Windows\System32"));
    assert!(!directly_in(r"C:\Windows\System32\drivers\svchost.exe", r"C:\Windows\System32"));
    assert!(!directly_in(r"C:\Windows\System32", r"C:\Windows\System32"));
}

#[test]
fn a_directory_must_be_absolute() {
    for text in ["", "tools", r"tools\bin", "./x", r"\\.\pipe\x", "%NOSUCH%"] {
        assert!(Directory::parse(text).is_none(), "{text}");
    }
}

#[test]
fn names_of_files() {
    assert_eq!(basename(r"C:\Windows\System32\svchost.exe"), Some("svchost.exe"));
    assert_eq!(basename(r"C:/Windows\System32/svchost.exe"), Some("svchost.exe"));
    assert_eq!(basename("\"C:\\a b\\x.exe\" "), Some("x.exe"));
    assert_eq!(basename(r"/home/anna/a\b"), Some(r"a\b"));
    assert_eq!(basename("/usr/sbin/sshd (deleted)"), Some("sshd"));
    assert_eq!(basename("/usr/bin/"), Some("bin"));
    assert_eq!(basename("bash"), Some("bash"));
    assert_eq!(basename("/"), None);
    assert_eq!(basename("  "), None);
}

#[test]
fn windows_is_told_from_posix() {
    for text in ["svchost.EXE", r"C:\x", r"\x", "%TEMP%", r"\\s\x"] {
        assert!(is_windows(text), "{text}");
    }
    for text in ["bash", "/usr/bin/bash", "~/x", "python3.11", "systemd"] {
        assert!(!is_windows(text), "{text}");
    }
}

#[test]
fn class_names_are_unique() {
    let names: std::collections::BTreeSet<_> = PathClass::ALL.iter().map(|class| class.name()).collect();
    assert_eq!(names.len(), PathClass::ALL.len());
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in ".{0,40}", parts in prop::collection::vec(r"[\\/.~%$:?*a-zA-Z ;]{0,5}", 0..8)) {
        for text in [text, parts.concat()] {
            let class = classify(&text);
            prop_assert!(PathClass::ALL.contains(&class));
            let _ = basename(&text);
            if let Some(directory) = Directory::parse(&text) {
                prop_assert!(!directory.contains(&Path::parse(&text)));
            }
        }
    }

    #[test]
    fn detours_change_nothing(names in prop::collection::vec("[a-z]{1,6}", 1..5), at in 0_usize..4) {
        let at = at.min(names.len());
        let straight = format!(r"C:\Users\anna\{}\x.exe", names.join(r"\"));
        let mut detour = names.clone();
        detour.insert(at, r"elsewhere\..\.".to_owned());
        let detour = format!(r"C:/Users\\anna\{}/x.exe", detour.join("/"));
        let (plain, winding) = (Path::parse(&straight), Path::parse(&detour));
        prop_assert_eq!(plain.segments(), winding.segments());
        prop_assert_eq!(classify(&straight), classify(&detour));
    }
}
