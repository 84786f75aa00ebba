-- The newest revision of each window, if it is newer than what is known.
insert into features_1h as t
select distinct on (agent_id, window_start) * from staged_features_1h
order by agent_id, window_start, revision desc
on conflict (agent_id, window_start) do update set
    window_end = excluded.window_end,
    host = excluded.host,
    revision = excluded.revision,
    is_partial = excluded.is_partial,
    events = excluded.events,
    reports_expected = excluded.reports_expected,
    reports_received = excluded.reports_received,
    coverage = excluded.coverage,
    late = excluded.late,
    lost = excluded.lost,
    samples = excluded.samples,
    cpu_mean = excluded.cpu_mean,
    cpu_max = excluded.cpu_max,
    cpu_over_share = excluded.cpu_over_share,
    load_mean = excluded.load_mean,
    load_max = excluded.load_max,
    mem_used_mean_bytes = excluded.mem_used_mean_bytes,
    mem_used_max_bytes = excluded.mem_used_max_bytes,
    mem_over_share = excluded.mem_over_share,
    disk_used_max_percent = excluded.disk_used_max_percent,
    net_rx_mean_bytes_per_s = excluded.net_rx_mean_bytes_per_s,
    net_tx_mean_bytes_per_s = excluded.net_tx_mean_bytes_per_s,
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
