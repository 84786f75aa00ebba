//! The rules and lists that ship with the program; a test compares this table with the folder.

/// Rule files by name.
pub(super) const RULES: &[(&str, &str)] = &[
    ("agent-identity.yaml", include_str!("../../rules/agent-identity.yaml")),
    ("cpu-sustained.yaml", include_str!("../../rules/cpu-sustained.yaml")),
    ("forbidden-programs.yaml", include_str!("../../rules/forbidden-programs.yaml")),
    ("limits.yaml", include_str!("../../rules/limits.yaml")),
    ("masquerading.yaml", include_str!("../../rules/masquerading.yaml")),
    ("suspicious-paths.yaml", include_str!("../../rules/suspicious-paths.yaml")),
];

/// Lists by name.
pub(super) const LISTS: &[(&str, &str)] = &[
    ("forbidden_programs", include_str!("../../rules/lists/forbidden_programs.txt")),
    ("system_programs_posix", include_str!("../../rules/lists/system_programs_posix.txt")),
    ("system_programs_windows", include_str!("../../rules/lists/system_programs_windows.txt")),
    ("trusted_directories", include_str!("../../rules/lists/trusted_directories.txt")),
    ("trusted_programs", include_str!("../../rules/lists/trusted_programs.txt")),
    ("windows_program_directories", include_str!("../../rules/lists/windows_program_directories.txt")),
    ("windows_stores", include_str!("../../rules/lists/windows_stores.txt")),
];
