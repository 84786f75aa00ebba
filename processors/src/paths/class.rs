use std::fmt;

/// Where a file lies, judged by who may usually write there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathClass {
    /// `system`: belongs to the operating system, written by administrators: `C:\Windows`, `/usr`, `/bin`, `/etc`.
    System,
    /// `program`: installed for all users by an administrator: `C:\Program Files`, `/opt`, `/snap`, `/usr/local`.
    Program,
    /// `program_data`: `C:\ProgramData`, where programs keep shared files and any user may add folders.
    ProgramData,
    /// `user_local`: installed by a user: `AppData\Local`, `~/.local`, `~/.cargo/bin`, `~/.cache`.
    UserLocal,
    /// `user_roaming`: `AppData\Roaming`, `~/.config`.
    UserRoaming,
    /// `user_temp`: a user's own temporary directory: `AppData\Local\Temp`, `/run/user/1000`.
    UserTemp,
    /// `user_documents`: a user's documents.
    UserDocuments,
    /// `user_downloads`: a user's downloads.
    UserDownloads,
    /// `user_desktop`: a user's desktop.
    UserDesktop,
    /// `home`: elsewhere in a home directory.
    Home,
    /// `temp`: a temporary directory shared by all: `C:\Windows\Temp`, `C:\Temp`, `/tmp`, `/var/tmp`.
    Temp,
    /// `world_writable`: another place that anyone may write to: `C:\Users\Public`, `/dev/shm`, the recycle bin.
    WorldWritable,
    /// `network`: a share.
    Network,
    /// `removable`: optical discs, floppies, and what Linux mounts under `/media`.
    Removable,
    /// `memory`: no file at all, an anonymous memory file (`memfd`).
    Memory,
    /// `other`: an absolute path that none of the others describes.
    Other,
    /// `unknown`: no directory is given, as in a bare program name.
    Unknown,
}

impl PathClass {
    /// Every class.
    pub const ALL: [Self; 17] = [
        Self::System,
        Self::Program,
        Self::ProgramData,
        Self::UserLocal,
        Self::UserRoaming,
        Self::UserTemp,
        Self::UserDocuments,
        Self::UserDownloads,
        Self::UserDesktop,
        Self::Home,
        Self::Temp,
        Self::WorldWritable,
        Self::Network,
        Self::Removable,
        Self::Memory,
        Self::Other,
        Self::Unknown,
    ];

    /// The name used in columns and rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Program => "program",
            Self::ProgramData => "program_data",
            Self::UserLocal => "user_local",
            Self::UserRoaming => "user_roaming",
            Self::UserTemp => "user_temp",
            Self::UserDocuments => "user_documents",
            Self::UserDownloads => "user_downloads",
            Self::UserDesktop => "user_desktop",
            Self::Home => "home",
            Self::Temp => "temp",
            Self::WorldWritable => "world_writable",
            Self::Network => "network",
            Self::Removable => "removable",
            Self::Memory => "memory",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for PathClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
