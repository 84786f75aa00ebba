-- The newest revision of each window, if it is newer than what is known.
insert into user_features_1h as t
select distinct on (agent_id, username, window_start) * from staged_user_features_1h
order by agent_id, username, window_start, revision desc
on conflict (agent_id, username, window_start) do update set
    window_end = excluded.window_end,
    host = excluded.host,
    revision = excluded.revision,
    is_partial = excluded.is_partial,
    coverage = excluded.coverage,
    starts = excluded.starts,
    first_seen_starts = excluded.first_seen_starts,
    suspicious_paths = excluded.suspicious_paths,
    activity_reports = excluded.activity_reports,
    active_s = excluded.active_s,
    idle_runs = excluded.idle_runs,
    mouse_events = excluded.mouse_events,
    keyboard_events = excluded.keyboard_events,
    changed_at = excluded.changed_at
where excluded.revision > t.revision
