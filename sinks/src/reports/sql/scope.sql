-- Stands before each section. What a report is about, from $1 to before $2: $3 is `fleet`, `agent` or `user`, $4 the
-- agent's id or the user's name, $5 the zone in which days and hours are told, $6 the step of the series (`hour`, `day`).
-- A user's machine hours are those of the machines on which he was seen in that hour.
-- No number counts for more than can be: one agent that lies, or counts wrongly, must not take a sum beyond what a number
-- holds, and the fleet's report with it. Nothing known stays so (`least` alone would make the bound of it).
with machine_hours as (
    select agent_id, window_start, window_end, host, is_partial,
        case when coverage >= 0 then least(coverage, 1) end as coverage,
        case when cpu_mean >= 0 then least(cpu_mean, 100) end as cpu_mean,
        case when cpu_max >= 0 then least(cpu_max, 100) end as cpu_max,
        case when cpu_over_share >= 0 then least(cpu_over_share, 1) end as cpu_over_share,
        case when mem_used_mean_bytes >= 0 then least(mem_used_mean_bytes, 1e15) end as mem_used_mean_bytes,
        case when mem_used_max_bytes >= 0 then least(mem_used_max_bytes, 1e15::bigint) end as mem_used_max_bytes,
        case when mem_over_share >= 0 then least(mem_over_share, 1) end as mem_over_share,
        case when disk_used_max_percent >= 0 then least(disk_used_max_percent, 100) end as disk_used_max_percent,
        case when net_rx_mean_bytes_per_s >= 0 then least(net_rx_mean_bytes_per_s, 1e12) end as net_rx_mean_bytes_per_s,
        case when net_tx_mean_bytes_per_s >= 0 then least(net_tx_mean_bytes_per_s, 1e12) end as net_tx_mean_bytes_per_s,
        case when active_s >= 0 then least(active_s, 3600) end as active_s,
        case when events >= 0 then least(events, 1e9::bigint) end as events,
        case when late >= 0 then least(late, 1e9::bigint) end as late,
        case when lost >= 0 then least(lost, 1e9::bigint) end as lost,
        case when first_seen_starts >= 0 then least(first_seen_starts, 1e9::bigint) end as first_seen_starts,
        case when suspicious_paths >= 0 then least(suspicious_paths, 1e9::bigint) end as suspicious_paths,
        case when idle_runs >= 0 then least(idle_runs, 1e9::bigint) end as idle_runs,
        case when mouse_events >= 0 then least(mouse_events, 1e9::bigint) end as mouse_events,
        case when keyboard_events >= 0 then least(keyboard_events, 1e9::bigint) end as keyboard_events
    from features_1h h
    where window_start >= $1 and window_start < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else exists (
            select from user_features_1h u
            where u.username = $4 and u.agent_id = h.agent_id and u.window_start = h.window_start)
    end
),
user_hours as (
    select agent_id, username, window_start,
        case when active_s >= 0 then least(active_s, 3600) end as active_s,
        case when first_seen_starts >= 0 then least(first_seen_starts, 1e9::bigint) end as first_seen_starts,
        case when suspicious_paths >= 0 then least(suspicious_paths, 1e9::bigint) end as suspicious_paths,
        case when idle_runs >= 0 then least(idle_runs, 1e9::bigint) end as idle_runs,
        case when mouse_events >= 0 then least(mouse_events, 1e9::bigint) end as mouse_events,
        case when keyboard_events >= 0 then least(keyboard_events, 1e9::bigint) end as keyboard_events
    from user_features_1h
    where window_start >= $1 and window_start < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else username = $4
    end
),
activity_hours as (
    select agent_id, window_start, active_s, idle_runs, mouse_events, keyboard_events, first_seen_starts,
        suspicious_paths
    from machine_hours where $3 <> 'user'
    union all
    select agent_id, window_start, active_s, idle_runs, mouse_events, keyboard_events, first_seen_starts,
        suspicious_paths
    from user_hours where $3 = 'user'
),
program_rows as (
    select * from program_starts
    where "timestamp" >= $1 and "timestamp" < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else username = $4
    end
),
alert_rows as (
    select * from alerts
    where event_time >= $1 and event_time < $2 and case $3
        when 'fleet' then true
        when 'agent' then agent_id = $4
        else username = $4
    end
)
