//! The rules, lists and tests that ship with the program; a test compares these tables with the folder.

/// Rule files by name.
pub(super) const RULES: &[(&str, &str)] = &[
    ("agent-identity.yaml", include_str!("../../rules/agent-identity.yaml")),
    ("agent-tampering.yaml", include_str!("../../rules/agent-tampering.yaml")),
    ("cpu-sustained.yaml", include_str!("../../rules/cpu-sustained.yaml")),
    ("cryptominer.yaml", include_str!("../../rules/cryptominer.yaml")),
    ("devices.yaml", include_str!("../../rules/devices.yaml")),
    ("fleet.yaml", include_str!("../../rules/fleet.yaml")),
    ("forbidden-programs.yaml", include_str!("../../rules/forbidden-programs.yaml")),
    ("important-processes.yaml", include_str!("../../rules/important-processes.yaml")),
    ("limits.yaml", include_str!("../../rules/limits.yaml")),
    ("masquerading.yaml", include_str!("../../rules/masquerading.yaml")),
    ("nodes.yaml", include_str!("../../rules/nodes.yaml")),
    ("rules-of-use.yaml", include_str!("../../rules/rules-of-use.yaml")),
    ("suspicious-paths.yaml", include_str!("../../rules/suspicious-paths.yaml")),
    ("task-manager.yaml", include_str!("../../rules/task-manager.yaml")),
    ("unlisted-programs.yaml", include_str!("../../rules/unlisted-programs.yaml")),
];

/// Lists by name.
pub(super) const LISTS: &[(&str, &str)] = &[
    ("allowed_devices", include_str!("../../rules/lists/allowed_devices.txt")),
    ("critical_nodes", include_str!("../../rules/lists/critical_nodes.txt")),
    ("disallowed_programs", include_str!("../../rules/lists/disallowed_programs.txt")),
    ("forbidden_programs", include_str!("../../rules/lists/forbidden_programs.txt")),
    ("important_processes", include_str!("../../rules/lists/important_processes.txt")),
    ("known_devices", include_str!("../../rules/lists/known_devices.txt")),
    ("known_directories", include_str!("../../rules/lists/known_directories.txt")),
    ("quiet_hours", include_str!("../../rules/lists/quiet_hours.txt")),
    ("security_services", include_str!("../../rules/lists/security_services.txt")),
    ("system_programs_posix", include_str!("../../rules/lists/system_programs_posix.txt")),
    ("system_programs_windows", include_str!("../../rules/lists/system_programs_windows.txt")),
    ("task_managers", include_str!("../../rules/lists/task_managers.txt")),
    ("trusted_directories", include_str!("../../rules/lists/trusted_directories.txt")),
    ("trusted_programs", include_str!("../../rules/lists/trusted_programs.txt")),
    ("windows_program_directories", include_str!("../../rules/lists/windows_program_directories.txt")),
    ("windows_stores", include_str!("../../rules/lists/windows_stores.txt")),
];

/// Tests of the rules by name.
pub(super) const TESTS: &[(&str, &str)] = &[
    ("tests/agent-identity.yaml", include_str!("../../rules/tests/agent-identity.yaml")),
    ("tests/agent-tampering.yaml", include_str!("../../rules/tests/agent-tampering.yaml")),
    ("tests/cpu-sustained.yaml", include_str!("../../rules/tests/cpu-sustained.yaml")),
    ("tests/cryptominer.yaml", include_str!("../../rules/tests/cryptominer.yaml")),
    ("tests/devices.yaml", include_str!("../../rules/tests/devices.yaml")),
    ("tests/fleet.yaml", include_str!("../../rules/tests/fleet.yaml")),
    ("tests/forbidden-programs.yaml", include_str!("../../rules/tests/forbidden-programs.yaml")),
    ("tests/important-processes.yaml", include_str!("../../rules/tests/important-processes.yaml")),
    ("tests/limits.yaml", include_str!("../../rules/tests/limits.yaml")),
    ("tests/masquerading.yaml", include_str!("../../rules/tests/masquerading.yaml")),
    ("tests/nodes.yaml", include_str!("../../rules/tests/nodes.yaml")),
    ("tests/rules-of-use.yaml", include_str!("../../rules/tests/rules-of-use.yaml")),
    ("tests/suspicious-paths.yaml", include_str!("../../rules/tests/suspicious-paths.yaml")),
    ("tests/task-manager.yaml", include_str!("../../rules/tests/task-manager.yaml")),
    ("tests/unlisted-programs.yaml", include_str!("../../rules/tests/unlisted-programs.yaml")),
];
